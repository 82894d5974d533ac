"""What a lattice explains, against what it explains of peaks of no lattice.

In a crowded frame many peaks of other crystals are near nodes of a lattice by chance. The same peaks, each turned about
the beam by an angle of its own, tell how many.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.indexing.fit_kernels import misfits, strained

FIT_TOLERANCE = 0.25
"""Distance from whole indices at which peaks take part in a fit."""
FOR_SPREAD, FOR_CHANCE = 300, 2000
"""Peaks are turned as often as it takes to have so many, to tell how they scatter and how many fit by chance."""
SPIN = 1e5
"""Radians by which the angles differ for peaks 1 1/Å apart in resolution."""
WIDEST, NARROWEST = 6.0, 2.0
"""Peaks belong to a lattice up to so many standard deviations, if that is where its peaks outnumber others."""
RAYLEIGH_MEDIAN = 1.177
"""Median of a Rayleigh distribution in units of its σ."""


@njit(cache=True, nogil=True, error_model="numpy")
def turned_about_beam(q: NDArray[np.float64], k: NDArray[np.float64], wanted: int) -> NDArray[np.float64]:
    """Peaks (3, n), each turned about the beam `k` by several angles of its own, `wanted` ones or more.

    Returns (3, n · copies), copies side by side. Resolution and Ewald sphere stay. Angles follow from the resolution,
    so that they depend neither on the run nor on the order.
    """
    n = q.shape[1]
    copies = max(1, math.ceil(wanted / max(n, 1)))
    out = np.empty((3, n * copies))
    axis = k / math.sqrt((k * k).sum())
    golden = math.pi * (3.0 - math.sqrt(5.0))
    for i in range(n * copies):
        x, y, z = q[0, i // copies], q[1, i // copies], q[2, i // copies]
        angle = SPIN * math.sqrt(x * x + y * y + z * z) + golden * (i % copies)
        cosine, sine = math.cos(angle), math.sin(angle)
        dot = (axis[0] * x + axis[1] * y + axis[2] * z) * (1.0 - cosine)
        out[0, i] = x * cosine + (axis[1] * z - axis[2] * y) * sine + axis[0] * dot
        out[1, i] = y * cosine + (axis[2] * x - axis[0] * z) * sine + axis[1] * dot
        out[2, i] = z * cosine + (axis[0] * y - axis[1] * x) * sine + axis[2] * dot
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def spread(
    misfit: NDArray[np.float64], by_chance: NDArray[np.float64], taken: NDArray[np.bool_], tolerance: float
) -> tuple[float, float]:
    """Robust standard deviation along the Ewald sphere, 1/Å, of a lattice's peaks, and how far they outnumber others.

    `misfit` (3, n) of peaks and (3, n · copies) of the same turned about the beam, from `misfits`; those `taken` (n,)
    by others do not count, nor those with an index error above `tolerance`. The deviation is that of the peaks
    that are more than by chance.
    """
    n = misfit.shape[1]
    copies = by_chance.shape[1] // max(n, 1)
    near, random = np.empty(n), np.empty(n * copies)
    n_near, n_random = 0, 0
    for j in range(n):
        if taken[j]:
            continue
        if misfit[2, j] < tolerance:
            near[n_near] = misfit[0, j]
            n_near += 1
        for c in range(j * copies, (j + 1) * copies):
            if by_chance[2, c] < tolerance:
                random[n_random] = by_chance[0, c]
                n_random += 1
    if n_near == 0:
        return 1e-3, WIDEST * 1e-3
    near, random = np.sort(near[:n_near]), np.sort(random[:n_random])
    excess = np.empty(n_near)
    below = 0
    for i in range(n_near):
        while below < n_random and random[below] <= near[i]:
            below += 1
        excess[i] = i + 1 - below / copies
    most, i = max(excess.max(), 1.0), 0
    while i < n_near - 1 and excess[i] < 0.5 * most:
        i += 1
    sigma = max(near[i] / RAYLEIGH_MEDIAN, 1e-5)
    # A peak that is claimed wins one, a peak that is expected by chance loses two.
    limit, gain = NARROWEST * sigma, -math.inf
    for i in range(n_near):
        if near[i] > WIDEST * sigma:
            break
        if near[i] >= NARROWEST * sigma and 2.0 * excess[i] - (i + 1) >= gain:
            gain = 2.0 * excess[i] - (i + 1)
            limit = min(WIDEST * sigma, near[i + 1]) if i + 1 < n_near else WIDEST * sigma
    return sigma, limit


@njit(cache=True, nogil=True, error_model="numpy")
def fit_outwards(
    q: NDArray[np.float64], k: NDArray[np.float64], basis: NDArray[np.float64], target: NDArray[np.float64], n_used: int
) -> NDArray[np.float64]:
    """A lattice that suits the first `n_used` of the peaks (3, n), ordered by resolution, fitted to all of them.

    What fits by chance does not count, so that it may be most of them.
    """
    n = q.shape[1]
    random = turned_about_beam(q, k, FOR_SPREAD)
    copies = random.shape[1] // max(n, 1)
    work, by_chance, taken = np.empty((3, n)), np.empty_like(random), np.zeros(n, dtype=np.bool_)
    while True:
        n_used = min(n_used, n)
        m = n_used * copies
        misfits(q[:, :n_used], k, basis, work[:, :n_used])
        misfits(random[:, :m], k, basis, by_chance[:, :m])
        sigma, _ = spread(work[:, :n_used], by_chance[:, :m], taken[:n_used], FIT_TOLERANCE)
        basis = strained(q, k, n_used, basis, target, FIT_TOLERANCE, sigma)
        if n_used == n:
            return basis
        n_used *= 2
