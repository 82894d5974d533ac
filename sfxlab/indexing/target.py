"""What an indexer looks for: the reduced primitive lattice of a unit cell."""

from __future__ import annotations

from dataclasses import dataclass

import gemmi
import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import UnitCell, parameters_of


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

    @property
    def lengths(self) -> NDArray[np.float64]:
        """Lengths of the reduced axes, Å, (3,)."""
        return np.asarray(np.linalg.norm(self.basis, axis=1))

    def conventional(self, reduced: NDArray[np.float64]) -> NDArray[np.float64]:
        """The conventional reciprocal basis (columns a*, b*, c*, 1/Å) of reduced real axes (rows, Å)."""
        real = np.linalg.inv(self.to_reduced) @ reduced
        return np.asarray(np.linalg.inv(real), dtype=np.float64)

    def deviation(self, reduced: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Relative deviations of the lengths (3,) and deviations of the angles in degrees (3,) from the target's."""
        found, wanted = parameters_of(reduced), parameters_of(self.basis)
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
