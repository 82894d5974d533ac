"""Where and how strongly a still shows a node, against integrals done the long way."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sfxlab.geometry import Detector
from sfxlab.simulation import LYSOZYME
from sfxlab.simulation.spots import Beam, Lattice, _excited, diffracted_spots, excitation_error, partiality
from sfxlab.simulation.structure_factors import Intensities, model_intensities

BEAM = Beam(9500.0, 0.001)


@pytest.fixture(scope="module")
def intensities() -> Intensities:
    return model_intensities(LYSOZYME, gemmi.SpaceGroup("P 43 21 2"), 2.5, 20.0, np.random.default_rng(3))


@pytest.fixture(scope="module")
def lattice() -> Lattice:
    rotation = Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix()
    return Lattice(rotation @ LYSOZYME.reciprocal_basis, 5e-4, 2e-4)


def node_radius(q: np.ndarray, lattice: Lattice) -> np.ndarray:
    return lattice.node_radius + lattice.mosaicity * np.linalg.norm(q, axis=-1)


def spectrum(beam: Beam, points: int = 801) -> tuple[np.ndarray, np.ndarray]:
    """Wavenumbers and their weights, which sum to 1."""
    x = np.linspace(-6, 6, points)
    weight = np.exp(-(x**2) / 2)
    return beam.k * (1 + beam.bandwidth * x), weight / weight.sum()


def test_partiality_is_the_integral_over_the_spectrum_of_each_wavelengths_slice(lattice: Lattice) -> None:
    rng = np.random.default_rng(4)
    # Nodes near the sphere: rays in all directions, pushed off by up to three node radii.
    directions = Rotation.from_euler("zx", np.stack([rng.uniform(0, 6, 50), rng.uniform(0.05, 0.7, 50)], 1))
    rays = directions.apply([0, 0, 1]) * (BEAM.k + rng.uniform(-1.5e-3, 1.5e-3, 50))[:, None]
    q = rays - np.array([0, 0, BEAM.k])
    k, weight = spectrum(BEAM)
    radius = node_radius(q, lattice)[:, None]
    # Excitation error of every node for every wavenumber; a slice through a normalised Gaussian.
    errors = np.linalg.norm(q[:, None] + k[:, None] * np.array([0, 0, 1]), axis=2) - k
    slices = np.exp(-(errors**2) / (2 * radius**2)) / radius * lattice.node_radius
    assert np.allclose(partiality(q, lattice, BEAM), slices @ weight, rtol=0.02, atol=1e-5)


def test_a_monochromatic_perfect_node_on_the_sphere_is_recorded_completely() -> None:
    lattice = Lattice(LYSOZYME.reciprocal_basis, 5e-4, 0.0)
    ray = np.array([[np.sin(0.3), 0.0, np.cos(0.3)]]) * BEAM.k
    q = ray - np.array([0, 0, BEAM.k])
    assert partiality(q, lattice, Beam(9500.0, 0.0)) == pytest.approx(1.0)


def test_the_excitation_error_is_positive_inside_the_sphere() -> None:
    ray = np.array([[np.sin(0.3), 0.0, np.cos(0.3)]])
    z = np.array([0, 0, BEAM.k])
    assert excitation_error(ray * (BEAM.k - 1e-3) - z, BEAM.k) == pytest.approx(1e-3)


# The closed form is of first order in the bandwidth.
@pytest.mark.parametrize(("bandwidth", "tolerance"), [(1e-5, 0.01), (1e-3, 0.01), (5e-3, 0.1)])
def test_centroids_and_shapes_are_those_of_all_rays_that_a_node_sends_out(
    bandwidth: float, tolerance: float, intensities: Intensities, lattice: Lattice, detector: Detector
) -> None:
    beam = Beam(9500.0, bandwidth)
    spots = diffracted_spots(lattice, intensities, beam, detector, 0.0)
    k, weight = spectrum(beam, 61)
    for i in np.random.default_rng(1).choice(len(spots.fs), 12, replace=False):
        q = lattice.basis @ spots.hkl[i]
        radius = node_radius(q, lattice)
        # Every point of every wavelength's Ewald sphere around the node, and how dense the node is there.
        along = (q + [0, 0, beam.k]) / np.linalg.norm(q + [0, 0, beam.k])
        across = np.linalg.svd(along[None])[2][1:]
        # Rays spread by the node's radius, and by the spectrum across the beam.
        reach = 5 * np.hypot(radius, beam.k * bandwidth * np.hypot(*along[:2])) / beam.k
        steps = np.linspace(-reach, reach, 61)
        directions = along + np.tensordot(np.stack(np.meshgrid(steps, steps), -1), across, 1)
        directions /= np.linalg.norm(directions, axis=-1)[..., None]
        rays = k[:, None, None, None] * directions
        points = rays - k[:, None, None, None] * np.array([0, 0, 1])
        density = np.exp(-np.sum((points - q) ** 2, axis=-1) / (2 * radius**2)) * weight[:, None, None]
        panel = detector.panels[spots.panel[i]]
        v = rays @ np.linalg.inv(np.array([panel.corner, panel.fs, panel.ss]).T).T
        f, s = v[..., 1] / v[..., 0] + panel.column, v[..., 2] / v[..., 0] + panel.row
        f_mean, s_mean = (np.sum(x * density) / density.sum() for x in (f, s))
        assert (f_mean, s_mean) == pytest.approx((spots.fs[i], spots.ss[i]), abs=tolerance)
        for x, x_mean, variance in ((f, f_mean, 0), (s, s_mean, 2)):
            sampled = np.sum((x - x_mean) ** 2 * density) / density.sum()
            assert sampled == pytest.approx(spots.covariance[i, variance], rel=0.03)


def test_the_kernel_finds_the_reflections_that_a_search_through_all_finds(
    intensities: Intensities, lattice: Lattice
) -> None:
    hkl = np.argwhere(intensities.dense > 0) - (np.array(intensities.dense.shape) - 1) // 2
    q = hkl @ lattice.basis.T
    cosine = (q[:, 2] + BEAM.k) / np.linalg.norm(q + [0, 0, BEAM.k], axis=1)
    width = np.hypot(node_radius(q, lattice), (1 - cosine) * BEAM.k * BEAM.bandwidth)
    near = np.abs(excitation_error(q, BEAM.k)) < 4 * width
    near &= np.linalg.norm(q, axis=1) < 1 / intensities.d_min
    found = _excited(
        intensities.dense, lattice.basis, BEAM.k, BEAM.k * BEAM.bandwidth, lattice.node_radius, lattice.mosaicity,
        1 / intensities.d_min,
    )  # fmt: skip
    assert len(found) > 100
    assert {tuple(x) for x in found} == {tuple(x) for x in hkl[near]}
