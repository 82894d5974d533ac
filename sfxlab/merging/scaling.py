"""Scale and relative B factor of each crystal, fitted to what the other crystals say (METHODS.md section 7.2).

The model of an observation is I = f m (1 + κ δ) + noise with f = G exp(−B s²), s = sinθ/λ = |q|/2, m the full
intensity, and κ δ what partiality and all else leave unexplained. All observations take part, weak and negative ones
too, because choosing strong ones would make the scales of weak crystals too large.

A crystal is compared with those of its own half data set only, and the halves are brought to one scale and B factor
afterwards (`sfxlab.merging.half_alignment`). Compared with all, crystals and observations that agree with both halves
would count more than others, and the halves of pure noise would agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.merging.blocks import Block, Scaled
from sfxlab.merging.half_alignment import alignment
from sfxlab.merging.observations import Observations
from sfxlab.merging.resolution_means import first_means, resolution_shells, shell_means
from sfxlab.merging.scaling_kernels import (
    PRIOR_WEIGHT,
    STEP,
    assess,
    divide,
    fit_crystals,
    sum_reflections,
    typical_sigma,
    weigh,
)
from sfxlab.merging.usual_crystals import (
    Usual,
    judge,
    noise_below_zero,
    pooled_scatter,
    too_few,
    usual_correlation,
    usual_scatter,
)

B_SPREAD = 25.0
"""Standard deviation of the relative B factors of crystals that is expected beforehand, Å²."""
LOG_SCALE_SPREAD = 1.0
"""Standard deviation of ln G that is expected beforehand."""
OUTLIER_LIMIT = 10.0
"""An observation that is further from what the others predict, in standard deviations, is left out.

Partiality makes the scatter far from normal: one full observation may be several times the mean of partial ones.
"""

_CONVERGED = 0.1
_NEIGHBOURS = 40


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

    def blocks(self) -> Iterator[Scaled]:
        """The observations in blocks, f of each, by which to divide, and 1 / variance of what comes out.

        Weights are 0 for observations that disagree with the others, and for crystals that are not used.
        """
        s2 = self.observations.resolution**2 / 4
        for block in self.observations.blocks("typical_sigma", "outlier"):
            own, (factor, weight) = block.crystals, np.empty((2, len(block)))
            weigh(
                block.offsets, block.reflection, block.columns["typical_sigma"], s2, self.expected, self.scale[own],
                self.b_factor[own], self.scatter[own], self.accepted[own], block.columns["outlier"], factor, weight,
            )  # fmt: skip
            yield block, factor, weight

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

    Each crystal is compared with what the other crystals of its half say of its reflections (leave one out), shrunk
    towards the mean intensity at that resolution in proportion to how little they say. The result does not depend on
    the order of the crystals in the runs, nor on the blocks that the observations come in.
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
        self.s2, self.half = o.resolution**2 / 4, o.half
        set_typical_sigma(o)
        for block in o.blocks():
            o.columns.put(block.number, "outlier", np.zeros(len(block), dtype=bool))
        self.shell = resolution_shells(self.s2)
        self.mean = first_means(o, self.shell)
        self.expected = self.mean.copy()
        self.totals = np.zeros((2, len(self.s2), 3))
        self.scale, self.b_factor, self.scatter = np.ones(n), np.zeros(n), np.ones(n)
        self.correlation = np.zeros(n)
        self.too_few = [too_few(count) for count in np.diff(o.offsets).tolist()]
        self.reasons = tuple(self.too_few)
        self.accepted = np.array([not reason for reason in self.reasons], dtype=bool)
        self.usual = Usual(1.0, 0.0, 0.0, noise_below_zero(o))
        self._divided: dict[int, Divided] = {}

    def cycle(self) -> float:
        """Fit the crystals to the intensities, then the intensities to the crystals, and see who does not agree.

        Returns the change of ln G, in units of its standard deviation (both root mean squares over the crystals),
        infinite where another set of crystals is accepted than before.
        """
        o, before, accepted = self.observations, np.log(self.scale), self.accepted
        scale, b_factor, variance = self.scale.copy(), self.b_factor.copy(), np.ones(len(self.scale))
        log_shift, b_shift = alignment(self.totals, self.expected, self.s2)
        for block, y, noise in self._blocks():
            own = block.crystals
            arguments = self._arguments(block, y, noise, scale[own], b_factor[own])
            fit_crystals(*(*arguments, B_SPREAD, LOG_SCALE_SPREAD, variance[own]))
        self._set_scales(scale * np.exp(-log_shift * self.half), b_factor - b_shift * self.half)
        self._merge()
        squares, counts, effective = np.zeros((3, len(o.crystals)))
        for block, y, noise in self._blocks():
            own = block.crystals
            figures = (values[own] for values in (squares, counts, self.correlation, effective))
            arguments = self._arguments(block, y, noise, self.scale[own], self.b_factor[own])
            assess(*(*arguments, OUTLIER_LIMIT, self.usual.below_zero, *figures))
            o.columns.put(block.number, "outlier", block.columns["outlier"])
        correlation, spread = usual_correlation(self.correlation, effective)
        self.reasons = judge(
            self.too_few, self.b_factor, self.correlation, effective, self.accepted, correlation, spread
        )
        self.accepted = np.array([not reason for reason in self.reasons], dtype=bool)
        self.usual = Usual(usual_scatter(squares, counts, self.accepted), correlation, spread, self.usual.noise)
        self.scatter = pooled_scatter(squares, counts, self.usual.scatter)
        # From here on sums are of those observations that are in now, with the weights that are valid now.
        self._sum()
        if not np.array_equal(accepted, self.accepted):
            return np.inf
        change = (np.log(self.scale) - before)[accepted]
        return float(np.sqrt(np.sum(change**2) / variance[accepted].sum())) if accepted.any() else 0.0

    def _blocks(self) -> Iterator[Scaled]:
        """The observations in blocks, and I / f and (σ / f)² of each."""
        for block in self.observations.blocks("typical_sigma", "outlier"):
            divided = self._divided.get(block.number)
            if divided is None:
                divided = _divided(block, self.s2, self.scale, self.b_factor)
                # What does not fit into memory is reckoned again each time.
                if not self.observations.columns.on_disk:
                    self._divided[block.number] = divided
            yield block, *divided

    def _arguments(
        self, block: Block, y: NDArray[np.float64], noise: NDArray[np.float64], *scales: NDArray[np.float64]
    ) -> tuple[Any, ...]:
        """What the kernels take; numbers of crystals are views that they change in place."""
        own = block.crystals
        return (
            block.offsets, block.reflection, y, noise, self.s2, self.mean, self.expected, self.totals, self.half[own],
            *scales, self.scatter[own], self.accepted[own], block.columns["outlier"],
        )  # fmt: skip

    def _set_scales(self, scale: NDArray[np.float64], b_factor: NDArray[np.float64]) -> None:
        """Take these scales, with means of 0 over the accepted crystals."""
        self._divided.clear()
        self.scale, self.b_factor = scale, b_factor
        if self.accepted.any():
            self.scale /= np.exp(np.mean(np.log(scale[self.accepted])))
            self.b_factor -= np.mean(b_factor[self.accepted])

    def _sum(self) -> None:
        self.totals[:] = 0.0
        for block, y, noise in self._blocks():
            own = block.crystals
            sum_reflections(
                block.offsets, block.reflection, y, noise, self.expected, self.totals, self.half[own],
                self.scatter[own], self.accepted[own], block.columns["outlier"],
            )  # fmt: skip

    def _merge(self) -> None:
        """Bring `totals`, `mean` and `expected` up to date."""
        self._sum()
        self.mean = shell_means(self.totals.sum(axis=0), self.shell, self.mean)
        self.expected = expected_of(self.totals.sum(axis=0), self.expected, self.mean)
        self._sum()


Divided = tuple[NDArray[np.float64], NDArray[np.float64]]
"""I / f and (σ / f)² of the observations of a block."""


def _divided(
    block: Block, s2: NDArray[np.float64], scale: NDArray[np.float64], b_factor: NDArray[np.float64]
) -> Divided:
    """Observations, which have the column typical_sigma, by the scales of all crystals."""
    y, noise = np.empty((2, len(block)))
    own = block.crystals
    divide(
        block.offsets, block.reflection, block.intensity, block.columns["typical_sigma"], s2, scale[own],
        b_factor[own], y, noise,
    )  # fmt: skip
    return y, noise


def expected_of(
    totals: NDArray[np.float64], before: NDArray[np.float64], mean: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What is expected of reflections by their sums, (..., n_reflections, 3), and what was expected `before`."""
    prior = PRIOR_WEIGHT / np.maximum(before, mean) ** 2
    found = (prior * mean + totals[..., 1]) / (prior + totals[..., 0])
    return np.asarray(np.maximum(found, 0.05 * mean))


def fit_to_others(scaling: Scaling, others: Observations, cycles: int = 8) -> CrystalScales:
    """Scales of other crystals by what those of `scaling` say; these stay as they are.

    `others` has the same rows of reflections as `scaling`. Its column outlier is written.
    """
    n = len(others.crystals)
    scale, b_factor, correlation, usual = np.ones(n), np.zeros(n), np.zeros(n), scaling.usual
    scatter, outside, effective = np.full(n, np.sqrt(usual.scatter)), np.zeros(n, dtype=bool), np.zeros(n)
    s2, half = others.resolution**2 / 4, others.half
    totals = _totals(scaling)
    for block in others.blocks("typical_sigma"):
        own, outlier = block.crystals, np.zeros(len(block), dtype=bool)
        for _ in range(cycles):
            arguments = [
                block.offsets, block.reflection, *_divided(block, s2, scale, b_factor), s2, scaling.mean,
                scaling.expected, totals, half[own], scale[own], b_factor[own], scatter[own], outside[own], outlier,
            ]  # fmt: skip
            fit_crystals(*(*arguments, B_SPREAD, LOG_SCALE_SPREAD, np.empty(own.stop - own.start)))
            arguments[2:4] = _divided(block, s2, scale, b_factor)
            squares, counts = np.zeros((2, own.stop - own.start))
            figures = squares, counts, correlation[own], effective[own]
            assess(*(*arguments, OUTLIER_LIMIT, usual.below_zero, *figures))
            scatter[own] = pooled_scatter(squares, counts, usual.scatter)
        others.columns.put(block.number, "outlier", outlier)
    few = [too_few(count) for count in np.diff(others.offsets).tolist()]
    reasons = judge(few, b_factor, correlation, effective, ~outside, usual.correlation, usual.spread)
    return CrystalScales(scale, b_factor, scatter, correlation, reasons)


def drift(scaling: Scaling) -> float:
    """By how much scales would change in another fit: the root mean square of ln f at the mean resolution.

    What crystals of a half have in common does not count. After a fit it is small, and it grows as other crystals are
    accepted.
    """
    o, totals = scaling.observations, _totals(scaling)
    s2, half = o.resolution**2 / 4, o.half
    scale, b_factor = scaling.scale.copy(), scaling.b_factor.copy()
    for block in o.blocks("typical_sigma", "outlier"):
        own = block.crystals
        fit_crystals(
            block.offsets, block.reflection, *_divided(block, s2, scaling.scale, scaling.b_factor),
            s2, scaling.mean, scaling.expected, totals, half[own], scale[own], b_factor[own], scaling.scatter[own],
            scaling.accepted[own], block.columns["outlier"], B_SPREAD, LOG_SCALE_SPREAD, np.empty(own.stop - own.start),
        )  # fmt: skip
    change = np.log(scale / scaling.scale) - (b_factor - scaling.b_factor) * s2.mean()
    squares = [(change[own] - change[own].mean()) ** 2 for n in (0, 1) if (own := scaling.accepted & (half == n)).any()]
    return float(np.sqrt(np.mean(np.concatenate(squares)))) / STEP if squares else 0.0


def set_typical_sigma(o: Observations) -> None:
    """Write the column typical_sigma."""
    for block in o.blocks():
        sigma = np.empty(len(block))
        typical_sigma(block.offsets, o.resolution[block.reflection], block.sigma, sigma, _NEIGHBOURS)
        o.columns.put(block.number, "typical_sigma", sigma)


def _totals(scaling: Scaling) -> NDArray[np.float64]:
    """The sums of the observations that are used, of both halves."""
    o = scaling.observations
    totals, s2, half = np.zeros((2, len(scaling.expected), 3)), o.resolution**2 / 4, o.half
    for block in o.blocks("typical_sigma", "outlier"):
        own = block.crystals
        sum_reflections(
            block.offsets, block.reflection, *_divided(block, s2, scaling.scale, scaling.b_factor), scaling.expected,
            totals, half[own], scaling.scatter[own], scaling.accepted[own], block.columns["outlier"],
        )  # fmt: skip
    return totals
