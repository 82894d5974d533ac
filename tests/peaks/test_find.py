"""Peaks and hits of whole frames."""

from dataclasses import replace

import numpy as np
import pytest

from sfxlab.frames import Frame, FrameId
from sfxlab.geometry import Detector
from sfxlab.peaks import Peaks, find_peaks, is_hit
from sfxlab.recipe import Recipe


def make_frame(detector, data, bad=None):
    bad = np.zeros(detector.shape, np.uint8) if bad is None else bad
    return Frame(data, bad, 9500.0, detector, FrameId("made.cxi", "//0"))


@pytest.fixture(scope="module")
def spots():
    """Positions and photons of spots away from the border, (n, 3): fs, ss, photons."""
    rng = np.random.default_rng(5)
    grid = np.stack(np.meshgrid(np.arange(30, 500, 40), np.arange(30, 500, 40)), axis=-1).reshape(-1, 2)
    grid = grid[np.abs(grid[:, 0] - 256) > 8]
    positions = grid + rng.uniform(-2, 2, grid.shape)
    return np.column_stack([positions, rng.uniform(150, 1500, len(grid))])


def photons(spots, shape, background):
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    expected = background.copy()
    for fs, ss, intensity in spots:
        expected += intensity / (2 * np.pi * 0.8**2) * np.exp(-((x - fs) ** 2 + (y - ss) ** 2) / (2 * 0.8**2))
    return np.random.default_rng(6).poisson(expected)


@pytest.fixture(scope="module")
def background(detector):
    return 1.0 + 30.0 * np.exp(-((detector.radius / 150.0) ** 2)) * (detector.radius < 65535)


@pytest.mark.parametrize(
    ("dtype", "gain", "said"), [(np.uint16, 1, 1), (np.int32, 1, 1), (np.float32, 30, 30), (np.float32, 100, None)]
)
def test_every_clear_spot_is_found_where_it_is(detector, spots, background, dtype, gain, said):
    """Photon counters, and integrating detectors with noise and negative values, of known gain or not."""
    panels = tuple(replace(panel, adu_per_photon=said) for panel in detector.panels)
    data = gain * photons(spots, detector.shape, background)
    if dtype == np.float32:
        data = data + np.random.default_rng(7).normal(0, 0.3 * gain, detector.shape)
    frame = make_frame(Detector(panels, detector.shape, detector.camera_length), data.astype(dtype))
    peaks = find_peaks(frame)
    distance = np.hypot(peaks.fs[:, None] - spots[:, 0], peaks.ss[:, None] - spots[:, 1])
    assert (distance.min(axis=0) < 1).mean() > 0.99
    assert (distance.min(axis=1) > 3).sum() <= 1
    assert np.median(distance.min(axis=0)) < 0.15
    nearest = distance.argmin(axis=1)
    assert np.median(np.abs(peaks.intensity / (gain * spots[nearest, 2]) - 1)) < 0.15
    assert is_hit(peaks)
    assert np.all(np.diff(peaks.resolution) >= 0)


def test_a_blank_with_strong_background_is_no_hit(detector, background):
    peaks = find_peaks(make_frame(detector, photons([], detector.shape, 5 * background).astype(np.uint16)))
    assert len(peaks) <= 2
    assert not is_hit(peaks)


def test_bad_pixels_not_a_number_and_negative_values_do_no_harm(detector, spots, background):
    data = photons(spots, detector.shape, background).astype(np.float32)
    clean = find_peaks(make_frame(detector, data))
    damaged, bad = data.copy(), np.zeros(detector.shape, np.uint8)
    damaged[5:12, :] = np.nan
    damaged[:, 200] = -1e6
    bad[5:12, :] = 1
    bad[:, 200] = 1
    peaks = find_peaks(make_frame(detector, damaged, bad))
    assert np.all(np.isfinite(peaks.fs))
    far = (np.abs(clean.fs - 200.5) > 8) & (clean.ss > 20)
    assert np.count_nonzero(far) - 2 <= len(peaks) <= len(clean)


def test_lonely_hot_pixels_are_no_peaks(detector, background):
    data = photons([], detector.shape, background)
    rng = np.random.default_rng(8)
    data[rng.integers(2, 510, 60), rng.integers(2, 254, 60)] = 15000
    assert len(find_peaks(make_frame(detector, data.astype(np.uint16)))) <= 3


def test_resolution_limits_and_the_largest_number_are_kept(detector, spots, background):
    frame = make_frame(detector, photons(spots, detector.shape, background).astype(np.uint16))
    peaks = find_peaks(frame, Recipe().changed(peaks={"min_resolution": 0.1, "max_resolution": 0.2, "max_peaks": 7}))
    assert len(peaks) == 7
    assert peaks.resolution.min() >= 0.1
    assert peaks.resolution.max() <= 0.2


def test_no_peaks_is_an_empty_list():
    assert len(Peaks.empty()) == 0


def test_lyso_peaks_are_at_least_those_of_the_reference(shared_data):
    """Hits, recall by photons and false peaks as CrystFEL's peakfinder8 has them in SIMULATED.md."""
    import csv
    import gzip
    import json

    from scipy.spatial import cKDTree

    from sfxlab.frames import open_frames

    truth = json.loads((shared_data / "lyso/truth/truth.json").read_text())["frames"]
    with gzip.open(shared_data / "lyso/truth/true_peaks.csv.gz", "rt") as file:
        rows = [row for row in csv.DictReader(file) if row["masked"] == "0"]
    table = np.array([[float(row[key]) for key in ("frame", "fs", "ss", "photons_5x5")] for row in rows])
    hits, false_hits, false, seen, strong = 0, 0, 0, 0, 0
    for frame, facts in zip(
        open_frames(shared_data / "lyso/lyso.cxi", shared_data / "lyso/lyso.geom"), truth, strict=True
    ):
        peaks = find_peaks(frame)
        hits += is_hit(peaks) and facts["is_hit"]
        false_hits += is_hit(peaks) and not facts["is_hit"]
        true = table[table[:, 0] == facts["frame"]]
        if facts["is_hit"] and len(peaks):
            found = cKDTree(np.column_stack([peaks.fs, peaks.ss]))
            wanted = true[true[:, 3] >= 40]
            seen += np.count_nonzero(found.query(wanted[:, 1:3])[0] < 2)
            strong += len(wanted)
            false += np.count_nonzero(cKDTree(true[:, 1:3]).query(found.data)[0] > 3)
    assert false_hits == 0
    assert hits >= 89
    assert seen / strong >= 0.969  # 0.937 of 3113 and 0.994 of 4085 in the reference
    assert false / 90 <= 0.48


def test_noise_with_heavy_tails_makes_few_peaks_and_hides_no_strong_spot(detector, spots):
    """Student's t with three degrees of freedom: 3.5 σ is passed thirty times as often as by normal noise."""
    rng = np.random.default_rng(9)
    noise = 8.0 * rng.standard_t(3, detector.shape)
    assert len(find_peaks(make_frame(detector, noise.astype(np.float32)))) <= 5
    y, x = np.mgrid[: detector.shape[0], : detector.shape[1]] + 0.5
    for fs, ss, _ in spots:
        noise += 1000 * np.exp(-((x - fs) ** 2 + (y - ss) ** 2) / (2 * 0.8**2))
    peaks = find_peaks(make_frame(detector, noise.astype(np.float32)))
    distance = np.hypot(peaks.fs[:, None] - spots[:, 0], peaks.ss[:, None] - spots[:, 1])
    assert (distance.min(axis=0) < 1).mean() > 0.99
    assert (distance.min(axis=1) > 3).sum() <= 8
