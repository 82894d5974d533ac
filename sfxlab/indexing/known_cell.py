"""Lattices of a known cell in the peaks of one frame."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc, gammaln

from sfxlab.indexing import fit_kernels
from sfxlab.indexing.known_cell_kernels import find_lattice
from sfxlab.indexing.reasons import Reason
from sfxlab.indexing.search_kernels import hemisphere
from sfxlab.indexing.target import Target
from sfxlab.recipe import IndexingRecipe

SCAN_PEAKS = 60
"""Innermost peaks that directions and rotations are tried on."""
LEAST_SCANNED = 15
"""At least so many of them, even where their resolution asks for more directions than are tried."""
DIRECTIONS = (2_000, 4_000, 8_000, 16_000, 32_000)
LOOSE_REACH = 8.0
"""Where the cell may be wrong, whole numbers up to this are trusted."""
CLAIM = 0.25
"""A peak belongs to a lattice where all its indices are this close to whole numbers."""
CLAIM_SCATTER = 6.0
"""And where it is no further from its node along the Ewald sphere than so many standard deviations."""
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
    q = np.ascontiguousarray(q, dtype=np.float64)
    beam = fit_kernels.beam_of(q.T)
    bases: list[NDArray[np.float64]] = []
    chances: list[float] = []
    remaining, reason = order, ""
    started = time.monotonic()
    while len(bases) < recipe.max_lattices:
        if time.monotonic() - started > recipe.time_limit:
            # The work of a search is bounded by counts, so that this is for machines that stand still.
            reason = Reason.TIME_LIMIT.because(f"{recipe.time_limit:g} s, {len(bases)} lattices found until then")
            break
        if len(remaining) < recipe.min_peaks:
            reason = Reason.TOO_FEW_PEAKS.because(f"{len(remaining)}, at least {recipe.min_peaks} needed")
            break
        used = np.ascontiguousarray(q[remaining[: recipe.max_peaks]].T)
        known = np.array(bases).reshape(-1, 3, 3)
        basis, log10_p = _find(used, beam, known, target)
        basis = _fit_all(q[remaining], beam, basis, recipe.max_peaks, target)
        reason = _objection(q[remaining], beam, basis, log10_p, target, recipe)
        if reason and log10_p < recipe.max_log10_p and not bases:
            # Some of the peaks fit far better than by chance: the cell may be a little wrong.
            other, other_p = _find(used, beam, known, target, only_loose=True)
            other = _fit_all(q[remaining], beam, other, recipe.max_peaks, target)
            if not _objection(q[remaining], beam, other, other_p, target, recipe):
                basis, log10_p, reason = other, other_p, ""
        if reason:
            break
        bases.append(basis)
        chances.append(log10_p)
        remaining = remaining[~_claimed(q[remaining], beam, basis)]
    lattices = _shared_out(q, beam, bases, chances, target, recipe)
    return IndexingResult(lattices, "" if lattices else reason)


def _find(
    q: NDArray[np.float64],
    beam: NDArray[np.float64],
    known: NDArray[np.float64],
    target: Target,
    *,
    only_loose: bool = False,
) -> tuple[NDArray[np.float64], float]:
    """The lattice that peaks (3, n), from low resolution to high, are least likely to suit by chance; log10 of that."""
    reach = np.linalg.norm(q, axis=0)
    lengths = target.lengths
    most = math.sqrt(DIRECTIONS[-1] / 39.0)
    n_scans, directions, n_angles = [], [], []
    for length in lengths:
        n_scan = min(len(reach), SCAN_PEAKS, max(LEAST_SCANNED, int(np.searchsorted(reach, most / length))))
        n_scans.append(n_scan)
        directions.append(_directions(reach[n_scan - 1] * length))
        n_angles.append(int(np.clip(2 * math.pi * reach[n_scan - 1] * lengths.max() / 0.35, 180, 1440)))
    axes, spans, both = _axes(target)
    n_angles = [max(12, int(n * span / (2 * math.pi))) for n, span in zip(n_angles, spans, strict=True)]
    n_loose = min(n_scans[0], max(LEAST_SCANNED, int(np.searchsorted(reach, LOOSE_REACH / lengths.max()))))
    loose = _directions(reach[n_loose - 1] * lengths[0])
    nodes = target.nodes
    basis, log10_p = find_lattice(
        q, beam, known, target.basis, len(target.rotations), nodes.positions, nodes.lengths, nodes.representatives,
        axes, (directions[0], directions[1], directions[2]), np.array(n_scans), np.array(n_angles), spans, both,
        loose, n_loose, only_loose, _factorials(q.shape[1]),
    )  # fmt: skip
    return basis, float(log10_p)


def _fit_all(
    q: NDArray[np.float64], beam: NDArray[np.float64], basis: NDArray[np.float64], n_used: int, target: Target
) -> NDArray[np.float64]:
    """A lattice that was found in the first peaks (n, 3), fitted to all."""
    if len(q) <= n_used:
        return basis
    peaks = np.ascontiguousarray(q.T)
    return fit_kernels.fit_growing(peaks, beam, basis, target.basis, n_used, np.empty_like(peaks))


def _axes(target: Target) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """Axes worth a search, no two the same by symmetry; of all three the rotations about them that change nothing,
    radians, and whether their ends differ.
    """
    axes: list[int] = []
    spans, both = np.empty(3), np.empty(3, dtype=np.bool_)
    for axis, unit in enumerate(np.eye(3)):
        images = target.rotations[:, axis]
        spans[axis] = 2 * math.pi / np.count_nonzero(np.all(images == unit, axis=1))
        both[axis] = not np.any(np.all(images == -unit, axis=1))
        if not any(np.any(np.all(np.abs(target.rotations[:, other]) == unit, axis=1)) for other in axes):
            axes.append(axis)
    return np.array(axes), spans, both


def _directions(periods: float) -> NDArray[np.float32]:
    """Directions close enough for a vector that `periods` nodes fit on, within the resolution of the peaks."""
    wanted = 39.0 * periods**2
    return _hemisphere(next((n for n in DIRECTIONS if n >= wanted), DIRECTIONS[-1]))


@lru_cache(maxsize=len(DIRECTIONS))
def _hemisphere(n: int) -> NDArray[np.float32]:
    return hemisphere(n)


@lru_cache(maxsize=256)
def _factorials(n: int) -> NDArray[np.float64]:
    """Logarithms of the factorials of 0 to n."""
    return np.asarray(gammaln(np.arange(n + 1) + 1.0))


def _misfits(q: NDArray[np.float64], beam: NDArray[np.float64], basis: NDArray[np.float64]) -> NDArray[np.float64]:
    out = np.empty((3, len(q)))
    fit_kernels.misfits(np.ascontiguousarray(q.T), beam, basis, out)
    return out


def _claimed(q: NDArray[np.float64], beam: NDArray[np.float64], basis: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which peaks (n, 3) a lattice explains."""
    misfit = _misfits(q, beam, basis)
    limit = CLAIM_SCATTER * fit_kernels.scatter(misfit, CLAIM)
    return np.asarray((misfit[2] < CLAIM) & (misfit[0] < limit))


def _objection(
    q: NDArray[np.float64],
    beam: NDArray[np.float64],
    basis: NDArray[np.float64],
    log10_p: float,
    target: Target,
    recipe: IndexingRecipe,
) -> str:
    """Why a lattice is not to be believed, given the peaks (n, 3) that no other explains; empty where it is."""
    claimed = _claimed(q, beam, basis)
    n = int(np.count_nonzero(claimed))
    if log10_p > recipe.max_log10_p or n < recipe.min_peaks:
        return Reason.NO_LATTICE.because(
            f"the best one explains {n} of {len(q)} peaks "
            f"(log10 of chance {log10_p:.1f}, at most {recipe.max_log10_p:g} wanted)"
        )
    close = _closeness(q[claimed], beam, basis)
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
    lengths, angles = target.deviation(basis)
    if np.abs(lengths).max() > recipe.length_tolerance or np.abs(angles).max() > recipe.angle_tolerance:
        return Reason.WRONG_CELL.because(
            f"the best lattice is {100 * np.abs(lengths).max():.1f} % and "
            f"{np.abs(angles).max():.1f}° off the given cell"
        )
    return ""


def _closeness(q: NDArray[np.float64], beam: NDArray[np.float64], basis: NDArray[np.float64]) -> float:
    """Of peaks (n, 3), the share within half the tolerance of whole indices, for the axis where it is least.

    A wrong cell that shares axes with the true one fits more peaks than chance, but not well along the others. What
    counts is the misfit along the Ewald sphere, because across it true lattices are off, too.
    """
    indices = q @ basis.T
    misfit = (indices - np.rint(indices)) @ np.linalg.inv(basis).T
    normal = (q + beam) / np.linalg.norm(q + beam, axis=1)[:, None]
    along = (misfit - (misfit * normal).sum(axis=1)[:, None] * normal) @ basis.T
    # Of an index error, so much shows along the sphere.
    shown = 1 - (normal @ basis.T) * (normal @ np.linalg.inv(basis))
    return float((np.abs(along) < CLAIM / 2 * np.clip(shown, 0.1, 1)).mean(axis=0).min())


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


def _shared_out(
    q: NDArray[np.float64],
    beam: NDArray[np.float64],
    bases: list[NDArray[np.float64]],
    chances: list[float],
    target: Target,
    recipe: IndexingRecipe,
) -> tuple[Lattice, ...]:
    """Lattices with the peaks that suit each of them best; those that keep too few go, the weakest first."""
    bases, chances = list(bases), list(chances)
    while bases:
        fits = np.array([_misfits(q, beam, basis) for basis in bases])
        claims = np.array([_claimed(q, beam, basis) for basis in bases])
        owner = np.argmin(np.where(claims, fits[:, 0], np.inf), axis=0)
        own = claims & (owner == np.arange(len(bases))[:, None])
        counts = own.sum(axis=1)
        weakest = int(np.argmin(counts))
        if counts[weakest] >= recipe.min_peaks:
            break
        del bases[weakest], chances[weakest]
    return tuple(
        Lattice(
            target.conventional(_setting(basis, target)), np.flatnonzero(own[i]), chance,
            float(np.sqrt(np.mean(fits[i, 0, own[i]] ** 2))),
        )
        for i, (basis, chance) in enumerate(zip(bases, chances, strict=True))
    )  # fmt: skip


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


def same_lattice(one: Lattice, other: Lattice) -> bool:
    """Whether two bases describe one lattice in one orientation."""
    change = np.linalg.inv(one.basis) @ other.basis
    whole = np.rint(change)
    return bool(np.abs(change - whole).max() < 0.1 and abs(abs(np.linalg.det(whole)) - 1) < 0.1)
