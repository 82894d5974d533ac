"""Kernels that look for orientations of a known lattice in the peaks of one still."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.indexing.fit_kernels import inverse

PAIR_LENGTH = 0.003
"""Relative deviation of the cell that the search by pairs of peaks bears."""
PAIR_NOISE = 4e-4
"""Errors of peak positions that it bears, 1/Å."""
PAIR_RADIUS = 0.002
"""Distance of nodes from the Ewald sphere that it bears, 1/Å."""
IN_LINE = 0.96
"""Cosine of the angle of a pair from which on it says too little of the rotation about it."""

ALIKE = 0.02
"""Bases are kept apart where the change between them is further from whole numbers, about 1°."""


@njit(cache=True, nogil=True, error_model="numpy")
def hemisphere(n: int) -> NDArray[np.float32]:
    """n unit vectors spread evenly over half a sphere (Fibonacci lattice), (n, 3)."""
    directions = np.empty((n, 3), dtype=np.float32)
    golden = math.pi * (3.0 - math.sqrt(5.0))
    for i in range(n):
        z = 1.0 - (i + 0.5) / n
        r = math.sqrt(1.0 - z * z)
        directions[i, 0] = r * math.cos(golden * i)
        directions[i, 1] = r * math.sin(golden * i)
        directions[i, 2] = z
    return directions


@njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def score_basis(q: NDArray[np.float32], n_used: int, basis: NDArray[np.float64]) -> float:
    """Σ_j max(0, 1 − 10 e_j²) over the first peaks of (3, n), e_j the distance of the indices from whole numbers."""
    ax, ay, az = np.float32(basis[0, 0]), np.float32(basis[0, 1]), np.float32(basis[0, 2])
    bx, by, bz = np.float32(basis[1, 0]), np.float32(basis[1, 1]), np.float32(basis[1, 2])
    cx, cy, cz = np.float32(basis[2, 0]), np.float32(basis[2, 1]), np.float32(basis[2, 2])
    zero, one, ten = np.float32(0.0), np.float32(1.0), np.float32(10.0)
    score = zero
    for j in range(n_used):
        x, y, z = q[0, j], q[1, j], q[2, j]
        a, b, c = ax * x + ay * y + az * z, bx * x + by * y + bz * z, cx * x + cy * y + cz * z
        a -= np.float32(np.rint(a))
        b -= np.float32(np.rint(b))
        c -= np.float32(np.rint(c))
        score += max(zero, one - ten * (a * a + b * b + c * c))
    return float(score)


@njit(cache=True, nogil=True, error_model="numpy")
def is_whole(basis: NDArray[np.float64], reciprocal: NDArray[np.float64], tolerance: float) -> bool:
    """Whether a basis (rows) is a whole multiple, but for a tolerance, of the one that a reciprocal one belongs to."""
    for a in range(3):
        for b in range(3):
            value = basis[a, 0] * reciprocal[0, b] + basis[a, 1] * reciprocal[1, b] + basis[a, 2] * reciprocal[2, b]
            if abs(value - np.rint(value)) > tolerance:
                return False
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def keep(
    basis: NDArray[np.float64], score: float, bases: NDArray[np.float64], scores: NDArray[np.float64], n_kept: int
) -> int:
    """Put a basis among the best so far, in falling order, unless one like it is; returns their new number."""
    wanted = len(scores)
    if n_kept == wanted and score <= scores[wanted - 1]:
        return n_kept
    reciprocal = inverse(basis)
    for c in range(n_kept):
        if is_whole(bases[c], reciprocal, ALIKE):
            if score <= scores[c]:
                return n_kept
            for d in range(c, n_kept - 1):
                bases[d] = bases[d + 1]
                scores[d] = scores[d + 1]
            n_kept -= 1
            break
    place = n_kept if n_kept < wanted else wanted - 1
    n_kept = min(n_kept + 1, wanted)
    while place > 0 and scores[place - 1] < score:
        bases[place] = bases[place - 1]
        scores[place] = scores[place - 1]
        place -= 1
    bases[place] = basis
    scores[place] = score
    return n_kept


@njit(cache=True, nogil=True, error_model="numpy")
def frame_of_pair(x1: float, y1: float, z1: float, x2: float, y2: float, z2: float, frame: NDArray[np.float64]) -> None:
    """Rows of `frame` (3, 3): unit vectors along the two bisectors of a pair of vectors, and across."""
    l1, l2 = 1.0 / math.sqrt(x1 * x1 + y1 * y1 + z1 * z1), 1.0 / math.sqrt(x2 * x2 + y2 * y2 + z2 * z2)
    ux, uy, uz = x1 * l1 + x2 * l2, y1 * l1 + y2 * l2, z1 * l1 + z2 * l2
    vx, vy, vz = x1 * l1 - x2 * l2, y1 * l1 - y2 * l2, z1 * l1 - z2 * l2
    lu, lv = 1.0 / math.sqrt(ux * ux + uy * uy + uz * uz), 1.0 / math.sqrt(vx * vx + vy * vy + vz * vz)
    ux, uy, uz, vx, vy, vz = ux * lu, uy * lu, uz * lu, vx * lv, vy * lv, vz * lv
    frame[0, 0], frame[0, 1], frame[0, 2] = ux, uy, uz
    frame[1, 0], frame[1, 1], frame[1, 2] = vx, vy, vz
    frame[2, 0], frame[2, 1], frame[2, 2] = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx


@njit(cache=True, nogil=True, error_model="numpy")
def search_pairs(
    q: NDArray[np.float32],
    beam: float,
    first_pair: int,
    n_paired: int,
    n_scored: int,
    basis: NDArray[np.float64],
    nodes: NDArray[np.float64],
    lengths: NDArray[np.float64],
    representatives: NDArray[np.int64],
    budget: int,
    bases: NDArray[np.float64],
    scores: NDArray[np.float64],
    n_kept: int,
) -> int:
    """Take pairs of the innermost peaks for pairs of nodes of the same lengths and distance; keep what suits the rest.

    Pairs of the first `n_paired` peaks of (3, n), those with a peak of number `first_pair` or higher; `nodes` (m, 3)
    of the lattice `basis` as it is given, with their rising `lengths` (m,), 1/Å, and the numbers of those that stand
    for others by symmetry. The lattice is turned so that the bisectors of both pairs agree. Stops after `budget`
    comparisons of nodes. What is kept, `bases` and `scores`, is added to.
    """
    q1, q2, turned = np.empty(3), np.empty(3), np.empty((3, 3))
    here, there, rotation = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
    first_lengths = lengths[representatives]
    work = 0
    for i in range(first_pair, min(n_paired, q.shape[1])):
        for a in range(3):
            q1[a] = q[a, i]
        l1 = math.sqrt(q1[0] ** 2 + q1[1] ** 2 + q1[2] ** 2)
        t1 = PAIR_LENGTH * l1 + PAIR_NOISE + PAIR_RADIUS * l1 / (2.0 * beam)
        low1, high1 = int(np.searchsorted(first_lengths, l1 - t1)), int(np.searchsorted(first_lengths, l1 + t1))
        for j in range(i):
            for a in range(3):
                q2[a] = q[a, j]
            l2 = math.sqrt(q2[0] ** 2 + q2[1] ** 2 + q2[2] ** 2)
            t2 = PAIR_LENGTH * l2 + PAIR_NOISE + PAIR_RADIUS * l2 / (2.0 * beam)
            apart = math.sqrt((q1[0] - q2[0]) ** 2 + (q1[1] - q2[1]) ** 2 + (q1[2] - q2[2]) ** 2)
            dot = (q1[0] * q2[0] + q1[1] * q2[1] + q1[2] * q2[2]) / (l1 * l2 + 1e-30)
            # Nearly at the beam they say nothing at all.
            if abs(dot) > IN_LINE or min(l1, l2) < 4.0 * PAIR_NOISE:
                continue
            t3 = PAIR_LENGTH * apart + PAIR_NOISE + PAIR_RADIUS * apart / (2.0 * beam)
            least, most = max(apart - t3, 0.0) ** 2, (apart + t3) ** 2
            low2, high2 = int(np.searchsorted(lengths, l2 - t2)), int(np.searchsorted(lengths, l2 + t2))
            work += (high1 - low1) * (high2 - low2)
            if work > budget:
                return n_kept
            frame_of_pair(q1[0], q1[1], q1[2], q2[0], q2[1], q2[2], here)
            for m in range(low1, high1):
                x, y, z = nodes[representatives[m], 0], nodes[representatives[m], 1], nodes[representatives[m], 2]
                for k in range(low2, high2):
                    square = (x - nodes[k, 0]) ** 2 + (y - nodes[k, 1]) ** 2 + (z - nodes[k, 2]) ** 2
                    if square < least or square > most:
                        continue
                    product = first_lengths[m] * lengths[k]
                    if abs(first_lengths[m] ** 2 + lengths[k] ** 2 - square) > 2.0 * IN_LINE * product:
                        continue
                    work += 2 * n_scored
                    frame_of_pair(x, y, z, nodes[k, 0], nodes[k, 1], nodes[k, 2], there)
                    for a in range(3):
                        for b in range(3):
                            rotation[a, b] = (
                                here[0, a] * there[0, b] + here[1, a] * there[1, b] + here[2, a] * there[2, b]
                            )
                    for a in range(3):
                        for b in range(3):
                            turned[a, b] = 0.0
                            for c in range(3):
                                turned[a, b] += rotation[b, c] * basis[a, c]
                    n_kept = keep(turned, score_basis(q, n_scored, turned), bases, scores, n_kept)
    return n_kept


@njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def score_directions(
    q: NDArray[np.float32], n_used: int, length: float, directions: NDArray[np.float32], scores: NDArray[np.float32]
) -> None:
    """How well each lattice vector of one length suits the first peaks of (3, n), into `scores` (n_directions,).

    Σ_j max(0, 1 − (d_j / ¼)²) with d_j the distance of q_j·v from a whole number. `length` in Å, `directions`
    (n_directions, 3) unit vectors. fastmath: the sums hold no NaN and need no strict order.
    """
    scale = np.float32(length)
    one, sixteen, zero = np.float32(1.0), np.float32(16.0), np.float32(0.0)
    for i in range(len(directions)):
        x, y, z = directions[i, 0] * scale, directions[i, 1] * scale, directions[i, 2] * scale
        score = zero
        for j in range(n_used):
            value = q[0, j] * x + q[1, j] * y + q[2, j] * z
            distance = value - np.float32(np.rint(value))
            score += max(zero, one - sixteen * distance * distance)
        scores[i] = score


@njit(cache=True, nogil=True, error_model="numpy")
def best_directions(
    scores: NDArray[np.float32], directions: NDArray[np.float32], n_wanted: int, min_angle: float
) -> NDArray[np.int64]:
    """Indices of the best directions at least `min_angle` (radians) apart; a vector and its opposite are one."""
    # A histogram tells where the best few begin; only these are sorted.
    top = 0.0
    for i in range(len(scores)):
        top = max(top, scores[i])
    bins = np.zeros(512, dtype=np.int64)
    scale = 511.0 / max(top, 1e-9)
    for i in range(len(scores)):
        bins[int(scores[i] * scale)] += 1
    level, above = 511, bins[511]
    while level > 0 and above < 6 * n_wanted:
        level -= 1
        above += bins[level]
    some = np.empty(above, dtype=np.int64)
    n = 0
    for i in range(len(scores)):
        if int(scores[i] * scale) >= level:
            some[n] = i
            n += 1
    order = some[np.argsort(-scores[some], kind="mergesort")]
    chosen = np.empty(n_wanted, dtype=np.int64)
    n = 0
    limit = math.cos(min_angle)
    for i in order:
        separate = True
        for c in range(n):
            j = chosen[c]
            dot = directions[i, 0] * directions[j, 0] + directions[i, 1] * directions[j, 1]
            if abs(dot + directions[i, 2] * directions[j, 2]) > limit:
                separate = False
                break
        if separate:
            chosen[n] = i
            n += 1
            if n == n_wanted:
                break
    return chosen[:n]


@njit(cache=True, nogil=True, error_model="numpy")
def refine_vector(q: NDArray[np.float32], n_used: int, vector: NDArray[np.float64]) -> None:
    """Least squares of a lattice vector (3,), Å, in place, on the first peaks of (3, n), with falling tolerance."""
    normal, right, old = np.empty((3, 3)), np.empty(3), np.empty(3)
    for cycle in range(4):
        tolerance = 0.25 - 0.05 * cycle
        normal[:] = 0.0
        right[:] = 0.0
        n = 0
        for j in range(n_used):
            value = q[0, j] * vector[0] + q[1, j] * vector[1] + q[2, j] * vector[2]
            whole = np.rint(value)
            if abs(value - whole) < tolerance:
                n += 1
                for k in range(3):
                    right[k] += whole * q[k, j]
                    for m in range(3):
                        normal[k, m] += q[k, j] * q[m, j]
        if n < 5:
            return
        # The peaks lie near a sphere and tell little along the beam: hold on to the old vector a little.
        hold = 1e-3 * (normal[0, 0] + normal[1, 1] + normal[2, 2]) + 1e-12
        for k in range(3):
            normal[k, k] += hold
            right[k] += hold * vector[k]
            old[k] = vector[k]
        inverted = inverse(normal)
        for k in range(3):
            vector[k] = inverted[k, 0] * right[0] + inverted[k, 1] * right[1] + inverted[k, 2] * right[2]


@njit(cache=True, nogil=True, error_model="numpy")
def axis_vectors(
    q: NDArray[np.float32],
    n_scan: int,
    length: float,
    directions: NDArray[np.float32],
    deviation: float,
    n_wanted: int,
) -> NDArray[np.float64]:
    """Refined lattice vectors, (n, 3), Å, that may be an axis of a length, off by a relative `deviation` at most.

    They suit the first peaks of (3, n) best.
    """
    reach = 0.0
    for a in range(3):
        reach += float(q[a, n_scan - 1]) ** 2
    # Steps that move the outermost peak by a fifth of a layer.
    step = 0.2 / max(math.sqrt(reach) * length, 1.0)
    n_steps = math.ceil(deviation / step - 0.5) if deviation > 0.0 else 0
    stretches = np.ones(len(directions), dtype=np.float32)
    scores, work = np.zeros(len(directions), dtype=np.float32), np.empty(len(directions), dtype=np.float32)
    for i in range(-n_steps, n_steps + 1):
        stretch = 1.0 + i * step
        score_directions(q, n_scan, length * stretch, directions, work)
        for d in range(len(directions)):
            if work[d] > scores[d]:
                scores[d] = work[d]
                stretches[d] = stretch
    pitch = math.sqrt(2.0 * math.pi / len(directions))
    chosen = best_directions(scores, directions, n_wanted, 1.5 * pitch)
    vectors = np.empty((len(chosen), 3))
    n = 0
    for i in chosen:
        for a in range(3):
            vectors[n, a] = directions[i, a] * length * stretches[i]
        refine_vector(q, n_scan, vectors[n])
        size = math.sqrt((vectors[n] ** 2).sum())
        distinct = abs(size / length - 1.0) < 0.08
        for c in range(n):
            if not distinct:
                break
            near, far = 0.0, 0.0
            for a in range(3):
                near += (vectors[n, a] - vectors[c, a]) ** 2
                far += (vectors[n, a] + vectors[c, a]) ** 2
            distinct = min(near, far) > (0.2 * pitch * length) ** 2
        if distinct:
            n += 1
    return vectors[:n].copy()


@njit(cache=True, nogil=True, error_model="numpy")
def search_triples(
    q: NDArray[np.float32],
    n_scored: int,
    target: NDArray[np.float64],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    third: NDArray[np.float64],
    same_as: NDArray[np.int64],
    tolerance: float,
    budget: int,
    bases: NDArray[np.float64],
    scores: NDArray[np.float64],
    n_kept: int,
) -> int:
    """Put bases like the target (rows, Å) together from vectors (n, 3) for each axis; keep what suits peaks (3, n).

    Products of two axes may differ from the target's by `tolerance`, relative to the lengths. Of the vectors of each
    axis the best come first, and `budget` bases are tried. Axes that are alike, `same_as`, have the same vectors, and
    their order says nothing. What is kept, `bases` and `scores`, is added to.
    """
    metric = target @ target.T
    wide01 = tolerance * math.sqrt(metric[0, 0] * metric[1, 1])
    wide02 = tolerance * math.sqrt(metric[0, 0] * metric[2, 2])
    wide12 = tolerance * math.sqrt(metric[1, 1] * metric[2, 2])
    between01, between02, between12 = first @ second.T, first @ third.T, second @ third.T
    # Where two-fold rotations leave the target as it is, the signs of axes say nothing.
    right01, right02 = abs(metric[0, 1]) < 0.01 * wide01, abs(metric[0, 2]) < 0.01 * wide02
    right12 = abs(metric[1, 2]) < 0.01 * wide12
    n_sides = 1 if right01 and (right02 or right12) else 2
    n_ways = 1 if right02 and right12 else 2
    basis = np.empty((3, 3))
    n_tried = 0
    # The ranks of all three rise together, so that a budget cuts off the least likely ones.
    for rank in range(max(len(first), len(second), len(third))):
        for i in range(min(rank + 1, len(first))):
            for j in range(i + 1 if same_as[1] == 0 else 0, min(rank + 1, len(second))):
                lowest = 0 if max(i, j) == rank else rank
                if same_as[2] < 2:
                    lowest = max(lowest, (i if same_as[2] == 0 else j) + 1)
                for turn in range(n_sides):
                    side = 1.0 - 2.0 * turn
                    if abs(side * between01[i, j] - metric[0, 1]) > wide01:
                        continue
                    for m in range(lowest, min(rank + 1, len(third))):
                        for flip in range(n_ways):
                            way = 1.0 - 2.0 * flip
                            if abs(way * between02[i, m] - metric[0, 2]) > wide02:
                                continue
                            if abs(side * way * between12[j, m] - metric[1, 2]) > wide12:
                                continue
                            volume = 0.0
                            for a in range(3):
                                b, c = (a + 1) % 3, (a + 2) % 3
                                across = first[i, b] * second[j, c] - first[i, c] * second[j, b]
                                volume += side * way * across * third[m, a]
                            hand = 1.0 if volume > 0.0 else -1.0
                            for a in range(3):
                                basis[0, a] = hand * first[i, a]
                                basis[1, a] = hand * side * second[j, a]
                                basis[2, a] = hand * way * third[m, a]
                            n_tried += 1
                            n_kept = keep(basis, score_basis(q, n_scored, basis), bases, scores, n_kept)
                            if n_tried == budget:
                                return n_kept
    return n_kept
