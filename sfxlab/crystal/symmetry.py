"""Point groups: which reflections are equivalent, and which are possible.

Names are CrystFEL's (METHODS.md section 1.10). A point group that is not centrosymmetric keeps Friedel mates apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property

import gemmi
import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal.cell import Centring, UnitCell, parameters_of
from sfxlab.errors import CellError, suggestion

# The primitive symmorphic space group of each point group; its operations are those of the point group.
_SYMMORPHIC: dict[str, str] = {
    "1": "P 1", "-1": "P -1",
    "2/m": "P 1 1 2/m", "2": "P 1 1 2", "m": "P 1 1 m",
    "mmm": "P m m m", "222": "P 2 2 2", "mm2": "P m m 2",
    "4/m": "P 4/m", "4": "P 4", "-4": "P -4", "4/mmm": "P 4/m m m", "422": "P 4 2 2",
    "-42m": "P -4 2 m", "-4m2": "P -4 m 2", "4mm": "P 4 m m",
    "3_R": "R 3:R", "-3_R": "R -3:R", "32_R": "R 3 2:R", "3m_R": "R 3 m:R", "-3m_R": "R -3 m:R",
    "3_H": "P 3", "-3_H": "P -3", "321_H": "P 3 2 1", "312_H": "P 3 1 2", "3m1_H": "P 3 m 1",
    "31m_H": "P 3 1 m", "-3m1_H": "P -3 m 1", "-31m_H": "P -3 1 m",
    "6/m": "P 6/m", "6": "P 6", "-6": "P -6", "6/mmm": "P 6/m m m", "622": "P 6 2 2",
    "-62m": "P -6 2 m", "-6m2": "P -6 m 2", "6mm": "P 6 m m",
    "23": "P 2 3", "m-3": "P m -3", "432": "P 4 3 2", "-43m": "P -4 3 m", "m-3m": "P m -3 m",
}  # fmt: skip

# Settings that the tables of space groups know by themselves.
_OTHER_AXIS: dict[str, str] = {
    "2/m_uaa": "P 2/m 1 1", "2/m_uab": "P 1 2/m 1", "2_uaa": "P 2 1 1", "2_uab": "P 1 2 1",
    "m_uaa": "P m 1 1", "m_uab": "P 1 m 1", "mm2_uaa": "P 2 m m", "mm2_uab": "P m 2 m",
}  # fmt: skip

_WITH_UNIQUE_AXIS = ("2/m", "2", "m", "mm2", *(n for n in _SYMMORPHIC if re.match(r"-?[46]", n) and "3" not in n))

# Columns of hkl that are h, k, l of the setting with unique axis c.
_STANDARD_AXES = {"a": (1, 2, 0), "b": (2, 0, 1), "c": (0, 1, 2)}

POINT_GROUPS: tuple[str, ...] = tuple(_SYMMORPHIC)
"""The names of all point groups in their usual setting (unique axis c)."""


@dataclass(frozen=True)
class PointGroup:
    """A point group in a setting; `point_group` makes one from its name."""

    name: str
    """As CrystFEL's users write it: `4/mmm`, `321_H`, `2/m_uab`."""
    symmorphic: str
    """Hermann-Mauguin symbol of the primitive space group with the same operations."""
    axes: tuple[int, int, int] = (0, 1, 2)
    """Columns of hkl that are h, k, l in the setting of `symmorphic`."""

    @cached_property
    def operations(self) -> NDArray[np.int32]:
        """Matrices M with hkl' = M @ hkl for all equivalent hkl', (n, 3, 3); the identity comes first."""
        back = np.argsort(self.axes)
        standard = _rotations(gemmi.SpaceGroup(self.symmorphic))
        return np.ascontiguousarray(standard[:, back][:, :, back])

    @property
    def centrosymmetric(self) -> bool:
        """Whether Friedel mates are equivalent."""
        return bool(gemmi.SpaceGroup(self.symmorphic).operations().is_centrosymmetric())

    @property
    def laue_group(self) -> PointGroup:
        """The point group with the inversion added."""
        operations = {m.tobytes() for m in np.concatenate([self.operations, -self.operations])}
        return next(
            g for g in _settings() if {m.tobytes() for m in g.operations} == operations
        )  # fmt: skip

    def asu(self, hkl: NDArray[np.integer]) -> NDArray[np.int32]:
        """The one hkl that stands for each set of equivalent ones, (n, 3) → (n, 3).

        It lies in CCP4's asymmetric unit or, where the point group is not centrosymmetric, there or opposite to it,
        so the Friedel mate of a representative is its negative (or, if centric, itself).
        """
        standard = np.ascontiguousarray(np.asarray(hkl)[:, self.axes], dtype=np.int32)
        out = standard.copy()
        gemmi.SpaceGroup(self.symmorphic).switch_to_asu(out)
        if not self.centrosymmetric:
            reached = np.zeros(len(out), dtype=bool)
            for matrix in _rotations(gemmi.SpaceGroup(self.symmorphic)):
                reached |= np.all(standard @ matrix.T == out, axis=1)
            out[~reached] *= -1
        return np.ascontiguousarray(out[:, np.argsort(self.axes)])

    def fits(self, cell: UnitCell, tolerance: float = 0.03) -> bool:
        """Whether the cell has this symmetry.

        `tolerance` is relative for lengths and in radians for angles. The unique axis of a monoclinic cell has to be
        that of the point group.
        """
        axis = self.name[-1] if "_ua" in self.name else "c"
        stem = self.name.partition("_")[0]
        if stem in ("2", "m", "2/m") and cell.lattice_type == "monoclinic" and axis != (cell.unique_axis or "b"):
            return False
        found = np.array(cell.parameters)
        images = np.array([parameters_of(np.linalg.inv(cell.reciprocal_basis @ m)) for m in self.operations])
        deviation = np.abs(images - found)
        return bool(
            np.all(deviation[:, :3] <= tolerance * found[:3]) and np.all(np.radians(deviation[:, 3:]) <= tolerance)
        )

    def check_cell(self, cell: UnitCell) -> None:
        """Raise `CellError` where this symmetry is not that of the cell."""
        if not self.fits(cell):
            raise CellError(
                f"the unit cell does not have the symmetry of point group {self.name}",
                found=cell,
                expected=f"one of {', '.join(g.name for g in _settings() if g.fits(cell))}",
                remedy="choose the point group with -y; its unique axis is c unless it ends in _uaa or _uab",
            )

    def space_group(self, centring: Centring) -> gemmi.SpaceGroup:
        """The lowest-numbered space group of this point group with this centring.

        Raises `CellError` where the tables have none in this setting.
        """
        wanted = {m.tobytes() for m in self.operations}
        letter, extension = ("R", centring) if centring in ("R", "H") else (centring, "")
        for group in gemmi.spacegroup_table():
            if group.hm[0] != letter or (extension and group.ext != extension):
                continue
            if {m.tobytes() for m in _rotations(group)} == wanted:
                return group
        raise CellError(
            f"there is no space group of point group {self.name} with centring {centring}",
            remedy="use the axes of the International Tables, or write a reflection list (.hkl) instead",
        )


def point_group(name: str) -> PointGroup:
    """The point group of this name (METHODS.md 1.10). Raises `CellError` with a suggestion for an unknown one."""
    stem, _, axis = name.partition("_ua")
    if name in _SYMMORPHIC:
        return PointGroup(name, _SYMMORPHIC[name])
    if name in _OTHER_AXIS:
        return PointGroup(name, _OTHER_AXIS[name])
    if stem in _WITH_UNIQUE_AXIS and axis in _STANDARD_AXES:
        return PointGroup(name, _SYMMORPHIC[stem], _STANDARD_AXES[axis])
    raise CellError(f"unknown point group '{name}'", expected=", ".join(POINT_GROUPS), remedy=_remedy(name))


def point_group_of(space_group: str, *, friedel: bool) -> PointGroup:
    """The point group of a space group; with `friedel` the one that has Friedel mates merged.

    Raises `CellError` where the space group is unknown.
    """
    group = gemmi.find_spacegroup_by_name(space_group)
    if group is None:
        raise CellError(f"unknown space group '{space_group}'", remedy="write it as in 'P 43 21 2'")
    rotations = _rotations(group)
    if friedel:
        rotations = np.concatenate([rotations, -rotations])
    wanted = {m.tobytes() for m in rotations}
    return next(g for g in _settings() if {m.tobytes() for m in g.operations} == wanted)


def possible_reflections(cell: UnitCell, group: PointGroup, r_max: float, r_min: float = 0.0) -> NDArray[np.int32]:
    """All unique hkl with `r_min` ≤ 1/d < `r_max` (1/Å) that the centring allows, (n, 3), sorted.

    Screw axes and glide planes are not considered (METHODS.md section 8, completeness).
    """
    standard = cell.with_parameters(_permuted_parameters(cell, group))
    hkl = gemmi.make_miller_array(standard.gemmi, gemmi.SpaceGroup(group.symmorphic), 0.999 / r_max, 0.0, unique=True)
    hkl = np.asarray(hkl, dtype=np.int32)[:, np.argsort(group.axes)]
    hkl = hkl[cell.allows(hkl)]
    resolution = resolution_of(cell, hkl)
    hkl = hkl[(resolution >= r_min) & (resolution < r_max)]
    if not group.centrosymmetric:
        hkl = np.concatenate([hkl, -hkl])
    return np.asarray(np.unique(group.asu(hkl), axis=0), dtype=np.int32)


def resolution_of(cell: UnitCell, hkl: NDArray[np.integer]) -> NDArray[np.float64]:
    """1/d of hkl, (n, 3) → (n,), 1/Å."""
    indices = np.ascontiguousarray(hkl, dtype=np.int32)
    return np.sqrt(np.asarray(cell.gemmi.calculate_1_d2_array(indices), dtype=np.float64))


@cache
def _settings() -> tuple[PointGroup, ...]:
    """Every point group in every setting, the usual names first."""
    names = [*_SYMMORPHIC, *(f"{name}_ua{axis}" for axis in "ba" for name in _WITH_UNIQUE_AXIS)]
    return tuple(point_group(name) for name in names)


def _rotations(group: gemmi.SpaceGroup) -> NDArray[np.int32]:
    """The matrices that a space group applies to hkl, (n, 3, 3)."""
    # gemmi multiplies hkl, a row, from the right; ours is a column.
    rotations = [np.array(op.rot).T // gemmi.Op.DEN for op in group.operations().sym_ops]
    return np.ascontiguousarray(rotations, dtype=np.int32)


def _permuted_parameters(cell: UnitCell, group: PointGroup) -> tuple[float, ...]:
    return tuple(cell.parameters[offset + i] for offset in (0, 3) for i in group.axes)


def _remedy(name: str) -> str | None:
    space_group = gemmi.find_spacegroup_by_name(name)
    if space_group is not None and not re.fullmatch(r"-?\d+", name):
        chiral, laue = (point_group_of(space_group.xhm(), friedel=f).name for f in (False, True))
        return f"{space_group.xhm()} is a space group; merge with -y {laue}, or {chiral} to keep Friedel mates apart"
    trigonal = [known for known in POINT_GROUPS if known.partition("_")[0] == name and "_" in known]
    if trigonal:
        return f"say which axes: {' or '.join(trigonal)} (H hexagonal, R rhombohedral)"
    return suggestion(name, [group.name for group in _settings()])
