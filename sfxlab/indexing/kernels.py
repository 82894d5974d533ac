"""Kernels that look for a known lattice in the peaks of one still.

A real-space lattice vector v turns every reciprocal lattice point q into a whole number q·v. METHODS.md section 4.4:
directions for the shortest axis, then the rotation about it, then least squares on the indices.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True, fastmath=True)
def score_directions(q: NDArray[np.float32], length: float, directions: NDArray[np.float32]) -> NDArray[np.float32]:
    """How well each lattice vector of one length suits the peaks, (n_directions,).

    Σ_j max(0, 1 − (d_j / ¼)²) with d_j the distance of q_j·v from a whole number. `q` is (3, n) in 1/Å, `length` in Å,
    `directions` (n_directions, 3) unit vectors. fastmath: the sums hold no NaN and need no strict order.
    """
    n = q.shape[1]
    scores = np.empty(len(directions), dtype=np.float32)
    scale = np.float32(length)
    one, sixteen, zero = np.float32(1.0), np.float32(16.0), np.float32(0.0)
    for i in range(len(directions)):
        x, y, z = directions[i, 0] * scale, directions[i, 1] * scale, directions[i, 2] * scale
        score = zero
        for j in range(n):
            value = q[0, j] * x + q[1, j] * y + q[2, j] * z
            distance = value - np.float32(np.rint(value))
            score += max(zero, one - sixteen * distance * distance)
        scores[i] = score
    return scores


@njit(cache=True, nogil=True)
def best_directions(
    scores: NDArray[np.float32], directions: NDArray[np.float32], n_wanted: int, min_angle: float
) -> NDArray[np.int64]:
    """Indices of the best directions at least `min_angle` (radians) apart; a vector and its opposite are one."""
    order = np.argsort(-scores)
    chosen = np.empty(n_wanted, dtype=np.int64)
    n = 0
    limit = math.cos(min_angle)
    for i in order:
        separate = True
        for j in chosen[:n]:
            dot = 0.0
            for k in range(3):
                dot += directions[i, k] * directions[j, k]
            if abs(dot) > limit:
                separate = False
                break
        if separate:
            chosen[n] = i
            n += 1
            if n == n_wanted:
                break
    return chosen[:n]


@njit(cache=True, nogil=True)
def refine_vector(q: NDArray[np.float32], vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares of a lattice vector (3,) in Å on the peaks (3, n) that it suits, with falling tolerance."""
    v = vector.copy()
    for tolerance in (0.25, 0.2, 0.15, 0.1):
        normal = np.zeros((3, 3))
        right = np.zeros(3)
        n = 0
        for j in range(q.shape[1]):
            value = q[0, j] * v[0] + q[1, j] * v[1] + q[2, j] * v[2]
            whole = np.rint(value)
            if abs(value - whole) < tolerance:
                n += 1
                for k in range(3):
                    right[k] += whole * q[k, j]
                    for m in range(3):
                        normal[k, m] += q[k, j] * q[m, j]
        # The peaks lie near a sphere and tell little along the beam: hold on to the old vector a little.
        hold = 1e-3 * (normal[0, 0] + normal[1, 1] + normal[2, 2]) + 1e-12
        for k in range(3):
            normal[k, k] += hold
            right[k] += hold * v[k]
        if n < 5:
            break
        v[:] = np.linalg.solve(normal, right)
    return v


@njit(cache=True, nogil=True, fastmath=True)
def score_rotations(
    q: NDArray[np.float32], basis: NDArray[np.float64], axis: int, direction: NDArray[np.float64], n_angles: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Turn a rigid lattice about one of its axes, which points along `direction`.

    Scores (n_angles,) are Σ_j max(0, 1 − e_j² / 0.1), e_j the distance of the index triple from whole numbers. The
    second value is the lattice at angle 0: rows in Å, (3, 3); angle i is 2π i / n_angles about the direction.
    """
    start = align_axis(basis, axis, direction)
    b, c = start[(axis + 1) % 3], start[(axis + 2) % 3]
    n = q.shape[1]
    # Along the axis nothing changes; in the plane across it everything turns.
    e1, e2 = perpendicular(direction)
    u, p1, p2 = np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.float32)
    fixed = np.empty(n, np.float32)
    length = math.sqrt((start[axis] ** 2).sum())
    for j in range(n):
        x, y, z = float(q[0, j]), float(q[1, j]), float(q[2, j])
        u[j] = x * direction[0] + y * direction[1] + z * direction[2]
        p1[j] = x * e1[0] + y * e1[1] + z * e1[2]
        p2[j] = x * e2[0] + y * e2[1] + z * e2[2]
        value = u[j] * length
        fixed[j] = (value - np.rint(value)) ** 2
    scores = np.empty(n_angles, dtype=np.float32)
    bu, b1, b2 = (b * direction).sum(), (b * e1).sum(), (b * e2).sum()
    cu, c1, c2 = (c * direction).sum(), (c * e1).sum(), (c * e2).sum()
    zero, one, ten = np.float32(0.0), np.float32(1.0), np.float32(10.0)
    for i in range(n_angles):
        cosine, sine = math.cos(2 * math.pi * i / n_angles), math.sin(2 * math.pi * i / n_angles)
        bx, by, bz = np.float32(cosine * b1 - sine * b2), np.float32(sine * b1 + cosine * b2), np.float32(bu)
        cx, cy, cz = np.float32(cosine * c1 - sine * c2), np.float32(sine * c1 + cosine * c2), np.float32(cu)
        score = zero
        for j in range(n):
            second = p1[j] * bx + p2[j] * by + u[j] * bz
            third = p1[j] * cx + p2[j] * cy + u[j] * cz
            d2 = second - np.float32(np.rint(second))
            d3 = third - np.float32(np.rint(third))
            score += max(zero, one - ten * (fixed[j] + d2 * d2 + d3 * d3))
        scores[i] = score
    return scores, start


@njit(cache=True, nogil=True)
def perpendicular(direction: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two unit vectors that make a right-handed set with a unit vector in the order e1, e2, direction."""
    smallest = np.argmin(np.abs(direction))
    e1 = np.zeros(3)
    e1[smallest] = 1.0
    e1 -= direction * direction[smallest]
    e1 /= math.sqrt((e1 * e1).sum())
    e2 = np.array(
        [
            direction[1] * e1[2] - direction[2] * e1[1],
            direction[2] * e1[0] - direction[0] * e1[2],
            direction[0] * e1[1] - direction[1] * e1[0],
        ]
    )
    return e1, e2


@njit(cache=True, nogil=True)
def rotate(basis: NDArray[np.float64], axis: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """Rows of `basis` (n, 3) turned about a unit vector by an angle in radians (right-handed, Rodrigues)."""
    cosine, sine = math.cos(angle), math.sin(angle)
    out = np.empty_like(basis)
    for i in range(len(basis)):
        v = basis[i]
        along = (v * axis).sum() * (1.0 - cosine)
        out[i, 0] = v[0] * cosine + (axis[1] * v[2] - axis[2] * v[1]) * sine + axis[0] * along
        out[i, 1] = v[1] * cosine + (axis[2] * v[0] - axis[0] * v[2]) * sine + axis[1] * along
        out[i, 2] = v[2] * cosine + (axis[0] * v[1] - axis[1] * v[0]) * sine + axis[2] * along
    return out


@njit(cache=True, nogil=True)
def align_axis(basis: NDArray[np.float64], axis: int, direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """A lattice (rows, Å) turned so that one of its axes points along a unit vector."""
    own = basis[axis] / math.sqrt((basis[axis] ** 2).sum())
    cosine = (own * direction).sum()
    turn = np.array(
        [
            own[1] * direction[2] - own[2] * direction[1],
            own[2] * direction[0] - own[0] * direction[2],
            own[0] * direction[1] - own[1] * direction[0],
        ]
    )
    sine = math.sqrt((turn * turn).sum())
    if sine < 1e-9:
        if cosine > 0:
            return basis.copy()
        return rotate(basis, perpendicular(own)[0], math.pi)
    return rotate(basis, turn / sine, math.atan2(sine, cosine))


@njit(cache=True, nogil=True)
def refine_indices(
    q: NDArray[np.float32],
    n_used: int,
    basis: NDArray[np.float64],
    target: NDArray[np.float64],
    tolerance: float,
    restraint: float,
) -> NDArray[np.float64]:
    """One cycle of least squares of the lattice on its indices.

    Minimises Σ_j |A q_j − h_j|² over the peaks among the first `n_used` of q (3, n) whose indices are within
    `tolerance` of whole numbers, plus `restraint` × |A R B − 1|², where R B is the target's reciprocal basis in the
    present orientation: what the peaks do not determine stays as it is in the target. Bases have real axes as rows, Å.
    """
    reciprocal = np.linalg.inv(target) @ np.eye(3)
    rotation = nearest_rotation(np.linalg.inv(target) @ basis)
    oriented = rotation.T @ reciprocal  # columns: the target's reciprocal axes in the present orientation
    normal = restraint * (oriented @ oriented.T)
    right = restraint * np.ascontiguousarray(oriented.T)
    h = np.empty(3)
    for j in range(n_used):
        fits = True
        for i in range(3):
            value = basis[i, 0] * q[0, j] + basis[i, 1] * q[1, j] + basis[i, 2] * q[2, j]
            h[i] = np.rint(value)
            if abs(value - h[i]) > tolerance:
                fits = False
        if fits:
            for i in range(3):
                for k in range(3):
                    normal[i, k] += q[i, j] * q[k, j]
                    right[i, k] += h[i] * q[k, j]
    return right @ np.linalg.inv(normal)


@njit(cache=True, nogil=True)
def nearest_rotation(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation nearest to a (3, 3) matrix (Kabsch)."""
    u, _, vt = np.linalg.svd(matrix)
    if np.linalg.det(u) * np.linalg.det(vt) < 0:
        u[:, 2] = -u[:, 2]
    rotation: NDArray[np.float64] = u @ vt
    return rotation


@njit(cache=True, nogil=True)
def index_errors(q: NDArray[np.float32], basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest distance of the three indices of each peak from whole numbers, (n,); q is (3, n)."""
    n = q.shape[1]
    errors = np.empty(n)
    for j in range(n):
        worst = 0.0
        for i in range(3):
            value = basis[i, 0] * q[0, j] + basis[i, 1] * q[1, j] + basis[i, 2] * q[2, j]
            worst = max(worst, abs(value - np.rint(value)))
        errors[j] = worst
    return errors
