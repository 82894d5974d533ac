"""Kernels that look for lattice vectors of any length in the peaks of one still, and put bases together from them.

A real-space lattice vector v turns the peaks q of its lattice into whole numbers q·v. METHODS.md section 4.5.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

CHANCE_SCORE, CHANCE_DEVIATION = 1 / 3, 0.3944
"""Mean and standard deviation of max(0, 1 − 16 d²) over d from −½ to ½."""
LEAST_PEAKS = 6
"""Peaks beyond the origin's layer that a vector needs to have a score."""


@njit(cache=True, nogil=True, fastmath=True)
def score_grid(
    q: NDArray[np.float32], steps: NDArray[np.float32], extent: NDArray[np.int64], min_axis: float, max_axis: float
) -> NDArray[np.float32]:
    """How significant each vector of a grid is as a lattice vector, (2 nx + 1, 2 ny + 1, nz + 1).

    The vectors are i s₀ + j s₁ + k s₂ with `steps` (3, 3), Å, rows s, and −nx ≤ i ≤ nx, −ny ≤ j ≤ ny, 0 ≤ k ≤ nz. With
    d_p the distance of q_p·v from a whole number, a score is Σ_p (max(0, 1 − 16 d_p²) − ⅓) / (0.394 √m) over the m
    peaks with |q_p·v| > ½; for peaks without a lattice it has mean 0 and variance 1. Peaks between the origin and the
    first layer fit any short vector and say nothing. Vectors out of bounds score 0. `q` is (3, n), 1/Å.
    """
    n = q.shape[1]
    scores = np.zeros((2 * extent[0] + 1, 2 * extent[1] + 1, extent[2] + 1), dtype=np.float32)
    along, start = np.empty((3, n), dtype=np.float32), np.empty(n, dtype=np.float32)
    for axis in range(3):
        for p in range(n):
            along[axis, p] = q[0, p] * steps[axis, 0] + q[1, p] * steps[axis, 1] + q[2, p] * steps[axis, 2]
    third = along[2]
    zero, half, one, sixteen = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(16.0)
    mean, deviation = np.float32(CHANCE_SCORE), np.float32(CHANCE_DEVIATION)
    for i in range(-extent[0], extent[0] + 1):
        for j in range(-extent[1], extent[1] + 1):
            for p in range(n):
                start[p] = np.float32(i) * along[0, p] + np.float32(j) * along[1, p]
            for k in range(extent[2] + 1):
                length = 0.0
                for m in range(3):
                    length += (i * steps[0, m] + j * steps[1, m] + k * steps[2, m]) ** 2
                if length < min_axis * min_axis or length > max_axis * max_axis:
                    continue
                score, telling, factor = zero, zero, np.float32(k)
                for p in range(n):
                    value = start[p] + factor * third[p]
                    distance = value - np.float32(np.rint(value))
                    tells = one if abs(value) > half else zero
                    score += tells * (max(zero, one - sixteen * distance * distance) - mean)
                    telling += tells
                if telling >= LEAST_PEAKS:
                    scores[i + extent[0], j + extent[1], k] = score / (deviation * np.sqrt(telling))
    return scores


@njit(cache=True, nogil=True)
def best_of_grid(
    scores: NDArray[np.float32], steps: NDArray[np.float32], n_wanted: int, least: float
) -> NDArray[np.float64]:
    """The vectors of the highest local maxima of a grid of scores, best first, (n, 3), Å; v and −v are one."""
    nx, ny, nz = scores.shape
    places = np.empty((nx * ny * nz // 4 + 16, 3), dtype=np.int64)
    heights = np.empty(len(places), dtype=np.float32)
    n = 0
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                height = scores[i, j, k]
                if height < least or n == len(places):
                    continue
                highest = True
                for x in range(max(i - 1, 0), min(i + 2, nx)):
                    for y in range(max(j - 1, 0), min(j + 2, ny)):
                        for z in range(max(k - 1, 0), min(k + 2, nz)):
                            if scores[x, y, z] > height:
                                highest = False
                if highest:
                    places[n, 0], places[n, 1], places[n, 2] = i, j, k
                    heights[n] = height
                    n += 1
    order = np.argsort(-heights[:n], kind="mergesort")[:n_wanted]
    vectors = np.zeros((len(order), 3))
    for row in range(len(order)):
        i, j, k = places[order[row]]
        for m in range(3):
            vectors[row, m] = (i - nx // 2) * steps[0, m] + (j - ny // 2) * steps[1, m] + k * steps[2, m]
    return vectors


@njit(cache=True, nogil=True)
def refine_vectors(
    q: NDArray[np.float32], vectors: NDArray[np.float64], n_inner: int, cycles: int
) -> NDArray[np.float64]:
    """Least squares of lattice vectors, (n_vectors, 3), Å, on the peaks (3, n) that suit them, from the inner outwards.

    What the peaks do not determine, mostly along the beam, stays as it is.
    """
    n = q.shape[1]
    refined = vectors.copy()
    for row in range(len(refined)):
        v = refined[row]
        for cycle in range(cycles):
            used = min(n, n_inner + (n * cycle) // max(cycles - 2, 1))
            tolerance = max(0.25 - 0.03 * cycle, 0.12)
            normal, right = np.zeros((3, 3)), np.zeros(3)
            for p in range(used):
                value = q[0, p] * v[0] + q[1, p] * v[1] + q[2, p] * v[2]
                difference = np.rint(value) - value
                if abs(difference) < tolerance:
                    for i in range(3):
                        right[i] += difference * q[i, p]
                        for j in range(3):
                            normal[i, j] += q[i, p] * q[j, p]
            hold = 1e-4 * (normal[0, 0] + normal[1, 1] + normal[2, 2]) + 1e-12
            for i in range(3):
                normal[i, i] += hold
            v += np.linalg.solve(normal, right)
    return refined


@njit(cache=True, nogil=True)
def score_vectors(q: NDArray[np.float32], vectors: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """The score of `score_grid` for single vectors, with 1 − (d / tolerance)² in place of 1 − 16 d², (n_vectors,)."""
    scores = np.zeros(len(vectors))
    # Mean and variance of max(0, 1 − (d / t)²) over a period are 4t/3 and 16t/15 − (4t/3)².
    mean = 4 * tolerance / 3
    variance = 16 * tolerance / 15 - mean * mean
    for row in range(len(vectors)):
        score, telling = 0.0, 0
        for p in range(q.shape[1]):
            value = q[0, p] * vectors[row, 0] + q[1, p] * vectors[row, 1] + q[2, p] * vectors[row, 2]
            if abs(value) > 0.5:
                distance = (value - np.rint(value)) / tolerance
                score += max(0.0, 1.0 - distance * distance) - mean
                telling += 1
        if telling >= LEAST_PEAKS:
            scores[row] = score / math.sqrt(variance * telling)
    return scores


@njit(cache=True, nogil=True)
def distinct_vectors(
    vectors: NDArray[np.float64],
    scores: NDArray[np.float64],
    moment: NDArray[np.float64],
    n_wanted: int,
    min_axis: float,
    max_axis: float,
) -> NDArray[np.float64]:
    """The best vectors that differ by more than 0.1 in the root mean square of q·(v ± w), (n, 3), best first.

    `moment` (3, 3) is the mean of q qᵀ, 1/Å².
    """
    chosen = np.empty((n_wanted, 3))
    n = 0
    for row in np.argsort(-scores, kind="mergesort"):
        v = vectors[row]
        length = math.sqrt((v * v).sum())
        if scores[row] <= 0 or length < min_axis or length > max_axis:
            continue
        fresh = True
        for other in range(n):
            for sign in (-1.0, 1.0):
                difference = v + sign * chosen[other]
                if (difference * (moment @ difference)).sum() < 0.01:
                    fresh = False
        if fresh:
            chosen[n] = v
            n += 1
            if n == n_wanted:
                break
    return chosen[:n].copy()


@njit(cache=True, nogil=True)
def best_triples(
    q: NDArray[np.float32], vectors: NDArray[np.float64], tolerance: float, volume_price: float, n_wanted: int
) -> NDArray[np.float64]:
    """Bases of three vectors with the largest n_fit − `volume_price` ln V, best first, (n, 3, 3), rows in Å.

    A peak fits where its three indices are within `tolerance` of whole numbers. Three vectors that lie nearly in a
    plane are none.
    """
    n, n_words = len(vectors), (q.shape[1] + 63) // 64
    fits = np.zeros((n, n_words), dtype=np.uint64)
    for row in range(n):
        for p in range(q.shape[1]):
            value = q[0, p] * vectors[row, 0] + q[1, p] * vectors[row, 1] + q[2, p] * vectors[row, 2]
            if abs(value - np.rint(value)) < tolerance:
                fits[row, p // 64] |= np.uint64(1) << np.uint64(p % 64)
    lengths = np.sqrt((vectors * vectors).sum(axis=1))
    best = np.full(n_wanted, -1e9)
    triples = np.zeros((n_wanted, 3), dtype=np.int64)
    both = np.empty(n_words, dtype=np.uint64)
    for i in range(n):
        for j in range(i + 1, n):
            most = 0
            for w in range(n_words):
                both[w] = fits[i, w] & fits[j, w]
                most += _count_bits(both[w])
            normal = np.array(
                [
                    vectors[i, 1] * vectors[j, 2] - vectors[i, 2] * vectors[j, 1],
                    vectors[i, 2] * vectors[j, 0] - vectors[i, 0] * vectors[j, 2],
                    vectors[i, 0] * vectors[j, 1] - vectors[i, 1] * vectors[j, 0],
                ]
            )
            for k in range(j + 1, n):
                volume = abs((normal * vectors[k]).sum())
                if volume < 0.3 * lengths[i] * lengths[j] * lengths[k]:
                    continue
                price = volume_price * math.log(volume)
                worst = np.argmin(best)
                if most - price <= best[worst]:
                    continue
                fitting = 0
                for w in range(n_words):
                    fitting += _count_bits(both[w] & fits[k, w])
                if fitting - price > best[worst]:
                    best[worst] = fitting - price
                    triples[worst] = (i, j, k)
    order = np.argsort(-best, kind="mergesort")
    bases = np.empty((n_wanted, 3, 3))
    found = 0
    for row in order:
        if best[row] > -1e9:
            for m in range(3):
                bases[found, m] = vectors[triples[row, m]]
            found += 1
    return bases[:found].copy()


@njit(cache=True, nogil=True)
def _count_bits(word: np.uint64) -> int:
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return int((word * np.uint64(0x0101010101010101)) >> np.uint64(56))
