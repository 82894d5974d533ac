"""Ring summation."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfxlab.diffraction import Prediction
from sfxlab.frames import Frame, FrameId
from sfxlab.geometry import Detector
from sfxlab.integration import integrate, sum_rings
from sfxlab.recipe import IntegrationRecipe


def prediction_at(positions, detector):
    fs, ss = np.array(positions, dtype=float).T
    n = len(fs)
    hkl = np.column_stack([np.arange(1, n + 1), np.zeros(n), np.zeros(n)]).astype(np.int32)
    return Prediction(hkl, detector.panel_of(fs, ss), fs, ss, np.zeros(n), np.ones(n), np.full(n, 0.2))


def make_frame(detector, data, bad=None):
    bad = np.zeros(detector.shape, np.uint8) if bad is None else bad
    return Frame(data, bad, 9500.0, detector, FrameId("made.cxi", "//0"))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_sums_are_those_of_plain_numpy(seed):
    rng = np.random.default_rng(seed)
    data = rng.poisson(7, (60, 60)).astype(np.uint16)
    bad = (rng.random(data.shape) < 0.02).astype(np.uint8)
    fs, ss = rng.uniform(8, 52, 5), rng.uniform(8, 52, 5)
    limits = rng.uniform(13, 40, data.shape if seed % 2 else (0, 0)).astype(np.float32)
    found = sum_rings(
        data, bad, np.zeros_like(bad), np.zeros(5, np.int16), fs, ss, np.array([[0, 60, 0, 60]]),
        np.array([2.0]), np.array([15.0]), limits, 3.0, 4.0, 6.0,
    )  # fmt: skip
    saturated = data >= np.minimum(15, limits if limits.size else np.inf)
    y, x = np.mgrid[:60, :60]
    for row, f, s in zip(found, fs, ss, strict=True):
        distance = np.hypot(x - np.floor(f), y - np.floor(s))
        peak, ring = distance <= 3, (distance > 4) & (distance <= 6) & (bad == 0)
        if bad[peak].any():
            assert np.isnan(row[0])
            continue
        background, variance = data[ring].mean(), data[ring].var(ddof=1)
        total = (data[peak] - background).sum()
        m = peak.sum()
        sigma = np.sqrt(2.0 * max(abs(total), 2.0) + m * variance * (1 + m / ring.sum()))
        np.testing.assert_allclose(
            row,
            [total, sigma, data[peak].max() - background, background, saturated[peak].any()],
            rtol=1e-4,
            atol=1e-4,
        )


def test_the_standard_error_is_that_of_the_appendix():
    """METHODS.md A10: g = 2, I = 150, m = 29, σ_b² = 6.5 and 60 background pixels give 24.0751."""
    assert np.sqrt(2 * 150 + 29 * 6.5 * (1 + 29 / 60)) == pytest.approx(24.0751, abs=1e-4)


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


def test_a_neighbour_does_not_enter_the_background(detector):
    data = np.full((512, 512), 10, dtype=np.int32)
    data[100, 100] += 500
    data[100, 105] += 100000
    alone = integrate(make_frame(detector, data), [prediction_at([(100.5, 100.5)], detector)])[0]
    both = integrate(make_frame(detector, data), [prediction_at([(100.5, 100.5), (105.5, 100.5)], detector)])[0]
    assert abs(alone.intensity[0] - 500) > 1000 if len(alone) else True
    assert both.intensity[0] == pytest.approx(500)


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
