"""Post-refinement: orientation, cell and node radius of each crystal from its intensities (METHODS.md section 7.4).

The model of an observation is I = f p m + noise with f = G exp(−B s²), p the partiality (`sfxlab.merging.partiality`)
and m the full intensity. Each crystal is fitted to what the other crystals say of its reflections; then intensities,
variances and what all crystals have in common are brought up to date, in turns. How far crystals are from where
indexing put them is learned from all of them (empirical Bayes), so that a crystal with little to say stays where it is.

A crystal is compared with those of its own half data set only, and the halves are brought to one scale and B factor
afterwards. Refined against all, crystals would be made to agree with both halves, and the halves of pure noise with
each other.

Observations of low partiality take part and weigh little, because 1 / variance of I / f p is (f p)² / V(I). A
reflection of which no more than such observations is known is left out by its error, not by their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.merging.blocks import Scaled
from sfxlab.merging.observations import Observations
from sfxlab.merging.partial_fit import PartialFit, start_fit
from sfxlab.merging.partiality import NODE_MODELS, NodeModel
from sfxlab.merging.partiality_kernels import B_FACTOR, LN_RADIUS, LN_SCALE, ROTATION_X, ROTATION_Y
from sfxlab.merging.scaling import Scaling

MAX_RELATIVE_ERROR = 2.0
"""A reflection whose error is more than so many times the mean intensity at its resolution is as good as not seen."""

_CONVERGED = 0.25
_TRIAL_CYCLES = 3
_TRIAL_MULTIPLICITY = 10.0
"""Node models are compared on so many crystals that reflections are observed about so often."""


@dataclass(frozen=True)
class PostRefinement:
    """How the crystals and observations of `Observations` are to be merged."""

    scale: NDArray[np.float64]
    """G of each crystal, (n_crystals,); the mean of ln G over accepted crystals is 0."""
    b_factor: NDArray[np.float64]
    """B of each crystal, (n_crystals,), Å²; the mean over accepted crystals is 0."""
    radius: NDArray[np.float64]
    """R of the nodes of each crystal, (n_crystals,), 1/Å."""
    basis: NDArray[np.float64]
    """Refined reciprocal axes, columns in 1/Å, (n_crystals, 3, 3)."""
    rotation: NDArray[np.float64]
    """By how much each crystal was turned, degrees, (n_crystals,)."""
    misfit: NDArray[np.float64]
    """Mean of (I − f p m)² / V of each crystal, (n_crystals,)."""
    correlation: NDArray[np.float64]
    """Weighted correlation of observed and predicted intensities of each crystal, relative to the mean of the shell."""
    n_parameters: NDArray[np.float64]
    """How many parameters the observations of each crystal decide, and not what is usual, (n_crystals,)."""
    reasons: tuple[str, ...]
    """Why a crystal is not used, (n_crystals,); empty for those that are."""
    node_model: NodeModel
    ln_likelihood_gain: float
    """By how much ln of the likelihood is above that of the other node model in the trial; NaN without one."""
    bandwidth: float
    """Relative spread of photon energies, a standard deviation."""
    angular_spread: float
    """Standard deviation of ε/|q| that is left: mosaicity, and what is not known of orientations."""
    variances: NDArray[np.float64]
    """a², κ², α² of the variance a²σ² + (f m)² (κ² p² + α² q² (∂p/∂ε)²) of an observation."""
    expected: NDArray[np.float64]
    """What each reflection is expected to be, (n_reflections,), for the weights."""
    mean: NDArray[np.float64]
    """Mean intensity at the resolution of each reflection, (n_reflections,)."""
    observations: Observations
    """What was refined; its blocks have the columns share (f p), slope, least_sigma and outlier now."""
    cycles: int
    converged: bool

    @cached_property
    def accepted(self) -> NDArray[np.bool_]:
        """Which crystals are used, (n_crystals,)."""
        return np.array([not reason for reason in self.reasons], dtype=bool)

    def blocks(self) -> Iterator[Scaled]:
        """The observations in blocks, f p of each, by which to divide, and 1 / variance of what comes out.

        Weights are 0 for observations that disagree with the others, and for crystals that are not used.
        """
        noise, proportional, angular = self.variances
        for block in self.observations.blocks("share", "slope", "outlier", "least_sigma"):
            share, slope, expected = block.columns["share"], block.columns["slope"], self.expected[block.reflection]
            counted = noise * block.columns["least_sigma"] ** 2
            variance = counted + expected**2 * (proportional * share**2 + angular * slope**2)
            used = self.accepted[block.crystal] & ~block.columns["outlier"]
            yield block, share, np.where(used, share**2 / variance, 0.0)

    @property
    def n_outliers(self) -> int:
        """How many observations of accepted crystals disagree with the others."""
        return sum(
            int(np.count_nonzero(block.columns["outlier"] & self.accepted[block.crystal]))
            for block in self.observations.blocks("outlier")
        )

    @property
    def inflation(self) -> NDArray[np.float64]:
        """By how much squares of residuals of each crystal are too small for errors of predictions, (n_crystals,).

        It is (n + p) / (n − p) for n observations and p parameters fitted to them (Akaike 1970, Ann. Inst. Statist.
        Math. 22, 203): they make residuals small, and are uncertain themselves.
        """
        n = np.maximum(np.diff(self.observations.offsets), 1)
        share = np.minimum(self.n_parameters / n, 0.5)
        return np.asarray((1 + share) / (1 - share))

    @property
    def max_error(self) -> NDArray[np.float64]:
        """Error beyond which a reflection counts as not observed, (n_reflections,)."""
        return MAX_RELATIVE_ERROR * self.mean

    def history(self) -> dict[str, Any]:
        """What is worth telling about the fit as a whole."""
        used = self.accepted
        return {
            "node_model": self.node_model,
            "ln_likelihood_gain": round(float(self.ln_likelihood_gain), 1),
            "cycles": self.cycles,
            "converged": self.converged,
            "bandwidth": float(f"{self.bandwidth:.3g}"),
            "angular_spread_mrad": float(f"{1e3 * self.angular_spread:.3g}"),
            "median_radius": float(f"{np.median(self.radius[used]):.3g}"),
            "median_rotation_degrees": float(f"{np.median(self.rotation[used]):.2g}"),
            "sigma_factor": round(float(np.sqrt(self.variances[0])), 3),
            "relative_error": round(float(np.sqrt(self.variances[1])), 4),
        }


def post_refine(scaling: Scaling, node_model: NodeModel | None = None, max_cycles: int = 10) -> PostRefinement:
    """Post-refine the crystals, beginning with what scaling found.

    Without `node_model` the one is taken that predicts the observations of a part of the crystals better, by the
    likelihood of each observation given all others. The blocks of the observations need the columns h, k and l.

    Raises `MergeError` where crystals have no photon energy.
    """
    fits: dict[NodeModel, PartialFit] = {}
    trial = _trial(scaling)
    for model in NODE_MODELS if node_model is None else (node_model,):
        fits[model] = start_fit(scaling, model, trial)
        _run(fits[model], _TRIAL_CYCLES)
    chosen = min(fits, key=lambda model: fits[model].cost)
    gain = max(fit.cost for fit in fits.values()) - fits[chosen].cost if len(fits) > 1 else float("nan")
    fit = start_fit(scaling, chosen, scaling.accepted, fits[chosen])
    cycles, converged = _run(fit, max_cycles)
    fit.assess()
    return _result(fit, chosen, gain / 2, cycles, converged)


def _trial(scaling: Scaling) -> NDArray[np.bool_]:
    """Every so many of the crystals, (n_crystals,): enough to compare node models and to learn what is common."""
    o, accepted = scaling.observations, scaling.accepted
    n = int(np.diff(o.offsets)[accepted].sum())
    step = max(int(n / (_TRIAL_MULTIPLICITY * len(o.hkl))), 1)
    chosen = np.zeros(len(accepted), dtype=bool)
    chosen[np.flatnonzero(accepted)[::step]] = True
    return chosen


def _run(fit: PartialFit, max_cycles: int) -> tuple[int, bool]:
    """Cycles until crystals change by little of what is uncertain about them; how many, and whether they did."""
    for cycle in range(1, max_cycles + 1):
        if fit.cycle() < _CONVERGED:
            return cycle, True
    return max_cycles, False


def _result(fit: PartialFit, node_model: NodeModel, gain: float, cycles: int, converged: bool) -> PostRefinement:
    p = fit.parameters
    return PostRefinement(
        scale=np.exp(p[:, LN_SCALE]),
        b_factor=p[:, B_FACTOR].copy(),
        radius=np.exp(p[:, LN_RADIUS]),
        basis=fit.bases(),
        rotation=np.degrees(np.hypot(p[:, ROTATION_X], p[:, ROTATION_Y])),
        misfit=fit.misfit,
        correlation=fit.correlation,
        n_parameters=np.maximum(np.sum(1 - fit.covariance * fit.precision, axis=1), 0.0),
        reasons=fit.reasons,
        node_model=node_model,
        ln_likelihood_gain=gain,
        bandwidth=float(np.sqrt(fit.spreads[0])),
        angular_spread=float(np.sqrt(fit.spreads[1])),
        variances=fit.variances,
        expected=fit.expected_of_all,
        mean=fit.mean,
        observations=fit.observations,
        cycles=cycles,
        converged=converged,
    )
