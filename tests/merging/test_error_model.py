"""Errors of merged intensities against what they are errors of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sfxlab.merging.error_model import add_squares

MakeRun = Callable[..., Any]


@pytest.mark.parametrize("seed", [1, 2])
def test_squares_are_those_of_leaving_each_observation_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, n_reflections = 300, 20
    reflection = rng.integers(0, n_reflections, n).astype(np.int32)
    factor, weight, intensity = rng.uniform(0.5, 2, n), rng.uniform(0.1, 3, n), rng.normal(10, 3, n)
    weight[::11] = 0.0
    y = intensity / factor
    total = np.bincount(reflection, weight, n_reflections)
    mean = np.bincount(reflection, weight * y, n_reflections) / total
    times, (squares, known) = rng.uniform(1, 1.3, n), np.zeros((2, n_reflections))
    add_squares(reflection, intensity, factor, weight, times, mean, total, squares, known)
    expected = np.zeros(n_reflections)
    for j in np.flatnonzero(weight):
        others = (reflection == reflection[j]) & (np.arange(n) != j)
        without = (weight * y)[others].sum() / weight[others].sum()
        share = weight[j] / total[reflection[j]]
        expected[reflection[j]] += times[j] * share * weight[j] * (1 - share) * (y[j] - without) ** 2
    assert squares == pytest.approx(expected)
    assert known == pytest.approx(1.0)
