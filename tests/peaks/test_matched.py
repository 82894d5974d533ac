"""The matched filter and the measurement of peaks against plain numpy and scipy."""

import math

import numpy as np
import pytest
from scipy.ndimage import label

from sfxlab.geometry import Detector, Panel
from sfxlab.peaks.candidates import normal_equivalent
from sfxlab.peaks.matched import SPOT_WIDTHS, filter_tops, spot_shapes
from sfxlab.peaks.measure import measure_tops
from sfxlab.peaks.pixel_bins import pixel_bins


@pytest.fixture(scope="module")
def square():
    """One panel of 80 × 90 pixels."""
    panel = Panel("p", 0, 0, 80, 90, (-4e-3, -4e-3, 0.1), (1e-4, 0.0, 0.0), (0.0, 1e-4, 0.0), 0, 0, 1.0)
    return Detector((panel,), (80, 90), 0.1)


def arguments(detector, data, bad):
    """The first arguments of the kernels; a background of 2 photons, thresholds of 5."""
    bins = pixel_bins(detector).without(bad)
    n = len(bins.panel)
    pixels = (data.ravel(), bad.ravel(), False, detector.shape[1], bins.bin, bins.panel, detector.arrays.bounds)
    return (
        pixels,
        bins.axes,
        np.full(n, 2, np.float32),
        np.full(n, 2, np.float32),
        np.ones(n, np.float32),
        np.full(n, 5, data.dtype),
    )


def plain_significance(data, bad, row, column, radius, z):
    """Best of the shapes, with and without the top, from the formula."""
    y, x = np.mgrid[: data.shape[0], : data.shape[1]]
    distance = np.maximum(abs(y - row), abs(x - column))
    around = (distance <= radius) & (distance > 2) & (bad == 0) & (data <= 5)
    values, n = data[around].astype(float) - 2, np.count_nonzero(around)
    offset = values.mean()
    noise = max(2 + max(offset, 0), values.var() * (1 - 2 * math.sqrt(2 / n)))
    for along in (x - column, y - row, y - row + x - column, x - column - y + row):
        high, low = (values[along[around] > 0], values[along[around] < 0])
        if abs(high.mean() - low.mean()) > 3 * math.sqrt(data[around].var() * (1 / len(high) + 1 / len(low))):
            pytest.skip("one-sided background")
    near = (distance <= 2) & (bad == 0)
    excess, top = data[near].astype(float) - 2 - offset, distance[near] == 0
    found = []
    for shape in spot_shapes():
        share = shape[abs(y - row)[near], abs(x - column)[near]]
        full = shape[np.abs(np.arange(-2, 3))[:, None], np.abs(np.arange(-2, 3))]
        photons = z**2 / 2 + z * math.sqrt(noise / (full**2).sum())
        weight = np.log1p(photons * share / noise)
        found.append(
            [
                normal_equivalent((w * e).sum(), noise * ((w**2).sum() + w.sum() ** 2 / n), noise * (w**3).sum())
                for w, e in ((weight, excess), (weight[~top], excess[~top]))
            ]
        )
    return max(found)


def test_the_significance_is_that_of_the_formula(square):
    rng = np.random.default_rng(1)
    data = rng.poisson(2.0, square.shape).astype(np.uint16)
    bad = (rng.random(square.shape) < 0.02).astype(np.uint8)
    tops = []
    for row in range(10, 70, 12):
        for column in range(10, 80, 12):
            data[row - 1 : row + 2, column - 1 : column + 2] += rng.poisson(3, (3, 3)).astype(np.uint16)
            data[row, column] += 12
            if bad[row, column] == 0:
                tops.append(row * 90 + column)
    pixels, axes, mean, variance, quantum, threshold = arguments(square, data, bad)
    out = np.empty((len(tops), 3))
    filter_tops(
        *pixels, axes, np.ones(1), mean, variance, quantum, threshold, spot_shapes(), 5, 5.0,
        np.array(tops, np.int32), out,
    )  # fmt: skip
    compared = 0
    for top, (whole, rest, _) in zip(tops, out, strict=True):
        try:
            expected = plain_significance(data, bad, *divmod(top, 90), 5, 5.0)
        except pytest.skip.Exception:
            continue
        if expected[0] < 5.0:
            assert (whole, rest) == (-1.0, -1.0)
            continue
        assert (whole, rest) == pytest.approx(expected, rel=1e-6)
        compared += 1
    assert compared > 20


def test_the_shapes_hold_what_a_spot_has_in_its_highest_pixels():
    for width, shape in zip(SPOT_WIDTHS, spot_shapes(), strict=True):
        rng = np.random.default_rng(2)
        hits = rng.normal(0, width, (400_000, 2)) + rng.uniform(-0.5, 0.5, (400_000, 2))
        counts = np.histogram2d(*hits.T, bins=np.arange(-2.5, 3))[0] / len(hits)
        np.testing.assert_allclose(counts[2:, 2:], shape, atol=0.005)


def test_blobs_are_those_that_scipy_labels(square):
    rng = np.random.default_rng(3)
    data = rng.poisson(2.0, square.shape).astype(np.uint16)
    data[data > 4] = 4
    for row, column in ((20, 20), (21, 21), (40, 60), (41, 60), (42, 61), (60, 10), (10, 80)):
        data[row, column] += 40
    bad = np.zeros(square.shape, np.uint8)
    labels, count = label(data > 5, structure=np.ones((3, 3)))
    tops = np.flatnonzero(data.ravel() > 5).astype(np.int32)
    pixels, _, _, _, _, threshold = arguments(square, data, bad)
    found, no_map = np.empty((len(tops), 7)), np.empty(0, np.float32)
    measure_tops(*pixels, np.ones(1), np.full(1, 42.5), no_map, threshold, 1, 10, 4, tops, found)
    peaks = found[found[:, 5] > 0]
    assert len(peaks) == count
    assert sorted(peaks[:, 5]) == sorted(np.bincount(labels.ravel())[1:])
    for fs, ss, intensity, sigma, highest, n, saturated in peaks:
        blob = labels == labels[int(ss), int(fs)] if n != 2 else labels == labels[20, 20]
        assert highest == data[blob].max()
        assert saturated == np.count_nonzero(data[blob] > 42.5)
        assert intensity == pytest.approx(40 * n, abs=5 * sigma)
    limits = np.where(labels == labels[40, 60], 0, np.inf).astype(np.float32).ravel()
    measure_tops(*pixels, np.ones(1), np.full(1, np.inf), limits, threshold, 1, 10, 4, tops, found)
    assert sorted(found[:, 6])[-2:] == [0, 3]
    measure_tops(*pixels, np.ones(1), np.full(1, np.inf), no_map, threshold, 2, 2, 4, tops, found)
    assert np.count_nonzero(found[:, 5]) == 1
