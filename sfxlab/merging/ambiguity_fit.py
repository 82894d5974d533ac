"""Expectation and maximisation of the operators of some crystals, from several starts.

The likelihood of an operator is that of a crystal's intensities given what the other crystals say (leave one out), or
what a reference says. Starts come from the leading eigenvectors of the matrix of all pairwise correlations
between crystals with each operator, in which the copies of all crystals form one cluster for each operator
(Brehm & Diederichs 2014; Gildea & Winter 2018, Acta Cryst. D74, 405), and from random operators.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from sfxlab.merging.ambiguity_kernels import (
    compare_operators,
    correlate,
    score_crystals,
    sum_reference,
)
from sfxlab.merging.ambiguity_levels import LevelBlock, Levels

_MAX_CYCLES = 50
_CONVERGED = 1e-3
"""Mean change of probabilities in a cycle."""
_SCATTER_CONVERGED = 0.05
"""Relative change of κ² in a cycle."""
_SAMPLE_OBSERVATIONS, _SAMPLE_CRYSTALS = 100_000, 200
"""Starts are sought with the crystals that tell most: as many as have so many observations, and at least so many."""
_POWER_ITERATIONS = 10
_RANDOM_STARTS = 2
_CLEAR = 0.99
"""A start after which operators are as probable as this, on average, needs no other."""
_REFERENCE_WEIGHT = 10.0
"""What a reference knows of a reflection, in observations: no reference is quite of the same crystals."""


@dataclass(frozen=True)
class Assignment:
    """How likely each crystal has to be indexed with each operator."""

    probability: NDArray[np.float64]
    """(n_crystals, n_operators)."""
    scores: NDArray[np.float64]
    """Log-likelihoods, (n_crystals, n_operators)."""
    scatter: float
    """κ²: relative variance of an observation beyond counting statistics."""
    cycles: int
    likelihood: float
    """Logarithm, of all crystals."""


@dataclass(frozen=True)
class Certainty:
    """How well the operators of crystals can be told apart."""

    standard_error: NDArray[np.float64]
    """Of the log-odds of two operators, from the scatter of what single observations say, (n_crystals,)."""
    twin: NDArray[np.float64]
    """Log-likelihood of a twin of equal parts with both, less that of the better one, (n_crystals,)."""
    correlation: NDArray[np.float64]
    """With each operator, (n_crystals, n_operators)."""

    def where(self, which: NDArray[np.bool_], other: Certainty) -> Certainty:
        """This for some crystals, another for the rest."""
        return Certainty(
            np.where(which, self.standard_error, other.standard_error),
            np.where(which, self.twin, other.twin),
            np.where(which[:, None], self.correlation, other.correlation),
        )


class Fit:
    """Crystals that are compared with each other, or with a reference."""

    def __init__(self, levels: Levels, active: NDArray[np.bool_], reference: NDArray[np.float64] | None = None) -> None:
        self.levels, self.active = levels, active
        self.fixed = reference
        """Levels of the reflections as a reference has them, (n_reflections,), NaN where it has none."""
        self.n_operators = levels.rows.shape[1]
        self.scatter = 0.5

    def sums(self, probability: NDArray[np.float64]) -> NDArray[np.float64]:
        """What is known of the reflections: Σ w and Σ w y, (n_reflections, 2)."""
        sums = np.zeros((len(self.levels.hkl), 2))
        if self.fixed is not None:
            known = np.isfinite(self.fixed)
            sums[known, 0] = _REFERENCE_WEIGHT / self.scatter
            sums[known, 1] = sums[known, 0] * self.fixed[known]
            return sums
        for block in self.levels.blocks():
            sum_reference(*self._arguments(block, probability, self.scatter, sums))
        return sums

    def known(self, probability: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean level of each reflection, (n_reflections,), NaN where nothing was observed."""
        sums = self.sums(probability)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(sums[:, 0] > 0, sums[:, 1] / sums[:, 0], np.nan))

    def score(
        self, probability: NDArray[np.float64], sums: NDArray[np.float64], leave_out: bool
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Log-likelihoods, (n_crystals, n_operators), and the misfit of the scatter, (2,)."""
        scores, misfit = np.zeros((len(self.active), self.n_operators)), np.zeros(2)
        for block in self.levels.blocks():
            more = (self.scatter, sums, leave_out, scores[block.crystals], misfit)
            score_crystals(*self._arguments(block, probability, *more))
        return scores, misfit

    def run(self, probability: NDArray[np.float64]) -> Assignment:
        """Take expectations and maximise in turns until nothing changes."""
        cycles = 0
        while cycles < _MAX_CYCLES:
            cycles += 1
            sums = self.sums(probability)
            scores, misfit = self.score(probability, sums, self.fixed is None)
            before, self.scatter = self.scatter, self._better_scatter(misfit)
            updated = probabilities(scores)
            change = np.abs(updated - probability)[self.active].max(axis=1).mean() if self.active.any() else 0.0
            probability = updated
            if change < _CONVERGED and abs(self.scatter / before - 1) < _SCATTER_CONVERGED:
                break
        likelihood = float(logsumexp(scores[self.active], axis=1).sum())
        return Assignment(probability, scores, self.scatter, cycles, likelihood)

    def certainty(
        self, probability: NDArray[np.float64], best: NDArray[np.int64], second: NDArray[np.int64]
    ) -> Certainty:
        """What speaks for operators `best` against `second`, (n_crystals,)."""
        n = len(self.active)
        squares, twin, correlation = np.zeros(n), np.zeros(n), np.zeros((n, self.n_operators))
        sums = self.sums(probability)
        for block in self.levels.blocks():
            c = block.crystals
            more = (self.scatter, sums, self.fixed is None, best[c], second[c], squares[c], twin[c], correlation[c])
            compare_operators(*self._arguments(block, probability, *more))
        return Certainty(np.sqrt(squares), twin, correlation)

    def _better_scatter(self, misfit: NDArray[np.float64]) -> float:
        if misfit[1] < 100:
            return self.scatter
        return float(np.clip(self.scatter * misfit[0] / misfit[1], 0.02, 4.0))

    def _arguments(self, block: LevelBlock, probability: NDArray[np.float64], *more: Any) -> tuple[Any, ...]:
        c = block.crystals
        own = (self.active[c], probability[c])
        return (block.offsets, block.index, self.levels.rows, block.level, block.sigma, *own, *more)


def assign_together(levels: Levels, active: NDArray[np.bool_]) -> Assignment:
    """Find the operators with which the active crystals agree best. Which of them is the identity is left to chance."""
    chosen = _telling(levels, active)
    sample = levels.sample(chosen)
    everyone = np.ones(len(chosen), dtype=bool)
    best = _best_of_starts(sample, everyone)
    if len(chosen) == np.count_nonzero(active):
        return _placed(best, chosen, len(active))
    fit = Fit(sample, everyone)
    fit.scatter = best.scatter
    sums = fit.sums(best.probability)
    fit = Fit(levels, active)
    fit.scatter = best.scatter
    none = np.zeros((len(active), fit.n_operators))
    return fit.run(probabilities(fit.score(none, sums, False)[0]))


def _best_of_starts(sample: Levels, everyone: NDArray[np.bool_]) -> Assignment:
    """The most likely of what the starts lead to."""
    best: Assignment | None = None
    for start in _starts(sample):
        found = Fit(sample, everyone).run(start)
        if best is None or found.likelihood > best.likelihood:
            best = found
        if best.probability.max(axis=1).mean() > _CLEAR:
            break
    assert best is not None
    return best


def probabilities(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each operator, from log-likelihoods, (n_crystals, n_operators)."""
    return np.asarray(np.exp(scores - logsumexp(scores, axis=1, keepdims=True)))


def _placed(found: Assignment, crystals: NDArray[np.int64], n: int) -> Assignment:
    """The assignment of some crystals among all n; nothing is known of the others."""
    n_operators = found.scores.shape[1]
    probability, scores = np.full((n, n_operators), 1 / n_operators), np.zeros((n, n_operators))
    probability[crystals], scores[crystals] = found.probability, found.scores
    return Assignment(probability, scores, found.scatter, found.cycles, found.likelihood)


def _telling(levels: Levels, active: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The crystals to start with, sorted."""
    information = np.zeros(len(active))
    for block in levels.blocks():
        crystal = np.repeat(np.arange(block.crystals.start, block.crystals.stop), np.diff(block.offsets))
        information += np.bincount(crystal, 1 / (1 + block.sigma**2), len(active))
    order = np.flatnonzero(active)[np.argsort(-information[active], kind="stable")]
    n = max(int(np.searchsorted(np.cumsum(levels.counts[order]), _SAMPLE_OBSERVATIONS)), _SAMPLE_CRYSTALS)
    return np.sort(order[:n])


def _starts(sample: Levels) -> Iterator[NDArray[np.float64]]:
    """Probabilities to start from, (n_crystals, n_operators), each 0 or 1."""
    n, n_operators = len(sample.counts), sample.rows.shape[1]
    vectors = _eigenvectors(sample)
    lengths = np.linalg.norm(vectors, axis=2).max(axis=1)
    # Clusters are alike where operators keep the point group; where they do not, one of them is the right one.
    for copy in range(min(n_operators - 1, 5)):
        yield np.eye(n_operators)[_cluster(vectors, int(np.argmax(lengths)), copy)]
    random = np.random.default_rng(n)
    for _ in range(_RANDOM_STARTS):
        yield np.eye(n_operators)[random.integers(0, n_operators, n)]


def _eigenvectors(sample: Levels) -> NDArray[np.float64]:
    """Coordinates of each crystal with each operator in the space of the leading eigenvectors, (n, n_operators, d)."""
    (block,) = sample.blocks()
    n, n_operators = len(sample.counts), sample.rows.shape[1]
    crystal = np.repeat(np.arange(n), np.diff(block.offsets))
    signal = np.arcsinh(block.level / (0.3 + block.sigma))
    signal -= (np.bincount(crystal, signal, n) / np.maximum(sample.counts, 1))[crystal]
    everyone, depth = np.ones(n, dtype=bool), n_operators - 1
    sums = np.zeros((len(sample.hkl), depth))
    vectors = np.random.default_rng(n).standard_normal((n, n_operators, depth))
    for _ in range(_POWER_ITERATIONS):
        # What is common to all operators of a crystal tells nothing.
        vectors -= vectors.mean(axis=1, keepdims=True)
        basis = np.ascontiguousarray(np.linalg.qr(vectors.reshape(-1, depth))[0]).reshape(vectors.shape)
        vectors = correlate(block.offsets, block.index, sample.rows, signal, everyone, basis, sums)
    return np.asarray(vectors - vectors.mean(axis=1, keepdims=True))


def _cluster(vectors: NDArray[np.float64], anchor: int, copy: int) -> NDArray[np.int64]:
    """The operator of each crystal that puts it into the cluster of one copy of the anchor."""
    centre = vectors[anchor, copy]
    for _ in range(20):
        operator = np.argmax(vectors @ centre, axis=1)
        centre = vectors[np.arange(len(vectors)), operator].mean(axis=0)
    return np.asarray(np.argmax(vectors @ centre, axis=1))
