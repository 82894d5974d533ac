"""True intensities of a crystal: a random-atom model of protein composition, in any space group.

Randomly placed atoms give the Wilson statistics of a real structure, and the space group's operations give it the
right absences and equivalents (Wilson 1949, Acta Cryst. 2, 318).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import gemmi
import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import UnitCell
from sfxlab.crystal.symmetry import point_group_of
from sfxlab.errors import CellError

_COMPOSITION = {"C": 0.62, "N": 0.17, "O": 0.20, "S": 0.01}
_VOLUME_PER_ATOM = 30.0
"""Å³ of the cell per non-hydrogen atom of the protein, at half solvent."""
_MOST_ATOMS = 5000
"""In the asymmetric unit; the statistics of the intensities do not change beyond."""
_MOST_REFLECTIONS = 2e7
"""In the sphere that the crystal diffracts to; a dense array of them must fit into memory."""


@dataclass(frozen=True)
class Intensities:
    """|F|² of every reflection out to a resolution, arbitrary units with a mean of 1000."""

    hkl: NDArray[np.int32]
    """The asymmetric unit of the point group without systematic absences, (n, 3)."""
    intensity: NDArray[np.float64]
    """(n,)."""
    dense: NDArray[np.float32]
    """`dense[h + H, k + K, l + L]` for −H ≤ h ≤ H and so on; 0 where absent or beyond the resolution limit."""
    space_group: gemmi.SpaceGroup
    d_min: float
    """Å."""

    @property
    def point_group(self) -> str:
        """CrystFEL's name of the Laue class: the model has no anomalous scattering."""
        return point_group_of(self.space_group.xhm(), friedel=True).name

    def of(self, hkl: NDArray[np.integer]) -> NDArray[np.float32]:
        """Intensities of any hkl inside the dense array, (n, 3) → (n,)."""
        h, k, l = (hkl + (np.array(self.dense.shape) - 1) // 2).T  # noqa: E741 -- the field's letters
        return np.asarray(self.dense[h, k, l])


def lowest_space_group(cell: UnitCell) -> gemmi.SpaceGroup:
    """The symmorphic Sohncke space group of lowest number that has the lattice type and centring of a cell.

    Raises `CellError` where no setting of any group fits, as with a tetragonal cell with unique axis a.
    """
    for group in gemmi.spacegroup_table():
        if group.is_sohncke() and group.is_symmorphic() and _fits(group, cell):
            return group
    raise CellError(
        "no space group fits this cell",
        found=cell,
        expected="centring and unique axis of a standard setting",
        remedy="describe the lattice with its unique axis along c",
    )


def find_space_group(name: str, cell: UnitCell) -> gemmi.SpaceGroup:
    """The space group of a Hermann–Mauguin symbol, checked against the cell.

    Raises `CellError` where the symbol is unknown or does not fit lattice type and centring.
    """
    group = gemmi.find_spacegroup_by_name(name, cell.alpha, cell.gamma)
    if group is None:
        raise CellError("unknown space group", found=name, expected="a symbol such as 'P 43 21 2'")
    if not _fits(group, cell):
        raise CellError(
            "the space group does not fit the cell",
            found=f"{group.xhm()} with {cell}",
            remedy="change one of them, or leave the space group out",
        )
    return group


def _fits(group: gemmi.SpaceGroup, cell: UnitCell) -> bool:
    system = {"rhombohedral": "trigonal"}.get(cell.lattice_type, cell.lattice_type)
    systems = ("hexagonal", "trigonal") if system == "hexagonal" else (system,)
    # gemmi calls a rhombohedral lattice P on its own axes and R on hexagonal ones.
    centring = {"R": "P", "H": "R"}.get(cell.centring, cell.centring)
    if group.crystal_system_str() not in systems or group.centring_type() != centring:
        return False
    if (cell.lattice_type == "rhombohedral") != (group.ext in "RH"):
        return False
    basis = cell.real_basis
    metric = basis @ basis.T
    rotations = (np.array(op.rot) / gemmi.Op.DEN for op in group.operations().sym_ops)
    return all(np.allclose(r.T @ metric @ r, metric, rtol=0, atol=2e-3 * metric.max()) for r in rotations)


def model_intensities(
    cell: UnitCell, group: gemmi.SpaceGroup, d_min: float, wilson_b: float, rng: np.random.Generator
) -> Intensities:
    """Intensities of a random-atom model out to `d_min` (Å), with mean atomic B factor `wilson_b` (Å²).

    For cells with very many reflections `d_min` is raised to what fits into memory, as the result says.
    """
    d_min = max(d_min, (4 / 3 * math.pi * cell.volume / _MOST_REFLECTIONS) ** (1 / 3))
    density = gemmi.DensityCalculatorX()
    density.d_min = d_min
    density.rate = 1.5
    structure = _random_structure(cell, group, wilson_b, rng)
    density.grid.setup_from(structure)
    density.set_refmac_compatible_blur(structure[0])
    density.put_model_density_on_grid(structure[0])
    factors = gemmi.transform_map_to_f_phi(density.grid, half_l=True)
    unique = factors.prepare_asu_data(dmin=d_min, unblur=density.blur, with_sys_abs=False)
    hkl = np.array(unique.miller_array, dtype=np.int32)
    intensity = np.abs(unique.value_array).astype(np.float64) ** 2
    intensity *= 1000 / intensity.mean()
    return Intensities(hkl, intensity, _expand(cell, group, d_min, hkl, intensity), group, d_min)


def _random_structure(
    cell: UnitCell, group: gemmi.SpaceGroup, wilson_b: float, rng: np.random.Generator
) -> gemmi.Structure:
    asymmetric_unit = cell.volume / len(group.operations())
    count = int(np.clip(asymmetric_unit / _VOLUME_PER_ATOM, 20, _MOST_ATOMS))
    elements = rng.choice(list(_COMPOSITION), count, p=list(_COMPOSITION.values()))
    positions = rng.random((count, 3))
    # Gamma with a shape of 10: the spread of B factors in a well-ordered protein.
    b_factors = rng.gamma(10, wilson_b / 10, count)
    structure = gemmi.Structure()
    structure.cell = cell.gemmi
    structure.spacegroup_hm = group.xhm()
    residue = gemmi.Residue()
    residue.name, residue.seqid = "UNK", gemmi.SeqId("1")
    for element, position, b_factor in zip(elements, positions, b_factors, strict=True):
        atom = gemmi.Atom()
        atom.name, atom.element = str(element), gemmi.Element(str(element))
        atom.pos = structure.cell.orthogonalize(gemmi.Fractional(*position))
        atom.b_iso = float(b_factor)
        residue.add_atom(atom)
    chain, model = gemmi.Chain("A"), gemmi.Model(1)
    chain.add_residue(residue)
    model.add_chain(chain)
    structure.add_model(model)
    structure.setup_cell_images()
    return structure


def _expand(
    cell: UnitCell,
    group: gemmi.SpaceGroup,
    d_min: float,
    hkl: NDArray[np.int32],
    intensity: NDArray[np.float64],
) -> NDArray[np.float32]:
    half = np.floor(np.array(cell.lengths) / d_min).astype(np.int64) + 1
    dense = np.zeros(2 * half + 1, dtype=np.float32)
    for op in group.operations().sym_ops:
        equivalent = hkl @ (np.array(op.rot) // gemmi.Op.DEN)
        for mate in (equivalent, -equivalent):
            dense[tuple((mate + half).T)] = intensity
    return dense
