"""The state of a post-refinement, and one cycle of it; `sfxlab.merging.post_refinement` says what is fitted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from sfxlab.diffraction.refinement import allowed_strains
from sfxlab.errors import MergeError
from sfxlab.geometry import HC_EV_ANGSTROM
from sfxlab.merging.blocks import Block
from sfxlab.merging.half_alignment import alignment
from sfxlab.merging.observations import Observations
from sfxlab.merging.partiality import NODE_MODELS, NodeModel
from sfxlab.merging.partiality_kernels import (
    B_FACTOR,
    LN_RADIUS,
    LN_SCALE,
    N_COMMON,
    ROTATION_X,
    ROTATION_Y,
    assess_crystals,
    orient,
    predict,
    score_crystals,
    sum_partial_reflections,
)
from sfxlab.merging.refinement_kernels import refine_crystals
from sfxlab.merging.resolution_means import floored, resolution_shells
from sfxlab.merging.scaling import B_SPREAD, LOG_SCALE_SPREAD, Scaling, expected_of
from sfxlab.merging.scaling_kernels import RETURN
from sfxlab.merging.usual_crystals import B_LIMIT, CORRELATION_LIMIT, too_few

GEOMETRY = ("h", "k", "l")
"""Columns of indices as measured."""
OUTLIER_LIMIT = 6.0
"""An observation that is further from what the others predict, in standard deviations, is left out."""
MOST_OUTLIERS = 0.25
"""A crystal of whose observations more disagree with the others is left out."""
ROTATION_LIMIT = 8.0
"""A crystal that was turned by more, in units of what is usual, is left out: its orientation was wrong."""
RADII = np.geomspace(2e-5, 2e-2, 21)
"""Radii of nodes that are tried to begin with, 1/Å."""
START_SPREADS = {"rotation": 1e-3, "ln_radius": 0.3, "strain": 1e-3}
"""Standard deviations to begin with, in radians and relative."""
LEAST_SPREADS = {"rotation": 1e-5, "ln_radius": 1e-2, "strain": 1e-5}
LEAST_RELATIVE_ERROR = 0.01
"""Of an observation: gains and responses of detectors are not known better (METHODS.md section 6.5)."""
START_BANDWIDTH, START_ANGULAR_SPREAD = 1e-3, 2e-4
START_VARIANCES = (1.0, 0.1, 1e-10)

_SCORED = 30_000


class PartialFit:
    """Numbers for each crystal and reflection that cycles of post-refinement work on. Observations come in blocks."""

    def __init__(self, scaling: Scaling, node_model: NodeModel, active: NDArray[np.bool_]) -> None:
        self.node_model = NODE_MODELS.index(node_model)
        o = self.observations = scaling.observations
        _set_least_sigma(o)
        self.half = o.half
        n = len(o.crystals)
        self.active, self.counts = active, np.diff(o.offsets)
        self.s2 = o.resolution**2 / 4
        self.shell = resolution_shells(self.s2)
        self.cell_basis = np.ascontiguousarray(o.cell.reciprocal_basis)
        self.strains = np.ascontiguousarray(allowed_strains(o.cell, o.cell.real_basis))
        self.wavenumber = _wavenumbers(o)
        self.rotation, strain = _orientations(o, self.strains)
        self.parameters = np.zeros((n, N_COMMON + len(self.strains)))
        self.parameters[:, LN_SCALE], self.parameters[:, B_FACTOR] = np.log(scaling.scale), scaling.b_factor
        self.parameters[:, N_COMMON:] = strain
        self.start, self.centre = self.parameters.copy(), self.parameters.copy()
        self.centre[:, : LN_RADIUS + 1] = 0.0
        self.precision = _precision(START_SPREADS, len(self.strains))
        self.covariance = np.zeros_like(self.parameters)
        self.spreads = np.array([START_BANDWIDTH**2, START_ANGULAR_SPREAD**2])
        self.variances = np.array(START_VARIANCES)
        self.reasons, self.accepted = scaling.reasons, scaling.accepted & active
        self.mean = scaling.mean.copy()
        self.expected = _expected_of_halves(scaling)
        self.totals = np.zeros((2, len(self.s2), 3))
        self.misfit, self.correlation, self.reachable, self.effective = np.zeros((4, n))
        self.cost = np.inf
        """−2 ln of the likelihood of each observation given all others, up to a constant."""

    def set_radius(self, ln_radius: float) -> None:
        """Give all crystals this radius to begin with."""
        for values in (self.parameters, self.start, self.centre):
            values[:, LN_RADIUS] = ln_radius

    def scan_radii(self) -> None:
        """Begin with the radius that suits best while nothing else is refined."""
        step = max(int(self.counts[self.active].sum() // _SCORED), 1)
        some = np.zeros_like(self.active)
        some[np.flatnonzero(self.active)[::step]] = True
        costs = np.zeros(len(RADII))
        for block in self.observations.blocks(*GEOMETRY, "outlier", "least_sigma"):
            own = block.crystals
            for i, radius in enumerate(RADII):
                self.parameters[:, LN_RADIUS] = np.log(radius)
                arguments = (
                    self.node_model, *_indices(block), block.reflection, block.intensity, block.columns["least_sigma"],
                    self.s2, self.expected.mean(axis=0), *self._lattices(own), self.spreads, some[own],
                    block.columns["outlier"],
                )  # fmt: skip
                costs[i] += score_crystals(*arguments)
        self.set_radius(float(np.log(RADII[int(np.argmin(costs))])))

    def cycle(self) -> float:
        """Fit the crystals to the intensities, then the intensities to the crystals, and see who does not agree.

        Returns by how much the parameters of a crystal change, in units of their standard deviations (the median over
        the crystals, of the parameter that changes most), infinite where another set of crystals is accepted.
        """
        before, accepted = self.parameters.copy(), self.accepted
        self._refine()
        self.predict()
        self.merge()
        self._align_halves()
        self.assess()
        self._sum()
        if not np.array_equal(accepted, self.accepted):
            return np.inf
        change = (self.parameters - before)[accepted] ** 2 / np.maximum(self.covariance[accepted], 1e-300)
        return float(np.sqrt(np.median(change[:, [LN_SCALE, ROTATION_X, ROTATION_Y, LN_RADIUS]], axis=0).max()))

    def predict(self) -> None:
        """Write the columns share and slope."""
        for block in self.observations.blocks(*GEOMETRY):
            own = block.crystals
            share, slope = np.zeros((2, len(block)))
            arguments = (
                self.node_model, *_indices(block), block.reflection, self.s2, *self._lattices(own), self.spreads,
                self.active[own], share, slope,
            )  # fmt: skip
            predict(*arguments)
            self.observations.columns.put(block.number, "share", share)
            self.observations.columns.put(block.number, "slope", slope)

    def merge(self) -> None:
        """Bring `totals`, `mean` and `expected` up to date; weights depend on `expected`, hence twice."""
        for _ in range(2):
            self._sum()
            self.mean = _mean_intensities(self.totals.sum(axis=0), self.shell, self.mean)
            self.expected = expected_of(self.totals, self.expected, self.mean)
        self._sum()

    def assess(self) -> None:
        """Judge observations and crystals, and fit the variances."""
        sums, disagreeing = np.zeros((4, 4)), np.zeros(len(self.counts))
        for block in self._blocks():
            own = block.crystals
            assess_crystals(
                block.offsets, block.reflection, block.intensity, block.columns["least_sigma"], self.s2, self.mean,
                self.expected, self.totals, block.columns["share"], block.columns["slope"], self.variances,
                self.parameters[own], self.half[own], self.active[own], self.accepted[own], block.columns["outlier"],
                OUTLIER_LIMIT, sums, self.misfit[own], self.correlation[own], self.reachable[own],
                self.effective[own],
            )  # fmt: skip
            self.observations.columns.put(block.number, "outlier", block.columns["outlier"])
            disagreeing += np.bincount(block.crystal, block.columns["outlier"], len(disagreeing))
        self.cost = sums[3, 3]
        self.variances = np.maximum(_least_squares(sums[:3, :3], sums[:3, 3]), [0.0, LEAST_RELATIVE_ERROR**2, 0.0])
        self.reasons = self._judge(disagreeing)
        self.accepted = np.array([not reason for reason in self.reasons], dtype=bool) & self.active

    def _judge(self, disagreeing: NDArray[np.float64]) -> tuple[str, ...]:
        """Why a crystal is not to be used; empty where it is.

        Its correlation with the others is judged by how far it is below what its errors allow, against how far that
        is for other crystals; a weak crystal is no bad one.
        """
        z = np.arctanh(np.clip(self.correlation, -0.999, 0.999)) - np.arctanh(np.minimum(self.reachable, 0.999))
        testable = self.active & (self.effective > 10)
        centre = float(np.median(z[testable])) if testable.any() else 0.0
        spread = float(np.median(np.abs(z[testable] - centre))) * 1.4826 if testable.any() else 0.0
        limit = CORRELATION_LIMIT * np.sqrt(1 / np.maximum(self.effective - 3, 1) + spread**2)
        strange = testable & (centre - z > limit * np.where(self.accepted, 1.0, RETURN))
        angle = np.hypot(self.parameters[:, ROTATION_X], self.parameters[:, ROTATION_Y])
        usual_angle = float(np.sqrt(2 / self.precision[ROTATION_X]))
        turned, large = angle > ROTATION_LIMIT * usual_angle, np.abs(self.parameters[:, B_FACTOR]) > B_LIMIT
        lost = disagreeing > MOST_OUTLIERS * self.counts
        reasons = [too_few(count) for count in self.counts.tolist()]
        for i in np.flatnonzero(turned | large | strange | lost).tolist():
            if large[i]:
                reason = f"relative B factor of {self.parameters[i, B_FACTOR]:.0f} Å², limit {B_LIMIT:.0f}"
            elif turned[i]:
                reason = f"turned by {np.degrees(angle[i]):.2f}° to fit, usual {np.degrees(usual_angle):.2f}°"
            elif lost[i]:
                reason = f"{disagreeing[i]:.0f} of {self.counts[i]} observations disagree with the others"
            else:
                reason = f"correlation with the others {self.correlation[i]:.2f}, expected {self.reachable[i]:.2f}"
            reasons[i] = reasons[i] or reason
        return tuple(reasons)

    def _align_halves(self) -> None:
        """Bring the second half to the scale and B factor of the first one: nothing else ties them to each other."""
        log_scale, b_factor = alignment(self.totals, self.expected_of_all, self.s2)
        second = self.half == 1
        self.parameters[second, LN_SCALE] -= log_scale
        self.parameters[second, B_FACTOR] -= b_factor
        # What depends on f follows; variances of observations do not, because f times what is expected stays.
        change = np.exp(b_factor * self.s2 - log_scale)
        self.totals[1] *= np.stack([change**2, change, change**2], axis=1)
        self.expected[1] /= change
        for block in self._blocks():
            factor = np.where(second[block.crystal], change[block.reflection], 1.0)
            for name in ("share", "slope"):
                self.observations.columns.put(block.number, name, block.columns[name] * factor)

    def bases(self) -> NDArray[np.float64]:
        """Reciprocal axes of each crystal as they are now, columns in 1/Å, (n_crystals, 3, 3)."""
        parts, out = np.empty((2, 3, 3)), np.empty_like(self.rotation)
        for i in range(len(out)):
            orient(self.rotation[i], self.cell_basis, self.strains, self.parameters[i], parts)
            out[i] = parts[0] @ parts[1]
        return out

    def _refine(self) -> None:
        common = np.zeros((2, 3))
        for block in self._blocks():
            own = block.crystals
            arguments = (
                self.node_model, *_indices(block), block.reflection, block.intensity, block.columns["least_sigma"],
                self.s2, self.mean, self.expected, self.totals, self.half[own], self.active[own], self.accepted[own],
                block.columns["outlier"], block.columns["share"], block.columns["slope"], self.variances,
                *self._lattices(own), self.spreads, self.centre[own], self.precision, self.covariance[own], common,
            )  # fmt: skip
            refine_crystals(*arguments)
        if not self.accepted.any():
            return
        # The Gauss-Newton step of both spreads, which are variances and cannot be negative.
        found = _least_squares(common[:, :2], common[:, :2] @ self.spreads + common[:, 2])
        self.spreads = np.minimum(found, 4 * self.spreads + 1e-10)
        self.parameters[:, LN_SCALE] -= self.parameters[self.accepted, LN_SCALE].mean()
        self.parameters[:, B_FACTOR] -= self.parameters[self.accepted, B_FACTOR].mean()
        self._learn_priors()

    def _learn_priors(self) -> None:
        """What is usual for crystals, from those that are accepted (one step of expectation maximisation).

        Strains and radii are drawn towards a line through where they began, because a cell that was measured well
        says more of its crystal than the mean over all crystals, and one that was measured badly says less.
        """
        used = self.accepted
        p, c = self.parameters[used], self.covariance[used]
        for i in range(LN_RADIUS, p.shape[1]):
            offset = self.start[:, i] - self.start[used, i].mean()
            spread = float(np.mean(offset[used] ** 2))
            slope = float(np.clip(np.mean(offset[used] * p[:, i]) / spread, 0, 1)) if spread > 1e-20 else 0.0
            self.centre[:, i] = p[:, i].mean() + slope * offset
        square = np.mean((p - self.centre[used]) ** 2 + c, axis=0)
        square[[ROTATION_X, ROTATION_Y]] = square[[ROTATION_X, ROTATION_Y]].mean()
        precision = np.minimum(1 / np.maximum(square, 1e-300), _precision(LEAST_SPREADS, len(self.strains)))
        self.precision[ROTATION_X:] = precision[ROTATION_X:]

    @property
    def expected_of_all(self) -> NDArray[np.float64]:
        """What is expected of each reflection from both halves, (n_reflections,)."""
        return expected_of(self.totals.sum(axis=0), self.expected.mean(axis=0), self.mean)

    def _sum(self) -> None:
        self.totals[:] = 0.0
        for block in self._blocks():
            sum_partial_reflections(
                block.offsets, block.reflection, block.intensity, block.columns["least_sigma"], block.columns["share"],
                block.columns["slope"], self.expected, self.totals, self.variances, self.half[block.crystals],
                self.accepted[block.crystals], block.columns["outlier"],
            )  # fmt: skip

    def _blocks(self) -> Iterator[Block]:
        return self.observations.blocks(*GEOMETRY, "outlier", "share", "slope", "least_sigma")

    def _lattices(self, own: slice) -> tuple[Any, ...]:
        """Rotation, wavenumber, cell, strains and parameters of some crystals, as the kernels take them."""
        return self.rotation[own], self.wavenumber[own], self.cell_basis, self.strains, self.parameters[own]


def _set_least_sigma(o: Observations) -> None:
    """Write the column least_sigma: sigma, but no less than is usual for the crystal at this resolution.

    An intensity that came out too low, by chance or because the spot is not where it was predicted, has counted few
    photons and claims a small error; with it, it would outweigh those that are right.
    """
    for block in o.blocks("typical_sigma"):
        o.columns.put(block.number, "least_sigma", np.maximum(block.sigma, block.columns["typical_sigma"]))


def start_fit(
    scaling: Scaling, node_model: NodeModel, active: NDArray[np.bool_], like: PartialFit | None = None
) -> PartialFit:
    """A fit of the `active` crystals that is ready for its first cycle; it goes on from what `like` learned."""
    fit = PartialFit(scaling, node_model, active)
    if like is None or not like.accepted.any():
        fit.scan_radii()
    else:
        fit.set_radius(float(like.parameters[like.accepted, LN_RADIUS].mean()))
        fit.precision, fit.spreads, fit.variances = like.precision.copy(), like.spreads, like.variances
        known = like.accepted
        fit.parameters[known], fit.reasons = like.parameters[known], scaling.reasons
    fit.predict()
    fit.merge()
    fit.assess()
    fit._sum()
    return fit


def _expected_of_halves(scaling: Scaling) -> NDArray[np.float64]:
    """What scaling says of each reflection from each half by itself, (2, n_reflections)."""
    o = scaling.observations
    half, totals = o.half, np.zeros((2, len(o.hkl), 2))
    for block, factor, weight in scaling.blocks():
        of_half = half[block.crystal]
        for number in (0, 1):
            w = np.where(of_half == number, weight, 0.0)
            totals[number, :, 0] += np.bincount(block.reflection, w, len(o.hkl))
            totals[number, :, 1] += np.bincount(block.reflection, w * block.intensity / factor, len(o.hkl))
    return expected_of(totals, scaling.expected, scaling.mean)


def _indices(block: Block) -> tuple[NDArray[Any], ...]:
    return (block.offsets, *(block.columns[name] for name in GEOMETRY))


def _precision(spreads: dict[str, float], n_strains: int) -> NDArray[np.float64]:
    """1 / variance of the parameters of a crystal that is expected beforehand."""
    angle, ln_radius, strain = (spreads[name] for name in ("rotation", "ln_radius", "strain"))
    return np.array([LOG_SCALE_SPREAD, B_SPREAD, angle, angle, ln_radius, *[strain] * n_strains]) ** -2.0


def _wavenumbers(o: Observations) -> NDArray[np.float64]:
    energy = o.facts.photon_energy
    bad = np.flatnonzero(~(energy > 0))
    if len(bad):
        raise MergeError(
            "partialities cannot be modelled without a photon energy",
            found=f"{len(bad)} crystals have none, the first is {o.crystals[int(bad[0])]}",
            remedy="merge with the model 'scaled', or process with a photon energy in the geometry",
        )
    return np.asarray(energy / HC_EV_ANGSTROM)


def _orientations(o: Observations, strains: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The rotation of each crystal, (n, 3, 3), and the strains that make the merged data's cell its own (n, n_strains).

    The real axes (columns) are those of the cell, deformed by F = U (1 + strain): U is the nearest rotation.
    """
    deformation = np.linalg.inv(o.facts.basis).transpose(0, 2, 1) @ o.cell.reciprocal_basis.T
    u, _, vt = np.linalg.svd(deformation)
    rotation = u @ vt
    stretch = rotation.transpose(0, 2, 1) @ deformation - np.eye(3)
    design = strains.reshape(len(strains), 9).T
    return np.ascontiguousarray(rotation), np.linalg.lstsq(design, stretch.reshape(-1, 9).T, rcond=None)[0].T


def _mean_intensities(
    totals: NDArray[np.float64], shell: NDArray[np.int64], previous: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean intensity at the resolution of each unique reflection; what is badly known counts for little."""
    weights, sums = totals[:, 0], np.minimum(totals[:, 1], 10 * previous * totals[:, 0])
    known = 1 + weights * previous**2
    n_shells = int(shell.max()) + 1
    above, below = np.bincount(shell, sums / known, n_shells), np.bincount(shell, weights / known, n_shells)
    return floored(np.divide(above, below, out=np.zeros(n_shells), where=below > 0))[shell]


def _least_squares(normal: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """The solution of normal equations with no negative component."""
    size = np.sqrt(np.maximum(np.diag(normal), 1e-300))
    lower = np.linalg.cholesky(normal / size[:, None] / size + 1e-9 * np.eye(len(size)))
    return np.asarray(nnls(lower.T, np.linalg.solve(lower, right / size))[0] / size)
