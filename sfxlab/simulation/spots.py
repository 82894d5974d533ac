"""Where and how strongly a crystal diffracts on a still, in closed form.

The nodes of the reciprocal lattice are Gaussians of standard deviation R(q) = R₀ + η|q| in all directions, the
spectrum a Gaussian of standard deviation σ_k around k = 1/λ. Recorded is what a node and the Ewald shell share
(METHODS.md sections 5.1, 5.3 and 7.3; Brehm et al. 2023, Acta Cryst. A79, 145).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import erf

from sfxlab.geometry import HC_EV_ANGSTROM, Detector
from sfxlab.simulation.background import polarisation
from sfxlab.simulation.structure_factors import Intensities

_NODE_WIDTHS = 4.0
"""Nodes farther from the Ewald sphere than this many standard deviations are not recorded."""
_MARGIN = 6.0
"""Pixels; spots centred this far outside a panel still reach it."""


@dataclass(frozen=True)
class Beam:
    """The X-rays of one exposure."""

    photon_energy: float
    """eV."""
    bandwidth: float
    """Standard deviation of the spectrum, relative."""

    @property
    def k(self) -> float:
        """1/λ, 1/Å."""
        return self.photon_energy / HC_EV_ANGSTROM


@dataclass(frozen=True)
class Lattice:
    """One crystal in one exposure."""

    basis: NDArray[np.float64]
    """Columns a*, b*, c* in the laboratory frame, (3, 3), 1/Å."""
    node_radius: float
    """R₀, standard deviation of a node at the origin, 1/Å."""
    mosaicity: float
    """η, growth of the radius with |q|."""


@dataclass(frozen=True)
class Spots:
    """Spots on panels; one spot near the edges of two panels appears once for each."""

    hkl: NDArray[np.int32]
    """(n, 3)."""
    panel: NDArray[np.int64]
    """(n,)."""
    fs: NDArray[np.float64]
    """Centroid in the slab, pixels, (n,)."""
    ss: NDArray[np.float64]
    """Centroid in the slab, pixels, (n,)."""
    covariance: NDArray[np.float64]
    """Shape with the detector's point spread: fs², fs·ss, ss², pixels², (n, 3)."""
    partiality: NDArray[np.float64]
    """(n,)."""
    photons: NDArray[np.float64]
    """Intensity × partiality × polarisation, in the unit of the intensities, (n,)."""

    def fraction_in_5x5(self) -> NDArray[np.float64]:
        """Share of each spot's photons that falls into 5 × 5 pixels around its centre, (n,)."""
        widths = np.sqrt(2 * self.covariance[:, [0, 2]])
        return np.asarray(np.prod(erf(2.5 / widths), axis=1))


def diffracted_spots(
    lattice: Lattice, intensities: Intensities, beam: Beam, detector: Detector, point_spread: float
) -> Spots:
    """All spots of a lattice that reach a detector; `point_spread` is the detector's, in pixels."""
    hkl = _excited(
        intensities.dense, lattice.basis, beam.k, beam.k * beam.bandwidth, lattice.node_radius,
        lattice.mosaicity, 1 / intensities.d_min,
    )  # fmt: skip
    q = hkl @ lattice.basis.T
    ray, radial, azimuthal = _centroids(q, lattice, beam)
    on_panels = [_project(i, ray, radial, azimuthal, detector) for i in range(len(detector.panels))]
    index, panel, fs, ss, covariance = (np.concatenate(column) for column in zip(*on_panels, strict=True))
    covariance[:, [0, 2]] += point_spread**2
    recorded = partiality(q, lattice, beam)
    photons = intensities.of(hkl) * recorded * polarisation(ray)
    return Spots(hkl[index], panel, fs, ss, covariance, recorded[index], photons[index])


def excitation_error(q: NDArray[np.float64], k: float) -> NDArray[np.float64]:
    """ε = k − |q + kẑ| of nodes (n, 3), 1/Å, positive inside the Ewald sphere, (n,)."""
    return np.asarray(k - np.linalg.norm(q + np.array([0, 0, k]), axis=1))


def partiality(q: NDArray[np.float64], lattice: Lattice, beam: Beam) -> NDArray[np.float64]:
    """Share of the nodes at q (n, 3) that the exposure records, (n,).

    p = R₀/√(R² + σ_p²) · exp(−ε²/2(R² + σ_p²)) with σ_p = (1 − Ŝ_z)σ_k: the overlap of node and spectrum along the
    ray, 1 for an unbroadened node on the sphere in a monochromatic beam. A node that mosaicity widens keeps its
    content and becomes lower.
    """
    _, spread, variance = _spreads(q, lattice, beam)
    error = excitation_error(q, beam.k)
    total = variance + spread**2
    return np.asarray(lattice.node_radius / np.sqrt(total) * np.exp(-(error**2) / (2 * total)))


def _spreads(
    q: NDArray[np.float64], lattice: Lattice, beam: Beam
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Rays S = q + kẑ (n, 3), σ_p (n,) and R² (n,)."""
    scattered = q + np.array([0, 0, beam.k])
    cosine = scattered[:, 2] / np.linalg.norm(scattered, axis=1)
    spread = (1 - cosine) * beam.k * beam.bandwidth
    radius = lattice.node_radius + lattice.mosaicity * np.linalg.norm(q, axis=1)
    return scattered, spread, radius**2


def _centroids(
    q: NDArray[np.float64], lattice: Lattice, beam: Beam
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Directions in which the nodes are seen (n, 3), and the spread of these along and across 2θ as vectors (n, 3).

    Given that a node lies ε inside the sphere, the wavenumber that is most likely to have met it is
    κ = −ε(1 − Ŝ_z)σ_k²/(R² + σ_p²) off the mean, with variance σ_k²R²/(R² + σ_p²). It moves the ray along ẑ; the
    node itself spreads it by R in both directions.
    """
    scattered, spread, variance = _spreads(q, lattice, beam)
    unit = scattered / np.linalg.norm(scattered, axis=1)[:, None]
    sigma_k = beam.k * beam.bandwidth
    total = variance + spread**2
    kappa = -excitation_error(q, beam.k) * (1 - unit[:, 2]) * sigma_k**2 / total
    ray = scattered + kappa[:, None] * np.array([0, 0, 1])
    across = np.cross(np.array([0.0, 0.0, 1.0]), unit)
    sine = np.linalg.norm(across, axis=1)
    across /= sine[:, None]
    along = np.cross(across, unit)
    radial = np.sqrt(variance + sine**2 * sigma_k**2 * variance / total)
    return ray, along * radial[:, None], across * np.sqrt(variance)[:, None]


def _project(
    index: int,
    ray: NDArray[np.float64],
    radial: NDArray[np.float64],
    azimuthal: NDArray[np.float64],
    detector: Detector,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Which rays meet panel `index` (with a margin), the panel, fs, ss and covariances of their spots."""
    panel = detector.panels[index]
    inverse = np.linalg.inv(np.array([panel.corner, panel.fs, panel.ss]).T)
    v = ray @ inverse.T
    with np.errstate(divide="ignore", invalid="ignore"):
        f, s = v[:, 1] / v[:, 0], v[:, 2] / v[:, 0]
    near = (v[:, 0] > 0) & (f > -_MARGIN) & (f < panel.columns + _MARGIN)
    hit = np.flatnonzero(near & (s > -_MARGIN) & (s < panel.rows + _MARGIN))
    f, s, weight = f[hit], s[hit], v[hit, 0]
    covariance = np.zeros((len(hit), 3))
    for direction in (radial[hit], azimuthal[hit]):
        dv = direction @ inverse.T
        df, ds = (dv[:, 1] - f * dv[:, 0]) / weight, (dv[:, 2] - s * dv[:, 0]) / weight
        covariance += np.stack([df * df, df * ds, ds * ds], axis=1)
    return hit, np.full(len(hit), index), f + panel.column, s + panel.row, covariance


def _excited(
    dense: NDArray[np.float32],
    basis: NDArray[np.float64],
    k: float,
    sigma_k: float,
    node_radius: float,
    mosaicity: float,
    q_max: float,
) -> NDArray[np.int32]:
    """hkl, (n, 3), of all reflections present in `dense` that the exposure records."""
    count = _excited_reflections(
        dense, basis, k, sigma_k, node_radius, mosaicity, q_max, np.empty((0, 3), dtype=np.int32)
    )
    hkl = np.empty((count, 3), dtype=np.int32)
    _excited_reflections(dense, basis, k, sigma_k, node_radius, mosaicity, q_max, hkl)
    return hkl


@njit(cache=True, nogil=True)
def _excited_reflections(dense, basis, k, sigma_k, node_radius, mosaicity, q_max, hkl):  # type: ignore[no-untyped-def]
    """Write hkl with |ε| < 4√(R² + σ_p²), |q| < q_max and dense intensity > 0 into `hkl` (n, 3) while it has room.

    `dense` (2H+1, 2K+1, 2L+1); `basis` (3, 3), k, sigma_k, node_radius, q_max in 1/Å. Returns how many there are.
    """
    half_h, half_k, half_l = dense.shape[0] // 2, dense.shape[1] // 2, dense.shape[2] // 2
    found = 0
    for ih in range(dense.shape[0]):
        for ik in range(dense.shape[1]):
            h, kk = ih - half_h, ik - half_k
            x0 = basis[0, 0] * h + basis[0, 1] * kk
            y0 = basis[1, 0] * h + basis[1, 1] * kk
            z0 = basis[2, 0] * h + basis[2, 1] * kk
            for il in range(dense.shape[2]):
                l = il - half_l  # noqa: E741 -- the field's letter
                x, y, z = x0 + basis[0, 2] * l, y0 + basis[1, 2] * l, z0 + basis[2, 2] * l
                q2 = x * x + y * y + z * z
                # Cheap bound first: most nodes are far from the sphere.
                if q2 > q_max * q_max or abs(q2 + 2 * k * z) > 0.1 * k * k or dense[ih, ik, il] <= 0:
                    continue
                length = math.sqrt(x * x + y * y + (z + k) ** 2)
                radius = node_radius + mosaicity * math.sqrt(q2)
                spread = (1 - (z + k) / length) * sigma_k
                if (k - length) ** 2 < _NODE_WIDTHS**2 * (radius * radius + spread * spread):
                    if found < len(hkl):
                        hkl[found, 0], hkl[found, 1], hkl[found, 2] = h, kk, l
                    found += 1
    return found
