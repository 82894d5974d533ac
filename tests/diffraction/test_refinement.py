"""Refinement of orientation, cell and detector shift."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from sfxlab.crystal import Crystal, UnitCell, parameters_of, symmetrise
from sfxlab.diffraction import predict, refine
from sfxlab.diffraction.prediction import panel_inverses
from sfxlab.diffraction.refinement import allowed_strains
from sfxlab.diffraction.refinement_kernels import gradients, least_squares, moved, paired, residuals
from sfxlab.geometry import HC_EV_ANGSTROM, Detector, Panel
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


def tilted_detector(rng):
    """Four panels around the beam, each tilted by some degrees about all axes."""
    panels = []
    for number in range(4):
        turn = Rotation.from_rotvec(rng.normal(0, 0.1, 3)).as_matrix()
        fs, ss = turn @ [1e-4, 0, 0], turn @ [0, 1e-4, 0]
        centre = np.array([0.02 * (number % 2) - 0.01, 0.02 * (number // 2) - 0.01, rng.uniform(0.07, 0.09)])
        corner = tuple(centre - 100 * fs - 100 * ss)
        panels.append(Panel(str(number), 0, 200 * number, 200, 200, corner, tuple(fs), tuple(ss), 200 * number, 0, 1.0))
    return Detector(tuple(panels), (200, 800), 0.08)


def problem(kind, seed):
    """Arguments of the kernels for a crystal of some kind on a tilted detector, the peaks off their predictions."""
    rng = np.random.default_rng(seed)
    detector, cell = tilted_detector(rng), CELLS[kind]
    crystal = made_crystal(cell, seed)
    found = predict(crystal, detector, ENERGY)
    bounds = detector.arrays.bounds[found.panel]
    place = np.stack([found.fs - bounds[:, 2], found.ss - bounds[:, 0]], axis=1) + rng.normal(0, 0.3, (len(found), 2))
    rotation = crystal.basis @ np.linalg.inv(cell.reciprocal_basis)
    strains = allowed_strains(cell, cell.real_basis)
    inverses, k = panel_inverses(detector), ENERGY / HC_EV_ANGSTROM
    return found.hkl.astype(float), found.panel.astype(int), place, inverses, k, rotation, cell, strains, detector


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(CELLS)), st.integers(0, 1000), st.floats(-1e-3, 1e-3), st.floats(-1e-3, 1e-3))
def test_gradients_are_those_of_finite_differences(kind, seed, shift_x, shift_y):
    hkl, panel, place, inverses, k, rotation, cell, strains, _ = problem(kind, seed)
    shift, reciprocal = np.array([shift_x, shift_y]), cell.reciprocal_basis
    analytic = gradients(hkl, panel, inverses, k, rotation, reciprocal, strains, shift, 2)
    m = 3 + len(strains)

    def at(step):
        turned, stretched = moved(rotation, reciprocal, step[:m], strains)
        return residuals(hkl, panel, place, inverses, k, turned @ stretched, shift + step[m:])

    for i in range(m + 2):
        step = np.zeros(m + 2)
        step[i] = 1e-6
        numeric = (at(step) - at(-step)) / 2e-6
        np.testing.assert_allclose(analytic[:, :, i], numeric, rtol=1e-4, atol=1e-5 * np.abs(numeric).max() + 1e-7)


@pytest.mark.parametrize("kind", CELLS)
def test_residuals_are_those_of_panels_that_were_moved(kind):
    """The kernel's closed form against predictions on a detector with its corners moved, projected one by one."""
    hkl, panel, place, inverses, k, rotation, cell, _, detector = problem(kind, 4)
    basis, shift = rotation @ cell.reciprocal_basis, np.array([3e-4, -2e-4])
    found = residuals(hkl, panel, place, inverses, k, basis, shift)
    for i in range(len(hkl)):
        ray, p = basis @ hkl[i] + [0, 0, k], detector.panels[panel[i]]
        v = np.linalg.solve(np.column_stack([np.array(p.corner) + [*shift, 0], p.fs, p.ss]), ray)
        expected = [v[1] / v[0] - place[i, 0], v[2] / v[0] - place[i, 1], k - np.linalg.norm(ray)]
        np.testing.assert_allclose(found[i], expected, rtol=1e-9, atol=1e-9)


def twin_of_least_squares(
    hkl, panel, place, inverses, k, rotation, reciprocal, shift, strains, cell, restraint, cycles
):
    """Gauss-Newton with Huber weights, in numpy; the scatter of the residuals sets their weights."""
    pixel, excitation, m = 1.0, 1e-3, 3 + len(strains)
    for _ in range(cycles):
        scale = np.array([pixel, pixel, excitation])
        r = residuals(hkl, panel, place, inverses, k, rotation @ reciprocal, shift) / scale
        size = np.sqrt((r[:, :2] ** 2).sum(axis=1) / 2)
        sizes = np.stack([size, size, np.abs(r[:, 2])], axis=1)
        weight = np.minimum(1, 2 / np.maximum(sizes, 1e-12))
        j = gradients(hkl, panel, inverses, k, rotation, reciprocal, strains, shift, 2) / scale[None, :, None]
        normal, right = np.einsum("nri,nr,nrj->ij", j, weight, j), np.einsum("nri,nr,nr->i", j, weight, r)
        change = cell.reciprocal_basis @ np.linalg.inv(reciprocal)
        strain = ((change + change.T) / 2 - np.eye(3)).ravel()
        amplitudes = np.linalg.lstsq(strains.reshape(-1, 9).T, strain, rcond=None)[0]
        normal += np.diag([0] * 3 + [restraint**-2] * len(strains) + [1e6] * 2)
        right += np.concatenate([[0] * 3, amplitudes / restraint**2, shift * 1e6])
        size = np.sqrt(np.diag(normal))
        step = -np.linalg.solve(normal / np.outer(size, size), right / size) / size
        rotation = Rotation.from_rotvec(step[:3]).as_matrix() @ rotation
        reciprocal = np.linalg.inv(np.eye(3) + np.tensordot(step[3:m], strains, axes=1)) @ reciprocal
        shift = shift + step[m:]
        after = residuals(hkl, panel, place, inverses, k, rotation @ reciprocal, shift)
        pixel = max(1.4826 * np.median(np.abs(after[:, :2])), 0.1)
        excitation = max(1.4826 * np.median(np.abs(after[:, 2])), 2e-5)
    return rotation, reciprocal, shift


@pytest.mark.parametrize("kind", CELLS)
def test_the_compiled_least_squares_are_those_of_numpy(kind):
    hkl, panel, place, inverses, k, rotation, cell, strains, _ = problem(kind, 5)
    rotation = Rotation.from_rotvec([0.001, -0.001, 0.002]).as_matrix() @ rotation
    amplitudes = np.linalg.pinv(strains.reshape(len(strains), 9).T)
    start, none = 1.002 * cell.reciprocal_basis, np.zeros(2)
    found = least_squares(
        hkl, panel, place, inverses, k, rotation, start, none.copy(), 2, strains, cell.reciprocal_basis, amplitudes,
        0.01, 4,
    )  # fmt: skip
    expected = twin_of_least_squares(hkl, panel, place, inverses, k, rotation, start, none, strains, cell, 0.01, 4)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_peaks_are_paired_with_the_nodes_that_are_near():
    hkl, panel, place, inverses, k, rotation, cell, _, detector = problem("orthorhombic", 6)
    basis = rotation @ cell.reciprocal_basis
    place[::4] += 20.0
    bounds = detector.arrays.bounds[panel]
    q = detector.q(panel, place[:, 0] + bounds[:, 2], place[:, 1] + bounds[:, 0], ENERGY)
    which, indices = paired(q, panel, place, inverses, k, basis, np.zeros(2), 5.0)
    expected = [i for i in range(len(hkl)) if i % 4]
    assert [i for i in which if i % 4] == expected
    np.testing.assert_array_equal(indices[which % 4 != 0], hkl[expected])


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


def moved_by_pixels(peaks, shift):
    """The same peaks as a detector sees them that stands a shift (m) further along x and y."""
    fs = peaks.fs - np.float32(shift[0] / 1e-4)
    ss = peaks.ss + np.float32(shift[1] / 1e-4)
    return Peaks(peaks.panel, fs, ss, *(getattr(peaks, name) for name in
        ("intensity", "sigma", "snr", "resolution", "max_value", "n_pixels")))  # fmt: skip


def test_a_detector_that_moved_is_followed_where_the_recipe_says_so(detector):
    cell, shift = CELLS["tetragonal"], (1.2e-4, -0.8e-4)
    errors = []
    for seed in range(5):
        true = made_crystal(cell, 30 + seed)
        peaks = moved_by_pixels(made_peaks(true, detector, 0.1, seed), shift)
        peaks = peaks[peaks.panel == 0]  # the panel that is not turned
        still = refine(true, peaks, detector, ENERGY, RefinementRecipe(refine_cell=False), cell)
        assert still is not None
        assert still.detector_shift == (0.0, 0.0)
        recipe = RefinementRecipe(refine_cell=False, detector_shift="frame")
        followed = refine(true, peaks, detector, ENERGY, recipe, cell)
        assert followed is not None
        assert followed.rms_residual < still.rms_residual
        errors.append(np.subtract(followed.detector_shift, shift))
    assert np.abs(np.median(errors, axis=0)).max() < 0.4e-4
