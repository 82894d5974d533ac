"""Peaks of any detector on one flat panel across the beam, which every program understands.

A peak is a direction; where its ray meets another plane is as good. So no program has to know panels, masks and files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfxlab.geometry import HC_EV_ANGSTROM
from sfxlab.indexing.indexer import Spots

STEEPEST = 0.1
"""Rays this close to the plane, or pointing away from it, are left out: the least cosine of the angle to the beam."""
SIGNIFICANT = 2
"""Digits of the distance: frames whose camera lengths differ a little share a plane."""


@dataclass(frozen=True)
class Plane:
    """A panel of square pixels at right angles to the beam, which goes through its middle."""

    distance: float
    """Metres."""
    pixel: float
    """Metres."""

    @staticmethod
    def of(spots: Spots) -> Plane:
        """One about as far away as the detector, with pixels of the same size."""
        corners = spots.detector.arrays.corner
        distance = max(float(np.mean(np.abs(corners[:, 2]))), 1e-3)
        return Plane(float(f"{distance:.{SIGNIFICANT - 1}e}"), spots.detector.panels[0].pixel_size)


@dataclass(frozen=True)
class PlaneSpots:
    """Peaks on a plane."""

    x: NDArray[np.float64]
    """Along the laboratory's x from the beam, pixels, (n,)."""
    y: NDArray[np.float64]
    """Along its y, pixels, (n,)."""
    intensity: NDArray[np.float64]
    """ADU, (n,)."""
    sigma: NDArray[np.float64]
    """ADU, (n,)."""
    wavelength: float
    """Å."""

    @property
    def reach(self) -> float:
        """The largest distance from the middle along x or y, pixels."""
        return float(max(np.abs(self.x).max(initial=0.0), np.abs(self.y).max(initial=0.0)))


def on_plane(spots: Spots, plane: Plane) -> PlaneSpots:
    """Where the rays of peaks meet the plane."""
    k = spots.photon_energy / HC_EV_ANGSTROM
    ray = spots.q + np.array([0.0, 0.0, k])
    ahead = ray[:, 2] > STEEPEST * np.linalg.norm(ray, axis=1)
    ray = ray[ahead]
    scale = plane.distance / plane.pixel / ray[:, 2]
    intensity = np.maximum(np.nan_to_num(spots.peaks.intensity[ahead].astype(np.float64)), 1e-3)
    sigma = np.nan_to_num(spots.peaks.sigma[ahead].astype(np.float64))
    sigma = np.where(sigma > 0, sigma, np.sqrt(intensity))
    return PlaneSpots(ray[:, 0] * scale, ray[:, 1] * scale, intensity, sigma, 1 / k)
