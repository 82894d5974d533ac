"""Which reflections are predicted, and where: against the numbers of METHODS.md and against the whole index box."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from sfxlab.crystal import Crystal, UnitCell
from sfxlab.diffraction import predict
from sfxlab.diffraction.prediction import excitation, near_sphere, on_detector, panel_inverses
from sfxlab.geometry import HC_EV_ANGSTROM, Detector, Panel
from sfxlab.simulation import instrument


@pytest.fixture(scope="module")
def appendix() -> tuple[Crystal, Detector]:
    """Panel and crystal of METHODS.md appendix A."""
    pixel = 1 / 13333.333
    fs, ss = (0.99998015 * pixel, 0.0063 * pixel, 0.0), (-0.0063 * pixel, 0.99998015 * pixel, 0.0)
    panel = Panel("p", 0, 0, 300, 900, (-500.25 * pixel, 20.5 * pixel, 0.1507), fs, ss)
    real = np.array([[70.0, 20, 30], [-25, 72, 12], [-11, -14, 33]])
    basis = np.linalg.inv(real)
    crystal = Crystal(UnitCell(70, 70, 30).with_basis(basis), basis, profile_radius=0.002)
    return crystal, Detector((panel,), (300, 900), 0.1507)


def test_predictions_are_those_of_the_appendix(appendix):
    crystal, detector = appendix
    found = predict(crystal, detector, 9300.0)
    rows = {tuple(hkl): i for i, hkl in enumerate(found.hkl.tolist())}
    for hkl, error, fs, ss in (
        ((-12, 5, 1), 0.000241415, 40.32548, 19.28528),
        ((-10, 4, 1), -0.000678630, 118.71685, 3.32207),
        ((-10, 9, 0), 0.000179037, 73.47687, 183.87900),
    ):
        i = rows[hkl]
        assert found.excitation_error[i] == pytest.approx(error, abs=1e-9)
        assert (found.fs[i], found.ss[i]) == pytest.approx((fs, ss), abs=2e-4)
    i = rows[-12, 5, 1]
    assert found.resolution[i] == pytest.approx(0.1690579, abs=1e-7)
    assert found.partiality[i] == pytest.approx(np.exp(-0.5 * (0.000241415 / 0.002) ** 2))


def test_the_least_partiality_bounds_the_excitation_error(appendix):
    crystal, detector = appendix
    found = predict(crystal, detector, 9300.0, min_partiality=0.235746)
    assert np.abs(found.excitation_error).max() <= 1.7 * 0.002
    assert np.abs(found.excitation_error).max() > 1.5 * 0.002
    assert found.partiality.min() >= 0.2357


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_short_intervals_find_what_the_whole_box_holds(seed):
    rng = np.random.default_rng(seed)
    basis = Rotation.random(rng=rng).as_matrix() @ np.linalg.inv(
        np.diag(rng.uniform(20, 60, 3)) + rng.uniform(-5, 5, (3, 3))
    )
    k, width, reach = 0.8, rng.uniform(0.0005, 0.004), 0.35
    h = np.stack(np.meshgrid(*[np.arange(-40, 41)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    q = h @ basis.T
    near = np.abs(np.linalg.norm(q + [0, 0, k], axis=1) - k) <= width
    expected = h[near & (np.linalg.norm(q, axis=1) <= reach) & np.any(h != 0, axis=1)]
    found = near_sphere(basis, k, width, reach)
    assert {tuple(x) for x in found.tolist()} == {tuple(x) for x in expected.tolist()}


def test_forbidden_reflections_of_a_centred_cell_are_not_predicted(appendix):
    _, detector = appendix
    cell = UnitCell(80, 80, 40, lattice_type="tetragonal", centring="I", unique_axis="c")
    basis = Rotation.random(rng=np.random.default_rng(4)).as_matrix() @ cell.reciprocal_basis
    found = predict(Crystal(cell, basis, 0.002), detector, 9300.0)
    assert len(found) > 10
    assert np.all(found.hkl.sum(axis=1) % 2 == 0)


def test_predicted_positions_scatter_back_to_the_reflections(detector):
    cell = UnitCell(79.3, 79.3, 37.8, lattice_type="tetragonal", unique_axis="c")
    basis = Rotation.random(rng=np.random.default_rng(5)).as_matrix() @ cell.reciprocal_basis
    crystal = Crystal(cell, basis, 0.0005)
    found = predict(crystal, detector, 9500.0)
    q = detector.q(found.panel, found.fs, found.ss, 9500.0)
    ray = crystal.q(found.hkl) + [0, 0, 9500.0 / HC_EV_ANGSTROM]
    ray *= (9500.0 / HC_EV_ANGSTROM) / np.linalg.norm(ray, axis=1)[:, None]
    np.testing.assert_allclose(q + [0, 0, 9500.0 / HC_EV_ANGSTROM], ray, atol=1e-9)
    assert set(found.panel.tolist()) == {0, 1}


def whole_box(crystal, detector, energy, bandwidth, widths, q_max):
    """Reflections in the order of their indices, their ε, p, and fs, ss: every index tried, every panel tried."""
    k = energy / HC_EV_ANGSTROM
    most = [int(length * q_max) + 1 for length in np.linalg.norm(crystal.real_basis, axis=1)]
    h = np.stack(np.meshgrid(*[np.arange(-m, m + 1) for m in most], indexing="ij"), axis=-1).reshape(-1, 3)
    q = h @ crystal.basis.T
    length = np.linalg.norm(q, axis=1)
    kept = (length <= q_max) & (length > 0) & crystal.cell.allows(h)
    h, q, length = h[kept], q[kept], length[kept]
    ray = q + [0, 0, k]
    size = np.linalg.norm(ray, axis=1)
    error, lean = k - size, 1 - ray[:, 2] / size
    total = (crystal.profile_radius + crystal.mosaicity * length) ** 2 + (lean * k * bandwidth) ** 2
    ray[:, 2] -= error * lean * (k * bandwidth) ** 2 / total
    rows = []
    for i in np.flatnonzero(error**2 <= widths**2 * total):
        for number, panel in enumerate(detector.panels):
            corner = np.array(panel.corner) + [*crystal.detector_shift, 0.0]
            v = np.linalg.solve(np.stack([corner, panel.fs, panel.ss], axis=1), ray[i])
            f, s = v[1] / v[0], v[2] / v[0]
            if v[0] > 0 and 0 <= f < panel.columns and 0 <= s < panel.rows:
                share = np.exp(-0.5 * error[i] ** 2 / total[i])
                rows.append([*h[i], number, error[i], share, f + panel.column, s + panel.row])
                break
    return np.array(rows)


LATTICES = [
    UnitCell(31, 42, 57, 80, 95, 103),
    UnitCell(41, 52, 36, 90, 107, 90, "monoclinic", "C", "b"),
    UnitCell(38, 47, 63, lattice_type="orthorhombic", centring="F"),
    UnitCell(55, 55, 40, lattice_type="tetragonal", centring="I", unique_axis="c"),
    UnitCell(48, 48, 71, 90, 90, 120, "rhombohedral", "H", "c"),
    UnitCell(52, 52, 52, lattice_type="cubic", centring="I"),
]
HIGHEST = 0.2497  # 1/Å; no reflection of these cells lies there exactly


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from(LATTICES))
@example(8257, LATTICES[4])
def test_predictions_are_those_of_the_whole_box_and_of_all_panels(detector, seed, cell):
    rng = np.random.default_rng(seed)
    crystal = Crystal(
        cell, Rotation.random(rng=rng).as_matrix() @ cell.reciprocal_basis, rng.uniform(2e-4, 2e-3),
        detector_shift=(rng.uniform(-2e-4, 2e-4), rng.uniform(-2e-4, 2e-4)), mosaicity=rng.choice([0.0, 2e-3]),
    )  # fmt: skip
    bandwidth, least, over = rng.choice([0.0, 1e-3, 2e-2]), rng.uniform(0.05, 0.5), rng.choice([1.0, 1.5])
    found = predict(
        crystal,
        detector,
        9500.0,
        bandwidth=bandwidth,
        min_partiality=least,
        overprediction=over,
        max_resolution=HIGHEST,
    )
    expected = whole_box(crystal, detector, 9500.0, bandwidth, over * np.sqrt(-2 * np.log(least)), HIGHEST)
    np.testing.assert_array_equal(found.hkl, expected[:, :3])
    np.testing.assert_array_equal(found.panel, expected[:, 3])
    for name, column in (("excitation_error", 4), ("partiality", 5), ("fs", 6), ("ss", 7)):
        np.testing.assert_allclose(getattr(found, name), expected[:, column], rtol=1e-7, atol=1e-9)


def test_spots_lie_between_the_projections_along_the_ray_and_through_the_node():
    """A node beside the sphere, seen by a narrow and by a wide spectrum: METHODS.md section 5.1."""
    hkl, basis, k = np.array([[10, 0, 0]]), np.eye(3) * 0.03, 0.7
    basis[2, 0] = -0.0066
    narrow, wide = (excitation(hkl, basis, k, sigma, 1e-3, 0.0)[2][0] for sigma in (1e-9, 1.0))
    q = basis[:, 0] * 10
    np.testing.assert_allclose(narrow, q + [0, 0, k])
    # With that wavenumber the node is on the sphere: k = −|q|²/(2 q_z).
    np.testing.assert_allclose(wide, q + [0, 0, -(q @ q) / (2 * q[2])], rtol=1e-3)
    between = excitation(hkl, basis, k, 1e-3, 1e-4, 0.0)[2][0]
    assert min(narrow[2], wide[2]) < between[2] < max(narrow[2], wide[2])


@pytest.mark.parametrize("name", instrument.DETECTORS)
def test_panels_are_found_wherever_a_ray_meets_one(name):
    detector = instrument.load_preset(name, 9500.0).detector
    rng = np.random.default_rng(8)
    a = detector.arrays
    panel = rng.integers(0, len(a.bounds), 5000)
    fs, ss = (
        a.bounds[panel, i] + rng.uniform(1e-6, 1, 5000) * (a.bounds[panel, i + 1] - a.bounds[panel, i]) for i in (2, 0)
    )
    rays = detector.positions(panel, fs, ss) * rng.uniform(0.1, 10, (5000, 1))
    grid = detector.panel_grid
    found = on_detector(
        np.concatenate([rays, -rays]), panel_inverses(detector), a.bounds,
        grid.origin, grid.cell, grid.columns, grid.first, grid.panels,
    )  # fmt: skip
    np.testing.assert_array_equal(found[0][:5000], panel)
    np.testing.assert_allclose(found[1][:5000], fs, atol=1e-6)
    np.testing.assert_allclose(found[2][:5000], ss, atol=1e-6)
    assert np.all(found[0][5000:] == -1)
    assert np.diff(grid.first).max() <= 8
