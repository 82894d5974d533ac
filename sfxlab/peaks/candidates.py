"""Kernels that find the pixels which may be the top of a peak."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.peaks.lanes import LANES, lanes_above, lowest_bit
from sfxlab.peaks.pixel_bins import NO_BIN

UNLIKELY = 4.0
"""Standard deviations that only few pixels of normal noise have."""
_FEWEST_NEAR = 6
"""Good pixels of the 3 × 3 about the top of a peak."""
_RUNS_AT_ONCE = 1024


@njit(cache=True, nogil=True)
def least_of_neighbours(thresholds: NDArray[Any], levels: int) -> NDArray[Any]:
    """Row k: the least of 2^k thresholds from each bin on, (levels, n_bins)."""
    n = len(thresholds)
    table = np.empty((levels, n), dtype=thresholds.dtype)
    table[0] = thresholds
    for k in range(1, levels):
        step = 1 << (k - 1)
        for b in range(n - step):
            table[k, b] = min(table[k - 1, b], table[k - 1, b + step])
        table[k, max(n - step, 0) :] = table[k - 1, max(n - step, 0) :]
    return table


@njit(cache=True, nogil=True, inline="always")
def is_usable(
    data: NDArray[Any], bin_: NDArray[np.uint16], bad: NDArray[np.uint8], look_at_bad: bool, pixel: int
) -> bool:
    """Whether a pixel lies on a panel, is not bad and holds a number."""
    return bin_[pixel] != NO_BIN and not (look_at_bad and bad[pixel] != 0) and data[pixel] - data[pixel] == 0


@njit(cache=True, nogil=True)
def normal_equivalent(excess: float, variance: float, third: float) -> float:
    """Standard deviations of a normal distribution that are exceeded as rarely as `excess` above the mean.

    The noise is taken for a Poisson variable, scaled and shifted to have its variance and third cumulant; the value is
    its signed root of the deviance, half a count less (McCullagh & Nelder, Generalized Linear Models, 1989).
    """
    if third <= 0.0 or variance**3 > 1e6 * third**2:
        return excess / math.sqrt(variance)
    unit = third / variance
    expected = variance / unit**2
    count = expected + excess / unit - 0.5
    if count <= 0.0:
        return -math.sqrt(2 * expected)
    deviance = 2 * (count * math.log(count / expected) - count + expected)
    return math.copysign(math.sqrt(max(deviance, 0.0)), count - expected)


@njit(cache=True, nogil=True)
def sum_thresholds(
    mean: NDArray[np.float32], variance: NDArray[np.float32], quantum: NDArray[np.float32], n: int, z: float
) -> NDArray[np.float64]:
    """What the sum of n pixels has as rarely as `z` standard deviations, (n_bins,); see `pixel_thresholds`."""
    return n * mean.astype(np.float64) + z * np.sqrt(n * variance) + (z * z - 1) / 6 * quantum


@njit(cache=True, nogil=True)
def find_tops(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    look_at_bad: bool,
    columns: int,
    bin_: NDArray[np.uint16],
    panel: NDArray[np.int64],
    bounds: NDArray[np.int64],
    start: NDArray[np.int32],
    good: NDArray[np.uint32],
    whole: NDArray[np.uint32],
    first_bin: NDArray[np.uint16],
    last_bin: NDArray[np.uint16],
    level: NDArray[np.uint8],
    mean: NDArray[np.float32],
    variance: NDArray[np.float32],
    quantum: NDArray[np.float32],
    threshold: NDArray[Any],
    z: float,
    tops: NDArray[np.int32],
    lonely: NDArray[np.float32],
) -> tuple[int, int, int]:
    """Pixels that are the highest of 3 × 3 and whose sum is `z` standard deviations above the background.

    They go into `tops`, in order; those far above the background that stand alone above the threshold go into `lonely`,
    in standard deviations of a normal distribution. Returns the numbers of candidates (good pixels above the threshold
    of their bin), tops and lonely pixels; with more candidates than fit into `tops` it stops. `bounds` (n_panels, 4)
    as in `PanelArrays`, other arrays as in `PixelBins`.
    """
    least = least_of_neighbours(threshold, level.max() + 1 if len(level) > 0 else 1)
    nine = sum_thresholds(mean, variance, quantum, 9, z)
    far = sum_thresholds(mean, variance, quantum, 1, UNLIKELY)
    found = np.empty(_RUNS_AT_ONCE * LANES + 1, dtype=np.int32)
    some, lanes = np.empty(_RUNS_AT_ONCE + 1, dtype=np.int64), np.empty(_RUNS_AT_ONCE + 1, dtype=np.uint32)
    counts = np.zeros(2, dtype=np.int64)
    n_candidates = 0
    # Pixels are still in the processor's cache when their neighbours are looked at.
    for run in range(0, len(start), _RUNS_AT_ONCE):
        end = min(run + _RUNS_AT_ONCE, len(start))
        n = _scan(
            data, start[run:end], good[run:end], whole[run:end], first_bin[run:end], last_bin[run:end], level[run:end],
            bin_, least, some, lanes, found,
        )  # fmt: skip
        if look_at_bad:
            n = _leave_out_bad(bad, found, n)
        n_candidates += n
        if n_candidates > len(tops):
            break
        for pixel in found[:n]:
            if pixel >= 0 and not look_at_bad:
                b = bin_[pixel]
                total = _sum_of_nine(data, pixel, columns)
                if (total <= nine[b] and data[pixel] <= far[b]) or _is_flank(data, pixel, columns):
                    continue
            else:
                pixel = max(pixel, -1 - pixel)
            _examine(
                data, bad, look_at_bad, columns, bin_, bounds[panel[bin_[pixel]]], mean, variance, quantum, threshold,
                z, pixel, tops, lonely, counts,
            )  # fmt: skip
    return n_candidates, counts[0], counts[1]


@njit(cache=True, nogil=True)
def _leave_out_bad(bad: NDArray[np.uint8], found: NDArray[np.int32], n: int) -> int:
    """Move the good ones of n pixels to the front; returns how many."""
    kept = 0
    for i in range(n):
        if bad[max(found[i], -1 - found[i])] == 0:
            found[kept] = found[i]
            kept += 1
    return kept


@njit(cache=True, nogil=True, inline="always")
def _sum_of_nine(data: NDArray[Any], pixel: int, columns: int) -> float:
    above, below = pixel - columns, pixel + columns
    return (
        (float(data[above - 1]) + float(data[above]) + float(data[above + 1]))
        + (float(data[pixel - 1]) + float(data[pixel]) + float(data[pixel + 1]))
        + (float(data[below - 1]) + float(data[below]) + float(data[below + 1]))
    )


@njit(cache=True, nogil=True, inline="always")
def _is_flank(data: NDArray[Any], pixel: int, columns: int) -> bool:
    """Whether one of the eight neighbours is higher."""
    value, above, below = data[pixel], pixel - columns, pixel + columns
    return bool(
        (data[pixel - 1] > value)
        | (data[pixel + 1] > value)
        | (data[above - 1] > value)
        | (data[above] > value)
        | (data[above + 1] > value)
        | (data[below - 1] > value)
        | (data[below] > value)
        | (data[below + 1] > value)
    )


@njit(cache=True, nogil=True)
def _scan(
    data: NDArray[Any],
    start: NDArray[np.int32],
    good: NDArray[np.uint32],
    whole: NDArray[np.uint32],
    first_bin: NDArray[np.uint16],
    last_bin: NDArray[np.uint16],
    level: NDArray[np.uint8],
    bin_: NDArray[np.uint16],
    least: NDArray[Any],
    some: NDArray[np.int64],
    lanes: NDArray[np.uint32],
    found: NDArray[np.int32],
) -> int:
    """Good pixels above the threshold of their bin into `found`, −1 − pixel where not all eight neighbours are good.

    A run of pixels is first compared with the least threshold in it; `some` and `lanes` (n_runs + 1,) are to
    work in, and `found` has room for all pixels and one more.
    """
    # Branches that cannot be foreseen cost more than all else here, so there are none: what is not wanted is written,
    # too, and overwritten by the next.
    n_some = np.int64(0)
    for run in range(len(start)):
        k = np.int64(level[run])
        threshold = min(least[k, first_bin[run]], least[k, np.int64(last_bin[run]) + 1 - (np.int64(1) << k)])
        above = lanes_above(data, start[run], threshold) & good[run]
        some[n_some], lanes[n_some] = run, above
        n_some += np.int64(above != 0)
    n = np.int64(0)
    for i in range(n_some):
        run, above = some[i], lanes[i]
        while above != 0:
            lane = lowest_bit(above)
            above &= above - np.uint32(1)
            pixel = np.int64(start[run]) + np.int64(lane)
            is_whole = np.int64((whole[run] >> lane) & np.uint32(1))
            found[n] = pixel ^ (is_whole - 1)
            n += np.int64(data[pixel] > least[0, bin_[pixel]])
    return int(n)


@njit(cache=True, nogil=True)
def _examine(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    look_at_bad: bool,
    columns: int,
    bin_: NDArray[np.uint16],
    bounds: NDArray[np.int64],
    mean: NDArray[np.float32],
    variance: NDArray[np.float32],
    quantum: NDArray[np.float32],
    threshold: NDArray[Any],
    z: float,
    pixel: int,
    tops: NDArray[np.int32],
    lonely: NDArray[np.float32],
    counts: NDArray[np.int64],
) -> None:
    """Add a pixel to `tops` or `lonely`, whose lengths `counts` (2,) says, if it belongs there.

    A pixel on the border of a panel is a top only with a pixel above the threshold beside it that is not.
    """
    if not is_usable(data, bin_, bad, look_at_bad, pixel):
        return
    b = bin_[pixel]
    r0, r1, c0, c1 = bounds[0], bounds[1], bounds[2], bounds[3]
    row, column = pixel // columns, pixel % columns
    inside = r0 < row < r1 - 1 and c0 < column < c1 - 1
    value = data[pixel]
    total, n, company = 0.0, 0, False
    for y in range(max(row - 1, r0), min(row + 2, r1)):
        for x in range(max(column - 1, c0), min(column + 2, c1)):
            near = y * columns + x
            if not is_usable(data, bin_, bad, look_at_bad, near):
                continue
            total += float(data[near])
            n += 1
            if near == pixel:
                continue
            if data[near] > value or (data[near] == value and near < pixel):
                return
            if data[near] > threshold[b]:
                company = True
                inside |= r0 < y < r1 - 1 and c0 < x < c1 - 1
    excess = float(value) - mean[b]
    if not company:
        above = normal_equivalent(excess, variance[b], variance[b] * quantum[b])
        if above > UNLIKELY:
            lonely[counts[1]] = above
            counts[1] += 1
    least_sum = n * mean[b] + z * math.sqrt(n * variance[b]) + (z * z - 1) / 6 * quantum[b]
    if inside and n >= _FEWEST_NEAR and total > least_sum:
        tops[counts[0]] = pixel
        counts[0] += 1
