"""Which crystals do harm: ΔCC1/2 by the σ-τ method (Assmann, Brehm & Diederichs 2016, J. Appl. Cryst. 49, 1021).

CC1/2 = (σ_y² − ½ σ_ε²) / (σ_y² + ½ σ_ε²), σ_y² the variance of merged intensities among reflections, ½ σ_ε² the mean
of their squared errors. It is reckoned for the reflections of a crystal with and without it, from sums, so that nothing
has to be merged again. Intensities count in units of the mean at their resolution.

A crystal is compared with those of its own half data set only. Choosing crystals that agree makes them agree, and would
make the halves of pure noise agree if crystals were chosen to agree with both; so no half knows of the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from sfxlab.merging.blocks import Scaled

Z_LIMIT = 10.0
"""A crystal whose effect is further below the usual one, in robust standard deviations, does harm.

Effects are far from normal: among 300 good crystals the worst is at 4, where data are precise at 9. What disagrees with
the others is left out by its correlation or has little weight before this; so a lower limit takes good crystals.
"""
MOST_REJECTED = 0.1
"""No more than this share of a half's crystals is rejected, the worst ones."""


@dataclass(frozen=True)
class CrystalEffects:
    """What each crystal does to the agreement of its half data set, (n_crystals,) each."""

    delta_cc_half: NDArray[np.float64]
    """CC1/2 of its reflections with it minus that without it; negative where it does harm. NaN where unknown."""
    z: NDArray[np.float64]
    """The same after Fisher's transformation, from the median of all and in units of their spread."""
    n_reflections: NDArray[np.int32]
    """Over how many reflections, of those that are well enough known without it."""

    def harmful(self, half: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Crystals to be rejected, (n_crystals,): below `Z_LIMIT`, and at most `MOST_REJECTED` of each half."""
        out = np.zeros(len(half), dtype=bool)
        for number in (0, 1):
            known = np.flatnonzero((half == number) & np.isfinite(self.z))
            bad = known[(self.z[known] < -Z_LIMIT) & (self.delta_cc_half[known] < 0)]
            out[bad[np.argsort(self.z[bad], kind="stable")][: int(MOST_REJECTED * len(known))]] = True
        return out


def crystal_effects(
    blocks: Iterable[Scaled],
    again: Iterable[Scaled],
    half: NDArray[np.uint8],
    mean: NDArray[np.float64],
) -> CrystalEffects:
    """ΔCC1/2 of every crystal.

    `blocks`, and the same `again`, give for each block of observations the factor and the weight of each. `half` is of
    the crystals, `mean` the mean intensity at the resolution of each reflection.
    """
    sums = np.zeros((2, len(mean), 4))
    for block, factor, weight in blocks:
        sum_relative(block.offsets, block.reflection, block.intensity, factor, weight, mean, half[block.crystals], sums)
    z, delta, count = np.full(len(half), np.nan), np.full(len(half), np.nan), np.zeros(len(half), dtype=np.int32)
    for block, factor, weight in again:
        own = block.crystals
        leave_out(
            block.offsets, block.reflection, block.intensity, factor, weight, mean, half[own], sums, delta[own], z[own],
            count[own],
        )  # fmt: skip
    for number in (0, 1):
        mine = (half == number) & np.isfinite(z)
        if mine.any():
            off = z[mine] - np.median(z[mine])
            z[mine] = off / max(1.4826 * float(np.median(np.abs(off))), 1e-12)
    return CrystalEffects(delta, z, count)


@numba.njit(cache=True, nogil=True)
def sum_relative(offsets, reflection, intensity, factor, weight, mean, half, sums):  # type: ignore[no-untyped-def]
    """Add w, w y, w y², w² to `sums[half, reflection]`, y = I / f m and w in units of 1/m²."""
    for i in range(len(half)):
        for j in range(offsets[i], offsets[i + 1]):
            if weight[j] <= 0.0:
                continue
            m = mean[reflection[j]]
            y, w = intensity[j] / (factor[j] * m), weight[j] * m * m
            row = sums[half[i], reflection[j]]
            row[0] += w
            row[1] += w * y
            row[2] += w * y * y
            row[3] += w * w


@numba.njit(cache=True, nogil=True)
def _mean_and_variance(w, wy, wyy, ww):  # type: ignore[no-untyped-def]
    """Weighted mean, and the square of its error from the scatter of the observations."""
    mean = wy / w
    return mean, max(wyy - wy * mean, 0.0) / (w - ww / w) * ww / (w * w)


@numba.njit(cache=True, nogil=True)
def _cc_half(n, y, yy, errors):  # type: ignore[no-untyped-def]
    spread, error = yy / n - (y / n) ** 2, errors / n
    return (spread - error) / max(spread + error, 1e-300)


@numba.njit(cache=True, nogil=True)
def leave_out(  # type: ignore[no-untyped-def]
    offsets, reflection, intensity, factor, weight, mean, half, sums, delta, z, count
):
    """CC1/2 of each crystal's reflections with it minus that without it, and the same of artanh CC1/2.

    Reflections count whose relative variance without it is below one and that do not rest on one observation; ten of
    them are needed.
    """
    for i in range(len(half)):
        n, y0, yy0, e0, y1, yy1, e1 = 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for j in range(offsets[i], offsets[i + 1]):
            if weight[j] <= 0.0:
                continue
            r = reflection[j]
            y, w = intensity[j] / (factor[j] * mean[r]), weight[j] * mean[r] * mean[r]
            row = sums[half[i], r]
            rest, rest_squared = row[0] - w, row[3] - w * w
            if rest < 1.0 or rest_squared > 0.8 * rest * rest:
                continue
            with_mean, with_error = _mean_and_variance(row[0], row[1], row[2], row[3])
            mean_without, error_without = _mean_and_variance(rest, row[1] - w * y, row[2] - w * y * y, rest_squared)
            n += 1
            y0 += mean_without
            yy0 += mean_without * mean_without
            e0 += error_without
            y1 += with_mean
            yy1 += with_mean * with_mean
            e1 += with_error
        count[i] = n
        if n < 10:
            continue
        without, having = _cc_half(n, y0, yy0, e0), _cc_half(n, y1, yy1, e1)
        delta[i] = having - without
        z[i] = math.atanh(min(max(having, -0.9999), 0.9999)) - math.atanh(min(max(without, -0.9999), 0.9999))
