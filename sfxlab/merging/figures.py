"""Figures of merit as formulae (METHODS.md section 8): of lists of intensities, of Bijvoet differences, of halves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

_Z_95 = 1.959964


def shell_edges(r_min: float, r_max: float, n_shells: int) -> Values:
    """Edges of shells of equal volume, (n_shells + 1,), in the unit of `r_min` and `r_max`, which are 1/d."""
    return np.asarray(np.cbrt(np.linspace(r_min**3, r_max**3, n_shells + 1)), dtype=np.float64)


def correlation(i1: Values, i2: Values) -> float:
    """Pearson's correlation of intensities, CC1/2 for half data sets; NaN for fewer than three or constant ones."""
    if len(i1) < 3 or np.ptp(i1) == 0 or np.ptp(i2) == 0:
        return float("nan")
    return float(np.corrcoef(i1, i2)[0, 1])


def correlation_interval(cc: float, n: int) -> tuple[float, float]:
    """Where a correlation of n pairs is with a confidence of 95 %, by Fisher's z; NaN for fewer than four pairs."""
    if n < 4 or not np.isfinite(cc):
        return float("nan"), float("nan")
    z, error = np.arctanh(np.clip(cc, -1, 1) * (1 - 1e-12)), _Z_95 / np.sqrt(n - 3)
    return float(np.tanh(z - error)), float(np.tanh(z + error))


def cc_star(cc_half: float) -> float:
    """CC* = √(2 CC1/2 / (1 + CC1/2)) (Karplus & Diederichs 2012); NaN where CC1/2 is negative."""
    return float(np.sqrt(2 * cc_half / (1 + cc_half))) if cc_half >= 0 else float("nan")


def cc_half_sigma_tau(intensity: Values, sigma: Values) -> float:
    """CC1/2 without halves, from the variance of means and their errors (Assmann, Brehm & Diederichs 2016)."""
    if len(intensity) < 3:
        return float("nan")
    variance, error = float(np.var(intensity, ddof=1)), float(np.mean(sigma**2))
    return ratio(variance - error, variance + error)


def rsplit(i1: Values, i2: Values) -> float:
    """Rsplit = √2 Σ|I1 − I2| / Σ(I1 + I2) (White et al. 2012), a fraction; NaN for fewer than three."""
    if len(i1) < 3:
        return float("nan")
    return ratio(np.sqrt(2) * np.abs(i1 - i2).sum(), (i1 + i2).sum())


def r1i(i1: Values, i2: Values) -> float:
    """R1(I) = Σ|I1 − I2| / ΣI1, a fraction."""
    return ratio(np.abs(i1 - i2).sum(), i1.sum())


def r1f(i1: Values, i2: Values) -> float:
    """R1(F) = Σ|√I1 − √I2| / Σ√I1 over pairs without negative intensities, a fraction."""
    both = (i1 >= 0) & (i2 >= 0)
    f1, f2 = np.sqrt(i1[both]), np.sqrt(i2[both])
    return ratio(np.abs(f1 - f2).sum(), f1.sum())


def r2(i1: Values, i2: Values) -> float:
    """R2 = √(Σ(I1 − I2)² / ΣI1²), a fraction."""
    return float(np.sqrt(ratio(((i1 - i2) ** 2).sum(), (i1**2).sum())))


def crd_ano(difference1: Values, difference2: Values) -> float:
    """Spread of Bijvoet differences of the halves along the diagonal over that across it; 1 without a signal."""
    if len(difference1) < 3:
        return float("nan")
    along, across = difference1 + difference2, difference1 - difference2
    return float(np.sqrt(ratio((along**2).sum(), (across**2).sum())))


def r_ano(plus: Values, minus: Values) -> float:
    """Rano = Σ|I⁺ − I⁻| / ½Σ(I⁺ + I⁻), a fraction; NaN for fewer than three pairs."""
    if len(plus) < 3:
        return float("nan")
    return ratio(2 * np.abs(plus - minus).sum(), (plus + minus).sum())


def merging_factors(intensity: Values, count: NDArray[np.integer], deviation: Values) -> tuple[float, float, float]:
    """Rmerge, Rmeas and Rpim, fractions (Diederichs & Karplus 1997; Weiss 2001).

    `deviation` is the mean of |Iᵢ − I| of each reflection over its `count` observations. With n of them, Rmeas is
    Σ √(n / (n − 1)) Σᵢ |Iᵢ − I| / Σ n I, Rpim has √(1 / (n − 1)) instead, and Rmerge 1. Reflections that were observed
    once do not count.
    """
    known = (count > 1) & np.isfinite(deviation)
    n, intensity, sums = count[known], intensity[known], count[known] * deviation[known]
    total = float((n * intensity).sum())
    r_merge, r_meas, r_pim = (ratio((f * sums).sum(), total) for f in (1.0, np.sqrt(n / (n - 1)), np.sqrt(1 / (n - 1))))
    return r_merge, r_meas, r_pim


def factors_onto(i1: Values, i2: Values, resolution: Values) -> Values:
    """What puts `i2` on the scale of `i1`, (n,): k exp(B s²) by a straight line through ln(I1 / I2) against s².

    `resolution` is 1/d in 1/Å, s = 1/2d. Pairs of positive intensities count; with fewer than three of them, or all at
    the same resolution, the factors are 1.
    """
    s2 = resolution**2 / 4
    positive = (i1 > 0) & (i2 > 0)
    if np.count_nonzero(positive) < 3 or np.ptp(s2[positive]) == 0:
        return np.ones(len(i1))
    slope, offset = np.polyfit(s2[positive], np.log(i1[positive] / i2[positive]), 1)
    return np.asarray(np.exp(offset + slope * s2))


def ratio(above: float, below: float) -> float:
    """A quotient; NaN where the divisor is 0."""
    return float(above / below) if below else float("nan")
