"""A sweep of parameters over a sample of frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from distributed import Client
from numpy.typing import NDArray

from sfxlab.bad_pixels import learned_before
from sfxlab.errors import InputError
from sfxlab.frames import FrameSource
from sfxlab.learning import learn_bad_pixels
from sfxlab.recipe import Recipe
from sfxlab.tuning.grid import Grid, Setting, applied, corners_of, default_grid, settings_of, value_of, with_start
from sfxlab.tuning.sample import Sample, drawn, everything, parts_of, spread_order
from sfxlab.tuning.trial import MEASURES, Trials, up_to_refinement
from sfxlab.tuning.workers import tried
from sfxlab.whole_files import written_whole

_LOOK_AT = 20
"""At most so many frames are looked at for each promising one that is wanted."""
_AT_A_TIME = 64

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and the frames done and of all."""


@dataclass(frozen=True)
class Sweep:
    """What each setting made of a sample of frames."""

    recipe: Recipe
    """The one to begin with."""
    grid: Mapping[str, tuple[Any, ...]]
    settings: tuple[Setting, ...]
    start: int
    """Which of the settings is that of `recipe`."""
    sample: Sample
    """Those frames that could be read."""
    values: NDArray[np.float64]
    """For each setting and frame what `measure` names, (n_settings, n_frames, n_measures)."""
    failed: Mapping[int, str] = field(default_factory=dict)
    """Frames that could not be tried, by number, and why."""

    def measure(self, name: str) -> NDArray[np.float64]:
        """Of each setting and frame (n_settings, n_frames): `peaks`, `hit`, `lattices`, `explained` (peaks on lattice
        positions), `log10_p` of the best lattice, `seconds` of the peak search.
        """
        return np.asarray(self.values[:, :, MEASURES.index(name)])

    def recipe_of(self, setting: int) -> Recipe:
        """The recipe with the values of a setting."""
        return applied(self.recipe, self.settings[setting])

    @cached_property
    def without_lattice(self) -> NDArray[np.bool_]:
        """Frames in which no setting finds a lattice, (n_frames,): the best there is to know of which are blank."""
        return np.asarray(~(self.measure("lattices") > 0).any(axis=0))

    def mean(self, values: NDArray[Any], frames: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """Mean of values (n_settings, n_frames) over the frames that the sample stands for, (n_settings,)."""
        weights = self.sample.weights * (1 if frames is None else frames)
        total = weights.sum(axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((values * weights).sum(axis=-1) / total)

    @cached_property
    def table(self) -> pa.Table:
        """A row for each setting.

        `hits` and `indexed` are shares of all frames, `indexed_hits` of hits, `false_hits` of the frames in which no
        setting finds a lattice. `lattices` are those in a frame. `explained` and `unexplained` are peaks on lattice
        positions and off them in a frame with a lattice. `log10_p` is the median of the best lattices, `milliseconds`
        that of the peak search in a frame.
        """
        indexed, hit = self.measure("lattices") > 0, self.measure("hit") > 0
        peaks, explained = self.measure("peaks"), self.measure("explained")
        with np.errstate(invalid="ignore"):
            shares = self.mean(indexed) / self.mean(hit)
        log10_p = [np.median(row[found]) if found.any() else np.nan for row, found in zip(
            self.measure("log10_p"), indexed, strict=True
        )]  # fmt: skip
        columns: dict[str, Any] = {name: [setting[name] for setting in self.settings] for name in self.grid}
        columns |= {
            "hits": self.mean(hit), "indexed": self.mean(indexed), "indexed_hits": shares,
            "lattices": self.mean(self.measure("lattices")),
            "false_hits": self.mean(hit, self.without_lattice),
            "explained": self.mean(explained, indexed), "unexplained": self.mean(peaks - explained, indexed),
            "log10_p": log10_p, "milliseconds": 1e3 * np.median(self.measure("seconds"), axis=1),
        }  # fmt: skip
        return pa.table(columns)

    def save(self, path: str | Path) -> None:
        """Write the table as Parquet or, for a name that ends in `.csv`, as text. Raises `RunError`."""
        writer = pyarrow.csv.write_csv if Path(path).suffix == ".csv" else pyarrow.parquet.write_table
        with written_whole(Path(path)) as file:
            writer(self.table, file)

    def __repr__(self) -> str:
        return f"<Sweep: {len(self.settings)} settings of {', '.join(self.grid)} on {len(self.sample.numbers)} frames>"


def sweep(
    frames: FrameSource,
    recipe: Recipe,
    grid: Grid | None = None,
    client: Client | None = None,
    *,
    hits: int = 100,
    progress: Progress | None = None,
) -> Sweep:
    """Try all combinations of the values of a grid on a sample of frames, here or on the workers of `client`.

    The grid names parameters of the peak search, or others with dots (`hits.min_peaks`), and their values; the values
    of `recipe` are added to it. Where none is given, `default_grid` says what is tried. Every frame of the sample goes
    the way of all frames, up to the refinement; without a cell, lattices of any cell count.

    The sample: frames are looked at in an evenly spread order with a few settings (that of the recipe and the corners
    of the grid), until `hits` of them have shown a lattice with one of these, or 20 times as many frames have been
    looked at, or all. These and as many of the others make the sample; weights give each kind its share of the frames
    back. Up to `2 * hits` frames are all taken. It depends on nothing but the arguments, and not on the workers.

    Bad pixels are learned first, as they are when a run is processed. Frames that fail are left out and counted.
    Raises `RecipeError`, `ClusterError`, and `InputError` where no setting finds a lattice.
    """
    whole = with_start({name: tuple(values) for name, values in (grid or default_grid(recipe)).items()}, recipe)
    settings = settings_of(whole)
    start = settings.index({name: value_of(recipe, name) for name in whole})
    report = progress or (lambda stage, done, total: None)
    if len(frames) == 0 or hits < 1:
        raise InputError("there are no frames to try", found=f"{len(frames)} frames, {hits} hits wanted")
    recipes = [up_to_refinement(applied(recipe, setting)) for setting in settings]
    bad = _learned(frames, recipe, client, report)

    def attempt(numbers: list[int], those: list[Recipe], stage: str) -> list[Trials]:
        return tried(parts_of(frames, numbers), those, bad, client, lambda done, total: report(stage, done, total))

    failed: dict[int, str] = {}
    if len(frames) <= 2 * hits:
        sample = everything(len(frames))
    else:
        corners = corners_of(whole)
        first = [r for i, r in enumerate(recipes) if i == start or settings[i] in corners]
        sample = _looked_for(frames, hits, lambda numbers, stage: attempt(numbers, first, stage), failed)
    trials = attempt(sample.numbers.tolist(), recipes, "trying settings")
    failed |= {trial.frame: trial.reason for trial in trials if trial.values is None}
    done = [trial.values for trial in trials if trial.values is not None]
    if not done:
        raise InputError("no frame of the sample can be tried", found=next(iter(failed.values()), "none"))
    kept = np.array([trial.values is not None for trial in trials])
    sample = Sample(sample.numbers[kept], sample.promising[kept], sample.weights[kept], sample.looked_at)
    swept = Sweep(recipe, whole, tuple(settings), start, sample, np.stack(done, axis=1), dict(sorted(failed.items())))
    if swept.without_lattice.all():
        raise _nothing_found(swept)
    return swept


def _looked_for(
    frames: FrameSource, hits: int, attempt: Callable[[list[int], str], list[Trials]], failed: dict[int, str]
) -> Sample:
    """Look at frames until enough of them have shown a lattice."""
    order = spread_order(len(frames), _LOOK_AT * hits)
    column = MEASURES.index("lattices")
    promising: list[int] = []
    others: list[int] = []
    for begin in range(0, len(order), _AT_A_TIME):
        batch = order[begin : begin + _AT_A_TIME]
        found = {trial.frame: trial for trial in attempt(batch, f"looking for hits, {len(promising)} so far")}
        for number in batch:
            values = found[number].values
            if values is None:
                failed[number] = found[number].reason
            else:
                (promising if values[:, column].any() else others).append(number)
        if len(promising) >= hits:
            break
    return drawn(promising, others, hits)


def _learned(frames: FrameSource, recipe: Recipe, client: Client | None, report: Progress) -> NDArray[np.uint8] | None:
    if not recipe.bad_pixels.learn or learned_before(frames):
        return None
    mask = learn_bad_pixels(
        frames, recipe.bad_pixels, client, lambda done, total: report("learning bad pixels", done, total)
    )
    return None if mask is None else mask.bad


def _nothing_found(swept: Sweep) -> InputError:
    n, peaks = len(swept.sample.numbers), int(swept.measure("peaks").max())
    return InputError(
        "there is nothing to tune with: no setting finds a lattice in any frame of the sample",
        found=f"{n} of {swept.sample.looked_at} frames tried with {len(swept.settings)} settings; up to {peaks} peaks",
        expected="a sample with hits",
        remedy="take more frames, look at some (sfxlab show --png), check geometry and cell, or try other values",
    )
