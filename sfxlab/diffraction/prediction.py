"""Which reflections a crystal shows, and where.

Geometry of a still, METHODS.md sections 5.1 and 5.2: the scattered ray is S = q + kẑ with k = 1/λ; the excitation error
ε = k − |S| is the distance of the node from the Ewald sphere, positive inside; the spot lies in the direction of S.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.crystal import Crystal
from sfxlab.geometry import HC_EV_ANGSTROM, Detector


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
    """exp(−ε²/2R²), R the profile radius."""
    resolution: NDArray[np.float64]
    """|q| = 1/d, 1/Å."""

    def __len__(self) -> int:
        return len(self.hkl)


def predict(
    crystal: Crystal,
    detector: Detector,
    photon_energy: float,
    *,
    min_partiality: float = 0.236,
    max_resolution: float = 0.0,
) -> Prediction:
    """Reflections with at least `min_partiality`, in the order of their indices.

    Photon energy in eV, `max_resolution` in 1/Å (0: to the corner of the detector).
    """
    k = photon_energy / HC_EV_ANGSTROM
    q_max = detector_reach(detector, photon_energy)
    if max_resolution > 0:
        q_max = min(q_max, max_resolution)
    width = crystal.profile_radius * math.sqrt(-2 * math.log(min_partiality))
    inner = int(np.argmax(np.linalg.norm(crystal.real_basis, axis=1)))
    order = [(inner + 1) % 3, (inner + 2) % 3, inner]
    columns = np.ascontiguousarray(crystal.basis[:, order])
    permuted = near_sphere(columns, k, width, q_max)
    hkl = np.empty_like(permuted)
    hkl[:, order] = permuted
    hkl = hkl[crystal.cell.allows(hkl)]
    hkl = hkl[np.lexsort((hkl[:, 2], hkl[:, 1], hkl[:, 0]))]
    q = crystal.q(hkl)
    panel, fs, ss = on_detector(q, k, panel_inverses(detector), detector.arrays.bounds)
    seen = panel >= 0
    rays = q[seen]
    rays[:, 2] += k
    error = k - np.linalg.norm(rays, axis=1)
    return Prediction(
        hkl=hkl[seen].astype(np.int32),
        panel=panel[seen],
        fs=fs[seen],
        ss=ss[seen],
        excitation_error=error,
        partiality=np.exp(-0.5 * (error / crystal.profile_radius) ** 2),
        resolution=np.linalg.norm(q[seen], axis=1),
    )


def detector_reach(detector: Detector, photon_energy: float) -> float:
    """The largest |q| = 1/d that falls on the detector, 1/Å; photon energy in eV."""
    bounds = detector.arrays.bounds
    panel = np.repeat(np.arange(len(bounds)), 4)
    fs = bounds[:, [2, 3, 2, 3]].ravel().astype(np.float64)
    ss = bounds[:, [0, 0, 1, 1]].ravel().astype(np.float64)
    return float(np.linalg.norm(detector.q(panel, fs, ss, photon_energy), axis=1).max())


def panel_inverses(detector: Detector) -> NDArray[np.float64]:
    """Inverse of the matrix with columns corner, fs, ss of each panel, (n, 3, 3).

    For a ray S the vector v = inverse @ S gives the panel coordinates fs = v₁/v₀ and ss = v₂/v₀.
    """
    a = detector.arrays
    return np.asarray(np.linalg.inv(np.stack([a.corner, a.fs, a.ss], axis=2)), dtype=np.float64)


@njit(cache=True, nogil=True)
def near_sphere(basis: NDArray[np.float64], k: float, width: float, q_max: float) -> NDArray[np.int64]:
    """Indices of the reciprocal lattice points within `width` of the Ewald sphere and |q| ≤ q_max, (n, 3).

    `basis` has the reciprocal axes as columns, 1/Å. For each pair of the first two indices the third one runs through
    the intervals between the spheres of radius k ± width only (a quadratic each), not through the whole box.
    """
    real = np.linalg.inv(basis)
    limit_0 = int(math.sqrt((real[0] ** 2).sum()) * q_max)
    limit_1 = int(math.sqrt((real[1] ** 2).sum()) * q_max)
    third = basis[:, 2].copy()
    cc = (third * third).sum()
    found = np.empty((1024, 3), dtype=np.int64)
    n = 0
    for i in range(-limit_0, limit_0 + 1):
        for j in range(-limit_1, limit_1 + 1):
            start = i * basis[:, 0] + j * basis[:, 1]
            ray = start.copy()
            ray[2] += k
            rc = (ray * third).sum()
            rr = (ray * ray).sum()
            outer = rc * rc - cc * (rr - (k + width) ** 2)
            if outer < 0:
                continue
            inner = rc * rc - cc * (rr - (k - width) ** 2)
            hole = math.sqrt(inner) / cc if inner > 0 else -1.0
            middle, half = -rc / cc, math.sqrt(outer) / cc
            last = math.floor(middle + half)
            m = math.ceil(middle - half)
            while m <= last:
                if abs(m - middle) < hole:
                    m = math.ceil(middle + hole)
                    continue
                q = start + m * third
                if (q * q).sum() <= q_max * q_max and not (i == 0 and j == 0 and m == 0):
                    if n == len(found):
                        larger = np.empty((2 * n, 3), dtype=np.int64)
                        larger[:n] = found
                        found = larger
                    found[n, 0], found[n, 1], found[n, 2] = i, j, m
                    n += 1
                m += 1
    return found[:n]


@njit(cache=True, nogil=True)
def on_detector(
    q: NDArray[np.float64], k: float, inverses: NDArray[np.float64], bounds: NDArray[np.int64]
) -> tuple[NDArray[np.int16], NDArray[np.float64], NDArray[np.float64]]:
    """Panel (−1: none) and slab coordinates fs, ss, each (n,), that the rays of scattering vectors q (n, 3) hit."""
    n = len(q)
    panel = np.full(n, -1, dtype=np.int16)
    fs, ss = np.zeros(n), np.zeros(n)
    for i in range(n):
        x, y, z = q[i, 0], q[i, 1], q[i, 2] + k
        for p in range(len(inverses)):
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
