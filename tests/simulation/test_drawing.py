"""Spots into pixels and back."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import maximum_filter, uniform_filter
from scipy.stats import multivariate_normal

from sfxlab.geometry import Detector
from sfxlab.simulation.drawing import draw_gaussians, find_true_peaks

WHOLE = np.array([[0, 40, 0, 50]])


def drawn(fs: float, ss: float, covariance: tuple[float, float, float], bounds: np.ndarray = WHOLE) -> np.ndarray:
    image = np.zeros((40, 50))
    draw_gaussians(
        image, bounds, np.array([fs]), np.array([ss]), np.array([covariance]), np.array([1000.0])
    )  # fmt: skip
    return image


def test_a_spot_keeps_its_photons_its_centre_and_its_shape() -> None:
    image = drawn(20.3, 17.8, (1.5, 0.4, 0.7))
    f, s = np.arange(50) + 0.5, (np.arange(40) + 0.5)[:, None]
    assert image.sum() == pytest.approx(1000, rel=2e-3)
    assert np.sum(image * f) / image.sum() == pytest.approx(20.3, abs=2e-3)
    assert np.sum(image * s) / image.sum() == pytest.approx(17.8, abs=2e-3)
    assert np.sum(image * (f - 20.3) * (s - 17.8)) / image.sum() == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize(("samples", "tolerance"), [(4, 0.02), (12, 5.0)])
def test_pixels_hold_the_mean_of_the_density_at_sixteen_points_or_very_nearly_its_integral(
    samples: int, tolerance: float
) -> None:
    image = drawn(20.3, 17.8, (0.2, 0.05, 0.3))
    fine = (np.arange(samples) + 0.5) / samples
    rows, columns = (np.arange(40)[:, None] + fine).ravel(), (np.arange(50)[:, None] + fine).ravel()
    fs, ss = np.meshgrid(columns, rows)
    density = multivariate_normal([20.3, 17.8], [[0.2, 0.05], [0.05, 0.3]]).pdf(np.stack([fs, ss], axis=-1))
    expected = 1000 * density.reshape(40, samples, 50, samples).mean(axis=(1, 3))
    assert np.allclose(image, expected, rtol=0, atol=tolerance)


def test_a_spot_does_not_leave_its_panel() -> None:
    image = drawn(20.3, 17.8, (1.5, 0.4, 0.7), np.array([[0, 40, 0, 20]]))
    assert not image[:, 20:].any()
    assert image[:, :20].any()


def test_true_peaks_are_the_local_maxima_with_more_than_eight_photons(detector: Detector) -> None:
    rng = np.random.default_rng(6)
    image = np.zeros(detector.shape)
    n = 150
    column, row = rng.uniform(8, 504, n), rng.uniform(8, 504, n)
    bounds = np.tile([0, 512, 0, 512], (n, 1))
    draw_gaussians(image, bounds, column, row, np.tile([0.5, 0.1, 0.6], (n, 1)), rng.uniform(1, 60, n))
    peaks = find_true_peaks(image, detector)
    # Away from the panels' edges the same as with filters over the whole image.
    sums = 25 * uniform_filter(image, 5, mode="constant")
    maxima = np.argwhere((image == maximum_filter(image, 3)) & (sums > 8))
    inner = np.abs(maxima[:, 1] - 256) > 4
    expected = {tuple(x) for x in maxima[inner]}
    found = {(r, c) for r, c in zip(peaks.row, peaks.column, strict=True) if abs(c - 256) > 4}
    assert found == expected
    assert len(expected) > 80
    assert np.allclose(
        peaks.photons[np.abs(peaks.column - 256) > 4], sums[peaks.row, peaks.column][np.abs(peaks.column - 256) > 4]
    )
    assert np.array_equal(peaks.panel, (peaks.column >= 256).astype(int))
