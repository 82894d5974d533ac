"""Scale and relative B factor of each crystal, fitted to what the other crystals say (METHODS.md section 7.2).

The model of an observation is I = f m (1 + κ δ) + noise with f = G exp(−B s²), s = sinθ/λ = |q|/2, m the full
intensity, and κ δ what partiality and all else leave unexplained. All observations take part, weak and negative ones
too, because choosing strong ones would make the scales of weak crystals too large.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.merging.blocks import Block
from sfxlab.merging.observations import Observations
from sfxlab.merging.scaling_kernels import (
    PRIOR_WEIGHT,
    RETURN,
    STEP,
    assess,
    fit_crystals,
    sum_reflections,
    typical_sigma,
)

B_SPREAD = 25.0
"""Standard deviation of the relative B factors of crystals that is expected beforehand, Å²."""
LOG_SCALE_SPREAD = 1.0
"""Standard deviation of ln G that is expected beforehand."""
B_LIMIT = 100.0
"""A crystal with a larger relative B factor, Å², is left out."""
MIN_OBSERVATIONS = 5
"""A crystal with fewer observations is left out."""
OUTLIER_LIMIT = 8.0
"""An observation that is further from what the others predict, in standard deviations, is left out.

Partiality makes the scatter far from normal: one full observation may be several times the mean of partial ones.
"""
CORRELATION_LIMIT = 4.0
"""A crystal whose correlation with the others is further below the usual one, in standard deviations, is left out."""

_CONVERGED = 5e-3
_NEIGHBOURS = 40
_SAMPLE = 1_000_000


@dataclass(frozen=True)
class Usual:
    """What crystals are like, by which each is judged."""

    scatter: float
    """κ² over the observations of all accepted crystals."""
    correlation: float
    """Median of artanh of the correlations."""
    spread: float
    """Spread of artanh of the correlations, as a standard deviation."""


@dataclass(frozen=True)
class CrystalScales:
    """What scaling found out about each crystal."""

    scale: NDArray[np.float64]
    """G of each crystal, (n_crystals,); the mean of ln G over accepted crystals is 0."""
    b_factor: NDArray[np.float64]
    """B of each crystal, (n_crystals,), Å²; the mean over accepted crystals is 0."""
    scatter: NDArray[np.float64]
    """κ of each crystal: relative scatter of its scaled observations beyond counting statistics, (n_crystals,)."""
    correlation: NDArray[np.float64]
    """Weighted correlation of each crystal with the others, intensities divided by their mean at that resolution."""
    reasons: tuple[str, ...]
    """Why a crystal is not used, (n_crystals,); empty for those that are."""

    @cached_property
    def accepted(self) -> NDArray[np.bool_]:
        """Which crystals are used, (n_crystals,)."""
        return np.array([not reason for reason in self.reasons], dtype=bool)


@dataclass(frozen=True)
class Scaling(CrystalScales):
    """How the crystals and observations of `Observations` are to be merged."""

    expected: NDArray[np.float64]
    """What each reflection is expected to be, (n_reflections,), for the weights."""
    mean: NDArray[np.float64]
    """Mean intensity at the resolution of each reflection, (n_reflections,)."""
    usual: Usual
    observations: Observations
    """What was scaled; its blocks have the columns typical_sigma and outlier now."""
    cycles: int
    converged: bool

    def blocks(self) -> Iterator[tuple[Block, NDArray[np.float64], NDArray[np.float64]]]:
        """The observations in blocks, f of each, by which to divide, and 1 / variance of what comes out.

        Weights are 0 for observations that disagree with the others, and for crystals that are not used.
        """
        s2 = self.observations.resolution**2 / 4
        for block in self.observations.blocks("typical_sigma", "outlier"):
            own, reflection = block.crystal, block.reflection
            factor = self.scale[own] * np.exp(-self.b_factor[own] * s2[reflection])
            noise = block.columns["typical_sigma"] / factor
            variance = (self.scatter[own] * self.expected[reflection]) ** 2 + noise**2
            yield block, factor, np.where(self.accepted[own] & ~block.columns["outlier"], 1 / variance, 0.0)

    @property
    def n_outliers(self) -> int:
        """How many observations of accepted crystals disagree with the others."""
        return sum(
            int(np.count_nonzero(block.columns["outlier"] & self.accepted[block.crystal]))
            for block in self.observations.blocks("outlier")
        )

    @property
    def outlier(self) -> NDArray[np.bool_]:
        """Which observations disagree with the others, (n,)."""
        return self.observations.column("outlier")

    @property
    def factor(self) -> NDArray[np.float64]:
        """f of each observation, (n,): divide intensities by it."""
        return np.concatenate([factor for _, factor, _ in self.blocks()])

    @property
    def weight(self) -> NDArray[np.float64]:
        """1 / variance of each divided intensity, (n,); 0 for outliers and for crystals that are not used."""
        return np.concatenate([weight for _, _, weight in self.blocks()])


def fit_scales(observations: Observations, max_cycles: int = 30) -> Scaling:
    """Fit G and B of every crystal by weighted least squares on intensities, with outliers left out.

    Each crystal is compared with what the other crystals say of its reflections (leave one out), shrunk towards the
    mean intensity at that resolution in proportion to how little they say. The result does not depend on the
    order of the crystals in the runs, nor on the blocks that the observations come in.
    """
    fit = _Fit(observations)
    change, cycles = np.inf, 0
    while cycles < max_cycles and change >= _CONVERGED:
        change = fit.cycle()
        cycles += 1
    return Scaling(
        scale=fit.scale,
        b_factor=fit.b_factor,
        scatter=fit.scatter,
        correlation=fit.correlation,
        reasons=fit.reasons,
        expected=fit.expected,
        mean=fit.mean,
        usual=fit.usual,
        observations=observations,
        cycles=cycles,
        converged=change < _CONVERGED,
    )


class _Fit:
    """What a cycle of scaling works on: numbers for each crystal and reflection. Observations come in blocks."""

    def __init__(self, observations: Observations) -> None:
        o = self.observations = observations
        n = len(o.crystals)
        self.s2 = o.resolution**2 / 4
        set_typical_sigma(o)
        for block in o.blocks():
            o.columns.put(block.number, "outlier", np.zeros(len(block), dtype=bool))
        self.shell = resolution_shells(self.s2)
        self.mean = _first_means(o, self.shell)
        self.expected = self.mean.copy()
        self.totals = np.zeros((len(self.s2), 3))
        self.scale, self.b_factor, self.scatter = np.ones(n), np.zeros(n), np.ones(n)
        self.correlation = np.zeros(n)
        self.reasons = tuple(too_few(count) for count in np.diff(o.offsets))
        self.accepted = np.array([not reason for reason in self.reasons], dtype=bool)
        self.usual = Usual(1.0, 0.0, 0.0)

    def cycle(self) -> float:
        """Fit the crystals to the intensities, then the intensities to the crystals, and see who does not agree.

        Returns the root mean square change of ln G, infinite where another set of crystals is accepted than before.
        """
        o, before, accepted = self.observations, np.log(self.scale), self.accepted
        for block in self._blocks():
            fit_crystals(*self._arguments(block, B_SPREAD, LOG_SCALE_SPREAD))
        if accepted.any():
            self.scale /= np.exp(np.mean(np.log(self.scale[accepted])))
            self.b_factor -= np.mean(self.b_factor[accepted])
        self._merge()
        squares, counts, effective = np.zeros((3, len(o.crystals)))
        for block in self._blocks():
            own = (values[block.crystals] for values in (squares, counts, self.correlation, effective))
            assess(*self._arguments(block, OUTLIER_LIMIT, *own))
            o.columns.put(block.number, "outlier", block.columns["outlier"])
        correlation, spread = _usual_correlation(self.correlation, effective)
        self.reasons = _judge(
            np.diff(o.offsets), self.b_factor, self.correlation, effective, self.accepted, correlation, spread
        )
        self.accepted = np.array([not reason for reason in self.reasons], dtype=bool)
        self.usual = Usual(_usual_scatter(squares, counts, self.accepted), correlation, spread)
        self.scatter = _pooled_scatter(squares, counts, self.usual.scatter)
        # From here on sums are of those observations that are in now, with the weights that are valid now.
        self._sum()
        if not np.array_equal(accepted, self.accepted):
            return np.inf
        return float(np.sqrt(np.mean((np.log(self.scale) - before)[accepted] ** 2))) if accepted.any() else 0.0

    def _blocks(self) -> Iterator[Block]:
        return self.observations.blocks("typical_sigma", "outlier")

    def _arguments(self, block: Block, *more: Any) -> tuple[Any, ...]:
        """What the kernels take; numbers of crystals are views that they change in place."""
        own = block.crystals
        return (
            block.offsets, block.reflection, block.intensity, block.columns["typical_sigma"],
            self.s2, self.mean, self.expected, self.totals,
            self.scale[own], self.b_factor[own], self.scatter[own], self.accepted[own], block.columns["outlier"],
            *more,
        )  # fmt: skip

    def _sum(self) -> None:
        self.totals[:] = 0.0
        for block in self._blocks():
            sum_reflections(*self._arguments(block))

    def _merge(self) -> None:
        """Bring `totals`, `mean` and `expected` up to date; weights depend on `expected`, hence twice."""
        for _ in range(2):
            self._sum()
            weights, sums = self.totals[:, 0], self.totals[:, 1]
            self.mean = _shell_means(self.totals, self.shell, self.mean)
            prior = PRIOR_WEIGHT / np.maximum(self.expected, self.mean) ** 2
            self.expected = np.maximum((prior * self.mean + sums) / (prior + weights), 0.05 * self.mean)
        self._sum()


def fit_to_others(scaling: Scaling, others: Observations, cycles: int = 8) -> CrystalScales:
    """Scales of other crystals by what those of `scaling` say; these stay as they are.

    `others` has the same rows of reflections as `scaling`. Its column outlier is written.
    """
    n = len(others.crystals)
    scale, b_factor, correlation, usual = np.ones(n), np.zeros(n), np.zeros(n), scaling.usual
    scatter, outside, effective = np.full(n, np.sqrt(usual.scatter)), np.zeros(n, dtype=bool), np.zeros(n)
    s2 = others.resolution**2 / 4
    totals = _totals(scaling)
    for block in others.blocks("typical_sigma"):
        own, outlier = block.crystals, np.zeros(len(block), dtype=bool)
        arguments = (
            block.offsets, block.reflection, block.intensity, block.columns["typical_sigma"],
            s2, scaling.mean, scaling.expected, totals, scale[own], b_factor[own], scatter[own], outside[own], outlier,
        )  # fmt: skip
        for _ in range(cycles):
            fit_crystals(*arguments, B_SPREAD, LOG_SCALE_SPREAD)
            squares, counts = np.zeros((2, own.stop - own.start))
            assess(*arguments, OUTLIER_LIMIT, squares, counts, correlation[own], effective[own])
            scatter[own] = _pooled_scatter(squares, counts, usual.scatter)
        others.columns.put(block.number, "outlier", outlier)
    numbers = np.diff(others.offsets)
    reasons = _judge(numbers, b_factor, correlation, effective, ~outside, usual.correlation, usual.spread)
    return CrystalScales(scale, b_factor, scatter, correlation, reasons)


def drift(scaling: Scaling) -> float:
    """By how much scales would change in another fit: the root mean square of ln f at the mean resolution.

    What crystals have in common does not count. After a fit it is small, and it grows as other crystals are accepted.
    """
    totals, s2 = _totals(scaling), scaling.observations.resolution**2 / 4
    scale, b_factor = scaling.scale.copy(), scaling.b_factor.copy()
    for block in scaling.observations.blocks("typical_sigma", "outlier"):
        own = block.crystals
        fit_crystals(
            block.offsets, block.reflection, block.intensity, block.columns["typical_sigma"],
            s2, scaling.mean, scaling.expected, totals, scale[own], b_factor[own], scaling.scatter[own],
            scaling.accepted[own], block.columns["outlier"], B_SPREAD, LOG_SCALE_SPREAD,
        )  # fmt: skip
    change = np.log(scale / scaling.scale) - (b_factor - scaling.b_factor) * s2.mean()
    return float(np.std(change[scaling.accepted])) / STEP if scaling.accepted.any() else 0.0


def set_typical_sigma(o: Observations) -> None:
    """Write the column typical_sigma."""
    for block in o.blocks():
        sigma = np.empty(len(block))
        typical_sigma(block.offsets, o.resolution[block.reflection], block.sigma, sigma, _NEIGHBOURS)
        o.columns.put(block.number, "typical_sigma", sigma)


def _totals(scaling: Scaling) -> NDArray[np.float64]:
    """The sums of the observations that are used."""
    totals = np.zeros((len(scaling.expected), 3))
    s2 = scaling.observations.resolution**2 / 4
    for block in scaling.observations.blocks("typical_sigma", "outlier"):
        own = block.crystals
        sum_reflections(
            block.offsets, block.reflection, block.intensity, block.columns["typical_sigma"],
            s2, scaling.mean, scaling.expected, totals, scaling.scale[own], scaling.b_factor[own],
            scaling.scatter[own], scaling.accepted[own], block.columns["outlier"],
        )  # fmt: skip
    return totals


def _usual_correlation(correlation: NDArray[np.float64], effective: NDArray[np.float64]) -> tuple[float, float]:
    """Centre and spread of artanh of the correlations of crystals that have enough observations to tell."""
    z = np.arctanh(np.clip(correlation, -0.99, 0.99))[effective > 10]
    if not len(z):
        return 0.0, 0.0
    return float(np.median(z)), float(np.median(np.abs(z - np.median(z)))) * 1.4826


def _judge(
    counts: NDArray[np.int64],
    b_factor: NDArray[np.float64],
    correlation: NDArray[np.float64],
    effective: NDArray[np.float64],
    accepted: NDArray[np.bool_],
    centre: float,
    spread: float,
) -> tuple[str, ...]:
    """Why a crystal is not to be used; empty where it is.

    A correlation is judged against those of the other crystals, not against a fixed value: choosing crystals that
    agree by chance would make the halves of pure noise agree. The arguments are of crystals, (n_crystals,).
    """
    z = np.arctanh(np.clip(correlation, -0.99, 0.99))
    limit = CORRELATION_LIMIT * np.sqrt(1 / np.maximum(effective - 3, 1) + spread**2)
    limit *= np.where(accepted, 1.0, RETURN)
    strange = (effective > 10) & (centre - z > limit)
    reasons = [too_few(count) for count in counts.tolist()]
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


def resolution_shells(s2: NDArray[np.float64]) -> NDArray[np.int64]:
    """Resolution shells of equally many unique reflections, for the mean intensity."""
    n_shells = int(np.clip(len(s2) // 100, 1, 25))
    rank = np.empty(len(s2), dtype=np.int64)
    rank[np.argsort(s2, kind="stable")] = np.arange(len(s2))
    return rank * n_shells // len(s2)


def _first_means(o: Observations, shell: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean intensity at the resolution of each unique reflection, before anything is scaled."""
    # Every so many observations, counted over all blocks, so that blocks make no difference.
    step = len(o) // _SAMPLE + 1
    sample = [(b.reflection[start::step].copy(), b.intensity[start::step].copy()) for b, start in _starts(o, step)]
    of_observation, intensity = shell[np.concatenate([r for r, _ in sample])], np.concatenate([i for _, i in sample])
    means = np.zeros(shell.max() + 1)
    for i in range(len(means)):
        values = intensity[of_observation == i]
        # One hot pixel may outweigh a shell; the highest 2 % are cut to the rest.
        means[i] = np.mean(np.minimum(values, np.percentile(values, 98))) if len(values) else 0.0
    return floored(means)[shell]


def _starts(o: Observations, step: int) -> Iterator[tuple[Block, int]]:
    """The blocks, and the first observation of each whose number among all is a multiple of `step`."""
    for block in o.blocks():
        yield block, int(-o.offsets[block.crystals.start] % step)


def _shell_means(
    totals: NDArray[np.float64], shell: NDArray[np.int64], previous: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean of the merged intensities at the resolution of each unique reflection."""
    seen = totals[:, 0] > 0
    counts = np.bincount(shell[seen], minlength=shell.max() + 1)
    merged = np.divide(totals[:, 1], totals[:, 0], out=np.zeros(len(shell)), where=seen)
    # No intensity of Wilson's distribution among some hundred exceeds ten times the mean; outliers do.
    merged = np.minimum(merged, 10 * previous)
    sums = np.bincount(shell[seen], weights=merged[seen], minlength=shell.max() + 1)
    return floored(sums / np.maximum(counts, 1))[shell]


def floored(means: NDArray[np.float64]) -> NDArray[np.float64]:
    # Beyond the diffraction limit the mean may come out as zero or less; a prior has to be positive.
    highest = means.max()
    return np.maximum(means, 1e-3 * highest if highest > 0 else 1.0)


def _usual_scatter(squares: NDArray[np.float64], counts: NDArray[np.float64], accepted: NDArray[np.bool_]) -> float:
    """κ² over all accepted crystals."""
    total = counts[accepted].sum()
    return float(np.clip(squares[accepted].sum() / total if total > 10 else 1.0, 0.01, 4.0))


def _pooled_scatter(squares: NDArray[np.float64], counts: NDArray[np.float64], usual: float) -> NDArray[np.float64]:
    """κ of each crystal, drawn towards that of all where a crystal has few strong observations."""
    pooled = (squares + 30 * usual) / (counts + 30)
    return np.sqrt(np.clip(pooled, 0.25 * usual, 25.0))
