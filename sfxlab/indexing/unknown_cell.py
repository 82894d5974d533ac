"""Lattices of any cell in the peaks of one frame."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import UnitCell
from sfxlab.indexing import fit_kernels, lattice_kernels, vector_kernels
from sfxlab.indexing.acceptance import SHARP_TOLERANCES, chance
from sfxlab.indexing.known_cell import IndexingResult, Lattice, index
from sfxlab.indexing.reasons import Reason
from sfxlab.indexing.target import target_of
from sfxlab.recipe import IndexingRecipe

SCAN_PEAKS = 60
LEAST_SCAN_PEAKS = 25
PITCH = 0.25
"""Steps of the grid of vectors: the root mean square change of q·v along each."""
MAX_GRID = 3e6
"""Most vectors of a grid."""
FIRST_REACH = 200.0
"""Axes up to this length, Å, are looked for first; longer ones where the lattice leaves many peaks unexplained."""
ENOUGH = 0.7
"""Share of the peaks that a lattice explains which is not likely to be a part of another one."""
LEAST_SCORE = 2.0
CANDIDATES = 300
VECTORS = 60
TO_REFINE = 16
TO_DIVIDE = 4
"""Bases that are freed from being supercells and subcells."""
TOLERANCE = 0.2
CLAIM = 0.25
"""A peak belongs to a lattice where all its indices are this close to whole numbers."""
LEAST_SHOWN = 0.3
"""How closely a lattice fits along an axis is told by peaks where so much of an error shows along the Ewald sphere."""
MARGIN = 1.0
"""log10 by which a lattice has to be less likely by chance than any other that explains most of its peaks."""
MAX_ALONG = -1.0
"""log10 of the chance of as good a fit along one axis of a lattice, given the other two."""
SHORT = np.array([n for n in product((1, 0, -1), repeat=3) if n > (0, 0, 0)])
"""Short vectors in units of the axes, no two opposite, (13, 3)."""
VOLUME_PRICE = 1.5
"""Peaks more that a cell has to explain to be as good as one e times smaller: supercells explain no fewer."""


def index_without_cell(q: NDArray[np.float64], recipe: IndexingRecipe) -> IndexingResult:
    """Find up to `max_lattices` lattices among peaks q, (n, 3), 1/Å, with no cell given, METHODS.md section 4.5.

    Their bases are those of reduced primitive cells. The lattices after the first are looked for with its cell. The
    result depends on nothing but the arguments, as long as the time limit is not reached.
    """
    if len(q) < recipe.min_peaks:
        return IndexingResult((), Reason.TOO_FEW_PEAKS.because(f"{len(q)}, at least {recipe.min_peaks} needed"))
    order = np.argsort(np.linalg.norm(q, axis=1), kind="stable")
    started = time.monotonic()
    found: list[Lattice] = []
    reason = ""
    for reach in sorted({min(FIRST_REACH, recipe.max_axis), recipe.max_axis}):
        if time.monotonic() - started > recipe.time_limit:
            # The work of a search is bounded by counts, so that this is for machines that stand still.
            reason = Reason.TIME_LIMIT.because(f"{recipe.time_limit:g} s, {len(found)} lattices found until then")
            break
        lattice, reason = _first_lattice(q, order, reach, recipe)
        if lattice is not None:
            found.append(lattice)
            if len(lattice.peaks) > ENOUGH * len(q):
                break
    if not found:
        return IndexingResult((), reason)
    first = min(found, key=lambda lattice: lattice.log10_p)
    left = recipe.time_limit - (time.monotonic() - started)
    return IndexingResult((first, *_further_lattices(q, order, first, recipe, left)))


def _first_lattice(
    q: NDArray[np.float64], order: NDArray[np.int64], reach: float, recipe: IndexingRecipe
) -> tuple[Lattice | None, str]:
    """The lattice with axes up to `reach`, Å, that is least likely by chance; where there is none, why."""
    peaks = np.ascontiguousarray(q[order[: recipe.max_peaks]].T, dtype=np.float32)
    bases, log10_trials = _candidates(peaks, recipe.min_axis, reach)
    found = _distinct(peaks, bases, log10_trials)[:TO_DIVIDE]
    divided = [
        lattice_kernels.without_supercell(peaks, lattice_kernels.without_subcell(peaks, basis, TOLERANCE), TOLERANCE)
        for _, _, basis in found
    ]
    found = _distinct(peaks, [b for b in divided if np.linalg.norm(b[0]) >= recipe.min_axis], log10_trials)
    if not found:
        return None, Reason.NO_LATTICE.because(f"no three axes explain the {len(q)} peaks")
    _, log10_p, basis = found[0]
    errors = lattice_kernels.index_errors(np.ascontiguousarray(q[order].T, dtype=np.float32), basis)
    fitting = order[errors < CLAIM]
    if log10_p > recipe.max_log10_p or len(fitting) < recipe.min_peaks:
        return None, Reason.NO_LATTICE.because(
            f"the best one explains {len(fitting)} of {len(q)} peaks "
            f"(log10 of chance {log10_p:.1f}, at most {recipe.max_log10_p:g} wanted)"
        )
    along = _chance_along_worst(q[order[: recipe.max_peaks]], basis, log10_trials / 2)
    if along > MAX_ALONG:
        return None, Reason.LOOSE_FIT.because(
            f"along one axis of the best lattice, which explains {len(fitting)} of {len(q)} peaks, "
            f"as good a fit is had by chance (log10 of it {along:.1f}, at most {MAX_ALONG:g} wanted)"
        )
    close = _close(q[order[: recipe.max_peaks]], basis)
    if close < recipe.min_close:
        return None, Reason.LOOSE_FIT.because(
            f"only {close:.0%} of the {len(fitting)} peaks that the best lattice explains suit it well along all its "
            f"axes, at least {recipe.min_close:.0%} wanted"
        )
    fits = lattice_kernels.index_errors(peaks, basis) < TOLERANCE
    for _, rival_p, rival in found[1:]:
        both = fits & (lattice_kernels.index_errors(peaks, rival) < TOLERANCE)
        if rival_p < log10_p + MARGIN and np.count_nonzero(both) > np.count_nonzero(fits) / 2:
            return None, Reason.AMBIGUOUS.because(
                f"two different lattices suit {len(fitting)} of {len(q)} peaks about equally well "
                f"(log10 of chance {log10_p:.1f} and {rival_p:.1f})"
            )
    return Lattice(np.asarray(np.linalg.inv(basis), dtype=np.float64), fitting, log10_p), ""


def _distinct(
    q: NDArray[np.float32], bases: Iterable[NDArray[np.float64]], log10_trials: float
) -> list[tuple[float, float, NDArray[np.float64]]]:
    """Merit, log10 of chance and basis of different lattices, the best first."""
    rated = sorted(((*_merit(q, basis, log10_trials), basis) for basis in bases), key=lambda item: item[0])
    distinct: list[tuple[float, float, NDArray[np.float64]]] = []
    for item in rated:
        if not any(_same(item[2], other[2]) for other in distinct):
            distinct.append(item)
    return distinct


def _merit(q: NDArray[np.float32], basis: NDArray[np.float64], log10_trials: float) -> tuple[float, float]:
    """What the best basis has least of, and log10 of the chance of its fit to the peaks (3, n)."""
    log10_p = chance(lattice_kernels.index_errors(q, basis), log10_trials, SHARP_TOLERANCES)
    # A larger cell explains the same peaks and a few more.
    return log10_p + VOLUME_PRICE * math.log10(abs(np.linalg.det(basis))), log10_p


def _chance_along_worst(q: NDArray[np.float64], basis: NDArray[np.float64], log10_trials: float) -> float:
    """log10 of the chance of as good a fit along one axis, given the two short vectors that suit the peaks (n, 3) best.

    Where two axes are right and the third is not, for it is too long to be looked for, say, far more peaks fit than any
    do by chance. `log10_trials` is that of how many vectors were tried for the third one.
    """
    indices = q @ basis.T
    indices = indices[np.any(np.rint(indices) != 0, axis=1)]
    claimed = np.abs(indices - np.rint(indices)).max(axis=1) < CLAIM
    along = indices @ SHORT.T
    errors = np.abs(along - np.rint(along))
    best_first = np.argsort(np.median(errors[claimed], axis=0), kind="stable")
    chosen = next(
        list(three) for three in combinations(best_first, 3) if round(abs(np.linalg.det(SHORT[list(three)]))) == 1
    )
    two, third = errors[:, chosen[:2]].max(axis=1), errors[:, chosen[2]]
    chances = []
    for tolerance in SHARP_TOLERANCES:
        left = third[two < tolerance]
        fitting = int(np.count_nonzero(left < tolerance))
        chances.append(lattice_kernels.log10_tail(fitting, len(left), 2 * tolerance))
    return min(chances) + log10_trials + math.log10(len(SHARP_TOLERANCES))


def _close(q: NDArray[np.float64], basis: NDArray[np.float64]) -> float:
    """Of the peaks (n, 3) that a lattice explains, the share within half the tolerance, along the axis of the least.

    A lattice that shares two axes with the true one explains half of the peaks, but only half of these closely. So do
    peaks of others that fit by chance; they are deducted. True lattices fit closely as they are, or, where nodes are
    large, at least along the Ewald sphere, as far as those peaks tell whose errors show there.
    """
    indices = q @ basis.T
    errors = indices - np.rint(indices)
    fits = (np.abs(errors).max(axis=1) < CLAIM) & np.any(np.rint(indices) != 0, axis=1)
    rays = q[fits] + fit_kernels.beam_of(np.ascontiguousarray(q.T))
    normal = rays / np.linalg.norm(rays, axis=1)[:, None]
    misfit = errors[fits] @ np.linalg.inv(basis).T
    along = (misfit - (misfit * normal).sum(axis=1)[:, None] * normal) @ basis.T
    shown = 1 - (normal @ basis.T) * (normal @ np.linalg.inv(basis))  # of an error, along the sphere
    telling = shown > LEAST_SHOWN
    n_telling = np.maximum(telling.sum(axis=0), 1)
    along_sphere = ((np.abs(along) < CLAIM / 2 * shown) & telling).sum(axis=0) / n_telling
    share = float(np.maximum((np.abs(errors[fits]) < CLAIM / 2).mean(axis=0), along_sphere).min()) if fits.any() else 0
    fitting = int(np.count_nonzero(fits))
    by_chance = (len(q) - fitting) * (2 * CLAIM) ** 3 / (1 - (2 * CLAIM) ** 3) / max(fitting, 1)
    return (share - by_chance / 2) / (1 - by_chance) if by_chance < 1 else 0.0


def _candidates(q: NDArray[np.float32], min_axis: float, reach: float) -> tuple[NDArray[np.float64], float]:
    """Refined bases, (n, 3, 3), rows in Å, for peaks (3, n) innermost first; log10 of how many were tried."""
    n_scan = min(SCAN_PEAKS, q.shape[1])
    steps, extent, reach = _grid(q[:, :n_scan], reach)
    while np.prod(2.0 * extent) / 2 > MAX_GRID and n_scan > LEAST_SCAN_PEAKS:
        n_scan = max(LEAST_SCAN_PEAKS, round(0.85 * n_scan))
        steps, extent, reach = _grid(q[:, :n_scan], reach)
    while np.prod(2.0 * extent) / 2 > MAX_GRID and reach > min_axis:
        steps, extent, reach = _grid(q[:, :n_scan], 0.9 * reach)
    inner = np.ascontiguousarray(q[:, :n_scan])
    scores = vector_kernels.score_grid(inner, steps, extent, min_axis, reach)
    vectors = vector_kernels.best_of_grid(
        scores, steps, int(np.clip(CANDIDATES * SCAN_PEAKS / q.shape[1], CANDIDATES, 5 * CANDIDATES)), LEAST_SCORE
    )
    vectors = vector_kernels.refine_vectors(q, vectors, n_scan, 6)
    significance = vector_kernels.score_vectors(q, vectors, TOLERANCE)
    moment = (q @ q.T).astype(np.float64) / q.shape[1]
    vectors = vector_kernels.distinct_vectors(vectors, significance, moment, VECTORS, min_axis, 1.05 * reach)
    bases = vector_kernels.best_triples(q, vectors, TOLERANCE, VOLUME_PRICE, TO_REFINE)
    bases = lattice_kernels.refine_bases(q, bases, n_scan)
    # Three vectors were chosen; one of them is paid for by the three peaks that `chance` takes as fitted.
    return bases, 2 * math.log10(max(scores.size, 1))


def _grid(q: NDArray[np.float32], reach: float) -> tuple[NDArray[np.float32], NDArray[np.int64], float]:
    """Steps, rows in Å, and extent of a grid of vectors along the principal axes of the peaks, finest last.

    Peaks of a still lie near a plane, so that across it much longer steps do.
    """
    moments, axes = np.linalg.eigh((q @ q.T).astype(np.float64) / q.shape[1])
    lengths = np.minimum(PITCH / np.sqrt(np.maximum(moments, 1e-6 * moments[2])), reach)
    steps = np.ascontiguousarray(axes.T * lengths[:, None], dtype=np.float32)
    return steps, np.ceil(reach / lengths).astype(np.int64), reach


def _further_lattices(
    q: NDArray[np.float64], order: NDArray[np.int64], first: Lattice, recipe: IndexingRecipe, seconds: float
) -> list[Lattice]:
    """Lattices of the same cell in the peaks that the first one leaves, as long as some `seconds` are left."""
    remaining = np.sort(order[~np.isin(order, first.peaks)])
    if recipe.max_lattices == 1 or len(remaining) < recipe.min_peaks or seconds <= 0:
        return []
    fewer = recipe.model_copy(update={"max_lattices": recipe.max_lattices - 1, "time_limit": seconds})
    found = index(q[remaining], target_of(UnitCell.of_basis(first.basis)), fewer).lattices
    return [
        Lattice(lattice.basis, remaining[lattice.peaks], lattice.log10_p)
        for lattice in found
        if not _same(lattice.basis.T, first.basis.T)
    ]


def _same(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Whether two bases (rows) describe one lattice in one orientation."""
    change = other @ np.linalg.inv(one)
    whole = np.rint(change)
    return bool(np.abs(change - whole).max() < 0.1 and abs(abs(np.linalg.det(whole)) - 1) < 0.1)
