"""Lattices of a known cell in the peaks of one frame."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import UnitCell
from sfxlab.indexing import fit_kernels
from sfxlab.indexing.assignment import CLAIM, Assignment, assign
from sfxlab.indexing.background import FOR_CHANCE, fit_outwards, turned_about_beam
from sfxlab.indexing.coincidence import is_suspect, turned_ones
from sfxlab.indexing.doubt import doubt, is_part
from sfxlab.indexing.known_cell_kernels import BEYOND_DOUBT, FIRST_SHELL, mean_reach
from sfxlab.indexing.objection import layers_of, objection
from sfxlab.indexing.orientation import oriented
from sfxlab.indexing.reasons import Reason
from sfxlab.indexing.search import CROWD, ENOUGH, compile_search, find_lattice, log_factorials
from sfxlab.indexing.significance import NOT_TURNED, log10_chance
from sfxlab.indexing.target import Target, target_of
from sfxlab.recipe import IndexingRecipe

REFUSALS = 3
"""Lattices that fit better than by chance, but are not to be believed: after so many more a frame is given up."""
REFUSED_PEAKS = 2_000
"""Likewise after as many peaks have been searched for lattices that are not to be believed."""
CELL_AS_GIVEN = 0.005
"""Where a lattice was found whose cell is so close to the given one, none is looked for with a loose cell."""


@dataclass(frozen=True)
class Lattice:
    """A lattice that explains some of the peaks."""

    basis: NDArray[np.float64]
    """Columns a*, b*, c* of the conventional cell in the laboratory frame, (3, 3), 1/Å."""
    peaks: NDArray[np.int64]
    """Indices of the peaks that it explains, (n,)."""
    log10_p: float
    """log10 of the probability of as good a fit by chance."""
    rms: float = math.nan
    """Root mean square distance of these peaks from their nodes along the Ewald sphere, 1/Å."""


@dataclass(frozen=True)
class IndexingResult:
    """Lattices of one frame, best first; where there is none, why."""

    lattices: tuple[Lattice, ...]
    reason: str = ""


@dataclass(frozen=True)
class _Proposal:
    """The best lattice that a search finds."""

    bases: NDArray[np.float64]
    """Reduced real axes as rows, Å, as they were found and as they suit all peaks, (2, 3, 3)."""
    n_peaks: int
    """How many peaks it was looked for in."""
    log10_p: float
    """log10 of the probability of as good a fit by chance."""
    against: str
    """Why it is not to be believed, if so."""


def index(q: NDArray[np.float64], target: Target, recipe: IndexingRecipe) -> IndexingResult:
    """Find up to `max_lattices` lattices of the target cell among peaks q, (n, 3), 1/Å, METHODS.md sections 4.4 to 4.8.

    Each lattice takes its peaks away from those that come after it; in the end every peak goes to the lattice that it
    suits best. The result depends on nothing but the arguments, as long as the time limit is not reached.
    """
    order = np.argsort(np.linalg.norm(q, axis=1), kind="stable")
    peaks = np.ascontiguousarray(q[order].T, dtype=np.float64)
    beam = fit_kernels.beam_of(peaks)
    shares = Assignment.of_none(len(q))
    chances: list[float] = []
    refused: list[_Proposal] = []
    reason = ""
    _compile()
    deadline = time.monotonic() + recipe.time_limit
    while len(chances) < recipe.max_lattices and not _is_in_vain(refused):
        left = np.ascontiguousarray(peaks[:, shares.owner < 0])
        if time.monotonic() > deadline:
            reason = Reason.TIME_LIMIT.because(f"{recipe.time_limit:g} s, {len(chances)} lattices found until then")
            break
        if left.shape[1] < recipe.min_peaks:
            reason = reason or Reason.TOO_FEW_PEAKS.because(f"{len(q)}, at least {recipe.min_peaks} needed")
            break
        known = np.concatenate([shares.bases, *(proposal.bases for proposal in refused)])
        loose = not any(_is_as_given(basis, target) for basis in shares.bases)
        proposal = _next_lattice(left, beam, known, target, recipe, deadline, may_be_loose=loose)
        against, log10_p = proposal.against, proposal.log10_p
        reason = reason or against
        if against and log10_p > min(recipe.max_log10_p, ENOUGH) and time.monotonic() <= deadline:
            break
        if not against:
            proposed = np.concatenate([shares.bases, proposal.bases[-1:]])
            shares = assign(peaks, beam, proposed, target.basis, recipe.min_peaks)
            chances = [[*chances, log10_p][i] for i in shares.kept]
        if against or len(shares.kept) < len(proposed):
            refused.append(proposal)
    lattices, doubtful = _believed(peaks, beam, order, shares, chances, target)
    reason = doubtful or reason or Reason.NO_LATTICE.because(f"none keeps {recipe.min_peaks} of {len(q)} peaks")
    return IndexingResult(lattices, "" if lattices else reason)


def _believed(
    peaks: NDArray[np.float64],
    beam: NDArray[np.float64],
    order: NDArray[np.int64],
    shares: Assignment,
    chances: list[float],
    target: Target,
) -> tuple[tuple[Lattice, ...], str]:
    """Those of the lattices that share the peaks (3, n), (n,) in this `order`, that few peaks leave no doubt of.

    And why others are doubtful.
    """
    lattices, reason = [], ""
    sizes = np.bincount(shares.owner + 1, minlength=len(shares.bases) + 1)[1:]
    for i, basis in enumerate(shares.bases):
        mine = shares.owner == i
        own = np.ascontiguousarray(peaks[:, mine])
        if any(is_part(own, beam, basis, shares.bases[other]) for other in np.flatnonzero(sizes > sizes[i])):
            continue
        turned, error = oriented(own, beam, np.ascontiguousarray(target.setting(basis)), target.basis)
        free = mine | (shares.owner < 0)
        doubtful = doubt(np.ascontiguousarray(peaks[:, free]), beam, mine[free], turned, error, chances[i], target)
        if doubtful:
            reason = doubtful
        else:
            lattices.append(Lattice(target.conventional(turned), np.sort(order[mine]), chances[i], shares.rms(i)))
    return tuple(lattices), reason


@lru_cache(maxsize=1)
def _compile() -> None:
    """Use all kernels once, so that no time limit counts their compiling."""
    compile_search()
    peaks, beam, target = np.full((3, 2), 0.01), np.array([0.0, 0.0, 1.0]), target_of(UnitCell(50, 60, 70))
    recipe = IndexingRecipe()
    assign(peaks, beam, target.basis[None], target.basis, recipe.min_peaks)
    _of_turned_peaks(peaks, beam, target.basis, target)
    _fit_all(peaks, beam, target.basis, 1, target)
    objection(peaks, beam, target.basis, 0.0, target, recipe)
    fit_kernels.fit_growing(peaks, beam, target.basis, target.basis, FIRST_SHELL, np.empty_like(peaks))
    oriented(peaks, beam, target.basis, target.basis)
    every = np.ones(peaks.shape[1], dtype=np.bool_)
    is_suspect(np.rint(target.basis @ peaks[:, every]).T)
    layers_of(peaks[:, every], target.basis, log_factorials(peaks.shape[1]))


def _is_in_vain(refused: list[_Proposal]) -> bool:
    return len(refused) > REFUSALS or sum(proposal.n_peaks for proposal in refused) > REFUSED_PEAKS


def _is_as_given(basis: NDArray[np.float64], target: Target) -> bool:
    lengths, angles = target.deviation(target.setting(basis))
    return bool(np.abs(lengths).max() < CELL_AS_GIVEN and np.radians(np.abs(angles).max()) < CELL_AS_GIVEN)


def _next_lattice(
    q: NDArray[np.float64],
    beam: NDArray[np.float64],
    known: NDArray[np.float64],
    target: Target,
    recipe: IndexingRecipe,
    deadline: float,
    *,
    may_be_loose: bool,
) -> _Proposal:
    """The best lattice in peaks (3, n), also with a cell some per cent off the given one where it `may_be_loose`."""
    used = np.ascontiguousarray(q[:, : recipe.max_peaks])
    found, log10_p = find_lattice(used, beam, known, target, deadline=deadline, may_be_loose=may_be_loose)
    if log10_p < recipe.max_log10_p and (log10_p > BEYOND_DOUBT or used.shape[1] >= CROWD):
        log10_p = max(log10_p, _of_turned_peaks(used, beam, found, target))
    basis = found
    if log10_p < recipe.max_log10_p:
        found, log10_p = _unturned(used, beam, found, log10_p, target)
        basis = _fit_all(q, beam, found, recipe.max_peaks, target)
    against = objection(q, beam, basis, log10_p, target, recipe)
    if against and log10_p < ENOUGH and may_be_loose:
        # Some of the peaks fit far better than by chance, and the search may not have come to loose cells.
        loose, loose_p = find_lattice(used, beam, known, target, deadline=deadline, only_loose=True)
        loose_p = max(loose_p, _of_turned_peaks(used, beam, loose, target))
        fitted = _fit_all(q, beam, loose, recipe.max_peaks, target)
        if not objection(q, beam, fitted, loose_p, target, recipe):
            return _Proposal(np.array([loose, fitted]), q.shape[1], loose_p, "")
    return _Proposal(np.array([found, basis]), q.shape[1], log10_p, against)


def _unturned(
    q: NDArray[np.float64], beam: NDArray[np.float64], basis: NDArray[np.float64], log10_p: float, target: Target
) -> tuple[NDArray[np.float64], float]:
    """The lattice that peaks (3, n) suit best of this one and those that it shares nodes with; log10 of chance."""
    work, factorials, n_rotations = np.empty_like(q), log_factorials(q.shape[1]), len(target.rotations)
    fit_kernels.misfits(q, beam, basis, work)
    _, along, across = log10_chance(work, target.volume, mean_reach(q), n_rotations, True, factorials, NOT_TURNED)
    closely = (work[0] < along) & (work[1] < across) & (work[2] < CLAIM)
    hkl = np.rint(basis @ q[:, closely]).T
    if len(hkl) == 0 or not is_suspect(hkl):
        return basis, log10_p
    for change in turned_ones(hkl, target.coincidences):
        other = fit_kernels.fit_growing(q, beam, change @ basis, target.basis, FIRST_SHELL, work)
        fit_kernels.misfits(q, beam, other, work)
        other_p, _, _ = log10_chance(work, target.volume, mean_reach(q), n_rotations, True, factorials, NOT_TURNED)
        if other_p < log10_p:
            basis, log10_p = other, float(other_p)
    return basis, log10_p


def _of_turned_peaks(
    q: NDArray[np.float64], beam: NDArray[np.float64], basis: NDArray[np.float64], target: Target
) -> float:
    """log10 of the chance of as good a fit to peaks (3, n), also of the same turned about the beam."""
    random = turned_about_beam(q, beam, FOR_CHANCE)
    misfit, by_chance = np.empty_like(q), np.empty_like(random)
    fit_kernels.misfits(q, beam, basis, misfit)
    fit_kernels.misfits(random, beam, basis, by_chance)
    value, _, _ = log10_chance(
        misfit, target.volume, mean_reach(q), len(target.rotations), False, log_factorials(q.shape[1]), by_chance
    )
    return float(value)


def _fit_all(
    q: NDArray[np.float64], beam: NDArray[np.float64], basis: NDArray[np.float64], n_used: int, target: Target
) -> NDArray[np.float64]:
    """A lattice that was found in the first peaks (3, n), fitted to all."""
    return basis if q.shape[1] <= n_used else fit_outwards(q, beam, basis, target.basis, n_used)
