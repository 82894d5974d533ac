"""The method peakfinder8: against plain numpy, and against the peak lists of CrystFEL."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import label

from sfxlab.frames import Frame, FrameId, open_frames
from sfxlab.geometry import Detector, Panel
from sfxlab.interop.stream_reader import read_stream
from sfxlab.peaks import find_peaks
from sfxlab.peaks.peakfinder8 import (
    FAST_CANDIDATES,
    FAST_PIXELS,
    PASSES,
    drawn_pixels,
    drawn_values,
    peakfinder8,
    radii,
)
from sfxlab.recipe import PeakFinder8Recipe, Recipe, validate

USUAL = PeakFinder8Recipe(threshold=20, max_pix_count=30)


def make_frame(detector, dtype=np.float32, seed=3, gain=10.0):
    """A frame of spots on a background that falls with the radius, with noise of an integrating detector."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: detector.shape[0], : detector.shape[1]]
    photons = 0.2 + 4 * np.exp(-((detector.radius / 120.0) ** 2))
    for _ in range(150):
        row, column = rng.uniform(0, detector.shape)
        photons += rng.exponential(30) * np.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * 0.8**2))
    data = gain * rng.poisson(photons) + rng.normal(0, 0.2 * gain, detector.shape)
    bad = (rng.random(detector.shape) < 0.01).astype(np.uint8)
    if np.issubdtype(dtype, np.unsignedinteger):
        data = np.maximum(data, 0)
    return Frame(data.astype(dtype), bad, 9500.0, detector, FrameId("made.cxi", "//0"))


def plain_radii(detector):
    """Distances of the first corners of pixels."""
    radius = np.full(detector.shape, -1)
    for p in detector.panels:
        s, f = np.mgrid[: p.rows, : p.columns]
        x, y = (p.corner[k] + f * p.fs[k] + s * p.ss[k] for k in (0, 1))
        radius[p.row : p.row + p.rows, p.column : p.column + p.columns] = np.rint(np.hypot(x, y) / p.pixel_size)
    return radius


def plain_limits(data, good, radius, recipe):
    mean, limit = np.zeros(data.shape), np.full(data.shape, np.inf)
    for r in np.unique(radius[good]):
        values = inside = data[good & (radius == r)].astype(float)
        for _ in range(PASSES):
            reach = recipe.min_snr * inside.std()
            middle = inside.mean()
            inside = values[np.abs(values - middle) <= reach]
        mean[radius == r], limit[radius == r] = middle, max(middle + reach, recipe.threshold)
    return mean, limit


def plain_peakfinder8(frame, recipe):
    """Rows of fs, ss, intensity, signal-to-noise ratio, number of pixels, in any order."""
    radius = plain_radii(frame.detector)
    good = (frame.bad == 0) & (radius > (recipe.min_res or -1)) & (radius < (recipe.max_res or np.inf))
    mean, limit = plain_limits(frame.data, good, radius, recipe)
    found = []
    for panel in frame.detector.panels:
        own = np.s_[panel.row : panel.row + panel.rows, panel.column : panel.column + panel.columns]
        data, above = frame.data[own].astype(float), (frame.data > limit)[own] & good[own]
        quiet = (frame.data < limit)[own] & good[own]
        blobs, n_blobs = label(above, np.ones((3, 3)))
        rows, columns = np.indices(data.shape)
        sizes = np.bincount(blobs.ravel())
        inner = np.unique(blobs[1:-1, 1:-1])
        for k in range(1, n_blobs + 1):
            if k not in inner or not recipe.min_pix_count <= sizes[k] <= recipe.max_pix_count:
                continue
            blob = blobs == k
            weight = (data - mean[own])[blob]
            dy = rows - np.rint(np.average(rows[blob], weights=weight))
            dx = columns - np.rint(np.average(columns[blob], weights=weight))
            reach = 2 * recipe.local_bg_radius
            around = data[quiet & (dy**2 + dx**2 <= reach**2) & (dy < reach) & (dx < reach)]
            intensity = (data[blob] - around.mean()).sum()
            if intensity >= recipe.min_snr * around.std():
                fs = np.average(columns[blob], weights=data[blob]) + panel.column + 0.5
                ss = np.average(rows[blob], weights=data[blob]) + panel.row + 0.5
                found.append((fs, ss, intensity, intensity / around.std(), blob.sum()))
    return np.array(found)


@pytest.mark.parametrize(
    ("dtype", "changes"),
    [
        (np.uint16, {}),
        (np.int32, {"min_res": 60, "max_res": 200}),
        (np.float16, {}),
        (np.float32, {"min_pix_count": 4, "local_bg_radius": 6}),
    ],
)
def test_kernels_and_plain_numpy_find_the_same(detector, dtype, changes):
    frame, recipe = make_frame(detector, dtype), USUAL.model_copy(update=changes)
    peaks, snr, panel = peakfinder8(frame, recipe)
    found = np.column_stack([peaks[:, :3], snr, peaks[:, 5]])
    expected = plain_peakfinder8(frame, recipe)
    assert len(expected) > 20
    np.testing.assert_allclose(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)], rtol=1e-5)
    assert np.all(panel == detector.panel_of(peaks[:, 0], peaks[:, 1]))


@pytest.mark.parametrize(("folder", "file", "local_bg_radius"), [("lyso", "lyso.cxi", 4), ("psii", "psii.h5", 3)])
@pytest.mark.parametrize(("fast", "least"), [(False, 0.999), (True, 0.96)])
def test_peaks_are_those_of_crystfel(shared_data, folder, file, local_bg_radius, fast, least):
    recipe = PeakFinder8Recipe(threshold=4, max_pix_count=40, local_bg_radius=local_bg_radius, min_res=30, fast=fast)
    frames = open_frames(shared_data / folder / file, shared_data / folder / f"{folder}.geom")
    reference = read_stream(shared_data / folder / "reference/peaks.stream.gz")
    assert "--peaks=peakfinder8 --threshold=4 --min-snr=5 --min-pix-count=2 --max-pix-count=40" in reference.command
    assert f"--local-bg-radius={local_bg_radius} --min-res=30" in reference.command
    n_ours, n_theirs, ours_there, theirs_here, equal = 0, 0, 0, 0, 0
    for frame, result in zip(frames, reference.results(), strict=True):
        peaks, theirs = peakfinder8(frame, recipe)[0], result.peaks
        n_ours, n_theirs = n_ours + len(peaks), n_theirs + len(theirs)
        if len(peaks) and len(theirs):
            distance = np.hypot(peaks[:, :1] - theirs.fs, peaks[:, 1:2] - theirs.ss)
            ours_there += np.sum(distance.min(axis=1) < 0.5)
            theirs_here += np.sum(distance.min(axis=0) < 0.5)
            equal += np.sum(np.abs(peaks[distance.argmin(axis=0), 2] - theirs.intensity) < 0.011)
    assert ours_there >= least * n_ours
    assert theirs_here >= least * n_theirs
    # With all pixels the local background is the same as well, but for rare roundings of its middle.
    assert fast or equal > 0.99 * n_theirs


def test_the_fast_mode_draws_good_pixels_of_the_right_radius_and_each_once(detector):
    first, drawn = drawn_pixels(detector)
    radius, counts = radii(detector)
    n = np.diff(first)
    assert np.array_equal(radius, np.where(plain_radii(detector) < 0, 65535, plain_radii(detector)))
    assert np.array_equal(n, np.minimum(counts, FAST_CANDIDATES))
    assert np.array_equal(radius.ravel()[drawn], np.repeat(np.arange(len(counts)), n))
    assert len(np.unique(drawn)) == len(drawn)
    bad = (np.random.default_rng(4).random(detector.shape) < 0.3).astype(np.uint8)
    data = np.arange(bad.size).reshape(bad.shape)
    values, begin, end = drawn_values(data, bad, first, drawn)
    n_good = np.bincount(radius.ravel()[drawn], weights=bad.ravel()[drawn] == 0, minlength=len(counts))
    assert np.array_equal(end - begin, np.minimum(n_good, FAST_PIXELS))
    for r in (50, 150, 250):
        chosen = drawn[first[r] : first[r + 1]]
        assert np.array_equal(values[begin[r] : end[r]], chosen[bad.ravel()[chosen] == 0][:FAST_PIXELS])


def test_a_blob_that_is_too_large_gives_no_peak_of_its_rest(detector):
    data = np.random.default_rng(2).poisson(1.0, detector.shape).astype(np.uint16)
    data[100:110, 100:110] = 5000
    frame = Frame(data, np.zeros(detector.shape, np.uint8), 9500.0, detector, FrameId("made.cxi", "//0"))
    assert len(peakfinder8(frame, USUAL)[0]) == 0
    peaks, _, _ = peakfinder8(frame, USUAL.model_copy(update={"max_pix_count": 100}))
    assert peaks[:, [0, 1, 5]].tolist() == [[105.0, 105.0, 100.0]]


def test_a_peak_may_reach_the_border_of_its_panel_but_not_lie_on_it(detector):
    data = np.random.default_rng(2).poisson(1.0, detector.shape).astype(np.uint16)
    data[50:53, 255] = 1000
    data[200:202, 254:258] = 1000
    frame = Frame(data, np.zeros(detector.shape, np.uint8), 9500.0, detector, FrameId("made.cxi", "//0"))
    peaks, _, panel = peakfinder8(frame, USUAL)
    assert peaks[:, [0, 1, 5]].tolist() == [[255.0, 201.0, 4.0], [257.0, 201.0, 4.0]]
    assert panel.tolist() == [0, 1]


def test_a_background_without_spread_hides_no_peak_and_gives_finite_numbers():
    panel = Panel("only", 0, 0, 64, 64, (-0.0032, 0.0032, 0.1), (1e-4, 0.0, 0.0), (0.0, -1e-4, 0.0), 0, 0, 1.0)
    detector = Detector((panel,), (64, 64), 0.1)
    data = np.zeros((64, 64), np.uint16)
    data[20, 30:32] = 30
    frame = Frame(data, np.zeros((64, 64), np.uint8), 9500.0, detector, FrameId("made.cxi", "//0"))
    peaks, snr, _ = peakfinder8(frame, USUAL)
    assert peaks[:, :3].tolist() == [[31.0, 20.5, 60.0]]
    assert np.isfinite(snr).all()
    assert np.isfinite(peaks).all()


def test_a_frame_without_good_pixels_has_no_peaks(detector):
    frame = replace(make_frame(detector), bad=np.ones(detector.shape, np.uint8))
    for fast in (False, True):
        assert len(peakfinder8(frame, USUAL.model_copy(update={"fast": fast}))[0]) == 0


def test_a_recipe_asks_for_it(detector):
    frame = make_frame(detector)
    recipe = validate({"peaks": {"method": "peakfinder8", "peakfinder8": {"threshold": 20, "max_pix_count": 30}}})
    peaks = find_peaks(frame, recipe)
    assert len(peaks) == len(peakfinder8(frame, USUAL)[0])
    highest = float(np.sort(peaks.max_value)[-3])
    saturating = Detector(
        tuple(replace(panel, max_adu=highest) for panel in detector.panels), detector.shape, detector.camera_length
    )
    unsaturated = recipe.changed(peaks={"use_saturated": False})
    assert len(find_peaks(replace(frame, detector=saturating), unsaturated)) == len(peaks) - 3
    assert Recipe().peaks.method != "peakfinder8"
