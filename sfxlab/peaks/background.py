"""Kernels for the background of a tile: robust statistics of its bins from a few pixels of each.

All of them go through the bins in their innermost loops, so that the compiler makes vector instructions of them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.peaks.pixel_bins import SAMPLES

CLIP = 4.0
WIDE_CLIP = 10.0
"""Samples so many standard deviations from the mean are outliers."""
LEAST_PHOTONS = 0.01
"""The photon background is never taken for less, photons per pixel."""
_FEW_PHOTONS = 0.3
_UNCERTAIN = 1.4
"""The true variance is hardly ever more than so many times what is measured."""
_MEAN_REACH = 2
"""Bins on either side that the mean of a bin is taken from, too."""
_FINITE = np.float32(1e18)
"""More than any deviation, and its square is finite."""
_FEWEST_OF_ITS_OWN = 10
_CLEARLY = 3.0
"""Standard errors by which a bin differs from its neighbours."""
_FEWEST = 20
"""Samples that a bin and its neighbours need; fewer, and it has no background."""


@njit(cache=True, nogil=True)
def backgrounds(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    look_at_bad: bool,
    panel: NDArray[np.int64],
    tiles: NDArray[np.int64],
    samples: NDArray[np.int32],
    gain: NDArray[np.float64],
    wide: bool,
    mean: NDArray[np.float32],
    variance: NDArray[np.float32],
    quantum: NDArray[np.float32],
) -> None:
    """Fill `mean`, `variance` and `quantum` (n_bins,), tile by tile, as `bin_statistics` does.

    `data` and `bad` (n_pixels,), `gain` (n_panels,) ADU per photon, other arrays as in `PixelBins`.
    """
    scratch = np.empty(SAMPLES * np.diff(tiles).max(), dtype=np.float32)
    for tile in range(len(tiles) - 1):
        first, end = tiles[tile], tiles[tile + 1]
        values = scratch[: SAMPLES * (end - first)].reshape((SAMPLES, end - first))
        take_samples(data, bad, look_at_bad, samples, first, values)
        bin_statistics(values, gain[panel[first]], wide, mean[first:end], variance[first:end], quantum[first:end])


@njit(cache=True, nogil=True)
def take_samples(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    look_at_bad: bool,
    samples: NDArray[np.int32],
    first: int,
    values: NDArray[np.float32],
) -> None:
    """Fill `values` (n_samples, n) with pixels of `data` (n_pixels,), those of the n bins from `first` on;
    ±infinity in turn where there is none.
    """
    nothing = np.float32(np.inf)
    for k in range(values.shape[0]):
        for b in range(values.shape[1]):
            pixel = samples[k, first + b]
            value = nothing
            if pixel >= 0 and not (look_at_bad and bad[pixel] != 0):
                value = np.float32(data[pixel])
                if value != value:
                    value = nothing
            values[k, b] = value
        nothing = -nothing


@njit(cache=True, nogil=True, inline="always")
def _middle(a: np.float32, b: np.float32, c: np.float32) -> np.float32:
    low, high = (a, b) if a < b else (b, a)
    high = high if high < c else c
    return low if low > high else high


@njit(cache=True, nogil=True)
def remedian(values: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Medians of three of medians of three … of `values` (27, n_bins) into `out` (n_bins,); `values` are overwritten.

    Rousseeuw & Bassett (1990), J. Am. Stat. Assoc. 85, 97.
    """
    n = SAMPLES
    while n > 1:
        n //= 3
        for k in range(n):
            first, second, third, middle = values[3 * k], values[3 * k + 1], values[3 * k + 2], values[k]
            for b in range(len(out)):
                middle[b] = _middle(first[b], second[b], third[b])
    out[:] = values[0]


@njit(cache=True, nogil=True)
def clipped_sums(
    values: NDArray[np.float32],
    centre: NDArray[np.float32],
    reach: NDArray[np.float32],
    sums: NDArray[np.float32],
) -> None:
    """Number, sum, sum of squares and of cubes of the deviations from `centre` that are at most `reach`.

    `values` (n_samples, n_bins), `centre` and `reach` (n_bins,), `sums` (4, n_bins) is overwritten.
    """
    sums[:] = 0
    count, first, second, third = sums[0], sums[1], sums[2], sums[3]
    for k in range(values.shape[0]):
        row = values[k]
        for b in range(len(centre)):
            deviation = row[b] - centre[b]
            inside = abs(deviation) <= reach[b]
            deviation = deviation if inside else np.float32(0)
            count[b] += np.float32(1) if inside else np.float32(0)
            first[b] += deviation
            second[b] += deviation * deviation
            third[b] += deviation * deviation * deviation


@njit(cache=True, nogil=True)
def bin_statistics(
    values: NDArray[np.float32],
    gain: float,
    wide: bool,
    mean: NDArray[np.float32],
    variance: NDArray[np.float32],
    quantum: NDArray[np.float32],
) -> None:
    """Mean, variance and third cumulant over variance of the background in each bin of a tile, (n_bins,) each.

    `values` (n_samples, n_bins) as `take_samples` makes them; `gain` ADU per photon. The median and the median
    deviation from it say what counts in the first of two passes of clipping; `wide` begins with the standard deviation
    of all samples instead, for noise with few values. Bins without a background have a mean of infinity.
    """
    n_bins = values.shape[1]
    centre, reach = np.empty(n_bins, dtype=np.float32), np.empty(n_bins, dtype=np.float32)
    sums = np.empty((4, n_bins), dtype=np.float32)
    clip = WIDE_CLIP if wide else CLIP
    _begin(values, wide, sums, centre, reach)
    for b in range(n_bins):
        reach[b] = min(np.float32(clip * _widened(reach[b], centre[b], gain)), _FINITE)
    for _ in range(2):
        clipped_sums(values, centre, reach, sums)
        _smooth(sums, centre, mean, variance)
        for b in range(n_bins):
            if sums[0, b] > 0 and mean[b] < np.inf:
                reach[b] = clip * _widened(math.sqrt(variance[b]), mean[b], gain)
                centre[b] = mean[b]
    _counting(sums, gain, mean, variance, quantum)


@njit(cache=True, nogil=True)
def _begin(
    values: NDArray[np.float32],
    wide: bool,
    sums: NDArray[np.float32],
    centre: NDArray[np.float32],
    sigma: NDArray[np.float32],
) -> None:
    """Fill `centre` and `sigma` (n_bins,) with medians and the standard deviations that median deviations stand for;
    with `wide` those of all samples of the tile.
    """
    remedian(values.copy(), centre)
    for b in range(len(centre)):
        if not abs(centre[b]) < np.inf:
            centre[b] = 0.0
    if wide:
        sigma[:] = _FINITE
        clipped_sums(values, centre, sigma, sums)
        sigma[:] = np.sqrt(sums[2].sum() / max(sums[0].sum(), np.float32(1)))
        return
    deviations = np.empty_like(values)
    for k in range(values.shape[0]):
        of_values, of_deviations = values[k], deviations[k]
        for b in range(len(centre)):
            deviation = abs(of_values[b] - centre[b])
            of_deviations[b] = deviation if deviation < np.inf else of_values[b]
    remedian(deviations, sigma)
    sigma *= np.float32(1.4826)


@njit(cache=True, nogil=True)
def _counting(
    sums: NDArray[np.float32],
    gain: float,
    mean: NDArray[np.float32],
    variance: NDArray[np.float32],
    quantum: NDArray[np.float32],
) -> None:
    """Fill `quantum` with third cumulant over variance of each bin; raises `variance` to that of counting photons."""
    skew, total = 0.0, 0.0
    for b in range(len(mean)):
        n = sums[0, b]
        if n > 0:
            m = sums[1, b] / n
            spread = sums[2, b] / n - m * m
            skew += sums[3, b] - 3 * m * n * spread - n * m * m * m
            total += n * spread
    measured = np.float32(max(skew / total, 0.0)) if total > 0 else np.float32(0)
    for b in range(len(mean)):
        # The noise is at least that of counting photons. Few photons are too rare for their noise to be measured; where
        # it is far less than that of many, a part of the mean is a pedestal.
        photons = max(mean[b] / gain, LEAST_PHOTONS)
        likely = max(_UNCERTAIN * variance[b] / gain**2, _FEW_PHOTONS)
        variance[b] = max(variance[b], np.float32(gain**2 * min(photons, likely)))
        counting = min(np.float32(gain**2 * photons) / variance[b], np.float32(1))
        quantum[b] = max(np.float32(gain) * counting, measured)


@njit(cache=True, nogil=True)
def _widened(sigma: float, mean: float, gain: float) -> float:
    """A measured standard deviation, or that of counting photons where this is not much more."""
    photons = gain * math.sqrt(max(mean / gain, 0.0) + 0.25)
    return max(sigma, min(photons, 2.0 * sigma), 0.5 * gain)


@njit(cache=True, nogil=True)
def _smooth(
    sums: NDArray[np.float32], centre: NDArray[np.float32], mean: NDArray[np.float32], variance: NDArray[np.float32]
) -> None:
    """Mean and variance of each bin, taken from its neighbours in the tile, too.

    A bin whose own mean is clearly another than that with its neighbours, as on a sharp ring, keeps its own.
    """
    # Samples, their sum, those less one in each bin, and squares of deviations from the bin's mean.
    end = len(mean)
    of_bin, around = np.empty((4, end), dtype=np.float32), np.empty((4, end), dtype=np.float32)
    number, total, free, squares = of_bin[0], of_bin[1], of_bin[2], of_bin[3]
    number[:] = sums[0]
    for b in range(end):
        n = number[b]
        total[b] = sums[1, b] + centre[b] * n
        free[b] = max(n - np.float32(1), np.float32(0))
        squares[b] = max(sums[2, b] - sums[1, b] * sums[1, b] / max(n, np.float32(1)), np.float32(0))
    for i in range(4):
        _add_neighbours(of_bin[i], _MEAN_REACH + i // 2, around[i])
    for b in range(end):
        n, sum_around, reach = around[0, b], around[1, b], _MEAN_REACH
        while n < _FEWEST and reach < end:
            reach += 1
            for near in (b - reach, b + reach):
                if 0 <= near < end:
                    n += number[near]
                    sum_around += total[near]
                    around[2, b] += free[near]
                    around[3, b] += squares[near]
        if n < _FEWEST:
            mean[b], variance[b] = np.inf, 0.0
            continue
        mean[b], variance[b] = sum_around / n, around[3, b] / max(around[2, b], np.float32(1))
        own = total[b] - mean[b] * number[b]
        if number[b] >= _FEWEST_OF_ITS_OWN and own * own > np.float32(_CLEARLY**2) * variance[b] * number[b]:
            mean[b] += own / number[b]


@njit(cache=True, nogil=True)
def _add_neighbours(values: NDArray[np.float32], reach: int, out: NDArray[np.float32]) -> None:
    """Sums of each value (n,) and as many on either side as there are up to `reach`."""
    out[:] = values
    n = len(values)
    for step in range(1, min(reach, n - 1) + 1):
        left, right, farther, nearer = out[step:], out[: n - step], values[: n - step], values[step:]
        for i in range(n - step):
            left[i] += farther[i]
        for i in range(n - step):
            right[i] += nearer[i]


@njit(cache=True, nogil=True)
def pixel_thresholds(
    mean: NDArray[np.float32],
    variance: NDArray[np.float32],
    quantum: NDArray[np.float32],
    z: float,
    floor: float,
    least: float,
    largest: float,
    whole: bool,
    out: NDArray[Any],
) -> None:
    """Fill `out` (n_bins,) with values above which a background pixel is as rare as z standard deviations of a normal
    distribution; `least` and `largest` are those of its type, `whole` is for integers.

    Photon noise is skewed: by Cornish and Fisher the quantile is μ + zσ + (z² − 1) κ₃ / (6σ²), where `quantum` is
    κ₃/σ².
    """
    for b in range(len(mean)):
        value = mean[b] + z * math.sqrt(variance[b]) + (z * z - 1) / 6 * quantum[b]
        value = max(value, floor)
        if whole:
            value = np.floor(value)
        out[b] = min(max(value, least), largest)
