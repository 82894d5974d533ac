"""In which ways a lattice can be indexed that its point group tells apart: the indexing ambiguity.

A lattice may have more symmetry than the crystal, exactly (merohedry) or nearly (pseudo-merohedry). Then spots fit in
several ways, one for each coset of the crystal's point group in the symmetry of the lattice, and only intensities say
which one is right (Brehm & Diederichs 2014, Acta Cryst. D70, 101).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import gemmi
import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import PointGroup, UnitCell
from sfxlab.crystal.cell import parameters_of

MAX_OBLIQUITY = 2.0
"""Degrees. Axes that differ by 3.5 % in length, or angles by 2°, pass for the same: about what indexing forgives."""

_LETTERS = "hkl"


@dataclass(frozen=True)
class ReindexingOperators:
    """The ways to index a lattice that intensities have to decide between. The first one changes nothing."""

    matrices: NDArray[np.int32]
    """(n, 3, 3); `matrix @ hkl` are the indices as they should be, of hkl as they are."""
    misfit: NDArray[np.float64]
    """By how much each one changes 1/d at most, relative, (n,); 0 where the lattice has the symmetry exactly."""
    laue_group: PointGroup
    """Of the crystals. Friedel mates do not help to tell the ways apart."""

    def __len__(self) -> int:
        return len(self.matrices)

    @property
    def names(self) -> tuple[str, ...]:
        """As `k,h,-l`, what becomes of h, k and l."""
        return tuple(",".join(_term(row) for row in matrix.tolist()) for matrix in self.matrices)

    @property
    def is_ambiguous(self) -> bool:
        """Whether there is more than one way."""
        return len(self) > 1

    def reindexed(self, hkl: NDArray[np.integer], operator: NDArray[np.integer] | int) -> NDArray[np.int32]:
        """Indices as they should be: hkl (n, 3), the number of the operator of each or of all."""
        if isinstance(operator, int):
            return np.asarray(hkl @ self.matrices[operator].T, dtype=np.int32)
        return np.asarray(np.einsum("nij,nj->ni", self.matrices[operator], hkl), dtype=np.int32)

    @cached_property
    def common_changes(self) -> NDArray[np.int64]:
        """Changes that all crystals may undergo together, (m, n): operator k becomes `row[k]`.

        Intensities cannot tell these apart, as no crystal is indexed more rightly than all. They come from operators
        that keep the point group as it is; the first one changes nothing.
        """
        group = {m.tobytes() for m in self.laue_group.operations}
        rows = []
        for change in self.matrices:
            inverse = _inverse(change)
            if all((change @ m @ inverse).astype(np.int32).tobytes() in group for m in self.laue_group.operations):
                rows.append([self._number(change @ matrix) for matrix in self.matrices])
        return np.array(rows, dtype=np.int64)

    def _number(self, matrix: NDArray[np.integer]) -> int:
        """The operator that is equivalent to a matrix."""
        equivalent = {m.astype(np.int32).tobytes() for m in self.laue_group.operations @ matrix}
        return next(k for k, own in enumerate(self.matrices) if own.tobytes() in equivalent)


def ambiguity_operators(
    cell: UnitCell, point_group: PointGroup, max_obliquity: float = MAX_OBLIQUITY
) -> ReindexingOperators:
    """The ways to index a lattice that the point group tells apart.

    `max_obliquity` is by how many degrees a two-fold axis of the lattice may miss (Le Page 1982); 0.01 leaves only
    exact merohedry. Of each coset the simplest rotation is taken. Raises `CellError` where the point group does not
    suit the cell.
    """
    point_group.check_cell(cell)
    laue = point_group.laue_group
    reciprocal = _averaged_metric(cell, laue)
    centring = {"R": "P", "H": "R"}.get(cell.centring, cell.centring)
    symmetric = gemmi.UnitCell(*parameters_of(np.linalg.cholesky(np.linalg.inv(reciprocal))))
    operations = gemmi.find_lattice_symmetry(symmetric, centring, max_obliquity).sym_ops
    rotations = np.array([np.array(op.rot).T // gemmi.Op.DEN for op in operations], dtype=np.int32)
    proper = rotations[np.rint(np.linalg.det(rotations)) > 0]
    matrices: list[NDArray[np.int32]] = []
    covered: set[bytes] = set()
    for matrix in sorted(proper, key=_complexity):
        if matrix.tobytes() not in covered:
            matrices.append(matrix)
            covered |= {m.astype(np.int32).tobytes() for m in laue.operations @ matrix}
    misfit = np.array([_misfit(matrix, reciprocal) for matrix in matrices])
    return ReindexingOperators(np.array(matrices), misfit, laue)


def _averaged_metric(cell: UnitCell, group: PointGroup) -> NDArray[np.float64]:
    """The reciprocal metric tensor with the symmetry of the group, (3, 3), 1/Å²: 1/d² = hkl · metric · hkl."""
    basis = cell.reciprocal_basis
    metric = basis.T @ basis
    return np.asarray(np.mean([m.T @ metric @ m for m in group.operations], axis=0))


def _misfit(matrix: NDArray[np.int32], metric: NDArray[np.float64]) -> float:
    """The largest relative change of 1/d among all directions; what is below rounding is 0."""
    squares = np.linalg.eigvals(np.linalg.solve(metric, matrix.T @ metric @ matrix)).real
    return round(float(np.abs(np.sqrt(squares) - 1).max()), 6)


def _complexity(matrix: NDArray[np.int32]) -> tuple[object, ...]:
    """The identity first, then two-fold axes, with axes exchanged rather than added and few minus signs."""
    moved, twice = (not np.array_equal(m, np.eye(3)) for m in (matrix, matrix @ matrix))
    return moved, twice, int(np.count_nonzero(matrix)), int(np.sum(matrix < 0)), (-matrix).ravel().tolist()


def _inverse(matrix: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.rint(np.linalg.inv(matrix)).astype(np.int32)


def _term(row: list[int]) -> str:
    """`h-k` of [1, -1, 0]."""
    parts = [
        f"{'-' if n < 0 else '+'}{abs(n) if abs(n) > 1 else ''}{x}" for n, x in zip(row, _LETTERS, strict=True) if n
    ]
    return "".join(parts).removeprefix("+")
