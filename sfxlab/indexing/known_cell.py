"""Lattices of a known cell in the peaks of one frame."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from sfxlab.crystal import UnitCell
from sfxlab.indexing import fit_kernels
from sfxlab.indexing.assignment import CLAIM, Assignment, assign
from sfxlab.indexing.background import FOR_CHANCE, FOR_SPREAD, WIDEST, fit_outwards, spread, turned_about_beam
from sfxlab.indexing.coincidence import is_suspect, turned_ones
from sfxlab.indexing.known_cell_kernels import BEYOND_DOUBT, FIRST_SHELL, mean_reach
from sfxlab.indexing.reasons import Reason
from sfxlab.indexing.search import CROWD, ENOUGH, compile_search, find_lattice, log_factorials
from sfxlab.indexing.significance import NOT_TURNED, log10_chance
from sfxlab.indexing.target import Target, target_of
from sfxlab.recipe import IndexingRecipe

REFUSALS = 3
"""Lattices that fit better than by chance, but are not to be believed: after so many more a frame is given up."""
LEAST_SHOWN, TELLING_PEAKS = 0.3, 6
"""Peaks say how well a lattice suits along an axis where so much of an error shows; fewer than so many say nothing."""
MOSTLY_CHANCE = 1 / 3
"""Where more of a crowd's peaks near whole indices are expected by chance, their distances tell them apart."""
MAX_LAYER_CHANCE = 1e-5
"""Peaks gather on few layers of a lattice where it is less likely than this by chance."""


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
    refused: list[NDArray[np.float64]] = []
    reason = ""
    _compile()
    deadline = time.monotonic() + recipe.time_limit
    while len(chances) < recipe.max_lattices and len(refused) <= REFUSALS:
        left = np.ascontiguousarray(peaks[:, shares.owner < 0])
        if time.monotonic() > deadline:
            reason = Reason.TIME_LIMIT.because(f"{recipe.time_limit:g} s, {len(chances)} lattices found until then")
            break
        if left.shape[1] < recipe.min_peaks:
            reason = reason or Reason.TOO_FEW_PEAKS.because(f"{len(q)}, at least {recipe.min_peaks} needed")
            break
        known = np.concatenate([shares.bases, np.array(refused).reshape(-1, 3, 3)])
        basis, log10_p, against = _next_lattice(left, beam, known, target, recipe, deadline, may_be_wrong=not chances)
        reason = reason or against
        if against and log10_p > min(recipe.max_log10_p, ENOUGH) and time.monotonic() <= deadline:
            break
        if not against:
            proposed = np.concatenate([shares.bases, basis[None]])
            shares = assign(peaks, beam, proposed, target.basis, recipe.min_peaks)
            chances = [[*chances, log10_p][i] for i in shares.kept]
        if against or len(shares.kept) < len(proposed):
            refused.append(basis)
    lattices = tuple(
        Lattice(
            target.conventional(_setting(basis, target)), np.sort(order[shares.owner == i]), chances[i], shares.rms(i)
        )
        for i, basis in enumerate(shares.bases)
    )
    return IndexingResult(lattices, "" if lattices else reason)


@lru_cache(maxsize=1)
def _compile() -> None:
    """Use all kernels once, so that no time limit counts their compiling."""
    compile_search()
    peaks, beam, target = np.full((3, 2), 0.01), np.array([0.0, 0.0, 1.0]), target_of(UnitCell(50, 60, 70))
    recipe = IndexingRecipe()
    assign(peaks, beam, target.basis[None], target.basis, recipe.min_peaks)
    _of_turned_peaks(peaks, beam, target.basis, target)
    _fit_all(peaks.T, beam, target.basis, 1, target)
    objection(peaks.T, beam, target.basis, 0.0, target, recipe)
    fit_kernels.fit_growing(peaks, beam, target.basis, target.basis, FIRST_SHELL, np.empty_like(peaks))


def _next_lattice(
    q: NDArray[np.float64],
    beam: NDArray[np.float64],
    known: NDArray[np.float64],
    target: Target,
    recipe: IndexingRecipe,
    deadline: float,
    *,
    may_be_wrong: bool,
) -> tuple[NDArray[np.float64], float, str]:
    """The best lattice in peaks (3, n), log10 of chance, and why it is not to be believed, if so.

    The cell that is looked for `may_be_wrong` by some per cent.
    """
    used, rows = np.ascontiguousarray(q[:, : recipe.max_peaks]), np.ascontiguousarray(q.T)
    basis, log10_p = find_lattice(used, beam, known, target, deadline=deadline)
    if BEYOND_DOUBT < log10_p < recipe.max_log10_p:
        log10_p = max(log10_p, _of_turned_peaks(used, beam, basis, target))
    if log10_p < recipe.max_log10_p:
        basis, log10_p = _unturned(used, beam, basis, log10_p, target)
        basis = _fit_all(rows, beam, basis, recipe.max_peaks, target)
    against = objection(rows, beam, basis, log10_p, target, recipe)
    if against and log10_p < ENOUGH and may_be_wrong:
        # Some of the peaks fit far better than by chance, and the search may not have come to loose cells.
        other, other_p = find_lattice(used, beam, known, target, deadline=deadline, only_loose=True)
        other_p = max(other_p, _of_turned_peaks(used, beam, other, target))
        other = _fit_all(rows, beam, other, recipe.max_peaks, target)
        if not objection(rows, beam, other, other_p, target, recipe):
            return other, other_p, ""
    return basis, log10_p, against


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
    """A lattice that was found in the first peaks (n, 3), fitted to all."""
    if len(q) <= n_used:
        return basis
    return fit_outwards(np.ascontiguousarray(q.T), beam, basis, target.basis, n_used)


def _claimed(
    q: NDArray[np.float64], beam: NDArray[np.float64], basis: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], float]:
    """Which peaks (n, 3) a lattice explains, and how closely."""
    peaks = np.ascontiguousarray(q.T)
    random = turned_about_beam(peaks, beam, FOR_SPREAD)
    misfit, by_chance = np.empty_like(peaks), np.empty_like(random)
    fit_kernels.misfits(peaks, beam, basis, misfit)
    fit_kernels.misfits(random, beam, basis, by_chance)
    share = len(q) / random.shape[1]
    limit = WIDEST * fit_kernels.scatter(misfit, CLAIM)
    claimed, claimed_random = ((m[2] < CLAIM) & (m[0] < limit) for m in (misfit, by_chance))
    few = share * np.count_nonzero(claimed_random) < MOSTLY_CHANCE * np.count_nonzero(claimed)
    if few or len(q) < CROWD:
        return claimed, _closeness(q[claimed], np.empty((0, 3)), 0.0, beam, basis)
    _, limit = spread(misfit, by_chance, np.zeros(len(q), dtype=np.bool_), CLAIM)
    claimed, claimed_random = ((m[2] < CLAIM) & (m[0] < limit) for m in (misfit, by_chance))
    return claimed, _closeness(q[claimed], random.T[claimed_random], share, beam, basis)


def objection(
    q: NDArray[np.float64],
    beam: NDArray[np.float64],
    basis: NDArray[np.float64],
    log10_p: float,
    target: Target,
    recipe: IndexingRecipe,
) -> str:
    """Why a lattice is not to be believed, given the peaks (n, 3) that no other explains; empty where it is."""
    claimed, close = _claimed(q, beam, basis)
    n = int(np.count_nonzero(claimed))
    if log10_p > recipe.max_log10_p or n < recipe.min_peaks:
        return Reason.NO_LATTICE.because(
            f"the best one explains {n} of {len(q)} peaks "
            f"(log10 of chance {log10_p:.1f}, at most {recipe.max_log10_p:g} wanted)"
        )
    if close < recipe.min_close:
        return Reason.WRONG_CELL.because(
            f"only {close:.0%} of the {n} peaks that the best lattice explains suit it well along all its axes, "
            f"at least {recipe.min_close:.0%} wanted"
        )
    layers = _layers(np.rint(q[claimed] @ basis.T))
    if layers > 1:
        return Reason.WRONG_CELL.because(
            f"nearly all of the {n} peaks explained are on every {layers}th layer of an axis"
        )
    lengths, angles = target.deviation(_setting(basis, target))
    if np.abs(lengths).max() > recipe.length_tolerance or np.abs(angles).max() > recipe.angle_tolerance:
        return Reason.WRONG_CELL.because(
            f"the best lattice is {100 * np.abs(lengths).max():.1f} % and "
            f"{np.abs(angles).max():.1f}° off the given cell"
        )
    return ""


def _closeness(
    q: NDArray[np.float64],
    random: NDArray[np.float64],
    share: float,
    beam: NDArray[np.float64],
    basis: NDArray[np.float64],
) -> float:
    """Of peaks (n, 3), the share within half the tolerance of whole indices, for the axis where it is least.

    A wrong cell that shares axes with the true one fits more peaks than chance, but not well along the others. Peaks
    that fit by chance are deducted: as many as of `random` ones, (m, 3), times `share`.
    """
    close, telling = _close(q, beam, basis)
    random_close, random_telling = _close(random, beam, basis)
    n = np.maximum(len(q) - share * len(random), 1)
    of_all = (close.sum(axis=0) - share * random_close.sum(axis=0)) / n
    n_telling = telling.sum(axis=0) - share * random_telling.sum(axis=0)
    n_close = (close & telling).sum(axis=0) - share * (random_close & random_telling).sum(axis=0)
    of_telling = np.where(n_telling >= TELLING_PEAKS, n_close / np.maximum(n_telling, 1), 0)
    # Few peaks that tell tell less than all do.
    return float(np.maximum(of_all, of_telling).min())


def _close(
    q: NDArray[np.float64], beam: NDArray[np.float64], basis: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which peaks are within half the tolerance of whole indices along each axis, and which tell, (n, 3) both.

    What counts is the misfit along the Ewald sphere, because across it true lattices are off, too.
    """
    indices = q @ basis.T
    misfit = (indices - np.rint(indices)) @ np.linalg.inv(basis).T
    normal = (q + beam) / np.linalg.norm(q + beam, axis=1)[:, None]
    along = (misfit - (misfit * normal).sum(axis=1)[:, None] * normal) @ basis.T
    # Of an index error, so much shows along the sphere; where it is little, noise drowns it.
    shown = 1 - (normal @ basis.T) * (normal @ np.linalg.inv(basis))
    return np.abs(along) < CLAIM / 2 * np.clip(shown, 0.1, 1), shown > LEAST_SHOWN


def _layers(hkl: NDArray[np.float64]) -> int:
    """On every how manieth layer along some axis the peaks (n, 3) lie, 1 where on all.

    A wrong cell fits where its layers coincide with true ones. Layers 0 say nothing, and every second one may be the
    work of a pseudo-translation.
    """
    for along in hkl.T:
        indices = along[along != 0]
        for layers in range(3, 8):
            hit = int(np.count_nonzero(indices % layers == 0))
            if hit > 2 and bdtrc(hit - 1, len(indices), 1 / layers) < MAX_LAYER_CHANCE:
                return layers
    return 1


def _setting(basis: NDArray[np.float64], target: Target) -> NDArray[np.float64]:
    """The same lattice in the axes that come closest to the target's, as it is where others are no closer.

    Where two axes are nearly equal, peaks alone may have taken one for the other.
    """
    settings = target.settings @ basis
    metrics = np.einsum("nij,nkj->nik", settings, settings)
    wanted = target.basis @ target.basis.T
    size = np.sqrt(np.outer(np.diag(wanted), np.diag(wanted)))
    deviation = np.sqrt((((metrics - wanted) / size) ** 2).sum(axis=(1, 2)))
    best = int(np.argmin(deviation))
    return np.asarray(settings[best] if deviation[best] < 0.9 * deviation[0] - 1e-3 else basis)
