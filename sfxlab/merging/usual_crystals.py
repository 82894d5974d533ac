"""What crystals are usually like, and which of them are not to be merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfxlab.merging.observations import Observations
from sfxlab.merging.scaling_kernels import RETURN

B_LIMIT = 100.0
"""A crystal with a larger relative B factor, Å², is left out."""
MIN_OBSERVATIONS = 5
"""A crystal with fewer observations is left out."""
BELOW_ZERO_LIMIT = 6.0
"""An observation that is further below zero, in standard deviations of the noise, is left out.

No share of an intensity is negative; what is, is noise, or a background that a bad pixel has made wrong.
"""
CORRELATION_LIMIT = 4.0
"""A crystal whose correlation with the others is further below the usual one, in standard deviations, is left out."""


@dataclass(frozen=True)
class Usual:
    """What crystals are like, by which each is judged."""

    scatter: float
    """κ² over the observations of all accepted crystals."""
    correlation: float
    """Median of artanh of the correlations."""
    spread: float
    """Spread of artanh of the correlations, as a standard deviation."""
    noise: float
    """How far observations below zero are from it, in units of what their errors say; at least 1."""

    @property
    def below_zero(self) -> float:
        """How far below zero an observation may be, in units of its error."""
        return BELOW_ZERO_LIMIT * self.noise


def usual_correlation(correlation: NDArray[np.float64], effective: NDArray[np.float64]) -> tuple[float, float]:
    """Centre and spread of artanh of the correlations of crystals that have enough observations to tell."""
    z = np.arctanh(np.clip(correlation, -0.99, 0.99))[effective > 10]
    if not len(z):
        return 0.0, 0.0
    return float(np.median(z)), float(np.median(np.abs(z - np.median(z)))) * 1.4826


def judge(
    few: Sequence[str],
    b_factor: NDArray[np.float64],
    correlation: NDArray[np.float64],
    effective: NDArray[np.float64],
    accepted: NDArray[np.bool_],
    centre: float,
    spread: float,
) -> tuple[str, ...]:
    """Why a crystal is not to be used; empty where it is. `few` says where there are too few observations.

    A correlation is judged against those of the other crystals, not against a fixed value: choosing crystals that
    agree by chance would make the halves of pure noise agree. The arguments are of crystals, (n_crystals,).
    """
    z = np.arctanh(np.clip(correlation, -0.99, 0.99))
    limit = CORRELATION_LIMIT * np.sqrt(1 / np.maximum(effective - 3, 1) + spread**2)
    limit *= np.where(accepted, 1.0, RETURN)
    strange = (effective > 10) & (centre - z > limit)
    reasons = list(few)
    for i in np.flatnonzero((np.abs(b_factor) > B_LIMIT) | strange).tolist():
        if reasons[i]:
            continue
        if abs(b_factor[i]) > B_LIMIT:
            reasons[i] = f"relative B factor of {b_factor[i]:.0f} Å², limit {B_LIMIT:.0f}"
        else:
            reasons[i] = f"correlation with the others {correlation[i]:.2f}, usual {np.tanh(centre):.2f}"
    return tuple(reasons)


def too_few(count: int) -> str:
    return "" if count >= MIN_OBSERVATIONS else f"only {count} usable observations, {MIN_OBSERVATIONS} needed"


def usual_scatter(squares: NDArray[np.float64], counts: NDArray[np.float64], accepted: NDArray[np.bool_]) -> float:
    """κ² over all accepted crystals."""
    total = counts[accepted].sum()
    return float(np.clip(squares[accepted].sum() / total if total > 10 else 1.0, 0.01, 4.0))


def pooled_scatter(squares: NDArray[np.float64], counts: NDArray[np.float64], usual: float) -> NDArray[np.float64]:
    """κ of each crystal, drawn towards that of all where a crystal has few strong observations."""
    pooled = (squares + 30 * usual) / (counts + 30)
    return np.sqrt(np.clip(pooled, 0.25 * usual, 25.0))


def noise_below_zero(o: Observations) -> float:
    """How far observations below zero are from it, in units of what their errors say, by the median; at least 1."""
    edges = np.linspace(0, 20, 1001)
    counts = np.zeros(len(edges) - 1)
    for block in o.blocks("typical_sigma"):
        below = block.intensity < 0
        off = -block.intensity[below] / block.columns["typical_sigma"][below]
        counts += np.histogram(np.minimum(off, edges[-1]), edges)[0]
    if not counts.any():
        return 1.0
    # Of half a normal distribution the median is at 0.674.
    return max(float(edges[1:][np.searchsorted(np.cumsum(counts), counts.sum() / 2)]) / 0.674, 1.0)
