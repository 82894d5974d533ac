"""Sharp rings: what a ring gives to a spot on it, seen beside the spot along the ring."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.peaks.surroundings import REACH, pixel_excess

_NEAREST, _FARTHEST = 3, 9
"""How far along the ring the pixels are, pixels."""
_ACROSS = 3
"""Pixels across the ring on either side of the top."""
_FEWEST = 4
"""Pixels as far across the ring that a side needs."""
_LEAST_RADIUS = 15.0
"""Rings of a smaller radius are too curved, pixels."""
_SEEN = 1.5
"""Standard errors that a ring has on both sides of a spot."""
_BINS = 2
"""Bins on either side that a sharp ring is higher than."""
_MATTERS = 1.0
"""Standard deviations of the weighted sum of a top that a difference of backgrounds can make without harm."""
_OUTLIER = 6.0
"""Standard deviations above a ring that tell a spot beside."""


@njit(cache=True, nogil=True)
def may_be_ring(
    mean: NDArray[np.float32], b: int, weights: NDArray[np.float64], counts: NDArray[np.float64], noise: float
) -> bool:
    """Whether the backgrounds of the bins about bin b differ by so much that a ring through a top could matter.

    `weights` and `counts` (6,) are those of the pixels about the top.
    """
    least, largest = np.inf, -np.inf
    for near in range(max(b - _BINS, 0), min(b + _BINS + 1, len(mean))):
        least, largest = min(least, mean[near]), max(largest, mean[near])
    difference = (weights * counts).sum() * (largest - least)
    return bool(difference * difference > _MATTERS**2 * noise * (weights * weights * counts).sum())


@njit(cache=True, nogil=True)
def along_ring(
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
    axes: NDArray[np.float64],
    weights: NDArray[np.float64],
    noise: float,
    quantum: float,
) -> tuple[float, float, float]:
    """What a ring gives to the sum of the pixels about a top with `weights` (5, 5), its variance in units of `noise`,
    and what of it is in the top.

    The height of a ring is taken from pixels beside the spot that are as far from the beam axis. It has to be seen on
    both sides of the spot, or it is a neighbouring spot: zero where it is not. `axes` (6,) as in `PixelBins`.
    """
    nothing = (0.0, 0.0, 0.0)
    x = axes[0] + axes[1] * (column + 0.5) + axes[2] * (row + 0.5)
    y = axes[3] + axes[4] * (column + 0.5) + axes[5] * (row + 0.5)
    radius = math.hypot(x, y)
    if radius < _LEAST_RADIUS:
        return nothing
    right, down = x * axes[1] + y * axes[4], x * axes[2] + y * axes[5]
    length = math.hypot(right, down)
    right, down = right / length, down / length
    across = np.zeros(2 * _ACROSS + 1)
    for i in range(-REACH, REACH + 1):
        for j in range(-REACH, REACH + 1):
            k = math.floor(i * down + j * right + 0.5)
            across[k + _ACROSS] += weights[i + REACH, j + REACH]
    limit = _OUTLIER * math.sqrt(noise) + quantum
    total, variance, top, sides = 0.0, 0.0, 0.0, 0
    for side in (-1, 1):
        of_side, its_variance, middle = 0.0, 0.0, 0.0
        for k in range(-_ACROSS, _ACROSS + 1):
            weight = across[k + _ACROSS]
            if weight == 0.0:
                continue
            n, height = 0, 0.0
            for along in range(_NEAREST, _FARTHEST + 1):
                outward = k - along * along / (2 * radius)
                near_row = math.floor(row + outward * down + side * along * right + 0.5)
                near_column = math.floor(column + outward * right - side * along * down + 0.5)
                value = pixel_excess(data, bad, look_at_bad, columns, bin_, bounds, mean, local, near_row, near_column)
                if value < limit:
                    n += 1
                    height += value
            if n < _FEWEST:
                of_side = np.nan
                break
            of_side += weight * height / n
            its_variance += weight * weight / n
            middle = height / n if k == 0 else middle
        if of_side != of_side:
            continue
        if of_side < _SEEN * math.sqrt(noise * its_variance):
            return nothing
        total, variance, top, sides = total + of_side, variance + its_variance, top + middle, sides + 1
    if sides == 0:
        return nothing
    return total / sides, variance / sides**2, top / sides * weights[REACH, REACH]
