"""Single pixels in their surroundings: does a pixel stand alone, or is it the top of a spot?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfxlab.geometry import Detector

_REACH = 5
_NARROWEST_SPOT = 0.2
"""What the eight neighbours of the highest pixel of the sharpest spot have of it: a point spread of a quarter pixel
gives 0.1 where the spot is centred on the pixel, 0.3 pixels give 0.22."""
_CONFIDENCE = 2.33
"""Standard deviations; 99 %, one-sided."""


@dataclass(frozen=True)
class Surroundings:
    """What is around some pixels, each array (n,)."""

    value: NDArray[np.float64]
    """Of the pixel."""
    level: NDArray[np.float64]
    """Median of the good pixels of its neighbourhood, without the innermost 3 × 3."""
    ring: NDArray[np.float64]
    """Sum over the good ones of its eight neighbours of what they have above the level."""
    ring_sigma: NDArray[np.float64]
    """Standard deviation of that."""

    def is_single_pixel(self) -> NDArray[np.bool_]:
        """Whether the neighbours surely have less of it than those of the sharpest spot."""
        return self.ring + _CONFIDENCE * self.ring_sigma < _NARROWEST_SPOT * (self.value - self.level)

    def ring_is_raised(self) -> NDArray[np.bool_]:
        """Whether the neighbours surely have something of it."""
        return self.ring > _CONFIDENCE * self.ring_sigma


def surroundings(
    image: NDArray[np.float32], pixels: NDArray[np.intp], detector: Detector, good: NDArray[np.bool_]
) -> Surroundings:
    """The surroundings of some pixels, (n, 2) rows and columns, in their own panels.

    The neighbourhood's level is of `good` pixels only; the eight neighbours count where they have a value.
    """
    bounds = detector.arrays.bounds[detector.panel_map[tuple(pixels.T)]]
    down, right = (offsets.ravel() for offsets in np.mgrid[-_REACH : _REACH + 1, -_REACH : _REACH + 1])
    near = np.maximum(abs(down), abs(right))
    values, exists = _gather(image, pixels, bounds, down[near > 1], right[near > 1])
    exists &= _gather(good, pixels, bounds, down[near > 1], right[near > 1])[0] != 0
    exists &= np.isfinite(values)
    level, deviation = _median(values, exists)
    ring, in_ring = _gather(image, pixels, bounds, down[near == 1], right[near == 1])
    in_ring &= np.isfinite(ring)
    n_ring, n_level = in_ring.sum(axis=1), np.maximum(exists.sum(axis=1), 1)
    return Surroundings(
        value=image[tuple(pixels.T)].astype(np.float64),
        level=level,
        ring=np.where(in_ring, ring - level[:, None], 0.0).sum(axis=1),
        ring_sigma=deviation * np.sqrt(n_ring * (1 + n_ring / n_level)),
    )


def _gather(
    image: NDArray[np.generic],
    pixels: NDArray[np.intp],
    bounds: NDArray[np.int64],
    down: NDArray[np.intp],
    right: NDArray[np.intp],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values at offsets from pixels, and whether there is a pixel of the same panel, (n, n_offsets) each."""
    row, column = pixels[:, :1] + down, pixels[:, 1:] + right
    exists = (bounds[:, :1] <= row) & (row < bounds[:, 1:2]) & (bounds[:, 2:3] <= column) & (column < bounds[:, 3:4])
    return image[np.where(exists, row, 0), np.where(exists, column, 0)].astype(np.float64), exists


def _median(values: NDArray[np.float64], exists: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median and robust standard deviation of each row; 0 and infinity where there is nothing."""
    level = _middle(values, exists)
    deviation = 1.4826 * _middle(abs(values - level[:, None]), exists)
    return np.where(np.isfinite(level), level, 0.0), deviation


def _middle(values: NDArray[np.float64], exists: NDArray[np.bool_]) -> NDArray[np.float64]:
    ordered = np.sort(np.where(exists, values, np.inf), axis=1)
    return np.asarray(ordered[np.arange(len(values)), np.minimum(exists.sum(axis=1) // 2, values.shape[1] - 1)])
