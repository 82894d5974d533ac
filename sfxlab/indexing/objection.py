"""Why a lattice that fits better than by chance is not to be believed all the same."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.indexing.assignment import CLAIM
from sfxlab.indexing.background import FOR_SPREAD, WIDEST, spread, turned_about_beam
from sfxlab.indexing.fit_kernels import inverse, misfits, scatter
from sfxlab.indexing.reasons import Reason
from sfxlab.indexing.search import CROWD, log_factorials
from sfxlab.indexing.significance import log10_tail
from sfxlab.indexing.target import Target
from sfxlab.recipe import IndexingRecipe

LEAST_SHOWN, TELLING_PEAKS = 0.3, 6
"""Peaks say how well a lattice suits along an axis where so much of an error shows; fewer than so many say nothing."""
MOSTLY_CHANCE = 1 / 3
"""Where more of a crowd's peaks near whole indices are expected by chance, their distances tell them apart."""
MAX_LAYER_CHANCE = -5.0
"""Peaks gather on few layers of a lattice where log10 of the chance of it is below this."""


def objection(
    q: NDArray[np.float64],
    beam: NDArray[np.float64],
    basis: NDArray[np.float64],
    log10_p: float,
    target: Target,
    recipe: IndexingRecipe,
) -> str:
    """Why a lattice is not to be believed, given the peaks (3, n) that no other explains; empty where it is."""
    claimed, close = claims(q, beam, basis)
    n = int(np.count_nonzero(claimed))
    if log10_p > recipe.max_log10_p or n < recipe.min_peaks:
        return Reason.NO_LATTICE.because(
            f"the best one explains {n} of {q.shape[1]} peaks "
            f"(log10 of chance {log10_p:.1f}, at most {recipe.max_log10_p:g} wanted)"
        )
    if close < recipe.min_close:
        return Reason.WRONG_CELL.because(
            f"only {close:.0%} of the {n} peaks that the best lattice explains suit it well along all its axes, "
            f"at least {recipe.min_close:.0%} wanted"
        )
    layers = layers_of(q[:, claimed], basis, log_factorials(n))
    if layers > 1:
        return Reason.WRONG_CELL.because(
            f"nearly all of the {n} peaks explained are on every {layers}th layer of an axis"
        )
    lengths, angles = target.deviation(target.setting(basis))
    if np.abs(lengths).max() > recipe.length_tolerance or np.abs(angles).max() > recipe.angle_tolerance:
        return Reason.WRONG_CELL.because(
            f"the best lattice is {100 * np.abs(lengths).max():.1f} % and "
            f"{np.abs(angles).max():.1f}° off the given cell"
        )
    return ""


@njit(cache=True, nogil=True, error_model="numpy")
def claims(
    q: NDArray[np.float64], beam: NDArray[np.float64], basis: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], float]:
    """Which peaks (3, n) a lattice explains, and how closely, from 0 to 1."""
    n = q.shape[1]
    misfit = np.empty((3, n))
    misfits(q, beam, basis, misfit)
    claimed = (misfit[2] < CLAIM) & (misfit[0] < WIDEST * scatter(misfit, CLAIM))
    nothing = np.zeros((4, 3))
    if n < CROWD:
        return claimed, _closeness(_close(q, claimed, beam, basis), nothing)
    random = turned_about_beam(q, beam, FOR_SPREAD)
    share = n / random.shape[1]
    by_chance = np.empty_like(random)
    misfits(random, beam, basis, by_chance)
    of_random = (by_chance[2] < CLAIM) & (by_chance[0] < WIDEST * scatter(misfit, CLAIM))
    if share * np.count_nonzero(of_random) < MOSTLY_CHANCE * np.count_nonzero(claimed):
        return claimed, _closeness(_close(q, claimed, beam, basis), nothing)
    _, limit = spread(misfit, by_chance, np.zeros(n, dtype=np.bool_), CLAIM)
    claimed = (misfit[2] < CLAIM) & (misfit[0] < limit)
    of_random = (by_chance[2] < CLAIM) & (by_chance[0] < limit)
    return claimed, _closeness(_close(q, claimed, beam, basis), share * _close(random, of_random, beam, basis))


@njit(cache=True, nogil=True, error_model="numpy")
def _closeness(own: NDArray[np.float64], by_chance: NDArray[np.float64]) -> float:
    """Of peaks, the share within half the tolerance of whole indices, for the axis where it is least.

    A wrong cell that shares axes with the true one fits more peaks than chance, but not well along the others. Counts
    (4, 3) are those of `_close`; what is expected `by_chance` is deducted.
    """
    worst, n = 1.0, max(own[0, 0] - by_chance[0, 0], 1.0)
    for axis in range(3):
        of_all = (own[1, axis] - by_chance[1, axis]) / n
        telling = own[2, axis] - by_chance[2, axis]
        # Few peaks that tell tell less than all do.
        of_telling = (own[3, axis] - by_chance[3, axis]) / max(telling, 1.0) if telling >= TELLING_PEAKS else 0.0
        worst = min(worst, max(of_all, of_telling))
    return worst


@njit(cache=True, nogil=True, error_model="numpy")
def _close(
    q: NDArray[np.float64], chosen: NDArray[np.bool_], beam: NDArray[np.float64], basis: NDArray[np.float64]
) -> NDArray[np.float64]:
    """For each axis (4, 3): chosen peaks, those close to whole indices, those that tell, those that are both.

    Close is within half the tolerance. What counts is the misfit along the Ewald sphere, because across it true
    lattices are off, too.
    """
    reciprocal = inverse(basis)
    misfit, normal, counts = np.empty(3), np.empty(3), np.zeros((4, 3))
    for j in range(q.shape[1]):
        if not chosen[j]:
            continue
        misfit[:] = 0.0
        for i in range(3):
            value = basis[i, 0] * q[0, j] + basis[i, 1] * q[1, j] + basis[i, 2] * q[2, j]
            for a in range(3):
                misfit[a] += reciprocal[a, i] * (value - np.rint(value))
        ray, across = 0.0, 0.0
        for a in range(3):
            normal[a] = q[a, j] + beam[a]
            ray += normal[a] * normal[a]
        for a in range(3):
            normal[a] /= math.sqrt(ray)
            across += normal[a] * misfit[a]
        for i in range(3):
            along, real, dual = 0.0, 0.0, 0.0
            for a in range(3):
                along += basis[i, a] * (misfit[a] - across * normal[a])
                real += basis[i, a] * normal[a]
                dual += reciprocal[a, i] * normal[a]
            # Of an index error, so much shows along the sphere; where it is little, noise drowns it.
            shown = 1.0 - real * dual
            close, tells = abs(along) < 0.5 * CLAIM * min(max(shown, 0.1), 1.0), shown > LEAST_SHOWN
            counts[0, i] += 1.0
            counts[1, i] += close
            counts[2, i] += tells
            counts[3, i] += close and tells
    return counts


@njit(cache=True, nogil=True, error_model="numpy")
def layers_of(q: NDArray[np.float64], basis: NDArray[np.float64], factorials: NDArray[np.float64]) -> int:
    """On every how manieth layer along some axis the peaks (3, n) lie, 1 where on all; `factorials` are logarithms.

    A wrong cell fits where its layers coincide with true ones. Layers 0 say nothing, and every second one may be the
    work of a pseudo-translation.
    """
    for i in range(3):
        hits, others = np.zeros(8, dtype=np.int64), 0
        for j in range(q.shape[1]):
            value = round(basis[i, 0] * q[0, j] + basis[i, 1] * q[1, j] + basis[i, 2] * q[2, j])
            if value != 0:
                others += 1
                for layers in range(3, 8):
                    hits[layers] += value % layers == 0
        for layers in range(3, 8):
            if hits[layers] > 2 and log10_tail(hits[layers], others, 1.0 / layers, factorials) < MAX_LAYER_CHANCE:
                return layers
    return 1
