"""Kernels that look for orientations of a known lattice in the peaks of one still."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.indexing.fit_kernels import inverse, rotated

PAIR_LENGTH = 0.003
"""Relative deviation of the cell that the search by pairs of peaks bears."""
PAIR_NOISE = 4e-4
"""Errors of peak positions that it bears, 1/Å."""
PAIR_RADIUS = 0.002
"""Distance of nodes from the Ewald sphere that it bears, 1/Å."""


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
def keep(
    basis: NDArray[np.float64], score: float, bases: NDArray[np.float64], scores: NDArray[np.float64], n_kept: int
) -> int:
    """Put a basis among the best so far, in falling order, unless one within about 1° is; returns their new number."""
    wanted = len(scores)
    if n_kept == wanted and score <= scores[wanted - 1]:
        return n_kept
    size = 0.0
    for i in range(3):
        for m in range(3):
            size += basis[i, m] * basis[i, m]
    for c in range(n_kept):
        distance = 0.0
        for i in range(3):
            for m in range(3):
                distance += (basis[i, m] - bases[c, i, m]) ** 2
        if distance < 4e-4 * size:
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
            # Nearly in line they say nothing of the rotation about the line, and nearly at the beam nothing at all.
            if abs(dot) > 0.96 or min(l1, l2) < 4.0 * PAIR_NOISE:
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


@njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
def score_rotations(
    q: NDArray[np.float32],
    n_used: int,
    start: NDArray[np.float64],
    axis: int,
    direction: NDArray[np.float64],
    span: float,
    scores: NDArray[np.float32],
    work: NDArray[np.float32],
) -> None:
    """Turn a rigid lattice `start`, rows in Å, about its axis, which points along `direction`, (3,).

    Scores (n_angles,) are Σ_j max(0, 1 − 10 e_j²) over the first peaks of (3, n), e_j the distance of the indices
    from whole numbers, at angles i · span / n_angles, radians. `work` is (4, n).
    """
    b, c = start[(axis + 1) % 3], start[(axis + 2) % 3]
    e1, e2 = perpendicular(direction)
    length = 0.0
    for a in range(3):
        length += start[axis, a] * direction[a]
    # Along the axis nothing changes; in the plane across it everything turns.
    for j in range(n_used):
        x, y, z = float(q[0, j]), float(q[1, j]), float(q[2, j])
        u = x * direction[0] + y * direction[1] + z * direction[2]
        value = u * length
        work[0, j] = u
        work[1, j] = x * e1[0] + y * e1[1] + z * e1[2]
        work[2, j] = x * e2[0] + y * e2[1] + z * e2[2]
        work[3, j] = 10.0 * (value - np.rint(value)) ** 2
    bu, b1, b2, cu, c1, c2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for a in range(3):
        bu, b1, b2 = bu + b[a] * direction[a], b1 + b[a] * e1[a], b2 + b[a] * e2[a]
        cu, c1, c2 = cu + c[a] * direction[a], c1 + c[a] * e1[a], c2 + c[a] * e2[a]
    zero, one, ten = np.float32(0.0), np.float32(1.0), np.float32(10.0)
    for i in range(len(scores)):
        cosine, sine = math.cos(span * i / len(scores)), math.sin(span * i / len(scores))
        bx, by, bz = np.float32(cosine * b1 - sine * b2), np.float32(sine * b1 + cosine * b2), np.float32(bu)
        cx, cy, cz = np.float32(cosine * c1 - sine * c2), np.float32(sine * c1 + cosine * c2), np.float32(cu)
        score = zero
        for j in range(n_used):
            second = work[1, j] * bx + work[2, j] * by + work[0, j] * bz
            third = work[1, j] * cx + work[2, j] * cy + work[0, j] * cz
            d2 = second - np.float32(np.rint(second))
            d3 = third - np.float32(np.rint(third))
            score += max(zero, one - work[3, j] - ten * (d2 * d2 + d3 * d3))
        scores[i] = score


@njit(cache=True, nogil=True, error_model="numpy")
def perpendicular(direction: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two unit vectors that make a right-handed set with a unit vector in the order e1, e2, direction."""
    e1, e2 = np.zeros(3), np.empty(3)
    smallest = 0
    for a in range(1, 3):
        if abs(direction[a]) < abs(direction[smallest]):
            smallest = a
    e1[smallest] = 1.0
    along = direction[smallest]
    size = 0.0
    for a in range(3):
        e1[a] -= direction[a] * along
        size += e1[a] * e1[a]
    for a in range(3):
        e1[a] /= math.sqrt(size)
    for a in range(3):
        b, c = (a + 1) % 3, (a + 2) % 3
        e2[a] = direction[b] * e1[c] - direction[c] * e1[b]
    return e1, e2


@njit(cache=True, nogil=True, error_model="numpy")
def align_axis(basis: NDArray[np.float64], axis: int, direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """A lattice (rows, Å) turned so that one of its axes points along a unit vector."""
    own, turn = np.empty(3), np.empty(3)
    size, cosine, sine = 0.0, 0.0, 0.0
    for a in range(3):
        size += basis[axis, a] ** 2
    for a in range(3):
        own[a] = basis[axis, a] / math.sqrt(size)
        cosine += own[a] * direction[a]
    for a in range(3):
        b, c = (a + 1) % 3, (a + 2) % 3
        turn[a] = own[b] * direction[c] - own[c] * direction[b]
        sine += turn[a] ** 2
    sine = math.sqrt(sine)
    if sine < 1e-9:
        if cosine > 0:
            return basis.copy()
        turn = perpendicular(own)[0]
        return rotated(basis, math.pi * turn[0], math.pi * turn[1], math.pi * turn[2])
    angle = math.atan2(sine, cosine) / sine
    return rotated(basis, angle * turn[0], angle * turn[1], angle * turn[2])
