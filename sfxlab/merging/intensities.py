"""Intensities that were merged from some observations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Intensities:
    """Means of observations, for example of half of the frames: a struct of arrays, each (n,)."""

    intensity: NDArray[np.float64]
    """NaN where there are too few observations."""
    sigma: NDArray[np.float64]
    """Standard error of `intensity`."""
    n_observations: NDArray[np.int32]
    """0 where `intensity` is NaN, or where a file does not say."""

    def __getitem__(self, which: NDArray[np.integer] | NDArray[np.bool_]) -> Intensities:
        return Intensities(self.intensity[which], self.sigma[which], self.n_observations[which])

    def placed(self, rows: NDArray[np.integer], n: int) -> Intensities:
        """These intensities in `rows` of a table of n rows that is empty otherwise."""
        out = Intensities.missing(n)
        out.intensity[rows], out.sigma[rows], out.n_observations[rows] = self.intensity, self.sigma, self.n_observations
        return out

    @staticmethod
    def missing(n: int) -> Intensities:
        """A table of n rows of which nothing is known."""
        return Intensities(np.full(n, np.nan), np.full(n, np.nan), np.zeros(n, dtype=np.int32))


def concatenate(parts: Sequence[Intensities]) -> Intensities:
    """One table below the other."""
    return Intensities(
        np.concatenate([p.intensity for p in parts]),
        np.concatenate([p.sigma for p in parts]),
        np.concatenate([p.n_observations for p in parts]),
    )
