"""Which reflections a crystal shows, where, and how much of each.

Geometry of a still, METHODS.md sections 5.1 and 5.2: the scattered ray is S = q + kẑ with k = 1/λ; the excitation error
ε = k − |S| is the distance of the node from the Ewald sphere, positive inside.

Nodes are Gaussians of standard deviation R(q) = R₀ + η|q|, the spectrum is one of standard deviation σ_k. Along the ray
the spectrum makes the sphere a shell of standard deviation σ_p = (1 − Ŝ_z)σ_k, and what node and shell share is
exp(−ε²/2(R² + σ_p²)) of what they share where the node is on the sphere (Brehm et al. 2023, Acta Cryst. A79, 145).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.crystal import Crystal
from sfxlab.geometry import HC_EV_ANGSTROM, Detector

_SLACK = 1.1
"""The width of the shell at the largest |q| is that of nodes on the sphere; those beside it have a little more."""


@dataclass(frozen=True)
class Prediction:
    """Reflections that a crystal should show on a detector: a struct of arrays, each with n rows."""

    hkl: NDArray[np.int32]
    """(n, 3)."""
    panel: NDArray[np.int16]
    fs: NDArray[np.float64]
    """Slab coordinates."""
    ss: NDArray[np.float64]
    excitation_error: NDArray[np.float64]
    """1/Å."""
    partiality: NDArray[np.float64]
    """exp(−ε²/2(R² + σ_p²)): share of what the reflection would give exactly on the Ewald sphere."""
    resolution: NDArray[np.float64]
    """|q| = 1/d, 1/Å."""

    def __len__(self) -> int:
        return len(self.hkl)

    def __getitem__(self, which: NDArray[np.integer] | NDArray[np.bool_] | slice) -> Prediction:
        return Prediction(*(getattr(self, f.name)[which] for f in fields(self)))


def predict(
    crystal: Crystal,
    detector: Detector,
    photon_energy: float,
    *,
    bandwidth: float = 0.0,
    min_partiality: float = 0.135,
    overprediction: float = 1.0,
    max_resolution: float = 0.0,
) -> Prediction:
    """Reflections with at least `min_partiality`, in the order of their indices.

    Photon energy in eV, `bandwidth` its standard deviation, relative; `max_resolution` in 1/Å (0: to the corner of the
    detector). `overprediction` times the excitation error that belongs to `min_partiality` is still predicted.

    The spot lies where the wavenumber that most likely met the node puts it: κ = −ε(1 − Ŝ_z)σ_k²/(R² + σ_p²) off the
    mean, which is between the projection along the ray (κ = 0) and the one that meets the node exactly.
    """
    k = photon_energy / HC_EV_ANGSTROM
    q_max = detector_reach(detector, photon_energy)
    if max_resolution > 0:
        q_max = min(q_max, max_resolution)
    widths = math.sqrt(-2 * math.log(min_partiality)) * overprediction if min_partiality > 0 else math.inf
    model = (k, k * bandwidth, crystal.profile_radius, crystal.mosaicity)
    hkl = _indices(crystal, model, widths, q_max)
    error, share, rays = excitation(hkl, crystal.basis, *model)
    kept = np.flatnonzero(share >= math.exp(-0.5 * widths**2))
    grid = detector.panel_grid
    panel, fs, ss = on_detector(
        rays[kept], panel_inverses(detector, crystal.detector_shift), detector.arrays.bounds,
        grid.origin, grid.cell, grid.columns, grid.first, grid.panels,
    )  # fmt: skip
    seen = panel >= 0
    kept = kept[seen]
    return Prediction(
        hkl=hkl[kept].astype(np.int32),
        panel=panel[seen],
        fs=fs[seen],
        ss=ss[seen],
        excitation_error=error[kept],
        partiality=share[kept],
        resolution=np.linalg.norm(crystal.q(hkl[kept]), axis=1),
    )


def _indices(
    crystal: Crystal, model: tuple[float, float, float, float], widths: float, q_max: float
) -> NDArray[np.int64]:
    """Indices of all reflections that may be predicted, in order, (n, 3)."""
    k, sigma_k, radius, mosaicity = model
    spread = min(q_max * q_max / (2 * k * k), 2.0) * sigma_k
    width = min(widths * _SLACK * math.hypot(radius + mosaicity * q_max, spread), k)
    inner = int(np.argmax(np.linalg.norm(crystal.real_basis, axis=1)))
    order = [(inner + 1) % 3, (inner + 2) % 3, inner]
    permuted = near_sphere(np.ascontiguousarray(crystal.basis[:, order]), k, width, q_max)
    hkl = np.empty_like(permuted)
    hkl[:, order] = permuted
    hkl = hkl[crystal.cell.allows(hkl)]
    span = 2 * int(np.abs(hkl).max(initial=0)) + 1
    return np.asarray(hkl[np.argsort((hkl[:, 0] * span + hkl[:, 1]) * span + hkl[:, 2])])


def detector_reach(detector: Detector, photon_energy: float) -> float:
    """The largest |q| = 1/d that falls on the detector, 1/Å; photon energy in eV."""
    bounds = detector.arrays.bounds
    panel = np.repeat(np.arange(len(bounds)), 4)
    fs = bounds[:, [2, 3, 2, 3]].ravel().astype(np.float64)
    ss = bounds[:, [0, 0, 1, 1]].ravel().astype(np.float64)
    return float(np.linalg.norm(detector.q(panel, fs, ss, photon_energy), axis=1).max())


def panel_inverses(detector: Detector, shift: tuple[float, float] = (0.0, 0.0)) -> NDArray[np.float64]:
    """Inverse of the matrix with columns corner, fs, ss of each panel, (n, 3, 3); the corner moved along x and y, m.

    For a ray S the vector v = inverse @ S gives the panel coordinates fs = v₁/v₀ and ss = v₂/v₀.
    """
    a = detector.arrays
    corner = a.corner + np.array([*shift, 0.0])
    return np.asarray(np.linalg.inv(np.stack([corner, a.fs, a.ss], axis=2)), dtype=np.float64)


@njit(cache=True, nogil=True)
def near_sphere(basis: NDArray[np.float64], k: float, width: float, q_max: float) -> NDArray[np.int64]:
    """Indices of the reciprocal lattice points within `width` of the Ewald sphere and |q| ≤ q_max, (n, 3).

    `basis` has the reciprocal axes as columns, 1/Å. For each pair of the first two indices the third one, m, runs
    through the at most two intervals that lie within q_max and between the spheres of radius k ± width: the ends are
    roots of the quadratics |q₀ + m c*|² = q_max² and |q₀ + m c* + kẑ|² = (k ± width)².
    """
    real = np.linalg.inv(basis)
    limit_0 = int(math.sqrt((real[0] ** 2).sum()) * q_max)
    limit_1 = int(math.sqrt((real[1] ** 2).sum()) * q_max)
    ax, ay, az = basis[0, 0], basis[1, 0], basis[2, 0]
    bx, by, bz = basis[0, 1], basis[1, 1], basis[2, 1]
    cx, cy, cz = basis[0, 2], basis[1, 2], basis[2, 2]
    cc = cx * cx + cy * cy + cz * cz
    found = np.empty((4096, 3), dtype=np.int64)
    n = 0
    for i in range(-limit_0, limit_0 + 1):
        for j in range(-limit_1, limit_1 + 1):
            x, y, z = i * ax + j * bx, i * ay + j * by, i * az + j * bz
            sc, square = x * cx + y * cy + z * cz, x * x + y * y + z * z
            within = sc * sc - cc * (square - q_max * q_max)
            if within < 0:
                continue
            rc, rr = sc + k * cz, square + 2 * k * z + k * k
            outside = rc * rc - cc * (rr - (k + width) ** 2)
            if outside < 0:
                continue
            middle, half, reach = -rc / cc, math.sqrt(outside) / cc, math.sqrt(within) / cc
            first = math.ceil(max(middle - half, -sc / cc - reach))
            last = math.floor(min(middle + half, -sc / cc + reach))
            hollow = rc * rc - cc * (rr - (k - width) ** 2)
            below, above = last, last + 1
            if hollow > 0:
                hole = math.sqrt(hollow) / cc
                below = min(math.floor(middle - hole), last)
                above = max(math.ceil(middle + hole), first, below + 1)
            for interval in range(2):
                low, high = (first, below) if interval == 0 else (above, last)
                for m in range(low, high + 1):
                    if i == 0 and j == 0 and m == 0:
                        continue
                    if n == len(found):
                        larger = np.empty((2 * n, 3), dtype=np.int64)
                        larger[:n] = found
                        found = larger
                    found[n, 0], found[n, 1], found[n, 2] = i, j, m
                    n += 1
    return found[:n]


@njit(cache=True, nogil=True)
def excitation(
    hkl: NDArray[np.int64], basis: NDArray[np.float64], k: float, sigma_k: float, radius: float, mosaicity: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """ε (n,), exp(−ε²/2(R² + σ_p²)) (n,) and the rays S + κẑ (n, 3) of reflections hkl (n, 3); all in 1/Å.

    R = radius + mosaicity |q|, σ_p = (1 − Ŝ_z)σ_k, κ = −ε(1 − Ŝ_z)σ_k²/(R² + σ_p²).
    """
    n = len(hkl)
    error, share, rays = np.empty(n), np.empty(n), np.empty((n, 3))
    for i in range(n):
        h, kk, m = hkl[i, 0], hkl[i, 1], hkl[i, 2]
        x = basis[0, 0] * h + basis[0, 1] * kk + basis[0, 2] * m
        y = basis[1, 0] * h + basis[1, 1] * kk + basis[1, 2] * m
        z = basis[2, 0] * h + basis[2, 1] * kk + basis[2, 2] * m
        length = math.sqrt(x * x + y * y + (z + k) ** 2)
        lean = 1 - (z + k) / length
        node = radius + mosaicity * math.sqrt(x * x + y * y + z * z)
        total = node * node + (lean * sigma_k) ** 2
        error[i] = k - length
        share[i] = math.exp(-0.5 * error[i] ** 2 / total)
        rays[i, 0], rays[i, 1] = x, y
        rays[i, 2] = z + k - error[i] * lean * sigma_k * sigma_k / total
    return error, share, rays


@njit(cache=True, nogil=True)
def on_detector(
    rays: NDArray[np.float64],
    inverses: NDArray[np.float64],
    bounds: NDArray[np.int64],
    origin: tuple[float, float],
    cell: float,
    columns: int,
    first: NDArray[np.int64],
    panels: NDArray[np.int64],
) -> tuple[NDArray[np.int16], NDArray[np.float64], NDArray[np.float64]]:
    """Panel (−1: none) and slab coordinates fs, ss, each (n,), that rays (n, 3) hit.

    The last five arguments are a `PanelGrid`: of the panels of a ray's cell, the first one that it hits counts.
    """
    n = len(rays)
    panel = np.full(n, -1, dtype=np.int16)
    fs, ss = np.zeros(n), np.zeros(n)
    rows = (len(first) - 1) // columns
    for i in range(n):
        x, y, z = rays[i, 0], rays[i, 1], rays[i, 2]
        forward = math.sqrt(x * x + y * y + z * z) + z
        if forward <= 0:
            continue
        u, v = (x / forward - origin[0]) / cell, (y / forward - origin[1]) / cell
        if not (0 <= u < columns and 0 <= v < rows):
            continue
        place = int(v) * columns + int(u)
        for entry in range(first[place], first[place + 1]):
            p = panels[entry]
            m = inverses[p]
            v0 = m[0, 0] * x + m[0, 1] * y + m[0, 2] * z
            if v0 <= 0:
                continue
            f = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z) / v0 + bounds[p, 2]
            s = (m[2, 0] * x + m[2, 1] * y + m[2, 2] * z) / v0 + bounds[p, 0]
            if bounds[p, 2] <= f < bounds[p, 3] and bounds[p, 0] <= s < bounds[p, 1]:
                panel[i], fs[i], ss[i] = p, f, s
                break
    return panel, fs, ss
