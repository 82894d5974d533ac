"""How many more frames it takes until merged data are as good as wanted, from how they have become better so far.

Frames are dealt into groups at random. Merging random nested subsets of the groups shows how a figure of merit of a
resolution shell grows with the number of crystals n. Where errors are random the trend is known:

    CC1/2 = 1 / (1 + (c/n)^p), p = 1: signal and noise of half the data (Karplus & Diederichs 2012, Science 336, 1030)
    Rsplit = (c/n)^p, p = 1/2 (White et al. 2012, J. Appl. Cryst. 45, 335)
    mean I/σ = (n/c)^p, p = 1/2

c and p are fitted, p with that expectation. Their errors are those of a jackknife over the groups; to them comes what
CC1/2 depends on how the frames happen to be halved, because the halves of a data set are one such draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.stats import t as student

from sfxlab.crystal import UnitCell
from sfxlab.crystal import point_group as point_group_named
from sfxlab.errors import MergeError
from sfxlab.merging.crystals import CrystalIds, ProcessedRun, tables
from sfxlab.merging.figures import shell_edges
from sfxlab.merging.merge import errors_of, sum_observations_by
from sfxlab.merging.models import Model, columns_of, effects_of, fit_model, without_harmful
from sfxlab.merging.observations import MEMORY_LIMIT, gather
from sfxlab.merging.polarisation import parse_polarisation

Figure = Literal["cc_half", "rsplit", "snr"]
Verdict = Literal["reached", "reachable", "unknown"]
Values = NDArray[np.float64]

N_GROUPS = 48
"""Groups that frames are dealt into; subsets are of whole groups."""
N_DRAWS = 32
# Groups that a replicate of the jackknife lacks.
_LEFT_OUT = 2
MOST_TIMES = 100.0
"""Further than this many times the data there are nothing is foretold."""
_FRACTIONS = (1 / 8, 1 / 4, 1 / 2, 1.0)
_LEAST_PAIRS = 20
# Mean number of observations of a reflection in half of a subset, for the subset to count.
_LEAST_MULTIPLICITY = 4.0


@dataclass(frozen=True)
class _Law:
    """How a figure of merit depends on (c/n)^p."""

    value: Callable[[Values], Values]
    """From u = (c/n)^p."""
    inverse: Callable[[float], float]
    """The u of a value."""
    exponent: float
    """p where errors are random."""
    tolerance: float
    """How far from that p may be."""
    possible: tuple[float, float]
    """Least and greatest value that can be asked for."""
    higher_is_better: bool


_LAWS: Mapping[Figure, _Law] = {
    "cc_half": _Law(lambda u: 1 / (1 + u), lambda v: 1 / v - 1, 1.0, 0.15, (0.0, 1.0), True),
    "rsplit": _Law(lambda u: u, lambda v: v, 0.5, 0.08, (0.0, math.inf), False),
    "snr": _Law(lambda u: 1 / u, lambda v: 1 / v, 0.5, 0.08, (0.0, math.inf), True),
}


@dataclass(frozen=True)
class TrendPoint:
    """A figure of merit of random subsets of one size."""

    n_crystals: float
    value: float
    """Mean over the draws."""
    spread: float
    """Standard deviation of a draw."""


@dataclass(frozen=True)
class Forecast:
    """How a figure of merit of a resolution shell goes on; what is not known is NaN."""

    figure: Figure
    target: float
    d_max: float
    """Limits of the shell, Å."""
    d_min: float
    confidence: float
    """Chance that what will be found lies between the limits that are given."""
    n_crystals: int
    """Crystals there are."""
    n_frames: int
    """Frames that were recorded for them, hits or not."""
    trend: tuple[TrendPoint, ...]
    verdict: Verdict
    """`reached` already, `reachable`, or `unknown` for the reason given."""
    reason: str
    crystals: tuple[float, float, float]
    """Crystals that are needed, all in all: the best estimate, and the lower and upper limit."""
    _fits: Values = field(repr=False)
    """ln c and p, of all groups and without some of them in turns, (n, 2)."""
    _noise: float = field(repr=False)
    """Standard deviation of ln u by how frames are halved."""

    @property
    def value(self) -> float:
        """What the figure is now: the mean over random halves."""
        return self.trend[-1].value if self.trend else math.nan

    @property
    def frames(self) -> tuple[float, float, float]:
        """Frames that are needed, all in all, where as many of them give crystals as so far."""
        per_crystal = self.n_frames / self.n_crystals
        best, low, high = (n * per_crystal for n in self.crystals)
        return best, low, high

    @property
    def more_frames(self) -> tuple[float, float, float]:
        """Frames that are needed besides those there are: the best estimate, and the lower and upper limit."""
        best, low, high = (max(n - self.n_frames, 0.0) for n in self.frames)
        return best, low, high

    def at(self, n_crystals: float) -> tuple[float, float, float]:
        """The figure with so many crystals: the best estimate, and the limits of what will be found."""
        if not len(self._fits):
            return math.nan, math.nan, math.nan
        log_u = self._fits[:, 1] * (self._fits[:, 0] - math.log(n_crystals))
        margin = _margin(log_u, self._noise, self.confidence)
        values = _LAWS[self.figure].value(np.exp(log_u[0] + np.array([0.0, -margin, margin])))
        return float(values[0]), float(min(values[1:])), float(max(values[1:]))

    def __str__(self) -> str:
        names = {"cc_half": "CC1/2", "rsplit": "Rsplit", "snr": "I/σ"}
        goal = f"{names[self.figure]} = {self.target:g} at {self.d_min:.2f} Å"
        if self.verdict == "unknown":
            return f"{goal}: not known. {self.reason}"
        if self.verdict == "reached":
            return f"{goal}: reached, it is {self.value:.3f}"
        best, low, high = self.more_frames
        return f"{goal}: about {best:,.0f} more frames ({low:,.0f} to {high:,.0f}, {self.confidence:.0%} confidence)"


def forecast(
    runs: ProcessedRun | Sequence[ProcessedRun],
    point_group: str,
    resolution: float,
    *,
    cc_half: float | None = None,
    rsplit: float | None = None,
    snr: float | None = None,
    confidence: float = 0.9,
    model: Model = "scaled",
    cell: UnitCell | None = None,
    min_observations: int = 2,
    polarisation: str | None = "horiz",
    memory_limit: int = MEMORY_LIMIT,
    seed: int = 0,
) -> Forecast:
    """How many more frames are needed until CC1/2, Rsplit or the mean of I/σ is that at a resolution (Å).

    "At" a resolution is in the outermost of ten shells of equal volume that end there. Further frames are supposed to
    be like those there are. Exactly one of `cc_half`, `rsplit` (a fraction) and `snr` is given; other arguments are as
    of `merge`. `seed` chooses the subsets.

    Raises `MergeError` where nothing can be merged or nothing sensible is asked for.
    """
    given: Sequence[ProcessedRun] = runs if isinstance(runs, Sequence) else [runs]
    figure, target = _goal({"cc_half": cc_half, "rsplit": rsplit, "snr": snr})
    if not (resolution > 0 and 0 < confidence < 1):
        raise MergeError("resolution is in Å, and confidence between 0 and 1", found=(resolution, confidence))
    observations = gather(
        given, point_group_named(point_group), cell=cell, polarisation=parse_polarisation(polarisation),
        memory_limit=memory_limit, extra=columns_of(model),
    )  # fmt: skip
    scaling = fit_model(observations, model)
    if scaling is not None:
        scaling = without_harmful(scaling, effects_of(scaling))
    used = np.ones(len(observations.crystals), dtype=bool) if scaling is None else scaling.accepted
    group = deal(observations.crystals, used, N_GROUPS, seed)
    sums = sum_observations_by(observations, scaling, group, N_GROUPS)
    r_min = float(observations.resolution.min())
    low, high = shell_edges(r_min, max(1 / resolution, r_min * 1.001), 10)[-2:]
    inside = (observations.resolution >= low) & (observations.resolution <= high * (1 + 1e-9))
    unit_variance = errors_of(observations, scaling, sums).unit_variance[inside]
    return forecast_of_groups(
        sums.values[:, inside], np.bincount(group[used], minlength=N_GROUPS), figure, target,
        shell=(1 / low, resolution), n_frames=sum(len(t) for run in given for t in tables(run, "frames", ["frame"])),
        unit_variance=unit_variance, min_observations=min_observations, confidence=confidence, seed=seed,
    )  # fmt: skip


def _goal(wanted: Mapping[Figure, float | None]) -> tuple[Figure, float]:
    asked = [(figure, value) for figure, value in wanted.items() if value is not None]
    if len(asked) != 1:
        raise MergeError(
            "a forecast is of one figure of merit", found=[f for f, _ in asked], expected="cc_half, rsplit or snr"
        )
    ((figure, target),) = asked
    low, high = _LAWS[figure].possible
    if not low < target < high:
        raise MergeError(f"{figure} cannot become this", found=target, expected=f"between {low:g} and {high:g}")
    return figure, target


def deal(crystals: CrystalIds, used: NDArray[np.bool_], n_groups: int, seed: int) -> NDArray[np.uint8]:
    """Deal the frames of used crystals into groups at random, (n_crystals,); all crystals of a frame are in one."""
    # Crystals of a frame follow each other.
    change = np.ones(len(crystals), dtype=bool)
    events = crystals.event.to_numpy(zero_copy_only=False)
    change[1:] = (events[1:] != events[:-1]) | (crystals.path[1:] != crystals.path[:-1])
    frame = np.cumsum(change) - 1
    present = np.unique(frame[used])
    of_frame = np.zeros(frame[-1] + 1, dtype=np.uint8)
    of_frame[np.random.default_rng(seed).permutation(present)] = np.arange(len(present)) % n_groups
    return np.asarray(of_frame[frame])


def forecast_of_groups(
    sums: Values,
    n_crystals: NDArray[np.integer],
    figure: Figure,
    target: float,
    *,
    shell: tuple[float, float],
    n_frames: int,
    unit_variance: Values,
    min_observations: int,
    confidence: float,
    seed: int,
) -> Forecast:
    """A forecast from the sums (as of `Sums`) of the reflections of one shell, (n_groups, n_reflections, 5).

    `n_crystals` are in each group, (n_groups,), and `unit_variance` is that of the error model, (n_reflections,).
    """
    law, n_groups = _LAWS[figure], len(sums)
    rng = np.random.default_rng([seed, 1])
    orders = [rng.permutation(n_groups) for _ in range(N_DRAWS)]

    columns = np.ascontiguousarray(np.moveaxis(sums[..., :3], -1, 0))

    def measured(without: NDArray[np.integer]) -> tuple[Values, Values, Values]:
        """Numbers of crystals, means and spreads of each size of subsets, without some groups."""
        drawn = np.empty((N_DRAWS, 2, len(_FRACTIONS)))
        for draw, order in enumerate(orders):
            members = _members(order[~np.isin(order, without)], n_groups)
            drawn[draw, 0] = members.sum(axis=1) @ n_crystals
            drawn[draw, 1] = _figures(columns, members, figure, unit_variance, min_observations)
        with np.errstate(invalid="ignore"):
            known = np.isfinite(drawn[:, 1])
            weight = known / np.maximum(known.sum(axis=0), 1)
            values = np.where(known, drawn[:, 1], 0.0)
            mean = np.where(known.any(axis=0), (weight * values).sum(axis=0), np.nan)
            spread = np.sqrt((weight * (values - mean) ** 2).sum(axis=0))
        return drawn[:, 0].mean(axis=0), mean, spread

    nothing = np.empty(0, dtype=np.int64)
    n, mean, spread = measured(nothing)
    trend = tuple(TrendPoint(*(float(x) for x in point)) for point in zip(n, mean, spread, strict=True))
    unknown = Forecast(
        figure, target, *shell, confidence, int(n_crystals.sum()), n_frames, trend, "unknown",
        _why_unknown(figure, trend, sums, n_crystals, min_observations),
        (math.nan, math.nan, math.nan), np.empty((0, 2)), math.nan,
    )  # fmt: skip
    if unknown.reason:
        return unknown
    sizes = _usable_sizes(sums)
    left_out = [nothing, *np.split(np.arange(n_groups), n_groups // _LEFT_OUT)]
    fits = np.array([_fit(law, *(values[sizes] for values in measured(some))) for some in left_out])
    noise = float(spread[-1]) / abs(_slope(law, float(mean[-1])))
    log_n = fits[:, 0] - math.log(law.inverse(target)) / fits[:, 1]
    reached = mean[-1] >= target if law.higher_is_better else mean[-1] <= target
    if not reached and (log_n[0] > math.log(MOST_TIMES * n[-1]) or fits[0, 1] < law.exponent / 3):
        reason = f"The trend does not lead there within {MOST_TIMES:.0f} times the data."
        return replace(unknown, reason=reason, _fits=fits, _noise=noise)
    margin = _margin(log_n, noise / fits[0, 1], confidence)
    best, low, high = (math.exp(min(log_n[0] + x, 700.0)) for x in (0.0, -margin, margin))
    verdict: Verdict = "reached" if reached else "reachable"
    return replace(unknown, verdict=verdict, crystals=(best, low, high), _fits=fits, _noise=noise)


def _members(order: NDArray[np.integer], n_groups: int) -> Values:
    """Which groups are in both halves of nested subsets, the groups in this order, (n_sizes, 2, n_groups): 0 or 1."""
    pairs = len(order) // 2
    members = np.zeros((len(_FRACTIONS), 2, n_groups))
    for i, fraction in enumerate(_FRACTIONS):
        stop = 2 * max(round(fraction * pairs), 1)
        members[i, 0, order[0:stop:2]] = members[i, 1, order[1:stop:2]] = 1
    return members


def _figures(columns: Values, members: Values, figure: Figure, unit_variance: Values, least: int) -> Values:
    """Figures of merit of subsets, (n_sizes,); NaN for few reflections.

    `columns` are number, Σ w and Σ w y of groups, (3, n_groups, n_reflections).
    """
    count, total, first = np.einsum("shg,cgr->cshr", members, columns, optimize=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        if figure == "snr":
            # I/σ = (Σ w y / Σ w) / √(u / Σ w)
            enough = count.sum(axis=1) >= least
            value = _mean(first.sum(axis=1) / np.sqrt(total.sum(axis=1) * unit_variance), enough)
        else:
            enough = np.all(count >= least, axis=1)
            one, other = np.moveaxis(first / total, 1, 0)
            if figure == "rsplit":
                value = np.sqrt(2) * _mean(np.abs(one - other), enough) / _mean(one + other, enough)
            else:
                one, other = (x - _mean(x, enough)[:, None] for x in (one, other))
                value = _mean(one * other, enough) / np.sqrt(_mean(one**2, enough) * _mean(other**2, enough))
    return np.where(enough.sum(axis=1) >= _LEAST_PAIRS, value, np.nan)


def _mean(values: Values, enough: NDArray[np.bool_]) -> Values:
    """Means over the reflections that were seen often enough, (n_sizes, n_reflections) → (n_sizes,)."""
    return np.asarray(np.where(enough, values, 0.0).sum(axis=1) / enough.sum(axis=1))


def _why_unknown(
    figure: Figure, trend: Sequence[TrendPoint], sums: Values, n_crystals: NDArray[np.integer], least: int
) -> str:
    """Why nothing can be foretold; empty where something can."""
    if n_crystals.sum() < 2 * len(n_crystals):
        return f"There are {n_crystals.sum()} crystals, and {2 * len(n_crystals)} are needed to see a trend."
    n_seen = int(np.count_nonzero(sums[..., 0].sum(axis=0) >= 2 * least))
    if n_seen < _LEAST_PAIRS or not math.isfinite(trend[-1].value):
        return f"Only {n_seen} reflections of this shell were seen often enough, {_LEAST_PAIRS} are needed."
    now = trend[-1]
    if figure == "rsplit":
        lost = not 0 < now.value < 1.5
    else:
        lost = now.value < 3 * now.spread or now.value < 3 / math.sqrt(n_seen)
    if lost:
        return f"There is no clear signal in this shell yet: the figure is {now.value:.3f} ± {now.spread:.3f}."
    return ""


def _usable_sizes(sums: Values) -> NDArray[np.bool_]:
    """Which sizes of subsets tell of the trend: those with few observations have lost reflections to `least`."""
    counts = sums[..., 0].sum(axis=0)
    multiplicity = counts.sum() / max(np.count_nonzero(counts), 1)
    usable = multiplicity * np.array(_FRACTIONS) / 2 >= _LEAST_MULTIPLICITY
    usable[-2:] = True
    return np.asarray(usable, dtype=bool)


def _fit(law: _Law, n: Values, mean: Values, spread: Values) -> tuple[float, float]:
    """ln c and p from the means of subsets; p is drawn to what random errors would make it."""
    # Of small subsets there are more to take the mean of; what does not depend on halves has no spread with all data.
    error = np.maximum(spread, 3e-3 * np.abs(mean)) * np.sqrt(n / n[-1])
    some = np.isfinite(mean)
    start = math.log(law.inverse(float(np.clip(mean[-1], 1e-3, 1 - 1e-6 if law.possible[1] == 1 else math.inf))))

    def residuals(x: Values) -> Values:
        u = np.exp(np.clip(x[1] * (x[0] - np.log(n[some])), -50, 50))
        return np.append((law.value(u) - mean[some]) / error[some], (x[1] - law.exponent) / law.tolerance)

    found = least_squares(residuals, [math.log(n[-1]) + start / law.exponent, law.exponent])
    return float(found.x[0]), max(float(found.x[1]), 0.05)


def _slope(law: _Law, value: float) -> float:
    """d value / d ln u at a value."""
    u = law.inverse(value)
    step = np.array([u * math.exp(-1e-4), u * math.exp(1e-4)])
    low, high = law.value(step)
    return float(high - low) / 2e-4


def _margin(estimates: Values, noise: float, confidence: float) -> float:
    """Half the width of the interval about the first of the estimates; the others lack some of the data each."""
    without = estimates[1:]
    n = len(without)
    variance = (n - 1) / n * np.sum((without - without.mean()) ** 2)
    return float(student.ppf((1 + confidence) / 2, n - 1) * math.sqrt(variance + noise**2))
