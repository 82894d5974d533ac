"""Statistics of bins and thresholds against plain numpy and numpy's random numbers."""

from itertools import pairwise

import numpy as np
import pytest

from sfxlab.peaks.background import bin_statistics, clipped_sums, pixel_thresholds, remedian, take_samples
from sfxlab.peaks.pixel_bins import SAMPLES


def statistics(values, gain, wide=False, tiles=()):
    """Mean, variance and quantum of the bins of tiles that begin at `tiles` besides 0."""
    found = np.empty((3, values.shape[1]), np.float32)
    for first, end in pairwise((0, *tiles, values.shape[1])):
        of_tile = np.ascontiguousarray(values[:, first:end], dtype=np.float32)
        bin_statistics(of_tile, gain, wide, *found[:, first:end])
    return found


def test_samples_that_are_missing_bad_or_no_number_are_infinite():
    data = np.arange(10, dtype=np.float32)
    data[3] = np.nan
    bad = np.zeros(10, np.uint8)
    bad[5] = 1
    samples = np.array([[0, 3, 5, -1], [9, 3, 5, -1]], dtype=np.int32)
    values = np.empty(samples.shape, np.float32)
    take_samples(data, bad, True, samples, 0, values)
    np.testing.assert_array_equal(values, [[0, np.inf, np.inf, np.inf], [9, -np.inf, -np.inf, -np.inf]])
    take_samples(data, bad, False, samples, 0, values)
    assert values[0, 2] == 5
    last = np.empty((2, 2), np.float32)
    take_samples(data, bad, False, samples, 2, last)
    np.testing.assert_array_equal(last, values[:, 2:])


def test_the_remedian_is_the_median_of_medians_of_three():
    values = np.random.default_rng(1).normal(0, 1, (SAMPLES, 500)).astype(np.float32)
    expected = values
    while len(expected) > 1:
        expected = np.median(expected.reshape(-1, 3, 500), axis=1)
    found = np.empty(500, np.float32)
    remedian(values.copy(), found)
    np.testing.assert_array_equal(found, expected[0])


def test_clipped_sums_are_those_of_plain_numpy():
    rng = np.random.default_rng(2)
    values = rng.normal(5, 2, (SAMPLES, 40)).astype(np.float32)
    values[::4, ::3] = np.inf
    centre, reach = rng.normal(5, 1, 40).astype(np.float32), rng.uniform(1, 5, 40).astype(np.float32)
    sums = np.empty((4, 40), np.float32)
    clipped_sums(values, centre, reach, sums)
    inside = np.abs(values - centre) <= reach
    deviation = np.where(inside, values - centre, 0).astype(np.float64)
    for row, power in zip(sums, range(4), strict=True):
        np.testing.assert_allclose(row, np.sum(inside * deviation**power, axis=0), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("mean", [0.02, 0.3, 3.0, 50.0])
@pytest.mark.parametrize(("gain", "noise", "pedestal"), [(1, 0, 0), (30, 0.3, 0), (100, 1.0, -5000), (8, 0.2, 4000)])
def test_mean_and_variance_are_those_of_the_noise_whatever_else_is_there(mean, gain, noise, pedestal):
    rng = np.random.default_rng(3)
    values = gain * (rng.poisson(mean, (SAMPLES, 3000)) + rng.normal(0, noise, (SAMPLES, 3000))) + pedestal
    values[rng.random(values.shape) < 0.02] += 300 * gain  # spots
    values[rng.random(values.shape) < 0.01] = -1e7
    values[1::7, :100] = np.inf
    found_mean, variance, quantum = statistics(values, float(gain), tiles=(1000,))
    true_variance = gain**2 * (mean + noise**2)
    assert abs(np.mean(found_mean - pedestal) - gain * mean) < 0.05 * np.sqrt(true_variance)
    assert np.std(found_mean) < 0.15 * np.sqrt(true_variance)
    if mean >= 0.3:
        # A positive pedestal might be photons, whose noise is more.
        assert 0.9 < np.mean(variance) / true_variance < (1.5 if pedestal > 0 else 1.1)
    if not noise:
        assert np.mean(quantum) == pytest.approx(gain, rel=0.25)


def test_noise_of_few_values_and_unknown_gain_is_measured_from_all_samples():
    """5 % of the pixels hold one photon of 100 units each, and the gain is said to be 1."""
    values = 100.0 * np.random.default_rng(4).poisson(0.05, (SAMPLES, 2000))
    mean, variance, _ = statistics(values, 1.0, wide=True)
    assert np.mean(mean) == pytest.approx(5, rel=0.1)
    assert np.mean(variance) == pytest.approx(500, rel=0.2)


def test_a_sharp_ring_keeps_its_height_and_bins_without_samples_have_none():
    rng = np.random.default_rng(5)
    expected = np.full(200, 3.0)
    expected[100] = 12.0
    values = rng.poisson(expected, (SAMPLES, 200)).astype(np.float32)
    values[:, 50] = np.resize([np.inf, -np.inf], SAMPLES)
    values[:, 150:] = np.resize([np.inf, -np.inf], SAMPLES)[:, None]
    mean, _, _ = statistics(values, 1.0, tiles=(150,))
    assert mean[100] == pytest.approx(12, abs=2.5)
    assert mean[99] < 6
    assert mean[50] == pytest.approx(3, abs=1)  # from its neighbours
    assert np.isinf(mean[150:]).all()


@pytest.mark.parametrize(("mean", "gain"), [(0.05, 1.0), (0.5, 1.0), (3.0, 1.0), (30.0, 1.0), (20.0, 10.0)])
def test_photon_noise_passes_the_threshold_as_rarely_as_normal_noise_would(mean, gain):
    pixels = gain * np.random.default_rng(2).poisson(mean, 4_000_000)
    statistics = (np.array([x], np.float32) for x in (gain * mean, gain**2 * mean, gain))
    threshold = np.empty(1, np.uint16)
    pixel_thresholds(*statistics, 3.5, 0.0, 0.0, 65535.0, True, threshold)
    assert (pixels > threshold[0]).mean() < 2 * 2.33e-4  # one-sided tail of a normal distribution at 3.5 σ


def test_thresholds_stay_within_the_type_and_above_the_floor():
    mean = np.array([-500.0, 5.0, 65500.0, np.inf], np.float32)
    variance, quantum = np.full(4, 100.0, np.float32), np.zeros(4, np.float32)
    threshold = np.empty(4, np.uint16)
    pixel_thresholds(mean, variance, quantum, 4.0, 0.0, 0.0, 65535.0, True, threshold)
    np.testing.assert_array_equal(threshold, [0, 45, 65535, 65535])
    pixel_thresholds(mean, variance, quantum, 4.0, 100.0, 0.0, 65535.0, True, threshold)
    np.testing.assert_array_equal(threshold, [100, 100, 65535, 65535])
