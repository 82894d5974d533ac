"""Unit cells, crystals and symmetry."""

from sfxlab.crystal.cell import CENTRINGS, LATTICE_TYPES, UnitCell, check_lattice, parameters_of, symmetrise
from sfxlab.crystal.cell_file import read_cell, write_cell
from sfxlab.crystal.crystal import Crystal

__all__ = [
    "CENTRINGS",
    "LATTICE_TYPES",
    "Crystal",
    "UnitCell",
    "check_lattice",
    "parameters_of",
    "read_cell",
    "symmetrise",
    "write_cell",
]
