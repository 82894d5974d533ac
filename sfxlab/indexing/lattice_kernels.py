"""Kernels that refine and reduce a lattice of any cell, and free it from being a supercell or a subcell."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

DIVIDED = -2.0
"""log10 of how rare a condition on the indices of a true cell has to be for the cell to be taken for a supercell."""
KEPT = -6.0
"""log10 of how rarely peaks fit a supercell by chance for it to be kept; hundreds of supercells are tried."""


@njit(cache=True, nogil=True)
def reduced(basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Minkowski-reduced basis of a lattice, its three shortest vectors: rows in Å, shortest first, right-handed."""
    out = basis.copy()
    for _ in range(200):
        changed = False
        for i in range(3):
            u, w = out[(i + 1) % 3], out[(i + 2) % 3]
            square = (out[i] * out[i]).sum()
            shortest = out[i].copy()
            for m in range(-1, 2):
                for n in range(-1, 2):
                    other = out[i] + m * u + n * w
                    if (other * other).sum() < square * (1 - 1e-9):
                        square = (other * other).sum()
                        shortest = other
                        changed = True
            out[i] = shortest
        if not changed:
            break
    squares = (out * out).sum(axis=1)
    out = out[np.argsort(squares, kind="mergesort")].copy()
    if np.linalg.det(out) < 0:
        out = -out
    return out


@njit(cache=True, nogil=True)
def refine_free(
    q: NDArray[np.float32], n_used: int, basis: NDArray[np.float64], tolerance: float
) -> NDArray[np.float64]:
    """One cycle of least squares of a lattice (rows, Å) on its indices, of the first `n_used` peaks (3, n).

    Minimises Σ_p |A q_p − h_p|² (1 − e_p²)² over the peaks whose largest index error e_p, in units of `tolerance`, is
    below 1. What the peaks do not determine, mostly along the beam, stays as it is.
    """
    normal, right = np.zeros((3, 3)), np.zeros((3, 3))
    difference = np.empty(3)
    for p in range(n_used):
        worst, layer = 0.0, 0.0
        for i in range(3):
            value = basis[i, 0] * q[0, p] + basis[i, 1] * q[1, p] + basis[i, 2] * q[2, p]
            difference[i] = np.rint(value) - value
            worst = max(worst, abs(difference[i]) / tolerance)
            layer = max(layer, abs(np.rint(value)))
        if worst < 1.0 and layer > 0:
            weight = (1 - worst * worst) ** 2
            for i in range(3):
                for j in range(3):
                    normal[i, j] += weight * q[i, p] * q[j, p]
                    right[i, j] += weight * difference[i] * q[j, p]
    hold = 1e-5 * (normal[0, 0] + normal[1, 1] + normal[2, 2]) + 1e-12
    for i in range(3):
        normal[i, i] += hold
    return basis + right @ np.linalg.inv(normal)


@njit(cache=True, nogil=True)
def refine_cycles(
    q: NDArray[np.float32], basis: NDArray[np.float64], used: NDArray[np.int64], tolerances: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Cycles of `refine_free`, each with its number of peaks and tolerance; where they end elsewhere, the old basis.

    With few peaks least squares can run away, even to a basis of no volume.
    """
    volume = abs(np.linalg.det(basis))
    refined = basis
    for cycle in range(len(used)):
        refined = refine_free(q, min(used[cycle], q.shape[1]), refined, tolerances[cycle])
        if not 0.7 * volume < abs(np.linalg.det(refined)) < 1.4 * volume:
            return basis
    return refined


@njit(cache=True, nogil=True)
def refine_bases(q: NDArray[np.float32], bases: NDArray[np.float64], n_inner: int) -> NDArray[np.float64]:
    """Reduced and refined bases, (n, 3, 3), rows in Å: from the inner peaks outwards, with falling tolerance."""
    n = q.shape[1]
    outwards = np.array([n_inner, 2 * n_inner, n, n, n, n])
    falling = np.array([0.3, 0.3, 0.3, 0.25, 0.25, 0.2])
    out = np.empty_like(bases)
    for row in range(len(bases)):
        basis = reduced(refine_cycles(q, reduced(bases[row]), outwards, falling))
        out[row] = refine_cycles(q, basis, np.full(2, n), np.full(2, 0.2))
    return out


@njit(cache=True, nogil=True)
def index_errors(q: NDArray[np.float32], basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest distance of the three indices of each peak from whole numbers, (n,); ½ for the index 000. q is (3, n)."""
    n = q.shape[1]
    errors = np.empty(n)
    for p in range(n):
        worst, layer = 0.0, 0.0
        for i in range(3):
            value = basis[i, 0] * q[0, p] + basis[i, 1] * q[1, p] + basis[i, 2] * q[2, p]
            worst = max(worst, abs(value - np.rint(value)))
            layer = max(layer, abs(np.rint(value)))
        errors[p] = worst if layer > 0 else 0.5
    return errors


@njit(cache=True, nogil=True)
def congruences(prime: int) -> NDArray[np.int64]:
    """The m of all different conditions h·m = 0 modulo a prime, (prime² + prime + 1, 3); the first not 0 is 1."""
    out = np.zeros((prime * prime + prime + 1, 3), dtype=np.int64)
    n = 0
    for first in range(3):
        for code in range(prime ** (2 - first)):
            out[n, first] = 1
            if first < 2:
                out[n, first + 1] = code % prime
            if first < 1:
                out[n, 2] = code // prime
            n += 1
    return out


@njit(cache=True, nogil=True)
def multiplied(basis: NDArray[np.float64], m: NDArray[np.int64], prime: int) -> NDArray[np.float64]:
    """Basis of the vectors n·A with n·m = 0 modulo `prime`, A the rows of `basis`: a supercell, `prime` times as large.

    `m` is one of `congruences(prime)`. In reciprocal space it is the lattice and its points moved by multiples of m/p.
    """
    first = 0
    while m[first] == 0:
        first += 1
    out = basis.copy()
    for i in range(3):
        out[i] = prime * basis[i] if i == first else basis[i] - m[i] * basis[first]
    return out


@njit(cache=True, nogil=True)
def divided(basis: NDArray[np.float64], m: NDArray[np.int64], prime: int) -> NDArray[np.float64]:
    """Basis of the lattice of `basis` with m·A / p besides: the cell of peaks that all have h·m = 0 modulo `prime`."""
    first = 0
    while m[first] == 0:
        first += 1
    out = basis.copy()
    out[first] = (m[0] * basis[0] + m[1] * basis[1] + m[2] * basis[2]) / prime
    return out


@njit(cache=True, nogil=True)
def without_subcell(q: NDArray[np.float32], basis: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """The lattice (rows, Å, reduced), or the supercell of it that explains far more of the peaks (3, n) than chance.

    A subcell explains one of p layers of peaks; the layers between them show as peaks at multiples of m/p.
    """
    n = q.shape[1]
    for _ in range(4):
        fitting = (index_errors(q, basis) < tolerance).sum()
        best, most = basis, 0.0
        for prime in (2, 3):
            # A supercell of p times the volume has p − 1 times as many places for peaks to fit by chance.
            by_chance = (n - fitting) * (prime - 1) * (2 * tolerance) ** 3 / prime
            for m in congruences(prime):
                larger = refine_cycles(q, reduced(multiplied(basis, m, prime)), np.full(3, n), np.full(3, tolerance))
                more = (index_errors(q, larger) < tolerance).sum() - fitting
                excess = more - by_chance - max(6.0, 4 * math.sqrt(by_chance), 0.25 * fitting)
                if excess > most:
                    best, most = larger, excess
        if most == 0.0:
            break
        basis = reduced(best)
    return basis


@njit(cache=True, nogil=True)
def without_supercell(q: NDArray[np.float32], basis: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """The lattice (rows, Å, reduced) with its axes divided as long as no more peaks than chance has speak against it.

    Where h·m is a multiple of a prime number p for all indices h, the lattice holds m·A / p as well and the basis A is
    that of a supercell. That this is so by chance for all but k of n indices has to be rare; and those k have to be as
    many as may fit the supercell, one of many that were tried, by chance. `q` is (3, n), 1/Å.
    """
    n = q.shape[1]
    for _ in range(8):
        fits = index_errors(q, basis) < tolerance
        fitting = fits.sum()
        smaller = basis
        for prime in (2, 3, 5, 7):
            places = (2 * tolerance) ** 3 * (1 - 1 / prime)
            conditions = congruences(prime)
            for m in conditions:
                against = 0
                for p in range(n):
                    if fits[p]:
                        sum_of_indices = 0
                        for i in range(3):
                            value = basis[i, 0] * q[0, p] + basis[i, 1] * q[1, p] + basis[i, 2] * q[2, p]
                            sum_of_indices += m[i] * round(value)
                        if sum_of_indices % prime != 0:
                            against += 1
                if (
                    smaller is basis
                    and against < fitting / 2
                    and log10_tail(fitting - against, fitting, 1 / prime) < DIVIDED - math.log10(len(conditions))
                    and log10_tail(against, n - fitting + against, places) > KEPT
                ):
                    smaller = reduced(divided(basis, m, prime))
        if smaller is basis:
            break
        basis = reduced(refine_cycles(q, smaller, np.full(3, n), np.full(3, tolerance)))
    return basis


@njit(cache=True, nogil=True)
def log10_tail(least: int, n: int, probability: float) -> float:
    """log10 of the chance of `least` successes or more in n trials."""
    if least <= 0:
        return 0.0
    total, first = 0.0, 0.0
    for k in range(least, n + 1):
        term = math.lgamma(n + 1.0) - math.lgamma(k + 1.0) - math.lgamma(n - k + 1.0)
        term += k * math.log(probability) + (n - k) * math.log1p(-probability)
        if k == least:
            first = term
        total += math.exp(term - first)
    return (first + math.log(total)) / math.log(10.0) if n >= least else -300.0
