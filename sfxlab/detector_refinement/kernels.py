"""Kernels of detector refinement: gradients by moves of panels, and sums with the crystals' own parameters eliminated.

METHODS.md sections 5.4 and 9.2; V. Blobel (2006) Nucl. Instrum. Methods A566, 5. Panels and rays as in
`sfxlab.diffraction.refinement_kernels`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.diffraction.refinement_kernels import HUBER, gradients, residuals


@njit(cache=True, nogil=True, error_model="numpy")
def panel_gradients(
    hkl: NDArray[np.float64],
    panel: NDArray[np.int64],
    inverses: NDArray[np.float64],
    centres: NDArray[np.float64],
    k: float,
    basis: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Derivatives of predicted fs, ss by a move of the panel, (n, 2, 6): shifts (metres), rotations (radians).

    A move t, w about the centre p takes the point X of the panel that the ray meets to X + t + w × (X − p); with
    e = D⁻¹(t + w × (X − p)) it is ∂f = f e₀ − e₁, ∂s = s e₀ − e₂.
    """
    out = np.empty((len(hkl), 2, 6))
    u = np.empty(3)
    for i in range(len(hkl)):
        x = basis[0, 0] * hkl[i, 0] + basis[0, 1] * hkl[i, 1] + basis[0, 2] * hkl[i, 2]
        y = basis[1, 0] * hkl[i, 0] + basis[1, 1] * hkl[i, 1] + basis[1, 2] * hkl[i, 2]
        z = basis[2, 0] * hkl[i, 0] + basis[2, 1] * hkl[i, 1] + basis[2, 2] * hkl[i, 2] + k
        d, p = inverses[panel[i]], centres[panel[i]]
        v0 = d[0, 0] * x + d[0, 1] * y + d[0, 2] * z
        f = (d[1, 0] * x + d[1, 1] * y + d[1, 2] * z) / v0
        s = (d[2, 0] * x + d[2, 1] * y + d[2, 2] * z) / v0
        rx, ry, rz = x / v0 - p[0], y / v0 - p[1], z / v0 - p[2]
        for c in range(6):
            u[:] = 0.0
            if c < 3:
                u[c] = 1.0
            elif c == 3:
                u[1], u[2] = -rz, ry
            elif c == 4:
                u[0], u[2] = rz, -rx
            else:
                u[0], u[1] = -ry, rx
            e0 = d[0, 0] * u[0] + d[0, 1] * u[1] + d[0, 2] * u[2]
            out[i, 0, c] = f * e0 - (d[1, 0] * u[0] + d[1, 1] * u[1] + d[1, 2] * u[2])
            out[i, 1, c] = s * e0 - (d[2, 0] * u[0] + d[2, 1] * u[1] + d[2, 2] * u[2])
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def add_crystal(
    hkl: NDArray[np.float64],
    panel: NDArray[np.int64],
    place: NDArray[np.float64],
    inverses: NDArray[np.float64],
    centres: NDArray[np.float64],
    k: float,
    rotation: NDArray[np.float64],
    cell_basis: NDArray[np.float64],
    strains: NDArray[np.float64],
    strain_now: NDArray[np.float64],
    strain_deviation: float,
    pixel: NDArray[np.float64],
    excitation: float,
    normal: NDArray[np.float64],
    right: NDArray[np.float64],
) -> None:
    """Add one crystal's pairs to the reduced normal equations of moves of panels, (6 n, 6 n) and (6 n,).

    Γ − CᵀN⁻¹C and Dᵀ W r − CᵀN⁻¹g of METHODS.md section 9.2, with Huber weights for standard deviations `pixel`
    (panels,) and `excitation` (1/Å). The cell is restrained: `strain_now` (n_strains,) are its amplitudes of strain
    away from the target cell, with standard deviation `strain_deviation`.

    A node's excitation error ε is part of its q, and so of ∂ε by a strain: Ŝ·Gq would be correlated with ε, and least
    squares would find too large a distance with too large cells. The strain is taken where the node would be on the
    sphere instead, at q + εŜ.
    """
    basis = rotation @ cell_basis
    r = residuals(hkl, panel, place, inverses, k, basis, np.zeros(2))
    own = gradients(hkl, panel, inverses, k, rotation, cell_basis, strains, np.zeros(2), 0)
    for i in range(len(hkl)):
        ray = basis @ hkl[i]
        ray[2] += k
        ray = rotation.T @ (ray / np.linalg.norm(ray))
        for g in range(len(strains)):
            own[i, 2, 3 + g] += r[i, 2] * (ray @ (strains[g] @ ray))
    moves = panel_gradients(hkl, panel, inverses, centres, k, basis)
    m = own.shape[2]
    slot = np.full(len(inverses), -1, dtype=np.int64)
    touched = np.empty(len(inverses), dtype=np.int64)
    n_touched = 0
    for i in range(len(hkl)):
        if slot[panel[i]] < 0:
            slot[panel[i]], touched[n_touched] = n_touched, panel[i]
            n_touched += 1
    inner, gradient, mixed = np.zeros((m, m)), np.zeros(m), np.zeros((m, 6 * n_touched))
    for i in range(len(hkl)):
        deviation = pixel[panel[i]]
        size = math.hypot(r[i, 0], r[i, 1]) / math.sqrt(2.0)
        in_pixels = min(1.0, HUBER * deviation / max(size, 1e-12)) / deviation**2
        in_excitation = min(1.0, HUBER * excitation / max(abs(r[i, 2]), 1e-12)) / excitation**2
        first, column = 6 * panel[i], 6 * slot[panel[i]]
        for c in range(3):
            weight = in_excitation if c == 2 else in_pixels
            for a in range(m):
                gradient[a] += weight * own[i, c, a] * r[i, c]
                for b in range(m):
                    inner[a, b] += weight * own[i, c, a] * own[i, c, b]
        for c in range(2):
            for b in range(6):
                right[first + b] += in_pixels * moves[i, c, b] * r[i, c]
                for a in range(6):
                    normal[first + a, first + b] += in_pixels * moves[i, c, a] * moves[i, c, b]
                for a in range(m):
                    mixed[a, column + b] += in_pixels * own[i, c, a] * moves[i, c, b]
    for g in range(len(strains)):
        inner[3 + g, 3 + g] += 1.0 / strain_deviation**2
        gradient[3 + g] += strain_now[g] / strain_deviation**2
    _eliminate(inner, gradient, mixed, touched[:n_touched], normal, right)


@njit(cache=True, nogil=True, error_model="numpy")
def _eliminate(
    inner: NDArray[np.float64],
    gradient: NDArray[np.float64],
    mixed: NDArray[np.float64],
    touched: NDArray[np.int64],
    normal: NDArray[np.float64],
    right: NDArray[np.float64],
) -> None:
    """Subtract CᵀN⁻¹C and CᵀN⁻¹g, where C has six columns for each panel of `touched`."""
    m = len(gradient)
    size = np.sqrt(np.maximum(np.diag(inner), 1e-300))
    scaled = np.empty((m, m))
    for a in range(m):
        for b in range(m):
            scaled[a, b] = inner[a, b] / (size[a] * size[b])
        scaled[a, a] += 1e-10
    inverse = np.linalg.inv(scaled)
    for a in range(m):
        for b in range(m):
            inverse[a, b] /= size[a] * size[b]
    columns = mixed.shape[1]
    solved = np.zeros((m, columns))
    for a in range(m):
        for b in range(m):
            for c in range(columns):
                solved[a, c] += inverse[a, b] * mixed[b, c]
    row = np.empty(columns)
    for c in range(columns):
        row[:] = 0.0
        place, change = 6 * touched[c // 6] + c % 6, 0.0
        for a in range(m):
            change += solved[a, c] * gradient[a]
            for b in range(columns):
                row[b] += mixed[a, c] * solved[a, b]
        right[place] -= change
        for b in range(columns):
            normal[place, 6 * touched[b // 6] + b % 6] -= row[b]
