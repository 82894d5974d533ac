"""How large the nodes of a crystal's reciprocal lattice are, from excitation errors and intensities of its peaks.

METHODS.md section 5.3. A node R(q) = R₀ + η|q| large, ε off the Ewald sphere, gives J exp(−ε²/2Σ²), Σ² = R² + σ_p² and
σ_p = (1 − Ŝ_z)σ_k what the spectrum adds. Of nodes at all ε alike, those are seen as peaks that give more than some t:
the stronger a crystal, the further off the sphere they are, so that the spread of ε alone says little of R. With J
exponential about Ī(q) = I₀ exp(−B q²) (Wilson 1949, Acta Cryst. 2, 318), peaks have the density

    exp(−I e^{x²/2} / Ī) e^{x²/2} / (Ī Σ ζ(t/Ī)),   x = ε/Σ,   ζ(τ) = ∫ exp(−τ e^{x²/2}) dx,

with a share of outliers at any ε. R, I₀ and B are those of the largest likelihood.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

MIN_RADIUS = 2e-5
"""1/Å."""
GROWTHS = np.array([0.0, 0.25, 0.5, 0.75])
"""Shares of the radius at the mean resolution that grow with |q|."""
ENOUGH = 2.0
"""Gain in log-likelihood from which on the data support growth: two standard deviations."""
LEAST_PEAKS, LEAST_FOR_GROWTH, MOST_PEAKS = 10, 40, 150
"""Below the first number intensities are not used; the brightest peaks suffice."""
LEAST_EXCESS = 0.05
"""Intensities that exceed the least of them by less than this on the mean are no intensities."""
LEAST_OF_WIDTH, MOST_OF_WIDTH = 0.4, 4.0
"""The radius is within so many widths of the excitation errors, whatever intensities say: strong crystals have 0.5."""
OUTLIERS = 0.03
WEAKEST = 0.05
"""Share of the peaks, the weakest ones, that are left out: the threshold is not equally sharp everywhere."""
CYCLES = 30
STEPS = np.array([0.02, 0.02, 0.02])
"""Of ln R, ln I₀ and B times the largest q², for differences of the likelihood."""

_LOG_TAU, _SPACING = -14.0, 0.1


def _table() -> NDArray[np.float64]:
    """ln ζ(τ) + τ for ln τ from −14 to 6."""
    values = []
    for log_tau in np.arange(_LOG_TAU, 6.05, _SPACING):
        tau = math.exp(log_tau)
        x = np.linspace(0, math.sqrt(2 * math.log1p(50 / tau)), 2001)
        values.append(math.log(2 * np.trapezoid(np.exp(-tau * np.expm1(x * x / 2)), x)))
    return np.array(values)


_LOG_ZETA = _table()


@njit(cache=True, nogil=True, error_model="numpy")
def node_profile(
    excitation: NDArray[np.float64],
    intensity: NDArray[np.float64],
    resolution: NDArray[np.float64],
    spread: NDArray[np.float64],
) -> tuple[float, float]:
    """R₀, 1/Å, and η from excitation errors (n,), 1/Å, and intensities (n,), any unit, of peaks at |q| (n,), 1/Å.

    `spread` (n,) is σ_p, 1/Å. η is 0 unless the peaks support growth with |q|. Where the intensities tell nothing, R₀
    is the width of the excitation errors.
    """
    plain = width(excitation)
    positive = intensity[intensity > 0.0]
    if len(positive) < LEAST_PEAKS:
        return plain, 0.0
    ordered = np.sort(positive)
    least = ordered[max(int(WEAKEST * len(ordered)), len(ordered) - MOST_PEAKS)]
    used = intensity >= least
    error, strength, q = excitation[used], intensity[used] / least, resolution[used]
    if float(np.mean(strength)) < 1.0 + LEAST_EXCESS:
        return plain, 0.0
    mean, furthest = max(float(np.mean(q)), 1e-12), max(float(np.max(q)), 1e-12)
    square, excess = (q / furthest) ** 2, float(np.mean(strength)) - 1.0
    outlier = np.exp(-(strength - 1.0) / excess) / (2.0 * max(float(np.abs(error).max()), MIN_RADIUS) * excess)
    strength = np.log(strength)
    start = np.array([math.log(plain), math.log(1.0 + excess), 0.0])
    best, best_growth, best_gain, before = start, 0.0, -np.inf, -np.inf
    for growth in GROWTHS:
        if growth > 0.0 and len(q) < LEAST_FOR_GROWTH:
            break
        shape = 1.0 - growth + growth * q / mean
        found, gain = _most_likely(start, error, strength, square, shape, spread[used], outlier)
        start = found
        if gain > best_gain + (ENOUGH if best_growth == 0.0 and growth > 0.0 else 0.0):
            best, best_growth, best_gain = found, growth, gain
        if gain < before:
            break
        before = gain
    radius = min(max(math.exp(best[0]), LEAST_OF_WIDTH * plain, MIN_RADIUS), MOST_OF_WIDTH * plain)
    return radius * (1.0 - best_growth), radius * best_growth / mean


@njit(cache=True, nogil=True, error_model="numpy")
def width(excitation: NDArray[np.float64]) -> float:
    """Standard deviation of normal errors (n,) among outliers that are spread evenly, as far as the errors go.

    By expectation maximisation (Dempster, Laird & Rubin 1977).
    """
    n = len(excitation)
    furthest = max(float(np.abs(excitation).max()), MIN_RADIUS)
    square, outliers = max(1.4826 * float(np.median(np.abs(excitation))), MIN_RADIUS) ** 2, 0.05
    least = 0.5 * square  # Few peaks must not shrink it to nothing.
    for _ in range(CYCLES):
        total, weights = 0.0, 0.0
        for i in range(n):
            normal = (1.0 - outliers) * math.exp(-0.5 * excitation[i] ** 2 / square) / math.sqrt(math.pi * square / 2.0)
            weight = normal / (normal + outliers / furthest)
            total += weight * excitation[i] ** 2
            weights += weight
        square, before = max(total / max(weights, 1e-12), least), square
        outliers = min(max(1.0 - weights / n, 1e-4), 0.5)
        if abs(square - before) < 1e-4 * square:
            break
    return math.sqrt(square)


@njit(cache=True, nogil=True, error_model="numpy")
def log_likelihood(
    parameters: NDArray[np.float64],
    error: NDArray[np.float64],
    strength: NDArray[np.float64],
    square: NDArray[np.float64],
    shape: NDArray[np.float64],
    spread: NDArray[np.float64],
    outlier: NDArray[np.float64],
) -> float:
    """Of ln R, ln I₀ and B, with t as the unit of intensity.

    Arrays (n,): errors, logarithms of intensities, q², R(q)/R, σ_p, and the density that the peak has as an outlier.
    """
    variance, total = math.exp(2.0 * parameters[0]), 0.0
    for i in range(len(error)):
        sigma = math.sqrt(variance * shape[i] ** 2 + spread[i] ** 2)
        half = 0.5 * (error[i] / sigma) ** 2
        log_mean = parameters[1] - parameters[2] * square[i]
        place = min(max((-log_mean - _LOG_TAU) / _SPACING, 0.0), len(_LOG_ZETA) - 1.001)
        cell = int(place)
        log_zeta = _LOG_ZETA[cell] + (place - cell) * (_LOG_ZETA[cell + 1] - _LOG_ZETA[cell])
        exponent = half - log_mean - math.log(sigma) - log_zeta + math.exp(-log_mean)
        exponent -= math.exp(min(half + strength[i] - log_mean, 600.0))
        total += math.log((1.0 - OUTLIERS) * math.exp(exponent) + OUTLIERS * outlier[i] + 1e-300)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _most_likely(
    start: NDArray[np.float64],
    error: NDArray[np.float64],
    strength: NDArray[np.float64],
    square: NDArray[np.float64],
    shape: NDArray[np.float64],
    spread: NDArray[np.float64],
    outlier: NDArray[np.float64],
) -> tuple[NDArray[np.float64], float]:
    """Parameters of the largest likelihood, by damped Newton steps on differences, and its logarithm."""
    at, damping = start.copy(), 1e-2
    value = log_likelihood(at, error, strength, square, shape, spread, outlier)
    for _ in range(CYCLES):
        slope, curvature = np.zeros(3), np.zeros((3, 3))
        ahead, back = np.zeros(3), np.zeros(3)
        for a in range(3):
            move = np.zeros(3)
            move[a] = STEPS[a]
            ahead[a] = log_likelihood(at + move, error, strength, square, shape, spread, outlier)
            back[a] = log_likelihood(at - move, error, strength, square, shape, spread, outlier)
            slope[a] = (ahead[a] - back[a]) / (2.0 * STEPS[a])
            curvature[a, a] = (2.0 * value - ahead[a] - back[a]) / STEPS[a] ** 2
        for a in range(3):
            for b in range(a):
                move = np.zeros(3)
                move[a], move[b] = STEPS[a], STEPS[b]
                both = log_likelihood(at + move, error, strength, square, shape, spread, outlier)
                curvature[a, b] = curvature[b, a] = -(both - ahead[a] - ahead[b] + value) / (STEPS[a] * STEPS[b])
        gain = -1.0
        while damping < 1e6:
            damped = curvature.copy()
            for a in range(3):
                damped[a, a] += damping * (abs(curvature[a, a]) + 1.0)
            step = np.minimum(np.maximum(np.linalg.solve(damped, slope), -0.5), 0.5)
            gain = log_likelihood(at + step, error, strength, square, shape, spread, outlier) - value
            if gain >= 0.0:
                break
            damping *= 10.0
        if gain < 0.0:
            break
        at, value, damping = at + step, value + gain, max(0.1 * damping, 1e-4)
        if gain < 1e-3:
            break
    return at, value
