"""Ways of looking for one lattice of a known cell, compiled: by pairs of peaks, by the directions of its axes."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.indexing.assignment import same_lattice
from sfxlab.indexing.fit_kernels import fit_basis, fit_growing, fit_rotation, inverse, misfits, rotation_near
from sfxlab.indexing.search_kernels import axis_vectors, search_pairs, search_triples
from sfxlab.indexing.significance import NOT_TURNED, log10_chance

BEYOND_DOUBT = -20.0
"""log10 of chance from which on no other orientation is refined, if half of the peaks are explained."""
KEPT = 16
"""Orientations kept by each way of searching."""
REFINED = 4
"""Of these, so many have their cell refined."""
HOPELESS = -1.0
"""log10 of chance above which only the best of them has."""
FIT_PEAKS = 120
"""Innermost peaks that orientations are compared on."""
FIRST_SHELL = 12
"""Innermost peaks that a fit of the cell begins with."""
PAIR_BUDGET = 250_000
"""Comparisons of nodes, at most."""
AXIS_VECTORS = 60
"""Vectors that may be an axis, at most, for each axis."""
EXACT_METRIC, LOOSE_METRIC = 0.08, 0.12
"""Products of two axes of a basis may differ from the target's by so much, relative to the axes' lengths.

Along the beam few inner peaks leave vectors uncertain, even those of the right cell.
"""
TRIPLE_BUDGET = 5_000
"""Bases put together from three vectors, at most."""


@njit(cache=True, nogil=True, error_model="numpy")
def is_known(basis: NDArray[np.float64], known: NDArray[np.float64]) -> bool:
    """Whether a basis is of one of the lattices (n, 3, 3) that are known already, or of a fit gone astray."""
    found = not np.isfinite(basis).all()
    for i in range(len(known)):
        found = found or same_lattice(known[i], basis)
    return bool(found)


@njit(cache=True, nogil=True, error_model="numpy")
def mean_reach(q: NDArray[np.float64]) -> float:
    """Root mean square of |q| over peaks (3, n), 1/Å."""
    return math.sqrt((q * q).sum() / max(q.shape[1], 1))


@njit(cache=True, nogil=True, error_model="numpy")
def best_of(
    q: NDArray[np.float64],
    k: NDArray[np.float64],
    n_scan: int,
    target: NDArray[np.float64],
    n_rotations: int,
    known: NDArray[np.float64],
    loose: bool,
    bases: NDArray[np.float64],
    n_kept: int,
    factorials: NDArray[np.float64],
    best: NDArray[np.float64],
    best_p: float,
) -> float:
    """Refine what a search kept, on peaks (3, n); put the least likely one by chance into `best` if below `best_p`.

    At first only the orientation is fitted, where the cell is `loose` the cell, too.
    """
    n = min(q.shape[1], FIT_PEAKS)
    volume = abs(1.0 / np.linalg.det(inverse(target)))
    inner, work, all_work = np.ascontiguousarray(q[:, :n]), np.empty((3, n)), np.empty((3, q.shape[1]))
    chances, refined = np.zeros(n_kept), np.empty((REFINED, 3, 3))
    for c in range(n_kept):
        if loose:
            bases[c] = fit_growing(inner, k, bases[c], target, n_scan, work)
        else:
            bases[c] = fit_rotation(inner, k, n_scan, bases[c])
        misfits(inner, k, bases[c], work)
        chances[c] = log10_chance(work, volume, mean_reach(inner), n_rotations, loose, factorials, NOT_TURNED)[0]
        # The first one had the highest score.
        beyond_doubt = chances[c] < BEYOND_DOUBT and np.count_nonzero(work[2] < 0.25) > 0.5 * n
        if c == 0 and beyond_doubt and not is_known(bases[c], known):
            n_kept = 1
            break
    order = np.argsort(chances[:n_kept], kind="mergesort")
    n_refined = 0
    for c in order:
        if n_refined == REFINED or (n_refined > 0 and chances[c] > HOPELESS):
            break
        if is_known(bases[c], known) or is_known(bases[c], refined[:n_refined]):
            continue
        refined[n_refined] = bases[c]
        n_refined += 1
        for way in range(3):
            if way == 0:
                basis = bases[c]
            elif way == 1:
                basis = fit_basis(q, k, n_scan, bases[c], target, all_work)
            else:
                basis = fit_growing(q, k, bases[c], target, n_scan if loose else FIRST_SHELL, all_work)
            misfits(q, k, basis, all_work)
            free = loose or way > 0
            value = log10_chance(all_work, volume, mean_reach(q), n_rotations, free, factorials, NOT_TURNED)[0]
            if value < best_p and not is_known(basis, known):
                best_p = value
                best[:] = basis
        misfits(q, k, best, all_work)
        if best_p < BEYOND_DOUBT and np.count_nonzero(all_work[2] < 0.25) > 0.5 * q.shape[1]:
            break
    return best_p


@njit(cache=True, nogil=True, error_model="numpy")
def find_by_pairs(
    q: NDArray[np.float64],
    k: NDArray[np.float64],
    known: NDArray[np.float64],
    target: NDArray[np.float64],
    n_rotations: int,
    factorials: NDArray[np.float64],
    nodes: NDArray[np.float64],
    lengths: NDArray[np.float64],
    representatives: NDArray[np.int64],
    first_pair: int,
    n_paired: int,
    n_scored: int,
    best: NDArray[np.float64],
    best_p: float,
) -> float:
    """Look for a lattice, rows in Å and none of the `known` ones, by `search_pairs` in peaks (3, n), innermost first.

    Where it is less likely by chance than `best_p`, log10, it is put into `best`. Returns the new `best_p`.
    """
    bases, scores = np.empty((KEPT, 3, 3)), np.empty(KEPT)
    kept = search_pairs(
        q.astype(np.float32), math.sqrt((k**2).sum()), first_pair, n_paired, n_scored, target, nodes, lengths,
        representatives, PAIR_BUDGET, bases, scores, 0,
    )  # fmt: skip
    return best_of(q, k, n_scored, target, n_rotations, known, False, bases, kept, factorials, best, best_p)


@njit(cache=True, nogil=True, error_model="numpy")
def find_by_axes(
    q: NDArray[np.float64],
    k: NDArray[np.float64],
    known: NDArray[np.float64],
    target: NDArray[np.float64],
    n_rotations: int,
    factorials: NDArray[np.float64],
    same_as: NDArray[np.int64],
    directions: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
    n_scans: NDArray[np.int64],
    deviation: float,
    best: NDArray[np.float64],
    best_p: float,
) -> float:
    """The same by directions: each axis by itself, then all bases of three such vectors that are like the target.

    The axes' lengths may be off by a relative `deviation`. `same_as` tells the first axis that each one is like by
    symmetry.
    """
    q32 = q.astype(np.float32)
    lengths = np.sqrt((target * target).sum(axis=1))
    first = axis_vectors(q32, n_scans[0], lengths[0], directions[0], deviation, AXIS_VECTORS)
    second, third = first, first
    if same_as[1] == 1:
        second = axis_vectors(q32, n_scans[1], lengths[1], directions[1], deviation, AXIS_VECTORS)
    if same_as[2] == 1:
        third = second
    elif same_as[2] == 2:
        third = axis_vectors(q32, n_scans[2], lengths[2], directions[2], deviation, AXIS_VECTORS)
    bases, scores = np.empty((KEPT, 3, 3)), np.empty(KEPT)
    n_scored, loose = n_scans.min(), deviation > 0.0
    tolerance = LOOSE_METRIC if loose else EXACT_METRIC
    kept = search_triples(
        q32, n_scored, target, first, second, third, same_as, tolerance, TRIPLE_BUDGET, bases, scores, 0
    )
    if not loose:
        for c in range(kept):
            bases[c] = target @ rotation_near(inverse(bases[c]) @ target).T
    return best_of(q, k, n_scored, target, n_rotations, known, loose, bases, kept, factorials, best, best_p)
