"""Bins of pixels against plain numpy."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from sfxlab.geometry import Detector
from sfxlab.peaks.lanes import LANES
from sfxlab.peaks.pixel_bins import NO_BIN, SAMPLES, BinsOfDetectors, pixel_bins


def pixels_of_runs(start, bits):
    """The pixels whose bits are set."""
    lane = np.arange(LANES)
    return (start[:, None] + lane)[(bits[:, None] >> lane.astype(np.uint32)) & 1 == 1]


@pytest.fixture(scope="module")
def bad(detector):
    bad = (np.random.default_rng(1).random(detector.shape) < 0.02).astype(np.uint8)
    bad[300:340, 100:400] = 1
    return bad


def test_a_bin_is_a_narrow_band_of_radii_on_one_panel(detector):
    bins = pixel_bins(detector)
    in_bin = bins.bin.reshape(detector.shape)
    assert (in_bin != NO_BIN).all()
    for b in np.random.default_rng(2).integers(0, len(bins.panel), 50):
        where = in_bin == b
        assert set(detector.panel_map[where]) == {bins.panel[b]}
        assert np.ptp(detector.radius[where].astype(int)) <= 2


def test_samples_are_pixels_of_their_bin_spread_over_it(detector):
    bins = pixel_bins(detector)
    counts = np.bincount(bins.bin, minlength=len(bins.panel))
    for b in range(len(bins.panel)):
        samples = bins.samples[:, b][bins.samples[:, b] >= 0]
        assert len(samples) == min(counts[b], SAMPLES)
        assert len(set(samples)) == len(samples)
        assert (bins.bin[samples] == b).all()
        pixels = np.flatnonzero(bins.bin == b)
        ranks = np.searchsorted(pixels, samples)
        assert np.diff(np.concatenate([[0], ranks, [len(pixels)]])).max() <= len(pixels) / len(samples) + 1


def test_runs_cover_each_good_pixel_once_and_know_its_bins(detector, bad):
    for bins, good in ((pixel_bins(detector), np.ones_like(bad)), (pixel_bins(detector).without(bad), 1 - bad)):
        covered = pixels_of_runs(bins.start, bins.good)
        assert len(set(covered)) == len(covered)
        np.testing.assert_array_equal(np.sort(covered), np.flatnonzero(good))
        run = np.repeat(np.arange(len(bins.start)), [int(bits).bit_count() for bits in bins.good])
        assert (bins.bin[covered] >= bins.first_bin[run]).all()
        assert (bins.bin[covered] <= bins.last_bin[run]).all()
        span = bins.last_bin.astype(int) - bins.first_bin + 1
        assert ((1 << bins.level.astype(int)) <= span).all()
        assert ((2 << bins.level.astype(int)) > span).all()


def test_whole_pixels_have_eight_good_neighbours_on_their_panel(detector, bad):
    bins = pixel_bins(detector).without(bad)
    expected = np.zeros(detector.shape, dtype=bool)
    for r0, r1, c0, c1 in detector.arrays.bounds:
        expected[r0:r1, c0:c1] = binary_erosion(bad[r0:r1, c0:c1] == 0, np.ones((3, 3)))
    np.testing.assert_array_equal(np.sort(pixels_of_runs(bins.start, bins.whole)), np.flatnonzero(expected))


def test_pixels_between_panels_have_no_bin():
    from sfxlab.geometry import Panel

    step, down = (1e-4, 0.0, 0.0), (0.0, -1e-4, 0.0)
    panels = tuple(
        Panel(name, row, column, 20, 37, (column * 1e-4, -row * 1e-4, 0.1), step, down, column, row, 1.0)
        for name, row, column in (("a", 0, 3), ("b", 25, 3), ("c", 25, 45))
    )
    detector = Detector(panels, (46, 83), 0.1)
    bins = pixel_bins(detector)
    np.testing.assert_array_equal(bins.bin.reshape(detector.shape) == NO_BIN, detector.panel_map < 0)
    np.testing.assert_array_equal(
        np.sort(pixels_of_runs(bins.start, bins.good)), np.flatnonzero(detector.panel_map >= 0)
    )


def test_bins_are_made_once_for_a_detector_at_any_distance(detector, bad):
    remembered = BinsOfDetectors()
    first, masked = remembered.find(detector, bad)
    assert not masked
    again, masked = remembered.find(detector, bad)
    assert masked
    assert remembered.find(detector, bad)[0] is again
    farther = detector.moved(z=0.01)
    assert remembered.find(farther, bad)[0] is first
    moved = remembered.find(detector.moved(x=0.01), bad)[0]
    assert not np.array_equal(moved.bin, first.bin)


def test_a_map_of_bad_pixels_that_took_the_place_of_another_is_not_mistaken_for_it(detector, bad):
    remembered = BinsOfDetectors()
    for seed in range(20):
        mine = (np.random.default_rng(seed).random(detector.shape) < 0.02).astype(np.uint8)
        for _ in range(3):
            bins, masked = remembered.find(detector, mine)
        assert masked
        np.testing.assert_array_equal(bins.bin == NO_BIN, mine.ravel() != 0)
        del mine


def test_more_bins_than_fit_are_made_wider(detector):
    tall = [replace(detector.panels[0], name=str(i), row=16 * i, rows=16, columns=2048) for i in range(160)]
    large = Detector(tuple(tall), (2560, 2048), 0.08)
    bins = pixel_bins(large)
    assert len(bins.panel) < 60_000
    assert (bins.bin != NO_BIN).all()
