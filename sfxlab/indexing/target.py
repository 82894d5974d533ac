"""What an indexer looks for: the reduced primitive lattice of a unit cell."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product

import gemmi
import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import UnitCell, parameters_of
from sfxlab.indexing.coincidence import coincidences

EXACT, NEARLY = 1e-3, 0.08
"""Relative changes of the metric that a rotation of the lattice, and of a lattice like it, may bring about."""
MAX_NODES = 12_000
MAX_RESOLUTION = 1.5
"""Nodes are listed up to this, 1/Å, at most."""


@dataclass(frozen=True)
class Nodes:
    """Reciprocal lattice points of a target, in its own orientation and by rising distance from the origin."""

    positions: NDArray[np.float64]
    """(n, 3), 1/Å."""
    lengths: NDArray[np.float64]
    """(n,), 1/Å."""
    representatives: NDArray[np.int64]
    """Numbers of the nodes that stand for those that rotations of the lattice make of them."""


@dataclass(frozen=True)
class Target:
    """A unit cell and its reduced primitive basis.

    Short, nearly orthogonal vectors are found with the fewest trials and tell neighbouring lattices apart best.
    """

    cell: UnitCell
    to_reduced: NDArray[np.float64]
    """Rows: the reduced primitive axes in units of the conventional ones, (3, 3), determinant positive."""
    basis: NDArray[np.float64]
    """Rows: the reduced primitive axes in Å, shortest first, in the orientation of `UnitCell.real_basis`, (3, 3)."""

    @cached_property
    def rotations(self) -> NDArray[np.float64]:
        """Rotations that leave the lattice as it is: integer changes of `basis`, the identity first, (n, 3, 3)."""
        return _metric_rotations(self.basis, EXACT)

    @cached_property
    def like_axes(self) -> NDArray[np.int64]:
        """For each axis of `basis` the first one that rotations of the lattice turn into it or against it, (3,)."""
        turned = np.abs(self.rotations)
        into = np.any(np.all(turned[:, :, None] == np.eye(3), axis=3), axis=0)
        return np.asarray(np.argmax(into, axis=0))

    @cached_property
    def settings(self) -> NDArray[np.float64]:
        """Changes of `basis` that nearly keep its lengths and angles, the identity first, (n, 3, 3).

        More than `rotations` where the metric is nearly that of a higher symmetry.
        """
        return _metric_rotations(self.basis, NEARLY)

    @cached_property
    def coincidences(self) -> NDArray[np.float64]:
        """Changes of `basis` to those of turned lattices that share nodes with it, (n, 3, 3)."""
        return coincidences(self.basis)

    @cached_property
    def nodes(self) -> Nodes:
        """The innermost reciprocal lattice points."""
        return _nodes(self.basis, self.rotations)

    @property
    def volume(self) -> float:
        """Volume of the primitive cell, Å³."""
        return abs(float(np.linalg.det(self.basis)))

    @property
    def lengths(self) -> NDArray[np.float64]:
        """Lengths of the reduced axes, Å, (3,)."""
        return np.asarray(np.linalg.norm(self.basis, axis=1))

    def conventional(self, reduced: NDArray[np.float64]) -> NDArray[np.float64]:
        """The conventional reciprocal basis (columns a*, b*, c*, 1/Å) of reduced real axes (rows, Å)."""
        real = np.linalg.inv(self.to_reduced) @ reduced
        return np.asarray(np.linalg.inv(real), dtype=np.float64)

    def closest(self, reduced: NDArray[np.float64]) -> NDArray[np.float64]:
        """The lattice of reduced axes (rows, Å) in those axes whose lengths and angles are most like the target's."""
        changed = _unimodular() @ reduced
        metric, wanted = np.einsum("nij,nkj->nik", changed, changed), self.basis @ self.basis.T
        size = np.sqrt(np.outer(np.diag(wanted), np.diag(wanted)))
        return np.asarray(changed[int(np.argmin((((metric - wanted) / size) ** 2).sum(axis=(1, 2))))])

    def setting(self, reduced: NDArray[np.float64]) -> NDArray[np.float64]:
        """The lattice of reduced axes (rows, Å) in those closest to the target's, as it is where others are no closer.

        Where two axes are nearly equal, peaks alone may have taken one for the other.
        """
        wanted = self.basis @ self.basis.T
        changed = self.settings @ (reduced @ reduced.T) @ self.settings.transpose(0, 2, 1)
        size = np.sqrt(np.outer(np.diag(wanted), np.diag(wanted)))
        deviation = np.sqrt((((changed - wanted) / size) ** 2).sum(axis=(1, 2)))
        best = int(np.argmin(deviation))
        return np.asarray(self.settings[best] @ reduced if deviation[best] < 0.9 * deviation[0] - 1e-3 else reduced)

    def deviation(self, reduced: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Relative deviations of a, b, c (3,) and deviations of the angles in degrees (3,) from the given cell's."""
        conventional = np.linalg.inv(self.to_reduced) @ reduced
        found, wanted = parameters_of(np.asarray(conventional)), np.array(self.cell.parameters)
        return found[:3] / wanted[:3] - 1, found[3:] - wanted[3:]


def target_of(cell: UnitCell) -> Target:
    """The reduced primitive lattice of a cell: Niggli reduction by gemmi, axes sorted by length, right-handed."""
    primitive = cell.primitive_transform @ cell.real_basis
    to_niggli = _niggli(primitive) @ cell.primitive_transform
    order = np.argsort(np.linalg.norm(to_niggli @ cell.real_basis, axis=1), kind="stable")
    to_reduced = to_niggli[order]
    if np.linalg.det(to_reduced) < 0:
        to_reduced = -to_reduced
    return Target(cell, to_reduced, to_reduced @ cell.real_basis)


def _niggli(primitive: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integer matrix that takes a primitive basis (rows, Å) to its Niggli-reduced one."""
    vector = gemmi.GruberVector(gemmi.UnitCell(*parameters_of(primitive)), "P", track_change_of_basis=True)
    vector.niggli_reduce()
    rotation = np.array(vector.change_of_basis.rot, dtype=np.float64) / gemmi.Op.DEN
    return np.asarray(np.rint(rotation.T))


@lru_cache(maxsize=1)
def _unimodular() -> NDArray[np.float64]:
    """Integer matrices with entries −1, 0, 1 and determinant 1, the identity first, (3480, 3, 3)."""
    matrices = np.array(list(product((0.0, 1.0, -1.0), repeat=9))).reshape(-1, 3, 3)
    matrices = matrices[np.abs(np.linalg.det(matrices) - 1) < 0.5]
    identity = np.all(matrices == np.eye(3), axis=(1, 2))
    return np.concatenate([np.eye(3)[None], matrices[~identity]])


def _metric_rotations(basis: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    metric = basis @ basis.T
    changed = np.einsum("nij,jk,nlk->nil", _unimodular(), metric, _unimodular())
    size = np.sqrt(np.outer(np.diag(metric), np.diag(metric)))
    return np.asarray(_unimodular()[(np.abs(changed - metric) / size).max(axis=(1, 2)) < tolerance])


def _nodes(basis: NDArray[np.float64], rotations: NDArray[np.float64]) -> Nodes:
    reach = min(MAX_RESOLUTION, (3 * MAX_NODES / (4 * np.pi * abs(np.linalg.det(basis)))) ** (1 / 3))
    extent = np.floor(reach * np.linalg.norm(basis, axis=1)).astype(int)
    hkl = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in extent), indexing="ij"), axis=-1).reshape(-1, 3)
    positions = hkl @ np.linalg.inv(basis).T
    lengths = np.linalg.norm(positions, axis=1)
    order = np.argsort(lengths, kind="stable")
    order = order[(lengths[order] <= reach) & (lengths[order] > 0)]
    # Where axes change by M, indices do so too; of all that a node becomes, the greatest stands for it.
    scale = 2 * int(extent.max()) * 3 + 1
    images = np.einsum("nij,mj->nmi", rotations, hkl[order]).astype(np.int64) @ np.array([scale**2, scale, 1])
    first = np.flatnonzero(images[0] == images.max(axis=0))
    return Nodes(np.ascontiguousarray(positions[order]), lengths[order], first)
