"""The peakfinder8 method (Barty et al. 2014, J. Appl. Cryst. 47, 1118; METHODS.md section 2.1).

The paper leaves details open. They were settled by comparing peak lists with those of CrystFEL 0.12, and each is said
where it is made.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.frames import Frame
from sfxlab.frames.pixel_types import compiled_pixels, read_only
from sfxlab.geometry import Detector
from sfxlab.geometry.pixel_maps import RADIUS, map_pixels
from sfxlab.recipe import PeakFinder8Recipe

PASSES = 5
FAST_PIXELS = 100
"""Good pixels of a radius from which the fast mode takes its statistics."""
FAST_CANDIDATES = 4 * FAST_PIXELS
"""Pixels of a radius among which the fast mode looks for so many good ones."""


def peakfinder8(
    frame: Frame, recipe: PeakFinder8Recipe
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Peaks, (n, 6), their signal-to-noise ratios and panels, (n,), in the order in which they are met.

    Columns: fs, ss, intensity, its standard error, highest pixel, number of pixels. The signal-to-noise ratio of
    peakfinder8 is the intensity over the standard deviation of one background pixel.
    """
    detector = frame.detector
    data, bad = compiled_pixels(frame.data), read_only(frame.bad)
    radius, counts = radii(detector)
    if recipe.fast:
        values, first, end = drawn_values(data, bad, *drawn_pixels(detector))
    else:
        values, first, end = all_values(data, bad, radius, counts)
    mean, threshold = radial_limits(values, first, end, float(recipe.min_snr), float(recipe.threshold))
    # NaN: no pixel is above it, and none below.
    if recipe.min_res > 0:
        threshold[: recipe.min_res + 1] = np.nan
    if recipe.max_res > 0:
        threshold[recipe.max_res :] = np.nan
    claimed = np.zeros(detector.shape, dtype=np.uint8)
    gain = detector.arrays.gain(detector, frame.photon_energy)
    found = [
        search(
            data, bad, radius, threshold, mean, bounds, adu_per_photon, float(recipe.min_snr),
            recipe.min_pix_count, recipe.max_pix_count, 2 * recipe.local_bg_radius, claimed,
        )
        for bounds, adu_per_photon in zip(detector.arrays.bounds, gain, strict=True)
    ]  # fmt: skip
    peaks = np.concatenate(found)
    return peaks[:, :6], peaks[:, 6], np.repeat(np.arange(len(found)), [len(rows) for rows in found])


@lru_cache(maxsize=2)
def radii(detector: Detector) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Distance of each slab pixel from the beam axis, pixels, rounded, and the number of pixels at each, (n_radii,).

    Outside the panels it is 65535. It is that of the first corner of the pixel, not of its centre as in
    `Detector.radius`.
    """
    radius = np.full(detector.shape, 65535, dtype=np.uint16)
    a, size = detector.arrays, detector.panels[0].pixel_size
    corner = a.corner - (a.fs + a.ss) / 2
    map_pixels(RADIUS, a.bounds, corner / size, a.fs / size, a.ss / size, radius)
    counts = np.bincount(radius.ravel(), minlength=65536)[:65535]
    return radius, counts[: np.flatnonzero(counts)[-1] + 1]


@lru_cache(maxsize=2)
def drawn_pixels(detector: Detector) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Up to `FAST_CANDIDATES` pixels of each radius in random order, always the same.

    Those of radius r are `pixels[first[r] : first[r + 1]]`, numbers in the flattened slab: first, pixels.
    """
    radius, counts = radii(detector)
    choice = np.random.default_rng(8).random((len(counts), FAST_CANDIDATES))
    return _draw(radius.ravel(), counts, choice)


@njit(cache=True, nogil=True)
def _draw(
    radius: NDArray[np.uint16], counts: NDArray[np.int64], choice: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Draw pixels of each radius without replacement: the i-th is `choice[r, i]` of the way through those left."""
    n_radii, most = choice.shape
    pixels = np.empty(counts.sum(), dtype=np.int32)
    place = np.cumsum(counts) - counts
    for pixel in range(len(radius)):
        r = radius[pixel]
        if r < 65535:
            pixels[place[r]] = pixel
            place[r] += 1
    first_drawn = np.zeros(n_radii + 1, dtype=np.int64)
    drawn = np.empty(choice.size, dtype=np.int32)
    n = 0
    for r in range(n_radii):
        left = pixels[place[r] - counts[r] : place[r]]
        for i in range(min(len(left), most)):
            other = i + int(choice[r, i] * (len(left) - i))
            drawn[n] = left[other]
            left[other] = left[i]
            n += 1
        first_drawn[r + 1] = n
    return first_drawn, drawn[:n].copy()


@njit(cache=True, nogil=True)
def all_values(
    data: NDArray[Any], bad: NDArray[np.uint8], radius: NDArray[np.uint16], counts: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """The good pixels radius by radius, those of radius r at `values[first[r] : end[r]]`: values, first, end."""
    values = np.empty(counts.sum(), dtype=data.dtype)
    first = np.cumsum(counts) - counts
    end = first.copy()
    for i in range(len(data)):
        row, row_bad, row_radius = data[i], bad[i], radius[i]
        for j in range(len(row)):
            r = row_radius[j]
            if row_bad[j] == 0 and r < 65535:
                values[end[r]] = row[j]
                end[r] += 1
    return values, first, end


@njit(cache=True, nogil=True)
def drawn_values(
    data: NDArray[Any], bad: NDArray[np.uint8], first: NDArray[np.int64], drawn: NDArray[np.int32]
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """As `all_values`, with the first `FAST_PIXELS` good ones of the drawn pixels of each radius."""
    values = np.empty(len(drawn), dtype=data.dtype)
    end = first[:-1].copy()
    columns = data.shape[1]
    for r in range(len(end)):
        for pixel in drawn[first[r] : first[r + 1]]:
            if bad[pixel // columns, pixel % columns] == 0:
                values[end[r]] = data[pixel // columns, pixel % columns]
                end[r] += 1
                if end[r] - first[r] == FAST_PIXELS:
                    break
    return values, first[:-1], end


@njit(cache=True, nogil=True)
def radial_limits(
    values: NDArray[Any], first: NDArray[np.int64], end: NDArray[np.int64], min_snr: float, threshold: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of the background at each radius and the value that pixels of peaks exceed, each (n_radii,), ADU.

    The values of radius r are `values[first[r] : end[r]]`. Five passes; from the second on only those within `min_snr`
    standard deviations of the mean count, the limits included. The limit of a peak's pixels is never below `threshold`,
    which plays no part in the passes; it is infinite where there are no pixels.
    """
    means, limits = np.zeros(len(first)), np.full(len(first), np.inf)
    for r in range(len(first)):
        low, high = -np.inf, np.inf
        for _ in range(PASSES):
            n, total, squares = _sums(values[first[r] : end[r]], low, high)
            # There are no pixels, or rounding has moved the mean of equal values away from them.
            if n == 0:
                break
            means[r] = total / n
            sigma = math.sqrt(max(squares / n - means[r] * means[r], 0.0))
            low, high = means[r] - min_snr * sigma, means[r] + min_snr * sigma
            limits[r] = max(high, threshold)
    return means, limits


# Reordering the sums lets the compiler add several values at once.
@njit(cache=True, nogil=True, fastmath={"reassoc"})
def _sums(values: NDArray[Any], low: float, high: float) -> tuple[int, float, float]:
    """Number, sum and sum of squares of the values from `low` to `high`."""
    n, total, squares = 0, 0.0, 0.0
    for i in range(len(values)):
        value = float(values[i])
        inside = (low <= value) & (value <= high)
        counted = value if inside else 0.0
        n += inside
        total += counted
        squares += counted * counted
    return n, total, squares


@njit(cache=True, nogil=True)
def search(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    radius: NDArray[np.uint16],
    threshold: NDArray[np.float64],
    mean: NDArray[np.float64],
    bounds: NDArray[np.int64],
    gain: float,
    min_snr: float,
    min_pixels: int,
    max_pixels: int,
    reach: int,
    claimed: NDArray[np.uint8],
) -> NDArray[np.float64]:
    """Peaks of one panel, (n, 7): the columns of `peakfinder8` and the signal-to-noise ratio.

    Pixels above the `threshold` of their radius are joined with their eight neighbours. A search begins nowhere on the
    border of the panel, but goes there. `mean` and `threshold` (n_radii,), `claimed` is a slab of zeros that the search
    marks, `reach` the radius of the local background.
    """
    r0, r1, c0, c1 = bounds
    blob = np.empty(((r1 - r0) * (c1 - c0), 2), dtype=np.int32)
    found = np.empty((64, 7))
    n_found = 0
    for i in range(r0 + 1, r1 - 1):
        values, radii = data[i, c0:c1], radius[i, c0:c1]
        for j in range(1, c1 - c0 - 1):
            if not values[j] > threshold[radii[j]] or bad[i, c0 + j] != 0 or claimed[i, c0 + j] != 0:
                continue
            n = _fill(data, bad, radius, threshold, bounds, claimed, blob, i, c0 + j)
            if n < min_pixels or n > max_pixels:
                continue
            if n_found == len(found):
                found = np.concatenate((found, np.empty_like(found)))
            n_found += _measure(
                data, bad, radius, threshold, mean, bounds, blob[:n], reach, gain, min_snr, found[n_found]
            )
    return found[:n_found]


@njit(cache=True, nogil=True)
def _fill(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    radius: NDArray[np.uint16],
    threshold: NDArray[np.float64],
    bounds: NDArray[np.int64],
    claimed: NDArray[np.uint8],
    blob: NDArray[np.int32],
    i: int,
    j: int,
) -> int:
    """Claim the blob around (i, j), whatever its size; its pixels lie in `blob`. Returns their number."""
    r0, r1, c0, c1 = bounds
    blob[0, 0], blob[0, 1] = i, j
    claimed[i, j] = 1
    n, done = 1, 0
    while done < n:
        row, column = blob[done]
        done += 1
        for y in range(max(row - 1, r0), min(row + 2, r1)):
            for x in range(max(column - 1, c0), min(column + 2, c1)):
                if claimed[y, x] == 0 and bad[y, x] == 0 and data[y, x] > threshold[radius[y, x]]:
                    claimed[y, x] = 1
                    blob[n, 0], blob[n, 1] = y, x
                    n += 1
    return n


@njit(cache=True, nogil=True)
def _measure(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    radius: NDArray[np.uint16],
    threshold: NDArray[np.float64],
    mean: NDArray[np.float64],
    bounds: NDArray[np.int64],
    blob: NDArray[np.int32],
    reach: int,
    gain: float,
    min_snr: float,
    peak: NDArray[np.float64],
) -> bool:
    """Whether a blob is a peak; its row goes into `peak`.

    The centroid that is reported has the pixel values for weights; the background is taken around the centroid of the
    values above the mean of their radius, rounded (halves to even).
    """
    total, x_sum, y_sum = 0.0, 0.0, 0.0
    above, x_above, y_above, highest = 0.0, 0.0, 0.0, -np.inf
    for row, column in blob:
        value = float(data[row, column])
        total += value
        x_sum += value * column
        y_sum += value * row
        signal = value - mean[radius[row, column]]
        above += signal
        x_above += signal * column
        y_above += signal * row
        highest = max(highest, value)
    if total <= 0.0 or above <= 0.0:
        return False
    background, variance, n_background = _disc(
        data, bad, radius, threshold, bounds, round(y_above / above), round(x_above / above), reach
    )
    if n_background == 0:
        return False
    n = len(blob)
    intensity = total - n * background
    if intensity < min_snr * math.sqrt(variance):
        return False
    # A background without any spread is that of a photon counter which has counted nothing.
    noise = variance if variance > 0.0 else gain * max(background, 0.01 * gain)
    sigma = math.sqrt(gain * max(intensity, 0.0) + n * noise * (1.0 + n / n_background))
    peak[0], peak[1] = x_sum / total + 0.5, y_sum / total + 0.5
    peak[2], peak[3], peak[4], peak[5] = intensity, sigma, highest, n
    peak[6] = intensity / math.sqrt(noise)
    return True


@njit(cache=True, nogil=True)
def _disc(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    radius: NDArray[np.uint16],
    threshold: NDArray[np.float64],
    bounds: NDArray[np.int64],
    row: int,
    column: int,
    reach: int,
) -> tuple[float, float, int]:
    """Mean, variance and number of the good pixels below their threshold in a disc around a pixel, on its panel.

    The disc lacks its last row and its last column, of one pixel each.
    """
    n, total, squares = 0, 0.0, 0.0
    for y in range(max(row - reach, bounds[0]), min(row + reach, bounds[1])):
        for x in range(max(column - reach, bounds[2]), min(column + reach, bounds[3])):
            if (y - row) ** 2 + (x - column) ** 2 > reach * reach or bad[y, x] != 0:
                continue
            if data[y, x] < threshold[radius[y, x]]:
                value = float(data[y, x])
                n += 1
                total += value
                squares += value * value
    if n == 0:
        return 0.0, 0.0, 0
    mean = total / n
    return mean, max(squares / n - mean * mean, 0.0), n
