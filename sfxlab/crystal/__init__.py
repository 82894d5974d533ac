"""Unit cells, crystals and symmetry."""

from sfxlab.crystal.cell import CENTRINGS, LATTICE_TYPES, UnitCell, check_lattice, parameters_of, symmetrise
from sfxlab.crystal.cell_file import read_cell, write_cell
from sfxlab.crystal.crystal import Crystal
from sfxlab.crystal.symmetry import (
    POINT_GROUPS,
    PointGroup,
    point_group,
    point_group_of,
    possible_reflections,
    resolution_of,
)

__all__ = [
    "CENTRINGS",
    "LATTICE_TYPES",
    "POINT_GROUPS",
    "Crystal",
    "PointGroup",
    "UnitCell",
    "check_lattice",
    "parameters_of",
    "point_group",
    "point_group_of",
    "possible_reflections",
    "read_cell",
    "resolution_of",
    "symmetrise",
    "write_cell",
]
