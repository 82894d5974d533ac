"""How many more frames it takes: known laws, simulated data, and what cannot be known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sfxlab.errors import MergeError
from sfxlab.merging import forecast, merge
from sfxlab.merging.figures import correlation, rsplit
from sfxlab.merging.forecast import N_GROUPS, Forecast, deal, forecast_of_groups
from sfxlab.merging.observations import gather

MakeRun = Callable[..., Any]
Values = NDArray[np.float64]


class Shell:
    """Crystals that each see some reflections of one shell, with partiality and noise; sums of groups of them."""

    def __init__(self, seed: int, n_crystals: int = 800, n_reflections: int = 200, noise: float = 3.0) -> None:
        self.rng = np.random.default_rng(seed)
        self.n_reflections = n_reflections
        truth = self.rng.exponential(1.0, n_reflections)
        self.reflection = self.rng.integers(n_reflections, size=(n_crystals, 25))
        scatter = self.rng.exponential(1.0, self.reflection.shape)
        self.y = truth[self.reflection] * scatter + noise * self.rng.standard_normal(self.reflection.shape)

    def sums(self, group: NDArray[np.integer], n_groups: int, n_crystals: int) -> Values:
        out = np.zeros((n_groups, self.n_reflections, 5))
        for g in range(n_groups):
            r, y = (values[:n_crystals][group == g].ravel() for values in (self.reflection, self.y))
            for column, weights in enumerate((None, None, y, y * y)):
                out[g, :, column] = np.bincount(r, weights, self.n_reflections)
        return out

    def found(self, figure: str) -> float:
        """The figure of all crystals, halved at random once."""
        halves = self.sums(self.rng.integers(2, size=len(self.y)), 2, len(self.y))
        often = np.all(halves[..., 0] >= 2, axis=0)
        one, other = halves[:, often, 2] / halves[:, often, 1]
        return correlation(one, other) if figure == "cc_half" else rsplit(one, other)

    def forecast(self, figure: Any, target: float, n_crystals: int) -> Forecast:
        """From the first crystals."""
        group = self.rng.permutation(n_crystals) % N_GROUPS
        return forecast_of_groups(
            self.sums(group, N_GROUPS, n_crystals), np.bincount(group, minlength=N_GROUPS), figure, target,
            shell=(2.2, 2.0), n_frames=10 * n_crystals, unit_variance=np.ones(self.n_reflections), min_observations=2,
            confidence=0.9, seed=1,
        )  # fmt: skip


@pytest.mark.parametrize("figure", ["cc_half", "rsplit"])
def test_what_half_the_crystals_foretell_is_found_with_all(figure: str) -> None:
    hits, times, ratios = 0, 8, []
    for seed in range(times):
        shell = Shell(seed)
        found = shell.found(figure)
        made = shell.forecast(figure, found, 400)
        assert made.verdict != "unknown"
        best, low, high = made.crystals
        hits += low <= 800 <= high
        ratios.append(best / 800)
        _, lower, upper = made.at(800)
        assert (lower <= found <= upper) == (low <= 800 <= high)
    assert hits >= 6
    assert np.median(ratios) == pytest.approx(1, abs=0.15)


def test_limits_get_wider_the_further_they_are() -> None:
    made = Shell(3).forecast("cc_half", 0.97, 800)
    near, far = made.at(1000), made.at(8000)
    spread = [math.log((1 / low - 1) / (1 / high - 1)) for _, low, high in (near, far)]
    assert near[0] < far[0]
    assert spread[1] > spread[0]
    best, low, high = made.more_frames
    assert low < best < high
    assert made.frames[0] == pytest.approx(10 * made.crystals[0])


def test_the_trend_of_random_errors_has_the_known_exponent() -> None:
    for figure, exponent in (("cc_half", 1.0), ("rsplit", 0.5)):
        made = Shell(5, n_crystals=1500, n_reflections=150).forecast(figure, 0.5, 1500)
        assert made._fits[0, 1] == pytest.approx(exponent, rel=0.1)


def test_what_is_reached_already_needs_no_more_frames() -> None:
    shell = Shell(4)
    made = shell.forecast("cc_half", 0.1, 800)
    assert made.verdict == "reached"
    assert made.more_frames[0] == 0
    assert "reached" in str(made)


def test_pure_noise_foretells_nothing() -> None:
    shell = Shell(6)
    shell.y = shell.rng.standard_normal(shell.y.shape)
    for figure, target in (("cc_half", 0.5), ("rsplit", 0.2)):
        made = shell.forecast(figure, target, 800)
        assert made.verdict == "unknown"
        assert "no clear signal" in made.reason
        assert math.isnan(made.crystals[0])
        assert math.isnan(made.at(1000)[0])
        assert "not known" in str(made)


def test_what_is_too_far_is_not_foretold() -> None:
    made = Shell(7, noise=4.0).forecast("cc_half", 0.9999, 800)
    assert made.verdict == "unknown"
    assert "100 times" in made.reason


def test_few_crystals_or_reflections_foretell_nothing() -> None:
    assert "crystals" in Shell(8).forecast("cc_half", 0.5, 60).reason
    assert "reflections" in Shell(8, n_reflections=15).forecast("cc_half", 0.5, 400).reason


@pytest.mark.parametrize("model", ["none", "scaled"])
def test_a_run_foretells_what_more_of_it_gives(synthetic_run: MakeRun, model: Any) -> None:
    settings: dict[str, Any] = {"n_observed": 60, "noise": 60.0, "relative_scatter": 0.5, "log_scale_spread": 0.2}
    small, large = (synthetic_run(n_crystals=n, **settings) for n in (200, 400))
    found = merge(large, "4/mmm", model, polarisation=None).statistics(d_min=2.6).shells[-1]
    made = forecast(small, "4/mmm", 2.6, cc_half=found.cc_half, model=model, polarisation=None)
    assert (made.n_crystals, made.n_frames) == (200, 200)
    assert made.d_max == pytest.approx(found.d_max, rel=0.01)
    assert made.crystals[1] <= 400 <= made.crystals[2]
    with_snr = forecast(small, "4/mmm", 2.6, snr=found.snr, model=model, polarisation=None)
    assert with_snr.crystals[0] == pytest.approx(400, rel=0.4)


def test_crystals_of_a_frame_are_in_one_group(synthetic_run: MakeRun) -> None:
    from sfxlab.crystal import point_group

    o = gather([synthetic_run(n_crystals=300, n_observed=20, crystals_per_frame=3)], point_group("4/mmm"))
    group = deal(o.crystals, np.ones(300, dtype=bool), 20, seed=2)
    assert np.array_equal(group[0::3], group[1::3])
    assert np.array_equal(group[0::3], group[2::3])
    assert np.array_equal(np.bincount(group), np.full(20, 15))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one figure of merit"),
        ({"cc_half": 0.5, "snr": 1.0}, "one figure of merit"),
        ({"cc_half": 1.5}, "cannot become"),
        ({"cc_half": 0.5, "confidence": 1.0}, "between 0 and 1"),
    ],
)
def test_what_cannot_be_asked_is_explained(synthetic_run: MakeRun, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MergeError, match=message):
        forecast(synthetic_run(n_crystals=10), "4/mmm", 2.6, **arguments)
