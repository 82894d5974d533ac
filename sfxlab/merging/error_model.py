"""Errors of merged intensities that are as large as what they are errors of (METHODS.md section 7.5).

A merged intensity is Σ w y / Σ w, and its variance is u / Σ w with u = Σ w² V / Σ w. Where weights are inverse
variances u is 1; what models leave out makes it larger. It is found by how far observations are from the mean of the
others, y − m₋ᵢ = (y − m) / (1 − h) with h = w / Σ w, whose squares have the expectation V / (1 − h): so
u = Σ h w (y − m)² / (1 − h) for a reflection, pooled over reflections of about the same resolution (the jackknife).

Half data sets are not looked at; how far they differ remains a test of these errors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from sfxlab.merging.blocks import Scaled
from sfxlab.merging.sums import Sums

_SHELL_SIZE, _MOST_SHELLS = 200, 20
# Weight, in observations, of what is expected for an intensity against the scatter of its own observations.
_EXPECTED_WEIGHT = 4.0
# Observations of a reflection that can be halved, two on each side.
_OFTEN = 4


@dataclass(frozen=True)
class ErrorModel:
    """What the variances of merged intensities are in units of 1 / Σ w."""

    unit_variance: NDArray[np.float64]
    """u of each unique reflection, (n_reflections,)."""
    factors: tuple[tuple[float, float], ...]
    """Resolution (Å) in the middle of each shell and the factor there by which errors differ from 1 / √Σ w."""

    def history(self) -> list[list[float]]:
        """The factors in few digits."""
        return [[round(d, 3), float(f"{factor:.3g}")] for d, factor in self.factors]


def fit_error_model(
    blocks: Iterable[Scaled],
    sums: Sums,
    resolution: NDArray[np.float64],
    inverse_variances: bool,
    inflation: NDArray[np.float64] | None = None,
) -> ErrorModel:
    """Fit u to observations and their sums.

    `blocks` gives for each block of observations the factor and the weight of each, with which `sums` was made;
    `resolution` is 1/d of the reflections. Where weights are `inverse_variances` u depends on resolution only,
    otherwise on intensity (a constant and a part proportional to its square) and on the scatter of each reflection.
    Squares of what single observations of a crystal are off count `inflation` times, (n_crystals,).
    """
    whole = sums.values.sum(axis=0)
    count, total, first = whole[:, 0], whole[:, 1], whole[:, 2]
    mean = np.divide(first, total, out=np.zeros_like(first), where=total > 0)
    squares, known = np.zeros((2, len(total)))
    for block, factor, weight in blocks:
        times = np.ones(len(block)) if inflation is None else inflation[block.crystal]
        add_squares(block.reflection, block.intensity, factor, weight, times, mean, total, squares, known)
    n_shells = int(np.clip(len(resolution) // _SHELL_SIZE, 1, _MOST_SHELLS))
    order = np.argsort(resolution, kind="stable")
    parts = [part for part in np.array_split(order, n_shells) if known[part].sum() > 0]
    if not parts:
        return ErrorModel(np.ones(len(total)), ())
    centre = np.array([np.median(resolution[part]) for part in parts])
    pooled = np.array([squares[part].sum() / known[part].sum() for part in parts])
    pooled = np.maximum(pooled, 1e-6 * pooled.max())
    factors = tuple((1 / float(r), float(np.sqrt(u))) for r, u in zip(centre, pooled, strict=True))
    if inverse_variances:
        return ErrorModel(np.interp(resolution, centre, pooled), factors)
    unit_variance = np.empty(len(total))
    variance = np.interp(resolution, centre, pooled)
    for part in np.array_split(order, n_shells):
        unit_variance[part] = _by_intensity(squares[part], known[part], mean[part], total[part], variance[part])
    # Reflections that were seen often tell by themselves, though some less often than it takes to be sure.
    share = known * np.maximum(count - 1, 0) / (np.maximum(count - 1, 0) + _EXPECTED_WEIGHT)
    found = squares / np.maximum(known, 1e-12)
    unit_variance += share * (found - unit_variance)
    # A wild observation now also makes its own error larger. Over all ways to halve a reflection's observations the
    # mean of (I₁ − I₂)² / (1/n₁ + 1/n₂) is its scatter, whose mean ratio to u therefore has to be one.
    often = count >= _OFTEN
    for part in parts:
        chosen = part[often[part]]
        unit_variance[part] *= np.mean(found[chosen] / unit_variance[chosen]) if len(chosen) > _OFTEN else 1.0
    return ErrorModel(unit_variance, factors)


def _by_intensity(
    squares: NDArray[np.float64],
    known: NDArray[np.float64],
    mean: NDArray[np.float64],
    total: NDArray[np.float64],
    pooled: NDArray[np.float64],
) -> NDArray[np.float64]:
    """α + β m² of the reflections of a shell, by weighted least squares; m² without what its error adds to it."""
    u, target = pooled.copy(), squares / np.maximum(known, 1e-12)
    for _ in range(4):
        strength = np.maximum(mean**2 - u / np.maximum(total, 1e-300), 0.0)
        weight = known * total / u**2
        normal = np.array([[weight.sum(), (weight * strength).sum()], [0.0, (weight * strength**2).sum()]])
        normal[1, 0] = normal[0, 1]
        right = np.array([(weight * target).sum(), (weight * strength * target).sum()])
        if np.linalg.det(normal) <= 1e-12 * normal[0, 0] * normal[1, 1]:
            return pooled
        a, b = np.linalg.solve(normal, right)
        if b < 0:
            return pooled
        u = np.maximum(a + b * strength, 0.1 * pooled)
    return u


@numba.njit(cache=True, nogil=True)
def add_squares(reflection, intensity, factor, weight, times, mean, total, squares, known):  # type: ignore[no-untyped-def]
    """Add h w (y − m)² / (1 − h), so many `times`, and h of each observation to its reflection.

    Not where there is next to nothing else.
    """
    for j in range(len(reflection)):
        if weight[j] <= 0.0:
            continue
        r = reflection[j]
        h = weight[j] / total[r]
        if h > 0.9:
            continue
        off = intensity[j] / factor[j] - mean[r]
        squares[r] += times[j] * h * weight[j] * off * off / (1.0 - h)
        known[r] += h
