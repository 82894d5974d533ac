"""Intensities from boxes of pixels: by summation, and by the fit of a profile."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

MIN_BACKGROUND = 10
"""Pixels of background without which nothing is integrated."""
_MIN_COVERAGE = 0.7
"""Share of the profile on good pixels without which nothing is fitted."""
_MIN_SHARE = 0.005
"""A neighbour with less of its profile in a peak does not matter to it."""
_MOST_INFLATION = 2.0
"""Neighbours may raise the variance of a fit so many times; beyond, positions are not known well enough for it."""
_MOST_TOGETHER = 7
"""Spots that are fitted together."""


@njit(cache=True, nogil=True)
def sum_peaks(
    boxes: NDArray[np.float32],
    fs: NDArray[np.float64],
    ss: NDArray[np.float64],
    gain: NDArray[np.float64],
    background: NDArray[np.float64],
    first: NDArray[np.int64],
    neighbours: NDArray[np.int64],
    peak_radius: float,
) -> NDArray[np.float64]:
    """Intensity, its standard error and the highest pixel above the background, ADU, of n spots, (n, 3).

    I = Σ(p − b) over the m pixels of the peak; σ² = m σ_b² + g I + g² + m² σ_b² / n_b, with g ADU per photon and the
    n_b background pixels' mean b and variance σ_b², the columns of `background` (n, 3) (METHODS.md section 6.1).
    What is counted, m σ_b² + g I, is taken for no less than m σ_b² / 2, and for a photon more: few photons are more
    uncertain than they say. NaN where a pixel of the peak is bad, the background too small, or a neighbour in the peak.
    """
    n, reach = len(boxes), boxes.shape[1] // 2
    out = np.full((n, 3), np.nan)
    small = math.ceil(peak_radius)
    for s in range(n):
        level, variance, n_ring = background[s]
        if n_ring < MIN_BACKGROUND:
            continue
        m, total, highest = 0, 0.0, -np.inf
        for i in range(reach - small, reach + small + 1):
            for j in range(reach - small, reach + small + 1):
                if (i - reach) ** 2 + (j - reach) ** 2 <= peak_radius * peak_radius:
                    value = boxes[s, i, j] - level
                    m += 1
                    total += value
                    if value > highest:
                        highest = value
        out[s, 2] = highest
        row, column = math.floor(ss[s]), math.floor(fs[s])
        alone = True
        for entry in range(first[s], first[s + 1]):
            y, x = math.floor(ss[neighbours[entry]]) - row, math.floor(fs[neighbours[entry]]) - column
            alone &= y * y + x * x > peak_radius * peak_radius
        if alone and not math.isnan(total):
            out[s, 0] = total
            counted = max(m * variance + gain[s] * total, m * variance / 2) + gain[s] * gain[s]
            out[s, 1] = math.sqrt(counted + m * m * variance / n_ring)
    return out


@njit(cache=True, nogil=True)
def directions_away(
    panel: NDArray[np.int16],
    fs: NDArray[np.float64],
    ss: NDArray[np.float64],
    bounds: NDArray[np.int64],
    corner: NDArray[np.float64],
    fs_step: NDArray[np.float64],
    ss_step: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Unit vectors along fs and ss that point away from the beam axis at fs, ss, (n, 2).

    The last four arguments are those of `PanelArrays`.
    """
    out = np.empty((len(fs), 2))
    for n in range(len(fs)):
        p = panel[n]
        f, s = fs[n] - bounds[p, 2], ss[n] - bounds[p, 0]
        x = corner[p, 0] + f * fs_step[p, 0] + s * ss_step[p, 0]
        y = corner[p, 1] + f * fs_step[p, 1] + s * ss_step[p, 1]
        along, across = x * fs_step[p, 0] + y * fs_step[p, 1], x * ss_step[p, 0] + y * ss_step[p, 1]
        length = max(math.hypot(along, across), 1e-300)
        out[n, 0], out[n, 1] = along / length, across / length
    return out


@njit(cache=True, nogil=True)
def profile_at(
    tables: NDArray[np.float64], lower: int, share: float, step: float, along: float, across: float
) -> float:
    """The profile at an offset in pixels, linearly between the entries of the tables `lower` and the next one.

    `share` is the weight of the next one; 0 outside the tables.
    """
    half = tables.shape[1] // 2
    u, v = along / step + half, across / step + half
    if not (0 <= u < 2 * half and 0 <= v < 2 * half):
        return 0.0
    i, j = int(u), int(v)
    a, b = u - i, v - j
    t = tables[lower]
    value = (1 - a) * ((1 - b) * t[i, j] + b * t[i, j + 1]) + a * ((1 - b) * t[i + 1, j] + b * t[i + 1, j + 1])
    if share > 0:
        t = tables[lower + 1]
        upper = (1 - a) * ((1 - b) * t[i, j] + b * t[i, j + 1]) + a * ((1 - b) * t[i + 1, j] + b * t[i + 1, j + 1])
        value += share * (upper - value)
    return float(value)


@njit(cache=True, nogil=True)
def fit_profiles(
    boxes: NDArray[np.float32],
    fs: NDArray[np.float64],
    ss: NDArray[np.float64],
    away: NDArray[np.float64],
    zone: NDArray[np.float64],
    expected: NDArray[np.float64],
    gain: NDArray[np.float64],
    background: NDArray[np.float64],
    first: NDArray[np.int64],
    neighbours: NDArray[np.int64],
    tables: NDArray[np.float64],
    step: float,
    peak_radius: float,
) -> NDArray[np.float64]:
    """Intensity, its standard error (ADU) and χ² per pixel of the fit of profiles to n spots, (n, 3).

    The pixels of a peak are b + Σ_j I_j P_j, the sum being over the spot itself and the neighbours whose profiles
    reach into its peak: least squares with weights 1/v (Horne 1986, PASP 98, 609), v = σ_b² + g E Σ_j P_j. The
    intensity E `expected` (n,) comes from other spots, because weights that follow the pixels they weigh make weak
    spots too weak. So I = Σ a_i (p_i − b) with fixed a_i, and σ² = Σ a_i² (σ_b² + g (p_i − b) + g² P_i) +
    (Σ a_i)² σ_b²/n_b, the photon g² P_i being added as for sums.

    `away` holds the directions away from the beam along fs and ss, and `zone` the place between the tables, of all
    spots, neighbours that are no spots of the first n included. NaN where less than 0.7 of the profile is on good
    pixels, the background too small, or neighbours make the variance more than twice as large. χ² has a photon added
    to each variance, without which single photons where hardly any are expected would look like a misfit.
    """
    n, side = len(boxes), boxes.shape[1]
    reach = side // 2
    out = np.full((n, 3), np.nan)
    small = math.ceil(peak_radius)
    most = (2 * small + 1) ** 2
    value, shares = np.empty(most), np.empty((_MOST_TOGETHER, most))
    intensity, first_row = np.empty(_MOST_TOGETHER), np.empty(_MOST_TOGETHER)
    normal = np.empty((_MOST_TOGETHER, _MOST_TOGETHER))
    for s in range(n):
        level, variance, n_ring = background[s]
        if n_ring < MIN_BACKGROUND:
            continue
        row, column = math.floor(ss[s]) - reach, math.floor(fs[s]) - reach
        together, m = 0, 0
        for entry in range(first[s] - 1, first[s + 1]):
            spot = s if entry < first[s] else neighbours[entry]
            lower = min(int(zone[spot]), len(tables) - 1)
            share = zone[spot] - lower
            y0, x0 = row + 0.5 - ss[spot], column + 0.5 - fs[spot]
            c, d = away[spot, 0], away[spot, 1]
            good, whole, m = 0.0, 0.0, 0
            for i in range(reach - small, reach + small + 1):
                for j in range(reach - small, reach + small + 1):
                    if (i - reach) ** 2 + (j - reach) ** 2 > peak_radius * peak_radius:
                        continue
                    x, y = j + x0, i + y0
                    p = profile_at(tables, lower, share, step, x * c + y * d, y * c - x * d)
                    whole += p
                    if math.isnan(boxes[s, i, j]):
                        continue
                    good += p
                    shares[together, m] = p
                    if spot == s:
                        value[m] = boxes[s, i, j] - level
                    m += 1
            if spot == s and not good >= _MIN_COVERAGE * max(whole, 0.5):
                break
            if spot == s or whole > _MIN_SHARE:
                together += 1
            if together == _MOST_TOGETHER:
                break
        if together == 0:
            continue
        normal[:together, :together] = 0.0
        intensity[:together], first_row[:together] = 0.0, 0.0
        first_row[0] = 1.0
        for i in range(m):
            v = variance
            for a in range(together):
                v += gain[s] * expected[s] * max(shares[a, i], 0.0)
            for a in range(together):
                intensity[a] += shares[a, i] * value[i] / v
                for b in range(a + 1):
                    normal[a, b] += shares[a, i] * shares[b, i] / v
        alone = normal[0, 0]
        if not (solved(normal, intensity, first_row, together) and first_row[0] * alone < _MOST_INFLATION):
            continue
        lift, quiet, counted, more, misfit = 0.0, 0.0, 0.0, 0.0, 0.0
        for i in range(m):
            v, coefficient, model, actual = variance, 0.0, 0.0, variance + gain[s] * gain[s]
            for a in range(together):
                v += gain[s] * expected[s] * max(shares[a, i], 0.0)
                coefficient += first_row[a] * shares[a, i]
                model += intensity[a] * shares[a, i]
                actual += gain[s] * max(intensity[a] * shares[a, i], 0.0)
            coefficient /= v
            lift += coefficient
            quiet += coefficient * coefficient * variance
            counted += coefficient * coefficient * gain[s] * value[i]
            more += coefficient * coefficient * gain[s] * gain[s] * max(shares[0, i], 0.0)
            misfit += (value[i] - model) ** 2 / actual
        out[s, 0] = intensity[0]
        out[s, 1] = math.sqrt(max(quiet + counted, 0.5 * quiet) + more + lift * lift * variance / n_ring)
        out[s, 2] = misfit / max(m - together, 1)
    return out


@njit(cache=True, nogil=True)
def solved(normal: NDArray[np.float64], one: NDArray[np.float64], other: NDArray[np.float64], n: int) -> bool:
    """Solve n equations for two right-hand sides in place; `normal` has its lower triangle filled.

    Gaussian elimination from the last unknown to the first, which needs no exchange of rows where the matrix is
    positive definite; false where it is not.
    """
    for a in range(n):
        for b in range(a):
            normal[b, a] = normal[a, b]
    whole = normal[0, 0]
    for p in range(n - 1, -1, -1):
        pivot = normal[p, p]
        if pivot <= 1e-9 * whole or pivot <= 0:
            return False
        for a in range(p):
            factor = normal[a, p] / pivot
            for b in range(p):
                normal[a, b] -= factor * normal[p, b]
            one[a] -= factor * one[p]
            other[a] -= factor * other[p]
    for p in range(n):
        for b in range(p):
            one[p] -= normal[p, b] * one[b]
            other[p] -= normal[p, b] * other[b]
        one[p] /= normal[p, p]
        other[p] /= normal[p, p]
    return True
