"""Observations of all crystals of some runs, in the order and with the numbers that merging needs."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfxlab.crystal import PointGroup, UnitCell, resolution_of, symmetrise
from sfxlab.errors import MergeError, RunError
from sfxlab.geometry import HC_EV_ANGSTROM
from sfxlab.merging.polarisation import Polarisation, polarisation_factors

# Indices are packed into 12 bits each, and beside them 27 bits are left for the number of the crystal.
_INDEX_BITS, _INDEX_LIMIT = 12, 2047


class ProcessedRun(Protocol):
    """What merging needs of a run: three Arrow tables."""

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
        frame = f"{self.file_name} {self.event}".encode()
        return hashlib.blake2b(frame, digest_size=1).digest()[0] & 1

    def __str__(self) -> str:
        return f"{self.path} {self.event}, crystal {self.number}"


@dataclass(frozen=True)
class Observations:
    """Intensities of many crystals: observations are sorted by crystal, then by hkl."""

    crystals: tuple[CrystalId, ...]
    """Sorted, so that results do not depend on the order in which crystals come."""
    offsets: NDArray[np.int64]
    """Observations `offsets[i]` to `offsets[i + 1]` are those of crystal i, (n_crystals + 1,)."""
    hkl: NDArray[np.int32]
    """The unique reflections, (n_reflections, 3), in the asymmetric unit, sorted."""
    resolution: NDArray[np.float64]
    """1/d of the unique reflections in `cell`, (n_reflections,), 1/Å."""
    reflection: NDArray[np.int32]
    """Row of `hkl` of each observation, (n,)."""
    intensity: NDArray[np.float64]
    """Corrected for polarisation, (n,)."""
    sigma: NDArray[np.float64]
    """Standard error of `intensity` by counting, (n,)."""
    cell: UnitCell
    point_group: PointGroup
    wavelength: float
    """Mean over the crystals, Å; NaN where it is unknown."""
    dropped: Mapping[str, int]
    """How many observations were left out, by reason."""
    excluded: tuple[tuple[CrystalId, str], ...] = ()
    """Crystals that were left out, with the reason."""

    def __len__(self) -> int:
        return len(self.intensity)

    @property
    def crystal(self) -> NDArray[np.int32]:
        """Number of the crystal of each observation, (n,)."""
        return np.repeat(np.arange(len(self.crystals), dtype=np.int32), np.diff(self.offsets))

    @property
    def half(self) -> NDArray[np.uint8]:
        """The half data set of each crystal, (n_crystals,)."""
        return np.array([crystal.half for crystal in self.crystals], dtype=np.uint8)


@dataclass(frozen=True)
class _Crystals:
    """The crystals of all runs, sorted."""

    ids: list[CrystalId]
    cells: NDArray[np.float64]
    lattices: list[tuple[str, str, str | None]]
    basis: NDArray[np.float64]
    photon_energy: NDArray[np.float64]
    keys: list[NDArray[np.int64]]
    """For each run the sorted keys of its crystals, and in `numbers` which crystals these are."""
    numbers: list[NDArray[np.int64]]


def gather(
    runs: Sequence[ProcessedRun],
    point_group: PointGroup,
    *,
    cell: UnitCell | None = None,
    d_min: float | None = None,
    d_max: float | None = None,
    polarisation: Polarisation | None = None,
) -> Observations:
    """Collect what runs have observed.

    Left out, and counted, are saturated observations, those without a finite intensity and a positive sigma, those
    that the centring forbids, those outside `d_min` and `d_max` (Å), and crystals of another lattice. Without `cell`
    the lattice is the most frequent one and its parameters are the medians over its crystals.

    Raises `MergeError` where nothing is left, where a frame is in two runs, or where a crystal of a run has no photon
    energy to correct polarisation with; `CellError` where the point group does not suit the cell.
    """
    crystals = _collect_crystals(runs)
    cell, of_lattice = _choose_cell(crystals, cell)
    point_group.check_cell(cell)
    if polarisation is not None:
        _check_energies(crystals)
    parts = [_read_run(run, i, crystals, polarisation) for i, run in enumerate(runs)]
    crystal, hkl, intensity, sigma, saturated = (np.concatenate([p[i] for p in parts]) for i in range(len(parts[0])))
    packed, unique, reflection = _unique_reflections(hkl, point_group)
    resolution = resolution_of(cell, unique)
    # A reflection is inside or outside for all crystals alike.
    low, high = 0.0 if d_max is None else 1 / d_max, np.inf if d_min is None else 1 / d_min
    keep, dropped = _usable(
        {
            "saturated": saturated,
            "no finite intensity, or no positive sigma": ~(np.isfinite(intensity) & np.isfinite(sigma) & (sigma > 0)),
            "forbidden by the centring": ~cell.allows(unique)[reflection],
            "beyond the limits of resolution": ((resolution < low) | (resolution > high))[reflection],
            "crystal of another lattice": ~of_lattice[crystal],
        }
    )
    rows = np.flatnonzero(keep)
    rows = rows[np.argsort((crystal[rows] << (3 * _INDEX_BITS)) | packed[rows], kind="stable")]
    present, reflection = np.unique(reflection[rows], return_inverse=True)
    return Observations(
        crystals=tuple(crystals.ids),
        offsets=np.searchsorted(crystal[rows], np.arange(len(crystals.ids) + 1)).astype(np.int64),
        hkl=unique[present],
        resolution=resolution[present],
        reflection=reflection.astype(np.int32),
        intensity=intensity[rows],
        sigma=sigma[rows],
        cell=cell,
        point_group=point_group,
        wavelength=_mean_wavelength(crystals),
        dropped=dropped,
        excluded=tuple(
            (crystals.ids[i], "its lattice is {} {}".format(*crystals.lattices[i][:2]))
            for i in np.flatnonzero(~of_lattice)
        ),
    )


def _usable(reasons: Mapping[str, NDArray[np.bool_]]) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Which observations no reason speaks against, (n,), and how many others there are, by their first reason."""
    keep = ~np.zeros_like(next(iter(reasons.values())))
    dropped = {}
    for reason, bad in reasons.items():
        dropped[reason] = int(np.count_nonzero(keep & bad))
        keep &= ~bad
    if not keep.any():
        raise MergeError(
            "no observations are left to merge",
            found=", ".join(f"{reason}: {n}" for reason, n in dropped.items() if n) or "no observations at all",
            remedy="check d_min, d_max and the cell, or whether the run has indexed frames",
        )
    return keep, dropped


def _collect_crystals(runs: Sequence[ProcessedRun]) -> _Crystals:
    """The crystals of all runs, sorted by the names of their frames."""
    ids: list[CrystalId] = []
    energies: list[float] = []
    owner: list[tuple[int, int]] = []
    run_of_frame: dict[tuple[str, str], int] = {}
    tables = [run.crystals for run in runs]
    for i, (run, table) in enumerate(zip(runs, tables, strict=True)):
        for crystal, key, energy in _identities(run.frames, table):
            if run_of_frame.setdefault((crystal.path, crystal.event), i) != i:
                raise MergeError(
                    "a frame is in two of the runs and would count twice",
                    found=f"{crystal.path} {crystal.event}",
                    remedy="merge only one of the runs that hold it",
                )
            ids.append(crystal)
            energies.append(energy)
            owner.append((i, key))
    if not ids:
        raise MergeError("there are no crystals to merge", remedy="index the run first")
    order = sorted(range(len(ids)), key=lambda j: (ids[j], owner[j]))
    keys, numbers = [], []
    for i in range(len(runs)):
        mine = sorted((owner[j][1], new) for new, j in enumerate(order) if owner[j][0] == i)
        keys.append(np.array([key for key, _ in mine], dtype=np.int64))
        numbers.append(np.array([new for _, new in mine], dtype=np.int64))
    lattices = [kind for table in tables for kind in _lattices(table)]
    # Rows x, y, z; columns a*, b*, c*.
    basis = _matrix(tables, [f"{axis}star_{x}" for x in "xyz" for axis in "abc"]).reshape(-1, 3, 3)
    return _Crystals(
        ids=[ids[j] for j in order],
        cells=_matrix(tables, ["a", "b", "c", "alpha", "beta", "gamma"])[order],
        lattices=[lattices[j] for j in order],
        basis=np.ascontiguousarray(basis[order]),
        photon_energy=np.array(energies, dtype=np.float64)[order],
        keys=keys,
        numbers=numbers,
    )


def _identities(frames: Any, crystals: Any) -> Iterator[tuple[CrystalId, int, float]]:
    """Name, key and photon energy (eV) of each row of a run's table of crystals."""
    columns = frames.select(["frame", "path", "event", "photon_energy"]).to_pydict()
    row_of = {frame: row for row, frame in enumerate(columns["frame"])}
    for frame, number in zip(*(crystals.column(name).to_pylist() for name in ("frame", "crystal")), strict=True):
        row = row_of.get(frame)
        if row is None:
            raise RunError("a crystal belongs to no frame", found=f"frame {frame}", remedy="process the run again")
        path, event = columns["path"][row], columns["event"][row]
        crystal = CrystalId(PurePath(path).name, event, path, number)
        yield crystal, (frame << 16) | number, columns["photon_energy"][row]


def _lattices(crystals: Any) -> Iterator[tuple[str, str, str | None]]:
    columns = (crystals.column(name).to_pylist() for name in ("lattice_type", "centring", "unique_axis"))
    for lattice_type, centring, axis in zip(*columns, strict=True):
        yield lattice_type, centring, axis if axis in ("a", "b", "c") else None


def _choose_cell(crystals: _Crystals, cell: UnitCell | None) -> tuple[UnitCell, NDArray[np.bool_]]:
    """The cell to merge with, and which crystals have its lattice, (n_crystals,)."""
    if cell is None:
        counts = Counter(crystals.lattices)
        lattice = max(counts, key=lambda kind: (counts[kind], str(kind)))
    else:
        lattice = (cell.lattice_type, cell.centring, cell.unique_axis)
    of_lattice = np.array([_same_lattice(kind, lattice) for kind in crystals.lattices])
    if not of_lattice.any():
        raise MergeError(
            "no crystal has the lattice of the cell",
            found=", ".join(sorted({f"{t} {c}, unique axis {u}" for t, c, u in crystals.lattices})),
            expected=cell,
        )
    if cell is None:
        lattice_type, centring, axis = lattice
        medians = np.median(crystals.cells[of_lattice], axis=0)
        a, b, c, alpha, beta, gamma = medians.tolist()
        cell = UnitCell(a, b, c, alpha, beta, gamma, lattice_type, centring, axis)  # type: ignore[arg-type]
        # Four decimals are what an MTZ file keeps; merged data are to have the same cell before and after.
        cell = cell.with_parameters(np.round(symmetrise(medians, cell), 4))
    return cell, of_lattice


def _same_lattice(one: tuple[str, str, str | None], other: tuple[str, str, str | None]) -> bool:
    """Whether lattice type, centring and unique axis agree; a unique axis that is not known agrees with any."""
    return one[:2] == other[:2] and (one[2] == other[2] or one[2] is None or other[2] is None)


def _mean_wavelength(crystals: _Crystals) -> float:
    energies = crystals.photon_energy[crystals.photon_energy > 0]
    return float(HC_EV_ANGSTROM / energies.mean()) if len(energies) else float("nan")


def _check_energies(crystals: _Crystals) -> None:
    bad = np.flatnonzero(~(crystals.photon_energy > 0))
    if len(bad):
        raise MergeError(
            "polarisation cannot be corrected without a photon energy",
            found=f"{len(bad)} crystals have none, the first is {crystals.ids[bad[0]]}",
            remedy="merge with polarisation 'none', or process with a photon energy in the geometry",
        )


def _read_run(
    run: ProcessedRun, index: int, crystals: _Crystals, polarisation: Polarisation | None
) -> tuple[NDArray[Any], ...]:
    """Crystal number, hkl, corrected intensity and sigma, saturation of all observations of a run."""
    table = run.reflections
    key = (_column(table, "frame", np.int64) << 16) | _column(table, "crystal", np.int64)
    keys = crystals.keys[index]
    place = np.minimum(np.searchsorted(keys, key), max(len(keys) - 1, 0))
    if len(key) and (not len(keys) or np.any(keys[place] != key)):
        raise RunError("reflections belong to no crystal of the run", remedy="process the run again")
    crystal = crystals.numbers[index][place]
    hkl = np.stack([_column(table, name, np.int32) for name in "hkl"], axis=1)
    intensity, sigma = _column(table, "intensity", np.float64), _column(table, "sigma", np.float64)
    if polarisation is not None:
        wavenumber = crystals.photon_energy / HC_EV_ANGSTROM
        factor = polarisation_factors(crystal, hkl, crystals.basis, wavenumber, polarisation)
        # Along the field itself nothing is scattered; what was measured there is noise.
        factor = np.where(factor > 1e-3, factor, np.nan)
        intensity, sigma = intensity / factor, sigma / factor
    return crystal, hkl, intensity, sigma, _column(table, "saturated", np.bool_)


def _unique_reflections(
    hkl: NDArray[np.int32], point_group: PointGroup
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """Packed indices as measured, (n,), the unique hkl, (m, 3), and which of them each observation is, (n,)."""
    if len(hkl) and np.abs(hkl).max() > _INDEX_LIMIT:
        raise MergeError("indices are beyond what is possible", found=int(np.abs(hkl).max()), expected=_INDEX_LIMIT)
    wide = hkl.astype(np.int64) + _INDEX_LIMIT + 1
    packed = (wide[:, 0] << (2 * _INDEX_BITS)) | (wide[:, 1] << _INDEX_BITS) | wide[:, 2]
    # Arrow finds the distinct values by hashing, many times faster than numpy by sorting.
    encoded = pa.array(packed).dictionary_encode()
    distinct, which = encoded.dictionary.to_numpy(), encoded.indices.to_numpy()
    mask = (1 << _INDEX_BITS) - 1
    measured = np.stack([distinct >> (2 * _INDEX_BITS), (distinct >> _INDEX_BITS) & mask, distinct & mask], axis=1)
    unique, place = np.unique(point_group.asu(measured - _INDEX_LIMIT - 1), axis=0, return_inverse=True)
    return packed, unique, place.reshape(-1)[which]


def _column(table: Any, name: str, kind: type[np.generic]) -> NDArray[Any]:
    return np.asarray(table.column(name).to_numpy(), dtype=kind)


def _matrix(tables: Sequence[Any], names: list[str]) -> NDArray[np.float64]:
    """Columns of all tables, one table below the other."""
    return np.concatenate([np.stack([_column(t, name, np.float64) for name in names], axis=1) for t in tables])
