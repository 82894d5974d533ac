"""Refinement of orientation, cell and profile radius."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sfxlab.crystal import Crystal, UnitCell, parameters_of, symmetrise
from sfxlab.diffraction import predict, refine
from sfxlab.diffraction.prediction import panel_inverses
from sfxlab.diffraction.refinement import (
    Model,
    Pairs,
    _moved,
    allowed_strains,
    gradients,
    profile_radius,
    residuals,
)
from sfxlab.geometry import HC_EV_ANGSTROM
from sfxlab.peaks import Peaks
from sfxlab.recipe import RefinementRecipe

ENERGY = 9500.0
CELLS = {
    "triclinic": UnitCell(40, 52, 63, 81, 94, 102),
    "monoclinic": UnitCell(61, 73, 52, 90, 105, 90, "monoclinic", "P", "b"),
    "orthorhombic": UnitCell(50, 60, 70, lattice_type="orthorhombic"),
    "tetragonal": UnitCell(79.3, 79.3, 37.8, lattice_type="tetragonal", unique_axis="c"),
    "hexagonal": UnitCell(93.4, 93.4, 131.1, 90, 90, 120, "hexagonal", "P", "c"),
    "rhombohedral": UnitCell(63, 63, 63, 63.4, 63.4, 63.4, "rhombohedral", "R"),
    "cubic": UnitCell(78, 78, 78, lattice_type="cubic"),
}


def made_crystal(cell, seed):
    rotation = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    return Crystal(cell, rotation @ cell.reciprocal_basis, 0.0004)


def made_peaks(crystal, detector, noise, seed):
    found = predict(crystal, detector, ENERGY)
    rng = np.random.default_rng(seed)
    n = len(found)
    fs, ss = found.fs + rng.normal(0, noise, n), found.ss + rng.normal(0, noise, n)
    one = np.ones(n, np.float32)
    return Peaks(
        found.panel, fs.astype(np.float32), ss.astype(np.float32), one, one, one,
        found.resolution.astype(np.float32), one, one.astype(np.int16),
    )  # fmt: skip


@pytest.mark.parametrize("kind", CELLS)
def test_strains_keep_the_lattice_type_and_nothing_else(kind):
    cell = CELLS[kind]
    strains = allowed_strains(cell, cell.real_basis)
    expected = {"cubic": 1, "tetragonal": 2, "hexagonal": 2, "rhombohedral": 2, "orthorhombic": 3, "monoclinic": 4}
    assert len(strains) == expected.get(kind, 6)
    for amplitudes in np.random.default_rng(1).normal(0, 0.02, (5, len(strains))):
        stretched = cell.real_basis @ (np.eye(3) + np.tensordot(amplitudes, strains, axes=1))
        parameters = parameters_of(stretched)
        np.testing.assert_allclose(parameters, symmetrise(parameters, cell), atol=1e-9)
    assert np.linalg.matrix_rank(strains.reshape(len(strains), 9)) == len(strains)


@pytest.mark.parametrize("kind", CELLS)
def test_gradients_are_those_of_finite_differences(kind, detector):
    cell = CELLS[kind]
    crystal = made_crystal(cell, 2)
    found = predict(crystal, detector, ENERGY)
    pairs = Pairs(found.hkl.astype(float), found.panel, found.fs + 0.3, found.ss - 0.2)
    geometry, k = (panel_inverses(detector), detector.arrays.bounds), ENERGY / HC_EV_ANGSTROM
    model = Model(crystal.basis @ np.linalg.inv(cell.reciprocal_basis), cell.reciprocal_basis)
    strains = allowed_strains(cell, cell.real_basis)
    analytic = gradients(model, pairs, geometry, k, strains)
    for i in range(3 + len(strains)):
        step = np.zeros(3 + len(strains))
        step[i] = 1e-6
        forward = residuals(_moved(model, step, strains), pairs, geometry, k)
        backward = residuals(_moved(model, -step, strains), pairs, geometry, k)
        np.testing.assert_allclose(analytic[:, :, i], (forward - backward) / 2e-6, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("kind", CELLS)
def test_a_wrong_orientation_and_cell_come_back(kind, detector):
    cell = CELLS[kind]
    true = made_crystal(cell, 3)
    peaks = made_peaks(true, detector, 0.2, 4)
    strains = allowed_strains(cell, cell.real_basis)
    amplitudes = np.random.default_rng(5).normal(0, 0.002, len(strains))
    stretched = np.linalg.inv(np.eye(3) + np.tensordot(amplitudes, strains, axes=1)) @ cell.reciprocal_basis
    turn = Rotation.from_rotvec([0.002, -0.0015, 0.001]).as_matrix()
    start_basis = turn @ (true.basis @ np.linalg.inv(cell.reciprocal_basis)) @ stretched
    start = Crystal(cell, start_basis, 0.002)
    refined = refine(start, peaks, detector, ENERGY, RefinementRecipe(), cell)
    assert refined is not None
    change = Rotation.from_matrix(refined.basis @ np.linalg.inv(true.basis))
    assert np.degrees(change.magnitude()) < 0.08  # 50 to 70 reflections with node radius 0.0004 1/Å
    np.testing.assert_allclose(refined.cell.lengths, cell.lengths, rtol=1.5e-3)
    np.testing.assert_allclose(refined.cell.angles, cell.angles, atol=0.1)
    np.testing.assert_allclose(refined.cell.parameters, symmetrise(np.array(refined.cell.parameters), cell), atol=1e-6)
    assert refined.rms_residual < 0.4
    assert refined.n_peaks > 0.9 * len(peaks)


def test_outliers_do_not_pull_the_crystal_away(detector):
    cell = CELLS["tetragonal"]
    true = made_crystal(cell, 6)
    peaks = made_peaks(true, detector, 0.2, 7)
    fs = peaks.fs.copy()
    fs[::5] += 3.0
    moved = Peaks(peaks.panel, fs, *(getattr(peaks, name) for name in
        ("ss", "intensity", "sigma", "snr", "resolution", "max_value", "n_pixels")))  # fmt: skip
    refined = refine(true, moved, detector, ENERGY, RefinementRecipe(), cell)
    assert refined is not None
    assert np.degrees(Rotation.from_matrix(refined.basis @ np.linalg.inv(true.basis)).magnitude()) < 0.08


def test_too_few_peaks_refine_nothing(detector):
    true = made_crystal(CELLS["tetragonal"], 8)
    peaks = made_peaks(true, detector, 0.2, 9)[np.arange(4)]
    assert refine(true, peaks, detector, ENERGY, RefinementRecipe(), CELLS["tetragonal"]) is None


def test_the_profile_radius_is_the_width_of_the_excitation_errors():
    rng = np.random.default_rng(10)
    errors = np.concatenate([rng.normal(0, 0.0007, 2000), rng.uniform(-0.01, 0.01, 100)])
    assert profile_radius(errors) == pytest.approx(0.0007, rel=0.1)
