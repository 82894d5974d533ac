"""Orientation, cell and nodes of a crystal from the positions of its peaks.

METHODS.md section 5.4: robust least squares on the distance between peak and prediction in pixels and on the excitation
error, with analytic gradients. The cell changes only as its lattice type allows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import Crystal, UnitCell, parameters_of, symmetrise
from sfxlab.diffraction.node_profile import node_profile
from sfxlab.diffraction.prediction import panel_inverses
from sfxlab.diffraction.refinement_kernels import least_squares, paired, residuals
from sfxlab.geometry import HC_EV_ANGSTROM, Detector
from sfxlab.peaks import Peaks
from sfxlab.recipe import RefinementRecipe

PAIRING_DISTANCE = 5.0
"""Peaks further than this from their prediction are not used, pixels."""
STRICT_DISTANCE = 3.0
"""After the first round: so many times the median distance."""
MIN_PEAKS = 6


def refine(
    crystal: Crystal,
    peaks: Peaks,
    detector: Detector,
    photon_energy: float,
    recipe: RefinementRecipe,
    target: UnitCell,
    bandwidth: float = 0.0,
) -> Crystal | None:
    """Refine a crystal against the peaks of its frame; None where too few peaks belong to it.

    The returned crystal has its lattice type's exact symmetry, the node radius, mosaicity and resolution limit that the
    peaks show, the root mean square residual and, where the recipe says so, the detector's shift. Photon energy in eV,
    `bandwidth` its standard deviation, relative.
    """
    inverses, k = panel_inverses(detector), photon_energy / HC_EV_ANGSTROM
    q = detector.q(peaks.panel, peaks.fs, peaks.ss, photon_energy)
    panel = peaks.panel.astype(np.int64)
    bounds = detector.arrays.bounds[panel]
    place = np.stack([peaks.fs - bounds[:, 2], peaks.ss - bounds[:, 0]], axis=1).astype(np.float64)
    rotation, cell_basis = _constrained(crystal.basis, crystal.cell)
    shift = np.array(crystal.detector_shift, dtype=np.float64)
    real_basis = np.asarray(np.linalg.inv(cell_basis), dtype=np.float64)
    strains = allowed_strains(target, real_basis) if recipe.refine_cell else np.zeros((0, 3, 3))
    amplitudes = np.ascontiguousarray(np.linalg.pinv(strains.reshape(len(strains), 9).T)).reshape(len(strains), 9)
    which, hkl = paired(q, panel, place, inverses, k, rotation @ cell_basis, shift, PAIRING_DISTANCE)
    for _ in range(2):
        if len(which) < MIN_PEAKS:
            return None
        rotation, cell_basis, shift = least_squares(
            hkl, panel[which], place[which], inverses, k, rotation, cell_basis, shift,
            2 if recipe.detector_shift == "frame" else 0, strains, target.reciprocal_basis, amplitudes,
            recipe.cell_restraint, recipe.cycles,
        )  # fmt: skip
        error = residuals(hkl, panel[which], place[which], inverses, k, rotation @ cell_basis, shift)
        limit = max(1.0, STRICT_DISTANCE * float(np.median(np.hypot(error[:, 0], error[:, 1]))))
        which, hkl = paired(q, panel, place, inverses, k, rotation @ cell_basis, shift, min(limit, PAIRING_DISTANCE))
    if len(which) < MIN_PEAKS:
        return None
    basis = rotation @ cell_basis
    error = residuals(hkl, panel[which], place[which], inverses, k, basis, shift)
    nodes = hkl @ basis.T
    resolution = np.linalg.norm(nodes, axis=1)
    lean = 1 - (nodes[:, 2] + k) / (k - error[:, 2])
    intensity = peaks.intensity[which].astype(np.float64)
    radius, mosaicity = node_profile(np.ascontiguousarray(error[:, 2]), intensity, resolution, lean * k * bandwidth)
    return replace(
        crystal,
        cell=crystal.cell.with_basis(basis),
        basis=basis,
        profile_radius=radius,
        mosaicity=mosaicity,
        resolution_limit=_resolution_limit(resolution),
        detector_shift=(float(shift[0]), float(shift[1])),
        n_peaks=len(which),
        rms_residual=float(np.sqrt(np.mean(error[:, 0] ** 2 + error[:, 1] ** 2))),
    )


def allowed_strains(cell: UnitCell, basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Symmetric strains that keep the lattice type of a cell with real axes `basis` (rows), (n, 3, 3).

    1 for cubic, 2 for tetragonal, hexagonal and rhombohedral, 3 for orthorhombic, 4 for monoclinic, 6 for triclinic.
    """
    x, y, z = np.eye(3)
    axis = {"a": 0, "b": 1, "c": 2, None: 1 if cell.lattice_type == "monoclinic" else 2}[cell.unique_axis]
    unique = basis[axis] / np.linalg.norm(basis[axis])

    def pair(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        return (np.outer(u, v) + np.outer(v, u)) / 2

    match cell.lattice_type:
        case "cubic":
            strains = [np.eye(3)]
        case "rhombohedral" if cell.centring != "H":
            diagonal = basis.sum(axis=0)
            unique = diagonal / np.linalg.norm(diagonal)
            strains = [pair(unique, unique), np.eye(3) - pair(unique, unique)]
        case "tetragonal" | "hexagonal" | "rhombohedral":
            strains = [pair(unique, unique), np.eye(3) - pair(unique, unique)]
        case "orthorhombic":
            strains = [pair(x, x), pair(y, y), pair(z, z)]
        case "monoclinic":
            first = basis[(axis + 1) % 3] / np.linalg.norm(basis[(axis + 1) % 3])
            second = np.cross(unique, first)
            strains = [pair(unique, unique), pair(first, first), pair(second, second), pair(first, second)]
        case _:
            strains = [pair(x, x), pair(y, y), pair(z, z), pair(x, y), pair(x, z), pair(y, z)]
    return np.array(strains)


def _constrained(basis: NDArray[np.float64], cell: UnitCell) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The reciprocal basis of the symmetric cell nearest to a basis, and the rotation that brings it nearest."""
    parameters = symmetrise(parameters_of(np.asarray(np.linalg.inv(basis), dtype=np.float64)), cell)
    cell_basis = cell.with_parameters(parameters).reciprocal_basis
    u, _, vt = np.linalg.svd(basis @ np.linalg.inv(cell_basis))
    if np.linalg.det(u @ vt) < 0:
        u[:, 2] = -u[:, 2]
    return np.asarray(u @ vt), cell_basis


def _resolution_limit(resolution: NDArray[np.float64]) -> float:
    """|q| that all but the outermost peaks (two of them, or 2 %) stay within, 1/Å (METHODS.md section 5.2)."""
    ordered = np.sort(resolution)
    drop = max(2, round(0.02 * len(ordered)))
    return float(ordered[max(len(ordered) - 1 - drop, 0)])
