"""What a frame says of itself."""

import numpy as np
import pytest

from sfxlab.frames import Frame, FrameId
from sfxlab.geometry import Detector, Panel


def _frame(seed: int, mapped: bool) -> Frame:
    rng = np.random.default_rng(seed)
    steps = (1e-4, 0.0, 0.0), (0.0, 1e-4, 0.0)
    panels = tuple(
        Panel(name, 0, 12 * i, 20, 12, (0.0, 0.0, 0.1), *steps, max_adu=max_adu)
        for i, (name, max_adu) in enumerate((("a", 95.0), ("b", np.inf)))
    )
    saturation_map = rng.uniform(80, 150, (20, 24)).astype(np.float32) if mapped else None
    return Frame(
        rng.integers(0, 100, (20, 24)), (rng.random((20, 24)) < 0.1).astype(np.uint8), 9000.0,
        Detector(panels, (20, 24), 0.1), FrameId("a.h5", "//0"), saturation_map=saturation_map,
    )  # fmt: skip


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_saturated_pixels_near_a_place_are_those_of_a_plain_search(seed: int, mapped: bool) -> None:
    frame, rng = _frame(seed, mapped), np.random.default_rng(seed + 100)
    fs, ss, radius = rng.uniform(0, 24, 60), rng.uniform(0, 20, 60), rng.uniform(0, 2.5, 60)
    panel = frame.detector.panel_of(fs, ss)
    found = frame.saturated_near(panel, fs, ss, radius)
    limits = frame.detector.arrays.max_adu[frame.detector.panel_map]
    if frame.saturation_map is not None:
        limits = np.minimum(limits, frame.saturation_map)
    saturated = (frame.data >= limits) & (frame.bad == 0)
    row, column = np.mgrid[:20, :24]
    for i in range(60):
        near = np.hypot(row - np.floor(ss[i]), column - np.floor(fs[i])) <= radius[i]
        assert found[i] == saturated[near & (frame.detector.panel_map == panel[i])].any()
    assert 0 < found.sum() < 60


def test_of_no_places_none_is_saturated() -> None:
    nothing = np.empty(0, dtype=np.float32)
    assert _frame(0, True).saturated_near(nothing.astype(np.int16), nothing, nothing, nothing).shape == (0,)
