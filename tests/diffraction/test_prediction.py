"""Which reflections are predicted, and where: against the numbers of METHODS.md and against the whole index box."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from sfxlab.crystal import Crystal, UnitCell
from sfxlab.diffraction import predict
from sfxlab.diffraction.prediction import near_sphere
from sfxlab.geometry import HC_EV_ANGSTROM, Detector, Panel


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
