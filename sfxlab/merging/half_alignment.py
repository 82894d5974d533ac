"""Both half data sets on one scale and B factor, where crystals are fitted to those of their own half only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def alignment(
    totals: NDArray[np.float64], mean: NDArray[np.float64], s2: NDArray[np.float64], b_spread: float = 25.0
) -> tuple[float, float]:
    """By how much ln G and B (Å²) of the second half's crystals are too large.

    Differences of intensities are fitted by multiples of the mean of both halves, whose errors are independent of
    those of the difference because weights are inverse variances.

    `totals` (2, n_reflections, 2 or more): Σ w and Σ w y of the reflections of each half; `mean` and `s2` = |q|²/4
    (n_reflections,). `b_spread` is expected of B beforehand, 1 of ln G.
    """
    weights, sums = totals[:, :, 0], totals[:, :, 1]
    known = (weights > 0).all(axis=0)
    one, other = sums[:, known] / weights[:, known]
    mean = mean[known]
    design = np.stack([mean, -s2[known] * mean], axis=1)
    shift = np.zeros(2)
    # First roughly, when strong reflections may be many of their errors apart; then to within these.
    for floor in (0.05, 0.0):
        weight = 1 / ((1 / weights[:, known]).sum(axis=0) + (floor * mean) ** 2)
        limit = 4 / np.sqrt(weight)
        normal = design.T @ (weight[:, None] * design) + np.diag([1.0, 1.0 / b_spread**2])
        shift += np.linalg.solve(normal, design.T @ (weight * np.clip(one - other - design @ shift, -limit, limit)))
    return float(shift[0]), float(shift[1])
