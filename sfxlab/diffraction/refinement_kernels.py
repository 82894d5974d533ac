"""Kernels of refinement: residuals of pairs of peaks and reflections, their gradients, and least squares.

METHODS.md section 5.4. A panel has the matrix D with columns corner, fs, ss; for the scattered ray S = q + kẑ the
vector v = D⁻¹S gives panel coordinates f = v₁/v₀, s = v₂/v₀. A detector moved by d has the columns corner + d, fs, ss.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

HUBER = 2.0
START_PIXEL, START_EXCITATION = 1.0, 1e-3
"""Standard deviations to begin with: 1 pixel weighs as much as 0.001 1/Å."""
MIN_PIXEL, MIN_EXCITATION = 0.1, 2e-5
PAIRING_INDEX_ERROR = 0.25
SHIFT_RESTRAINT = 1e-3
"""Standard deviation of shifts of the detector, metres: far more than they are, so that no fit runs away."""


@njit(cache=True, nogil=True, error_model="numpy")
def residuals(
    hkl: NDArray[np.float64],
    panel: NDArray[np.int64],
    place: NDArray[np.float64],
    inverses: NDArray[np.float64],
    k: float,
    basis: NDArray[np.float64],
    shift: NDArray[np.float64],
) -> NDArray[np.float64]:
    """fs, ss (pixels, predicted − observed) and excitation error k − |S| (1/Å) of pairs, (n, 3).

    `hkl` (n, 3), `panel` (n,), `place` (n, 2) observed panel coordinates, `inverses` (panels, 3, 3), `basis` columns in
    1/Å, `shift` of the detector along x and y, metres.
    """
    out = np.empty((len(hkl), 3))
    for i in range(len(hkl)):
        x, y, z = _node(basis, hkl[i])
        z += k
        d = inverses[panel[i]]
        v0 = d[0, 0] * x + d[0, 1] * y + d[0, 2] * z
        v1 = d[1, 0] * x + d[1, 1] * y + d[1, 2] * z
        v2 = d[2, 0] * x + d[2, 1] * y + d[2, 2] * z
        # (D + d e₀ᵀ) v′ = S gives v′ = v − w v₀′ with w = D⁻¹d and v₀′ = v₀ / (1 + w₀).
        v0 /= 1.0 + d[0, 0] * shift[0] + d[0, 1] * shift[1]
        v1 -= (d[1, 0] * shift[0] + d[1, 1] * shift[1]) * v0
        v2 -= (d[2, 0] * shift[0] + d[2, 1] * shift[1]) * v0
        out[i, 0] = v1 / v0 - place[i, 0] if v0 > 0.0 else np.inf
        out[i, 1] = v2 / v0 - place[i, 1] if v0 > 0.0 else np.inf
        out[i, 2] = k - math.sqrt(x * x + y * y + z * z)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def gradients(
    hkl: NDArray[np.float64],
    panel: NDArray[np.int64],
    inverses: NDArray[np.float64],
    k: float,
    rotation: NDArray[np.float64],
    cell_basis: NDArray[np.float64],
    strains: NDArray[np.float64],
    shift: NDArray[np.float64],
    n_shift: int,
) -> NDArray[np.float64]:
    """Derivatives of `residuals`, (n, 3, 3 + n_strains + n_shift), for the basis `rotation` @ `cell_basis`.

    The parameters are rotations about x, y, z (radians, right-handed), the amplitudes of the symmetric strains
    (n_strains, 3, 3) of the real cell, and the detector's shift along x and y (metres). For S with derivative ∂S:
    ∂v = D⁻¹∂S, ∂f = (∂v₁ − f ∂v₀)/v₀ and likewise s, ∂ε = −Ŝ·∂S; ∂S = u × q for a rotation about u, ∂S = −R G B h for
    a strain G of the basis R B, and ∂v = −D⁻¹d v₀ for a shift along d.
    """
    n_strains = len(strains)
    out = np.empty((len(hkl), 3, 3 + n_strains + n_shift))
    basis = rotation @ cell_basis
    moves = np.empty((n_strains, 3, 3))
    for g in range(n_strains):
        moves[g] = -(rotation @ strains[g] @ cell_basis)
    ds = np.empty(3)
    for i in range(len(hkl)):
        x, y, z = _node(basis, hkl[i])
        zk = z + k
        length = math.sqrt(x * x + y * y + zk * zk)
        d = inverses[panel[i]]
        t = 1.0 + d[0, 0] * shift[0] + d[0, 1] * shift[1]
        v0 = (d[0, 0] * x + d[0, 1] * y + d[0, 2] * zk) / t
        f = (d[1, 0] * x + d[1, 1] * y + d[1, 2] * zk) / v0 - (d[1, 0] * shift[0] + d[1, 1] * shift[1])
        s = (d[2, 0] * x + d[2, 1] * y + d[2, 2] * zk) / v0 - (d[2, 0] * shift[0] + d[2, 1] * shift[1])
        for c in range(3 + n_strains):
            if c == 0:
                ds[0], ds[1], ds[2] = 0.0, -z, y
            elif c == 1:
                ds[0], ds[1], ds[2] = z, 0.0, -x
            elif c == 2:
                ds[0], ds[1], ds[2] = -y, x, 0.0
            else:
                ds[0], ds[1], ds[2] = _node(moves[c - 3], hkl[i])
            w0 = d[0, 0] * ds[0] + d[0, 1] * ds[1] + d[0, 2] * ds[2]
            w1 = d[1, 0] * ds[0] + d[1, 1] * ds[1] + d[1, 2] * ds[2]
            w2 = d[2, 0] * ds[0] + d[2, 1] * ds[1] + d[2, 2] * ds[2]
            w0 /= t
            w1 -= (d[1, 0] * shift[0] + d[1, 1] * shift[1]) * w0
            w2 -= (d[2, 0] * shift[0] + d[2, 1] * shift[1]) * w0
            out[i, 0, c] = (w1 - f * w0) / v0
            out[i, 1, c] = (w2 - s * w0) / v0
            out[i, 2, c] = -(x * ds[0] + y * ds[1] + zk * ds[2]) / length
        for c in range(n_shift):
            # The same with the inverse of the moved panel: w = D′⁻¹d, ∂v = −w v₀.
            w0 = d[0, c] / t
            out[i, 0, 3 + n_strains + c] = f * w0 - (d[1, c] - (d[1, 0] * shift[0] + d[1, 1] * shift[1]) * w0)
            out[i, 1, 3 + n_strains + c] = s * w0 - (d[2, c] - (d[2, 0] * shift[0] + d[2, 1] * shift[1]) * w0)
            out[i, 2, 3 + n_strains + c] = 0.0
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def paired(
    q: NDArray[np.float64],
    panel: NDArray[np.int64],
    place: NDArray[np.float64],
    inverses: NDArray[np.float64],
    k: float,
    basis: NDArray[np.float64],
    shift: NDArray[np.float64],
    max_distance: float,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Peaks (n, 3) whose indices are nearly whole and whose prediction is near, pixels: their numbers and indices."""
    real = np.linalg.inv(basis)
    which, hkl = np.empty(len(q), dtype=np.int64), np.empty((len(q), 3))
    n = 0
    for i in range(len(q)):
        near, size = True, 0.0
        for a in range(3):
            value = real[a, 0] * q[i, 0] + real[a, 1] * q[i, 1] + real[a, 2] * q[i, 2]
            hkl[n, a] = np.rint(value)
            size += abs(hkl[n, a])
            near = near and abs(value - hkl[n, a]) < PAIRING_INDEX_ERROR
        if near and size > 0.0:
            r = residuals(hkl[n : n + 1], panel[i : i + 1], place[i : i + 1], inverses, k, basis, shift)
            if math.hypot(r[0, 0], r[0, 1]) < max_distance:
                which[n] = i
                n += 1
    return which[:n], hkl[:n]


@njit(cache=True, nogil=True, error_model="numpy")
def least_squares(
    hkl: NDArray[np.float64],
    panel: NDArray[np.int64],
    place: NDArray[np.float64],
    inverses: NDArray[np.float64],
    k: float,
    rotation: NDArray[np.float64],
    cell_basis: NDArray[np.float64],
    shift: NDArray[np.float64],
    n_shift: int,
    strains: NDArray[np.float64],
    target: NDArray[np.float64],
    amplitudes: NDArray[np.float64],
    restraint: float,
    cycles: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Rotation, cell basis and shift after Gauss-Newton cycles with Huber weights.

    The scatter of the residuals sets their weights anew in each cycle. `target` is the cell's reciprocal basis that the
    strain is restrained to; `amplitudes` (n_strains, 9) makes amplitudes of a strain.
    """
    n_strains = len(strains)
    m = 3 + n_strains + n_shift
    pixel, excitation, cost = START_PIXEL, START_EXCITATION, np.inf
    identity = np.eye(3)
    r = residuals(hkl, panel, place, inverses, k, rotation @ cell_basis, shift)
    for _ in range(cycles):
        j = gradients(hkl, panel, inverses, k, rotation, cell_basis, strains, shift, n_shift)
        normal, right, new_cost = np.zeros((m, m)), np.zeros(m), 0.0
        for i in range(len(hkl)):
            size = math.sqrt((r[i, 0] ** 2 + r[i, 1] ** 2) / 2.0) / pixel
            for c in range(3):
                scale = excitation if c == 2 else pixel
                weight = min(1.0, HUBER / max(abs(r[i, 2]) / excitation if c == 2 else size, 1e-12)) / scale**2
                new_cost += weight * r[i, c] ** 2
                for a in range(m):
                    right[a] += weight * j[i, c, a] * r[i, c]
                    for b in range(a + 1):
                        normal[a, b] += weight * j[i, c, a] * j[i, c, b]
        change = target @ np.linalg.inv(cell_basis)
        change = (change + change.T) / 2.0 - identity
        for g in range(n_strains):
            normal[3 + g, 3 + g] += 1.0 / restraint**2
            for a in range(3):
                for b in range(3):
                    right[3 + g] += amplitudes[g, 3 * a + b] * change[a, b] / restraint**2
        for c in range(n_shift):
            normal[m - n_shift + c, m - n_shift + c] += 1.0 / SHIFT_RESTRAINT**2
            right[m - n_shift + c] += shift[c] / SHIFT_RESTRAINT**2
        step = -_solved(normal, right)
        rotation, cell_basis = moved(rotation, cell_basis, step, strains)
        for c in range(n_shift):
            shift[c] += step[m - n_shift + c]
        if abs(cost - new_cost) < 1e-4 * new_cost and np.abs(step).max() < 1e-6:
            break
        cost = new_cost
        r = residuals(hkl, panel, place, inverses, k, rotation @ cell_basis, shift)
        pixel = max(1.4826 * float(np.median(np.abs(r[:, :2]))), MIN_PIXEL)
        excitation = max(1.4826 * float(np.median(np.abs(r[:, 2]))), MIN_EXCITATION)
    return rotation, cell_basis, shift


@njit(cache=True, nogil=True, error_model="numpy")
def moved(
    rotation: NDArray[np.float64],
    cell_basis: NDArray[np.float64],
    step: NDArray[np.float64],
    strains: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rotation and cell basis after a step of the first parameters of `gradients`."""
    angle = math.sqrt(step[0] ** 2 + step[1] ** 2 + step[2] ** 2)
    turn = np.eye(3)
    if angle > 0.0:
        x, y, z = step[0] / angle, step[1] / angle, step[2] / angle
        axis = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
        turn = np.eye(3) + math.sin(angle) * axis + (1.0 - math.cos(angle)) * (axis @ axis)
    stretch = np.eye(3)
    for g in range(len(strains)):
        stretch += step[3 + g] * strains[g]
    return turn @ rotation, np.linalg.inv(stretch) @ cell_basis


@njit(cache=True, nogil=True, error_model="numpy")
def _node(basis: NDArray[np.float64], hkl: NDArray[np.float64]) -> tuple[float, float, float]:
    x = basis[0, 0] * hkl[0] + basis[0, 1] * hkl[1] + basis[0, 2] * hkl[2]
    y = basis[1, 0] * hkl[0] + basis[1, 1] * hkl[1] + basis[1, 2] * hkl[2]
    z = basis[2, 0] * hkl[0] + basis[2, 1] * hkl[1] + basis[2, 2] * hkl[2]
    return x, y, z


@njit(cache=True, nogil=True, error_model="numpy")
def _solved(normal: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solution of symmetric equations of which the lower half is given, scaled to a diagonal of ones."""
    m = len(right)
    size = np.sqrt(np.maximum(np.diag(normal), 1e-300))
    scaled = np.empty((m, m))
    for a in range(m):
        for b in range(a + 1):
            scaled[a, b] = scaled[b, a] = normal[a, b] / (size[a] * size[b])
        scaled[a, a] += 1e-9
    return np.linalg.solve(scaled, right / size) / size
