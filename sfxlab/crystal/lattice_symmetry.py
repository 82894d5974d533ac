"""The Bravais lattice of a cell that was measured, not assumed.

Two-fold axes of a lattice lie along a direct and a reciprocal lattice vector at once; the angle between the two, the
obliquity, says how nearly so (Le Page 1982; Lebedev, Vagin & Murshudov 2006). All symmetry of a lattice follows from
its two-fold axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

import gemmi
import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal.cell import Centring, LatticeType, UnitCell, parameters_of, symmetrise

Group = NDArray[np.int64]
"""Rotations in a primitive basis, (n, 3, 3): the lattice vector with coordinates n goes to R n."""

_SHORT = np.array([n for n in product(range(-3, 4), repeat=3) if any(n)], dtype=np.int64)
_TYPES: dict[int, LatticeType] = {
    1: "triclinic", 2: "monoclinic", 4: "orthorhombic", 6: "rhombohedral", 8: "tetragonal", 12: "hexagonal",
    24: "cubic",
}  # fmt: skip
_UNIQUE_AXES: dict[LatticeType, Literal["b", "c"]] = {
    "monoclinic": "b", "tetragonal": "c", "hexagonal": "c", "rhombohedral": "c",
}  # fmt: skip
_CENTRINGS: dict[tuple[int, ...], Centring] = {(0, 1, 1): "A", (1, 0, 1): "B", (1, 1, 0): "C", (1, 1, 1): "I"}


@dataclass(frozen=True)
class LatticeSymmetry:
    """A symmetry that a lattice has, more or less."""

    cell: UnitCell
    """Its conventional cell, with this symmetry exactly."""
    axes: NDArray[np.int64]
    """Rows: the conventional axes in units of the primitive ones, (3, 3)."""
    group: Group
    obliquity: float
    """The largest angle by which a two-fold axis misses, degrees."""


def niggli_basis(basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Niggli-reduced basis of a primitive one (rows, Å), in the same orientation."""
    vector = gemmi.GruberVector(gemmi.UnitCell(*parameters_of(basis)), "P", track_change_of_basis=True)
    vector.niggli_reduce()
    change = np.array(vector.change_of_basis.rot, dtype=np.float64) / gemmi.Op.DEN
    reduced = np.rint(change.T) @ basis
    return reduced if np.linalg.det(reduced) > 0 else -reduced


def lattice_symmetries(basis: NDArray[np.float64], max_obliquity: float) -> Iterator[LatticeSymmetry]:
    """Symmetries of a Niggli-reduced basis (rows, Å), each a part of the next, from triclinic upwards.

    Two-fold axes join in the order of their obliquity, up to `max_obliquity` degrees.
    """
    metric = basis @ basis.T
    group = np.eye(3, dtype=np.int64)[None]
    yield _symmetry(metric, group, 0.0)
    axes = gemmi.find_lattice_2fold_ops(gemmi.UnitCell(*parameters_of(basis)), max_obliquity)
    for operation, obliquity in sorted(axes, key=lambda axis: float(axis[1])):
        rotation = np.array(operation.rot, dtype=np.int64) // gemmi.Op.DEN
        if any(np.array_equal(rotation, other) for other in group):
            continue
        larger = _closed([*group, rotation])
        if larger is None or len(larger) not in _TYPES:
            return
        group = larger
        yield _symmetry(metric, group, float(obliquity))


def averaged(metric: NDArray[np.float64], group: Group) -> NDArray[np.float64]:
    """The mean over a group of metric tensors (…, 3, 3), which has its symmetry exactly."""
    return np.asarray(np.mean([rotation.T @ metric @ rotation for rotation in group], axis=0))


def _closed(rotations: list[NDArray[np.int64]]) -> Group | None:
    """The group that rotations generate; None where they make no group of a lattice."""
    known = {rotation.tobytes(): rotation for rotation in rotations}
    while True:
        products = [a @ b for a, b in product(known.values(), repeat=2)]
        fresh = {rotation.tobytes(): rotation for rotation in products} | known
        if len(fresh) == len(known):
            return np.array(list(known.values()))
        if len(fresh) > 24:
            return None
        known = fresh


def _symmetry(metric: NDArray[np.float64], group: Group, obliquity: float) -> LatticeSymmetry:
    exact = averaged(metric, group)
    lattice_type = _TYPES[len(group)]
    axes = _axes(exact, group, lattice_type)
    centring = _centring(axes)
    if lattice_type == "rhombohedral" and centring == "P":
        lattice_type = "hexagonal"
    if lattice_type == "monoclinic" and centring == "A":
        axes, centring = axes[[2, 1, 0]] * np.array([[1], [-1], [1]]), "C"
    if lattice_type == "orthorhombic" and centring in ("A", "B"):
        order = (1, 2, 0) if centring == "A" else (2, 0, 1)
        axes, centring = axes[list(order)], "C"
    if lattice_type == "orthorhombic" and centring == "C" and _length(axes[0], exact) > _length(axes[1], exact):
        axes = axes[[1, 0, 2]] * np.array([[1], [1], [-1]])
    unique = _UNIQUE_AXES.get(lattice_type)
    lower = np.asarray(np.linalg.cholesky(axes @ exact @ axes.T), dtype=np.float64)  # rows with this metric
    a, b, c, alpha, beta, gamma = parameters_of(lower).tolist()
    kind = UnitCell(a, b, c, alpha, beta, gamma, lattice_type, centring, unique)
    cell = kind.with_parameters(symmetrise(np.array(kind.parameters), kind))
    return LatticeSymmetry(cell, axes, group, obliquity)


def _axes(metric: NDArray[np.float64], group: Group, lattice_type: LatticeType) -> NDArray[np.int64]:
    """Conventional axes, right-handed: rows in units of the primitive ones."""
    if lattice_type == "triclinic":
        return np.eye(3, dtype=np.int64)
    rotations = {int(np.trace(rotation)): rotation for rotation in group}  # the trace tells the order
    if lattice_type == "monoclinic":
        b = _along(rotations[-1])
        a, c = _shortest(_SHORT[np.all(_SHORT @ rotations[-1].T == -_SHORT, axis=1)], metric)
        if a @ metric @ c > 0:
            c = -c
        axes = np.array([a, b, c])
        return axes if np.linalg.det(axes) > 0 else axes * [[1], [-1], [1]]
    if lattice_type in ("orthorhombic", "cubic"):
        wanted = -1 if lattice_type == "orthorhombic" else 1
        along = {tuple(_along(rotation)) for rotation in group if np.trace(rotation) == wanted}
        axes = np.array(sorted(along, key=lambda axis: (round(_length(np.array(axis), metric), 6), axis)))
    else:
        turn = rotations[{"tetragonal": 1, "hexagonal": 2, "rhombohedral": 0}[lattice_type]]
        c = _along(turn)
        # Across an axis lie the vectors whose images under its rotations sum up to nothing.
        across = _SHORT[np.all(_SHORT @ _sum_of_powers(turn).T == 0, axis=1)]
        a = _shortest(across, metric)[0]
        axes = np.array([a, (turn @ turn if lattice_type == "hexagonal" else turn) @ a, c])
        if np.linalg.det(axes) < 0:
            axes[2] = -c
        if _centring(axes) == "H" and not _is_obverse(axes):
            axes[:2] = -axes[:2]
    return axes if np.linalg.det(axes) > 0 else -axes


def _sum_of_powers(rotation: NDArray[np.int64]) -> NDArray[np.int64]:
    total, power = np.eye(3, dtype=np.int64), rotation
    while not np.array_equal(power, np.eye(3)):
        total, power = total + power, power @ rotation
    return total


def _along(rotation: NDArray[np.int64]) -> NDArray[np.int64]:
    """The shortest lattice vector along the axis of a rotation, its first coordinate that is not 0 positive."""
    columns = _sum_of_powers(rotation).T
    column = next(column for column in columns if column.any())
    column = column // math.gcd(*(int(x) for x in column))
    return np.asarray(column * np.sign(column[np.flatnonzero(column)[0]]))


def _shortest(vectors: NDArray[np.int64], metric: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The two shortest of some vectors that are not parallel."""
    lengths = np.round(np.einsum("ni,ij,nj->n", vectors, metric, vectors), 6)
    ordered = vectors[np.lexsort((*vectors.T, lengths))]
    first = ordered[0]
    second = next(vector for vector in ordered if np.any(np.cross(first, vector)))
    return first, second


def _length(vector: NDArray[np.int64], metric: NDArray[np.float64]) -> float:
    return math.sqrt(float(vector @ metric @ vector))


def _centring(axes: NDArray[np.int64]) -> Centring:
    index = round(abs(np.linalg.det(axes)))
    if index == 1:
        return "P"
    if index == 3:
        return "H"
    if index == 4:
        return "F"
    points = np.rint(2 * np.linalg.inv(axes)).astype(int) % 2  # the primitive axes in halves of the conventional ones
    return _CENTRINGS[tuple(int(x) for x in next(point for point in points if point.any()))]


def _is_obverse(axes: NDArray[np.int64]) -> bool:
    """Whether a lattice point lies at 2/3, 1/3, 1/3 of the axes, and not at 1/3, 2/3, 1/3."""
    points = np.rint(3 * np.linalg.inv(axes)).astype(int) % 3
    return any(tuple(point) in ((2, 1, 1), (1, 2, 2)) for point in points)
