"""The indexing ambiguity: which way each crystal has to be indexed so that all agree (METHODS.md section 7.7).

Intensities of a crystal are compared with what the others say of its reflections, once for each operator, and the
reflections are summed with the operators found, in turns: expectation and maximisation (Liu & Spence 2014, IUCrJ 1,
393). Time and memory are linear in the number of observations.

Crystals that are brought into line with each other agree, even if there is nothing to agree on: with intensities that
are nothing but noise, halves of the data that are resolved together correlate by 0.2 to 0.3. So each half is resolved
by itself, and only one choice is common to both, that which brings the halves into line. How often the halves would
decide alike also says how far probabilities can be believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from sfxlab.crystal import UnitCell, resolution_of
from sfxlab.crystal import point_group as point_group_named
from sfxlab.errors import MergeError
from sfxlab.merging.ambiguity_fit import Assignment, Fit, assign_together, probabilities
from sfxlab.merging.ambiguity_levels import Levels, distinct_hkl, levels_of, numbered
from sfxlab.merging.ambiguity_reference import read_reference, reference_levels
from sfxlab.merging.blocks import Columns
from sfxlab.merging.crystals import CrystalIds, ProcessedRun
from sfxlab.merging.observations import Observations, gather
from sfxlab.merging.polarisation import parse_polarisation
from sfxlab.merging.reindexing import MAX_OBLIQUITY, ReindexingOperators, ambiguity_operators

INDICES = ("h", "k", "l")
"""The extra columns that observations have to be gathered with."""
MIN_OBSERVATIONS = 5
"""A crystal with fewer observations is left out."""
MIN_PROBABILITY = 0.9
"""A crystal whose operator is less probable is left out."""

_LARGEST_TEMPERATURE = 1e3


@dataclass(frozen=True)
class Ambiguity:
    """Which way each crystal has to be indexed."""

    operators: ReindexingOperators
    crystals: CrystalIds
    operator: NDArray[np.int64]
    """Number of the most probable operator of each crystal, (n_crystals,)."""
    probability: NDArray[np.float64]
    """Of that operator, (n_crystals,)."""
    log_odds: NDArray[np.float64]
    """Difference in log-likelihood between the best operator and the second best, (n_crystals,)."""
    standard_error: NDArray[np.float64]
    """Of `log_odds`, from the scatter of what single observations say, (n_crystals,)."""
    correlation: NDArray[np.float64]
    """With the other crystals or the reference, for each operator, (n_crystals, n_operators)."""
    reasons: tuple[str, ...]
    """Why a crystal is not resolved, (n_crystals,); empty for those that are, and those that were left out before."""
    resolved: NDArray[np.bool_]
    """(n_crystals,)."""
    agreement: float
    """Share of crystals for which the other half decides like the own one; NaN with a reference."""
    temperature: float
    """What log-odds were divided by to give probabilities that can be believed."""
    reference: str | None = None
    """The file that crystals were compared with; None where they were compared with each other."""

    @property
    def counts(self) -> dict[str, int]:
        """Number of resolved crystals by the name of their operator."""
        numbers = np.bincount(self.operator[self.resolved], minlength=len(self.operators))
        return dict(zip(self.operators.names, numbers.tolist(), strict=True))

    @property
    def correlation_difference(self) -> NDArray[np.float64]:
        """Correlation with the operator chosen less the best of the others, (n_crystals,); 0 without others."""
        if not self.operators.is_ambiguous:
            return np.zeros(len(self.operator))
        rows = np.arange(len(self.operator))
        others = self.correlation.copy()
        others[rows, self.operator] = -np.inf
        return np.asarray(self.correlation[rows, self.operator] - others.max(axis=1))

    def history(self) -> dict[str, Any]:
        """What to remember with merged data."""
        names = self.operators.names
        chosen = [{"crystal": str(self.crystals[int(i)]), "operator": names[self.operator[i]]}
                  for i in np.flatnonzero(self.resolved)]  # fmt: skip
        return {
            "operators": self.counts, "unresolved": sum(bool(reason) for reason in self.reasons),
            "agreement": round(self.agreement, 4) if np.isfinite(self.agreement) else None,
            "reference": self.reference, "chosen": chosen,
        }  # fmt: skip


def resolve_ambiguity(
    runs: ProcessedRun | Sequence[ProcessedRun],
    point_group: str,
    *,
    reference: str | Path | None = None,
    cell: UnitCell | None = None,
    d_min: float | None = None,
    d_max: float | None = None,
    polarisation: str | None = "horiz",
    max_obliquity: float = MAX_OBLIQUITY,
    min_probability: float = MIN_PROBABILITY,
) -> Ambiguity:
    """Find which way each crystal of one or several runs has to be indexed.

    Parameters
    ----------
    reference:
        An MTZ or `.hkl` file with intensities or amplitudes, or a PDB or mmCIF file with a model, that says which way
        is right. Without one crystals are compared with each other, and most of them are left as they are.
    max_obliquity:
        Degrees by which a two-fold axis of the lattice may miss.
    min_probability:
        Crystals with an operator that is less probable are not resolved.

    All others as in `merge`. Raises `CellError`, and `MergeError` where there is nothing to compare or the reference
    does not suit.
    """
    given: Sequence[ProcessedRun] = runs if isinstance(runs, Sequence) else [runs]
    observations = gather(
        given, point_group_named(point_group), cell=cell, d_min=d_min, d_max=d_max,
        polarisation=parse_polarisation(polarisation), extra=INDICES,
    )  # fmt: skip
    return resolve(observations, reference, max_obliquity, min_probability)


def resolve(
    observations: Observations,
    reference: str | Path | None = None,
    max_obliquity: float = MAX_OBLIQUITY,
    min_probability: float = MIN_PROBABILITY,
) -> Ambiguity:
    """The same for observations that were gathered with the extra columns `INDICES`."""
    o = observations
    operators = ambiguity_operators(o.cell, o.point_group, max_obliquity)
    given = read_reference(reference, o, operators) if reference is not None else None
    if not operators.is_ambiguous:
        return _unambiguous(o, operators)
    levels = levels_of(o, operators)
    active = levels.counts >= MIN_OBSERVATIONS
    if given is not None:
        expected = reference_levels(*given, levels.hkl, o.cell)
        fit = Fit(levels, active, expected)
        found, temperature = _compare_with_reference(fit, expected, resolution_of(o.cell, levels.hkl), min_probability)
        parts, agreement = [fit], float("nan")
    else:
        halves = _halves(levels, [active & (o.half == half) for half in (0, 1)], operators)
        found, parts = halves.found, halves.fits
        agreement = float(halves.alike[active].mean())
        sure = active & (found.probability.max(axis=1) >= min_probability)
        temperature = _temperature(found.scores[sure], _error_rate(halves.alike[sure], len(operators)))
    best, second = np.argsort(-found.scores, axis=1, kind="stable")[:, :2].T
    certainty = parts[0].certainty(found.probability, best, second)
    for fit in parts[1:]:
        certainty = certainty.where(~fit.active, fit.certainty(found.probability, best, second))
    rows = np.arange(len(active))
    probability = probabilities(found.scores / temperature)[rows, best]
    twinned = (certainty.twin > 0) & (probability >= min_probability)
    reasons = _reasons(o, best, probability, twinned, operators.names, min_probability)
    return Ambiguity(
        operators=operators,
        crystals=o.crystals,
        operator=best,
        probability=probability,
        log_odds=found.scores[rows, best] - found.scores[rows, second],
        standard_error=certainty.standard_error,
        correlation=certainty.correlation,
        reasons=reasons,
        resolved=active & (probability >= min_probability) & ~twinned,
        agreement=agreement,
        temperature=temperature,
        reference=None if reference is None else str(reference),
    )


def reindexed(observations: Observations, ambiguity: Ambiguity) -> Observations:
    """The observations with the indices that they should have, without crystals that are not resolved.

    The extra columns stay as they were measured: they belong to the orientations in `facts`.
    """
    o, operators = observations, ambiguity.operators
    columns = Columns(o.columns.on_disk)
    found = []
    for block in o.blocks(*INDICES):
        chosen = np.repeat(ambiguity.resolved[block.crystals], np.diff(block.offsets))
        operator = np.repeat(ambiguity.operator[block.crystals], np.diff(block.offsets))[chosen]
        measured = np.stack([block.columns[name][chosen] for name in INDICES], axis=1)
        hkl, which = distinct_hkl(operators.reindexed(measured, operator))
        found.append(o.point_group.asu(hkl))
        columns.put(block.number, "reflection", which)
        for name in ("intensity", "sigma", *INDICES):
            columns.put(block.number, name, block.columns[name][chosen])
    if not ambiguity.resolved.any():
        raise MergeError(
            "the indexing ambiguity of no crystal could be resolved",
            found=f"{len(o.crystals)} crystals, operators {' and '.join(operators.names)}",
            remedy="give a reference or more crystals, or leave the ambiguity as it is",
        )
    hkl, place = numbered(found)
    for number, of_block in enumerate(place):
        columns.put(number, "reflection", of_block[columns.get(number, "reflection")])
    counts = np.where(ambiguity.resolved, np.diff(o.offsets), 0)
    reasons = [(o.crystals[i], reason) for i, reason in enumerate(ambiguity.reasons) if reason]
    return replace(
        o,
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        hkl=hkl,
        resolution=resolution_of(o.cell, hkl),
        dropped={**o.dropped, "in crystals of unresolved indexing ambiguity": int(o.offsets[-1] - counts.sum())},
        columns=columns,
        excluded=(*o.excluded, *reasons),
    )


def brought_into_line(
    observations: Observations, how: str | Path | None
) -> tuple[Observations, dict[str, Any] | str | None]:
    """Observations with their ambiguity resolved, and what to remember of that.

    `how` is None to leave them as they are, `auto` to compare crystals with each other, or the path of a reference.
    """
    if how is None:
        names = ambiguity_operators(observations.cell, observations.point_group).names
        return observations, f"left as it is: {', or '.join(names)}" if len(names) > 1 else None
    ambiguity = resolve(observations, None if how == "auto" else how)
    if not ambiguity.operators.is_ambiguous:
        return observations, "there is none"
    return reindexed(observations, ambiguity), ambiguity.history()


@dataclass(frozen=True)
class _Halves:
    """Half data sets that were resolved one by one and brought into line."""

    found: Assignment
    fits: list[Fit]
    alike: NDArray[np.bool_]
    """For which crystals the other half finds the same operator, (n_crystals,)."""


def _halves(levels: Levels, members: list[NDArray[np.bool_]], operators: ReindexingOperators) -> _Halves:
    """Resolve both halves, and change the second one, as a whole, such that it agrees with the first."""
    if min(int(mine.sum()) for mine in members) < 2:
        raise MergeError(
            "there are too few crystals to compare with each other",
            found=" and ".join(str(int(mine.sum())) for mine in members) + " crystals in the halves",
            expected="at least 2 in each half",
            remedy="give a reference, or more crystals",
        )
    one, other = (assign_together(levels, mine) for mine in members)
    fits = []
    for found, mine in zip((one, other), members, strict=True):
        fit = Fit(levels, mine)
        fit.scatter = found.scatter
        fits.append(fit)
    known = fits[0].known(one.probability)
    changed = [_changed(other, change) for change in operators.common_changes]
    other = max(changed, key=lambda found: _correlation(known, fits[1].known(found.probability)))
    first = members[0][:, None]
    found = replace(
        one,
        probability=np.where(first, one.probability, other.probability),
        scores=np.where(first, one.scores, other.scores),
        cycles=max(one.cycles, other.cycles),
    )
    found = _mostly_unchanged(found, members[0] | members[1], operators)
    alike = np.zeros(len(levels.counts), dtype=bool)
    for i in (0, 1):
        scores, _ = fits[i].score(found.probability, fits[1 - i].sums(found.probability), False)
        alike[members[i]] = (scores.argmax(axis=1) == found.scores.argmax(axis=1))[members[i]]
    return _Halves(found, fits, alike)


def _changed(found: Assignment, change: NDArray[np.int64]) -> Assignment:
    """The same with operator k become `change[k]`."""
    probability, scores = np.empty_like(found.probability), np.empty_like(found.scores)
    probability[:, change], scores[:, change] = found.probability, found.scores
    return replace(found, probability=probability, scores=scores)


def _mostly_unchanged(found: Assignment, active: NDArray[np.bool_], operators: ReindexingOperators) -> Assignment:
    """What no intensity can decide: as many crystals as possible stay as they are."""
    best = np.bincount(found.scores[active].argmax(axis=1), minlength=len(operators))
    stays = [int(best[change == 0].sum()) for change in operators.common_changes]
    return _changed(found, operators.common_changes[int(np.argmax(stays))])


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Of the levels that two halves have, (n_reflections,), NaN where they have none."""
    both = np.isfinite(one) & np.isfinite(other)
    if both.sum() < 3 or one[both].std() == 0 or other[both].std() == 0:
        return 0.0
    return float(np.corrcoef(one[both], other[both])[0, 1])


def _error_rate(alike: NDArray[np.bool_], n_operators: int) -> float:
    """ε of (1 − ε)² + ε² / (N − 1) = A: two references that err independently, each with probability ε, agree so often.

    For A a cautious value is taken, one standard error below what was found.
    """
    n = len(alike) + 2
    share = (np.count_nonzero(alike) + 1) / n
    share -= np.sqrt(share * (1 - share) / n)
    factor = n_operators / (n_operators - 1)
    return float((1 - np.sqrt(max(1 - factor * (1 - share), 0.0))) / factor)


def _temperature(scores: NDArray[np.float64], error_rate: float) -> float:
    """What to divide log-likelihoods by, at least 1, so that probabilities foresee as many errors as there are."""

    def excess(logarithm: float) -> float:
        return float(np.mean(1 - probabilities(scores / np.exp(logarithm)).max(axis=1))) - error_rate

    highest = float(np.log(_LARGEST_TEMPERATURE))
    if not len(scores) or excess(0.0) >= 0:
        return 1.0
    return float(np.exp(brentq(excess, 0.0, highest))) if excess(highest) > 0 else _LARGEST_TEMPERATURE


def _compare_with_reference(
    fit: Fit, reference: NDArray[np.float64], resolution: NDArray[np.float64], min_probability: float
) -> tuple[Assignment, float]:
    """Log-likelihoods given a reference, and the temperature that makes them worth believing.

    With a reference whose intensities have changed places with others of about the same resolution, which says
    nothing, one crystal in twenty may reach `min_probability`.
    """
    n_operators = fit.n_operators
    even = np.full((len(fit.active), n_operators), 1 / n_operators)
    found = fit.run(even)
    order = np.argsort(resolution, kind="stable")
    random, shuffled = np.random.default_rng(0), reference.copy()
    for part in np.array_split(order, max(len(order) // 50, 1)):
        shuffled[part] = reference[random.permutation(part)]
    null = np.sort(Fit(fit.levels, fit.active, shuffled).run(even).scores[fit.active], axis=1)
    if not len(null):
        return found, 1.0
    odds = np.log(min_probability / (1 - min_probability))
    return found, max(float(np.quantile(null[:, -1] - null[:, -2], 0.95)) / odds, 1.0)


def _unambiguous(o: Observations, operators: ReindexingOperators) -> Ambiguity:
    """All crystals are right as they are."""
    n = len(o.crystals)
    return Ambiguity(
        operators=operators, crystals=o.crystals, operator=np.zeros(n, dtype=np.int64), probability=np.ones(n),
        log_odds=np.full(n, np.inf), standard_error=np.zeros(n), correlation=np.zeros((n, 1)), reasons=("",) * n,
        resolved=np.ones(n, dtype=bool), agreement=1.0, temperature=1.0,
    )  # fmt: skip


def _reasons(
    o: Observations,
    best: NDArray[np.int64],
    probability: NDArray[np.float64],
    twinned: NDArray[np.bool_],
    names: Sequence[str],
    needed: float,
) -> tuple[str, ...]:
    """Why each crystal is not resolved."""
    before = {crystal for crystal, _ in o.excluded}
    reasons = []
    for i, count in enumerate(np.diff(o.offsets).tolist()):
        reason = ""
        if count < MIN_OBSERVATIONS:
            if count > 0 or o.crystals[i] not in before:
                reason = f"indexing ambiguity: only {count} usable observations, {MIN_OBSERVATIONS} needed"
        elif probability[i] < needed:
            reason = f"indexing ambiguity: {names[best[i]]} has a probability of {probability[i]:.2f}, {needed} needed"
        elif twinned[i]:
            reason = "indexing ambiguity: a twin of equal parts fits better than either way"
        reasons.append(reason)
    return tuple(reasons)
