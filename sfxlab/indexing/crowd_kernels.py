"""The search for one lattice of a known cell among the peaks of many crystals, compiled."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.indexing.background import FOR_CHANCE, turned_about_beam
from sfxlab.indexing.fit_kernels import inverse, misfits, strained, turned
from sfxlab.indexing.known_cell_kernels import HOPELESS, KEPT, REFINED, is_known, mean_reach
from sfxlab.indexing.search_kernels import search_pairs
from sfxlab.indexing.significance import NOT_TURNED, log10_chance

PAIRED = 60
"""Innermost peaks of which pairs are taken."""
BUDGET = 6_000
"""Comparisons of nodes and peaks for each peak, at most."""
TOLERANCES = np.array([0.25, 0.2, 0.15, 0.15])
"""Distances from whole indices at which peaks take part in the cycles of a fit: more would be others' than its own."""
CELL_CYCLES = 4


@njit(cache=True, nogil=True, error_model="numpy")
def find_in_crowd(
    q: NDArray[np.float64],
    k: NDArray[np.float64],
    known: NDArray[np.float64],
    target: NDArray[np.float64],
    n_rotations: int,
    factorials: NDArray[np.float64],
    nodes: NDArray[np.float64],
    lengths: NDArray[np.float64],
    representatives: NDArray[np.int64],
    best: NDArray[np.float64],
    best_p: float,
) -> float:
    """Look for a lattice, rows in Å and none of the `known` ones, by pairs of peaks; all peaks (3, n) judge them.

    Where few of the innermost peaks are of one crystal they say too little of an orientation. Where the lattice is less
    likely by chance than `best_p`, log10, it is put into `best`. Returns the new `best_p`.
    """
    bases, scores = np.empty((KEPT, 3, 3)), np.empty(KEPT)
    n = q.shape[1]
    kept = search_pairs(
        q.astype(np.float32), math.sqrt((k**2).sum()), 1, PAIRED, n, target, nodes, lengths, representatives,
        BUDGET * n, bases, scores, 0,
    )  # fmt: skip
    volume, reach = abs(1.0 / np.linalg.det(inverse(target))), mean_reach(q)
    work, chances, refined = np.empty((3, n)), np.zeros(kept), np.empty((REFINED, 3, 3))
    for c in range(kept):
        for cycle in range(len(TOLERANCES)):
            bases[c] = turned(q, k, n // 2 if cycle == 0 else n, bases[c], TOLERANCES[cycle])
        misfits(q, k, bases[c], work)
        chances[c] = log10_chance(work, volume, reach, n_rotations, False, factorials, NOT_TURNED)[0]
    random = turned_about_beam(q, k, FOR_CHANCE)
    random_work = np.empty_like(random)
    n_refined = 0
    for c in np.argsort(chances, kind="mergesort"):
        if n_refined == REFINED or (n_refined > 0 and chances[c] > HOPELESS):
            break
        if is_known(bases[c], known) or is_known(bases[c], refined[:n_refined]):
            continue
        refined[n_refined] = bases[c]
        n_refined += 1
        basis = bases[c].copy()
        for cycle in range(CELL_CYCLES + 1):
            misfits(q, k, basis, work)
            value, along, _ = log10_chance(work, volume, reach, n_rotations, cycle > 0, factorials, NOT_TURNED)
            if value < best_p and not is_known(basis, known):
                misfits(random, k, basis, random_work)
                value = log10_chance(work, volume, reach, n_rotations, cycle > 0, factorials, random_work)[0]
            if value < best_p and not is_known(basis, known):
                best_p = value
                best[:] = basis
            basis = strained(q, k, n, basis, target, TOLERANCES[0], 0.5 * along)
    return best_p
