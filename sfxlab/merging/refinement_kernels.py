"""Kernels that refine one crystal after the other; arrays are those of `sfxlab.merging.partiality_kernels`."""

from __future__ import annotations

import math

import numba
import numpy as np

from sfxlab.merging.partiality import profile
from sfxlab.merging.partiality_kernels import (
    B_FACTOR,
    DEGREES_OF_FREEDOM,
    LN_RADIUS,
    LN_SCALE,
    N_COMMON,
    ROTATION_X,
    ROTATION_Y,
    orient,
    others,
    times,
    variance_of,
)

MAX_TRIALS = 6
"""Most steps tried for a crystal in a cycle."""
NEGLIGIBLE = 1e-2
"""A step that is to lower the cost (in units of ln likelihood) by less is the last one."""


@numba.njit(cache=True, nogil=True)
def evaluate(  # type: ignore[no-untyped-def]
    node_model, start, stop, h, k, l, reflection, intensity, s2, rotation, wave, cell_basis, strains, parameters,  # noqa: E741
    spreads, m, inverse, normal, right, basis, row,
):  # fmt: skip
    """Cost of one crystal, and in place the normal matrix and the right-hand side of its Gauss-Newton step.

    The cost is ½ Σ (ν + 1) ln(1 + z²/ν), z² = (I − f p m)² `inverse`; `m` and `inverse` are of the crystal's own
    observations, with `inverse` 0 for those that do not count. The last two rows are of the two spreads.
    """
    n_parameters = len(parameters)
    n = n_parameters + 2
    normal[:] = 0.0
    right[:] = 0.0
    orient(rotation, cell_basis, strains, parameters, basis)
    turn, lattice = basis[0], basis[1]
    radius, cost = math.exp(parameters[LN_RADIUS]), 0.0
    for j in range(start, stop):
        u = inverse[j - start]
        if u == 0.0:
            continue
        s = s2[reflection[j]]
        cx, cy, cz = times(lattice, h[j], k[j], l[j])
        x, y, z = times(turn, cx, cy, cz)
        along = z + wave
        length = math.sqrt(x * x + y * y + along * along)
        square, fan = x * x + y * y + z * z, wave * (1.0 - along / length)
        p, by_error, by_radius, by_variance = profile(
            node_model, wave - length, radius, spreads[0] * fan * fan + spreads[1] * square
        )
        full = m[j - start] * math.exp(parameters[LN_SCALE] - parameters[B_FACTOR] * s)
        residual = intensity[j] - full * p
        scaled = residual * residual * u / DEGREES_OF_FREEDOM
        cost += 0.5 * (DEGREES_OF_FREEDOM + 1.0) * math.log1p(scaled)
        if p == 0.0:
            continue
        u *= (1.0 + 1.0 / DEGREES_OF_FREEDOM) / (1.0 + scaled)
        row[LN_SCALE], row[B_FACTOR] = full * p, -s * full * p
        # ∂ε = −Ŝ·∂q, and ∂q = u × q for a rotation about u.
        by_error *= -full / length
        row[ROTATION_X] = by_error * (along * y - z * y)
        row[ROTATION_Y] = by_error * (x * z - along * x)
        row[LN_RADIUS] = full * by_radius
        for i in range(len(strains)):
            sx, sy, sz = times(strains[i], cx, cy, cz)
            tx, ty, tz = times(turn, sx, sy, sz)
            row[N_COMMON + i] = -by_error * (x * tx + y * ty + along * tz)
        row[n_parameters] = full * by_variance * fan * fan
        row[n_parameters + 1] = full * by_variance * square
        for a in range(n):
            weighted = u * row[a]
            right[a] += weighted * residual
            for b in range(a + 1):
                normal[a, b] += weighted * row[b]
    for a in range(n):
        for b in range(a):
            normal[b, a] = normal[a, b]
    return cost


@numba.njit(cache=True, nogil=True)
def refine_crystals(  # type: ignore[no-untyped-def]
    node_model, offsets, h, k, l, reflection, intensity, sigma, s2, mean, expected, totals, half, active, accepted,  # noqa: E741
    outlier, share, slope, variances, rotation, wavenumber, cell_basis, strains, parameters, spreads, centre, precision,
    covariance, common,
):  # fmt: skip
    """Fit the parameters of each crystal to what the others say, in place, by at most `MAX_TRIALS` damped steps.

    `centre` (n_crystals, n_parameters) and `precision` (n_parameters,) are the prior, `covariance` (n_crystals,
    n_parameters) its posterior variances. `common` (2, 3) gathers the normal matrix and right-hand side of the two
    spreads with the parameters of the crystals eliminated (Schur complement).
    """
    n_parameters = parameters.shape[1]
    n = n_parameters + 2
    longest = np.max(offsets[1:] - offsets[:-1])
    m, inverse = np.empty(longest), np.empty(longest)
    normal, right, tried_normal, tried_right = np.empty((n, n)), np.empty(n), np.empty((n, n)), np.empty(n)
    basis, row = np.empty((2, 3, 3)), np.empty(n)
    for i in range(len(parameters)):
        if not active[i]:
            continue
        start, stop = offsets[i], offsets[i + 1]
        for j in range(start, stop):
            r = reflection[j]
            used = accepted[i] and not outlier[j]
            m[j - start], v = others(
                mean[r],
                expected[half[i], r],
                totals[half[i], r],
                share[j],
                slope[j],
                intensity[j],
                sigma[j],
                variances,
                used,
            )
            variance = variance_of(variances, sigma[j], share[j], slope[j], m[j - start]) + v * share[j] ** 2
            inverse[j - start] = 0.0 if outlier[j] else 1.0 / variance
        best = parameters[i].copy()
        cost = np.inf
        damping, trial = 1e-3, best.copy()
        for _ in range(MAX_TRIALS):
            tried = evaluate(
                node_model, start, stop, h, k, l, reflection, intensity, s2, rotation[i], wavenumber[i], cell_basis,
                strains, trial, spreads, m, inverse, tried_normal, tried_right, basis, row,
            )  # fmt: skip
            for a in range(n_parameters):
                off = trial[a] - centre[i, a]
                tried += 0.5 * precision[a] * off * off
                tried_normal[a, a] += precision[a]
                tried_right[a] -= precision[a] * off
            if tried < cost:
                best[:], normal[:], right[:] = trial, tried_normal, tried_right
                cost, damping = tried, damping * 0.1
            else:
                damping = max(10.0 * damping, 1e-2)
            system = normal[:n_parameters, :n_parameters].copy()
            for a in range(n_parameters):
                system[a, a] *= 1.0 + damping
            step = np.linalg.solve(system, right[:n_parameters])
            trial = best + step
            if 0.5 * np.sum(step * right[:n_parameters]) < NEGLIGIBLE:
                break
        parameters[i] = best
        own = np.linalg.inv(normal[:n_parameters, :n_parameters])
        for a in range(n_parameters):
            covariance[i, a] = own[a, a]
        if not accepted[i]:
            continue
        mixed = normal[:n_parameters, n_parameters:].copy()
        eliminated = own @ mixed
        common[:, :2] += normal[n_parameters:, n_parameters:] - mixed.T @ eliminated
        common[:, 2] += right[n_parameters:] - eliminated.T @ right[:n_parameters]
