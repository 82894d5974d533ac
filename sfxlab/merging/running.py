"""A merge that follows at once when crystals come or go, or when a cut on them moves."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfxlab.crystal import UnitCell
from sfxlab.crystal import point_group as point_group_named
from sfxlab.errors import MergeError
from sfxlab.merging.crystals import ProcessedRun, tables
from sfxlab.merging.error_model import fit_error_model
from sfxlab.merging.merge import add_crystals, merged_of, symbol_of_space_group
from sfxlab.merging.merged import Merged
from sfxlab.merging.models import Model, effects_of, without_harmful
from sfxlab.merging.observations import ANGLE_TOLERANCE, LENGTH_TOLERANCE, Observations, gather, join
from sfxlab.merging.polarisation import parse_polarisation
from sfxlab.merging.scaling import (
    CrystalScales,
    Scaling,
    drift,
    fit_scales,
    fit_to_others,
    set_typical_sigma,
)
from sfxlab.merging.splits import FrameName
from sfxlab.merging.statistics import ShellStatistics
from sfxlab.merging.sums import Sums
from sfxlab.store.parts import committed_chunks, read_part
from sfxlab.store.run import Run
from sfxlab.store.tables import SCHEMAS, TableName

REFIT_AT = 0.02
"""A new fit is due where it would change the scales of the crystals by more than this, a fraction."""

_PARAMETERS = ("a", "b", "c", "alpha", "beta", "gamma")
_NEUTRAL = np.array([[1.0, 0.0, 1.0, 0.0]])

Range = tuple[float | None, float | None]
"""Least and greatest value that are kept; None for no limit."""


class RunningMerge:
    """Merged intensities (model `scaled`) of crystals that come and go.

    Sums over the scaled observations of each unique reflection are kept for both halves, and only what changes is added
    or taken away. Scales stay as they were fitted last: a crystal that comes is fitted to those that are there, which
    stay as they are. What comes out equals the sums over the chosen crystals, whatever happened before, but for
    rounding (10⁻⁹). Where other crystals are chosen than at the last fit, scales could be better: `refit_due` says so,
    and `refit()` fits them again from the beginning, so that the result is that of `merge` for the chosen crystals and
    the same cell, whatever happened before. Observations are kept in memory, about 40 bytes each.
    """

    def __init__(
        self,
        runs: ProcessedRun | Sequence[ProcessedRun],
        point_group: str,
        *,
        cell: UnitCell | None = None,
        d_min: float | None = None,
        d_max: float | None = None,
        min_observations: int = 2,
        max_cycles: int = 30,
        polarisation: str | None = "horiz",
        space_group: str | None = None,
        reject_harmful: bool = True,
        length_tolerance: float = LENGTH_TOLERANCE,
        angle_tolerance: float = ANGLE_TOLERANCE,
        model: Model = "scaled",
    ) -> None:
        """Merge what there is; arguments as of `merge`. The cell stays that of the beginning.

        Raises `MergeError` for another model than `scaled`.
        """
        if model != "scaled":
            raise MergeError(
                "a running merge knows the model 'scaled' only, whose sums can be added to and taken from",
                found=f"model '{model}'",
                remedy=f"cut and watch with 'scaled', then merge the chosen crystals with merge(…, model='{model}')",
            )
        given: Sequence[ProcessedRun] = runs if isinstance(runs, Sequence) else [runs]
        self._group = point_group_named(point_group)
        self._min_observations, self._max_cycles = min_observations, max_cycles
        self._reject_harmful = reject_harmful
        self._limits: dict[str, Any] = {
            "d_min": d_min, "d_max": d_max, "polarisation": parse_polarisation(polarisation),
            "length_tolerance": length_tolerance, "angle_tolerance": angle_tolerance,
        }  # fmt: skip
        self._chunks: dict[Path, set[int]] = {}
        self._n_runs = 0
        self._o = self._gather(given, cell)
        self.cell = self._o.cell
        self._space_group = symbol_of_space_group(space_group, self._group, self.cell)
        self._cut: dict[str, Any] = {}
        n = len(self._o.crystals)
        # Scale, B factor, scatter, correlation.
        self._figures, self._reasons = np.tile(_NEUTRAL, (n, 1)), np.full(n, "", dtype=object)
        self._chosen, self._used = np.ones(n, dtype=bool), np.zeros(n, dtype=bool)
        self._sums = Sums.zero(len(self._o.hkl))
        self.refit()

    def refit(self) -> None:
        """Fit the scales of the chosen crystals from the beginning, and then those of the others to them.

        What comes out does not depend on anything that happened before. Raises `MergeError` where no crystal is chosen.
        """
        chosen, o = self._chosen, self._o
        if not chosen.any():
            raise MergeError("no crystal is chosen", remedy="make the cut wider")
        part, rows = o.of(chosen).compact()
        fit = fit_scales(part, self._max_cycles)
        reasons = without_harmful(fit, effects_of(fit)).reasons if self._reject_harmful else fit.reasons
        self._usual = fit.usual
        self._mean = _at_all(fit.mean, part.resolution, o.resolution, rows)
        self._expected = self._mean.copy()
        self._expected[rows] = fit.expected
        self._take_over(chosen, replace(fit, reasons=reasons), part)
        self._used = chosen & (self._reasons == "")
        self._fit_to_used(~chosen)
        self._sum_anew()

    def add(self, run: ProcessedRun) -> int:
        """Take in what a run has; of a run that grows, only what has come since. Returns how many crystals that is.

        The new crystals have to pass the last `cut`. Raises `MergeError` where a frame is there already, or where none
        of the new crystals can be merged.
        """
        unseen = self._unseen(run)
        if not sum(len(table) for table in tables(unseen, "crystals", ["frame"])):
            return 0
        new = self._gather([run], self.cell)
        n_before, n_new, before = len(self._reasons), len(new.crystals), self._o
        self._o, order, rows = join(before, new)
        self._figures = np.concatenate([self._figures, np.tile(_NEUTRAL, (n_new, 1))])[order]
        self._reasons = np.concatenate([self._reasons, np.full(n_new, "", dtype=object)])[order]
        self._chosen, self._used = (
            np.concatenate([mask, np.zeros(n_new, dtype=bool)])[order] for mask in (self._chosen, self._used)
        )
        self._mean = _at_all(self._mean, before.resolution, self._o.resolution, rows)
        expected, sums = self._mean.copy(), Sums.zero(len(self._o.hkl))
        expected[rows], sums.values[:, rows] = self._expected, self._sums.values
        self._expected, self._sums = expected, sums
        is_new = order >= n_before
        self._fit_to_used(is_new)
        self._choose(self._chosen | (is_new & self._passing(**self._cut)))
        return n_new

    def remove(self, crystals: NDArray[Any] | Sequence[int]) -> None:
        """Take crystals out for good: a mask, (n_crystals,), or numbers of rows of `crystals`."""
        out = np.zeros(len(self._reasons), dtype=bool)
        out[np.asarray(crystals)] = True
        self._choose(self._chosen & ~out)
        self._o = self._o.of(~out)
        self._figures, self._reasons = self._figures[~out], self._reasons[~out]
        self._chosen, self._used = self._chosen[~out], self._used[~out]

    def select(self, chosen: NDArray[np.bool_]) -> None:
        """Merge just these crystals, a mask, (n_crystals,), and those that are added later."""
        chosen = np.asarray(chosen)
        if chosen.dtype != bool or chosen.shape != self._chosen.shape:
            raise MergeError(
                "a selection says yes or no for each crystal", found=f"{chosen.dtype}, {chosen.shape}",
                expected=f"bool, {self._chosen.shape}",
            )  # fmt: skip
        self._cut = {}
        self._choose(chosen.copy())

    def cut(
        self,
        *,
        cell: Mapping[str, Range] | None = None,
        correlation: Range | None = None,
        resolution: float | None = None,
        n_observations: Range | None = None,
        b_factor: Range | None = None,
        frames: Collection[FrameName] | None = None,
        without: Collection[FrameName] = (),
    ) -> int:
        """Merge just those crystals that pass, also of those that are added later; returns how many they are.

        Parameters
        ----------
        cell:
            Ranges of a, b, c (Å), alpha, beta, gamma (°).
        correlation:
            Range of the correlation with the others, as it was at the last fit.
        resolution:
            Crystals have to diffract to this resolution at least, Å.
        n_observations, b_factor:
            Ranges of the number of usable observations, and of the relative B factor, Å².
        frames, without:
            Frames that may, and that may not, take part: those with a tag, for example. Paths and events.
        """
        self._cut = {
            "cell": cell, "correlation": correlation, "resolution": resolution, "n_observations": n_observations,
            "b_factor": b_factor, "frames": frames, "without": without,
        }  # fmt: skip
        self._choose(self._passing(**self._cut))
        return int(self._chosen.sum())

    def merged(self) -> Merged:
        """The chosen crystals as they are merged now. Raises `MergeError` where nothing was observed often enough."""
        left_out = np.flatnonzero(self._chosen & ~self._used)
        reasons = self._told_reasons()
        history = {
            "program": f"sfxlab {version('sfxlab')}",
            "model": "scaled", "point_group": self._group.name, "space_group": self._space_group,
            "cell": list(self.cell.parameters), "min_observations": self._min_observations,
            "crystals": {
                "given": int(self._chosen.sum()), "used": int(self._used.sum()),
                "rejected": [{"crystal": str(self._o.crystals[i]), "reason": reasons[i]} for i in left_out.tolist()],
            },
            "observations": {},
        }  # fmt: skip
        # Shells of the error model are of the reflections that the chosen crystals have.
        seen = np.zeros(len(self._o.hkl), dtype=bool)
        for block in self._o.blocks():
            seen[block.reflection[self._chosen[block.crystal]]] = True
        number = (np.cumsum(seen) - 1).astype(np.int32)
        sums, resolution = Sums(self._sums.values[:, seen]), self._o.resolution[seen]
        blocks = (
            (replace(block, columns={**block.columns, "reflection": number[block.reflection]}), factor, weight)
            for block, factor, weight in self._scaling().blocks()
        )
        errors = fit_error_model(blocks, sums, resolution, inverse_variances=True)
        rows = replace(self._o, hkl=self._o.hkl[seen], resolution=resolution)
        return merged_of(sums, rows, self._space_group, True, self._min_observations, history, errors=errors)

    def statistics(self, n_shells: int = 10, d_min: float | None = None, d_max: float | None = None) -> ShellStatistics:
        """Figures of merit of what is merged now, by shells."""
        return self.merged().statistics(n_shells, d_min, d_max)

    @property
    def drift(self) -> float:
        """By how much the scales of the used crystals would change in another fit, a fraction (root mean square)."""
        return drift(self._scaling())

    @property
    def refit_due(self) -> bool:
        """Whether scales should be fitted again, because others are used now than at the last fit."""
        return self.drift > REFIT_AT

    @property
    def crystals(self) -> pa.Table:
        """One row a crystal: name, cell, figures of the last fit, whether it is chosen and whether it is used."""
        facts, ids = self._o.facts, self._o.crystals
        scale, b_factor, scatter, correlation = self._figures.T
        columns: dict[str, Any] = {
            "path": pa.DictionaryArray.from_arrays(pa.array(ids.path), pa.array(ids.paths)).cast(pa.string()),
            "event": ids.event, "crystal": ids.number,
            **dict(zip(_PARAMETERS, facts.cells.T, strict=True)),
            "resolution_limit": facts.resolution_limit, "n_observations": np.diff(self._o.offsets),
            "correlation": correlation, "scale": scale, "b_factor": b_factor, "relative_scatter": scatter,
            "half": ids.half + 1, "chosen": self._chosen, "used": self._used,
            "reason": pa.array(self._told_reasons(), pa.string()),
        }  # fmt: skip
        return pa.table(columns)

    def __repr__(self) -> str:
        return f"<RunningMerge: {self._used.sum()} of {len(self._used)} crystals, {self._group.name}, {self.cell}>"

    def _told_reasons(self) -> list[str]:
        """Why crystals are not used; what is known of those of another lattice is more than that they have nothing."""
        known, empty = dict(self._o.excluded), np.diff(self._o.offsets) == 0
        return [
            known.get(self._o.crystals[i], reason) if nothing else reason
            for i, (reason, nothing) in enumerate(zip(self._reasons.tolist(), empty.tolist(), strict=True))
        ]

    def _gather(self, runs: Sequence[ProcessedRun], cell: UnitCell | None) -> Observations:
        """What runs have that has not been taken in yet."""
        unseen = [self._unseen(run) for run in runs]
        found = gather(unseen, self._group, cell=cell, memory_limit=sys.maxsize, **self._limits)
        for part in unseen:
            if isinstance(part, _Chunks):
                self._chunks.setdefault(part.path, set()).update(part.numbers)
        set_typical_sigma(found)
        found.columns.put(0, "outlier", np.zeros(len(found), dtype=bool))
        # Runs are numbered through, so that a frame that comes twice is noticed.
        facts = replace(found.facts, run=found.facts.run + self._n_runs)
        self._n_runs += len(runs)
        return replace(found, facts=facts)

    def _unseen(self, run: ProcessedRun) -> ProcessedRun:
        if not isinstance(run, Run):
            return run
        seen = self._chunks.get(run.path, set())
        return _Chunks(run.path, [chunk for chunk in committed_chunks(run.path) if chunk not in seen])

    def _passing(
        self,
        cell: Mapping[str, Range] | None = None,
        correlation: Range | None = None,
        resolution: float | None = None,
        n_observations: Range | None = None,
        b_factor: Range | None = None,
        frames: Collection[FrameName] | None = None,
        without: Collection[FrameName] = (),
    ) -> NDArray[np.bool_]:
        """Which crystals pass a cut."""
        facts = self._o.facts
        unknown = sorted(set(cell or ()) - set(_PARAMETERS))
        if unknown:
            raise MergeError("unknown cell parameters", found=", ".join(unknown), expected=", ".join(_PARAMETERS))
        passing = np.ones(len(facts), dtype=bool)
        for values, limit in (
            *((facts.cells[:, _PARAMETERS.index(name)], limit) for name, limit in (cell or {}).items()),
            (self._figures[:, 3], correlation),
            (np.diff(self._o.offsets), n_observations),
            (self._figures[:, 1], b_factor),
            (facts.resolution_limit, None if resolution is None else (1 / resolution, None)),
        ):
            if limit is not None:
                low, high = limit
                passing &= values >= (-np.inf if low is None else low)
                passing &= values <= (np.inf if high is None else high)
        if frames is not None:
            passing &= self._of_frames(frames)
        return passing & ~self._of_frames(without)

    def _of_frames(self, frames: Collection[FrameName]) -> NDArray[np.bool_]:
        wanted, ids = set(frames), self._o.crystals
        names = zip(ids.path.tolist(), ids.event.to_pylist(), strict=True)
        return np.array([(ids.paths[path], event) in wanted for path, event in names], dtype=bool)

    def _choose(self, chosen: NDArray[np.bool_]) -> None:
        """Add and take away what changes."""
        used = chosen & (self._reasons == "")
        sign = used.astype(np.int8) - self._used.astype(np.int8)
        self._chosen, before, self._used = chosen, self._used, used
        if 2 * np.count_nonzero(sign) > np.count_nonzero(used):
            self._sum_anew()
            return
        add_crystals(self._sums, self._scaling(used | before), sign)

    def _sum_anew(self) -> None:
        self._sums = Sums.zero(len(self._o.hkl))
        add_crystals(self._sums, self._scaling(), self._used.astype(np.int8))

    def _scaling(self, accepted: NDArray[np.bool_] | None = None) -> Scaling:
        """The scales as they are held, with these crystals accepted, or those that are used."""
        who = self._used if accepted is None else accepted
        reasons = tuple("" if yes else "not used" for yes in who.tolist())
        scale, b_factor, scatter, correlation = (np.ascontiguousarray(values) for values in self._figures.T)
        return Scaling(
            scale=scale, b_factor=b_factor, scatter=scatter, correlation=correlation, reasons=reasons,
            expected=self._expected, mean=self._mean, usual=self._usual, observations=self._o, cycles=0, converged=True,
        )  # fmt: skip

    def _fit_to_used(self, which: NDArray[np.bool_]) -> None:
        """Scales of crystals that are not used, by those that are."""
        part = self._o.of(which)
        self._take_over(which, fit_to_others(self._scaling(), part), part)

    def _take_over(self, which: NDArray[np.bool_], found: CrystalScales, part: Observations) -> None:
        """Keep what was found for some crystals, whose observations are `part`."""
        self._figures[which] = np.stack([found.scale, found.b_factor, found.scatter, found.correlation], axis=1)
        self._reasons[which] = np.array(found.reasons, dtype=object)
        outlier = self._o.column("outlier")
        outlier[np.repeat(which, np.diff(self._o.offsets))] = part.column("outlier")
        self._o.columns.put(0, "outlier", outlier)


class _Chunks:
    """Some chunks of a run on disk."""

    def __init__(self, path: Path, numbers: Sequence[int]) -> None:
        self.path, self.numbers = path, numbers

    @property
    def frames(self) -> Any:
        return self._table("frames")

    @property
    def crystals(self) -> Any:
        return self._table("crystals")

    @property
    def reflections(self) -> Any:
        return self._table("reflections")

    def parts(self, name: TableName, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """A table chunk by chunk."""
        yield SCHEMAS[name].empty_table() if columns is None else SCHEMAS[name].empty_table().select(list(columns))
        for chunk in self.numbers:
            yield read_part(self.path, name, chunk, columns)

    def _table(self, name: TableName) -> pa.Table:
        return pa.concat_tables(list(self.parts(name)))


def _at_all(
    values: NDArray[np.float64],
    resolution: NDArray[np.float64],
    of_all: NDArray[np.float64],
    rows: NDArray[np.integer],
) -> NDArray[np.float64]:
    """Means by resolution, known for `rows`, for all reflections: those near in resolution stand for the others."""
    order = np.argsort(resolution, kind="stable")
    near = np.minimum(np.searchsorted(resolution[order], of_all), len(order) - 1)
    out = values[order][near]
    out[rows] = values
    return out
