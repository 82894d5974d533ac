"""Unit cells: lengths, angles, lattice, centring, and the bases that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import gemmi
import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import CellError

LatticeType = Literal["triclinic", "monoclinic", "orthorhombic", "tetragonal", "rhombohedral", "hexagonal", "cubic"]
Centring = Literal["P", "A", "B", "C", "I", "F", "R", "H"]

LATTICE_TYPES: tuple[LatticeType, ...] = (
    "triclinic", "monoclinic", "orthorhombic", "tetragonal", "rhombohedral", "hexagonal", "cubic",
)  # fmt: skip
CENTRINGS: tuple[Centring, ...] = ("P", "A", "B", "C", "I", "F", "R", "H")

# Rows: the axes of a primitive cell in terms of the conventional axes (International Tables A, section 1.5;
# H is the obverse setting of a rhombohedral lattice on hexagonal axes, R is already primitive).
_PRIMITIVE: dict[str, list[list[float]]] = {
    "P": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "R": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "A": [[1, 0, 0], [0, 1 / 2, -1 / 2], [0, 1 / 2, 1 / 2]],
    "B": [[1 / 2, 0, -1 / 2], [0, 1, 0], [1 / 2, 0, 1 / 2]],
    "C": [[1 / 2, -1 / 2, 0], [1 / 2, 1 / 2, 0], [0, 0, 1]],
    "I": [[-1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [1 / 2, 1 / 2, -1 / 2]],
    "F": [[0, 1 / 2, 1 / 2], [1 / 2, 0, 1 / 2], [1 / 2, 1 / 2, 0]],
    "H": [[2 / 3, 1 / 3, 1 / 3], [-1 / 3, 1 / 3, 1 / 3], [-1 / 3, -2 / 3, 1 / 3]],
}


@dataclass(frozen=True)
class UnitCell:
    """A conventional unit cell.

    Lengths in Å, angles in degrees. `centring` is P, A, B, C, I, F, R (rhombohedral axes) or H (rhombohedral
    lattice on hexagonal axes, obverse). `unique_axis` is a, b or c for monoclinic, tetragonal and hexagonal
    lattices, None otherwise.
    """

    a: float
    b: float
    c: float
    alpha: float = 90.0
    beta: float = 90.0
    gamma: float = 90.0
    lattice_type: LatticeType = "triclinic"
    centring: Centring = "P"
    unique_axis: Literal["a", "b", "c"] | None = None

    def __post_init__(self) -> None:
        for name in ("a", "b", "c", "alpha", "beta", "gamma"):  # whole numbers would make integer arrays later on
            object.__setattr__(self, name, float(getattr(self, name)))
        if not all(math.isfinite(x) and x > 0 for x in (*self.lengths, *self.angles)):
            raise CellError(
                "a unit cell needs positive lengths and angles",
                found=self.parameters,
                remedy="give a, b, c in Å and α, β, γ in degrees",
            )
        ca, cb, cg = (math.cos(math.radians(x)) for x in self.angles)
        if max(self.angles) >= 180 or 1 - ca * ca - cb * cb - cg * cg + 2 * ca * cb * cg <= 1e-8:
            raise CellError("these angles close no cell", found=self.angles, remedy="check α, β and γ")

    @property
    def lengths(self) -> tuple[float, float, float]:
        """a, b, c in Å."""
        return self.a, self.b, self.c

    @property
    def angles(self) -> tuple[float, float, float]:
        """α, β, γ in degrees."""
        return self.alpha, self.beta, self.gamma

    @property
    def parameters(self) -> tuple[float, float, float, float, float, float]:
        """a, b, c in Å, then α, β, γ in degrees."""
        return self.a, self.b, self.c, self.alpha, self.beta, self.gamma

    @property
    def gemmi(self) -> gemmi.UnitCell:
        """The same cell for gemmi."""
        return gemmi.UnitCell(*self.parameters)

    @property
    def volume(self) -> float:
        """Volume in Å³."""
        return float(self.gemmi.volume)

    @property
    def real_basis(self) -> NDArray[np.float64]:
        """Rows a, b, c in Å, (3, 3), in the orientation of the PDB convention (a along x, b in the xy plane)."""
        return np.array(self.gemmi.orth.mat.tolist(), dtype=np.float64).T

    @property
    def reciprocal_basis(self) -> NDArray[np.float64]:
        """Columns a*, b*, c* in 1/Å, (3, 3), in the orientation of the PDB convention."""
        return np.asarray(np.linalg.inv(self.real_basis), dtype=np.float64)

    @property
    def primitive_transform(self) -> NDArray[np.float64]:
        """Rows: the axes of a primitive cell in units of a, b, c, (3, 3).

        With it `primitive_hkl = transform @ hkl` and `primitive_real_basis = transform @ real_basis`.
        """
        return np.array(_PRIMITIVE[self.centring], dtype=np.float64)

    @staticmethod
    def of_basis(basis: NDArray[np.float64]) -> UnitCell:
        """The triclinic primitive cell of a reciprocal basis (columns a*, b*, c* in 1/Å)."""
        a, b, c, alpha, beta, gamma = parameters_of(np.asarray(np.linalg.inv(basis), dtype=np.float64)).tolist()
        return UnitCell(a, b, c, alpha, beta, gamma)

    def with_parameters(self, parameters: tuple[float, ...] | NDArray[np.float64]) -> UnitCell:
        """The same lattice with other a, b, c (Å), α, β, γ (degrees)."""
        a, b, c, alpha, beta, gamma = (float(x) for x in parameters)
        return replace(self, a=a, b=b, c=c, alpha=alpha, beta=beta, gamma=gamma)

    def with_basis(self, basis: NDArray[np.float64]) -> UnitCell:
        """The same lattice with the lengths and angles of a reciprocal basis (columns a*, b*, c* in 1/Å)."""
        return self.with_parameters(parameters_of(np.asarray(np.linalg.inv(basis), dtype=np.float64)))

    def allows(self, hkl: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which hkl, (n, 3), the centring does not forbid, (n,)."""
        primitive = hkl @ self.primitive_transform.T
        return np.asarray(np.all(np.abs(primitive - np.rint(primitive)) < 1e-6, axis=-1))

    def __str__(self) -> str:
        lengths = ", ".join(f"{x:.2f}" for x in self.lengths)
        angles = ", ".join(f"{x:.2f}" for x in self.angles)
        axis = f", unique axis {self.unique_axis}" if self.unique_axis else ""
        return f"{lengths} Å, {angles}° ({self.lattice_type} {self.centring}{axis})"


def parameters_of(real_basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """a, b, c (Å), α, β, γ (degrees) of a basis with rows a, b, c in Å, (6,)."""
    lengths = np.linalg.norm(real_basis, axis=1)
    unit = real_basis / lengths[:, None]
    cosines = [unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]]
    return np.concatenate([lengths, np.degrees(np.arccos(np.clip(cosines, -1, 1)))])


def symmetrise(parameters: NDArray[np.float64], cell: UnitCell) -> NDArray[np.float64]:
    """Impose the lattice type of `cell` on a, b, c (Å), α, β, γ (degrees): equal lengths are averaged, angles set.

    `parameters` has shape (6,) or (n, 6); so has the result.
    """
    out = np.array(parameters, dtype=np.float64, copy=True)
    length, angle = out[..., :3], out[..., 3:]
    axis = {"a": 0, "b": 1, "c": 2, None: 2 if cell.lattice_type != "monoclinic" else 1}[cell.unique_axis]
    others = [i for i in range(3) if i != axis]
    match cell.lattice_type:
        case "triclinic":
            pass
        case "monoclinic":
            angle[..., others] = 90.0
        case "orthorhombic":
            angle[...] = 90.0
        case "tetragonal" | "hexagonal":
            length[..., others] = length[..., others].mean(axis=-1, keepdims=True)
            angle[...] = 90.0
            if cell.lattice_type == "hexagonal" or cell.centring == "H":
                angle[..., axis] = 120.0
        case "rhombohedral" if cell.centring == "H":
            length[..., :2] = length[..., :2].mean(axis=-1, keepdims=True)
            angle[...] = (90.0, 90.0, 120.0)
        case "rhombohedral":
            length[...] = length.mean(axis=-1, keepdims=True)
            angle[...] = angle.mean(axis=-1, keepdims=True)
        case "cubic":
            length[...] = length.mean(axis=-1, keepdims=True)
            angle[...] = 90.0
    return out


def check_lattice(cell: UnitCell, tolerance: float = 0.01) -> None:
    """Raise `CellError` where lengths (relative) or angles (degrees) differ from what the lattice type asks for."""
    found, ideal = np.array(cell.parameters), symmetrise(np.array(cell.parameters), cell)
    deviation = np.abs(found - ideal) / np.where(np.arange(6) < 3, ideal, 1.0)
    if deviation.max() > tolerance:
        raise CellError(
            f"the parameters do not fit a {cell.lattice_type} lattice",
            found=cell,
            expected=", ".join(f"{x:.2f}" for x in ideal),
            remedy="correct the parameters or lattice_type, centering and unique_axis",
        )
