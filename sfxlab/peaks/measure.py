"""Kernels that measure peaks: which pixels belong to them, intensity and centroid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.peaks.background import LEAST_PHOTONS
from sfxlab.peaks.candidates import is_usable
from sfxlab.peaks.pixel_bins import NO_BIN


@njit(cache=True, nogil=True)
def measure_tops(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    look_at_bad: bool,
    columns: int,
    bin_: NDArray[np.uint16],
    panel: NDArray[np.int64],
    bounds: NDArray[np.int64],
    gain: NDArray[np.float64],
    saturation: NDArray[np.float64],
    saturation_map: NDArray[np.float32],
    threshold: NDArray[Any],
    min_pixels: int,
    max_pixels: int,
    background_radius: int,
    tops: NDArray[np.int32],
    found: NDArray[np.float64],
) -> None:
    """Fill `found` (n_tops, 7): fs, ss, intensity, sigma, highest pixel, number of pixels, and how many of them are
    saturated; 0 pixels for no peak.

    Pixels above the `threshold` of their bin are joined with their eight neighbours. Of tops that are joined the
    highest is the peak. Pixels are saturated from the `saturation` (n_panels,) of their panel on and from that of the
    map (n_pixels,) on; a map without pixels says nothing.
    """
    blob = np.empty((max_pixels + 1, 2), dtype=np.int64)
    near = np.empty((max_pixels + 3, max_pixels + 3), dtype=np.bool_)
    for i in range(len(tops)):
        k = panel[bin_[tops[i]]]
        found[i] = 0.0
        n = _join(data, bad, look_at_bad, columns, bin_, bounds[k], threshold, tops[i], blob)
        if min_pixels <= n <= max_pixels:
            _measure(
                data, bad, look_at_bad, columns, bin_, bounds[k], gain[k], threshold, background_radius, blob[:n],
                near, found[i],
            )  # fmt: skip
            for row, column in blob[:n]:
                pixel = row * columns + column
                limit = saturation[k]
                if len(saturation_map) > 0:
                    limit = min(limit, float(saturation_map[pixel]))
                if data[pixel] >= limit:
                    found[i, 6] += 1


@njit(cache=True, nogil=True)
def _join(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    look_at_bad: bool,
    columns: int,
    bin_: NDArray[np.uint16],
    bounds: NDArray[np.int64],
    threshold: NDArray[Any],
    top: int,
    blob: NDArray[np.int64],
) -> int:
    """The rows and columns of the pixels joined with a top, into `blob`; their number, 0 where one is higher."""
    blob[0, 0], blob[0, 1] = top // columns, top % columns
    n, done = 1, 0
    while done < n:
        row, column = blob[done]
        done += 1
        for y in range(max(row - 1, bounds[0]), min(row + 2, bounds[1])):
            for x in range(max(column - 1, bounds[2]), min(column + 2, bounds[3])):
                pixel = y * columns + x
                b = bin_[pixel]
                if b == NO_BIN or not data[pixel] > threshold[b] or _lies_in(blob, n, y, x):
                    continue
                if not is_usable(data, bin_, bad, look_at_bad, pixel):
                    continue
                if n == len(blob):
                    return n
                if data[pixel] > data[top] or (data[pixel] == data[top] and pixel < top):
                    return 0
                blob[n, 0], blob[n, 1] = y, x
                n += 1
    return n


@njit(cache=True, nogil=True)
def _lies_in(blob: NDArray[np.int64], n: int, row: int, column: int) -> bool:
    for i in range(n):  # noqa: SIM110  numba compiles no generators
        if blob[i, 0] == row and blob[i, 1] == column:
            return True
    return False


@njit(cache=True, nogil=True)
def _measure(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    look_at_bad: bool,
    columns: int,
    bin_: NDArray[np.uint16],
    bounds: NDArray[np.int64],
    gain: float,
    threshold: NDArray[Any],
    background_radius: int,
    blob: NDArray[np.int64],
    near: NDArray[np.bool_],
    peak: NDArray[np.float64],
) -> None:
    """Intensity and centroid of a blob (n, 2), and of its neighbours, because the flanks of a weak spot lie below the
    threshold. The background comes from pixels below the threshold within `background_radius` of the blob. `near` is
    to work in, larger than any blob and its neighbours.
    """
    top, bottom, left, right = blob[:, 0].min(), blob[:, 0].max(), blob[:, 1].min(), blob[:, 1].max()
    n_around, total, squares = 0, 0.0, 0.0
    first, end = max(left - background_radius, bounds[2]), min(right + background_radius + 1, bounds[3])
    for y in range(max(top - background_radius, bounds[0]), min(bottom + background_radius + 1, bounds[1])):
        # Slices need no look whether an index is negative.
        pixels = slice(y * columns + first, y * columns + end)
        of_data, of_bin, of_bad = data[pixels], bin_[pixels], bad[pixels]
        beside = y < top - 1 or y > bottom + 1
        for i in range(end - first):
            b = of_bin[i]
            if b == NO_BIN or (look_at_bad and of_bad[i] != 0):
                continue
            value = float(of_data[i])
            if of_data[i] <= threshold[b] and value > -np.inf and (beside or not left - 1 <= first + i <= right + 1):
                n_around += 1
                total += value
                squares += value * value
    if n_around < 5:
        return
    mean = total / n_around
    variance = max(squares / n_around - mean * mean, gain * max(mean, LEAST_PHOTONS * gain))
    intensity, x_sum, y_sum, n, highest = 0.0, 0.0, 0.0, 0, -np.inf
    near[: bottom - top + 3, : right - left + 3] = False
    for row, column in blob:
        near[row - top : row - top + 3, column - left : column - left + 3] = True
    for y in range(max(top - 1, bounds[0]), min(bottom + 2, bounds[1])):
        for x in range(max(left - 1, bounds[2]), min(right + 2, bounds[3])):
            pixel = y * columns + x
            if not is_usable(data, bin_, bad, look_at_bad, pixel) or not near[y - top + 1, x - left + 1]:
                continue
            signal = data[pixel] - mean
            intensity += signal
            x_sum += signal * (x + 0.5)
            y_sum += signal * (y + 0.5)
            n += 1
    for row, column in blob:
        highest = max(highest, float(data[row * columns + column]))
    if intensity > 0.0:
        sigma = math.sqrt(gain * intensity + n * variance * (1.0 + n / n_around))
        peak[0], peak[1], peak[2], peak[3], peak[4], peak[5] = (
            x_sum / intensity, y_sum / intensity, intensity, sigma, highest, len(blob),
        )  # fmt: skip
