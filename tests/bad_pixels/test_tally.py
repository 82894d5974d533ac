from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sfxlab.bad_pixels import added, tally_frames
from sfxlab.bad_pixels.tally import STANDS_OUT
from sfxlab.frames import Frame

Make = Callable[..., Any]


def deviations(frame: Frame) -> NDArray[np.float64]:
    """What `tally_frames` does to one frame, in plain numpy: standard deviations from the mean of panel and radius."""
    found = np.zeros(frame.data.shape)
    counts = np.zeros(frame.data.shape, dtype=bool)
    for r0, r1, c0, c1 in frame.detector.arrays.bounds:
        for i in range(r0, r1, 2):
            counts[i, c0 + (i // 2) % 2 : c1 : 2] = True
        here = np.s_[r0:r1, c0:c1]
        data, radius = frame.data[here].astype(float), frame.detector.radius[here].astype(int)
        good = frame.bad[here] == 0
        radii = np.arange(radius.min(), radius.max() + 1)
        inside = [good & counts[here] & (radius == r) for r in radii]
        low, high = np.full(len(radii), -np.inf), np.full(len(radii), np.inf)
        for _ in range(4):
            chosen = [data[m] for m in inside]
            chosen = [v[(v >= a) & (v <= b)] for v, a, b in zip(chosen, low, high, strict=True)]
            mean, sigma = np.zeros(len(radii)), np.zeros(len(radii))
            for b in range(len(radii)):
                width = 0
                while True:
                    pool = np.concatenate(chosen[max(b - width, 0) : b + width + 1])
                    if len(pool) >= 30 or width >= len(radii):
                        break
                    width += 1
                mean[b], sigma[b] = pool.mean(), max(pool.std(), 1e-6 * max(abs(pool.mean()), 1))
            low, high = mean - 5 * sigma, mean + 5 * sigma
        index = radius - radius.min()
        found[here] = np.where(good, (data - mean[index]) / sigma[index], 0)
    return found


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_the_kernels_count_as_plain_numpy_does(experiment: Make, dtype: type) -> None:
    frames = list(experiment(frames=5, hot={(40, 50): (100.0, 1.0)}, dtype=dtype, gain=3.0))
    bad = np.zeros(frames[0].data.shape, dtype=np.uint8)
    bad[100:120, 200:300] = 1
    frames[2] = replace(frames[2], bad=bad)
    tally = tally_frames(frames)
    assert tally is not None
    z = np.array([deviations(frame) for frame in frames])
    good = np.array([frame.bad == 0 for frame in frames])
    data = np.where(good, [frame.data for frame in frames], 0)
    np.testing.assert_array_equal(tally.seen, good.sum(axis=0))
    sure = (abs(z - STANDS_OUT) > 1e-3).all(axis=0)
    np.testing.assert_array_equal(tally.stood_out[sure], (z > STANDS_OUT).sum(axis=0)[sure])
    np.testing.assert_allclose(tally.total, data.sum(axis=0), rtol=1e-6)
    np.testing.assert_allclose(tally.square, (np.clip(z, -5, 5) ** 2).sum(axis=0), rtol=1e-3, atol=1e-3)
    everywhere = good.all(axis=0)
    same = (data[1:] == data[:-1]).sum(axis=0)
    np.testing.assert_array_equal(tally.same[everywhere], same[everywhere])
    np.testing.assert_array_equal(tally.compared, tally.seen - 1)


def test_parts_add_up(experiment: Make) -> None:
    frames = list(experiment(frames=8, hot={(40, 50): (500.0, 1.0)}))
    parts = [tally_frames(frames[i : i + 4]) for i in (0, 4)]
    both, whole = added(*parts), tally_frames(frames)
    assert both is not None
    assert whole is not None
    assert (both.frames, both.parts) == (8, 2)
    np.testing.assert_array_equal(both.seen, whole.seen)
    np.testing.assert_array_equal(both.stood_out, whole.stood_out)
    np.testing.assert_allclose(both.total, whole.total, rtol=1e-6)
    assert both.parts_stood_out[40, 50] == 2
    assert added(None, parts[0]) is parts[0]
    assert added(parts[0], None) is parts[0]


def test_frames_of_another_shape_are_left_out(experiment: Make) -> None:
    frames = list(experiment(frames=3))
    strange = replace(frames[1], data=frames[1].data[:100], bad=frames[1].bad[:100])
    tally = tally_frames([frames[0], strange, frames[2]])
    assert tally is not None
    assert tally.frames == 2
    assert tally_frames([]) is None
