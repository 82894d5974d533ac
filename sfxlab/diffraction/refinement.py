"""Orientation, cell and profile radius of a crystal from the positions of its peaks.

METHODS.md section 5.4: robust least squares on the distance between peak and prediction in pixels and on the excitation
error, with analytic gradients. The cell changes only as its lattice type allows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from sfxlab.crystal import Crystal, UnitCell, parameters_of, symmetrise
from sfxlab.diffraction.prediction import panel_inverses
from sfxlab.geometry import HC_EV_ANGSTROM, Detector
from sfxlab.peaks import Peaks
from sfxlab.recipe import RefinementRecipe

PAIRING_INDEX_ERROR = 0.25
PAIRING_DISTANCE = 5.0
"""Peaks further than this from their prediction are not used, pixels."""
STRICT_DISTANCE = 3.0
"""After the first round: so many times the median distance."""
HUBER = 2.0
START_PIXEL, START_EXCITATION = 1.0, 1e-3
"""Standard deviations to begin with: 1 pixel weighs as much as 0.001 1/Å."""
MIN_PIXEL, MIN_EXCITATION = 0.1, 2e-5
MIN_PEAKS = 6


@dataclass(frozen=True)
class Pairs:
    """Peaks and the reflections they are taken for, each (n,) or (n, 3)."""

    hkl: NDArray[np.float64]
    panel: NDArray[np.int16]
    fs: NDArray[np.float64]
    ss: NDArray[np.float64]

    def __getitem__(self, which: NDArray[np.bool_]) -> Pairs:
        return Pairs(self.hkl[which], self.panel[which], self.fs[which], self.ss[which])


@dataclass(frozen=True)
class Model:
    """What is refined: basis = rotation @ cell_basis, columns in 1/Å."""

    rotation: NDArray[np.float64]
    cell_basis: NDArray[np.float64]

    @property
    def basis(self) -> NDArray[np.float64]:
        """Columns a*, b*, c* in the laboratory frame, 1/Å."""
        return np.asarray(self.rotation @ self.cell_basis)


def refine(
    crystal: Crystal, peaks: Peaks, detector: Detector, photon_energy: float, recipe: RefinementRecipe, target: UnitCell
) -> Crystal | None:
    """Refine a crystal against the peaks of its frame; None where too few peaks belong to it.

    The returned crystal has its lattice type's exact symmetry, the profile radius and resolution limit that the peaks
    show, and the root mean square residual. Photon energy in eV.
    """
    geometry = (panel_inverses(detector), detector.arrays.bounds)
    k = photon_energy / HC_EV_ANGSTROM
    q = detector.q(peaks.panel, peaks.fs, peaks.ss, photon_energy)
    model = _constrained(crystal.basis, crystal.cell)
    pairs = _pair(model, q, peaks, geometry, k, PAIRING_DISTANCE)
    for _ in range(2):
        if len(pairs.fs) < MIN_PEAKS:
            return None
        model = _least_squares(model, pairs, geometry, k, recipe, target)
        distance = _distances(model, pairs, geometry, k)
        limit = max(1.0, STRICT_DISTANCE * float(np.median(distance)))
        pairs = _pair(model, q, peaks, geometry, k, min(limit, PAIRING_DISTANCE))
    if len(pairs.fs) < MIN_PEAKS:
        return None
    excitation = residuals(model, pairs, geometry, k)[:, 2]
    distance = _distances(model, pairs, geometry, k)
    return replace(
        crystal,
        cell=crystal.cell.with_basis(model.basis),
        basis=model.basis,
        profile_radius=profile_radius(excitation),
        resolution_limit=_resolution_limit(np.linalg.norm(pairs.hkl @ model.basis.T, axis=1)),
        n_peaks=len(pairs.fs),
        rms_residual=float(np.sqrt(np.mean(distance**2))),
    )


def profile_radius(excitation: NDArray[np.float64]) -> float:
    """Radius of the nodes from the excitation errors of peaks, 1/Å: a robust standard deviation (1.4826 × median)."""
    return max(1.4826 * float(np.median(np.abs(excitation))), MIN_EXCITATION)


def residuals(
    model: Model, pairs: Pairs, geometry: tuple[NDArray[np.float64], NDArray[np.int64]], k: float
) -> NDArray[np.float64]:
    """fs, ss (pixels, predicted − observed) and excitation error (1/Å) of each pair, (n, 3)."""
    rays, v = _rays(model, pairs, geometry[0], k)
    bounds = geometry[1][pairs.panel]
    fs = v[:, 1] / v[:, 0] + bounds[:, 2] - pairs.fs
    ss = v[:, 2] / v[:, 0] + bounds[:, 0] - pairs.ss
    return np.stack([fs, ss, k - np.linalg.norm(rays, axis=1)], axis=1)


def gradients(
    model: Model,
    pairs: Pairs,
    geometry: tuple[NDArray[np.float64], NDArray[np.int64]],
    k: float,
    strains: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Derivatives of `residuals`, (n, 3, 3 + n_strains).

    The parameters are rotations about x, y, z (radians, right-handed) and the amplitudes of the symmetric strains
    (n_strains, 3, 3) of the real cell. For S with derivative ∂S: ∂v = D⁻¹∂S, ∂fs = (∂v₁ − f ∂v₀)/v₀ and likewise ss,
    ∂ε = −Ŝ·∂S; ∂S = u × q for a rotation about u, ∂S = −R G B h for a strain G.
    """
    rays, v = _rays(model, pairs, geometry[0], k)
    q = pairs.hkl @ model.basis.T
    changes = [np.cross(axis, q) for axis in np.eye(3)]
    in_cell = pairs.hkl @ model.cell_basis.T
    changes += [-(in_cell @ strain.T) @ model.rotation.T for strain in strains]
    unit = rays / np.linalg.norm(rays, axis=1)[:, None]
    f, s = v[:, 1] / v[:, 0], v[:, 2] / v[:, 0]
    out = np.empty((len(q), 3, len(changes)))
    for i, change in enumerate(changes):
        dv = np.einsum("nij,nj->ni", geometry[0][pairs.panel], change)
        out[:, 0, i] = (dv[:, 1] - f * dv[:, 0]) / v[:, 0]
        out[:, 1, i] = (dv[:, 2] - s * dv[:, 0]) / v[:, 0]
        out[:, 2, i] = -np.einsum("ni,ni->n", unit, change)
    return out


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


def _constrained(basis: NDArray[np.float64], cell: UnitCell) -> Model:
    """The symmetric cell nearest to a basis, in the rotation nearest to it."""
    parameters = symmetrise(parameters_of(np.asarray(np.linalg.inv(basis), dtype=np.float64)), cell)
    cell_basis = cell.with_parameters(parameters).reciprocal_basis
    u, _, vt = np.linalg.svd(basis @ np.linalg.inv(cell_basis))
    if np.linalg.det(u @ vt) < 0:
        u[:, 2] = -u[:, 2]
    return Model(np.asarray(u @ vt), cell_basis)


def _rays(
    model: Model, pairs: Pairs, inverses: NDArray[np.float64], k: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scattered rays S and their vectors v = D⁻¹S on the panels of the peaks, each (n, 3)."""
    rays = pairs.hkl @ model.basis.T
    rays[:, 2] += k
    return rays, np.einsum("nij,nj->ni", inverses[pairs.panel], rays)


def _distances(
    model: Model, pairs: Pairs, geometry: tuple[NDArray[np.float64], NDArray[np.int64]], k: float
) -> NDArray[np.float64]:
    r = residuals(model, pairs, geometry, k)
    return np.asarray(np.hypot(r[:, 0], r[:, 1]))


def _pair(
    model: Model,
    q: NDArray[np.float64],
    peaks: Peaks,
    geometry: tuple[NDArray[np.float64], NDArray[np.int64]],
    k: float,
    max_distance: float,
) -> Pairs:
    """Peaks whose indices are nearly whole and whose prediction is near."""
    indices = q @ np.linalg.inv(model.basis).T
    hkl = np.rint(indices)
    near = (np.abs(indices - hkl).max(axis=1) < PAIRING_INDEX_ERROR) & (np.abs(hkl).sum(axis=1) > 0)
    pairs = Pairs(hkl[near], peaks.panel[near], peaks.fs[near].astype(np.float64), peaks.ss[near].astype(np.float64))
    return pairs[_distances(model, pairs, geometry, k) < max_distance]


def _least_squares(
    model: Model,
    pairs: Pairs,
    geometry: tuple[NDArray[np.float64], NDArray[np.int64]],
    k: float,
    recipe: RefinementRecipe,
    target: UnitCell,
) -> Model:
    """Gauss-Newton with Huber weights; the scatter of the residuals sets their weights anew in each cycle."""
    real_basis = np.asarray(np.linalg.inv(model.cell_basis), dtype=np.float64)
    strains = allowed_strains(target, real_basis) if recipe.refine_cell else np.zeros((0, 3, 3))
    pixel, excitation = START_PIXEL, START_EXCITATION
    cost = math.inf
    for _ in range(recipe.cycles):
        scale = np.array([pixel, pixel, excitation])
        r = residuals(model, pairs, geometry, k) / scale
        size = np.sqrt((r[:, :2] ** 2).sum(axis=1) / 2)
        weight = np.stack([_huber(size), _huber(size), _huber(np.abs(r[:, 2]))], axis=1)
        j = gradients(model, pairs, geometry, k, strains) / scale[None, :, None]
        normal = np.einsum("nri,nr,nrj->ij", j, weight, j)
        right = np.einsum("nri,nr,nr->i", j, weight, r)
        normal += np.diag([0.0] * 3 + [1 / recipe.cell_restraint**2] * len(strains))
        right[3:] += _strain_from(model.cell_basis, target, strains) / recipe.cell_restraint**2
        normal += 1e-9 * np.trace(normal) * np.eye(len(normal))
        step = -np.linalg.solve(normal, right)
        model = _moved(model, step, strains)
        new_cost = float((weight * r**2).sum())
        if abs(cost - new_cost) < 1e-4 * new_cost and np.abs(step).max() < 1e-6:
            break
        cost = new_cost
        after = residuals(model, pairs, geometry, k)
        pixel = max(1.4826 * float(np.median(np.abs(after[:, :2]))), MIN_PIXEL)
        excitation = max(1.4826 * float(np.median(np.abs(after[:, 2]))), MIN_EXCITATION)
    return model


def _huber(size: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.minimum(1.0, HUBER / np.maximum(size, 1e-12)))


def _strain_from(
    cell_basis: NDArray[np.float64], target: UnitCell, strains: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Amplitudes of the strains that lead from the target cell to the present one, (n,)."""
    if len(strains) == 0:
        return np.zeros(0)
    change = target.reciprocal_basis @ np.linalg.inv(cell_basis)
    strain = (change + change.T) / 2 - np.eye(3)
    design = strains.reshape(len(strains), 9).T
    return np.asarray(np.linalg.lstsq(design, strain.ravel(), rcond=None)[0])


def _moved(model: Model, step: NDArray[np.float64], strains: NDArray[np.float64]) -> Model:
    rotation = Rotation.from_rotvec(step[:3]).as_matrix() @ model.rotation
    stretch = np.eye(3) + np.tensordot(step[3:], strains, axes=1) if len(strains) else np.eye(3)
    return Model(rotation, np.linalg.inv(stretch) @ model.cell_basis)


def _resolution_limit(resolution: NDArray[np.float64]) -> float:
    """|q| that all but the outermost peaks (two of them, or 2 %) stay within, 1/Å (METHODS.md section 5.2)."""
    ordered = np.sort(resolution)
    drop = max(2, round(0.02 * len(ordered)))
    return float(ordered[max(len(ordered) - 1 - drop, 0)])
