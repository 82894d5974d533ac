"""Spots into pixels, and pixels into the true peaks that a perfect peak finder would see."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.geometry import Detector
from sfxlab.simulation.spots import Spots

TRUE_PEAK_PHOTONS = 8.0
"""Expected photons in 5 × 5 pixels from which a maximum counts as a peak."""
_SUBSAMPLES = 4
_MOST_TRUE_PEAKS = 100_000


@dataclass(frozen=True)
class TruePeaks:
    """Local maxima of the noise-free Bragg image."""

    panel: NDArray[np.int64]
    """(n,)."""
    fs: NDArray[np.float64]
    """Centroid of 5 × 5 pixels in the slab, (n,)."""
    ss: NDArray[np.float64]
    """Centroid of 5 × 5 pixels in the slab, (n,)."""
    photons: NDArray[np.float64]
    """Expected in 5 × 5 pixels, (n,)."""
    highest: NDArray[np.float64]
    """Expected in the peak pixel, photons, (n,)."""
    row: NDArray[np.int64]
    """Row of the peak pixel in the slab, (n,)."""
    column: NDArray[np.int64]
    """Column of the peak pixel in the slab, (n,)."""


def draw(image: NDArray[np.float64], spots: Spots, scale: float, detector: Detector) -> None:
    """Add the expected photons of spots, times `scale`, to an image of the shape of the detector's slab."""
    draw_gaussians(
        image, detector.arrays.bounds[spots.panel], spots.fs, spots.ss, spots.covariance, spots.photons * scale
    )


def find_true_peaks(image: NDArray[np.float64], detector: Detector) -> TruePeaks:
    """All local maxima of a noise-free Bragg image with more than 8 photons in 5 × 5 pixels of their panel."""
    table = np.empty((_MOST_TRUE_PEAKS, 7))
    count = _local_maxima(image, detector.arrays.bounds, TRUE_PEAK_PHOTONS, table)
    panel, fs, ss, photons, highest, row, column = table[:count].T
    return TruePeaks(panel.astype(np.int64), fs, ss, photons, highest, row.astype(np.int64), column.astype(np.int64))


@njit(cache=True, nogil=True)
def draw_gaussians(image, bounds, fs, ss, covariance, photons):  # type: ignore[no-untyped-def]
    """image[s, f] += photons · ∫∫ N((f', s'); (fs, ss), covariance) over the pixel, 4 × 4 midpoints per pixel.

    `image` (slow, fast); `bounds` (n, 4) first row, end row, first column, end column that each spot may touch;
    `fs`, `ss`, `photons` (n,); `covariance` (n, 3) ff, fs, ss in pixels². Cut at 4.5 standard deviations.
    """
    for i in range(len(fs)):
        ff, cross, sss = covariance[i, 0], covariance[i, 1], covariance[i, 2]
        determinant = ff * sss - cross * cross
        a, b, c = sss / determinant, -cross / determinant, ff / determinant
        reach_f, reach_s = 4.5 * math.sqrt(ff), 4.5 * math.sqrt(sss)
        first_row = max(bounds[i, 0], math.floor(ss[i] - reach_s))
        end_row = min(bounds[i, 1], math.floor(ss[i] + reach_s) + 1)
        first_column = max(bounds[i, 2], math.floor(fs[i] - reach_f))
        end_column = min(bounds[i, 3], math.floor(fs[i] + reach_f) + 1)
        weight = photons[i] / (2 * math.pi * math.sqrt(determinant) * _SUBSAMPLES * _SUBSAMPLES)
        for row in range(first_row, end_row):
            for column in range(first_column, end_column):
                total = 0.0
                for u in range(_SUBSAMPLES):
                    y = row + (u + 0.5) / _SUBSAMPLES - ss[i]
                    for v in range(_SUBSAMPLES):
                        x = column + (v + 0.5) / _SUBSAMPLES - fs[i]
                        total += math.exp(-0.5 * (a * x * x + 2 * b * x * y + c * y * y))
                image[row, column] += weight * total


@njit(cache=True, nogil=True)
def _local_maxima(image, bounds, least, table):  # type: ignore[no-untyped-def]
    """Maxima of 3 × 3 pixels with at least `least` in 5 × 5, both within a panel; of equal pixels the first counts.

    `image` (slow, fast); `bounds` (panels, 4); `table` (room, 7) receives panel, centroid fs, ss, sum of 5 × 5,
    maximum, row, column. Returns how many were written.
    """
    found = 0
    for panel in range(len(bounds)):
        r0, r1, c0, c1 = bounds[panel]
        for row in range(r0, r1):
            for column in range(c0, c1):
                value = image[row, column]
                # 25 pixels that are no higher than the maximum cannot hold `least` otherwise.
                if value * 25 < least:
                    continue
                highest = True
                for y in range(max(r0, row - 1), min(r1, row + 2)):
                    for x in range(max(c0, column - 1), min(c1, column + 2)):
                        before = y < row or (y == row and x < column)
                        if image[y, x] > value or (before and image[y, x] == value):
                            highest = False
                if not highest:
                    continue
                total = sum_f = sum_s = 0.0
                for y in range(max(r0, row - 2), min(r1, row + 3)):
                    for x in range(max(c0, column - 2), min(c1, column + 3)):
                        total += image[y, x]
                        sum_f += image[y, x] * (x + 0.5)
                        sum_s += image[y, x] * (y + 0.5)
                if total > least and found < len(table):
                    table[found, 0], table[found, 1], table[found, 2] = panel, sum_f / total, sum_s / total
                    table[found, 3], table[found, 4] = total, value
                    table[found, 5], table[found, 6] = row, column
                    found += 1
    return found
