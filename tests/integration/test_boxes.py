"""Boxes, neighbours and backgrounds against plain numpy, and backgrounds against what they were drawn from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfxlab.integration.boxes import backgrounds, cut_boxes, find_neighbours

NONE = np.empty((0, 0), np.float32)
ALONE = np.zeros(100_000, np.int64), np.zeros(0, np.int64)


def levels(boxes, gain=1.0):
    n = len(boxes)
    middle, first = np.full(n, 100.5), ALONE[0][: n + 1]
    return backgrounds(boxes.astype(np.float32), middle, middle, np.full(n, gain), first, ALONE[1], 3.0, 4.0, 6.0)


def spot(photons, fs, ss, sigma=0.7):
    y, x = np.mgrid[-6:7, -6:7]
    share = np.exp(-((x - fs) ** 2 + (y - ss) ** 2) / 2 / sigma**2)
    return photons * share / share.sum()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_boxes_are_the_pixels_around_spots(seed):
    rng = np.random.default_rng(seed)
    data = rng.poisson(7, (40, 60)).astype(np.uint16)
    bad = (rng.random(data.shape) < 0.05).astype(np.uint8)
    limits = rng.uniform(13, 40, data.shape if seed % 2 else (0, 0)).astype(np.float32)
    panel, fs, ss = rng.integers(0, 2, 8).astype(np.int16), rng.uniform(0, 30, 8), rng.uniform(0, 40, 8)
    fs += 30 * panel
    bounds, max_adu = np.array([[0, 40, 0, 30], [0, 40, 30, 60]]), np.array([15.0, 30.0])
    boxes, saturated = cut_boxes(data, bad, panel, fs, ss, bounds, max_adu, limits, 3.0, 6)
    y, x = np.mgrid[-6:7, -6:7]
    for i in range(8):
        rows, columns = int(ss[i]) + y, int(fs[i]) + x
        there = (rows >= 0) & (rows < 40) & (columns >= 30 * panel[i]) & (columns < 30 * panel[i] + 30)
        rows, columns = np.where(there, rows, 0), np.where(there, columns, 0)
        good = there & (bad[rows, columns] == 0)
        np.testing.assert_array_equal(boxes[i], np.where(good, data[rows, columns], np.nan))
        limit = np.minimum(max_adu[panel[i]], limits[rows, columns] if limits.size else np.inf)
        assert saturated[i] == np.any(good & (x**2 + y**2 <= 9) & (data[rows, columns] >= limit))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.integers(0, 60), st.integers(0, 20))
def test_neighbours_are_those_within_the_distance_nearest_first(seed, n, others):
    rng = np.random.default_rng(seed)
    panel = rng.integers(0, 2, n + others).astype(np.int16)
    fs, ss = rng.uniform(0, 50, (2, n + others))
    first, found = find_neighbours(panel, fs, ss, n, 10.0)
    away = np.hypot(fs[:, None] - fs, ss[:, None] - ss)
    for i in range(n):
        near = np.flatnonzero((away[i] <= 10) & (panel == panel[i]) & (np.arange(n + others) != i))
        np.testing.assert_array_equal(found[first[i] : first[i + 1]], near[np.argsort(away[i, near])])


def test_the_background_is_the_mean_of_the_ring_without_neighbours_and_bad_pixels():
    rng = np.random.default_rng(1)
    boxes = rng.poisson(9, (1, 13, 13)).astype(np.float32)
    boxes[0, 6, 11] = np.nan
    fs, ss = np.array([20.5, 25.2]), np.array([30.5, 28.9])
    first, neighbours = find_neighbours(np.zeros(2, np.int16), fs, ss, 1, 10.5)
    found = backgrounds(boxes, fs, ss, np.ones(1), first, neighbours, 3.0, 4.0, 6.0)[0]
    y, x = np.mgrid[-6:7, -6:7]
    ring = (np.hypot(x, y) > 4) & (np.hypot(x, y) <= 6) & (np.hypot(x - 5, y + 2) > 3) & np.isfinite(boxes[0])
    values = boxes[0][ring]
    assert values.max() < 9 + 3.7 * 3
    assert found == pytest.approx([values.mean(), values.var(ddof=1), ring.sum()])


@pytest.mark.parametrize("level", [0.05, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("noise", [0.0, 0.15])
def test_backgrounds_of_few_photons_have_no_bias(level, noise):
    rng = np.random.default_rng(3)
    boxes = rng.poisson(level, (20_000, 13, 13)) + noise * rng.standard_normal((20_000, 13, 13))
    found = levels(30 * boxes, gain=30.0) / 30
    assert abs(found[:, 0].mean() - level) < 0.005
    assert found[:, 1].mean() / 30 == pytest.approx(level + noise**2, rel=0.03)


@pytest.mark.parametrize("level", [0.05, 1.0, 5.0])
def test_a_spot_that_nobody_predicted_is_no_background(level):
    """Plain means would be off by a photon and by 24 photons per pixel."""
    rng = np.random.default_rng(4)
    for photons in (100, 2000):
        boxes = rng.poisson(level + spot(photons, 5.0, -1.0), (10_000, 13, 13))
        assert abs(levels(boxes)[:, 0].mean() - level) < 0.02


def test_a_ring_without_a_photon_has_an_error_all_the_same():
    mean, variance, count = levels(np.zeros((1, 13, 13)))[0]
    assert (mean, count) == (0.0, 64)
    assert variance > 0
