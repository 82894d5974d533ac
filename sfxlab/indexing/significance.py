"""How unlikely the fit of a lattice of a known cell is by chance, METHODS.md section 4.7."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.indexing.fit_kernels import STRAIN

ALONG = np.array([0.28, 0.2, 0.14, 0.1, 0.07, 0.05, 0.035, 0.025, 0.0175, 0.0125, 0.009, 0.006])
"""Radii along the Ewald sphere within which peaks are counted, in units of V^(-1/3), V the primitive cell's volume."""
ACROSS = np.array([0.4, 0.28, 0.2, 0.14, 0.1, 0.07, 0.05, 0.035, 0.025])
"""Likewise across the sphere."""
LOG10_RUNGS = 2.0
"""log10 of how many of these tests are independent of each other, and of how much else a search adapts to the peaks.

So that among peaks of scrambled azimuths about one frame in a thousand has a lattice with a log10 of chance below −5.
"""
INDEX_LIMIT = 0.3
"""A peak counts where, besides, all its indices are this close to whole numbers."""

NOT_TURNED = np.empty((3, 0))
"""No misfits of turned peaks."""


@njit(cache=True, nogil=True, error_model="numpy")
def log10_chance(
    misfit: NDArray[np.float64],
    volume: float,
    reach: float,
    n_rotations: int,
    free: bool,
    factorials: NDArray[np.float64],
    by_chance: NDArray[np.float64],
) -> tuple[float, float, float]:
    """log10 of the expected number of lattices that fit random peaks so well, and the radii of the sharpest test.

    `misfit` (3, n) comes from `misfits`. A random peak lies within a along and b across the sphere of a node with
    probability p = 2π a² b V, the count is binomial, and there are M = 8π² / n_rotations · (Q / 2a) (Q / 2b)²
    orientations that differ by more than that, Q the root mean square `reach` of the peaks, 1/Å; as many times more
    where the cell was `free`, as its three strains along the sphere can differ. The sharpest of all pairs a, b counts,
    at a price. `factorials` (> n) are logarithms. Where misfits `by_chance` (3, m) of peaks turned about the beam show
    that p is larger, theirs counts: at low resolution a layer of nodes may lie along the sphere.
    """
    n = misfit.shape[1]
    edge = volume ** (-1.0 / 3.0)
    counts, random = _counts(misfit, edge), _counts(by_chance, edge)
    best, best_along, best_across = 0.0, ALONG[0] * edge, ACROSS[0] * edge
    for a in range(len(ALONG)):
        along = ALONG[a] * edge
        for b in range(len(ACROSS)):
            across = ACROSS[b] * edge
            p = 2.0 * math.pi * along * along * across * volume
            if by_chance.shape[1] > 0:
                wanted = p * by_chance.shape[1]
                if random[a, b] > wanted + 2.0 * math.sqrt(wanted) + 1.0:
                    p = random[a, b] / by_chance.shape[1]
            if p > 0.3 or counts[a, b] < 3:
                continue
            # A sharper test that as many peaks pass says more.
            if (a + 1 < len(ALONG) and counts[a + 1, b] == counts[a, b]) or (
                b + 1 < len(ACROSS) and counts[a, b + 1] == counts[a, b]
            ):
                continue
            trials = math.log10(8.0 * math.pi**2 / n_rotations)
            trials += math.log10(max(1.0, 0.5 * reach / along)) + 2.0 * math.log10(max(1.0, 0.5 * reach / across))
            if free:
                trials += 3.0 * math.log10(1.0 + STRAIN * reach / along)
            value = log10_tail(counts[a, b], n, p, factorials) + trials + LOG10_RUNGS
            if value < best:
                best, best_along, best_across = value, along, across
    return best, best_along, best_across


@njit(cache=True, nogil=True, error_model="numpy")
def _counts(misfit: NDArray[np.float64], edge: float) -> NDArray[np.int64]:
    """How many misfits (3, n) are within each pair of radii."""
    counts = np.zeros((len(ALONG), len(ACROSS)), dtype=np.int64)
    for j in range(misfit.shape[1]):
        if misfit[2, j] >= INDEX_LIMIT:
            continue
        a = 0
        while a < len(ALONG) and misfit[0, j] < ALONG[a] * edge:
            a += 1
        b = 0
        while b < len(ACROSS) and misfit[1, j] < ACROSS[b] * edge:
            b += 1
        if a > 0 and b > 0:
            counts[a - 1, b - 1] += 1
    for a in range(len(ALONG) - 1, -1, -1):
        for b in range(len(ACROSS) - 1, -1, -1):
            if a + 1 < len(ALONG):
                counts[a, b] += counts[a + 1, b]
            if b + 1 < len(ACROSS):
                counts[a, b] += counts[a, b + 1]
            if a + 1 < len(ALONG) and b + 1 < len(ACROSS):
                counts[a, b] -= counts[a + 1, b + 1]
    return counts


@njit(cache=True, nogil=True, error_model="numpy")
def log10_tail(least: int, n: int, p: float, factorials: NDArray[np.float64]) -> float:
    """log10 of the chance of `least` successes or more in n trials of probability p; `factorials` are logarithms."""
    if least <= 0:
        return 0.0
    if least <= n * p:
        return 0.0
    log_p, log_q = math.log(p), math.log1p(-p)
    first = factorials[n] - factorials[least] - factorials[n - least] + least * log_p + (n - least) * log_q
    # Each further term is smaller by a falling ratio; a few of them are the sum.
    total, term = 1.0, 1.0
    for i in range(least, n):
        term *= (n - i) / (i + 1.0) * p / (1.0 - p)
        total += term
        if term < 1e-6 * total:
            break
    return float((first + math.log(total)) / math.log(10.0))
