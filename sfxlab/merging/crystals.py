"""The crystals of some runs: who they are, their cells, and which of them belong together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePath
from typing import Any, Protocol, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfxlab.crystal import UnitCell, symmetrise
from sfxlab.errors import MergeError, RunError
from sfxlab.geometry import HC_EV_ANGSTROM

_PARAMETERS = ["a", "b", "c", "alpha", "beta", "gamma"]
_LATTICE = ["lattice_type", "centring", "unique_axis"]
# Rows x, y, z; columns a*, b*, c*.
_BASIS = [f"{axis}star_{x}" for x in "xyz" for axis in "abc"]

_AT_ONCE = 1 << 16
_ARRAYS = ("cells", "basis", "photon_energy", "resolution_limit", "run", "frame")

Lattice = tuple[str, str, str | None]
"""Lattice type, centring and unique axis."""


class ProcessedRun(Protocol):
    """What merging needs of a run: three Arrow tables. A run that is larger than the memory has `parts` besides."""

    @property
    def frames(self) -> Any:
        """Columns frame, path, event, photon_energy (eV)."""
        ...

    @property
    def crystals(self) -> Any:
        """Columns frame, crystal, a … gamma (Å, °), lattice_type, centring, unique_axis, astar_x … cstar_z (1/Å)."""
        ...

    @property
    def reflections(self) -> Any:
        """Columns frame, crystal, h, k, l, intensity, sigma, saturated."""
        ...


@dataclass(frozen=True, order=True)
class CrystalId:
    """Which crystal of which frame."""

    file_name: str
    event: str
    path: str
    number: int
    """Number of the crystal within its frame."""

    @property
    def half(self) -> int:
        """The half data set, 0 or 1, that this crystal belongs to.

        It follows from the name of the file and the event alone, so all crystals of a frame are in the same half,
        and stay there when data are processed again, moved or added (METHODS.md 7.8).
        """
        return _half(self.file_name, self.event)

    def __str__(self) -> str:
        return f"{self.path} {self.event}, crystal {self.number}"


@dataclass(frozen=True)
class CrystalIds(Sequence[CrystalId]):
    """The names of many crystals, in columns."""

    paths: tuple[str, ...]
    path: NDArray[np.int32]
    """Which of `paths` each crystal is of, (n,)."""
    event: Any
    """Arrow array of strings, (n,)."""
    number: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.path)

    @overload
    def __getitem__(self, index: int) -> CrystalId: ...
    @overload
    def __getitem__(self, index: slice) -> CrystalIds: ...
    def __getitem__(self, index: int | slice) -> CrystalId | CrystalIds:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        path = self.paths[self.path[index]]
        return CrystalId(PurePath(path).name, self.event[int(index)].as_py(), path, int(self.number[index]))

    def take(self, which: NDArray[np.integer]) -> CrystalIds:
        """Those of the crystals, in that order."""
        return CrystalIds(self.paths, self.path[which], self.event.take(pa.array(which)), self.number[which])

    @cached_property
    def half(self) -> NDArray[np.uint8]:
        """The half data set of each crystal, (n,)."""
        names, halves = [PurePath(path).name for path in self.paths], []
        # All names of millions of crystals as Python strings would take more memory than all else about them.
        for start in range(0, len(self), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            frames = zip(self.path[some].tolist(), self.event[some].to_pylist(), strict=True)
            halves.append(np.fromiter((_half(names[path], event) for path, event in frames), dtype=np.uint8))
        return np.concatenate(halves) if halves else np.zeros(0, dtype=np.uint8)

    def sorted_order(self) -> NDArray[np.int64]:
        """What brings them into the order of file name, event, path and number, whatever run they are of."""
        name = [PurePath(path).name for path in self.paths]
        ranks = {key: rank for rank, key in enumerate(sorted(set(name)))}
        path_ranks = {key: rank for rank, key in enumerate(sorted(self.paths))}
        columns = {
            "file": np.array([ranks[n] for n in name], dtype=np.int32)[self.path],
            "event": self.event,
            "path": np.array([path_ranks[p] for p in self.paths], dtype=np.int32)[self.path],
            "number": self.number,
        }
        order = pc.sort_indices(pa.table(columns), sort_keys=[(key, "ascending") for key in columns])
        return np.asarray(order.to_numpy(), dtype=np.int64)


@dataclass(frozen=True)
class Crystals:
    """The crystals of all runs, sorted."""

    ids: CrystalIds
    cells: NDArray[np.float64]
    """a, b, c (Å), α, β, γ (°), (n, 6)."""
    lattices: tuple[Lattice, ...]
    """The kinds of lattices there are."""
    lattice: NDArray[np.int32]
    """Which of `lattices` each crystal has, (n,)."""
    basis: NDArray[np.float64]
    """(n, 3, 3); columns a*, b*, c*, 1/Å."""
    photon_energy: NDArray[np.float64]
    """eV, (n,)."""
    resolution_limit: NDArray[np.float64]
    """1/Å, (n,); NaN where the run does not say."""
    run: NDArray[np.int32]
    """Which run each crystal is of, (n,)."""
    frame: NDArray[np.int64]
    """Number of its frame in that run, (n,)."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def wavelength(self) -> float:
        """Mean over the crystals, Å; NaN where it is unknown."""
        energies = self.photon_energy[self.photon_energy > 0]
        return float(HC_EV_ANGSTROM / energies.mean()) if len(energies) else float("nan")

    def take(self, which: NDArray[np.integer]) -> Crystals:
        """Those of the crystals, in that order."""
        arrays: dict[str, Any] = {n: np.ascontiguousarray(getattr(self, n)[which]) for n in (*_ARRAYS, "lattice")}
        return replace(self, ids=self.ids.take(which), **arrays)

    def keys(self, run: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The sorted keys of a run's crystals, and the number of the crystal that each belongs to."""
        mine = np.flatnonzero(self.run == run)
        key = keys_of(self.frame[mine], self.ids.number[mine])
        order = np.argsort(key)
        return key[order], mine[order]

    def require_energies(self) -> None:
        """Raise `MergeError` where polarisation cannot be corrected."""
        bad = np.flatnonzero(~(self.photon_energy > 0))
        if len(bad):
            raise MergeError(
                "polarisation cannot be corrected without a photon energy",
                found=f"{len(bad)} crystals have none, the first is {self.ids[int(bad[0])]}",
                remedy="merge with polarisation 'none', or process with a photon energy in the geometry",
            )


def keys_of(frame: NDArray[np.integer], number: NDArray[np.integer]) -> NDArray[np.int64]:
    """One number for each crystal of a run."""
    return (frame.astype(np.int64) << 16) | number


def tables(run: ProcessedRun, name: str, columns: Sequence[str]) -> Iterator[Any]:
    """Some columns of one of the three tables, part by part where the run has parts."""
    parts = getattr(run, "parts", None)
    if parts is None:
        yield getattr(run, name).select(list(columns))
    else:
        yield from parts(name, list(columns))


def column(table: Any, name: str, kind: type[np.generic]) -> NDArray[Any]:
    """A column as an array."""
    return np.asarray(table.column(name).to_numpy(), dtype=kind)


def collect_crystals(runs: Sequence[ProcessedRun]) -> Crystals:
    """The crystals of all runs, sorted by the names of their frames.

    Raises `MergeError` where there are none or a frame is in two runs, `RunError` where a run contradicts itself.
    """
    crystals = sort_crystals(join_crystals([_of_run(run, number) for number, run in enumerate(runs)]))[0]
    if not len(crystals):
        raise MergeError("there are no crystals to merge", remedy="index the run first")
    return crystals


def join_crystals(parts: Sequence[Crystals]) -> Crystals:
    """The crystals of one part after those of the other."""
    if len(parts) == 1:
        return parts[0]
    lattices = tuple(sorted({kind for part in parts for kind in part.lattices}, key=str))
    lattice = [np.array([lattices.index(k) for k in p.lattices], dtype=np.int32)[p.lattice] for p in parts]
    return Crystals(
        ids=_joined_ids([part.ids for part in parts]),
        lattices=lattices,
        lattice=np.concatenate(lattice),
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS},
    )


def sort_crystals(crystals: Crystals) -> tuple[Crystals, NDArray[np.int64]]:
    """The crystals by file name, event, path and number, and which of those given each of them is.

    Raises `MergeError` where a frame is in two runs.
    """
    order = crystals.ids.sorted_order()
    if np.any(np.diff(order) != 1):
        crystals = crystals.take(order)
    # Crystals of one frame follow each other now.
    ids = crystals.ids
    same_event = pc.equal(ids.event.slice(1), ids.event.slice(0, max(len(ids) - 1, 0))).to_numpy(zero_copy_only=False)
    twice = same_event & (ids.path[1:] == ids.path[:-1]) & (crystals.run[1:] != crystals.run[:-1])
    if twice.any():
        crystal = ids[int(np.flatnonzero(twice)[0])]
        raise MergeError(
            "a frame is in two of the runs and would count twice",
            found=f"{crystal.path} {crystal.event}",
            remedy="merge only one of the runs that hold it",
        )
    return crystals, order


def _of_run(run: ProcessedRun, number: int) -> Crystals:
    """A run's crystals, in its order."""
    columns = ["frame", "crystal", *_PARAMETERS, *_LATTICE, *_BASIS]
    # Runs made by others need not know how far a crystal diffracts.
    limits = hasattr(run, "parts") or "resolution_limit" in run.crystals.column_names
    table = pa.concat_tables(list(tables(run, "crystals", [*columns, *(["resolution_limit"] * limits)])))
    frame = column(table, "frame", np.int64)
    frames = _frames(run, frame)
    path = pc.dictionary_encode(_one_chunk(frames["path"]))
    lattice, lattices = _lattices(table)
    return Crystals(
        ids=CrystalIds(
            paths=tuple(path.dictionary.to_pylist()),
            path=path.indices.to_numpy().astype(np.int32),
            event=_one_chunk(frames["event"]).cast(pa.string()),
            number=column(table, "crystal", np.int32),
        ),
        cells=np.stack([column(table, name, np.float64) for name in _PARAMETERS], axis=1),
        lattices=tuple(lattices),
        lattice=lattice,
        basis=np.stack([column(table, name, np.float64) for name in _BASIS], axis=1).reshape(-1, 3, 3),
        photon_energy=column(frames, "photon_energy", np.float64),
        resolution_limit=column(table, "resolution_limit", np.float64) if limits else np.full(len(frame), np.nan),
        run=np.full(len(frame), number, dtype=np.int32),
        frame=frame,
    )


def _frames(run: ProcessedRun, frame: NDArray[np.int64]) -> Any:
    """The row of the table of frames that each crystal belongs to; frames without crystals are not kept."""
    wanted = np.unique(frame)
    parts = []
    for part in tables(run, "frames", ["frame", "path", "event", "photon_energy"]):
        numbers = column(part, "frame", np.int64)
        near = np.minimum(np.searchsorted(wanted, numbers), max(len(wanted) - 1, 0))
        parts.append(part.filter(pa.array(wanted[near] == numbers if len(wanted) else np.zeros(len(numbers), bool))))
    table = pa.concat_tables(parts).combine_chunks()
    numbers = column(table, "frame", np.int64)
    order = np.argsort(numbers, kind="stable")
    place = order[np.minimum(np.searchsorted(numbers[order], frame), max(len(order) - 1, 0))] if len(order) else order
    strangers = frame[numbers[place] != frame] if len(order) else frame
    if len(strangers):
        raise RunError("a crystal belongs to no frame", found=f"frame {strangers[0]}", remedy="process the run again")
    return table.take(pa.array(place))


def _lattices(table: Any) -> tuple[NDArray[np.int32], list[Lattice]]:
    """Which kind of lattice each row has, and the kinds."""
    names = [_one_chunk(table.column(name).cast(pa.string())) for name in _LATTICE]
    filled = [pc.fill_null(name, "") for name in names]
    encoded = pc.dictionary_encode(pc.binary_join_element_wise(*filled, " "))
    kinds: list[Lattice] = []
    for text in encoded.dictionary.to_pylist():
        lattice_type, centring, axis = text.split(" ")
        kinds.append((lattice_type, centring, axis if axis in ("a", "b", "c") else None))
    return encoded.indices.to_numpy().astype(np.int32), kinds


def _one_chunk(values: Any) -> Any:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _joined_ids(parts: Sequence[CrystalIds]) -> CrystalIds:
    paths = sorted({path for part in parts for path in part.paths})
    place = {path: index for index, path in enumerate(paths)}
    codes = [np.array([place[p] for p in part.paths], dtype=np.int32)[part.path] for part in parts]
    return CrystalIds(
        tuple(paths),
        np.concatenate(codes),
        pa.concat_arrays([part.event for part in parts]),
        np.concatenate([part.number for part in parts]),
    )


def choose_cell(
    crystals: Crystals, cell: UnitCell | None, length_tolerance: float, angle_tolerance: float
) -> tuple[UnitCell, dict[int, str]]:
    """The cell to merge with, and why some crystals cannot be merged in it, by their numbers.

    Without `cell` the lattice is the most frequent one, and its parameters are the medians over its crystals.
    Lengths may differ from it by `length_tolerance`, a fraction, and angles by `angle_tolerance`, degrees.
    Raises `MergeError` where no crystal fits.
    """
    if cell is None:
        counts = np.bincount(crystals.lattice, minlength=len(crystals.lattices))
        lattice = max(zip(counts.tolist(), crystals.lattices, strict=True), key=lambda item: (item[0], str(item[1])))[1]
    else:
        lattice = (cell.lattice_type, cell.centring, cell.unique_axis)
    of_lattice = np.array([_same_lattice(kind, lattice) for kind in crystals.lattices])[crystals.lattice]
    if not of_lattice.any():
        raise MergeError(
            "no crystal has the lattice of the cell",
            found=", ".join(f"{t} {c}, unique axis {u}" for t, c, u in crystals.lattices),
            expected=cell,
        )
    if cell is None:
        medians = np.median(crystals.cells[of_lattice], axis=0)
        a, b, c, alpha, beta, gamma = medians.tolist()
        cell = UnitCell(a, b, c, alpha, beta, gamma, *lattice)  # type: ignore[arg-type]
        # Four decimals are what an MTZ file keeps; merged data are to have the same cell before and after.
        cell = cell.with_parameters(np.round(symmetrise(medians, cell), 4))
    target = np.array(cell.parameters)
    near = np.all(np.abs(crystals.cells[:, :3] / target[:3] - 1) <= length_tolerance, axis=1)
    near &= np.all(np.abs(crystals.cells[:, 3:] - target[3:]) <= angle_tolerance, axis=1)
    if not (of_lattice & near).any():
        raise MergeError(
            "no crystal has this cell",
            found=f"the median over the crystals is {np.round(np.median(crystals.cells, axis=0), 2).tolist()}",
            expected=f"{cell}, lengths within {length_tolerance:.0%}, angles within {angle_tolerance:g}°",
            remedy="give the cell with -p, or merge runs of one crystal form only",
        )
    reasons = {}
    for i in np.flatnonzero(~(of_lattice & near)).tolist():
        if of_lattice[i]:
            reasons[i] = "its cell is " + " ".join(f"{value:.2f}" for value in crystals.cells[i])
        else:
            reasons[i] = "its lattice is {} {}".format(*crystals.lattices[crystals.lattice[i]][:2])
    return cell, reasons


def _same_lattice(one: Lattice, other: Lattice) -> bool:
    """Whether lattice type, centring and unique axis agree; a unique axis that is not known agrees with any."""
    return one[:2] == other[:2] and (one[2] == other[2] or one[2] is None or other[2] is None)


def _half(file_name: str, event: str) -> int:
    return hashlib.blake2b(f"{file_name} {event}".encode(), digest_size=1).digest()[0] & 1
