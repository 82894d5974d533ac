"""Kernels of the radial-background peak search.

The background of a still depends mainly on the distance from the beam axis (Barty et al. 2014, J. Appl. Cryst. 47,
1118), so each pixel is compared with what the pixels at its radius have.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

PASSES = 5
MIN_PIXELS_IN_BIN = 50


@njit(cache=True, nogil=True)
def radial_background(
    data: NDArray[Any], bad: NDArray[np.uint8], radius: NDArray[np.uint16], clip: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of the background against radius, each (n_radii,), ADU.

    `data`, `bad` and `radius` have the shape of the slab. Five passes; from the second on only pixels within `clip`
    standard deviations of the mean of their radius count. Radii with few pixels borrow from their neighbours; where
    there is nothing at all the standard deviation is infinite.
    """
    rows, columns = data.shape
    n_radii = 1
    for i in range(rows):
        for j in range(columns):
            if radius[i, j] < 65535 and radius[i, j] >= n_radii:
                n_radii = radius[i, j] + 1
    mean = np.zeros(n_radii)
    sigma = np.full(n_radii, np.inf)
    low = np.full(n_radii, -np.inf)
    high = np.full(n_radii, np.inf)
    for _ in range(PASSES):
        n = np.zeros(n_radii)
        total = np.zeros(n_radii)
        squares = np.zeros(n_radii)
        for i in range(rows):
            for j in range(columns):
                r = radius[i, j]
                if r == 65535 or bad[i, j] != 0:
                    continue
                value = float(data[i, j])
                if low[r] <= value <= high[r]:
                    n[r] += 1.0
                    total[r] += value
                    squares[r] += value * value
        _smooth_statistics(n, total, squares, mean, sigma)
        for r in range(n_radii):
            low[r] = mean[r] - clip * sigma[r]
            high[r] = mean[r] + clip * sigma[r]
    return mean, sigma


@njit(cache=True, nogil=True)
def _smooth_statistics(
    n: NDArray[np.float64],
    total: NDArray[np.float64],
    squares: NDArray[np.float64],
    mean: NDArray[np.float64],
    sigma: NDArray[np.float64],
) -> None:
    """Mean and σ of each radius from its own pixels, widened on both sides until there are enough."""
    n_radii = len(n)
    for r in range(n_radii):
        count, s1, s2 = n[r], total[r], squares[r]
        width = 0
        while count < MIN_PIXELS_IN_BIN and width < n_radii:
            width += 1
            if r - width >= 0:
                count += n[r - width]
                s1 += total[r - width]
                s2 += squares[r - width]
            if r + width < n_radii:
                count += n[r + width]
                s1 += total[r + width]
                s2 += squares[r + width]
        if count > 1:
            mean[r] = s1 / count
            sigma[r] = math.sqrt(max(s2 / count - mean[r] * mean[r], 0.0))
        else:
            mean[r] = 0.0
            sigma[r] = np.inf


@njit(cache=True, nogil=True)
def pixel_thresholds(
    mean: NDArray[np.float64], sigma: NDArray[np.float64], gain: float, z: float, floor: float
) -> NDArray[np.float64]:
    """Values above which a background pixel is as rare as z standard deviations of a normal distribution, (n_radii,).

    Photon noise is skewed: by Cornish and Fisher the quantile is μ + zσ + (z² − 1) κ₃ / (6σ²), with the third cumulant
    of the photon part κ₃ = g²μ (g = ADU per photon). The variance is never taken below that of photon counting.
    """
    threshold = np.empty(len(mean))
    for r in range(len(mean)):
        if not np.isfinite(sigma[r]):
            threshold[r] = np.inf
            continue
        photons = max(mean[r], 0.01 * gain)
        variance = max(sigma[r] * sigma[r], gain * photons)
        skew = (z * z - 1.0) * gain * gain * photons / (6.0 * variance)
        threshold[r] = max(mean[r] + z * math.sqrt(variance) + skew, floor)
    return threshold


@njit(cache=True, nogil=True)
def lonely_pixels(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    radius: NDArray[np.uint16],
    threshold: NDArray[np.float64],
    bounds: NDArray[np.int64],
) -> tuple[int, int]:
    """Pixels of a panel above the threshold of their radius without an eight-neighbour above it, and good pixels."""
    r0, r1, c0, c1 = bounds
    lonely, good = 0, 0
    for i in range(r0, r1):
        for j in range(c0, c1):
            r = radius[i, j]
            if r == 65535 or bad[i, j] != 0:
                continue
            good += 1
            if not data[i, j] > threshold[r]:
                continue
            company = False
            for y in range(max(i - 1, r0), min(i + 2, r1)):
                for x in range(max(j - 1, c0), min(j + 2, c1)):
                    if (y != i or x != j) and bad[y, x] == 0 and radius[y, x] != 65535:
                        company |= data[y, x] > threshold[radius[y, x]]
            if not company:
                lonely += 1
    return lonely, good


@njit(cache=True, nogil=True)
def search_panel(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    radius: NDArray[np.uint16],
    threshold: NDArray[np.float64],
    bounds: NDArray[np.int64],
    gain: float,
    min_pixels: int,
    max_pixels: int,
    min_snr: float,
    background_radius: int,
    claimed: NDArray[np.uint8],
    found: NDArray[np.float64],
    n_found: int,
) -> int:
    """Peaks of one panel, appended to `found` from row `n_found` on; returns the new number of rows.

    Pixels above the `threshold` of their radius (n_radii,) are joined with their eight neighbours. The local
    background comes from pixels below the threshold within `background_radius` of the blob. Columns of `found`: fs, ss,
    intensity, sigma, snr, highest pixel, number of pixels. `claimed` is a slab of zeros that the search marks.
    """
    r0, r1, c0, c1 = bounds
    stack = np.empty((max_pixels + 1, 2), dtype=np.int64)
    for i in range(r0 + 1, r1 - 1):
        for j in range(c0 + 1, c1 - 1):
            r = radius[i, j]
            if r == 65535 or bad[i, j] != 0 or claimed[i, j] != 0 or not data[i, j] > threshold[r]:
                continue
            n = _fill(data, bad, radius, threshold, bounds, claimed, stack, i, j)
            if n < min_pixels or n > max_pixels:
                continue
            peak = _measure(data, bad, radius, threshold, bounds, claimed, stack[:n], background_radius, gain)
            if peak[4] >= min_snr and n_found < len(found):
                found[n_found, :6] = peak
                found[n_found, 6] = n
                n_found += 1
    return n_found


@njit(cache=True, nogil=True)
def _fill(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    radius: NDArray[np.uint16],
    threshold: NDArray[np.float64],
    bounds: NDArray[np.int64],
    claimed: NDArray[np.uint8],
    stack: NDArray[np.int64],
    i: int,
    j: int,
) -> int:
    """Claim the blob around (i, j); its pixels lie in `stack`. Returns their number, len(stack) where more."""
    r0, r1, c0, c1 = bounds
    limit = len(stack)
    stack[0, 0], stack[0, 1] = i, j
    claimed[i, j] = 1
    n, done = 1, 0
    while done < n:
        row, column = stack[done]
        done += 1
        for y in range(max(row - 1, r0), min(row + 2, r1)):
            for x in range(max(column - 1, c0), min(column + 2, c1)):
                if claimed[y, x] != 0 or bad[y, x] != 0 or radius[y, x] == 65535:
                    continue
                if data[y, x] > threshold[radius[y, x]]:
                    if n == limit:
                        return limit
                    claimed[y, x] = 1
                    stack[n, 0], stack[n, 1] = y, x
                    n += 1
    return n


@njit(cache=True, nogil=True)
def _measure(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    radius: NDArray[np.uint16],
    threshold: NDArray[np.float64],
    bounds: NDArray[np.int64],
    claimed: NDArray[np.uint8],
    blob: NDArray[np.int64],
    background_radius: int,
    gain: float,
) -> tuple[float, float, float, float, float, float]:
    """fs, ss, intensity, sigma, signal-to-noise ratio and highest pixel of a blob of pixels, (n, 2) rows and columns.

    Intensity and centroid take in the blob's neighbours, because the flanks of a weak spot lie below the threshold. The
    signal-to-noise ratio is that of the blob against the background alone.
    """
    r0, r1, c0, c1 = bounds
    top, bottom, left, right = blob[0, 0], blob[0, 0], blob[0, 1], blob[0, 1]
    for row, column in blob:
        top, bottom = min(top, row), max(bottom, row)
        left, right = min(left, column), max(right, column)
    margin = background_radius
    mean, variance, n_background = _ring(
        data, bad, radius, threshold, claimed,
        max(top - margin, r0), min(bottom + margin + 1, r1), max(left - margin, c0), min(right + margin + 1, c1),
        top, bottom, left, right,
    )  # fmt: skip
    nothing = (0.0, 0.0, 0.0, 0.0, -1.0, 0.0)
    if n_background < 5:
        return nothing
    # As in the radial statistics, the noise is never taken below that of counting photons.
    variance = max(variance, gain * max(mean, 0.01 * gain))
    core, highest = 0.0, -np.inf
    for row, column in blob:
        core += data[row, column] - mean
        highest = max(highest, float(data[row, column]))
    total, x_sum, y_sum, n = 0.0, 0.0, 0.0, 0
    for row in range(max(top - 1, r0), min(bottom + 2, r1)):
        for column in range(max(left - 1, c0), min(right + 2, c1)):
            if bad[row, column] != 0 or not _touches(blob, row, column):
                continue
            signal = data[row, column] - mean
            total += signal
            x_sum += signal * (column + 0.5)
            y_sum += signal * (row + 0.5)
            n += 1
    if total <= 0.0:
        return nothing
    sigma = math.sqrt(gain * total + n * variance * (1.0 + n / n_background))
    snr = core / math.sqrt(len(blob) * variance * (1.0 + len(blob) / n_background))
    return x_sum / total, y_sum / total, total, sigma, snr, highest


@njit(cache=True, nogil=True)
def _touches(blob: NDArray[np.int64], row: int, column: int) -> bool:
    """Whether a pixel belongs to a blob or is one of its eight-neighbours."""
    for y, x in blob:  # noqa: SIM110  numba compiles no generators
        if abs(y - row) <= 1 and abs(x - column) <= 1:
            return True
    return False


@njit(cache=True, nogil=True)
def _ring(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    radius: NDArray[np.uint16],
    threshold: NDArray[np.float64],
    claimed: NDArray[np.uint8],
    row0: int,
    row1: int,
    column0: int,
    column1: int,
    top: int,
    bottom: int,
    left: int,
    right: int,
) -> tuple[float, float, int]:
    """Mean, variance and number of the background pixels in a box, leaving out the blob's own box and its border."""
    n, total, squares = 0, 0.0, 0.0
    for row in range(row0, row1):
        for column in range(column0, column1):
            if top - 1 <= row <= bottom + 1 and left - 1 <= column <= right + 1:
                continue
            r = radius[row, column]
            if bad[row, column] != 0 or r == 65535 or claimed[row, column] != 0 or data[row, column] > threshold[r]:
                continue
            value = float(data[row, column])
            n += 1
            total += value
            squares += value * value
    if n == 0:
        return 0.0, 0.0, 0
    mean = total / n
    return mean, max(squares / n - mean * mean, 0.0), n
