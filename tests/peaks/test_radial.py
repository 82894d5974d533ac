"""The kernels of the peak search against plain numpy."""

import numpy as np
import pytest
from scipy.ndimage import label

from sfxlab.peaks.radial import (
    MIN_PIXELS_IN_BIN,
    PASSES,
    lonely_pixels,
    pixel_thresholds,
    radial_background,
    search_panel,
)


def plain_background(data, bad, radius, clip):
    """The same statistics with boolean masks."""
    usable = (radius < 65535) & (bad == 0)
    n_radii = int(radius[radius < 65535].max()) + 1
    low, high = np.full(n_radii, -np.inf), np.full(n_radii, np.inf)
    for _ in range(PASSES):
        mean, sigma = np.zeros(n_radii), np.zeros(n_radii)
        r = np.where(usable, radius, 0)
        inside = usable & (data >= low[r]) & (data <= high[r])
        for k in range(n_radii):
            width = 0
            while True:
                ring = inside & (np.abs(radius.astype(int) - k) <= width)
                if ring.sum() >= MIN_PIXELS_IN_BIN or width >= n_radii:
                    break
                width += 1
            mean[k], sigma[k] = data[ring].mean(), data[ring].std()
        low, high = mean - clip * sigma, mean + clip * sigma
    return mean, sigma


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_radial_statistics_are_those_of_plain_numpy(dtype):
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:60, :70]
    radius = np.rint(np.hypot(x - 20, y - 30)).astype(np.uint16)
    radius[:, 40] = 65535
    data = rng.poisson(5 + 50 * np.exp(-radius.astype(float) / 20.0)).astype(dtype)
    bad = (rng.random(data.shape) < 0.05).astype(np.uint8)
    data[bad > 0] = 60000
    mean, sigma = radial_background(data, bad, radius, 3.0)
    expected_mean, expected_sigma = plain_background(data.astype(float), bad, radius, 3.0)
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-9)
    np.testing.assert_allclose(sigma, expected_sigma, rtol=1e-6)


@pytest.mark.parametrize(("mean", "gain"), [(0.05, 1.0), (0.5, 1.0), (3.0, 1.0), (30.0, 1.0), (20.0, 10.0)])
def test_photon_noise_passes_the_threshold_as_rarely_as_normal_noise_would(mean, gain):
    rng = np.random.default_rng(2)
    pixels = gain * rng.poisson(mean, 4_000_000)
    threshold = pixel_thresholds(np.array([gain * mean]), np.array([gain * np.sqrt(mean)]), gain, 3.5, 0.0)[0]
    assert (pixels > threshold).mean() < 2 * 2.33e-4  # one-sided tail of a normal distribution at 3.5 σ


def test_blobs_are_those_that_scipy_labels():
    rng = np.random.default_rng(3)
    data = rng.normal(10, 1, (80, 90)).astype(np.float32)
    for row, column in ((20, 20), (21, 21), (40, 60), (41, 60), (42, 61), (60, 10), (10, 80)):
        data[row, column] += 40
    data[0, 5] += 100  # on the border of the panel: left out
    bad = np.zeros(data.shape, dtype=np.uint8)
    radius = np.zeros(data.shape, dtype=np.uint16)
    found = np.empty((100, 7))
    bounds = np.array([0, 80, 0, 90])
    n = search_panel(data, bad, radius, np.array([25.0]), bounds, 1.0, 2, 50, 5.0, 4, np.zeros_like(bad), found, 0)
    labels, count = label(data > 25, structure=np.ones((3, 3)))
    sizes = [np.count_nonzero(labels == i) for i in range(1, count + 1)]
    assert sorted(found[:n, 6]) == sorted(size for size in sizes if size >= 2)
    np.testing.assert_allclose(sorted(found[:n, 1]), [21.0, 41.5], atol=0.15)


def test_lonely_pixels_are_those_without_a_neighbour_above_the_threshold():
    rng = np.random.default_rng(4)
    data = rng.normal(0, 1, (50, 60)).astype(np.float32)
    bad = (rng.random(data.shape) < 0.05).astype(np.uint8)
    radius = np.zeros(data.shape, dtype=np.uint16)
    radius[:, 30] = 65535
    above = (data > 1.5) & (bad == 0) & (radius == 0)
    labels, _ = label(above, structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel())[1:]
    lonely, good = lonely_pixels(data, bad, radius, np.array([1.5]), np.array([0, 50, 0, 60]))
    assert lonely == np.count_nonzero(sizes == 1)
    assert good == np.count_nonzero((bad == 0) & (radius == 0))
