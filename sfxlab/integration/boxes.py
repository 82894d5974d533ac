"""Boxes of pixels around spots, the spots near each, and the background beneath."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

OUTLIER = 3.7
"""Pixels so many standard deviations from the background do not belong to it. Of Poisson counts one in 10⁴ is beyond,
which lowers their mean by less than 0.002 photons up to 5 photons per pixel."""
_SKEW = (OUTLIER**2 - 1) / 6
"""Cornish and Fisher's correction of such a limit for the skewness of Poisson counts, photons."""
_CYCLES = 12
_SPOT = 2.5
"""Pixels from a bright pixel within which there may be more of the same spot."""


@njit(cache=True, nogil=True)
def cut_boxes(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    panel: NDArray[np.int16],
    fs: NDArray[np.float64],
    ss: NDArray[np.float64],
    bounds: NDArray[np.int64],
    max_adu: NDArray[np.float64],
    saturation_map: NDArray[np.float32],
    peak_radius: float,
    reach: int,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Pixels within `reach` of those at fs, ss, (n, 2 reach + 1, 2 reach + 1), and whether a peak is saturated, (n,).

    NaN where a pixel is bad or not on the panel. Saturated is a good pixel within `peak_radius` that reaches `max_adu`
    of its panel or the value of `saturation_map`, which has the shape of `data` or no pixels.
    """
    side = 2 * reach + 1
    boxes = np.full((len(fs), side, side), np.nan, dtype=np.float32)
    saturated = np.zeros(len(fs), dtype=np.bool_)
    ends = np.empty(1)
    for n in range(len(fs)):
        row0, row1, column0, column1 = bounds[panel[n]]
        top, left = math.floor(ss[n]) - reach, math.floor(fs[n]) - reach
        limit = max_adu[panel[n]]
        row0, row1 = max(top, row0), min(top + side, row1)
        column0, column1 = max(left, column0), min(left + side, column1)
        if column0 >= column1:
            continue
        # Rows of a frame are far apart in memory. Asked for together they come at once, one by one each is waited for.
        ends[0] = 0.0
        for i in range(row0, row1):
            ends[0] += float(data[i, column0]) + float(data[i, column1 - 1]) + bad[i, column0] + bad[i, column1 - 1]
        for i in range(row0, row1):
            for j in range(column0, column1):
                if bad[i, j] != 0:
                    continue
                value = float(data[i, j])
                boxes[n, i - top, j - left] = value
                if value >= limit or (saturation_map.size and value >= saturation_map[i, j]):
                    away = (i - top - reach) ** 2 + (j - left - reach) ** 2
                    saturated[n] |= away <= peak_radius * peak_radius
    return boxes, saturated


@njit(cache=True, nogil=True)
def find_neighbours(
    panel: NDArray[np.int16], fs: NDArray[np.float64], ss: NDArray[np.float64], n: int, distance: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The spots on the same panel within `distance` pixels of each of the first n spots, nearest first.

    Entries `first[i]` to `first[i + 1]` of the second array are the neighbours of spot i. Spots are sorted into square
    cells as wide as the distance, so that those around nine cells are looked at.
    """
    first = np.zeros(n + 1, dtype=np.int64)
    if len(fs) == 0:
        return first, np.empty(0, dtype=np.int64)
    left, top = fs.min(), ss.min()
    columns, rows = int((fs.max() - left) / distance) + 1, int((ss.max() - top) / distance) + 1
    head = np.full(rows * columns, -1, dtype=np.int64)
    following = np.empty(len(fs), dtype=np.int64)
    for i in range(len(fs)):
        cell = int((ss[i] - top) / distance) * columns + int((fs[i] - left) / distance)
        following[i], head[cell] = head[cell], i
    found = np.empty(4 * n + 16, dtype=np.int64)
    count = 0
    for i in range(n):
        row, column = int((ss[i] - top) / distance), int((fs[i] - left) / distance)
        for y in range(max(row - 1, 0), min(row + 2, rows)):
            for x in range(max(column - 1, 0), min(column + 2, columns)):
                other = head[y * columns + x]
                while other >= 0:
                    away = (fs[other] - fs[i]) ** 2 + (ss[other] - ss[i]) ** 2
                    if other != i and panel[other] == panel[i] and away <= distance * distance:
                        if count == len(found):
                            larger = np.empty(2 * count, dtype=np.int64)
                            larger[:count] = found
                            found = larger
                        place = count
                        while place > first[i]:
                            before = found[place - 1]
                            if (fs[before] - fs[i]) ** 2 + (ss[before] - ss[i]) ** 2 <= away:
                                break
                            found[place] = before
                            place -= 1
                        found[place] = other
                        count += 1
                    other = following[other]
        first[i + 1] = count
    return first, found[:count]


@njit(cache=True, nogil=True)
def backgrounds(
    boxes: NDArray[np.float32],
    fs: NDArray[np.float64],
    ss: NDArray[np.float64],
    gain: NDArray[np.float64],
    first: NDArray[np.int64],
    neighbours: NDArray[np.int64],
    peak_radius: float,
    inner: float,
    outer: float,
) -> NDArray[np.float64]:
    """Level and variance of the background in the ring around each spot, ADU, and its number of pixels, (n, 3).

    The ring is the pixels further than `inner` and no further than `outer` from the spot's pixel that lie in no
    neighbour's peak. Where some of its pixels are too bright to be background, those around them are left out as well,
    because a spot that nobody predicted is there. `gain` in ADU per photon, (n,).
    """
    n, side = len(boxes), boxes.shape[1]
    reach = side // 2
    out = np.empty((n, 3))
    ring, place = np.empty(side * side), np.empty((side * side, 2), dtype=np.int64)
    around, size = np.empty((side * side, 2), dtype=np.int64), 0
    for i in range(side):
        for j in range(side):
            if inner * inner < (i - reach) ** 2 + (j - reach) ** 2 <= outer * outer:
                around[size, 0], around[size, 1] = i, j
                size += 1
    for s in range(n):
        row, column = math.floor(ss[s]) - reach, math.floor(fs[s]) - reach
        count = 0
        for pixel in range(size):
            i, j = around[pixel]
            value = boxes[s, i, j]
            if math.isnan(value):
                continue
            free = True
            for entry in range(first[s], first[s + 1]):
                m = neighbours[entry]
                y, x = row + i - math.floor(ss[m]), column + j - math.floor(fs[m])
                if y * y + x * x <= peak_radius * peak_radius:
                    free = False
                    break
            if free:
                ring[count], place[count, 0], place[count, 1] = value, i, j
                count += 1
        mean, variance, used, highest = level_of(ring[:count], gain[s])
        if used < count:
            calm = _away_from_bright(ring[:count], place, highest)
            if 2 * calm >= count:
                mean, variance, used, _ = level_of(ring[:calm], gain[s])
        out[s, 0], out[s, 1], out[s, 2] = mean, variance, used
    return out


@njit(cache=True, nogil=True)
def _away_from_bright(ring: NDArray[np.float64], place: NDArray[np.int64], highest: float) -> int:
    """Bring the values to the front that are not within `_SPOT` of one above `highest`, and return how many they are.

    `place` holds the row and column of each value.
    """
    kept = 0
    calm = np.ones(len(ring), dtype=np.bool_)
    for bright in range(len(ring)):
        if ring[bright] > highest:
            for i in range(len(ring)):
                y, x = place[i, 0] - place[bright, 0], place[i, 1] - place[bright, 1]
                calm[i] &= y * y + x * x > _SPOT * _SPOT
    for i in range(len(ring)):
        if calm[i]:
            ring[kept] = ring[i]
            kept += 1
    return kept


@njit(cache=True, nogil=True)
def _start(values: NDArray[np.float64]) -> float:
    """The second lowest of the means of four parts of a ring; a neighbour's spot raises one or two of them."""
    n = len(values)
    lowest, second = np.inf, np.inf
    for part in range(4):
        begin, end = part * n // 4, (part + 1) * n // 4
        if begin == end:
            continue
        total = 0.0
        for i in range(begin, end):
            total += values[i]
        mean = total / (end - begin)
        if mean < lowest:
            lowest, second = mean, lowest
        elif mean < second:
            second = mean
    return second if n > 1 else lowest


@njit(cache=True, nogil=True)
def level_of(values: NDArray[np.float64], gain: float) -> tuple[float, float, int, float]:
    """Mean and variance of background pixels (ADU) without what does not belong to them, how many, and their limit.

    Left out is what is `OUTLIER` standard deviations away, with the skewness of Poisson counts allowed for: a limit
    that is symmetric, or closer, makes means of few photons too small. The variance for this is that of counting or,
    where the pixels below the mean scatter more (readout noise), theirs; neighbours' spots raise neither.
    The mean of what is left has no bias for whatever noise, other than estimates that assume a distribution.
    """
    n = len(values)
    if n == 0:
        return math.nan, math.nan, 0, math.inf
    mean = _start(values)
    spread = mean + 0.7 * gain
    kept = n
    for _ in range(_CYCLES):
        below, lower = 0.0, 0
        for value in values:
            if value < mean:
                below += (value - mean) ** 2
                lower += 1
        variance = max(gain * max(spread, 0.0), 2 * below / n, 1e-12)
        width = OUTLIER * math.sqrt(variance)
        skew = _SKEW * gain * min(gain * max(spread, 0.0) / variance, 1.0)
        low, high = mean - width, mean + width + skew
        count, total = 0, 0.0
        for value in values:
            if low <= value <= high:
                count += 1
                total += value
        if count == 0:
            break
        moved = abs(total / count - mean)
        mean = total / count
        spread = mean
        if count == kept and moved < 1e-9 * (1 + abs(mean)):
            break
        kept = count
    squares, count = 0.0, 0
    for value in values:
        if low <= value <= high:
            squares += (value - mean) ** 2
            count += 1
    # Of so few photons that none fell into the ring, half a one is assumed.
    least = 0.5 * gain * gain / n
    return mean, max(squares / max(count - 1, 1), least), count, high
