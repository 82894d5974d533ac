"""Kernels of scaling; what they compute is described in `sfxlab.merging.scaling`."""

from __future__ import annotations

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
def sum_reflections(  # type: ignore[no-untyped-def]
    offsets, reflection, intensity, sigma, s2, mean, expected, totals, scale, b_factor, scatter, accepted, outlier
):
    """Add Σ w, Σ w y and Σ w² (σ/f)² to the `totals` of each reflection.

    y = I / f and w = 1 / (κ² m² + (σ/f)²) with m = `expected`, over the observations of accepted crystals that are no
    outliers. `offsets` (n_crystals + 1,); `reflection`, `intensity`, `sigma`, `outlier` (n,); `s2`, `expected`
    (n_reflections,), `totals` (n_reflections, 3); the rest (n_crystals,).
    """
    for i in range(len(scale)):
        if not accepted[i]:
            continue
        for j in range(offsets[i], offsets[i + 1]):
            if outlier[j]:
                continue
            r = reflection[j]
            f = scale[i] * np.exp(-b_factor[i] * s2[r])
            noise = (sigma[j] / f) ** 2
            w = 1.0 / ((scatter[i] * expected[r]) ** 2 + noise)
            totals[r, 0] += w
            totals[r, 1] += w * intensity[j] / f
            totals[r, 2] += w * w * noise


@numba.njit(cache=True, nogil=True)
def _others(mean_at_resolution, expected, totals, w, y, noise):  # type: ignore[no-untyped-def]
    """Mean and variance of what is known of a reflection without the observation y.

    `totals` (3,) as of `sum_reflections`; w and `noise` = (σ / f)² are those of y, w = 0 where y is not in them.
    The others are combined with the mean at that resolution, of weight `PRIOR_WEIGHT` in units of relative variance
    (inverse gamma prior, gamma likelihood). The multiplicative part κ² m² of their variance was reckoned with
    m = `expected`, to which y belongs; it is put right here, so that a wild y does not make itself believed.
    """
    rest = totals[0] - w
    if rest <= 1e-6 * w or totals[0] == 0.0:
        return mean_at_resolution, mean_at_resolution**2 / PRIOR_WEIGHT
    raw = (totals[1] - w * y) / rest
    share = min(max((totals[2] - w * w * noise) / rest, 0.0), 1.0)
    information = rest * expected * expected
    level = (PRIOR_WEIGHT * mean_at_resolution + information * raw) / (PRIOR_WEIGHT + information)
    level = max(level, 0.05 * mean_at_resolution)
    rest /= share + (1.0 - share) * (level / expected) ** 2
    prior = PRIOR_WEIGHT / (share * max(level, mean_at_resolution) ** 2 + (1.0 - share) * level**2)
    mean = (prior * mean_at_resolution + rest * raw) / (prior + rest)
    return max(mean, 0.05 * mean_at_resolution), 1.0 / (prior + rest)


@numba.njit(cache=True, nogil=True)
def fit_crystals(  # type: ignore[no-untyped-def]
    offsets, reflection, intensity, sigma, s2, mean, expected, totals, scale, b_factor, scatter, accepted, outlier,
    b_spread, log_scale_spread,
):  # fmt: skip
    """Least squares of ln G and B, in place: Σ (I − f m)² / (σ² + f² (κ² m² + v)) + (ln G / a)² + (B / b)².

    m and v are what the other crystals say of a reflection and its variance; f = G exp(−B s²). At most five
    Gauss-Newton steps. Shapes as in `sum_reflections`.
    """
    longest = np.max(offsets[1:] - offsets[:-1])
    m, v = np.empty(longest), np.empty(longest)
    for i in range(len(scale)):
        g_before, b_before = scale[i], b_factor[i]
        start, stop = offsets[i], offsets[i + 1]
        for j in range(start, stop):
            r = reflection[j]
            f = g_before * np.exp(-b_before * s2[r])
            noise = (sigma[j] / f) ** 2
            w = 1.0 / ((scatter[i] * expected[r]) ** 2 + noise) if accepted[i] and not outlier[j] else 0.0
            m[j - start], v[j - start] = _others(mean[r], expected[r], totals[r], w, intensity[j] / f, noise)
        log_scale, b, k2 = np.log(g_before), b_before, scatter[i] ** 2
        for _ in range(5):
            a00, a01, a11 = 1.0 / log_scale_spread**2, 0.0, 1.0 / b_spread**2
            c0, c1 = -log_scale * a00, -b * a11
            for j in range(start, stop):
                if outlier[j]:
                    continue
                s = s2[reflection[j]]
                f = np.exp(log_scale - b * s)
                model = f * m[j - start]
                u = 1.0 / (sigma[j] ** 2 + k2 * model * model + f * f * v[j - start])
                residual = u * model * (intensity[j] - model)
                a00 += u * model * model
                a01 -= u * model * model * s
                a11 += u * model * model * s * s
                c0 += residual
                c1 -= residual * s
            determinant = a00 * a11 - a01 * a01
            step = min(max((a11 * c0 - a01 * c1) / determinant, -1.0), 1.0)
            b_step = min(max((a00 * c1 - a01 * c0) / determinant, -50.0), 50.0)
            log_scale += step
            b += b_step
            if abs(step) < 1e-4 and abs(b_step) < 1e-2:
                break
        log_scale = STEP * log_scale + (1.0 - STEP) * np.log(g_before)
        b = STEP * b + (1.0 - STEP) * b_before
        scale[i] = np.exp(min(max(log_scale, -15.0), 15.0))
        b_factor[i] = min(max(b, -300.0), 300.0)


@numba.njit(cache=True, nogil=True)
def assess(  # type: ignore[no-untyped-def]
    offsets, reflection, intensity, sigma, s2, mean, expected, totals, scale, b_factor, scatter, accepted, outlier,
    limit, squares, counts, correlation, effective,
):  # fmt: skip
    """Mark outliers, and measure the scatter and the correlation of each crystal, in place.

    An outlier has |y − m| > limit · √((σ/f)² + κ² (m² + v) + v). `squares` / `counts` is the mean of
    ((y − m)² − (σ/f)² − v) / m² over observations of reflections that are well above the noise; `correlation` is that
    of y and m, both divided by the mean at that resolution and weighted by their variance, over `effective` many.
    """
    for i in range(len(scale)):
        sw, sww, sx, sy, sxx, syy, sxy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        k2 = scatter[i] ** 2
        for j in range(offsets[i], offsets[i + 1]):
            r = reflection[j]
            f = scale[i] * np.exp(-b_factor[i] * s2[r])
            y, noise = intensity[j] / f, (sigma[j] / f) ** 2
            w = 1.0 / (k2 * expected[r] ** 2 + noise) if accepted[i] and not outlier[j] else 0.0
            m, v = _others(mean[r], expected[r], totals[r], w, y, noise)
            allowed = limit * RETURN if outlier[j] else limit
            outlier[j] = (y - m) ** 2 > allowed * allowed * (noise + k2 * (m * m + v) + v)
            if outlier[j]:
                continue
            if noise < (0.5 * m) ** 2 and v < (0.5 * m) ** 2:
                squares[i] += ((y - m) ** 2 - noise - v) / (m * m)
                counts[i] += 1.0
            t = mean[r] * mean[r]
            c = t / (t * (1.0 + k2) + noise)
            x, z = m / mean[r], y / mean[r]
            sw += c
            sww += c * c
            sx += c * x
            sy += c * z
            sxx += c * x * x
            syy += c * z * z
            sxy += c * x * z
        if sw > 0.0:
            effective[i] = sw * sw / sww
            a, b = sxx * sw - sx * sx, syy * sw - sy * sy
            correlation[i] = (sxy * sw - sx * sy) / np.sqrt(a * b) if a > 0.0 and b > 0.0 else 0.0
