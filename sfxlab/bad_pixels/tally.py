"""What each pixel did over some frames, against the pixels of its panel at its own radius.

The background of a still depends mainly on the distance from the beam axis (Barty et al. 2014, J. Appl. Cryst. 47,
1118); taking each panel by itself forgives panels that stand a little elsewhere or count a little otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.frames import Frame
from sfxlab.frames.pixel_types import read_only
from sfxlab.geometry import Detector

STANDS_OUT = 5.0
"""Standard deviations above the pixels at its radius from which on a pixel stands out; deviations count up to this."""
MOST_FRAMES = 255
"""In one tally, before it is added to others."""

_PASSES = 4
_CLIP = 5.0
_MIN_PIXELS_IN_BIN = 30


@dataclass(frozen=True)
class PixelTally:
    """What each pixel did, all arrays in the shape of the slab. Tallies of other frames of the same detector add up."""

    detector: Detector
    frames: int
    """Frames that were read."""
    parts: int
    """Parts of the run that the frames are from."""
    seen: NDArray[np.unsignedinteger]
    """Frames in which the pixel was not known to be bad."""
    stood_out: NDArray[np.unsignedinteger]
    """Frames in which it was more than `STANDS_OUT` standard deviations above the pixels at its radius."""
    parts_stood_out: NDArray[np.uint8]
    """Parts of the run in which it did so."""
    compared: NDArray[np.unsignedinteger]
    """Frames in which its value could be compared with the one before, in the same part."""
    same: NDArray[np.unsignedinteger]
    """Of these, the frames in which it had the very same value."""
    total: NDArray[np.float32]
    """Sum of its values, ADU."""
    square: NDArray[np.float32]
    """Sum of its squared deviations from the mean of its radius, in standard deviations, each at most `STANDS_OUT`."""


def tally_frames(frames: Iterable[Frame]) -> PixelTally | None:
    """The tally of at most 255 frames of one part of a run; None where there is none.

    Frames of another shape than the first are left out.
    """
    tally: PixelTally | None = None
    last: NDArray[Any] | None = None
    count = 0
    for frame in frames:
        if tally is None:
            tally, last = _empty(frame.detector), np.zeros(frame.data.shape, dtype=frame.data.dtype)
        assert last is not None
        if frame.data.shape != last.shape or frame.data.dtype != last.dtype:
            continue
        detector = frame.detector
        where = detector.radius, detector.arrays.bounds, _bins(detector)
        mean, sigma = np.zeros(where[2][-1, 2]), np.zeros(where[2][-1, 2])
        panel_profiles(frame.data, read_only(frame.bad), *where, mean, sigma)
        add_frame(
            frame.data, read_only(frame.bad), *where, mean.astype(np.float32), (1 / sigma).astype(np.float32), last,
            tally.seen, tally.stood_out, tally.same, tally.total, tally.square,
        )  # fmt: skip
        count += 1
    if tally is None:
        return None
    return replace(
        tally,
        frames=count,
        parts_stood_out=(tally.stood_out > 0).astype(np.uint8),
        compared=tally.seen - (tally.seen > 0),
    )


def added(one: PixelTally | None, other: PixelTally | None) -> PixelTally | None:
    """Both tallies together. Sums of single precision: the same order of parts gives the same numbers."""
    if one is None or other is None:
        return one if other is None else other
    sums = {}
    for field in fields(PixelTally):
        mine, its = getattr(one, field.name), getattr(other, field.name)
        if field.name == "detector":
            sums[field.name] = mine
        elif field.name in ("seen", "stood_out", "compared", "same"):
            sums[field.name] = mine.astype(np.uint16) + its
        else:
            sums[field.name] = mine + its
    return PixelTally(**sums)


def _empty(detector: Detector) -> PixelTally:
    seen, stood_out, parts_stood_out, compared, same = np.zeros((5, *detector.shape), dtype=np.uint8)
    total, square = np.zeros((2, *detector.shape), dtype=np.float32)
    return PixelTally(detector, 0, 1, seen, stood_out, parts_stood_out, compared, same, total, square)


@lru_cache(maxsize=4)
def _bins(detector: Detector) -> NDArray[np.int64]:
    """For each panel its least radius and the range of its bins, one for each whole radius, (n_panels, 3)."""
    bins = np.zeros((len(detector.panels), 3), dtype=np.int64)
    first = 0
    for i, (r0, r1, c0, c1) in enumerate(detector.arrays.bounds):
        of_panel = detector.radius[r0:r1, c0:c1]
        nearest, farthest = int(of_panel.min()), int(of_panel.max())
        bins[i] = nearest, first, first + farthest - nearest + 1
        first = bins[i, 2]
    return bins


@njit(cache=True, nogil=True, error_model="numpy")
def panel_profiles(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    radius: NDArray[np.uint16],
    bounds: NDArray[np.int64],
    bins: NDArray[np.int64],
    mean: NDArray[np.float64],
    sigma: NDArray[np.float64],
) -> None:
    """Fill in mean and standard deviation against radius of each panel, (n_bins,), ADU; σ is never 0.

    Every second pixel of every second row counts; from the second pass on only those within `_CLIP` standard deviations
    of the mean. Radii with few pixels borrow from their neighbours.
    """
    for p in range(len(bounds)):
        r0, r1, c0, c1 = bounds[p]
        nearest, first, end = np.uint64(bins[p, 0]), bins[p, 1], bins[p, 2]
        low, high = np.full(end - first, -np.inf), np.full(end - first, np.inf)
        sums = np.empty((end - first, 3))
        for _ in range(_PASSES):
            sums[:] = 0.0
            for i in range(r0, r1, 2):
                values, bad_here, radii = data[i, c0:c1], bad[i, c0:c1], radius[i, c0:c1]
                for j in range((i >> 1) & 1, len(values), 2):
                    value = float(values[j])
                    b = radii[j] - nearest
                    if bad_here[j] == 0 and low[b] <= value <= high[b]:
                        sums[b, 0] += 1.0
                        sums[b, 1] += value
                        sums[b, 2] += value * value
            _smooth(sums, mean[first:end], sigma[first:end])
            for b in range(end - first):
                low[b] = mean[first + b] - _CLIP * sigma[first + b]
                high[b] = mean[first + b] + _CLIP * sigma[first + b]


@njit(cache=True, nogil=True, error_model="numpy")
def _smooth(sums: NDArray[np.float64], mean: NDArray[np.float64], sigma: NDArray[np.float64]) -> None:
    """Mean and σ of each radius from its own pixels, widened on both sides until there are enough."""
    n_bins = len(sums)
    for b in range(n_bins):
        n, s1, s2 = sums[b]
        width = 0
        while n < _MIN_PIXELS_IN_BIN and width < n_bins:
            width += 1
            if b >= width:
                n, s1, s2 = n + sums[b - width, 0], s1 + sums[b - width, 1], s2 + sums[b - width, 2]
            if b + width < n_bins:
                n, s1, s2 = n + sums[b + width, 0], s1 + sums[b + width, 1], s2 + sums[b + width, 2]
        mean[b] = s1 / n if n > 0 else 0.0
        variance = s2 / n - mean[b] * mean[b] if n > 0 else 0.0
        # Where all pixels have one value, any higher one stands out.
        sigma[b] = max(math.sqrt(max(variance, 0.0)), 1e-6 * max(abs(mean[b]), 1.0))


@njit(cache=True, nogil=True, error_model="numpy")
def add_frame(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    radius: NDArray[np.uint16],
    bounds: NDArray[np.int64],
    bins: NDArray[np.int64],
    mean: NDArray[np.float32],
    weight: NDArray[np.float32],
    last: NDArray[Any],
    seen: NDArray[np.uint8],
    stood_out: NDArray[np.uint8],
    same: NDArray[np.uint8],
    total: NDArray[np.float32],
    square: NDArray[np.float32],
) -> None:
    """Add a frame to the arrays of a tally. `weight` is 1/σ; `last` holds each pixel's value before."""
    limit = np.float32(STANDS_OUT)
    for p in range(len(bounds)):
        r0, r1, c0, c1 = bounds[p]
        nearest, m, w = np.uint64(bins[p, 0]), mean[bins[p, 1] : bins[p, 2]], weight[bins[p, 1] : bins[p, 2]]
        for i in range(r0, r1):
            values, bad_here, radii, last_here = data[i, c0:c1], bad[i, c0:c1], radius[i, c0:c1], last[i, c0:c1]
            seen_here, out_here, same_here = seen[i, c0:c1], stood_out[i, c0:c1], same[i, c0:c1]
            total_here, square_here = total[i, c0:c1], square[i, c0:c1]
            for j in range(len(values)):
                if bad_here[j] != 0:
                    continue
                b = radii[j] - nearest
                value = np.float32(values[j])
                deviation = (value - m[b]) * w[b]
                out_here[j] += np.uint8(deviation > limit)
                deviation = min(max(deviation, -limit), limit)
                square_here[j] += deviation * deviation
                total_here[j] += value
                same_here[j] += np.uint8((seen_here[j] != 0) & (values[j] == last_here[j]))
                seen_here[j] += np.uint8(1)
                last_here[j] = values[j]
