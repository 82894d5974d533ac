"""Whether a lattice is there, or as good a fit is to be had by chance."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc, gammaln

TOLERANCES = (0.25, 0.2, 0.15, 0.1)
"""Distances from whole indices at which peaks are counted."""

SHARP_TOLERANCES = (*TOLERANCES, 0.07, 0.05)
"""The same where no cell is given: what few peaks tell then is that they fit a free lattice closely."""

LOG10_TRIALS = 6.0
"""log10 of the number of independent lattices that a search for a known cell tries, METHODS.md 4.7."""

FITTED = 3
"""Peaks whose indices the nine numbers of a basis can make whole by themselves; they prove nothing."""


def chance(
    errors: NDArray[np.floating], log10_trials: float = LOG10_TRIALS, tolerances: tuple[float, ...] = TOLERANCES
) -> float:
    """log10 of the probability that some lattice of a search fits random peaks as well as this one, at most 0.

    `errors` (n,) are the largest distances of each peak's three indices from whole numbers. A random peak passes a
    tolerance t with probability (2t)³; the count is binomial, and the search tries 10^`log10_trials` lattices. Three
    peaks fit without proof. The sharpest of the tolerances counts, at the price of one more trial for each.
    """
    n = len(errors) - FITTED
    if n <= 0:
        return 0.0
    best = 0.0
    for tolerance in tolerances:
        fitting = max(int(np.count_nonzero(errors < tolerance)) - FITTED, 0)
        best = min(best, _log10_tail(fitting, n, (2 * tolerance) ** 3))
    return min(0.0, best + log10_trials + math.log10(len(tolerances)))


def _log10_tail(least: int, n: int, probability: float) -> float:
    """log10 of the chance of `least` successes or more in n trials."""
    tail = float(bdtrc(least - 1, n, probability)) if least > 0 else 1.0
    if tail > 1e-290:
        return math.log10(tail)
    # Too small for a float before the logarithm; there the first term is nearly all of it.
    ways = float(gammaln(n + 1) - gammaln(least + 1) - gammaln(n - least + 1))
    return (ways + least * math.log(probability) + (n - least) * math.log1p(-probability)) / math.log(10)
