"""Kernels of merging with partialities; what they compute is described in `sfxlab.merging.post_refinement`.

Arrays that the kernels share: `offsets` (n_crystals + 1,); `h`, `k`, `l` (indices as measured), `reflection`,
`intensity`, `sigma` and `outlier` (n,); `s2` (|q|²/4) and `mean` (n_reflections,), and of both half data sets
`expected` (2, n_reflections) and `totals` (2, n_reflections, 3).

Of crystals: `half` and `wavenumber` (n_crystals,), `rotation` (n_crystals, 3, 3) and `parameters` (n_crystals,
5 + n_strains): ln G, B, rotations about x and y (radians), ln R, and the amplitudes of `strains` (n_strains, 3, 3) of
the cell with the reciprocal basis `cell_basis`, by which real axes are longer. Crystals that are not `active` are
passed over; those not `accepted` do not count for others.

`variances`: a², κ², α² of the variance a²σ² + (f m)² (κ² p² + α² q² p'²), p' = ∂p/∂ε; `spreads`: the variances of the
relative bandwidth and of ε/|q|.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from sfxlab.merging.partiality import profile
from sfxlab.merging.scaling_kernels import RETURN, without

N_COMMON = 5
"""Parameters of a crystal before its strains: ln G, B, two rotations, ln R."""
DEGREES_OF_FREEDOM = 6.0
"""Of Student's t distribution, by which residuals are judged: Gaussian in the middle, forgiving further out."""

LEAST = 1e-9
"""p where the model says 0, so that dividing by it is possible; such observations weigh next to nothing."""

LN_SCALE, B_FACTOR, ROTATION_X, ROTATION_Y, LN_RADIUS = range(N_COMMON)


@numba.njit(cache=True, nogil=True)
def orient(rotation, cell_basis, strains, parameters, out):  # type: ignore[no-untyped-def]
    """`out` (2, 3, 3): the rotation of a crystal, and its reciprocal basis before it is rotated."""
    x, y = parameters[ROTATION_X], parameters[ROTATION_Y]
    angle = math.sqrt(x * x + y * y)
    turn = np.eye(3)
    if angle > 0.0:
        x, y, c, s = x / angle, y / angle, math.cos(angle), math.sin(angle)
        turn[0, 0], turn[0, 1], turn[0, 2] = c + x * x * (1 - c), x * y * (1 - c), y * s
        turn[1, 0], turn[1, 1], turn[1, 2] = x * y * (1 - c), c + y * y * (1 - c), -x * s
        turn[2, 0], turn[2, 1], turn[2, 2] = -y * s, x * s, c
    stretch = np.eye(3)
    for i in range(len(strains)):
        stretch += parameters[N_COMMON + i] * strains[i]
    for i in range(3):
        for j in range(3):
            out[0, i, j] = 0.0
            for m in range(3):
                out[0, i, j] += turn[i, m] * rotation[m, j]
    out[1] = np.linalg.solve(stretch, cell_basis)


@numba.njit(cache=True, nogil=True, inline="always")
def times(matrix, x, y, z):  # type: ignore[no-untyped-def]
    return (
        matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z,
        matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z,
        matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z,
    )


@numba.njit(cache=True, nogil=True)
def predict(  # type: ignore[no-untyped-def]
    node_model, offsets, h, k, l, reflection, s2, rotation, wavenumber, cell_basis, strains, parameters, spreads,  # noqa: E741
    active, share, slope,
):  # fmt: skip
    """`share`: f p of each observation; `slope`: f |q| ∂p/∂ε, both (n,)."""
    basis = np.empty((2, 3, 3))
    for i in range(len(parameters)):
        if not active[i]:
            continue
        orient(rotation[i], cell_basis, strains, parameters[i], basis)
        both = basis[0] @ basis[1]
        wave, radius = wavenumber[i], math.exp(parameters[i, LN_RADIUS])
        for j in range(offsets[i], offsets[i + 1]):
            x, y, z = times(both, h[j], k[j], l[j])
            length = math.sqrt(x * x + y * y + (z + wave) * (z + wave))
            square = x * x + y * y + z * z
            spread = spreads[0] * (wave * (1.0 - (z + wave) / length)) ** 2 + spreads[1] * square
            p, by_error, _, _ = profile(node_model, wave - length, radius, spread)
            f = math.exp(parameters[i, LN_SCALE] - parameters[i, B_FACTOR] * s2[reflection[j]])
            share[j], slope[j] = f * max(p, LEAST), f * math.sqrt(square) * by_error


@numba.njit(cache=True, nogil=True, inline="always")
def variance_of(variances, sigma, share, slope, intensity):  # type: ignore[no-untyped-def]
    return variances[0] * sigma * sigma + intensity * intensity * (
        variances[1] * share * share + variances[2] * slope * slope
    )


@numba.njit(cache=True, nogil=True)
def sum_partial_reflections(  # type: ignore[no-untyped-def]
    offsets, reflection, intensity, sigma, share, slope, expected, totals, variances, half, accepted, outlier
):
    """Add to `totals`: Σ w, Σ w y, Σ w a²σ²/V with y = I / f p, w = (f p)² / V, V the variance of I."""
    for i in range(len(accepted)):
        if not accepted[i]:
            continue
        for j in range(offsets[i], offsets[i + 1]):
            if outlier[j]:
                continue
            r = reflection[j]
            variance = variance_of(variances, sigma[j], share[j], slope[j], expected[half[i], r])
            w, row = share[j] * share[j] / variance, totals[half[i], r]
            row[0] += w
            row[1] += share[j] * intensity[j] / variance
            row[2] += w * variances[0] * sigma[j] * sigma[j] / variance


@numba.njit(cache=True, nogil=True)
def others(mean_at_resolution, expected, totals, share, slope, intensity, sigma, variances, used):  # type: ignore[no-untyped-def]
    """Mean and variance of what is known of a reflection without this observation, as in `scaling_kernels`."""
    w, wy, wn = 0.0, 0.0, 0.0
    if used:
        noise = variances[0] * sigma * sigma
        inverse = share / (noise + expected * expected * (variances[1] * share * share + variances[2] * slope * slope))
        w, wy = share * inverse, intensity * inverse
        wn = inverse * inverse * noise
    return without(mean_at_resolution, expected, totals[0], totals[1], totals[2], w, wy, wn)


@numba.njit(cache=True, nogil=True)
def assess_crystals(  # type: ignore[no-untyped-def]
    offsets, reflection, intensity, sigma, s2, mean, expected, totals, share, slope, variances, parameters, half,
    active, accepted, outlier, limit, components, misfit, correlation, reachable, effective,
):  # fmt: skip
    """Mark outliers, and gather what is needed to judge crystals and to fit `variances`, in place.

    An observation is an outlier where its z² exceeds `limit`². `components` (4, 4): the normal matrix of a²,
    κ², α² (Fisher scoring on squared residuals, z² cut at 25), in the last column the right-hand side, and at [3, 3]
    the sum of −2 ln of the likelihood of all observations by what the others predict, up to a constant; `misfit`: mean
    z² of a crystal; `correlation` as in `scaling_kernels.assess`, over `effective` many, and what it would be if
    nothing but V made observations differ from what is predicted, `reachable`.
    """
    part = np.empty(3)
    for i in range(len(accepted)):
        if not active[i]:
            continue
        sw, sww, sx, sy, sxx, syy, sxy, chi, count = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0
        for j in range(offsets[i], offsets[i + 1]):
            r = reflection[j]
            used = accepted[i] and not outlier[j]
            m, v = others(
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
            known = share[j] * share[j] * v
            variance = variance_of(variances, sigma[j], share[j], slope[j], m) + known
            square = (intensity[j] - share[j] * m) ** 2
            allowed = limit * RETURN if outlier[j] else limit
            outlier[j] = square > allowed * allowed * variance
            if accepted[i]:
                components[3, 3] += math.log(variance) + (DEGREES_OF_FREEDOM + 1.0) * math.log1p(
                    square / (variance * DEGREES_OF_FREEDOM)
                )
            if outlier[j]:
                continue
            chi += square / variance
            count += 1
            if accepted[i]:
                part[0], strength = sigma[j] * sigma[j], m * m + v
                part[1], part[2] = strength * share[j] * share[j], strength * slope[j] * slope[j]
                excess = min(square, 25.0 * variance) - known
                for a in range(3):
                    scaled = part[a] / (variance * variance)
                    components[a, 3] += scaled * excess
                    for b in range(3):
                        components[a, b] += scaled * part[b]
            f = mean[r] * math.exp(parameters[i, LN_SCALE] - parameters[i, B_FACTOR] * s2[r])
            c = f * f / variance
            x, z = share[j] * m / f, intensity[j] / f
            sw += c
            sww += c * c
            sx += c * x
            sy += c * z
            sxx += c * x * x
            syy += c * z * z
            sxy += c * x * z
        misfit[i] = chi / max(count, 1)
        if sw > 0.0:
            effective[i] = sw * sw / sww
            along, across = max(sxx * sw - sx * sx, 0.0), max(syy * sw - sy * sy, 0.0)
            both = math.sqrt(along * across)
            correlation[i] = (sxy * sw - sx * sy) / both if both > 0.0 else 0.0
            reachable[i] = math.sqrt(along / (along + count * sw))


@numba.njit(cache=True, nogil=True)
def score_crystals(  # type: ignore[no-untyped-def]
    node_model, offsets, h, k, l, reflection, intensity, sigma, s2, expected, rotation, wavenumber, cell_basis, strains,  # noqa: E741
    parameters, spreads, active, outlier,
):  # fmt: skip
    """Cost of the crystals as they are, each with the best scale for itself: how well a radius suits."""
    basis = np.empty((2, 3, 3))
    model = np.empty(np.max(offsets[1:] - offsets[:-1]))
    cost = 0.0
    for i in range(len(parameters)):
        if not active[i]:
            continue
        orient(rotation[i], cell_basis, strains, parameters[i], basis)
        both = basis[0] @ basis[1]
        wave, radius = wavenumber[i], math.exp(parameters[i, LN_RADIUS])
        above, below = 0.0, 0.0
        for j in range(offsets[i], offsets[i + 1]):
            x, y, z = times(both, h[j], k[j], l[j])
            length = math.sqrt(x * x + y * y + (z + wave) * (z + wave))
            spread = spreads[0] * (wave * (1.0 - (z + wave) / length)) ** 2 + spreads[1] * (x * x + y * y + z * z)
            r = reflection[j]
            full = expected[r] * math.exp(parameters[i, LN_SCALE] - parameters[i, B_FACTOR] * s2[r])
            model[j - offsets[i]] = full * profile(node_model, wave - length, radius, spread)[0]
            if not outlier[j]:
                u = 1.0 / (sigma[j] ** 2 + 0.25 * full * full)
                above += u * model[j - offsets[i]] * intensity[j]
                below += u * model[j - offsets[i]] ** 2
        scale = max(above / below, 0.0) if below > 0.0 else 0.0
        for j in range(offsets[i], offsets[i + 1]):
            if outlier[j]:
                continue
            r = reflection[j]
            full = expected[r] * math.exp(parameters[i, LN_SCALE] - parameters[i, B_FACTOR] * s2[r])
            square = (intensity[j] - scale * model[j - offsets[i]]) ** 2 / (sigma[j] ** 2 + 0.25 * full * full)
            cost += 0.5 * (DEGREES_OF_FREEDOM + 1.0) * math.log1p(square / DEGREES_OF_FREEDOM)
    return cost
