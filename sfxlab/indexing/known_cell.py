"""Lattices of a known cell in the peaks of one frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfxlab.indexing import kernels
from sfxlab.indexing.acceptance import chance
from sfxlab.indexing.target import Target
from sfxlab.recipe import IndexingRecipe

SCAN_PEAKS = 60
CANDIDATES = 40
TO_REFINE = 8
RESTRAINT = 25.0
"""(0.1 / 0.02)²: an index error of 0.1 weighs as much as a relative deviation of 2 % from the target cell."""
CLAIM = 0.25
"""A peak belongs to a lattice where all its indices are this close to whole numbers."""


@dataclass(frozen=True)
class Lattice:
    """A lattice that explains some of the peaks."""

    basis: NDArray[np.float64]
    """Columns a*, b*, c* of the conventional cell in the laboratory frame, (3, 3), 1/Å."""
    peaks: NDArray[np.int64]
    """Indices of the peaks that it explains, (n,)."""
    log10_p: float
    """log10 of the probability of as good a fit by chance."""


@dataclass(frozen=True)
class IndexingResult:
    """Lattices of one frame, best first; where there is none, why."""

    lattices: tuple[Lattice, ...]
    reason: str = ""


def index(q: NDArray[np.float64], target: Target, recipe: IndexingRecipe) -> IndexingResult:
    """Find up to `max_lattices` lattices of the target cell among peaks q, (n, 3), 1/Å, METHODS.md sections 4.4 to 4.8.

    Each lattice takes its peaks away from those that come after it. The result depends on nothing but the arguments.
    """
    lattices: list[Lattice] = []
    remaining = np.argsort(np.linalg.norm(q, axis=1), kind="stable")
    reason = ""
    while len(lattices) < recipe.max_lattices:
        if len(remaining) < recipe.min_peaks:
            reason = f"too few peaks: {len(remaining)}, at least {recipe.min_peaks} needed"
            break
        lattice, reason = _best_lattice(q, remaining, target, recipe)
        if lattice is None or any(_same(lattice, other) for other in lattices):
            break
        lattices.append(lattice)
        remaining = remaining[~np.isin(remaining, lattice.peaks)]
    return IndexingResult(tuple(lattices), "" if lattices else reason)


def _best_lattice(
    q: NDArray[np.float64], remaining: NDArray[np.int64], target: Target, recipe: IndexingRecipe
) -> tuple[Lattice | None, str]:
    """The lattice that the remaining peaks (indices, lowest resolution first) are least likely to suit by chance."""
    used = remaining[: recipe.max_peaks]
    peaks = np.ascontiguousarray(q[used].T, dtype=np.float32)
    best, best_p = None, 0.0
    # The shortest axis needs the fewest directions; the others are tried where it fails.
    for axis in range(3):
        for basis in _candidates(peaks, target, axis):
            refined = _refine(peaks, basis, target)
            log10_p = chance(kernels.index_errors(peaks, refined))
            if best is None or log10_p < best_p:
                best, best_p = refined, log10_p
        if best is not None and best_p < min(recipe.max_log10_p, -6.0):
            break
    if best is None:
        return None, "no lattice: no direction suits the cell"
    errors = kernels.index_errors(np.ascontiguousarray(q[remaining].T, dtype=np.float32), best)
    fitting = remaining[errors < CLAIM]
    if best_p > recipe.max_log10_p or len(fitting) < recipe.min_peaks:
        return None, (
            f"no lattice: the best one explains {len(fitting)} of {len(remaining)} peaks "
            f"(log10 of chance {best_p:.1f}, at most {recipe.max_log10_p:g} wanted)"
        )
    # A wrong cell that shares axes with the true one fits more peaks than chance, but not well along the others.
    indices = q[fitting] @ best.T
    close = float((np.abs(indices - np.rint(indices)) < CLAIM / 2).mean(axis=0).min())
    if close < recipe.min_close:
        return None, (
            f"no lattice: only {close:.0%} of the {len(fitting)} peaks that the best one explains suit it well, "
            f"at least {recipe.min_close:.0%} wanted; is the cell right?"
        )
    lengths, angles = target.deviation(best)
    if np.abs(lengths).max() > recipe.length_tolerance or np.abs(angles).max() > recipe.angle_tolerance:
        return None, (
            f"wrong cell: the best lattice is {100 * np.abs(lengths).max():.1f} % and "
            f"{np.abs(angles).max():.1f}° off the given cell"
        )
    return Lattice(target.conventional(best), fitting, best_p), ""


def _candidates(q: NDArray[np.float32], target: Target, axis: int) -> list[NDArray[np.float64]]:
    """Rigid orientations of the target, rows in Å, that suit the innermost peaks best."""
    inner = np.ascontiguousarray(q[:, :SCAN_PEAKS])
    reach = max(float(np.linalg.norm(inner, axis=0).max()), 1e-3)
    length = float(target.lengths[axis])
    pitch = 0.4 / (reach * length)
    directions = kernels.hemisphere(int(np.clip(2 * math.pi / pitch**2, 2000, 40000)))
    scores = kernels.score_directions(inner, length, directions)
    chosen = kernels.best_directions(scores, directions, CANDIDATES, 1.5 * pitch)
    n_angles = int(np.clip(2 * math.pi * reach * float(target.lengths.max()) / 0.35, 180, 1440))
    found: list[tuple[float, NDArray[np.float64]]] = []
    for i in chosen:
        vector = kernels.refine_vector(inner, directions[i].astype(np.float64) * length)
        size = float(np.linalg.norm(vector))
        if abs(size / length - 1) > 0.1:
            continue
        for direction in (vector / size, -vector / size):
            rotation_scores, start = kernels.score_rotations(inner, target.basis, axis, direction, n_angles)
            for turn in np.argsort(-rotation_scores, kind="stable")[:2]:
                angle = 2 * math.pi * float(turn) / n_angles
                found.append((float(rotation_scores[turn]), kernels.rotate(start, direction, angle)))
    found.sort(key=lambda item: -item[0])
    return [basis for _, basis in found[:TO_REFINE]]


def _refine(q: NDArray[np.float32], basis: NDArray[np.float64], target: Target) -> NDArray[np.float64]:
    """Least squares from the inner peaks outwards, with falling tolerance."""
    n = q.shape[1]
    inner = SCAN_PEAKS
    for n_used, tolerance in ((inner, 0.35), (inner, 0.3), (2 * inner, 0.3), (n, 0.25), (n, 0.2), (n, 0.2)):
        basis = kernels.refine_indices(q, min(n_used, n), basis, target.basis, tolerance, RESTRAINT)
    return basis


def _same(one: Lattice, other: Lattice) -> bool:
    """Whether two bases describe one lattice in one orientation."""
    change = np.linalg.inv(one.basis) @ other.basis
    whole = np.rint(change)
    return bool(np.abs(change - whole).max() < 0.1 and abs(abs(np.linalg.det(whole)) - 1) < 0.1)
