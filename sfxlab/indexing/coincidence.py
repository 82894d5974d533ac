"""Lattices that share a part of their nodes, so that one may be taken for the other.

Where a lattice turned in some way coincides with itself on every second, third or fifth node, the turned one explains
that share of the peaks, and in a crowded frame it may be found first. What gives it away is that all the peaks that it
explains are on the shared nodes. A cell of 165 x 165 x 54 Å has such turns as well, but for a small strain.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.indexing.lattice_kernels import congruences

PRIMES = (2, 3, 5)
STRAIN = 0.05
"""Relative changes of lengths, and half the changes of cosines, with which lattices still count as coincident."""
ON_SHARED = 0.7
"""Share of the explained peaks on shared nodes from which on a lattice may be a turned one."""


@njit(cache=True, nogil=True, error_model="numpy")
def is_suspect(hkl: NDArray[np.float64]) -> bool:
    """Whether nearly all indices (n, 3) are on every second, third or fifth plane of nodes of some direction."""
    for prime in PRIMES:
        for plane in congruences(prime):
            on_plane = 0
            for j in range(len(hkl)):
                on_plane += (hkl[j, 0] * plane[0] + hkl[j, 1] * plane[1] + hkl[j, 2] * plane[2]) % prime == 0
            if on_plane > ON_SHARED * len(hkl):
                return True
    return False


def turned_ones(hkl: NDArray[np.float64], changes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the changes of axes to coincident lattices, (n, 3, 3), those that leave nearly all indices (n, 3) whole."""
    whole = [_whole(hkl @ change.T).mean() for change in changes]
    return changes[np.array(whole) > ON_SHARED] if len(changes) else changes


def coincidences(basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Changes of real axes (rows, Å) to those of turned lattices that share nodes, (n, 3, 3), rational numbers."""
    found: list[NDArray[np.float64]] = []
    lengths = np.linalg.norm(basis, axis=1)
    reach = np.linalg.norm(np.linalg.inv(basis), axis=0)
    for prime in PRIMES:
        axes = []
        for length in lengths:
            most = np.floor((1 + STRAIN) * prime * length * reach).astype(int)
            n = np.stack(np.meshgrid(*(np.arange(-m, m + 1) for m in most), indexing="ij"), axis=-1).reshape(-1, 3)
            axes.append(n[np.abs(np.linalg.norm(n @ basis, axis=1) / (prime * length) - 1) < STRAIN] / prime)
        for change in _with_angles(axes, basis):
            shared = _whole(_residues(prime) @ change.T).mean()
            if shared >= 1 / prime and shared < 1 and not any(_whole(change @ np.linalg.inv(c)).all() for c in found):
                found.append(change)
    return np.array(found).reshape(-1, 3, 3)


def _with_angles(axes: list[NDArray[np.float64]], basis: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Right-handed triples of vectors, one of each list, with about the angles of the basis."""
    units = [v @ basis / np.linalg.norm(v @ basis, axis=1)[:, None] for v in axes]
    unit = basis / np.linalg.norm(basis, axis=1)[:, None]
    fits = [np.abs(units[i] @ units[m].T - unit[i] @ unit[m]) < 2 * STRAIN for i, m in ((0, 1), (0, 2), (1, 2))]
    triples = []
    for i, j in zip(*np.nonzero(fits[0]), strict=True):
        for k in np.flatnonzero(fits[1][i] & fits[2][j]):
            change = np.array([axes[0][i], axes[1][j], axes[2][k]])
            if abs(np.linalg.det(change) - 1) < 1e-6:
                triples.append(change)
    return triples


def _residues(prime: int) -> NDArray[np.float64]:
    return np.array(list(product(range(prime), repeat=3)), dtype=np.float64)


def _whole(indices: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(np.all(np.abs(indices - np.rint(indices)) < 1e-6, axis=-1))
