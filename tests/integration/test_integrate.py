"""Reflections of frames: sums and fits, neighbours, bad pixels, saturation."""

from dataclasses import fields, replace

import numpy as np
import pytest
from scipy.special import erf

from sfxlab.diffraction import Prediction
from sfxlab.frames import Frame, FrameId
from sfxlab.frames.spot_profiles import SpotProfiles
from sfxlab.geometry import Detector
from sfxlab.integration import integrate
from sfxlab.peaks import Peaks
from sfxlab.recipe import IntegrationRecipe


def prediction_at(positions, detector):
    fs, ss = np.array(positions, dtype=float).T
    n = len(fs)
    hkl = np.column_stack([np.arange(1, n + 1), np.zeros(n), np.zeros(n)]).astype(np.int32)
    return Prediction(hkl, detector.panel_of(fs, ss), fs, ss, np.zeros(n), np.ones(n), np.full(n, 0.2))


def make_frame(detector, data, bad=None):
    bad = np.zeros(detector.shape, np.uint8) if bad is None else bad
    return Frame(data, bad, 9500.0, detector, FrameId("made.cxi", "//0"))


def test_pulls_of_poisson_spots_have_unit_width(detector):
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:512, :512] + 0.5
    positions = [(f, s) for f in range(20, 500, 24) if abs(f - 256) > 10 for s in range(20, 500, 24)]
    expected = np.full((512, 512), 4.0)
    for f, s in positions:
        box = np.s_[s - 8 : s + 9, f - 8 : f + 9]
        expected[box] += 200 / (2 * np.pi * 0.7**2) * np.exp(-((x[box] - f) ** 2 + (y[box] - s) ** 2) / (2 * 0.7**2))
    frame = make_frame(detector, rng.poisson(expected).astype(np.uint16))
    (found,) = integrate(frame, [prediction_at(positions, detector)])
    assert len(found) == len(positions)
    pulls = (found.intensity - 200) / found.sigma
    assert abs(pulls.mean()) < 0.2
    assert pulls.std() == pytest.approx(1.0, abs=0.12)


def test_a_neighbour_does_not_enter_the_background_whether_it_was_predicted_or_not(detector):
    data = np.full((512, 512), 10, dtype=np.int32)
    data[100, 100] += 500
    data[100, 105] += 100000
    for positions in ([(100.5, 100.5)], [(100.5, 100.5), (105.5, 100.5)]):
        (found,) = integrate(make_frame(detector, data), [prediction_at(positions, detector)])
        assert found.intensity[0] == pytest.approx(500)


def test_another_crystals_reflection_on_top_takes_both_away(detector):
    data = np.full((512, 512), 10, dtype=np.int32)
    one, two = prediction_at([(100.5, 100.5), (200.5, 50.5)], detector), prediction_at([(101.5, 101.5)], detector)
    first, second = integrate(make_frame(detector, data), [one, two])
    assert first.h.tolist() == [2]
    assert len(second) == 0


def test_bad_pixels_borders_and_saturation(detector):
    data = np.full((512, 512), 10, dtype=np.int32)
    bad = np.zeros((512, 512), np.uint8)
    bad[100, 101] = 1
    frame = make_frame(detector, data, bad)
    (found,) = integrate(frame, [prediction_at([(100.5, 100.5), (1.5, 50.5), (60.5, 60.5)], detector)])
    assert found.h.tolist() == [3]
    assert found.intensity[0] == pytest.approx(0, abs=1e-4)
    assert not found.saturated[0]


def test_a_saturation_map_and_max_adu_both_count(detector):
    """A map of one value is as good as that `max_adu`; of the two the lower one counts."""
    rng = np.random.default_rng(3)
    data = rng.poisson(10, (512, 512)).astype(np.float32)
    positions = [(f, s) for f in range(20, 500, 24) if abs(f - 256) > 10 for s in range(20, 500, 24)]
    for (f, s), height in zip(positions, rng.uniform(50, 150, len(positions)), strict=True):
        data[s, f] = height
    predictions = [prediction_at(positions, detector)]

    def saturated(max_adu, value):
        panels = tuple(replace(panel, max_adu=max_adu) for panel in detector.panels)
        limits = None if value is None else np.full(data.shape, value, np.float32)
        frame = make_frame(Detector(panels, detector.shape, detector.camera_length), data)
        return integrate(replace(frame, saturation_map=limits), predictions)[0].saturated

    by_panel = saturated(100.0, None)
    assert 0 < by_panel.sum() < len(positions)
    for max_adu, value in ((np.inf, 100.0), (100.0, np.inf), (100.0, 120.0), (120.0, 100.0)):
        np.testing.assert_array_equal(saturated(max_adu, value), by_panel)


def test_of_the_pixels_of_a_peak_each_has_its_own_limit(detector):
    data = np.full((512, 512), 10, dtype=np.uint16)
    data[100, 100], data[100, 101] = 500, 60
    limits = np.full(data.shape, np.inf, dtype=np.float32)
    limits[100, 100] = 501
    predictions = [prediction_at([(100.5, 100.5)], detector)]
    frame = replace(make_frame(detector, data), saturation_map=limits)
    assert not integrate(frame, predictions)[0].saturated[0]
    limits[100, 101] = 60
    assert integrate(frame, predictions)[0].saturated[0]


def test_far_below_zero_is_no_measurement(detector):
    data = np.full((512, 512), 100, dtype=np.int32)
    data[98:103, 98:103] = -500
    (found,) = integrate(make_frame(detector, data), [prediction_at([(100.5, 100.5)], detector)], IntegrationRecipe())
    assert len(found) == 0


SIGMA = 0.75
"""Of the spots, pixels."""


def gaussian_profiles(offset=(0.0, 0.0), misfit=0.0):
    """Profiles of round spots that lie `offset` from their predictions."""
    axis = (np.arange(37) - 18) * 0.25
    cut = [0.25 * (erf((axis + s) / SIGMA / np.sqrt(2))) for s in (0.5, -0.5)]
    line = 2 * (cut[0] - cut[1])
    table = line[:, None] * line[None, :]
    return SpotProfiles(table[None], 0.25, np.array([0.2]), np.array([misfit]), np.tile(offset, (2, 1)), 3.0, 10, 1000)


def drawn(positions, photons, shape, background):
    """Expected photons of round spots on a flat background."""
    y, x = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    expected = np.full(shape, background)
    for (f, s), total in zip(positions, np.broadcast_to(photons, len(positions)), strict=True):
        rows, columns = slice(int(s) - 9, int(s) + 10), slice(int(f) - 9, int(f) + 10)
        across, down = (
            0.5 * (erf((axis + 1 - centre) / SIGMA / np.sqrt(2)) - erf((axis - centre) / SIGMA / np.sqrt(2)))
            for axis, centre in ((x[:, columns], f), (y[rows], s))
        )
        expected[rows, columns] += total * down * across
    return expected


def scattered(rng, n_columns=20, n_rows=20):
    """Positions apart from each other and from the borders of the panels."""
    f, s = np.meshgrid(np.arange(n_columns), np.arange(n_rows))
    left = f.ravel() < n_columns // 2
    fs = np.where(left, 14 + 23 * f.ravel(), 270 + 23 * (f.ravel() - n_columns // 2))
    return np.column_stack([fs, 16 + 23 * s.ravel()]) + rng.uniform(0, 1, (f.size, 2))


@pytest.mark.parametrize(("photons", "background"), [(0.0, 1.0), (6.0, 0.05), (6.0, 1.0), (60.0, 1.0), (60.0, 5.0)])
def test_fits_and_sums_are_true_and_their_errors_too(detector, photons, background):
    rng = np.random.default_rng(7)
    found = []
    for _ in range(4):
        positions = scattered(rng)
        data = rng.poisson(drawn(positions, photons, detector.shape, background)).astype(np.uint16)
        frame = replace(make_frame(detector, data), profiles=gaussian_profiles())
        found += integrate(frame, [prediction_at(positions, detector)])
    for kind in ("sum", "profile"):
        values, sigma = (np.concatenate([getattr(r, f"{x}_{kind}") for r in found]) for x in ("intensity", "sigma"))
        assert len(values) > 1400
        assert abs(values.mean() - photons) < 4 * values.std() / np.sqrt(len(values)) + 0.02 * photons
        assert ((values - photons) / sigma).std() == pytest.approx(1.0, abs=0.1)
    sums, fits = (np.concatenate([getattr(r, f"intensity_{kind}") for r in found]) for kind in ("sum", "profile"))
    assert fits.std() < (0.65 if photons < 10 and background == 1 else 1.0) * sums.std()


def test_backgrounds_have_no_bias_next_to_spots_that_are_found_or_predicted(detector):
    rng = np.random.default_rng(11)
    positions = scattered(rng)
    for level in (0.05, 1.0, 5.0):
        found = []
        for _ in range(2):
            expected = drawn(positions, 30.0, detector.shape, level)
            expected += drawn(positions + [5.5, 2.0], 300.0, detector.shape, 0.0)
            frame = make_frame(detector, rng.poisson(expected).astype(np.uint16))
            found += integrate(frame, [prediction_at(positions, detector)])
        assert abs(np.mean(np.concatenate([r.background for r in found])) - level) < 0.02


def test_the_offset_of_a_panel_moves_the_spot_and_not_the_prediction(detector):
    data = np.rint(drawn([(100.9, 60.2)], 1e5, detector.shape, 10.0)).astype(np.uint32)
    frame = replace(make_frame(detector, data), profiles=gaussian_profiles((0.6, -0.5)))
    (found,) = integrate(frame, [prediction_at([(100.3, 60.7)], detector)])
    assert found.intensity_profile[0] == pytest.approx(1e5, rel=0.02)
    assert (found.fs[0], found.ss[0]) == pytest.approx((100.3, 60.7))


def test_spots_that_overlap_are_told_apart_or_left_out(detector):
    positions = [(100.4, 100.6), (103.0, 101.2), (200.5, 300.5), (201.1, 300.6)]
    data = np.rint(drawn(positions, [4000.0, 9000.0, 4000.0, 9000.0], detector.shape, 10.0)).astype(np.uint16)
    frame = replace(make_frame(detector, data), profiles=gaussian_profiles())
    one, two = prediction_at(positions[::2], detector), prediction_at(positions[1::2], detector)
    first, second = integrate(frame, [one, two])
    assert (first.h.tolist(), second.h.tolist()) == ([1], [1])
    assert first.intensity[0] == pytest.approx(4000, rel=0.02)
    assert second.intensity[0] == pytest.approx(9000, rel=0.02)
    # The sum has some of the neighbour in it.
    assert first.intensity_sum[0] > 5000


def test_a_bad_pixel_leaves_the_fit_and_takes_the_sum_away(detector):
    data = np.rint(drawn([(100.5, 100.5)], 5000.0, detector.shape, 10.0)).astype(np.uint16)
    bad = np.zeros(detector.shape, np.uint8)
    bad[101, 102] = 1
    data[101, 102] = 60000
    frame = replace(make_frame(detector, data, bad), profiles=gaussian_profiles())
    (found,) = integrate(frame, [prediction_at([(100.5, 100.5)], detector)])
    assert np.isnan(found.intensity_sum[0])
    assert found.intensity[0] == found.intensity_profile[0] == pytest.approx(5000, rel=0.02)


def test_strong_odd_and_saturated_spots_are_summed_and_weak_ones_fitted(detector):
    positions = [(30.5, 30.5), (60.5, 30.5), (90.5, 30.5), (120.5, 30.5)]
    expected = drawn(positions, [20.0, 20000.0, 20.0, 20.0], detector.shape, 1.0)
    data = np.random.default_rng(5).poisson(expected).astype(np.float32)
    data[32, 91] += 60
    data[30, 120] = 70
    panels = tuple(replace(panel, max_adu=1e5 if panel.name == "right" else 50000.0) for panel in detector.panels)
    limits = np.full(data.shape, np.inf, np.float32)
    limits[30, 120] = 70
    frame = replace(
        make_frame(Detector(panels, detector.shape, 0.08), data),
        profiles=gaussian_profiles(misfit=0.05), saturation_map=limits,
    )  # fmt: skip
    (found,) = integrate(frame, [prediction_at(positions, detector)])
    assert (found.intensity == found.intensity_profile).tolist() == [True, False, False, False]
    assert (found.intensity == found.intensity_sum).tolist() == [False, True, True, True]
    assert found.saturated.tolist() == [False, False, False, True]
    assert np.isnan(found.intensity_profile[2])


def test_without_profiles_or_when_not_wanted_there_are_sums_only(detector):
    data = np.random.default_rng(2).poisson(drawn([(30.5, 30.5)], 90.0, detector.shape, 1.0)).astype(np.uint16)
    frame = replace(make_frame(detector, data), profiles=gaussian_profiles())
    predictions = [prediction_at([(30.5, 30.5)], detector)]
    for found in (
        integrate(make_frame(detector, data), predictions)[0],
        integrate(frame, predictions, IntegrationRecipe(fit_profiles=False))[0],
    ):
        assert found.intensity[0] == found.intensity_sum[0]
        assert np.isnan(found.intensity_profile[0])


def test_a_found_peak_that_no_prediction_explains_is_no_background(detector):
    data = np.full(detector.shape, 10, dtype=np.int32)
    data[100, 105] += 30
    data[100, 100] += 500
    zeros = {f.name: np.zeros(2, np.float32) for f in fields(Peaks)}
    places = {"fs": np.array([105.5, 100.6]), "ss": np.array([100.5, 100.4]), "panel": np.zeros(2, np.int16)}
    peaks = Peaks(**zeros | places)
    for found_peaks in (None, peaks):
        (found,) = integrate(make_frame(detector, data), [prediction_at([(100.5, 100.5)], detector)], None, found_peaks)
        assert found.background[0] == pytest.approx(10, abs=1e-4)
        assert found.intensity[0] == pytest.approx(500)
