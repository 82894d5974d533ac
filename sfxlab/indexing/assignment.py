"""Which peaks belong to which of the lattices of a frame, METHODS.md section 4.8.

Lattices are found one after the other, each in what the others left. In the end every peak goes to the lattice that it
suits best, each lattice is fitted to its own peaks alone, and so on until no peak changes hands. What is left without
enough peaks of its own is no lattice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.indexing.background import FOR_SPREAD, spread, turned_about_beam
from sfxlab.indexing.fit_kernels import NORMAL_RATIO, inverse, misfits, rotation_near, scatter, strained

CLAIM = 0.25
"""A peak may belong to a lattice where all its indices are this close to whole numbers."""
COPY = 0.7
"""A lattice is a copy of another one that claims more than this share of its peaks."""
ROUNDS = 20
"""Most rounds of sharing out and fitting."""
FIT_TOLERANCE, LEAST_FITTED = 0.3, 12
"""Fits to fewer peaks follow their noise, and leave some of them out."""
SAME_ANGLE, SAME_STRAIN = math.radians(0.5), 0.03
"""Lattices that differ by less, once their axes are chosen alike, are one."""


@dataclass(frozen=True)
class Assignment:
    """Lattices that share the peaks of a frame."""

    bases: NDArray[np.float64]
    """Real axes as rows, (n_lattices, 3, 3), Å, each fitted to its own peaks."""
    owner: NDArray[np.int64]
    """For each peak the number of its lattice, −1 where no lattice explains it, (n_peaks,)."""
    kept: NDArray[np.int64]
    """Which of the lattices that came in these are, (n_lattices,)."""
    misfit: NDArray[np.float64]
    """Distances of each peak from its node along and across the Ewald sphere, 1/Å, and largest index error, (3, n)."""

    @staticmethod
    def of_none(n_peaks: int) -> Assignment:
        """No lattice, and peaks that all belong to none."""
        return Assignment(np.empty((0, 3, 3)), np.full(n_peaks, -1), np.empty(0, np.int64), np.empty((3, n_peaks)))

    def rms(self, lattice: int) -> float:
        """Root mean square distance of a lattice's peaks from their nodes along the Ewald sphere, 1/Å."""
        return float(np.sqrt(np.mean(self.misfit[0, self.owner == lattice] ** 2)))


def assign(
    q: NDArray[np.float64],
    beam: NDArray[np.float64],
    bases: NDArray[np.float64],
    target: NDArray[np.float64],
    least: int,
) -> Assignment:
    """Share peaks q, (3, n), 1/Å, out among lattices, (n_lattices, 3, 3), real axes as rows, Å; fit each to its own.

    `beam` is the wave vector, 1/Å, and `target` (3, 3) the cell that fits are restrained to. Of two copies of a
    lattice, also where one is a sublattice of the other, one goes: the later one, or the one with fewer peaks where
    they turn out to be copies. So does a lattice nearly all of whose peaks another one explains as well, and, one by
    one, the lattice with the fewest peaks where they are fewer than `least`.
    """
    bases = np.array(bases, dtype=np.float64).reshape(-1, 3, 3)
    kept = np.arange(len(bases))
    worst = _later_copy(bases)
    while worst >= 0:
        bases, kept = np.delete(bases, worst, axis=0), np.delete(kept, worst)
        worst = _later_copy(bases)
    while True:
        owner, misfit, claims = settle(q, beam, bases, target)
        worst = _superfluous(bases, owner, claims, least)
        if worst < 0:
            return Assignment(bases, owner, kept, misfit)
        bases, kept = np.delete(bases, worst, axis=0), np.delete(kept, worst)


def _later_copy(bases: NDArray[np.float64]) -> int:
    """A lattice that is there before, −1 where there is none."""
    for other in range(len(bases)):
        if any(same_lattice(bases[one], bases[other]) for one in range(other)):
            return other
    return -1


def _superfluous(bases: NDArray[np.float64], owner: NDArray[np.int64], claims: NDArray[np.bool_], least: int) -> int:
    """The lattice that has to go first, −1 where all may stay."""
    own = owner == np.arange(len(bases))[:, None]
    counts = own.sum(axis=1)
    # Of the peaks of each lattice, how many each other one claims as well.
    shared = own.astype(np.int64) @ claims.T
    copies = [
        one
        for one in range(len(bases))
        for other in range(len(bases))
        if one != other
        and (counts[one], one) < (counts[other], other)
        and (shared[one, other] > COPY * counts[one] or same_lattice(bases[one], bases[other]))
    ]
    if copies:
        return min(copies, key=lambda number: int(counts[number]))
    return int(np.argmin(counts)) if len(counts) and counts.min() < least else -1


@njit(cache=True, nogil=True, error_model="numpy")
def settle(
    q: NDArray[np.float64], k: NDArray[np.float64], bases: NDArray[np.float64], target: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """Owners of the peaks (3, n), −1 for none, their misfits (3, n), and what each lattice claims, (n_lattices, n).

    `bases` are fitted in place. A peak goes to the lattice with the smallest a² + (b / r)² of those that claim it, a
    and b the distances from its node along and across the Ewald sphere and r `NORMAL_RATIO`. It claims those that are
    near whole indices, and along the sphere where its peaks outnumber those that are there by chance (`spread`).
    """
    n = q.shape[1]
    owner, before = np.full(n, -1), np.full(n, -2)
    smallest, misfit = np.empty(n), np.zeros((3, n))
    own, own_work = np.empty((3, n)), np.empty((3, n))
    random = turned_about_beam(q, k, FOR_SPREAD)
    works, random_works = np.empty((len(bases), 3, n)), np.empty((len(bases), 3, random.shape[1]))
    fitted = np.ones(len(bases), dtype=np.bool_)
    claims, taken = np.zeros((len(bases), n), dtype=np.bool_), np.zeros(n, dtype=np.bool_)
    for _ in range(ROUNDS):
        owner[:], smallest[:] = -1, np.inf
        for i in range(len(bases)):
            work = works[i]
            if fitted[i]:
                misfits(q, k, bases[i], work)
                misfits(random, k, bases[i], random_works[i])
            for j in range(n):
                taken[j] = before[j] >= 0 and before[j] != i
            _, limit = spread(work, random_works[i], taken, CLAIM)
            for j in range(n):
                distance = work[0, j] ** 2 + (work[1, j] / NORMAL_RATIO) ** 2
                claims[i, j] = work[2, j] < CLAIM and work[0, j] < limit
                if claims[i, j] and distance < smallest[j]:
                    owner[j], smallest[j] = i, distance
                    misfit[:, j] = work[:, j]
        if np.array_equal(owner, before):
            break
        before[:] = owner
        for i in range(len(bases)):
            m = 0
            for j in range(n):
                if owner[j] == i:
                    own[:, m] = q[:, j]
                    m += 1
            fitted[i] = m >= LEAST_FITTED
            if not fitted[i]:
                continue
            for _ in range(2):
                misfits(own[:, :m], k, bases[i], own_work[:, :m])
                sigma = scatter(own_work[:, :m], FIT_TOLERANCE)
                bases[i] = strained(own[:, :m], k, m, bases[i], target, FIT_TOLERANCE, sigma)
    return owner, misfit, claims


@njit(cache=True, nogil=True, error_model="numpy")
def same_lattice(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Whether two bases (rows, Å) are of one lattice in one orientation, or one of a sublattice of the other."""
    return contains(one, other) or contains(other, one)


@njit(cache=True, nogil=True, error_model="numpy")
def contains(fine: NDArray[np.float64], coarse: NDArray[np.float64]) -> bool:
    """Whether the axes `coarse` (rows) are, but for a small turn and strain, whole multiples of the axes `fine`."""
    whole = np.rint(coarse @ inverse(fine))
    axes = whole @ fine
    if abs(np.linalg.det(whole)) < 0.5:
        return False
    change = inverse(axes) @ coarse
    rotation = rotation_near(change)
    cosine = 0.5 * (rotation[0, 0] + rotation[1, 1] + rotation[2, 2] - 1.0)
    if math.acos(min(1.0, max(-1.0, cosine))) > SAME_ANGLE:
        return False
    return bool(np.abs(change @ rotation.T - np.eye(3)).max() < SAME_STRAIN)
