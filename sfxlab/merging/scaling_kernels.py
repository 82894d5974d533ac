"""Kernels of scaling; what they compute is described in `sfxlab.merging.scaling`.

Arrays that the kernels share: `offsets` (n_crystals + 1,); `reflection`, `outlier`, `y` = I / f and `noise` = (σ / f)²
(n,), with f = G exp(−B s²); `s2`, `mean` and `expected` (n_reflections,), and `totals` (2, n_reflections, 3) of both
half data sets; `half`, `scale`, `b_factor`, `scatter` and `accepted` (n_crystals,).
"""

from __future__ import annotations

import math

import numba
import numpy as np

PRIOR_WEIGHT = 2.0
"""Weight of the mean intensity of a resolution shell against observations whose relative variance is one.

With 2, an intensity known beforehand has a relative standard deviation of one, as Wilson's distribution has.
"""

RETURN = 0.7
"""What was left out comes back only when it is within this share of the limit, lest it go in and out for ever."""

STEP = 0.7
"""Share of the least-squares step that is taken.

Crystals that have mostly each other to go by would overshoot in turns with the whole.
"""

SMALL_STEP, SMALL_B_STEP = 1e-3, 0.1
"""Steps of ln G and B (Å²) that are the last ones of a cycle."""


@numba.njit(cache=True, nogil=True)
def typical_sigma(offsets, resolution, sigma, out, neighbours):  # type: ignore[no-untyped-def]
    """`out`: the median sigma of the crystal's observations at about the same resolution, (n,).

    The sigma of one observation goes up and down with its own intensity, and weighting with it would favour the low
    ones; a hot pixel even brings a sigma that excuses it. Groups of at least `neighbours` observations.
    """
    for i in range(len(offsets) - 1):
        start, stop = offsets[i], offsets[i + 1]
        order = np.argsort(resolution[start:stop])
        groups = max((stop - start) // neighbours, 1)
        for g in range(groups):
            members = order[(stop - start) * g // groups : (stop - start) * (g + 1) // groups] + start
            if len(members):
                out[members] = np.median(sigma[members])


@numba.njit(cache=True, nogil=True)
def divide(offsets, reflection, intensity, sigma, s2, scale, b_factor, y, noise):  # type: ignore[no-untyped-def]
    """`y` and `noise` of each observation from `intensity` and `sigma`, (n,)."""
    for i in range(len(scale)):
        for j in range(offsets[i], offsets[i + 1]):
            inverse = math.exp(b_factor[i] * s2[reflection[j]]) / scale[i]
            y[j] = intensity[j] * inverse
            noise[j] = (sigma[j] * inverse) ** 2


@numba.njit(cache=True, nogil=True)
def sum_reflections(  # type: ignore[no-untyped-def]
    offsets, reflection, y, noise, expected, totals, half, scatter, accepted, outlier
):
    """Add Σ w, Σ w y and Σ w² (σ/f)² to the `totals` of each reflection in the crystal's half.

    w = 1 / (κ² m² + (σ/f)²) with m = `expected`, over the observations of accepted crystals that are no outliers.
    """
    for i in range(len(scatter)):
        if not accepted[i]:
            continue
        k2, sums = scatter[i] ** 2, totals[half[i]]
        for j in range(offsets[i], offsets[i + 1]):
            if outlier[j]:
                continue
            r = reflection[j]
            w = 1.0 / (k2 * expected[r] * expected[r] + noise[j])
            sums[r, 0] += w
            sums[r, 1] += w * y[j]
            sums[r, 2] += w * w * noise[j]


@numba.njit(cache=True, nogil=True)
def weigh(  # type: ignore[no-untyped-def]
    offsets, reflection, sigma, s2, expected, scale, b_factor, scatter, accepted, outlier, factor, weight
):
    """`factor` f of each observation, and `weight` 1 / (κ² m² + (σ/f)²) or 0 where it does not count, (n,)."""
    for i in range(len(scale)):
        k2 = scatter[i] ** 2
        for j in range(offsets[i], offsets[i + 1]):
            r = reflection[j]
            factor[j] = scale[i] * math.exp(-b_factor[i] * s2[r])
            noise = sigma[j] / factor[j]
            used = accepted[i] and not outlier[j]
            weight[j] = 1.0 / (k2 * expected[r] * expected[r] + noise * noise) if used else 0.0


@numba.njit(cache=True, nogil=True, inline="always")
def without(mean_at_resolution, expected, total, first, of_noise, w, wy, wn):  # type: ignore[no-untyped-def]
    """Mean and variance of what is known of a reflection without one observation.

    `total`, `first` and `of_noise` are the reflection's sums of `sum_reflections`; w, wy and wn what the observation
    has in them, 0 where it is not in them. The others are combined with the mean at that resolution, of weight
    `PRIOR_WEIGHT` in units of relative variance (inverse gamma prior, gamma likelihood). The multiplicative part κ² m²
    of their variance was reckoned with m = `expected`, to which the observation belongs; it is put right here, so that
    a wild one does not make itself believed.
    """
    rest = total - w
    if rest <= 1e-6 * w or total == 0.0:
        return mean_at_resolution, mean_at_resolution**2 / PRIOR_WEIGHT
    share = min(max((of_noise - wn) / rest, 0.0), 1.0)
    square, others = expected * expected, first - wy
    level = (PRIOR_WEIGHT * mean_at_resolution + square * others) / (PRIOR_WEIGHT + square * rest)
    level = max(level, 0.05 * mean_at_resolution)
    multiplied = (1.0 - share) * level * level
    # Relative to m² the variance of one other is a / `square`; that of the mean at the resolution b / `PRIOR_WEIGHT`.
    a, b = share * square + multiplied, share * max(level, mean_at_resolution) ** 2 + multiplied
    inverse = 1.0 / (PRIOR_WEIGHT * a + square * rest * b)
    mean = (PRIOR_WEIGHT * mean_at_resolution * a + square * others * b) * inverse
    return max(mean, 0.05 * mean_at_resolution), a * b * inverse


@numba.njit(cache=True, nogil=True)
def fit_crystals(  # type: ignore[no-untyped-def]
    offsets, reflection, y, noise, s2, mean, expected, totals, half, scale, b_factor, scatter, accepted, outlier,
    b_spread, log_scale_spread, variance_of_log_scale,
):  # fmt: skip
    """Least squares of ln G and B, in place: Σ (I − f m)² / (σ² + f² (κ² m² + v)) + (ln G / a)² + (B / b)².

    m and v are what the other crystals of the same half say of a reflection and its variance. At most five
    Gauss-Newton steps. `y` and `noise` are those of the scales before; `variance_of_log_scale` (n_crystals,) is found.
    """
    longest = np.max(offsets[1:] - offsets[:-1])
    m, d, s = np.empty(longest), np.empty(longest), np.empty(longest)
    for i in range(len(scale)):
        start, n = offsets[i], offsets[i + 1] - offsets[i]
        k2, sums = scatter[i] ** 2, totals[half[i]]
        for j in range(n):
            r, value, variance = reflection[start + j], y[start + j], noise[start + j]
            w = 1.0 / (k2 * expected[r] * expected[r] + variance) if accepted[i] and not outlier[start + j] else 0.0
            m[j], v = without(mean[r], expected[r], sums[r, 0], sums[r, 1], sums[r, 2], w, w * value, w * w * variance)
            d[j], s[j] = k2 * m[j] * m[j] + v, s2[r]
        log_before, log_change, b_change = math.log(scale[i]), 0.0, 0.0
        for _ in range(5):
            a00, a01, a11 = 1.0 / log_scale_spread**2, 0.0, 1.0 / b_spread**2
            c0, c1 = -(log_before + log_change) * a00, -(b_factor[i] + b_change) * a11
            for j in range(n):
                if outlier[start + j]:
                    continue
                inverse = math.exp(b_change * s[j] - log_change)
                u = m[j] / (noise[start + j] * inverse * inverse + d[j])
                residual = u * (y[start + j] * inverse - m[j])
                u *= m[j]
                a00 += u
                a01 -= u * s[j]
                a11 += u * s[j] * s[j]
                c0 += residual
                c1 -= residual * s[j]
            determinant = a00 * a11 - a01 * a01
            variance_of_log_scale[i] = a11 / determinant
            step = min(max((a11 * c0 - a01 * c1) / determinant, -1.0), 1.0)
            b_step = min(max((a00 * c1 - a01 * c0) / determinant, -50.0), 50.0)
            log_change += step
            b_change += b_step
            if abs(step) < SMALL_STEP and abs(b_step) < SMALL_B_STEP:
                break
        scale[i] = math.exp(min(max(log_before + STEP * log_change, -15.0), 15.0))
        b_factor[i] = min(max(b_factor[i] + STEP * b_change, -300.0), 300.0)


@numba.njit(cache=True, nogil=True)
def assess(  # type: ignore[no-untyped-def]
    offsets, reflection, y, noise, s2, mean, expected, totals, half, scale, b_factor, scatter, accepted, outlier,
    limit, below_zero, squares, counts, correlation, effective,
):  # fmt: skip
    """Mark outliers, and measure the scatter and the correlation of each crystal, in place.

    An outlier has |y − m| > limit · √((σ/f)² + κ² (m² + v) + v) or y < −`below_zero` σ/f, because whatever share of a
    reflection is observed, it is not negative. `squares` / `counts` is the mean of ((y − m)² − (σ/f)² − v) / m² over
    observations of reflections that are well above the noise; `correlation` is that of y and m, both divided by the
    mean at that resolution and weighted by their variance, over `effective` many.
    """
    for i in range(len(scale)):
        sw, sww, sx, sy, sxx, syy, sxy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        k2, sums = scatter[i] ** 2, totals[half[i]]
        for j in range(offsets[i], offsets[i + 1]):
            r, value, variance = reflection[j], y[j], noise[j]
            w = 1.0 / (k2 * expected[r] * expected[r] + variance) if accepted[i] and not outlier[j] else 0.0
            m, v = without(mean[r], expected[r], sums[r, 0], sums[r, 1], sums[r, 2], w, w * value, w * w * variance)
            back = RETURN if outlier[j] else 1.0
            square, negative = (value - m) ** 2, min(value, 0.0)
            outlier[j] = (
                square > (limit * back) ** 2 * (variance + k2 * (m * m + v) + v)
                or negative * negative > (below_zero * back) ** 2 * variance
            )
            if outlier[j]:
                continue
            if variance < 0.25 * m * m and v < 0.25 * m * m:
                squares[i] += (square - variance - v) / (m * m)
                counts[i] += 1.0
            t = mean[r]
            c = 1.0 / (t * t * (1.0 + k2) + variance)
            sw += c * t * t
            sww += (c * t * t) ** 2
            sx += c * t * m
            sy += c * t * value
            sxx += c * m * m
            syy += c * value * value
            sxy += c * m * value
        if sw > 0.0:
            effective[i] = sw * sw / sww
            a, b = sxx * sw - sx * sx, syy * sw - sy * sy
            correlation[i] = (sxy * sw - sx * sy) / np.sqrt(a * b) if a > 0.0 and b > 0.0 else 0.0
