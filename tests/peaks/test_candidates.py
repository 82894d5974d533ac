"""Candidates for peaks against plain numpy and scipy."""

import numpy as np
import pytest
from numba import njit
from scipy.ndimage import maximum_filter, uniform_filter
from scipy.stats import norm, poisson

from sfxlab.peaks.candidates import UNLIKELY, find_tops, least_of_neighbours, normal_equivalent
from sfxlab.peaks.lanes import LANES, lanes_above, lowest_bit
from sfxlab.peaks.pixel_bins import pixel_bins

TYPES = (np.uint8, np.uint16, np.uint32, np.int16, np.int32, np.int64, np.float32, np.float64)


@njit
def compare(values, start, threshold):
    return lanes_above(values, start, threshold)


@njit
def lowest(bits):
    return lowest_bit(bits)


@pytest.mark.parametrize("kind", TYPES)
def test_each_lane_is_compared_with_the_threshold(kind):
    rng = np.random.default_rng(1)
    values = (rng.integers(0, 200, 100) if np.dtype(kind).kind != "i" else rng.integers(-100, 100, 100)).astype(kind)
    if np.dtype(kind).kind == "f":
        values[40] = np.nan
        values[41] = np.inf
    for start in (0, 13, 100 - LANES):
        expected = values[start : start + LANES] > kind(50)
        found = compare(values, start, kind(50))
        assert [bool(found >> i & 1) for i in range(LANES)] == list(expected)


def test_the_lowest_bit_is_found():
    assert [lowest(np.uint32(bits)) for bits in (1, 2, 12, 1 << 31)] == [0, 1, 2, 31]


def test_the_least_threshold_of_neighbouring_bins():
    thresholds = np.random.default_rng(2).integers(0, 1000, 37).astype(np.uint16)
    table = least_of_neighbours(thresholds, 5)
    for k in range(5):
        for b in range(37 - (1 << k) + 1):
            assert table[k, b] == thresholds[b : b + (1 << k)].min()


@pytest.mark.parametrize("expected", [0.02, 0.5, 5.0, 200.0])
def test_a_significance_is_exceeded_as_rarely_as_by_normal_noise(expected):
    """Between the tails with and without the count itself, or a little less."""
    for count in poisson.isf([1e-5, 1e-7, 1e-12], expected):
        found = normal_equivalent(count - expected, expected, expected)
        with_it, without_it = norm.isf(poisson.sf(count - 1, expected)), norm.isf(poisson.sf(count, expected))
        assert with_it - 0.4 < found < without_it
    assert normal_equivalent(3.0, 4.0, 0.0) == 1.5


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("look_at_bad", [False, True])
def test_tops_are_the_maxima_with_a_sum_far_above_the_background(detector, kind, look_at_bad):
    rng = np.random.default_rng(3)
    data = rng.poisson(2.0, detector.shape)
    data[rng.integers(5, 500, 80), rng.integers(5, 500, 80)] += 30
    data = data.astype(kind) + (rng.normal(0, 0.1, detector.shape).astype(kind) if kind is np.float32 else kind(0))
    bad = (rng.random(detector.shape) < 0.03).astype(np.uint8)
    data[bad > 0] = 60000
    bins = pixel_bins(detector)
    bins = bins if look_at_bad else bins.without(bad)
    n = len(bins.panel)
    mean, variance, quantum = np.full(n, 2, np.float32), np.full(n, 2, np.float32), np.ones(n, np.float32)
    tops, lonely = np.empty(data.size, np.int32), np.empty(data.size, np.float32)
    n_candidates, n_tops, n_lonely = find_tops(
        data.ravel(), bad.ravel(), look_at_bad, detector.shape[1], bins.bin, bins.panel, detector.arrays.bounds,
        bins.start, bins.good, bins.whole, bins.first_bin, bins.last_bin, bins.level,
        mean, variance, quantum, np.full(n, 5, dtype=kind), 4.0, tops, lonely,
    )  # fmt: skip
    assert n_candidates == np.count_nonzero((data > 5) & (bad == 0))
    wanted, alone = [], 0
    for r0, r1, c0, c1 in detector.arrays.bounds:
        good = bad[r0:r1, c0:c1] == 0
        value = np.where(good, data[r0:r1, c0:c1].astype(float), -1e9)
        # Of equal neighbours the first in the slab counts as the highest.
        ranked = np.where(good, value - 1e-6 * np.arange(value.size).reshape(value.shape) / value.size, -1e9)
        top = (ranked == maximum_filter(ranked, 3, mode="constant", cval=-1e9)) & good & (value > 5)
        number = np.rint(9 * uniform_filter(good.astype(float), 3, mode="constant"))
        total = 9 * uniform_filter(np.where(good, value, 0), 3, mode="constant")
        far = total - 2 * number > 4 * np.sqrt(2 * number) + 15 / 6
        second = np.sort(np.stack([np.roll(value, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)]), axis=0)[-2]
        top[[0, -1], :] = top[:, [0, -1]] = False  # what stands on the border is tested elsewhere
        rows, columns = np.nonzero(top & far & (number >= 6))
        wanted += list((rows + r0) * detector.shape[1] + columns + c0)
        excess = [normal_equivalent(v - 2.0, 2.0, 2.0) for v in value[top & (second <= 5)]]
        alone += np.count_nonzero(np.array(excess) > UNLIKELY)
    inside = np.ones(detector.shape, dtype=bool)
    for r0, r1, c0, c1 in detector.arrays.bounds:
        inside[[r0, r1 - 1], c0:c1] = inside[r0:r1, [c0, c1 - 1]] = False
    found = tops[:n_tops][inside.ravel()[tops[:n_tops]]]
    assert sorted(found) == sorted(wanted)
    assert (np.diff(tops[:n_tops]) > 0).all()
    assert alone <= n_lonely <= alone + 20  # those on borders
