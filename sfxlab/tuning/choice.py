"""Which setting of a sweep to propose, and what it would gain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.recipe import Recipe
from sfxlab.tuning.sweep import Sweep

PRICE_OF_HIT = 0.1
"""A hit without a lattice costs time and says nothing: ten of them weigh as much as one lattice."""
WORTHWHILE_PEAKS = 0.05
"""Settings that find the same lattices are told apart by peaks where these change by so much."""
_RESAMPLES = 2000
_CONFIDENCE = 0.95
_SAME_TIME = 0.1
"""Relative differences that say nothing on a machine with other work."""


@dataclass(frozen=True)
class Gain:
    """What a setting has more than that of the recipe to begin with, in a frame."""

    value: float
    low: float
    high: float
    """Limits that hold for all settings of the sweep at once with 95 % confidence."""
    before: float
    """What the recipe to begin with has."""

    def __str__(self) -> str:
        if self.before <= 0:
            return f"{100 * self.value:+.1f} in 100 frames (between {100 * self.low:+.1f} and {100 * self.high:+.1f})"
        value, low, high = (100 * number / self.before for number in (self.value, self.low, self.high))
        return f"{value:+.0f} % (between {low:+.0f} and {high:+.0f})"


@dataclass(frozen=True)
class Proposal:
    """The recipe to go on with."""

    sweep: Sweep
    setting: int
    """Which of the settings; `sweep.start` where the recipe to begin with is as good as any."""
    best: int
    """The setting of the highest score, whether or not it may be so by chance."""
    lattices: Gain
    """Lattices that `setting`, or else `best`, has more."""

    @property
    def is_better(self) -> bool:
        """Whether there is something to gain that is not likely to be chance."""
        return self.setting != self.sweep.start

    @property
    def recipe(self) -> Recipe:
        """The recipe proposed."""
        return self.sweep.recipe_of(self.setting) if self.is_better else self.sweep.recipe

    @property
    def changes(self) -> Mapping[str, tuple[Any, Any]]:
        """Values before and after of the parameters that change."""
        before, after = self.sweep.settings[self.sweep.start], self.sweep.settings[self.setting]
        return {name: (before[name], after[name]) for name in before if before[name] != after[name]}

    def facts(self) -> dict[str, str]:
        """What would change, in words."""
        table = self.sweep.table.to_pylist()
        before, after = table[self.sweep.start], table[self.setting]
        return {
            "proposed": ", ".join(f"{name} {_short(old)} → {_short(new)}" for name, (old, new) in self.changes.items()),
            "lattices": str(self.lattices),
            "hits without a lattice": f"{_share_for_nothing(before)} → {_share_for_nothing(after)} of all frames",
            "peaks of a frame": f"{_peaks(before)} → {_peaks(after)}",
            "speed": _slower(before["milliseconds"], after["milliseconds"]),
        }

    def __str__(self) -> str:
        if self.is_better:
            return "; ".join(f"{name}: {text}" for name, text in self.facts().items())
        best = "the same" if self.lattices.value == 0 else f"{self.lattices}, which may be chance"
        return (
            f"The recipe is as good as any of {len(self.sweep.settings) - 1} other settings"
            f" (lattices of the best of them: {best})."
        )


def propose(sweep: Sweep) -> Proposal:
    """The setting to go on with.

    The score of a frame is the number of its lattices, less 0.1 for a hit without any. A setting is better than the
    recipe where its mean score is, with 95 % confidence that holds for all settings at once (bootstrap over frames,
    within the two kinds of the sample; White 2000, doi:10.1111/1468-0262.00152). Of those within one standard error of
    the best, that with the most peaks on lattice positions, less those off them, is proposed; then that with the fewest
    changes. Where none has a better score, one with as good a score and clearly better peaks is. Times do not count:
    they differ from day to day.
    """
    lattices, score, peaks = sweep.measure("lattices"), score_of(sweep), _net_peaks(sweep)
    means, net = sweep.mean(score), sweep.mean(peaks)
    resamples = _resampled(sweep)
    best = int(np.argmax(means))
    eligible = _differences(sweep, score, sweep.start, resamples).low > 0
    if eligible.any():
        behind = _differences(sweep, score, best, resamples)
        eligible &= behind.mean + behind.error >= 0
    else:
        worthwhile = net - net[sweep.start] > WORTHWHILE_PEAKS * abs(net[sweep.start])
        more_peaks = _differences(sweep, peaks, sweep.start, resamples).low > 0
        eligible = (means >= means[sweep.start]) & more_peaks & worthwhile
    chosen = _first(sweep, eligible, net) if eligible.any() else sweep.start
    shown = best if chosen == sweep.start else chosen
    more = _differences(sweep, lattices, sweep.start, resamples)
    before = float(sweep.mean(lattices)[sweep.start])
    gain = Gain(float(more.mean[shown]), float(more.low[shown]), float(more.high[shown]), before)
    return Proposal(sweep, chosen, best, gain)


def score_of(sweep: Sweep) -> NDArray[np.float64]:
    """The score of each setting and frame, (n_settings, n_frames), see `propose`."""
    lattices = sweep.measure("lattices")
    return np.asarray(lattices - PRICE_OF_HIT * ((sweep.measure("hit") > 0) & (lattices == 0)))


def ranking(sweep: Sweep) -> list[int]:
    """The settings by mean score, the best first; by peaks where that is equal."""
    score, net = sweep.mean(score_of(sweep)), sweep.mean(_net_peaks(sweep))
    order: list[int] = np.lexsort((-net.round(6), -score.round(9))).tolist()
    return order


def _net_peaks(sweep: Sweep) -> NDArray[np.float64]:
    """Peaks on lattice positions less those off them, of frames with a lattice, (n_settings, n_frames)."""
    found, explained = sweep.measure("lattices") > 0, sweep.measure("explained")
    return np.where(found, 2 * explained - sweep.measure("peaks"), 0.0)


@dataclass(frozen=True)
class _Differences:
    """How far the mean of each setting is above that of one, all (n_settings,)."""

    mean: NDArray[np.float64]
    error: NDArray[np.float64]
    """Standard error of `mean`."""
    reach: float
    """Of the limits that hold for all settings at once, in standard errors."""

    @property
    def low(self) -> NDArray[np.float64]:
        return np.asarray(self.mean - self.reach * self.error)

    @property
    def high(self) -> NDArray[np.float64]:
        return np.asarray(self.mean + self.reach * self.error)


def _differences(
    sweep: Sweep, values: NDArray[np.float64], reference: int, resamples: NDArray[np.float64]
) -> _Differences:
    difference = values - values[reference]
    mean, weights = sweep.mean(difference), sweep.sample.weights
    drawn = resamples @ (difference * weights).T / weights.sum() - mean
    # One frame more that speaks for or against a setting is always possible, so no deviation is nothing.
    error = np.hypot(drawn.std(axis=0), np.abs(difference).max(axis=1) * weights.max() / weights.sum())
    differs = error > 0
    largest = (np.abs(drawn[:, differs]) / error[differs]).max(axis=1, initial=0.0)
    return _Differences(mean, error, float(np.quantile(largest, _CONFIDENCE)))


def _resampled(sweep: Sweep) -> NDArray[np.float64]:
    """How often each frame is drawn in each resample, (n_resamples, n_frames); as many of each kind as there are."""
    random = np.random.default_rng(0)
    promising = sweep.sample.promising
    counts = np.zeros((_RESAMPLES, len(promising)))
    for kind in (promising, ~promising):
        n = int(kind.sum())
        if n:
            counts[:, kind] = random.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    return counts


def _first(sweep: Sweep, eligible: NDArray[np.bool_], net: NDArray[np.float64]) -> int:
    begin = sweep.settings[sweep.start]

    def rank(setting: int) -> tuple[float, int, int]:
        values = sweep.settings[setting]
        return -round(float(net[setting]), 6), sum(values[name] != begin[name] for name in values), setting

    return min(np.flatnonzero(eligible).tolist(), key=rank)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _share_for_nothing(row: Mapping[str, float]) -> str:
    return f"{row['hits'] - row['indexed']:.1%}"


def _peaks(row: Mapping[str, float]) -> str:
    if not row["indexed"]:
        return "none on lattices"
    return f"{row['explained']:.0f} on lattices and {row['unexplained']:.0f} off"


def _slower(before: float, after: float) -> str:
    difference = after - before
    if abs(difference) < _SAME_TIME * before:
        return f"the same, {after:.1f} ms a frame"
    return f"{abs(difference):.1f} ms a frame {'slower' if difference > 0 else 'faster'}"
