"""Scale and relative B factor of each crystal, fitted to what the other crystals say (METHODS.md section 7.2).

The model of an observation is I = f m (1 + κ δ) + noise with f = G exp(−B s²), s = sinθ/λ = |q|/2, m the full
intensity, and κ δ what partiality and all else leave unexplained. All observations take part, weak and negative ones
too, because choosing strong ones would make the scales of weak crystals too large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.merging.observations import Observations
from sfxlab.merging.scaling_kernels import (
    PRIOR_WEIGHT,
    RETURN,
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


@dataclass(frozen=True)
class Scaling:
    """How the crystals and observations of `Observations` are to be merged."""

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
    outlier: NDArray[np.bool_]
    """Which observations disagree with the others, (n,)."""
    factor: NDArray[np.float64]
    """f of each observation, (n,): divide intensities by it."""
    weight: NDArray[np.float64]
    """1 / variance of each divided intensity, (n,); 0 for outliers and for crystals that are not used."""
    cycles: int
    converged: bool

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """Which crystals are used, (n_crystals,)."""
        return np.array([not reason for reason in self.reasons], dtype=bool)


def fit_scales(observations: Observations, max_cycles: int = 30) -> Scaling:
    """Fit G and B of every crystal by weighted least squares on intensities, with outliers left out.

    Each crystal is compared with what the other crystals say of its reflections (leave one out), shrunk towards the
    mean intensity at that resolution in proportion to how little they say. The result does not depend on the
    order of the crystals in the runs.
    """
    fit = _Fit(observations)
    change, cycles = np.inf, 0
    while cycles < max_cycles and change >= _CONVERGED:
        change = fit.cycle()
        cycles += 1
    o = observations
    counts = np.diff(o.offsets)
    factor = np.repeat(fit.scale, counts) * np.exp(-np.repeat(fit.b_factor, counts) * fit.s2[o.reflection])
    variance = (np.repeat(fit.scatter, counts) * fit.expected[o.reflection]) ** 2 + (fit.sigma / factor) ** 2
    used = np.repeat(fit.accepted, counts) & ~fit.outlier
    return Scaling(
        scale=fit.scale,
        b_factor=fit.b_factor,
        scatter=fit.scatter,
        correlation=fit.correlation,
        reasons=fit.reasons,
        outlier=fit.outlier,
        factor=factor,
        weight=np.where(used, 1 / variance, 0.0),
        cycles=cycles,
        converged=change < _CONVERGED,
    )


class _Fit:
    """The arrays that a cycle of scaling works on."""

    def __init__(self, observations: Observations) -> None:
        o = self.observations = observations
        n = len(o.crystals)
        self.s2 = o.resolution**2 / 4
        self.sigma = np.empty(len(o))
        typical_sigma(o.offsets, o.resolution[o.reflection], o.sigma, self.sigma, _NEIGHBOURS)
        self.shell = _shells(self.s2)
        self.mean = _first_means(o, self.shell)
        self.expected = self.mean.copy()
        self.totals = np.zeros((len(self.s2), 3))
        self.scale, self.b_factor, self.scatter = np.ones(n), np.zeros(n), np.ones(n)
        self.correlation = np.zeros(n)
        self.outlier = np.zeros(len(o), dtype=bool)
        self.reasons = tuple(_too_few(count) for count in np.diff(o.offsets))
        self.accepted = np.array([not reason for reason in self.reasons], dtype=bool)

    def cycle(self) -> float:
        """Fit the crystals to the intensities, then the intensities to the crystals, and see who does not agree.

        Returns the root mean square change of ln G, infinite where another set of crystals is accepted than before.
        """
        o, before, accepted = self.observations, np.log(self.scale), self.accepted
        fit_crystals(*self._arguments(B_SPREAD, LOG_SCALE_SPREAD))
        if accepted.any():
            self.scale /= np.exp(np.mean(np.log(self.scale[accepted])))
            self.b_factor -= np.mean(self.b_factor[accepted])
        self._merge()
        squares, counts, effective = np.zeros((3, len(o.crystals)))
        assess(*self._arguments(OUTLIER_LIMIT, squares, counts, self.correlation, effective))
        self.reasons = self._judge(effective)
        self.accepted = np.array([not reason for reason in self.reasons], dtype=bool)
        self.scatter = _scatter(squares, counts, self.accepted)
        # From here on sums are of those observations that are in now, with the weights that are valid now.
        sum_reflections(*self._arguments())
        if not np.array_equal(accepted, self.accepted):
            return np.inf
        return float(np.sqrt(np.mean((np.log(self.scale) - before)[accepted] ** 2))) if accepted.any() else 0.0

    def _arguments(self, *more: Any) -> tuple[Any, ...]:
        o = self.observations
        return (
            o.offsets, o.reflection, o.intensity, self.sigma, self.s2, self.mean, self.expected, self.totals,
            self.scale, self.b_factor, self.scatter, self.accepted, self.outlier, *more,
        )  # fmt: skip

    def _merge(self) -> None:
        """Bring `totals`, `mean` and `expected` up to date; weights depend on `expected`, hence twice."""
        for _ in range(2):
            sum_reflections(*self._arguments())
            weights, sums = self.totals[:, 0], self.totals[:, 1]
            self.mean = _shell_means(self.totals, self.shell, self.mean)
            prior = PRIOR_WEIGHT / np.maximum(self.expected, self.mean) ** 2
            self.expected = np.maximum((prior * self.mean + sums) / (prior + weights), 0.05 * self.mean)
        sum_reflections(*self._arguments())

    def _judge(self, effective: NDArray[np.float64]) -> tuple[str, ...]:
        """Why a crystal is not to be used; empty where it is.

        A correlation is judged against those of the other crystals, not against a fixed value: choosing crystals that
        agree by chance would make the halves of pure noise agree.
        """
        z = np.arctanh(np.clip(self.correlation, -0.99, 0.99))
        testable = effective > 10
        centre = float(np.median(z[testable])) if testable.any() else 0.0
        excess = np.median(np.abs(z[testable] - centre)) * 1.4826 if testable.any() else 0.0
        limit = CORRELATION_LIMIT * np.sqrt(1 / np.maximum(effective - 3, 1) + excess**2)
        limit *= np.where(self.accepted, 1.0, RETURN)
        reasons = []
        for i, count in enumerate(np.diff(self.observations.offsets)):
            reason = _too_few(count)
            if not reason and abs(self.b_factor[i]) > B_LIMIT:
                reason = f"relative B factor of {self.b_factor[i]:.0f} Å², limit {B_LIMIT:.0f}"
            if not reason and testable[i] and centre - z[i] > limit[i]:
                reason = f"correlation with the others {self.correlation[i]:.2f}, usual {np.tanh(centre):.2f}"
            reasons.append(reason)
        return tuple(reasons)


def _too_few(count: int) -> str:
    return "" if count >= MIN_OBSERVATIONS else f"only {count} usable observations, {MIN_OBSERVATIONS} needed"


def _shells(s2: NDArray[np.float64]) -> NDArray[np.int64]:
    """Resolution shells of equally many unique reflections, for the mean intensity."""
    n_shells = int(np.clip(len(s2) // 100, 1, 25))
    rank = np.empty(len(s2), dtype=np.int64)
    rank[np.argsort(s2, kind="stable")] = np.arange(len(s2))
    return rank * n_shells // len(s2)


def _first_means(o: Observations, shell: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean intensity at the resolution of each unique reflection, before anything is scaled."""
    of_observation = shell[o.reflection]
    means = np.zeros(shell.max() + 1)
    for i in range(len(means)):
        values = o.intensity[of_observation == i]
        # One hot pixel may outweigh a shell; the highest 2 % are cut to the rest.
        means[i] = np.mean(np.minimum(values, np.percentile(values, 98))) if len(values) else 0.0
    return _floored(means)[shell]


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
    return _floored(sums / np.maximum(counts, 1))[shell]


def _floored(means: NDArray[np.float64]) -> NDArray[np.float64]:
    # Beyond the diffraction limit the mean may come out as zero or less; a prior has to be positive.
    highest = means.max()
    return np.maximum(means, 1e-3 * highest if highest > 0 else 1.0)


def _scatter(
    squares: NDArray[np.float64], counts: NDArray[np.float64], accepted: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """κ of each crystal, drawn towards that of all where a crystal has few strong observations."""
    total = counts[accepted].sum()
    common = squares[accepted].sum() / total if total > 10 else 1.0
    common = float(np.clip(common, 0.01, 4.0))
    pooled = (squares + 30 * common) / (counts + 30)
    return np.sqrt(np.clip(pooled, 0.25 * common, 25.0))
