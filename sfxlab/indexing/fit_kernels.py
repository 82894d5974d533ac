"""Kernels that fit a lattice to peaks and say how well it fits.

A peak lies on the Ewald sphere; the node that made it lies up to the node's radius off the sphere. So a misfit is told
apart into its part along the sphere, which only the error of the peak's position makes, and its part across.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

INDEX_TOLERANCES = np.array([0.35, 0.3, 0.3, 0.25, 0.25])
"""Distances from whole indices at which peaks take part in the cycles of a fit."""
NORMAL_RATIO = 3.0
"""Misfits across the sphere count as so many times less certain than those along it."""
STRAIN = 0.02
"""Standard deviation of relative deviations from the given cell."""


@njit(cache=True, nogil=True, error_model="numpy")
def beam_of(q: NDArray[np.float64]) -> NDArray[np.float64]:
    """The wave vector of the beam, (3,), 1/Å, from peaks (3, n) on the Ewald sphere: |q|² + 2 k·q = 0."""
    normal, right = np.zeros((3, 3)), np.zeros(3)
    for j in range(q.shape[1]):
        square = q[0, j] ** 2 + q[1, j] ** 2 + q[2, j] ** 2
        for a in range(3):
            right[a] -= square * q[a, j]
            for b in range(3):
                normal[a, b] += 2.0 * q[a, j] * q[b, j]
    hold = 1e-12 * (normal[0, 0] + normal[1, 1] + normal[2, 2]) + 1e-30
    for a in range(3):
        normal[a, a] += hold
    return inverse(normal) @ right


@njit(cache=True, nogil=True, error_model="numpy")
def inverse(m: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of a (3, 3) matrix by cofactors."""
    out = np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            a, b, c, d = (i + 1) % 3, (i + 2) % 3, (j + 1) % 3, (j + 2) % 3
            out[j, i] = m[a, c] * m[b, d] - m[a, d] * m[b, c]
    determinant = m[0, 0] * out[0, 0] + m[0, 1] * out[1, 0] + m[0, 2] * out[2, 0]
    return out / (determinant if determinant != 0.0 else 1e-300)


@njit(cache=True, nogil=True, error_model="numpy")
def rotation_near(m: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation nearest to a (3, 3) matrix of positive determinant (polar decomposition by Newton's method)."""
    rotation = m.copy()
    for _ in range(8):
        rotation = 0.5 * (rotation + inverse(rotation).T)
    return rotation


@njit(cache=True, nogil=True, error_model="numpy")
def misfits(
    q: NDArray[np.float64], k: NDArray[np.float64], basis: NDArray[np.float64], out: NDArray[np.float64]
) -> None:
    """Distances of peaks (3, n) from their nodes along and across the Ewald sphere, and their largest index error.

    `k` is the wave vector of the beam, `basis` real axes as rows, Å; `out` is (3, n): 1/Å, 1/Å, and without unit.
    """
    r = inverse(basis)
    # Plain scalars, so that several peaks go through one instruction.
    b00, b01, b02, b10, b11, b12, b20, b21, b22 = (
        basis[0, 0], basis[0, 1], basis[0, 2], basis[1, 0], basis[1, 1], basis[1, 2], basis[2, 0], basis[2, 1],
        basis[2, 2],
    )  # fmt: skip
    r00, r01, r02, r10, r11, r12, r20, r21, r22 = (
        r[0, 0], r[0, 1], r[0, 2], r[1, 0], r[1, 1], r[1, 2], r[2, 0], r[2, 1], r[2, 2],
    )  # fmt: skip
    k0, k1, k2 = k[0], k[1], k[2]
    for j in range(q.shape[1]):
        x, y, z = q[0, j], q[1, j], q[2, j]
        u, v, w = b00 * x + b01 * y + b02 * z, b10 * x + b11 * y + b12 * z, b20 * x + b21 * y + b22 * z
        h0, h1, h2 = np.rint(u), np.rint(v), np.rint(w)
        u, v, w = abs(u - h0), abs(v - h1), abs(w - h2)
        u = u if u > v else v
        d0 = r00 * h0 + r01 * h1 + r02 * h2 - x
        d1 = r10 * h0 + r11 * h1 + r12 * h2 - y
        d2 = r20 * h0 + r21 * h1 + r22 * h2 - z
        x, y, z = x + k0, y + k1, z + k2
        across = abs(d0 * x + d1 * y + d2 * z) / math.sqrt(x * x + y * y + z * z + 1e-30)
        square = d0 * d0 + d1 * d1 + d2 * d2 - across * across
        out[0, j] = math.sqrt(square if square > 0.0 else 0.0)
        out[1, j] = across
        out[2, j] = u if u > w else w


@njit(cache=True, nogil=True, error_model="numpy")
def turned(
    q: NDArray[np.float64], k: NDArray[np.float64], n_used: int, basis: NDArray[np.float64], tolerance: float
) -> NDArray[np.float64]:
    """One cycle of least squares of the orientation alone on the first peaks, basis with real axes as rows.

    Minimises Σ |δ|² + (1/r² − 1)(δ·n)² over small rotations, δ the misfit of a node, n the normal of the sphere and r
    `NORMAL_RATIO`.
    """
    reciprocal = inverse(basis)
    normal, right = np.zeros((3, 3)), np.zeros(3)
    h, p, d, s = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    less = 1.0 / NORMAL_RATIO**2 - 1.0
    for j in range(n_used):
        fits = True
        for a in range(3):
            value = basis[a, 0] * q[0, j] + basis[a, 1] * q[1, j] + basis[a, 2] * q[2, j]
            h[a] = np.rint(value)
            if abs(value - h[a]) > tolerance:
                fits = False
        if not fits or (h[0] == 0 and h[1] == 0 and h[2] == 0):
            continue
        ray = 0.0
        for a in range(3):
            p[a] = reciprocal[a, 0] * h[0] + reciprocal[a, 1] * h[1] + reciprocal[a, 2] * h[2]
            d[a] = p[a] - q[a, j]
            s[a] = q[a, j] + k[a]
            ray += s[a] * s[a]
        ray = 1.0 / math.sqrt(ray + 1e-30)
        along = less * ray * ray * (d[0] * s[0] + d[1] * s[1] + d[2] * s[2])
        for a in range(3):  # (1 + less n nᵀ) d
            d[a] += along * s[a]
        # ω × p changes the misfit; p × d is its gradient, and (p × n) that of the part across.
        px, py, pz = p[0], p[1], p[2]
        cx, cy, cz = (py * s[2] - pz * s[1]) * ray, (pz * s[0] - px * s[2]) * ray, (px * s[1] - py * s[0]) * ray
        square = px * px + py * py + pz * pz
        right[0] += py * d[2] - pz * d[1]
        right[1] += pz * d[0] - px * d[2]
        right[2] += px * d[1] - py * d[0]
        normal[0, 0] += square - px * px + less * cx * cx
        normal[1, 1] += square - py * py + less * cy * cy
        normal[2, 2] += square - pz * pz + less * cz * cz
        normal[0, 1] += less * cx * cy - px * py
        normal[0, 2] += less * cx * cz - px * pz
        normal[1, 2] += less * cy * cz - py * pz
    normal[1, 0], normal[2, 0], normal[2, 1] = normal[0, 1], normal[0, 2], normal[1, 2]
    hold = 1e-6 * (normal[0, 0] + normal[1, 1] + normal[2, 2]) + 1e-30
    for a in range(3):
        normal[a, a] += hold
    inverted = inverse(normal)
    x = -(inverted[0, 0] * right[0] + inverted[0, 1] * right[1] + inverted[0, 2] * right[2])
    y = -(inverted[1, 0] * right[0] + inverted[1, 1] * right[1] + inverted[1, 2] * right[2])
    z = -(inverted[2, 0] * right[0] + inverted[2, 1] * right[1] + inverted[2, 2] * right[2])
    return rotated(basis, x, y, z)


@njit(cache=True, nogil=True, error_model="numpy")
def rotated(basis: NDArray[np.float64], x: float, y: float, z: float) -> NDArray[np.float64]:
    """Rows of a basis turned by a rotation vector, radians."""
    angle = math.sqrt(x * x + y * y + z * z)
    out = basis.copy()
    if angle < 1e-12:
        return out
    x, y, z = x / angle, y / angle, z / angle
    cosine, sine = math.cos(angle), math.sin(angle)
    for i in range(3):
        a, b, c = basis[i, 0], basis[i, 1], basis[i, 2]
        along = (a * x + b * y + c * z) * (1.0 - cosine)
        out[i, 0] = a * cosine + (y * c - z * b) * sine + x * along
        out[i, 1] = b * cosine + (z * a - x * c) * sine + y * along
        out[i, 2] = c * cosine + (x * b - y * a) * sine + z * along
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _pair(a: int, b: int) -> int:
    """Place of the element (a, b) of a symmetric (3, 3) matrix in the order 00, 01, 02, 11, 12, 22."""
    low, high = min(a, b), max(a, b)
    return low * (5 - low) // 2 + high


@njit(cache=True, nogil=True, error_model="numpy")
def strained(
    q: NDArray[np.float64],
    k: NDArray[np.float64],
    n_used: int,
    basis: NDArray[np.float64],
    target: NDArray[np.float64],
    tolerance: float,
    sigma: float,
) -> NDArray[np.float64]:
    """One cycle of least squares of the whole basis on the first peaks that are within `tolerance` of whole indices.

    Minimises Σ (|δ|² + (1/r² − 1)(δ·n)²) / σ² + |ε|² / STRAIN², δ the misfit of a node (1/Å), n the normal of the
    sphere, r `NORMAL_RATIO` and ε the strain relative to the target cell. Peaks further out than a few σ weigh less.
    """
    reciprocal = inverse(basis)
    system = np.zeros((9, 10))
    h, p, d, s = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    weight, product, sums = np.empty(6), np.empty(6), np.zeros((6, 6))
    less = 1.0 / NORMAL_RATIO**2 - 1.0
    for j in range(n_used):
        fits = True
        for a in range(3):
            value = basis[a, 0] * q[0, j] + basis[a, 1] * q[1, j] + basis[a, 2] * q[2, j]
            h[a] = np.rint(value)
            if abs(value - h[a]) > tolerance:
                fits = False
        if not fits or (h[0] == 0 and h[1] == 0 and h[2] == 0):
            continue
        ray, across, square = 0.0, 0.0, 0.0
        for a in range(3):
            p[a] = reciprocal[a, 0] * h[0] + reciprocal[a, 1] * h[1] + reciprocal[a, 2] * h[2]
            d[a] = p[a] - q[a, j]
            s[a] = q[a, j] + k[a]
            ray += s[a] * s[a]
            across += s[a] * d[a]
            square += d[a] * d[a]
        chi = (square + less * across * across / ray) / (sigma * sigma)
        w = 1.0 / (1.0 + chi / 9.0) ** 2 / (sigma * sigma)
        along = less * across / ray
        for a in range(3):
            force = w * (d[a] + along * s[a])
            for b in range(3):
                system[3 * a + b, 9] -= force * p[b]
        i = 0
        for a in range(3):
            for b in range(a, 3):
                weight[i] = w * ((1.0 if a == b else 0.0) + less * s[a] * s[b] / ray)
                product[i] = p[a] * p[b]
                i += 1
        for i in range(6):
            for m in range(6):
                sums[i, m] += weight[i] * product[m]
    for a in range(3):
        for c in range(3):
            for b in range(3):
                for e in range(3):
                    system[3 * a + b, 3 * c + e] = sums[_pair(a, c), _pair(b, e)]
    rotation = rotation_near(reciprocal @ target)
    change = reciprocal @ target @ rotation.T
    restraint = 1.0 / STRAIN**2
    for a in range(3):
        for b in range(3):
            i, m = 3 * a + b, 3 * b + a
            system[i, i] += 0.5 * restraint
            system[i, m] += 0.5 * restraint
            strain = 0.5 * (change[a, b] + change[b, a]) - (1.0 if a == b else 0.0)
            system[i, 9] -= restraint * strain
    hold = 0.0
    for i in range(9):
        hold += system[i, i]
    for i in range(9):
        system[i, i] += 1e-9 * hold
    solve_in_place(system)
    moved = reciprocal.copy()
    for a in range(3):
        for b in range(3):
            for c in range(3):
                moved[a, b] += system[3 * a + c, 9] * reciprocal[c, b]
    return inverse(moved)


@njit(cache=True, nogil=True, error_model="numpy")
def solve_in_place(system: NDArray[np.float64]) -> None:
    """Solve positive definite equations (n, n + 1); the last column becomes the solution (Gauss)."""
    n = len(system)
    for i in range(n):
        pivot = 1.0 / system[i, i]
        for r in range(i + 1, n):
            factor = system[r, i] * pivot
            if factor != 0.0:
                for c in range(i, n + 1):
                    system[r, c] -= factor * system[i, c]
    for i in range(n - 1, -1, -1):
        value = system[i, n]
        for c in range(i + 1, n):
            value -= system[i, c] * system[c, n]
        system[i, n] = value / system[i, i]


@njit(cache=True, nogil=True, error_model="numpy")
def scatter(misfit: NDArray[np.float64], tolerance: float) -> float:
    """Robust standard deviation, 1/Å, of misfits (3, n) along the sphere where the index error is within tolerance."""
    values = np.empty(misfit.shape[1])
    n = 0
    for j in range(misfit.shape[1]):
        if misfit[2, j] < tolerance:
            values[n] = misfit[0, j]
            n += 1
    if n == 0:
        return 1e-3
    # The median of a Rayleigh distribution is 1.177 σ.
    return max(float(np.median(values[:n])) / 1.177, 1e-5)


@njit(cache=True, nogil=True, error_model="numpy")
def fit_rotation(
    q: NDArray[np.float64], k: NDArray[np.float64], n_inner: int, basis: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The orientation that suits the peaks (3, n), ordered by resolution, best: from the inner ones outwards."""
    n = q.shape[1]
    for cycle in range(len(INDEX_TOLERANCES)):
        n_used = n_inner if cycle < 2 else (min(2 * n_inner, n) if cycle == 2 else n)
        basis = turned(q, k, min(n_used, n), basis, INDEX_TOLERANCES[cycle])
    return basis


@njit(cache=True, nogil=True, error_model="numpy")
def fit_basis(
    q: NDArray[np.float64],
    k: NDArray[np.float64],
    n_inner: int,
    basis: NDArray[np.float64],
    target: NDArray[np.float64],
    work: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The basis that suits the peaks (3, n), ordered by resolution, best; `work` is (3, n)."""
    n = q.shape[1]
    misfits(q, k, basis, work)
    sigma = scatter(work, 0.3)
    for cycle in range(6):
        n_used = n_inner if cycle < 1 else (min(2 * n_inner, n) if cycle < 3 else n)
        basis = strained(q, k, min(n_used, n), basis, target, 0.3 if cycle < 3 else 0.25, sigma)
        misfits(q, k, basis, work)
        sigma = scatter(work, 0.25)
    return basis


@njit(cache=True, nogil=True, error_model="numpy")
def fit_growing(
    q: NDArray[np.float64],
    k: NDArray[np.float64],
    basis: NDArray[np.float64],
    target: NDArray[np.float64],
    n_used: int,
    work: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The same for a cell that may be off by some per cent: from the first `n_used` peaks on shell by shell.

    So no index is ever half a unit off.
    """
    n = q.shape[1]
    while True:
        n_used = min(n_used, n)
        for _ in range(2):
            misfits(q[:, :n_used], k, basis, work[:, :n_used])
            sigma = scatter(work[:, :n_used], 0.3)
            basis = strained(q, k, n_used, basis, target, 0.3, sigma)
        if n_used == n:
            return basis
        n_used = n_used * 3 // 2
