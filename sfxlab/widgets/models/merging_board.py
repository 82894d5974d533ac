"""A merge that is looked at while cuts on its crystals move, and another one beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sfxlab.crystal import UnitCell
from sfxlab.errors import MergeError
from sfxlab.merging import Merged, RunningMerge, ShellStatistics, compare
from sfxlab.merging.distribution import wilson_plot
from sfxlab.merging.running import REFIT_AT, Range
from sfxlab.merging.table_one import TableOne, facts_of
from sfxlab.store import Run
from sfxlab.widgets.models.numbers import number, numbers

Tagged = Callable[[str, str], set[str]]
"""The items ("frame" or "crystal") that have a tag, as sessions give them."""

_SHELL_FIGURES = ("cc_half", "cc_half_low", "cc_half_high", "rsplit", "completeness", "multiplicity", "snr", "cc_star")
_N_BINS = 50


T = TypeVar("T", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cuts(_Strict):
    """Which crystals take part; None for no limit."""

    lengths: float | None = Field(None, gt=0)
    """a, b and c may be so far from the cell of the merge, %."""
    angles: float | None = Field(None, gt=0)
    """And α, β and γ, degrees."""
    correlation: float | None = None
    """Least correlation with the others, as it was when scales were fitted."""
    resolution: float | None = Field(None, gt=0)
    """Crystals have to diffract at least to this resolution, Å."""
    b_factor: float | None = Field(None, gt=0)
    """Largest relative B factor, of either sign, Å²."""
    n_observations: int | None = Field(None, ge=0)
    """Least number of usable observations of a crystal."""
    without: tuple[str, ...] = ()
    """Tags of frames and crystals that do not take part."""
    only_selected: bool = False
    """Whether only crystals that the session has selected take part."""

    def __str__(self) -> str:
        words = {
            "lengths": "lengths within {:g} %", "angles": "angles within {:g}°", "correlation": "CC ≥ {:g}",
            "resolution": "diffracting to {:g} Å", "b_factor": "|B| ≤ {:g} Å²", "n_observations": "≥ {} observations",
        }  # fmt: skip
        found = [text.format(value) for name, text in words.items() if (value := getattr(self, name)) is not None]
        found += [f"without {', '.join(self.without)}"] if self.without else []
        return ", ".join(found + ["selected only"] * self.only_selected) or "all crystals"


class Settings(_Strict):
    """What is shown, and by what."""

    n_shells: int = Field(10, ge=1, le=50)
    d_min: float | None = Field(None, gt=0)
    """Resolution limits of the figures, Å."""
    d_max: float | None = Field(None, gt=0)
    beside: Cuts | None = None
    """Cuts of the merge beside; None where there is none of the same crystals."""
    scaled_on: Cuts | None = None
    """Cuts of the crystals that scales are fitted on; None for all."""


def read_cuts(values: Mapping[str, Any]) -> Cuts:
    """Cuts as a session or a browser gives them. Raises `MergeError`."""
    return _read(Cuts, values)


def read_settings(values: Mapping[str, Any]) -> Settings:
    """Settings as a session or a browser gives them. Raises `MergeError`."""
    return _read(Settings, values)


class MergingBoard:
    """A `RunningMerge` of a run with cuts, and the figures that are drawn of it.

    `beside` is another merge to compare with, until cuts are set beside. Safe to be called from several threads.
    """

    def __init__(self, run: Run, point_group: str, *, beside: Merged | None = None, **options: Any) -> None:
        self.run = run
        self.running = RunningMerge(run, point_group, **options)
        self._scaled_on: Cuts | None = None
        self._given_beside = beside
        self._beside: tuple[Any, Merged] | None = None
        self._lock = threading.Lock()
        self._learn_rows()

    @property
    def cell(self) -> UnitCell:
        """The cell of the merge, which cuts on cells are about."""
        return self.running.cell

    def update(self) -> int:
        """Take in what the run has got since; how many crystals that is. Raises `MergeError`."""
        with self._lock:
            n = self.running.add(self.run)
            if n:
                self._learn_rows()
                self._beside = None
            return n

    def merged(
        self,
        cuts: Cuts | None = None,
        settings: Settings | None = None,
        tagged: Tagged | None = None,
        selected: Sequence[int] | None = None,
    ) -> Merged:
        """The crystals that pass. `selected` are rows of `Run.crystals`. Raises `MergeError` where too few are left."""
        with self._lock:
            return self._merged(cuts or Cuts(), settings or Settings(), tagged, selected)

    def figures(
        self, cuts: Cuts, settings: Settings, tagged: Tagged | None = None, selected: Sequence[int] | None = None
    ) -> dict[str, Any]:
        """All that is drawn of a merge and the one beside it, as JSON carries it. Raises `MergeError`."""
        with self._lock:
            beside = self._merge_beside(settings, tagged, selected)
            merged = self._merged(cuts, settings, tagged, selected)
            drift = self.running.drift
            figures = {
                "main": _drawn(merged, settings, str(cuts)), "beside": None, "crystals": self._crystals(),
                "drift": number(drift, 2), "refit_due": bool(drift > REFIT_AT),
            }  # fmt: skip
            if beside is not None:
                why = str(settings.beside) if settings.beside is not None else "another merge"
                figures["beside"] = {**_drawn(beside, settings, why), **_agreement(merged, beside, settings)}
            return figures

    def table_one(self, merged: Merged, settings: Settings) -> TableOne:
        """Table 1 of a paper. Raises `MergeError`."""
        return merged.table_one(facts_of([self.run]), settings.d_min, settings.d_max)

    def limits(self) -> dict[str, list[float]]:
        """Least and greatest value, and the step, of the control of each cut."""
        table = self.running.crystals
        cells = np.stack([table[name].to_numpy() for name in ("a", "b", "c", "alpha", "beta", "gamma")], axis=1)
        centre = np.array(self.cell.parameters)
        lengths = 100 * np.abs(cells[:, :3] / centre[:3] - 1).max(axis=1)
        angles = np.abs(cells[:, 3:] - centre[3:]).max(axis=1)
        b_factor, n = np.abs(table["b_factor"].to_numpy()), table["n_observations"].to_numpy()
        reach = table["resolution_limit"].to_numpy()
        reach = 1 / reach[np.isfinite(reach) & (reach > 0)]
        finest, coarsest = (reach.min(), reach.max()) if len(reach) else (1.0, 10.0)
        return {
            "lengths": _control(0, _high(lengths)), "angles": _control(0, _high(angles)),
            "correlation": [0.0, 1.0, 0.01], "resolution": _control(float(finest), float(coarsest)),
            "b_factor": _control(0, _high(b_factor)),
            "n_observations": [0.0, float(n.max(initial=1)), max(1.0, round(float(n.max(initial=1)) / 200))],
        }  # fmt: skip

    def _merge_beside(self, settings: Settings, tagged: Tagged | None, selected: Sequence[int] | None) -> Merged | None:
        if settings.beside is None:
            return self._given_beside
        cuts = settings.beside
        items = tuple(sorted(item for tag in cuts.without for item in tagged("frame", tag))) if tagged else ()
        key = (cuts, settings.scaled_on, items, tuple(selected or ()) if cuts.only_selected else ())
        if self._beside is None or self._beside[0] != key:
            self._beside = key, self._merged(cuts, settings, tagged, selected)
        return self._beside[1]

    def _merged(self, cuts: Cuts, settings: Settings, tagged: Tagged | None, selected: Sequence[int] | None) -> Merged:
        if settings.scaled_on != self._scaled_on:
            # From the scales of all, so that what comes out does not depend on what was fitted before.
            self.running.select(np.ones(len(self._rows), dtype=bool))
            self.running.refit()
            if settings.scaled_on is not None:
                self._cut(settings.scaled_on, tagged, selected)
                self.running.refit()
            self._scaled_on = settings.scaled_on
        self._cut(cuts, tagged, selected)
        return self.running.merged()

    def _cut(self, cuts: Cuts, tagged: Tagged | None, selected: Sequence[int] | None) -> None:
        cell: dict[str, Range] = {}
        for name, value in zip(("a", "b", "c", "alpha", "beta", "gamma"), self.cell.parameters, strict=True):
            reach = cuts.lengths if len(name) == 1 else cuts.angles
            if reach is not None:
                reach = value * reach / 100 if len(name) == 1 else reach
                cell[name] = (value - reach, value + reach)
        n = self.running.cut(
            cell=cell or None, correlation=_least(cuts.correlation), resolution=cuts.resolution,
            n_observations=_least(cuts.n_observations),
            b_factor=None if cuts.b_factor is None else (-cuts.b_factor, cuts.b_factor),
        )  # fmt: skip
        if cuts.without or cuts.only_selected:
            taking_part = self._taking_part(cuts, tagged, selected)
            chosen = self.running.crystals["chosen"].to_numpy(zero_copy_only=False) & taking_part
            self.running.select(chosen)
            n = int(chosen.sum())
        if n == 0:
            raise MergeError("no crystal passes the cuts", found=str(cuts), remedy="make a cut wider")

    def _taking_part(self, cuts: Cuts, tagged: Tagged | None, selected: Sequence[int] | None) -> NDArray[np.bool_]:
        out = np.zeros(len(self._rows), dtype=bool)
        for tag in cuts.without if tagged is not None else ():
            for kind, place in (("frame", self._frames), ("crystal", self._rows)):
                items = [int(item) for item in tagged(kind, tag) if item.isdecimal()] if tagged else []
                out |= np.isin(place, items)
        if cuts.only_selected and selected:
            out |= ~np.isin(self._rows, np.asarray(selected))
        return ~out

    def _learn_rows(self) -> None:
        """The row in `Run.crystals`, and the frame, of each crystal of the running merge."""
        crystals = self.run.table("crystals", ["frame", "crystal"])
        frames = self.run.table("frames", ["frame", "path", "event"])
        names = dict(
            zip(
                frames["frame"].to_pylist(),
                zip(frames["path"].to_pylist(), frames["event"].to_pylist(), strict=True),
                strict=True,
            )
        )
        of_frame, number_of = crystals["frame"].to_pylist(), crystals["crystal"].to_pylist()
        place = {(*names[f], c): row for row, (f, c) in enumerate(zip(of_frame, number_of, strict=True))}
        mine = self.running.crystals.select(["path", "event", "crystal"]).to_pydict()
        rows = [place[key] for key in zip(mine["path"], mine["event"], mine["crystal"], strict=True)]
        self._rows = np.array(rows, dtype=np.int64)
        self._frames = np.array([of_frame[row] for row in rows], dtype=np.int64)

    def _crystals(self) -> dict[str, Any]:
        """Histograms of what was fitted to crystals: of those used, and of all."""
        table = self.running.crystals
        used = table["used"].to_numpy(zero_copy_only=False)
        with np.errstate(divide="ignore", invalid="ignore"):
            values = {
                "scale": np.log10(table["scale"].to_numpy()), "b_factor": table["b_factor"].to_numpy(),
                "correlation": table["correlation"].to_numpy(),
            }  # fmt: skip
        return {
            "given": len(table), "chosen": int(table["chosen"].to_numpy(zero_copy_only=False).sum()),
            "used": int(used.sum()), **{name: _histogram(column, used) for name, column in values.items()},
        }  # fmt: skip


def _drawn(merged: Merged, settings: Settings, why: str) -> dict[str, Any]:
    statistics: ShellStatistics = merged.statistics(settings.n_shells, settings.d_min, settings.d_max)
    wilson = wilson_plot(merged, settings.d_min, settings.d_max)
    shells = statistics.shells
    inner = np.array([1 / shell.d_max if np.isfinite(shell.d_max) else 0.0 for shell in shells])
    outer = np.array([1 / shell.d_min for shell in shells])
    x = 4 * wilson.s2
    return {
        "why": why,
        # Of 1/d², the middles of the shells.
        "x": numbers((inner**2 + outer**2) / 2), "d_min": numbers(1 / outer),
        "d_max": numbers(1 / np.maximum(inner, 1e-9)),
        **{name: numbers([getattr(shell, name) for shell in shells]) for name in _SHELL_FIGURES},
        "n_unique": [shell.n_unique for shell in shells],
        "overall": {name: number(v) if isinstance(v, float) else v for name, v in asdict(statistics.overall).items()},
        "wilson": {
            "x": numbers(x), "y": numbers(wilson.log_ratio), "b_factor": number(wilson.b_factor),
            "line": numbers(wilson.log_scale - 2 * wilson.b_factor * wilson.s2),
        },
        "crystals": merged.history.get("crystals", {}).get("used"),
    }  # fmt: skip


def _agreement(merged: Merged, beside: Merged, settings: Settings) -> dict[str, Any]:
    found = compare(merged, beside, settings.n_shells, settings.d_min, settings.d_max)
    return {
        "cc": numbers([shell.cc for shell in found.shells]),
        "cc_overall": number(found.overall.cc),
        "n_common": found.overall.n_common,
    }


def _histogram(values: NDArray[np.float64], used: NDArray[np.bool_]) -> dict[str, Any]:
    finite = np.isfinite(values)
    low, high = np.percentile(values[finite], [0.5, 99.5]) if finite.any() else (0.0, 1.0)
    room = max(0.1 * (high - low), 1e-3)
    edges = np.linspace(low - room, high + room, _N_BINS + 1)
    return {
        "edges": numbers(edges), "every": np.histogram(values[finite], edges)[0].tolist(),
        "used": np.histogram(values[finite & used], edges)[0].tolist(),
    }  # fmt: skip


def _control(low: float, high: float) -> list[float]:
    """Limits and a step of about a hundredth, all round numbers."""
    step = float(10 ** np.floor(np.log10(max(high - low, 1e-6) / 50)))
    return [round(float(np.floor(low / step)) * step, 9), round(float(np.ceil(high / step)) * step, 9), step]


def _high(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return max(float(np.percentile(finite, 99.9)), 1e-3) if len(finite) else 1.0


def _least(value: float | None) -> Range | None:
    return None if value is None else (value, None)


def _read(kind: type[T], values: Mapping[str, Any]) -> T:
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        raise MergeError(
            f"'{'.'.join(map(str, first['loc']))}' cannot be used: {first['msg']}", found=first["input"],
            expected=", ".join(kind.model_fields),
        ) from None  # fmt: skip
