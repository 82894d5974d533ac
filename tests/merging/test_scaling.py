"""Scaling: known scales and B factors, and the kernels against plain numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sfxlab.crystal import point_group
from sfxlab.merging.observations import Observations, gather
from sfxlab.merging.scaling import fit_scales
from sfxlab.merging.scaling_kernels import (
    PRIOR_WEIGHT,
    RETURN,
    SMALL_B_STEP,
    SMALL_STEP,
    STEP,
    assess,
    divide,
    fit_crystals,
    sum_reflections,
    typical_sigma,
    weigh,
)

MakeRun = Callable[..., Any]
GROUP = point_group("4/mmm")


class State:
    """Random arrays as the kernels take them: 6 crystals, 300 observations, 60 reflections."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        n, self.n_crystals, self.n_reflections = 300, 6, 60
        self.offsets = np.array([0, 40, 40, 120, 180, 230, n])
        self.reflection = rng.integers(0, self.n_reflections, n).astype(np.int32)
        self.s2 = rng.uniform(0, 0.04, self.n_reflections)
        self.mean = 100 * np.exp(-20 * self.s2)
        self.expected = self.mean * rng.exponential(1.0, self.n_reflections) + 1.0
        self.totals = np.zeros((2, self.n_reflections, 3))
        self.half = np.array([0, 1, 0, 1, 1, 0], dtype=np.uint8)
        self.scale = np.exp(0.3 * rng.standard_normal(self.n_crystals))
        self.b_factor = 5 * rng.standard_normal(self.n_crystals)
        self.scatter = rng.uniform(0.3, 0.6, self.n_crystals)
        self.accepted = np.array([True, True, True, False, True, True])
        self.outlier = rng.random(n) < 0.05
        self.sigma = rng.uniform(2, 8, n)
        truth = self.f * self.expected[self.reflection] * np.maximum(1 + 0.5 * rng.standard_normal(n), 0)
        self.intensity = truth + self.sigma * rng.standard_normal(n)
        self.intensity[::37] += 3000
        self.y = self.intensity / self.f

    @property
    def crystal(self) -> np.ndarray:
        return np.repeat(np.arange(self.n_crystals), np.diff(self.offsets))

    @property
    def f(self) -> np.ndarray:
        return self.scale[self.crystal] * np.exp(-self.b_factor[self.crystal] * self.s2[self.reflection])

    @property
    def noise(self) -> np.ndarray:
        return (self.sigma / self.f) ** 2

    @property
    def weight(self) -> np.ndarray:
        """1 / variance of each scaled observation, 0 for those that are not used."""
        w = 1 / ((self.scatter[self.crystal] * self.expected[self.reflection]) ** 2 + self.noise)
        return np.where(self.accepted[self.crystal] & ~self.outlier, w, 0)

    def arguments(self, names: str = "") -> tuple[np.ndarray, ...]:
        names = names or (
            "offsets reflection y noise s2 mean expected totals half scale b_factor scatter accepted outlier"
        )
        return tuple(getattr(self, name) for name in names.split())

    def plain_totals(self) -> np.ndarray:
        w, row = self.weight, self.half[self.crystal] * self.n_reflections + self.reflection
        columns = (w, w * self.y, w * w * self.noise)
        sums = [np.bincount(row, c, 2 * self.n_reflections) for c in columns]
        return np.stack(sums, axis=1).reshape(2, self.n_reflections, 3)

    def plain_others(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance of what all others of its half say of the reflection of each observation."""
        w, y = self.weight, self.y
        total = self.totals[self.half[self.crystal], self.reflection]
        prior_mean, expected = self.mean[self.reflection], self.expected[self.reflection]
        rest = total[:, 0] - w
        with np.errstate(divide="ignore", invalid="ignore"):
            raw = (total[:, 1] - w * y) / rest
            share = np.clip((total[:, 2] - w * w * self.noise) / rest, 0, 1)
            information = rest * expected**2
            level = (PRIOR_WEIGHT * prior_mean + information * raw) / (PRIOR_WEIGHT + information)
            level = np.maximum(level, 0.05 * prior_mean)
            rest = rest / (share + (1 - share) * (level / expected) ** 2)
            prior = PRIOR_WEIGHT / (share * np.maximum(level, prior_mean) ** 2 + (1 - share) * level**2)
            m = np.maximum((prior * prior_mean + rest * raw) / (prior + rest), 0.05 * prior_mean)
            v = 1 / (prior + rest)
        alone = (total[:, 0] - w <= 1e-6 * w) | (total[:, 0] == 0)
        return np.where(alone, prior_mean, m), np.where(alone, prior_mean**2 / PRIOR_WEIGHT, v)


@pytest.mark.parametrize("seed", [1, 2])
def test_sums_of_reflections_are_those_of_numpy(seed: int) -> None:
    state = State(seed)
    sum_reflections(*state.arguments("offsets reflection y noise expected totals half scatter accepted outlier"))
    assert state.totals == pytest.approx(state.plain_totals())


def test_divided_intensities_and_weights_are_those_of_numpy() -> None:
    state = State(3)
    (y, noise, factor, weight), own = np.zeros((4, 300)), "scale b_factor"
    divide(*state.arguments(f"offsets reflection intensity sigma s2 {own}"), y, noise)
    weigh(*state.arguments(f"offsets reflection sigma s2 expected {own} scatter accepted outlier"), factor, weight)
    assert y == pytest.approx(state.y)
    assert noise == pytest.approx(state.noise)
    assert factor == pytest.approx(state.f)
    assert weight == pytest.approx(state.weight)


@pytest.mark.parametrize("seed", [1, 2])
def test_fit_of_crystals_is_that_of_numpy(seed: int) -> None:
    state = State(seed)
    state.totals[:] = state.plain_totals()
    m, v = state.plain_others()
    expected, variance = [], np.zeros((2, state.n_crystals))
    for i in range(state.n_crystals):
        own = (state.crystal == i) & ~state.outlier
        s2, intensity, sigma = state.s2[state.reflection[own]], state.intensity[own], state.sigma[own]
        start = np.array([np.log(state.scale[i]), state.b_factor[i]])
        x = start.copy()
        for _ in range(5):
            f = np.exp(x[0] - x[1] * s2)
            model = f * m[own]
            u = 1 / (sigma**2 + (state.scatter[i] * model) ** 2 + f**2 * v[own])
            jacobian = np.stack([model, -s2 * model], axis=1)
            precision = np.diag([1 / 1.0**2, 1 / 25.0**2])
            normal = (jacobian * u[:, None]).T @ jacobian + precision
            variance[0, i] = np.linalg.inv(normal)[0, 0]
            step = np.linalg.solve(normal, (jacobian * u[:, None]).T @ (intensity - model) - precision @ x)
            step = np.clip(step, [-1, -50], [1, 50])
            x += step
            if np.all(np.abs(step) < [SMALL_STEP, SMALL_B_STEP]):
                break
        expected.append(STEP * x + (1 - STEP) * start)
    fit_crystals(*state.arguments(), 25.0, 1.0, variance[1])
    assert variance[1] == pytest.approx(variance[0])
    assert np.log(state.scale) == pytest.approx(np.array(expected)[:, 0])
    assert state.b_factor == pytest.approx(np.array(expected)[:, 1])


@pytest.mark.parametrize("seed", [1, 2])
def test_assessment_is_that_of_numpy(seed: int) -> None:
    state = State(seed)
    state.totals[:] = state.plain_totals()
    m, v = state.plain_others()
    y, noise, k2 = state.y, state.noise, state.scatter[state.crystal] ** 2
    allowed = np.where(state.outlier, 5 * RETURN, 5)
    below_zero = np.where(state.outlier, 4 * RETURN, 4) * np.sqrt(noise)
    outlier = ((y - m) ** 2 > allowed**2 * (noise + k2 * (m**2 + v) + v)) | (y < -below_zero)
    t = state.mean[state.reflection]
    weight = t**2 / (t**2 * (1 + k2) + noise)
    squares, counts, correlation, effective = np.zeros((4, state.n_crystals))
    for i in range(state.n_crystals):
        own = (state.crystal == i) & ~outlier
        strong = own & (noise < (0.5 * m) ** 2) & (v < (0.5 * m) ** 2)
        squares[i] = (((y - m) ** 2 - noise - v) / m**2)[strong].sum()
        counts[i] = strong.sum()
        if own.sum() > 1:
            c = np.cov((m / t)[own], (y / t)[own], aweights=weight[own], ddof=0)
            correlation[i] = c[0, 1] / np.sqrt(c[0, 0] * c[1, 1])
            effective[i] = weight[own].sum() ** 2 / (weight[own] ** 2).sum()
    found = np.zeros((4, state.n_crystals))
    assess(*state.arguments(), 5.0, 4.0, *found)
    assert np.array_equal(state.outlier, outlier)
    assert outlier.any()
    assert found == pytest.approx(np.stack([squares, counts, correlation, effective]))


def test_typical_sigma_is_the_median_at_that_resolution() -> None:
    rng = np.random.default_rng(4)
    offsets = np.array([0, 95, 95, 110])
    resolution, sigma, out = rng.random(110), rng.random(110), np.zeros(110)
    typical_sigma(offsets, resolution, sigma, out, 40)
    for start, stop, groups in ((0, 95, 2), (95, 110, 1)):
        order = start + np.argsort(resolution[start:stop])
        edges = [(stop - start) * g // groups for g in range(groups + 1)]
        for low, high in pairwise(edges):
            assert out[order[low:high]] == pytest.approx(np.median(sigma[order[low:high]]))


def scaled_observations(run: Any) -> Observations:
    return gather([run], GROUP)


def test_known_scales_and_b_factors_are_recovered(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=60, noise=2.0, relative_scatter=0.2)
    observations = scaled_observations(run)
    scaling = fit_scales(observations)
    order = [int(crystal.event[2:]) for crystal in observations.crystals]
    log_scale, b_factor = np.log(run.scale[order]), run.b_factor[order]
    assert scaling.converged
    assert scaling.accepted.all()
    assert np.mean(np.log(scaling.scale)) == pytest.approx(0, abs=1e-9)
    assert np.mean(scaling.b_factor) == pytest.approx(0, abs=1e-9)
    # Scale and B are correlated; what matters is the factor at the resolution of the data.
    s2 = 0.02
    error = np.log(scaling.scale) - log_scale - (scaling.b_factor - b_factor) * s2
    assert np.std(error) < 0.03
    assert np.std(scaling.b_factor - b_factor) < 3.0
    assert np.median(scaling.scatter) == pytest.approx(0.2, abs=0.05)


def test_scales_of_weak_crystals_are_not_biased(synthetic_run: MakeRun) -> None:
    # Choosing strong observations for the fit would make scales of weak crystals too large (METHODS 7.2).
    run = synthetic_run(n_crystals=120, noise=60.0, relative_scatter=0.3, log_scale_spread=0.8, b_spread=0.0)
    observations = scaled_observations(run)
    scaling = fit_scales(observations)
    order = [int(crystal.event[2:]) for crystal in observations.crystals]
    log_scale = np.log(run.scale[order])
    at = -scaling.b_factor * 0.01
    slope = np.polyfit(log_scale, np.log(scaling.scale) + at, 1)[0]
    assert slope == pytest.approx(1.0, abs=0.1)


def test_exactly_the_wild_observations_are_outliers(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=60, outliers=0.005, relative_scatter=0.3)
    observations = scaled_observations(run)
    scaling = fit_scales(observations)
    wild = observations.intensity > 3000
    assert wild.sum() > 50
    assert np.mean(scaling.outlier[wild]) > 0.97
    assert np.mean(scaling.outlier[~wild]) < 1e-3
    assert not np.any(scaling.weight[scaling.outlier])


def test_what_is_far_below_zero_is_an_outlier_however_uncertain_the_reflection_is(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=12, n_observed=150, noise=20.0)
    values = run.reflections["intensity"].to_numpy().copy()
    spoiled = np.random.default_rng(1).choice(len(values), 20, replace=False)
    values[spoiled] = -300.0
    place = run.reflections.schema.get_field_index("intensity")
    table = run.reflections.set_column(place, "intensity", pa.array(values))
    o = scaled_observations(replace(run, reflections=table))
    scaling = fit_scales(o)
    assert scaling.usual.noise == pytest.approx(1, abs=0.15)
    assert set(np.flatnonzero(scaling.outlier)) == set(np.flatnonzero(o.intensity == -300.0))
    # Where all errors are too small, what they allow grows with how far observations really scatter.
    sigma = pa.array(np.full(len(values), 4.0, dtype=np.float32))
    small = table.set_column(table.schema.get_field_index("sigma"), "sigma", sigma)
    assert fit_scales(scaled_observations(replace(run, reflections=small))).usual.noise == pytest.approx(5, abs=1)


def test_pure_noise_makes_no_crystal_an_outlier(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=80, n_observed=100, scrambled=tuple(range(80)))
    scaling = fit_scales(scaled_observations(run))
    assert scaling.accepted.mean() > 0.95


def test_two_crystals_are_enough(synthetic_run: MakeRun) -> None:
    scaling = fit_scales(scaled_observations(synthetic_run(n_crystals=2, n_observed=300)))
    assert scaling.accepted.all()
    assert np.all(np.isfinite(scaling.scale))
