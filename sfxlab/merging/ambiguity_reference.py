"""References that say which way crystals have to be indexed: merged intensities, or a model."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import UnitCell, point_group_of, resolution_of
from sfxlab.errors import MergeError
from sfxlab.merging.files import read_merged
from sfxlab.merging.observations import ANGLE_TOLERANCE, LENGTH_TOLERANCE, Observations
from sfxlab.merging.reindexing import ReindexingOperators

MODEL_SUFFIXES = (".pdb", ".ent", ".cif", ".mmcif", ".pdb.gz", ".ent.gz", ".cif.gz", ".mmcif.gz")
_PER_SHELL = 100
# Mean density and B factor of disordered solvent (Fokine & Urzhumtsev 2002, Acta Cryst. D58, 1387).
_SOLVENT_DENSITY, _SOLVENT_B = 0.35, 46.0


def read_reference(
    path: str | Path, observations: Observations, operators: ReindexingOperators
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """hkl in the asymmetric unit of the crystals' Laue group, (n, 3), and intensities, (n,), of a reference.

    Structure factors of a model are calculated as far as there are observations. Raises `MergeError` where the file
    cannot be read or is of another crystal form.
    """
    path = Path(path)
    space_group: str | None
    if path.name.lower().endswith(MODEL_SUFFIXES):
        cell, space_group, hkl, intensity = intensities_of_model(path, float(1 / observations.resolution.max()))
    else:
        merged = read_merged(path, cell=observations.cell)
        cell, space_group, hkl, intensity = merged.cell.gemmi, merged.space_group, merged.hkl, merged.intensity
    _check_form(path, cell, space_group, observations.cell, operators)
    known = np.isfinite(intensity)
    return operators.laue_group.asu(hkl[known]), intensity[known]


def reference_levels(
    hkl: NDArray[np.int32], intensity: NDArray[np.float64], wanted: NDArray[np.int32], cell: UnitCell
) -> NDArray[np.float64]:
    """Intensities of reflections `wanted`, (m, 3), divided by the mean at their resolution, (m,); NaN if unknown."""
    order = np.argsort(resolution_of(cell, hkl), kind="stable")
    shells = np.array_split(order, max(len(order) // _PER_SHELL, 1))
    level = np.empty(len(hkl))
    for shell in shells:
        mean = intensity[shell].mean() if len(shell) else 0.0
        level[shell] = intensity[shell] / mean if mean > 0 else np.nan
    # Friedel mates that were kept apart share a row.
    unique, place = np.unique(np.concatenate([hkl, wanted]), axis=0, return_inverse=True)
    place = place.reshape(-1)
    usable = np.isfinite(level)
    sums, counts = (np.bincount(place[: len(hkl)][usable], weights, len(unique)) for weights in (level[usable], None))
    with np.errstate(invalid="ignore"):
        return np.asarray((sums / counts)[place[len(hkl) :]])


def intensities_of_model(
    path: Path, d_min: float
) -> tuple[gemmi.UnitCell, str, NDArray[np.int32], NDArray[np.float64]]:
    """Cell, space group, hkl and intensities of a model with flat solvent."""
    if not path.is_file():
        raise MergeError("there is no such reference", path=path, remedy="check the path")
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, OSError) as error:
        raise MergeError("the reference cannot be read", path=path, found=error) from error
    group = structure.find_spacegroup()
    if len(structure) == 0 or structure[0].count_atom_sites() == 0 or group is None or not structure.cell.is_crystal():
        raise MergeError(
            "the reference has no model of a crystal",
            path=path,
            expected="atoms, a unit cell and a space group",
            remedy="structure factors in mmCIF become an MTZ file with gemmi cif2mtz",
        )
    structure.remove_hydrogens()
    structure.setup_cell_images()
    density = gemmi.DensityCalculatorX()
    density.d_min, density.rate = d_min, 1.5
    density.grid.setup_from(structure)
    density.set_refmac_compatible_blur(structure[0])
    density.put_model_density_on_grid(structure[0])
    atoms = gemmi.transform_map_to_f_phi(density.grid, half_l=True).prepare_asu_data(dmin=d_min, unblur=density.blur)
    mask = gemmi.FloatGrid()
    mask.setup_from(structure, spacing=min(d_min / 3, 0.8))
    gemmi.SolventMasker(gemmi.AtomicRadiiSet.Cctbx).put_mask_on_float_grid(mask, structure[0])
    hkl = np.array(atoms.miller_array, dtype=np.int32)
    solvent = gemmi.transform_map_to_f_phi(mask, half_l=True).get_value_by_hkl(hkl)
    s2 = np.asarray(structure.cell.calculate_1_d2_array(hkl)) / 4
    total = np.array(atoms.value_array) + _SOLVENT_DENSITY * np.exp(-_SOLVENT_B * s2) * np.asarray(solvent)
    return structure.cell, group.xhm(), hkl, np.abs(total) ** 2


def _check_form(
    path: Path, cell: gemmi.UnitCell, space_group: str | None, wanted: UnitCell, operators: ReindexingOperators
) -> None:
    """Raise `MergeError` where a reference has another cell or symmetry than the crystals."""
    if space_group is not None:
        laue = point_group_of(space_group, friedel=True)
        if {m.tobytes() for m in laue.operations} != {m.tobytes() for m in operators.laue_group.operations}:
            raise MergeError(
                "the reference has another symmetry than the crystals",
                path=path, found=f"{space_group}, Laue group {laue.name}", expected=operators.laue_group.name,
                remedy="correct the point group, or give a reference of the same crystal form",
            )  # fmt: skip
    found, expected = np.array(cell.parameters), np.array(wanted.parameters)
    if np.any(np.abs(found - expected) > np.where(np.arange(6) < 3, LENGTH_TOLERANCE * expected, ANGLE_TOLERANCE)):
        raise MergeError(
            "the reference has another unit cell than the crystals",
            path=path, found=", ".join(f"{x:.2f}" for x in found), expected=wanted,
            remedy="give a reference of the same crystal form, indexed along the same axes",
        )  # fmt: skip
