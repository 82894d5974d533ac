"""Crystals as points in a plane, so that the clusters of an indexing ambiguity can be seen.

Points x_i are sought with x_i · x_j as near as possible to the correlation of crystals i and j as they are indexed:
the length of x_i tells how good a crystal is, and the angle between clusters how different they are
(Diederichs 2017, Acta Cryst. D73, 286).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sfxlab.merging.ambiguity import Ambiguity
from sfxlab.merging.ambiguity_levels import levels_of
from sfxlab.merging.observations import Observations

MOST_CRYSTALS = 500
_FEWEST_COMMON = 4
_CYCLES = 60


def embed(
    observations: Observations, ambiguity: Ambiguity, most: int = MOST_CRYSTALS
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Numbers of at most so many crystals, (m,), those with the most observations, and their coordinates, (m, 2)."""
    levels = levels_of(observations, ambiguity.operators)
    order = np.argsort(-levels.counts, kind="stable")
    chosen = np.sort(order[levels.counts[order] > 0][:most])
    sample = levels.sample(chosen)
    (block,) = sample.blocks()
    signal = np.arcsinh(block.level / (0.3 + block.sigma))
    correlation, weight = _pairwise(signal, block.offsets, sample.rows[block.index, 0], len(sample.hkl))
    depth = max(2, len(ambiguity.operators))
    points = _weighted_factors(correlation, weight, depth)
    # The plane in which the points spread most; for two operators it is all of the space.
    _, _, axes = np.linalg.svd(points, full_matrices=False)
    plane = points @ axes[:2].T
    return chosen, plane * np.where(plane.mean(axis=0) < 0, -1, 1)


def _pairwise(
    signal: NDArray[np.float64], offsets: NDArray[np.int64], row: NDArray[np.int32], n_reflections: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correlation of each pair of crystals over their common reflections, and its weight, both (n, n)."""
    crystal = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    shape = (len(offsets) - 1, n_reflections)

    def table(values: NDArray[np.float64]) -> csr_array:
        return csr_array((values, (crystal, row)), shape=shape)

    number = table(np.ones(len(signal)))
    x = table(signal)
    # Equivalents that a crystal has more than once are averaged.
    mean, known = x.copy(), number.copy()
    mean.data, known.data = x.data / number.data, np.ones(len(number.data))
    square = mean.copy()
    square.data = mean.data**2
    common = (known @ known.T).toarray()
    sums = (mean @ known.T).toarray()
    squares = (square @ known.T).toarray()
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = squares - sums**2 / common
        covariance = (mean @ mean.T).toarray() - sums * sums.T / common
        correlation = covariance / np.sqrt(spread * spread.T)
    usable = (common >= _FEWEST_COMMON) & np.isfinite(correlation) & (spread > 0) & (spread.T > 0)
    np.fill_diagonal(usable, False)
    return np.where(usable, np.clip(correlation, -1, 1), 0.0), np.where(usable, common, 0.0)


def _weighted_factors(correlation: NDArray[np.float64], weight: NDArray[np.float64], depth: int) -> NDArray[np.float64]:
    """x with Σ w_ij (c_ij − x_i · x_j)² small, (n, depth), each x_i by least squares in turns with all others."""
    values, vectors = np.linalg.eigh(correlation * weight / max(weight.max(), 1.0))
    points = vectors[:, ::-1][:, :depth] * np.sqrt(np.maximum(values[::-1][:depth], 1e-6))
    for _ in range(_CYCLES):
        normal = np.einsum("ij,jp,jq->ipq", weight, points, points, optimize=True) + 1e-3 * np.eye(depth)
        moved = np.linalg.solve(normal, ((weight * correlation) @ points)[:, :, None])[:, :, 0]
        points = 0.5 * (points + moved)
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    return np.asarray(points / np.maximum(lengths, 1.0))
