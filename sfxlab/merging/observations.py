"""Observations of all crystals of some runs, in the order and with the numbers that merging needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfxlab.crystal import PointGroup, UnitCell, resolution_of
from sfxlab.errors import MergeError, RunError
from sfxlab.geometry import HC_EV_ANGSTROM
from sfxlab.merging.blocks import Block, Columns, Rows
from sfxlab.merging.crystals import (
    CrystalId,
    CrystalIds,
    Crystals,
    ProcessedRun,
    choose_cell,
    collect_crystals,
    column,
    join_crystals,
    keys_of,
    sort_crystals,
    tables,
)
from sfxlab.merging.polarisation import Polarisation, polarisation_factors

MEMORY_LIMIT = 1 << 30
"""Bytes that observations may take at a time where nothing else is asked for."""
LENGTH_TOLERANCE, ANGLE_TOLERANCE = 0.05, 3.0
"""How far the cell of a crystal may be from that of the merged data: a fraction, and degrees."""

# Indices are packed into 12 bits each, and beside them 27 bits are left for the number of the crystal.
_INDEX_BITS, _INDEX_LIMIT = 12, 2047
_MASK = (1 << _INDEX_BITS) - 1
# What an observation takes at most while it is sorted or scaled.
_BYTES_PER_OBSERVATION = 160
# Boxes of indices in which distinct ones are marked have no more places: 16 MiB.
_LARGEST_BOX = 1 << 22
_COLUMNS = ("frame", "crystal", "h", "k", "l", "intensity", "sigma", "saturated")


@dataclass(frozen=True)
class Observations:
    """Intensities of many crystals: observations are sorted by crystal, then by hkl, and come in blocks."""

    crystals: CrystalIds
    """Sorted, so that results do not depend on the order in which crystals come."""
    offsets: NDArray[np.int64]
    """Observations `offsets[i]` to `offsets[i + 1]` are those of crystal i, (n_crystals + 1,)."""
    hkl: NDArray[np.int32]
    """The unique reflections, (n_reflections, 3), in the asymmetric unit, sorted."""
    resolution: NDArray[np.float64]
    """1/d of the unique reflections in `cell`, (n_reflections,), 1/Å."""
    cell: UnitCell
    point_group: PointGroup
    dropped: Mapping[str, int]
    """How many observations were left out, by reason."""
    facts: Crystals = field(repr=False)
    """Cells, orientations and photon energies of the crystals."""
    columns: Columns = field(repr=False)
    first: NDArray[np.int64] = field(repr=False)
    """Number of the first crystal of each block, and of all crystals, (n_blocks + 1,)."""
    excluded: tuple[tuple[CrystalId, str], ...] = ()
    """Crystals that were left out, with the reason."""

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def blocks(self, *more: str) -> Iterator[Block]:
        """All observations, block by block, with the columns `more` besides reflection, intensity and sigma."""
        for number, (start, stop) in enumerate(pairwise(self.first.tolist())):
            if start == stop:
                continue
            names = ("reflection", "intensity", "sigma", *more)
            columns = {name: self.columns.get(number, name) for name in names}
            yield Block(number, slice(start, stop), self.offsets[start : stop + 1] - self.offsets[start], columns)

    def column(self, name: str) -> NDArray[Any]:
        """A column of all observations, (n,), which has to fit into memory."""
        filled = np.flatnonzero(np.diff(self.first) > 0).tolist() or [0]
        return np.concatenate([self.columns.get(number, name) for number in filled])

    def of(self, chosen: NDArray[np.bool_]) -> Observations:
        """The observations of some crystals, (n_crystals,), with the same rows of reflections."""
        columns = Columns(self.columns.on_disk)
        kept = 0
        first = [0]
        for block in self.blocks(*self.columns.names):
            rows = np.repeat(chosen[block.crystals], np.diff(block.offsets))
            for name, values in block.columns.items():
                columns.put(block.number, name, values[rows])
            kept += int(np.count_nonzero(chosen[block.crystals]))
            first.append(kept)
        which = np.flatnonzero(chosen)
        facts = self.facts.take(which)
        offsets = np.concatenate([[0], np.cumsum(np.diff(self.offsets)[which])])
        return replace(
            self,
            crystals=facts.ids,
            facts=facts,
            offsets=offsets,
            columns=columns,
            first=np.array(first, dtype=np.int64),
        )

    def compact(self) -> tuple[Observations, NDArray[np.int64]]:
        """The same without reflections that nobody has observed, and which of the rows of `hkl` stay."""
        seen = np.zeros(len(self.hkl), dtype=bool)
        for block in self.blocks():
            seen[block.reflection] = True
        number = (np.cumsum(seen) - 1).astype(np.int32)
        columns = Columns(self.columns.on_disk)
        for block in self.blocks(*self.columns.names):
            for name, values in block.columns.items():
                columns.put(block.number, name, number[values] if name == "reflection" else values)
        rows = np.flatnonzero(seen)
        return replace(self, hkl=self.hkl[rows], resolution=self.resolution[rows], columns=columns), rows

    @property
    def reflection(self) -> NDArray[np.int32]:
        """Row of `hkl` of each observation, (n,)."""
        return self.column("reflection")

    @property
    def intensity(self) -> NDArray[np.float64]:
        """Corrected for polarisation, (n,)."""
        return self.column("intensity")

    @property
    def sigma(self) -> NDArray[np.float64]:
        """Standard error of `intensity` by counting, (n,)."""
        return self.column("sigma")

    @property
    def crystal(self) -> NDArray[np.int32]:
        """Number of the crystal of each observation, (n,)."""
        return np.repeat(np.arange(len(self.crystals), dtype=np.int32), np.diff(self.offsets))

    @property
    def half(self) -> NDArray[np.uint8]:
        """The half data set of each crystal, (n_crystals,)."""
        return self.crystals.half

    @property
    def wavelength(self) -> float:
        """Mean over the crystals, Å; NaN where it is unknown."""
        return self.facts.wavelength


def gather(
    runs: Sequence[ProcessedRun],
    point_group: PointGroup,
    *,
    cell: UnitCell | None = None,
    d_min: float | None = None,
    d_max: float | None = None,
    polarisation: Polarisation | None = None,
    length_tolerance: float = LENGTH_TOLERANCE,
    angle_tolerance: float = ANGLE_TOLERANCE,
    memory_limit: int = MEMORY_LIMIT,
    extra: Sequence[str] = (),
) -> Observations:
    """Collect what runs have observed.

    Left out, and counted, are saturated observations, those without a finite intensity and a positive sigma, those
    that the centring forbids, those outside `d_min` and `d_max` (Å), and crystals of another lattice or cell. Without
    `cell` the lattice is the most frequent one and its parameters are the medians over its crystals.

    Observations that would take more than `memory_limit` bytes go into scratch files; what comes out is the same.
    `extra` names more columns of the tables of reflections that are to be kept.

    Raises `MergeError` where nothing is left, where a frame is in two runs, or where a crystal of a run has no photon
    energy to correct polarisation with; `CellError` where the point group does not suit the cell.
    """
    crystals = collect_crystals(runs)
    cell, excluded = choose_cell(crystals, cell, length_tolerance, angle_tolerance)
    point_group.check_cell(cell)
    if polarisation is not None:
        crystals.require_energies()
    keys = [crystals.keys(i) for i in range(len(runs))]
    portion = max(memory_limit // _BYTES_PER_OBSERVATION, 1)
    parts = (
        (part, of_run)
        for run, of_run in zip(runs, keys, strict=True)
        for part in _portions(tables(run, "reflections", [*_COLUMNS, *_more(extra)]), portion)
    )
    # Where all rows together are less than a portion there is one block, and nothing has to be counted.
    begin, waiting = [], 0
    while waiting < portion and (more := next(parts, None)) is not None:
        begin.append(more)
        waiting += len(more[0])
    alone = waiting < portion
    first = np.array([0, len(crystals)]) if alone else _cut(_count(runs, keys, len(crystals)), portion)
    rows = Rows(on_disk=len(first) > 2)
    sieve = _Sieve(crystals, cell, point_group, d_min, d_max, polarisation, set(excluded), tuple(extra))
    while begin:
        part, of_run = begin.pop(0)
        kept = sieve.usable(part, of_run)
        rows.add(kept, 0 if alone else np.searchsorted(first, kept["key"] >> (3 * _INDEX_BITS), side="right") - 1)
        begin += [] if begin else islice(parts, 1)
    sieve.require_some()
    packed, place = sieve.unique()
    hkl = _unpack(packed)
    columns = Columns(on_disk=len(first) > 2)
    counts = np.zeros(len(crystals), dtype=np.int64)
    for block, (start, stop) in enumerate(pairwise(first.tolist())):
        taken = rows.take(block, sieve.kind)
        order = np.argsort(taken["key"], kind="stable")
        counts[start:stop] = np.bincount((taken["key"] >> (3 * _INDEX_BITS)) - start, minlength=stop - start)
        columns.put(block, "reflection", place[taken["reflection"]][order])
        for name in ("intensity", "sigma", *extra):
            columns.put(block, name, taken[name][order])
    return Observations(
        crystals=crystals.ids,
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        hkl=hkl,
        resolution=resolution_of(cell, hkl),
        cell=cell,
        point_group=point_group,
        dropped=sieve.dropped,
        facts=crystals,
        columns=columns,
        first=first,
        excluded=tuple((crystals.ids[i], reason) for i, reason in excluded.items()),
    )


def join(one: Observations, other: Observations) -> tuple[Observations, NDArray[np.int64], NDArray[np.int64]]:
    """Both together, in memory.

    Also which crystals they are, counted through those of the one and the other, (n_crystals,), and the new rows of
    the reflections of the one. Raises `MergeError` where a frame is in both.
    """
    facts, order = sort_crystals(join_crystals([one.facts, other.facts]))
    packed = np.union1d(_pack(one.hkl), _pack(other.hkl))
    rows = [np.searchsorted(packed, _pack(o.hkl)) for o in (one, other)]
    counts = np.concatenate([np.diff(o.offsets) for o in (one, other)])
    starts = np.cumsum(counts) - counts
    offsets = np.concatenate([[0], np.cumsum(counts[order])])
    take = np.repeat(starts[order] - offsets[:-1], counts[order]) + np.arange(offsets[-1])
    columns = Columns(on_disk=False)
    for name in one.columns.names:
        values = [o.column(name) for o in (one, other)]
        if name == "reflection":
            values = [place[value].astype(np.int32) for place, value in zip(rows, values, strict=True)]
        columns.put(0, name, np.concatenate(values)[take])
    hkl = _unpack(packed)
    together = replace(
        one, crystals=facts.ids, facts=facts, offsets=offsets, hkl=hkl, resolution=resolution_of(one.cell, hkl),
        dropped={reason: n + other.dropped.get(reason, 0) for reason, n in one.dropped.items()},
        excluded=(*one.excluded, *other.excluded), columns=columns, first=np.array([0, len(order)], dtype=np.int64),
    )  # fmt: skip
    return together, order, rows[0]


class _Sieve:
    """What is kept of the tables of reflections, and the reasons for what is not."""

    def __init__(
        self,
        crystals: Crystals,
        cell: UnitCell,
        point_group: PointGroup,
        d_min: float | None,
        d_max: float | None,
        polarisation: Polarisation | None,
        excluded: set[int],
        extra: tuple[str, ...],
    ) -> None:
        self.crystals, self.cell, self.point_group, self.polarisation = crystals, cell, point_group, polarisation
        self.low, self.high = 0.0 if d_max is None else 1 / d_max, np.inf if d_min is None else 1 / d_min
        self.excluded = np.isin(np.arange(len(crystals)), list(excluded))
        self.extra = extra
        self.present = np.empty(0, dtype=np.int64)
        """Packed indices of the unique reflections that were observed, in the order of their numbers."""
        self.dropped: dict[str, int] = {}
        self.n_kept = 0
        self.kind = np.dtype([])

    def usable(self, table: Any, keys: tuple[NDArray[np.int64], NDArray[np.int64]]) -> NDArray[Any]:
        """Rows of key (crystal and packed indices), reflection (its number), intensity, sigma, the extra columns."""
        crystal = np.repeat(*_crystals_of(table, *keys))
        hkl = np.stack([column(table, name, np.int32) for name in "hkl"], axis=1)
        intensity, sigma = self._corrected(table, crystal, hkl)
        packed, unique, reflection = _unique_reflections(hkl, self.point_group)
        # A reflection is inside or outside for all crystals alike.
        resolution = resolution_of(self.cell, unique)
        keep = self._keep(
            {
                "saturated": column(table, "saturated", np.bool_),
                "no finite intensity, or no positive sigma": ~(
                    np.isfinite(intensity) & np.isfinite(sigma) & (sigma > 0)
                ),
                "forbidden by the centring": ~self.cell.allows(unique)[reflection],
                "beyond the limits of resolution": ((resolution < self.low) | (resolution > self.high))[reflection],
                "crystal of another lattice": self.excluded[crystal],
            }
        )
        number = self._numbered(_pack(unique), np.bincount(reflection[keep], minlength=len(unique)) > 0)
        more = {name: table.column(name).to_numpy()[keep] for name in self.extra}
        floats = [("intensity", np.float32), ("sigma", np.float32)]
        types = [(name, values.dtype) for name, values in more.items()]
        self.kind = np.dtype([("key", np.int64), ("reflection", np.int32), *floats, *types])
        rows = np.empty(int(keep.sum()), dtype=self.kind)
        rows["key"] = (crystal[keep] << (3 * _INDEX_BITS)) | packed[keep]
        rows["reflection"], rows["intensity"], rows["sigma"] = number[reflection[keep]], intensity[keep], sigma[keep]
        for name, values in more.items():
            rows[name] = values
        return rows

    def _numbered(self, packed: NDArray[np.int64], kept: NDArray[np.bool_]) -> NDArray[np.int32]:
        """Numbers of unique reflections by their indices, (n,); those that are `kept` and new get the next ones."""
        order = np.argsort(self.present)
        place = np.searchsorted(self.present, packed, sorter=order)
        known = np.append(self.present[order], -1)[place] == packed
        new = kept & ~known
        number = np.append(order, -1)[place].astype(np.int32)
        number[new] = len(self.present) + np.arange(np.count_nonzero(new))
        self.present = np.concatenate([self.present, packed[new]])
        return number

    def unique(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Packed indices of the reflections that were observed, sorted, and the row there of each number."""
        order = np.argsort(self.present)
        row = np.empty(len(order), dtype=np.int32)
        row[order] = np.arange(len(order))
        return self.present[order], row

    def _corrected(
        self, table: Any, crystal: NDArray[np.int64], hkl: NDArray[np.int32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Intensity and sigma without the effect of polarisation."""
        intensity, sigma = column(table, "intensity", np.float64), column(table, "sigma", np.float64)
        if self.polarisation is None:
            return intensity, sigma
        wavenumber = self.crystals.photon_energy / HC_EV_ANGSTROM
        factor = polarisation_factors(crystal, hkl, self.crystals.basis, wavenumber, self.polarisation)
        # Along the field itself nothing is scattered; what was measured there is noise.
        factor = np.where(factor > 1e-3, factor, np.nan)
        return intensity / factor, sigma / factor

    def _keep(self, reasons: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.bool_]:
        """Which observations no reason speaks against, (n,); the others are counted by their first reason."""
        keep = ~np.zeros_like(next(iter(reasons.values())))
        for reason, bad in reasons.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + int(np.count_nonzero(keep & bad))
            keep &= ~bad
        self.n_kept += int(keep.sum())
        return keep

    def require_some(self) -> None:
        """Raise `MergeError` where nothing was kept."""
        if not self.n_kept:
            found = ", ".join(f"{reason}: {n}" for reason, n in self.dropped.items() if n)
            raise MergeError(
                "no observations are left to merge",
                found=found or "no observations at all",
                remedy="check d_min, d_max and the cell, or whether the run has indexed frames",
            )


def _more(extra: Sequence[str]) -> list[str]:
    return [name for name in extra if name not in _COLUMNS]


def _count(
    runs: Sequence[ProcessedRun], keys: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], n_crystals: int
) -> NDArray[np.int64]:
    """Number of rows of each crystal, whether they are usable or not, (n_crystals,)."""
    counts = np.zeros(n_crystals, dtype=np.int64)
    for run, of_run in zip(runs, keys, strict=True):
        for part in tables(run, "reflections", ["frame", "crystal"]):
            np.add.at(counts, *_crystals_of(part, *of_run))
    return counts


def _cut(counts: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Cut the crystals into blocks of about `most` observations: the first of each block, and the number of all."""
    block = np.cumsum(counts) // most if counts.sum() > most else np.zeros(len(counts), dtype=np.int64)
    return np.concatenate([[0], np.flatnonzero(np.diff(block)) + 1, [len(counts)]]).astype(np.int64)


def _portions(parts: Iterator[Any], most: int) -> Iterator[Any]:
    """The rows of some tables in tables of `most` rows."""
    waiting: list[Any] = []
    n = 0
    for part in parts:
        while n + len(part) >= most:
            yield pa.concat_tables([*waiting, part.slice(0, most - n)])
            waiting, part, n = [], part.slice(most - n), 0
        waiting, n = [*waiting, part], n + len(part)
    if n:
        yield pa.concat_tables(waiting)


def _crystals_of(
    table: Any, keys: NDArray[np.int64], numbers: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the crystals that the rows are of, and how many rows in sequence each has."""
    key = keys_of(column(table, "frame", np.int64), column(table, "crystal", np.int64))
    # Rows of a crystal follow each other, so one search is enough for many.
    heads = np.flatnonzero(np.diff(key, prepend=-1))
    place = np.minimum(np.searchsorted(keys, key[heads]), max(len(keys) - 1, 0))
    if len(heads) and (not len(keys) or np.any(keys[place] != key[heads])):
        raise RunError("reflections belong to no crystal of the run", remedy="process the run again")
    return numbers[place], np.diff(heads, append=len(key))


def _pack(hkl: NDArray[np.integer]) -> NDArray[np.int64]:
    wide = hkl.astype(np.int64) + _INDEX_LIMIT + 1
    return (wide[:, 0] << (2 * _INDEX_BITS)) | (wide[:, 1] << _INDEX_BITS) | wide[:, 2]


def _unpack(packed: NDArray[np.int64]) -> NDArray[np.int32]:
    wide = np.stack([packed >> (2 * _INDEX_BITS), (packed >> _INDEX_BITS) & _MASK, packed & _MASK], axis=1)
    return (wide - _INDEX_LIMIT - 1).astype(np.int32)


def _unique_reflections(
    hkl: NDArray[np.int32], point_group: PointGroup
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Packed indices as measured, (n,), the unique hkl, (m, 3), and which of them each observation is, (n,)."""
    if len(hkl) and np.abs(hkl).max() > _INDEX_LIMIT:
        raise MergeError("indices are beyond what is possible", found=int(np.abs(hkl).max()), expected=_INDEX_LIMIT)
    packed = _pack(hkl)
    distinct, which = _distinct(hkl, packed)
    unique, place = np.unique(_pack(point_group.asu(distinct)), return_inverse=True)
    return packed, _unpack(unique), place.astype(np.int32)[which]


def _distinct(hkl: NDArray[np.int32], packed: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The distinct hkl, (m, 3), and which of them each is: marked in a box that holds all, without sorting."""
    low = hkl.min(axis=0, initial=0)
    size = hkl.max(axis=0, initial=0) - low + 1
    if np.prod(size, dtype=np.float64) > _LARGEST_BOX:
        # Arrow finds the distinct values by hashing, many times faster than numpy by sorting.
        encoded = pa.array(packed).dictionary_encode()
        return _unpack(encoded.dictionary.to_numpy()), encoded.indices.to_numpy()
    h, k, l = (hkl[:, i] - low[i] for i in range(3))  # noqa: E741  the field's name for it
    place = (h * size[1] + k) * size[2] + l
    there = np.zeros(int(np.prod(size)), dtype=np.int32)
    there[place] = 1
    distinct = np.stack(np.unravel_index(np.flatnonzero(there), size), axis=1) + low
    return distinct.astype(np.int32), (np.cumsum(there, dtype=np.int32) - 1)[place]
