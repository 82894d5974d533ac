"""Peaks and hits of whole frames."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from sfxlab.frames import Frame, FrameId
from sfxlab.geometry import Detector, Panel
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
    q = frame.detector.q(peaks.panel, peaks.fs, peaks.ss, frame.photon_energy)
    np.testing.assert_allclose(peaks.resolution, np.linalg.norm(q, axis=1), rtol=1e-5)


@pytest.mark.parametrize("unit", [1e-3, 1e-6])
@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("level", [0.02, 1.0])
def test_tiny_units_hide_no_spots_where_the_gain_is_not_known(detector, spots, background, unit, noise, level):
    panels = tuple(replace(panel, adu_per_photon=None, adu_per_ev=None) for panel in detector.panels)
    unknown = Detector(panels, detector.shape, detector.camera_length)
    rng = np.random.default_rng(7)

    def found(photons_of_frame):
        data = photons_of_frame + rng.normal(0, noise, detector.shape)
        return find_peaks(make_frame(unknown, (unit * data).astype(np.float32)))

    peaks = found(photons(spots, detector.shape, level * background))
    distance = np.hypot(peaks.fs[:, None] - spots[:, 0], peaks.ss[:, None] - spots[:, 1])
    assert (distance.min(axis=0) < 1).mean() > 0.99
    assert (distance.min(axis=1) > 3).sum() <= 3
    assert len(found(photons([], detector.shape, level * background))) <= 3


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


def test_peaks_with_pixels_saturated_by_a_map_are_left_out_where_they_are_not_wanted(detector, spots, background):
    """A map of one value leaves out the peaks that this `max_adu` leaves out, and one of few pixels theirs alone."""
    frame = make_frame(detector, photons(spots, detector.shape, background).astype(np.uint16))
    everything, limit = find_peaks(frame), 150
    recipe = Recipe().peaks.model_copy(update={"use_saturated": False})
    panels = tuple(replace(panel, max_adu=limit) for panel in detector.panels)
    by_panel = find_peaks(replace(frame, detector=replace(detector, panels=panels)), recipe)
    everywhere = np.full(detector.shape, limit, dtype=np.float32)
    by_map = find_peaks(replace(frame, saturation_map=everywhere), recipe)
    assert 0 < len(by_panel) < len(everything)
    np.testing.assert_array_equal(by_map.fs, by_panel.fs)
    only_left = np.where(np.arange(detector.shape[1]) < 256, everywhere, np.inf)
    some = find_peaks(replace(frame, saturation_map=only_left), recipe)
    assert (some.panel == 1).sum() == (everything.panel == 1).sum()
    np.testing.assert_array_equal(some.fs[some.panel == 0], by_panel.fs[by_panel.panel == 0])


def test_what_is_left_out_in_advance_changes_nothing(detector, spots, background):
    """Bad pixels of a frame of its own, or a map that many frames share."""
    data = photons(spots, detector.shape, background).astype(np.uint16)
    bad = (np.random.default_rng(10).random(detector.shape) < 0.05).astype(np.uint8)
    data[bad > 0] = 65535
    first, second, third = (find_peaks(make_frame(detector, data, bad)) for _ in range(3))
    own = find_peaks(make_frame(detector, data, bad.copy()))
    assert len(first) > 50
    for other in (second, third, own):
        np.testing.assert_array_equal(first.fs, other.fs)
        np.testing.assert_array_equal(first.snr, other.snr)


def test_threads_find_the_same_peaks(detector, spots, background):
    shared = np.zeros(detector.shape, np.uint8)
    frames = [
        make_frame(detector, photons(spots[i:], detector.shape, background).astype(np.uint16), shared) for i in range(6)
    ]
    alone = [find_peaks(frame) for frame in frames]
    with ThreadPoolExecutor(3) as threads:
        for mine, theirs in zip(alone, threads.map(find_peaks, frames), strict=True):
            np.testing.assert_array_equal(mine.fs, theirs.fs)


@pytest.mark.parametrize("kind", [np.uint8, np.float16, np.uint32])
def test_peaks_do_not_depend_on_the_type_of_the_pixels(detector, spots, background, kind):
    counts = np.minimum(photons(spots, detector.shape, background), 255)
    expected = find_peaks(make_frame(detector, counts.astype(np.uint16)))
    found = find_peaks(make_frame(detector, counts.astype(kind)))
    np.testing.assert_allclose(found.fs, expected.fs, atol=1e-4)
    np.testing.assert_allclose(found.intensity, expected.intensity, rtol=1e-4)


def test_panels_may_have_pedestals_and_a_shadow_may_fall_on_them(detector, spots, background):
    data = photons(spots, detector.shape, background).astype(np.float32) * 20
    clean = find_peaks(make_frame(detector, data))
    moved = data + np.where(detector.panel_map == 0, np.float32(-3000), np.float32(700))
    found = find_peaks(make_frame(detector, moved))
    assert abs(len(found) - len(clean)) <= 3
    y, x = np.mgrid[: detector.shape[0], : detector.shape[1]]
    blank = np.random.default_rng(11).poisson(np.where(x + y // 3 > 300, 0.3, 1) * 3 * background).astype(np.uint16)
    assert len(find_peaks(make_frame(detector, blank))) <= 2


def test_sparse_photons_are_noise_and_a_few_together_are_a_peak(detector):
    rng = np.random.default_rng(12)
    data = rng.poisson(0.01, detector.shape).astype(np.uint16)
    assert len(find_peaks(make_frame(detector, data))) <= 1
    for row in range(30, 490, 40):
        data[row : row + 2, 60:62] += np.array([[3, 1], [2, 1]], dtype=np.uint16)
    assert len(find_peaks(make_frame(detector, data))) >= 11


def test_a_spot_on_the_border_is_found_where_it_reaches_inside(detector, background):
    data = photons([], detector.shape, background)
    data[100, 253:256] += (20, 60, 70)
    data[200, 255] += 100  # a lonely one on the border is none
    data[300, 257:259] += (70, 60)
    peaks = find_peaks(make_frame(detector, data.astype(np.uint16)))
    assert [round(float(s)) for s in np.sort(peaks.ss)] == [100, 300] or len(peaks) == 2
    assert (peaks.fs[peaks.ss < 150] < 256).all()
    assert (peaks.fs[peaks.ss > 250] > 256).all()


def test_ice_rings_are_no_peaks(detector):
    """Rings as sharp as spots, five times as high as what is between them."""
    rng = np.random.default_rng(13)
    radius = np.hypot(detector.xy[0], detector.xy[1]) / 1e-4
    expected = 3 + 12 * sum(np.exp(-(((radius - r) / 1.2) ** 2) / 2) for r in (90, 130, 170, 210))
    lengths = [len(find_peaks(make_frame(detector, rng.poisson(expected).astype(np.uint16)))) for _ in range(5)]
    assert max(lengths) <= 3


def test_spots_on_a_sharp_ring_are_found_where_they_stand_out_along_it(detector):
    rng = np.random.default_rng(14)
    x, y = detector.xy[0] / 1e-4, detector.xy[1] / 1e-4
    expected = 3 + 12 * np.exp(-(((np.hypot(x, y) - 170) / 1.2) ** 2) / 2)
    angles = np.arange(0.2, 6, 0.4)
    for angle in angles:
        distance = (x - 170 * np.cos(angle)) ** 2 + (y - 170 * np.sin(angle)) ** 2
        expected += 40 * np.exp(-distance / (2 * 0.8**2))
    peaks = find_peaks(make_frame(detector, rng.poisson(expected).astype(np.uint16)))
    row, column = np.floor(peaks.ss).astype(int), np.floor(peaks.fs).astype(int)
    found = np.arctan2(y[row, column], x[row, column])
    nearest = np.abs((found[:, None] - angles + np.pi) % (2 * np.pi) - np.pi).min(axis=0)
    assert np.count_nonzero(nearest < 0.02) >= len(angles) - 2
    assert len(peaks) <= len(angles) + 2


@pytest.mark.parametrize("shape", [(1, 5), (3, 9), (7, 40)])
def test_a_tiny_detector_has_no_peaks(shape):
    panel = Panel("p", 0, 0, *shape, (0.0, 0.0, 0.1), (1e-4, 0.0, 0.0), (0.0, 1e-4, 0.0), 0, 0, 1.0)
    frame = make_frame(Detector((panel,), shape, 0.1), np.ones(shape, np.uint16))
    assert len(find_peaks(frame)) == 0


def test_a_frame_of_bad_pixels_only_has_no_peaks(detector):
    bad = np.ones(detector.shape, np.uint8)
    for _ in range(3):
        assert len(find_peaks(make_frame(detector, np.full(detector.shape, 65535, np.uint16), bad))) == 0
