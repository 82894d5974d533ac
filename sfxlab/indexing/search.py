"""The search for one lattice of a known cell: ways of looking for it, one after the other until one finds it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from sfxlab.crystal import UnitCell
from sfxlab.indexing.crowd_kernels import find_in_crowd
from sfxlab.indexing.fit_kernels import misfits
from sfxlab.indexing.known_cell_kernels import find_by_axes, find_by_pairs
from sfxlab.indexing.search_kernels import hemisphere
from sfxlab.indexing.target import Target, target_of

SCAN_PEAKS = 60
"""Innermost peaks that directions and orientations are tried on."""
LEAST_SCANNED = 20
"""At least so many of them, even where their resolution asks for more directions than are tried."""
DIRECTIONS = (2_000, 4_000, 8_000, 16_000, 32_000)
FIRST_PAIRED, PAIRED = 10, 28
"""Innermost peaks of which pairs are taken, at first and in the end."""
CROWD = 100
"""Among so many peaks or more those of one crystal may be a small part."""
ENOUGH, EVIDENCE = -10.0, -1.5
"""log10 of chance, and log10 for each peak explained, from which on no further way of searching is tried.

A wrong lattice that shares layers with the true one explains many peaks, but none of them well.
"""
LOOSE_REACH, LOOSE_DEVIATION = 8.0, 0.03
"""Where the cell may be wrong by so much, whole numbers up to this are trusted."""
LOOSE_PRICE = 2.0
"""log10 of how many more cells, besides the strains that are counted, a search with a loose cell tries."""


@dataclass(frozen=True)
class _Peaks:
    """What is searched: peaks (3, n), 1/Å, from low resolution to high, and lattices that are known already."""

    q: NDArray[np.float64]
    beam: NDArray[np.float64]
    known: NDArray[np.float64]

    @cached_property
    def reach(self) -> NDArray[np.float64]:
        return np.asarray(np.linalg.norm(self.q, axis=0))

    def within(self, reach: float) -> int:
        """How many of the innermost peaks to use, those up to a resolution, 1/Å, if that is enough of them."""
        return min(len(self.reach), SCAN_PEAKS, max(LEAST_SCANNED, int(np.searchsorted(self.reach, reach))))


_Way = Callable[[_Peaks, Target, NDArray[np.float64], float], float]


def find_lattice(
    q: NDArray[np.float64],
    beam: NDArray[np.float64],
    known: NDArray[np.float64],
    target: Target,
    *,
    deadline: float = math.inf,
    may_be_loose: bool = True,
    only_loose: bool = False,
) -> tuple[NDArray[np.float64], float]:
    """The lattice that peaks (3, n), 1/Å, innermost first, are least likely to suit by chance, and log10 of that.

    Reduced real axes as rows, Å, and none of the `known` lattices, (n, 3, 3); log10 is 0 where nothing was found. In
    the end the cell `may_be_loose`, off by some per cent, with `only_loose` from the start. No further way of searching
    begins after `deadline` (of `time.monotonic`), and each is bounded by counts. METHODS.md section 4.4.
    """
    peaks = _Peaks(q, beam, known)
    ways: list[_Way] = [partial(_by_pairs, 1, FIRST_PAIRED), partial(_by_pairs, FIRST_PAIRED, PAIRED), _by_axes]
    if q.shape[1] >= CROWD:
        ways.insert(2, _in_crowd)
    if only_loose:
        ways = []
    if may_be_loose and q.shape[1] >= LEAST_SCANNED:
        # Fewer peaks suit some loose cell or other.
        ways.append(_by_loose_axes)
    best, best_p = target.basis.copy(), 0.0
    for way in ways:
        if time.monotonic() > deadline:
            break
        best_p = float(way(peaks, target, best, best_p))
        if best_p < ENOUGH and best_p < EVIDENCE * _explained(peaks, best):
            break
    return best, best_p


@lru_cache(maxsize=1)
def compile_search() -> None:
    """Search once in every way, so that no time limit counts the compiling of the ways."""
    turn = np.arange(CROWD)
    x, y = 0.002 * turn * np.cos(turn), 0.002 * turn * np.sin(turn)
    peaks = np.array([x, y, np.sqrt(0.75**2 - x**2 - y**2) - 0.75])
    find_lattice(peaks, np.array([0.0, 0.0, 0.75]), np.empty((0, 3, 3)), target_of(UnitCell(50, 60, 70)))


def _explained(peaks: _Peaks, basis: NDArray[np.float64]) -> float:
    """How many peaks a lattice makes near whole numbers; in a crowd, but for those that are so by chance."""
    misfit = np.empty_like(peaks.q)
    misfits(peaks.q, peaks.beam, basis, misfit)
    near, by_chance = np.count_nonzero(misfit[2] < 0.25), 0.5**3
    return float(near if misfit.shape[1] < CROWD else (near - by_chance * misfit.shape[1]) / (1 - by_chance))


def _by_pairs(
    first: int, paired: int, peaks: _Peaks, target: Target, best: NDArray[np.float64], best_p: float
) -> float:
    nodes = target.nodes
    return find_by_pairs(
        peaks.q, peaks.beam, peaks.known, target.basis, len(target.rotations), log_factorials(peaks.q.shape[1]),
        nodes.positions, nodes.lengths, nodes.representatives, first, paired, _scans(peaks, target).max(), best, best_p,
    )  # fmt: skip


def _in_crowd(peaks: _Peaks, target: Target, best: NDArray[np.float64], best_p: float) -> float:
    nodes = target.nodes
    return find_in_crowd(
        peaks.q, peaks.beam, peaks.known, target.basis, len(target.rotations), log_factorials(peaks.q.shape[1]),
        nodes.positions, nodes.lengths, nodes.representatives, best, best_p,
    )  # fmt: skip


def _by_axes(peaks: _Peaks, target: Target, best: NDArray[np.float64], best_p: float) -> float:
    return _with_directions(peaks, target, _scans(peaks, target), 0.0, best, best_p)


def _by_loose_axes(peaks: _Peaks, target: Target, best: NDArray[np.float64], best_p: float) -> float:
    n_scans = np.full(3, peaks.within(LOOSE_REACH / target.lengths.max()))
    found = best.copy()
    found_p = _with_directions(peaks, target, n_scans, LOOSE_DEVIATION, found, best_p - LOOSE_PRICE) + LOOSE_PRICE
    if found_p < best_p:
        best[:] = found
    return found_p


def _scans(peaks: _Peaks, target: Target) -> NDArray[np.int64]:
    """Peaks on which each axis is looked for: within the resolution that the directions are dense enough for."""
    most = math.sqrt(DIRECTIONS[-1] / 39.0)
    return np.array([peaks.within(most / length) for length in target.lengths])


def _with_directions(
    peaks: _Peaks,
    target: Target,
    n_scans: NDArray[np.int64],
    deviation: float,
    best: NDArray[np.float64],
    best_p: float,
) -> float:
    a, b, c = (_directions(peaks.reach[n - 1] * length) for n, length in zip(n_scans, target.lengths, strict=True))
    return find_by_axes(
        peaks.q, peaks.beam, peaks.known, target.basis, len(target.rotations), log_factorials(peaks.q.shape[1]),
        target.like_axes, (a, b, c), n_scans, deviation, best, best_p,
    )  # fmt: skip


def _directions(periods: float) -> NDArray[np.float32]:
    """Directions close enough for a vector that `periods` nodes fit on, within the resolution of the peaks."""
    wanted = 39.0 * periods**2
    return _hemisphere(next((n for n in DIRECTIONS if n >= wanted), DIRECTIONS[-1]))


@lru_cache(maxsize=len(DIRECTIONS))
def _hemisphere(n: int) -> NDArray[np.float32]:
    return hemisphere(n)


@lru_cache(maxsize=256)
def log_factorials(n: int) -> NDArray[np.float64]:
    """Logarithms of the factorials of 0 to n."""
    return np.asarray(gammaln(np.arange(n + 1) + 1.0))
