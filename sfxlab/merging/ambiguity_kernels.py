"""Kernels of resolving the indexing ambiguity; what they compute is described in `sfxlab.merging.ambiguity`.

Arrays that all of them take: `offsets` (n_crystals + 1,) of the observations of each crystal; `index` (n,), the row in
`rows` of each observation; `rows` (n_measured, n_operators), the unique reflection that a measured hkl is with each
operator; `level` (n,) and `sigma` (n,), intensities and their errors in units of what is expected of that crystal at
that resolution; `active` (n_crystals,), which crystals take part; `probability` (n_crystals, n_operators).
"""

from __future__ import annotations

import numba
import numpy as np

PRIOR_WEIGHT = 1.5
"""What is known of an unobserved reflection, in observations: its intensity is about the mean at that resolution."""
LEAST_LEVEL = 0.05
"""A reflection is not believed to be weaker than this share of the mean: its error would seem too small."""
FREEDOM = 4.0
"""Degrees of freedom ν of Student's t: observations that are far off, as of hot pixels, decide little."""


@numba.njit(cache=True, nogil=True)
def fit_levels(  # type: ignore[no-untyped-def]
    offsets, s2, shell, intensity, sigma, mean, log_scale, b_factor, b_spread, level, noise, sums
):
    """Least squares of ln G and B of each crystal, in place, against the mean intensity by resolution.

    Σ (I − f m)² / (σ² + (f m)²) + (ln G)² + (B / b)² with f = G exp(−B s²), three Gauss-Newton steps. `s2`, `shell`,
    `intensity`, `sigma` (n,); `mean` (n_shells,). Writes `level` = I / f m and `noise` = σ / f m, (n,), and adds
    Σ w I / f m and Σ w with w = 1 / (1 + noise²) to `sums` (n_shells, 2).
    """
    for i in range(len(log_scale)):
        g, b = log_scale[i], b_factor[i]
        start, stop = offsets[i], offsets[i + 1]
        for _ in range(3):
            a00, a01, a11 = 1.0, 0.0, 1.0 / b_spread**2
            c0, c1 = -g, -b * a11
            for j in range(start, stop):
                model = np.exp(g - b * s2[j]) * mean[shell[j]]
                u = model / (sigma[j] ** 2 + model * model)
                # An observation far above all others is no reason to think the crystal strong.
                residual = u * min(intensity[j] - model, 5.0 * model + 3.0 * sigma[j])
                u *= model
                a00 += u
                a01 -= u * s2[j]
                a11 += u * s2[j] * s2[j]
                c0 += residual
                c1 -= residual * s2[j]
            determinant = a00 * a11 - a01 * a01
            g += min(max((a11 * c0 - a01 * c1) / determinant, -1.0), 1.0)
            b += min(max((a00 * c1 - a01 * c0) / determinant, -50.0), 50.0)
        g = min(max(g, -15.0), 15.0)
        b = min(max(b, -300.0), 300.0)
        log_scale[i], b_factor[i] = g, b
        for j in range(start, stop):
            model = np.exp(g - b * s2[j]) * mean[shell[j]]
            level[j] = intensity[j] / model
            noise[j] = sigma[j] / model
            w = 1.0 / (1.0 + noise[j] * noise[j])
            sums[shell[j], 0] += w * min(level[j], 10.0 + 3.0 * noise[j])
            sums[shell[j], 1] += w


@numba.njit(cache=True, nogil=True)
def correlate(offsets, index, rows, signal, active, vectors, sums):  # type: ignore[no-untyped-def]
    """Multiply with the matrix of all pairwise correlations, but for the blocks of a crystal with itself.

    The matrix has a row and a column for each crystal i with each operator k; an entry is Σ x x' over the reflections
    that both have observed, x being `signal` (n,). It is never formed: `vectors` (n_crystals, n_operators, d) are
    summed into reflections, `sums` (n_reflections, d), and taken back. Returns an array like `vectors`.
    """
    n_operators, depth = rows.shape[1], vectors.shape[2]
    sums[:] = 0.0
    for i in range(len(active)):
        if active[i]:
            for j in range(offsets[i], offsets[i + 1]):
                for k in range(n_operators):
                    for d in range(depth):
                        sums[rows[index[j], k], d] += signal[j] * vectors[i, k, d]
    out = np.zeros_like(vectors)
    own = np.zeros_like(sums)
    for i in range(len(active)):
        if not active[i]:
            continue
        for j in range(offsets[i], offsets[i + 1]):
            for k in range(n_operators):
                for d in range(depth):
                    own[rows[index[j], k], d] += signal[j] * vectors[i, k, d]
        for j in range(offsets[i], offsets[i + 1]):
            for k in range(n_operators):
                r = rows[index[j], k]
                for d in range(depth):
                    out[i, k, d] += signal[j] * (sums[r, d] - own[r, d])
        for j in range(offsets[i], offsets[i + 1]):
            for k in range(n_operators):
                own[rows[index[j], k]] = 0.0
    return out


@numba.njit(cache=True, nogil=True)
def sum_reference(offsets, index, rows, level, sigma, active, probability, scatter, sums):  # type: ignore[no-untyped-def]
    """Add Σ p w and Σ p w y to `sums` (n_reflections, 2), with w = 1 / (κ² + σ²), κ² = `scatter`, y = `level`."""
    for i in range(len(active)):
        if not active[i]:
            continue
        for j in range(offsets[i], offsets[i + 1]):
            w = 1.0 / (scatter + sigma[j] * sigma[j])
            for k in range(rows.shape[1]):
                pw = probability[i, k] * w
                if pw > 0.0:
                    sums[rows[index[j], k], 0] += pw
                    sums[rows[index[j], k], 1] += pw * level[j]


@numba.njit(cache=True, nogil=True, inline="always")
def _expected(weight, total, scatter):  # type: ignore[no-untyped-def]
    """Level of a reflection, and the variance that scatter gives an observation of it and its own uncertainty."""
    known = scatter * weight
    mean = max((PRIOR_WEIGHT + scatter * total) / (PRIOR_WEIGHT + known), LEAST_LEVEL)
    return mean, scatter * mean * mean * (1.0 + 1.0 / (PRIOR_WEIGHT + known))


@numba.njit(cache=True, nogil=True, inline="always")
def _log_likelihood(level, mean, variance):  # type: ignore[no-untyped-def]
    """−½ ln V − ½ (ν + 1) ln(1 + (y − m)² / ν V) with ν = 4, in one logarithm."""
    return -0.5 * np.log(variance * (1.0 + (level - mean) ** 2 / (FREEDOM * variance)) ** 5)


@numba.njit(cache=True, nogil=True)
def score_crystals(  # type: ignore[no-untyped-def]
    offsets, index, rows, level, sigma, active, probability, scatter, sums, leave_out, scores, misfit
):
    """Log-likelihood of each crystal with each operator, `scores` (n_crystals, n_operators), given the others.

    −½ ln V − ½ (ν + 1) ln(1 + (y − m)² / ν V) summed over its observations, V = v + σ², where m and v are what
    `sums` (n_reflections, 2) says of a reflection; with `leave_out` what the crystal itself has put in is taken out.
    Adds to `misfit` (2,), over observations well above the noise and weighted by p, Σ (ν + 1) t / (ν + t) with
    t = (y − m)² / V, and Σ 1: the likelihood has its maximum in the size of V where both are equal.
    """
    n_operators = rows.shape[1]
    own = np.zeros((len(sums), 2))
    for i in range(len(active)):
        scores[i] = 0.0
        if not active[i]:
            continue
        start, stop = offsets[i], offsets[i + 1]
        if leave_out:
            sum_reference(
                offsets[i : i + 2], index, rows, level, sigma, active[i : i + 1], probability[i : i + 1], scatter, own
            )
        for j in range(start, stop):
            noise = sigma[j] * sigma[j]
            for k in range(n_operators):
                r = rows[index[j], k]
                weight, total = max(sums[r, 0] - own[r, 0], 0.0), sums[r, 1] - own[r, 1]
                m, v = _expected(weight, total, scatter)
                scores[i, k] += _log_likelihood(level[j], m, v + noise)
                if noise < v:
                    t = (level[j] - m) ** 2 / (v + noise)
                    misfit[0] += probability[i, k] * (FREEDOM + 1.0) * t / (FREEDOM + t)
                    misfit[1] += probability[i, k]
        if leave_out:
            for j in range(start, stop):
                for k in range(n_operators):
                    own[rows[index[j], k]] = 0.0


@numba.njit(cache=True, nogil=True)
def compare_operators(  # type: ignore[no-untyped-def]
    offsets, index, rows, level, sigma, active, probability, scatter, sums, leave_out, best, second, squares, twin,
    correlation,
):  # fmt: skip
    """How firmly each crystal is assigned.

    `squares` (n_crystals,): Σ (d − d̄)² of the differences d in log-likelihood between operators `best` and `second`
    (n_crystals,). `twin` (n_crystals,): log-likelihood of a twin that has both in equal parts, less that of `best`.
    `correlation` (n_crystals, n_operators): weighted correlation with what the others say.
    """
    n_operators = rows.shape[1]
    own = np.zeros((len(sums), 2))
    for i in range(len(active)):
        correlation[i] = 0.0
        squares[i] = twin[i] = 0.0
        start, stop = offsets[i], offsets[i + 1]
        if not active[i] or start == stop:
            continue
        if leave_out:
            sum_reference(
                offsets[i : i + 2], index, rows, level, sigma, active[i : i + 1], probability[i : i + 1], scatter, own
            )
        total_d, total_d2, sw, sy, syy = 0.0, 0.0, 0.0, 0.0, 0.0
        sx, sxx, sxy = np.zeros(n_operators), np.zeros(n_operators), np.zeros(n_operators)
        for j in range(start, stop):
            noise = sigma[j] * sigma[j]
            w = 1.0 / (1.0 + scatter + noise)
            y = min(level[j], 10.0)
            sw += w
            sy += w * y
            syy += w * y * y
            d, score, mean, spread = 0.0, 0.0, 0.0, 0.0
            for k in range(n_operators):
                r = rows[index[j], k]
                m, v = _expected(max(sums[r, 0] - own[r, 0], 0.0), sums[r, 1] - own[r, 1], scatter)
                sx[k] += w * m
                sxx[k] += w * m * m
                sxy[k] += w * m * y
                if k == best[i] or k == second[i]:
                    one = _log_likelihood(level[j], m, v + noise)
                    mean += 0.5 * m
                    spread += 0.5 * v / (m * m)
                    d += one if k == best[i] else -one
                    score += one if k == best[i] else 0.0
            twin[i] += _log_likelihood(level[j], mean, spread * mean * mean + noise) - score
            total_d += d
            total_d2 += d * d
        squares[i] = total_d2 - total_d * total_d / (stop - start)
        for k in range(n_operators):
            a, b = sxx[k] * sw - sx[k] * sx[k], syy * sw - sy * sy
            if a > 0.0 and b > 0.0:
                correlation[i, k] = (sxy[k] * sw - sx[k] * sy) / np.sqrt(a * b)
        if leave_out:
            for j in range(start, stop):
                for k in range(n_operators):
                    own[rows[index[j], k]] = 0.0
