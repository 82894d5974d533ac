"""The matched filter: how unlikely a spot is to be noise, and kernels that apply it to the tops of possible peaks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import ndtr

from sfxlab.peaks.candidates import normal_equivalent
from sfxlab.peaks.rings import along_ring, may_be_ring
from sfxlab.peaks.surroundings import FEWEST_AROUND, REACH, around, pixel_excess, sectors_about

SPOT_WIDTHS = (0.45, 0.8, 1.3)
"""Standard deviations of the spots that are looked for, pixels, before the pixel blurs them."""
_DISTANCES = np.array([[0, 1, 3], [1, 2, 4], [3, 4, 5]])
"""Pixels |Δrow|, |Δcolumn| from the highest one that hold the same share of a spot have the same number."""
_FLANKS = 0.02
"""The least that any spot leaves in the neighbours of its highest pixel, as a share of that."""


def spot_shapes() -> NDArray[np.float64]:
    """Share of a spot in a pixel |Δrow|, |Δcolumn| from its highest one, (n_widths, 3, 3).

    A Gaussian whose centre may be anywhere in the highest pixel.
    """
    centre = np.linspace(-0.45, 0.45, 10)[:, None]
    edges = np.arange(-0.5, REACH + 1)
    shapes = []
    for width in SPOT_WIDTHS:
        line = np.mean(np.diff(ndtr((edges - centre) / width), axis=1), axis=0)
        shapes.append(np.outer(line, line))
    return np.array(shapes)


@njit(cache=True, nogil=True)
def filter_tops(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    look_at_bad: bool,
    columns: int,
    bin_: NDArray[np.uint16],
    panel: NDArray[np.int64],
    bounds: NDArray[np.int64],
    axes: NDArray[np.float64],
    gain: NDArray[np.float64],
    mean: NDArray[np.float32],
    variance: NDArray[np.float32],
    quantum: NDArray[np.float32],
    threshold: NDArray[Any],
    shapes: NDArray[np.float64],
    background_radius: int,
    z: float,
    tops: NDArray[np.int32],
    out: NDArray[np.float64],
) -> None:
    """Fill `out` (n_tops, 3): significance of a spot at each top, that without its highest pixel, and the second
    highest pixel, all in standard deviations of a normal distribution; −1 for what is below `z`, or not known.

    The weight of a pixel is the logarithm of the likelihood ratio for a count in it: ln(1 + s p / b) for a spot of s
    photons, a share p of it in the pixel, and b photons of background. s is what would just be seen at `z`. `axes` as
    in `PixelBins`.
    """
    excess = np.empty((2 * REACH + 1, 2 * REACH + 1))
    sums, counts, weights, best = np.empty(6), np.empty(6), np.empty(6), np.empty(6)
    sectors, signs = sectors_about(background_radius)
    of_sectors = np.empty((2, len(signs)))
    for i in range(len(tops)):
        pixel = tops[i]
        b = bin_[pixel]
        of_panel = bounds[panel[b]]
        row, column = pixel // columns, pixel % columns
        offset, spread, level, n = around(
            data, bad, look_at_bad, columns, bin_, of_panel, mean, threshold, background_radius, row, column,
            sectors, signs, of_sectors,
        )  # fmt: skip
        out[i] = -1.0
        if n < FEWEST_AROUND:
            continue
        # The scatter around the spot counts where it is clearly larger than that of the bin.
        noise = float(variance[b]) + max(offset, 0.0) * quantum[b]
        noise = max(noise, spread * (1 - 2 * math.sqrt(2 / n)))
        local = (offset, offset / level if offset > 0.0 and level > 0.0 else 0.0, level)
        for y in range(-REACH, REACH + 1):
            for x in range(-REACH, REACH + 1):
                excess[y + REACH, x + REACH] = pixel_excess(
                    data, bad, look_at_bad, columns, bin_, of_panel, mean, local, row + y, column + x
                )
        flanks, second = _fold(excess, sums, counts)
        photons_per_unit = max(gain[panel[b]], quantum[b])
        for shape in shapes:
            _weigh(shape, noise / photons_per_unit**2, z, weights)
            found = _significance(sums, counts, weights, noise, quantum[b], n, 0.0, 0.0)
            if found > out[i, 0]:
                out[i, 0] = found
                best[:] = weights
        if out[i, 0] < z:
            out[i] = -1.0
            continue
        of_ring, its_variance, in_top = 0.0, 0.0, 0.0
        if may_be_ring(mean, b, best, counts, noise):
            for y in range(-REACH, REACH + 1):
                for x in range(-REACH, REACH + 1):
                    known = excess[y + REACH, x + REACH] == excess[y + REACH, x + REACH]
                    excess[y + REACH, x + REACH] = best[_DISTANCES[abs(y), abs(x)]] if known else 0.0
            of_ring, its_variance, in_top = along_ring(
                data, bad, look_at_bad, columns, bin_, of_panel, mean, local, row, column, axes[panel[b]], excess,
                noise, quantum[b],
            )  # fmt: skip
            if of_ring > 0.0:
                out[i, 0] = _significance(sums, counts, best, noise, quantum[b], n, of_ring, its_variance)
        highest, sums[0], counts[0] = sums[0], 0.0, 0.0
        out[i, 1] = _significance(sums, counts, best, noise, quantum[b], n, of_ring - in_top, its_variance)
        out[i, 2] = normal_equivalent(second, noise, noise * quantum[b])
        if flanks < _FLANKS * highest:
            out[i, 1] = -1.0


@njit(cache=True, nogil=True)
def _fold(excess: NDArray[np.float64], sums: NDArray[np.float64], counts: NDArray[np.float64]) -> tuple[float, float]:
    """Add up the pixels that hold the same share of a spot; sum and highest of the eight about the middle one."""
    sums[:], counts[:] = 0.0, 0.0
    highest = -np.inf
    for y in range(-REACH, REACH + 1):
        for x in range(-REACH, REACH + 1):
            value = excess[y + REACH, x + REACH]
            if value == value:
                k = _DISTANCES[abs(y), abs(x)]
                sums[k] += value
                counts[k] += 1.0
                if k == 1 or k == 2:
                    highest = max(highest, value)
    return sums[1] + sums[2], highest


@njit(cache=True, nogil=True)
def _weigh(shape: NDArray[np.float64], background: float, z: float, weights: NDArray[np.float64]) -> None:
    """Fill `weights` (6,) of the pixels of a spot on a background in photons; see `filter_tops`."""
    compact = 0.0
    for y in range(-REACH, REACH + 1):
        for x in range(-REACH, REACH + 1):
            compact += shape[abs(y), abs(x)] ** 2
    photons = 0.5 * z * z + z * math.sqrt(background / compact)
    for y in range(REACH + 1):
        for x in range(y, REACH + 1):
            weights[_DISTANCES[y, x]] = math.log1p(photons * shape[y, x] / background)


@njit(cache=True, nogil=True)
def _significance(
    sums: NDArray[np.float64],
    counts: NDArray[np.float64],
    weights: NDArray[np.float64],
    noise: float,
    quantum: float,
    n_around: int,
    background: float,
    its_variance: float,
) -> float:
    """Normal equivalent of the weighted sum of pixels, less a `background`."""
    total, first, second, third = -background, 0.0, its_variance, 0.0
    for k in range(6):
        total += weights[k] * sums[k]
        first += weights[k] * counts[k]
        second += weights[k] ** 2 * counts[k]
        third += weights[k] ** 3 * counts[k]
    # The local background is known as well as so many pixels tell.
    return normal_equivalent(total, noise * (second + first**2 / n_around), noise * quantum * third)
