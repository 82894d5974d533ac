"""Radius of the nodes of a crystal, from simulated peaks with truth."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.spatial.transform import Rotation

from sfxlab.crystal import UnitCell
from sfxlab.diffraction.node_profile import log_likelihood, node_profile, width
from sfxlab.geometry import Detector, Panel
from sfxlab.simulation.spots import Beam, Lattice, diffracted_spots, excitation_error
from sfxlab.simulation.structure_factors import lowest_space_group, model_intensities

CELL = UnitCell(79.3, 79.3, 37.8, lattice_type="tetragonal", unique_axis="c")
PIXEL = 1e-4
DETECTOR = Detector(
    (Panel("a", 0, 0, 2000, 2000, (-0.1, -0.1, 0.12), (PIXEL, 0, 0), (0, PIXEL, 0), 0, 0, 1.0),), (2000, 2000), 0.12
)


@pytest.fixture(scope="module")
def intensities():
    return model_intensities(CELL, lowest_space_group(CELL), 2.2, 25.0, np.random.default_rng(0))


def brightest(intensities, radius, mosaicity, bandwidth, n, seed, outliers=0.0):
    """ε, intensity, |q| and σ_p of the n brightest spots of a simulated crystal; a share of ε is made up."""
    rng = np.random.default_rng(seed)
    lattice = Lattice(Rotation.random(rng=rng).as_matrix() @ CELL.reciprocal_basis, radius, mosaicity)
    beam = Beam(9500.0, bandwidth)
    spots = diffracted_spots(lattice, intensities, beam, DETECTOR, 0.7)
    order = np.argsort(-spots.photons)[:n]
    q = spots.hkl[order] @ lattice.basis.T
    error = excitation_error(q, beam.k)
    wrong = rng.random(n) < outliers
    error[wrong] = rng.uniform(-0.004, 0.004, np.count_nonzero(wrong))
    rays = q + [0, 0, beam.k]
    spread = (1 - rays[:, 2] / np.linalg.norm(rays, axis=1)) * beam.k * bandwidth
    noise = np.exp(rng.normal(0, 0.1, n))
    return error, spots.photons[order] * noise, np.linalg.norm(q, axis=1), spread


@pytest.mark.parametrize("n", [40, 120, 300])
@pytest.mark.parametrize(("radius", "bandwidth"), [(5e-4, 0.0), (1e-3, 0.0), (3e-4, 1e-3)])
def test_the_radius_is_the_true_one_however_many_spots_are_bright_enough(intensities, radius, bandwidth, n):
    """The width of the errors themselves goes from half the radius to twice as much."""
    found = [node_profile(*brightest(intensities, radius, 0.0, bandwidth, n, seed))[0] for seed in range(24)]
    assert np.median(found) == pytest.approx(radius, rel=0.1)


def test_outliers_do_not_widen_the_nodes(intensities):
    found = [node_profile(*brightest(intensities, 5e-4, 0.0, 0.0, 120, seed, 0.05))[0] for seed in range(24)]
    assert np.median(found) == pytest.approx(5e-4, rel=0.1)


def test_mosaicity_is_found_where_it_is_and_not_where_it_is_not(intensities):
    with_it = np.array([node_profile(*brightest(intensities, 3e-4, 1e-3, 1e-3, 300, seed)) for seed in range(16)])
    without = np.array([node_profile(*brightest(intensities, 5e-4, 0.0, 0.0, 300, seed)) for seed in range(16)])
    assert np.median(with_it[:, 1]) == pytest.approx(1e-3, rel=0.25)
    assert np.median(with_it[:, 0]) == pytest.approx(3e-4, rel=0.25)
    assert np.count_nonzero(without[:, 1]) <= 2


def test_equal_intensities_tell_nothing_so_that_the_width_counts():
    rng = np.random.default_rng(10)
    errors = np.concatenate([rng.normal(0, 0.0007, 2000), rng.uniform(-0.01, 0.01, 100)])
    n = len(errors)
    radius, mosaicity = node_profile(errors, np.ones(n), rng.uniform(0.1, 0.4, n), np.zeros(n))
    assert radius == width(errors) == pytest.approx(0.0007, rel=0.05)
    assert mosaicity == 0


@pytest.mark.parametrize("n", [1, 3, 12])
def test_few_peaks_give_a_positive_radius(n):
    rng = np.random.default_rng(n)
    radius, mosaicity = node_profile(
        rng.normal(0, 5e-4, n), rng.exponential(100, n), rng.uniform(0.1, 0.4, n), np.zeros(n)
    )
    assert 1e-5 < radius < 1e-2
    assert mosaicity == 0


@pytest.mark.parametrize("log_mean", [-1.5, 0.0, 2.0, 6.0])
def test_the_density_of_peaks_integrates_to_one(log_mean):
    """Over all excitation errors and all intensities above t = 1, without outliers, for R = 1 and Ī = exp(log_mean)."""
    parameters, one, nothing = np.array([0.0, log_mean, 0.0]), np.ones(1), np.zeros(1)

    def density(x, log_intensity):
        value = log_likelihood(parameters, np.array([x]), np.array([log_intensity]), nothing, one, nothing, nothing)
        return np.exp(value) / 0.97 * np.exp(log_intensity)

    reach = np.sqrt(2 * np.log(60) + 2 * max(log_mean, 0) + 8)
    log_intensities = np.linspace(0, max(log_mean, 0) + 5, 400)
    inner = [quad(density, 0, reach, args=(u,), limit=200)[0] for u in log_intensities]
    assert 2 * np.trapezoid(inner, log_intensities) == pytest.approx(1, rel=0.02)
