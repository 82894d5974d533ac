"""Kernels that look at what surrounds a possible peak."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.peaks.candidates import is_usable
from sfxlab.peaks.pixel_bins import NO_BIN

REACH = 2
"""Half width of the filter, and of what the local background leaves out, pixels."""
FEWEST_AROUND = 12
"""Pixels that a local background needs."""
_ONE_SIDED = 3.0
"""Standard errors by which two sides of a spot differ where they have backgrounds of their own."""


@njit(cache=True, nogil=True)
def sectors_about(radius: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of sixteen directions each pixel of a square (2 `radius` + 1)² lies in, −1 for those of the spot, and on
    which side of four lines through the middle each direction is, (16, 4): 0, 1, or −1 on the line.
    """
    sectors, signs = np.empty((2 * radius + 1, 2 * radius + 1), dtype=np.int64), np.empty((16, 4), dtype=np.int64)
    for y in range(-radius, radius + 1):
        for x in range(-radius, radius + 1):
            steep, level = abs(y) > abs(x), abs(y) < abs(x)
            sector = 8 * int(y == 0 or x == 0 or abs(x) == abs(y)) + 4 * int(y > 0) + 2 * int(x > 0) + int(steep)
            if y == 0 or x == 0:
                sector = 8 + 4 * int(y > 0) + 2 * int(x > 0) + int(steep or level)
            sectors[y + radius, x + radius] = sector if max(abs(y), abs(x)) > REACH else -1
            for i, along in enumerate((x, y, x + y, x - y)):
                signs[sector, i] = int(along > 0) if along != 0 else -1
    return sectors, signs


@njit(cache=True, nogil=True)
def around(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    look_at_bad: bool,
    columns: int,
    bin_: NDArray[np.uint16],
    bounds: NDArray[np.int64],
    mean: NDArray[np.float32],
    threshold: NDArray[Any],
    radius: int,
    row: int,
    column: int,
    sectors: NDArray[np.int64],
    signs: NDArray[np.int64],
    of_sectors: NDArray[np.float64],
) -> tuple[float, float, float, int]:
    """Mean and variance of what the pixels around a spot have above the background of their bins, the mean of that
    background, and their number. `sectors` and `signs` are those of `sectors_about`, `of_sectors` (2, 16) is to work
    in.

    Where one side is clearly higher than the other, as at the edge of a shadow, the mean is that of the higher side,
    and half of the difference more, because the edge runs through that side, too.
    """
    squares, level = 0.0, 0.0
    total_of, number_of = of_sectors[0], of_sectors[1]
    of_sectors[:] = 0.0
    first, end = max(column - radius, bounds[2]), min(column + radius + 1, bounds[3])
    for y in range(max(row - radius, bounds[0]), min(row + radius + 1, bounds[1])):
        # Slices need no look whether an index is negative.
        pixels = slice(y * columns + first, y * columns + end)
        of_data, of_bin, of_bad = data[pixels], bin_[pixels], bad[pixels]
        of_sector = sectors[y - row + radius, first - column + radius : end - column + radius]
        for i in range(end - first):
            b = of_bin[i]
            if of_sector[i] < 0 or b == NO_BIN or (look_at_bad and of_bad[i] != 0):
                continue
            expected, number = mean[b], of_data[i]
            value = float(number) - expected
            if number <= threshold[b] and abs(value) < np.inf:
                squares += value * value
                level += expected
                total_of[of_sector[i]] += value
                number_of[of_sector[i]] += 1.0
    n = number_of.sum()
    if n == 0:
        return 0.0, 0.0, 0.0, 0
    offset = total_of.sum() / n
    variance = max(squares / n - offset * offset, 0.0)
    for i in range(4):
        low, n_low, high, n_high = 0.0, 0.0, 0.0, 0.0
        for sector in range(16):
            if signs[sector, i] == 0:
                low += total_of[sector]
                n_low += number_of[sector]
            elif signs[sector, i] == 1:
                high += total_of[sector]
                n_high += number_of[sector]
        if min(n_low, n_high) >= FEWEST_AROUND:
            low, high = low / n_low, high / n_high
            if (high - low) ** 2 > _ONE_SIDED**2 * variance * (1 / n_low + 1 / n_high):
                offset = max(offset, 1.5 * max(low, high) - 0.5 * min(low, high))
    return offset, variance, level / n, int(n)


@njit(cache=True, nogil=True, inline="always")
def pixel_excess(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    look_at_bad: bool,
    columns: int,
    bin_: NDArray[np.uint16],
    bounds: NDArray[np.int64],
    mean: NDArray[np.float32],
    local: tuple[float, float, float],
    row: int,
    column: int,
) -> float:
    """What a pixel has above its background, NaN where it does not count.

    The background is that of the bin, and what the surroundings have more. `local` is that offset, the share by which
    they are brighter, and the mean background of their bins: where all is brighter, a sharp ring is brighter, too.
    """
    offset, brighter, level = local
    value = np.nan
    if bounds[0] <= row < bounds[1] and bounds[2] <= column < bounds[3]:
        pixel = row * columns + column
        if is_usable(data, bin_, bad, look_at_bad, pixel):
            expected = float(mean[bin_[pixel]])
            if expected < np.inf:
                value = float(data[pixel]) - expected - offset - brighter * max(expected - level, 0.0)
    return value
