"""The cells of a run's crystals: histograms that are linked, what ranges of them select, fits and proposals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfxlab.crystal import UnitCell
from sfxlab.crystal.cell_clusters import MAX_STRAIN, CellCluster, cell_clusters, lattice_strain
from sfxlab.crystal.cell_file import write_cell
from sfxlab.crystal.distribution import PARAMETERS, CellDistribution, cell_distribution
from sfxlab.crystal.lattice_symmetry import niggli_basis
from sfxlab.errors import CellError, OutputExistsError
from sfxlab.store import Run
from sfxlab.widgets.models.numbers import number, numbers

Ranges = Mapping[str, Sequence[float]]
"""Least and greatest value of some of a, b, c (Å), alpha, beta, gamma (degrees)."""
GroupBy = Literal["centring", "cluster"]

MOST_CLUSTERED = 1000
"""From so many crystals, the best ones, clusters are found; the others join the nearest."""
MOST_GROUPS = 6
_N_BINS = 60
_LABELS = dict(zip(PARAMETERS, ("a", "b", "c", "α", "β", "γ"), strict=True))
_BASIS = tuple(f"{axis}star_{component}" for axis in "abc" for component in "xyz")
COLUMNS = ("frame", *PARAMETERS, "lattice_type", "centring", "unique_axis", *_BASIS, "log10_p")
"""Of the table of crystals."""


@dataclass(frozen=True)
class Groups:
    """Which group each crystal belongs to."""

    names: tuple[str, ...]
    of: NDArray[np.int64]
    """(n,), into `names`."""


@dataclass(frozen=True)
class Proposal:
    """A cell that could be the one to process with."""

    cell: UnitCell
    n_crystals: int
    deviation: NDArray[np.float64]
    """Robust standard deviation of a, b, c (Å), α, β, γ (degrees), (6,)."""
    why: str


@dataclass(frozen=True, eq=False)
class CrystalCells:
    """The cells of crystals, in the order of `Run.crystals`."""

    table: pa.Table = field(repr=False)
    """The columns `COLUMNS`."""

    @classmethod
    def of_run(cls, run: Run) -> CrystalCells:
        """Those of a run so far. Raises `RunError`."""
        return cls(run.table("crystals", COLUMNS).combine_chunks())

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def parameters(self) -> NDArray[np.float64]:
        """a, b, c (Å), α, β, γ (degrees), (n, 6)."""
        return np.stack([self.table[name].to_numpy() for name in PARAMETERS], axis=1)

    @cached_property
    def lattices(self) -> Groups:
        """Crystals by lattice type and centring, the most frequent first."""
        names = ("lattice_type", "centring", "unique_axis")
        columns = [self.table[name].fill_null("").to_pylist() for name in names]
        return _by_frequency([" ".join(filter(None, kind[:2])) for kind in zip(*columns, strict=True)])

    @cached_property
    def bases(self) -> NDArray[np.float64]:
        """Real axes of the reduced primitive cells, rows in Å, (n, 3, 3)."""
        reciprocal = np.stack([self.table[name].to_numpy() for name in _BASIS], axis=1).reshape(-1, 3, 3)
        real = np.linalg.inv(reciprocal.transpose(0, 2, 1))
        for i, name in enumerate(self.lattices.names):
            rows = np.flatnonzero(self.lattices.of == i)
            if name:
                real[rows] = self.lattice_of(rows).primitive_transform @ real[rows]
        return np.array([niggli_basis(basis) for basis in real]).reshape(-1, 3, 3)

    @cached_property
    def clusters(self) -> Groups:
        """Crystals by the cell that they share, whatever their axes are called (METHODS.md section 4.9)."""
        best = np.argsort(self.table["log10_p"].to_numpy(), kind="stable")[:MOST_CLUSTERED]
        found = cell_clusters(self.bases[best])[: MOST_GROUPS - 1]
        of = np.full(len(self), len(found), dtype=np.int64)
        centres = [niggli_basis(_primitive(cluster.cell)) for cluster in found]
        for i, cluster in enumerate(found):
            of[best[cluster.members]] = i
        for row in np.setdiff1d(np.arange(len(self)), best):
            strains = [lattice_strain(centre, self.bases[row])[0] for centre in centres]
            nearest = int(np.argmin(strains)) if strains else 0
            if strains and strains[nearest] < MAX_STRAIN:
                of[row] = nearest
        names = [f"{chr(ord('A') + i)}: {_short(cluster.cell)}" for i, cluster in enumerate(found)]
        return Groups((*names, "other"), of)

    def groups(self, by: GroupBy) -> Groups:
        """One of the two ways to tell crystals apart."""
        return self.clusters if by == "cluster" else self.lattices

    def passing(self, ranges: Ranges, leaving_out: str = "") -> NDArray[np.bool_]:
        """Which crystals are within all ranges, but for the one of one parameter. Raises `CellError`."""
        unknown = sorted(set(ranges) - set(PARAMETERS))
        if unknown:
            raise CellError("unknown cell parameters", found=", ".join(unknown), expected=", ".join(PARAMETERS))
        passing = np.ones(len(self), dtype=bool)
        for name, (low, high) in ranges.items():
            if name != leaving_out:
                values = self.parameters[:, PARAMETERS.index(name)]
                passing &= (values >= low) & (values <= high)
        return passing

    def lattice_of(self, rows: NDArray[np.integer]) -> UnitCell:
        """The cell of the first of some crystals that are of the lattice that most of them have."""
        of = self.lattices.of[rows]
        row = int(rows[np.flatnonzero(of == np.bincount(of).argmax())[0]])
        kind = {name: self.table[name][row].as_py() for name in ("lattice_type", "centring", "unique_axis")}
        return UnitCell(*self.parameters[row].tolist(), **{**kind, "unique_axis": kind["unique_axis"] or None})

    def fit(self, chosen: NDArray[np.bool_]) -> CellDistribution:
        """Mean and spread of the chosen crystals that have the most frequent lattice among them. Raises `CellError`."""
        rows = np.flatnonzero(chosen)
        if not len(rows):
            raise CellError("no crystal is selected", remedy="make the ranges wider")
        lattice = self.lattice_of(rows)
        of = self.lattices.of[rows]
        return cell_distribution(self.parameters[rows[of == np.bincount(of).argmax()]], lattice)

    def propose(self, chosen: NDArray[np.bool_]) -> list[Proposal]:
        """Cells for the chosen crystals: their mean as it is indexed, then what their lattices share and its symmetry.

        Raises `CellError` where nothing is chosen.
        """
        fitted = self.fit(chosen)
        first = Proposal(fitted.cell, fitted.n_typical, fitted.deviation, "mean of the typical crystals")
        rows = np.flatnonzero(chosen)
        best = rows[np.argsort(self.table["log10_p"].to_numpy()[rows], kind="stable")[:MOST_CLUSTERED]]
        clusters = [c for c in cell_clusters(self.bases[best]) if len(c.members) >= max(2, 0.02 * len(best))]
        return [first, *(_of_cluster(cluster, len(best)) for cluster in clusters[:MOST_GROUPS])]


@dataclass(frozen=True)
class Histograms:
    """Of six parameters, over the same crystals."""

    edges: dict[str, NDArray[np.float64]]
    counts: dict[str, NDArray[np.int64]]
    """Crystals within the ranges of the other parameters, (n_groups, n_bins)."""
    every: dict[str, NDArray[np.int64]]
    """All crystals, (n_bins,)."""
    groups: tuple[str, ...]


def histograms(
    cells: CrystalCells,
    ranges: Ranges,
    by: GroupBy = "centring",
    among: NDArray[np.bool_] | None = None,
    near: NDArray[np.bool_] | None = None,
) -> Histograms:
    """Histograms of crystals, `among` some of them, in limits that show those that are in `near`."""
    groups = cells.groups(by)
    names = (*groups.names[: MOST_GROUPS - 1], "other") if len(groups.names) > MOST_GROUPS else groups.names
    of = np.minimum(groups.of, len(names) - 1)
    edges, counts, every = {}, {}, {}
    for i, name in enumerate(PARAMETERS):
        values = cells.parameters[:, i]
        low, high = _limits(values if near is None or not near.any() else values[near], least=0.01 if i < 3 else 0.05)
        edges[name] = np.linspace(low, high, _N_BINS + 1)
        inside = (values >= low) & (values <= high)
        place = np.minimum(((values - low) / (high - low) * _N_BINS).astype(np.int64), _N_BINS - 1)
        chosen = inside & cells.passing(ranges, leaving_out=name)
        if among is not None:
            chosen &= among
        flat = np.bincount(of[chosen] * _N_BINS + place[chosen], minlength=len(names) * _N_BINS)
        counts[name], every[name] = flat.reshape(len(names), _N_BINS), np.bincount(place[inside], minlength=_N_BINS)
    return Histograms(edges, counts, every, names)


def drawn(found: Histograms, fit: CellDistribution | None) -> dict[str, Any]:
    """Histograms and a fit as JSON carries them."""
    shown = {
        name: {
            "label": _LABELS[name], "unit": "Å" if name in "abc" else "°", "edges": numbers(found.edges[name], 8),
            "counts": found.counts[name].tolist(), "every": found.every[name].tolist(),
        }
        for name in PARAMETERS
    }  # fmt: skip
    fitted = None
    if fit is not None:
        fitted = {
            "cell": _short(fit.cell), "n": fit.n_crystals, "n_typical": fit.n_typical,
            "mean": dict(zip(PARAMETERS, numbers(np.array(fit.cell.parameters), 7), strict=True)),
            "median": dict(zip(PARAMETERS, numbers(fit.median, 7), strict=True)),
            "deviation": dict(zip(PARAMETERS, numbers(fit.deviation, 3), strict=True)),
        }  # fmt: skip
    return {"parameters": shown, "groups": list(found.groups), "fit": fitted}


def why_of(ranges: Ranges) -> str:
    """The ranges in words; empty where there are none."""
    return ", ".join(
        f"{_LABELS[name]} {number(low, 6):g}–{number(high, 6):g} {'Å' if name in 'abc' else '°'}"
        for name, (low, high) in sorted(ranges.items(), key=lambda item: PARAMETERS.index(item[0]))
    )


def save(cell: UnitCell, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write a `.cell` file. Raises `OutputExistsError`, or `RunError` where it cannot be written."""
    path = Path(path).expanduser()
    path = path if path.suffix else path.with_suffix(".cell")
    if path.exists() and not overwrite:
        raise OutputExistsError("there is a file of this name already", path=path, remedy="give another name")
    write_cell(cell, path)
    return path.absolute()


def _of_cluster(cluster: CellCluster, n: int) -> Proposal:
    share = len(cluster.members) / n
    return Proposal(cluster.cell, len(cluster.members), cluster.deviation, f"lattices that are alike, {share:.0%}")


def _primitive(cell: UnitCell) -> NDArray[np.float64]:
    return np.asarray(cell.primitive_transform @ np.linalg.inv(cell.reciprocal_basis))


def _short(cell: UnitCell) -> str:
    lengths, angles = ", ".join(f"{x:.2f}" for x in cell.lengths), ", ".join(f"{x:.2f}" for x in cell.angles)
    return f"{lengths} Å, {angles}°, {cell.lattice_type} {cell.centring}"


def _by_frequency(kinds: Sequence[str]) -> Groups:
    names, of, counts = np.unique(np.array(kinds, dtype=object).astype(str), return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return Groups(tuple(names[order].tolist()), rank[of.reshape(-1)] if len(names) else np.zeros(0, dtype=np.int64))


def _limits(values: NDArray[np.float64], least: float) -> tuple[float, float]:
    """Where nearly all values are, with room on both sides; never narrower than `least` on each side."""
    if not len(values):
        return 0.0, 1.0
    low, high = np.percentile(values, [0.5, 99.5])
    room = max(0.15 * (high - low), least)
    return float(low - room), float(high + room)
