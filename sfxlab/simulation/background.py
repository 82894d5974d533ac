"""What is on every frame beside Bragg spots: scattering from the jet, water and ice, and its polarisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfxlab.geometry import Detector
from sfxlab.simulation.instrument import Instrument

_ICE_RINGS = {
    3.90: 1.0, 3.67: 0.55, 3.44: 0.8, 2.67: 0.2, 2.25: 0.5, 2.07: 0.4, 1.95: 0.06, 1.92: 0.35,
    1.88: 0.05, 1.72: 0.08, 1.52: 0.12, 1.47: 0.04, 1.44: 0.04, 1.37: 0.1,
}  # fmt: skip
"""Spacings in Å (METHODS.md section 3) and relative heights of hexagonal ice."""
_ICE_RING_WIDTH = 0.0012
"""Standard deviation, 1/Å."""


@dataclass(frozen=True)
class Background:
    """The parts of the background, each (slow, fast), relative to a mean of `diffuse + rings` of 1."""

    diffuse: NDArray[np.float32]
    """Small-angle and smooth scattering."""
    rings: NDArray[np.float32]
    """Water: a ring at 3.3 Å and a weaker one at 2.1 Å."""
    ice: NDArray[np.float32]
    """Sharp powder rings of hexagonal ice, the strongest about as high as `diffuse + rings`."""


def polarisation(ray: NDArray[np.floating]) -> NDArray[np.floating]:
    """Polarisation factor 1 − (x/R)² of a fully horizontally polarised beam for rays (n, 3), (n,)."""
    return np.asarray(1 - ray[:, 0] ** 2 / np.sum(ray**2, axis=1))


def build_background(instrument: Instrument, photon_energy: float) -> Background:
    """Background of an instrument at a photon energy in eV, with solid angle, polarisation and beam stop."""
    detector = instrument.detector
    q = np.nan_to_num(detector.resolution_map(photon_energy), nan=10.0)
    factor = _solid_angle_and_polarisation(detector) * instrument.transmission
    diffuse = 3.5 * np.exp(-q / 0.07) + 0.8 * np.exp(-((q / 0.55) ** 2))
    rings = _gaussian(q, 1 / 3.3, 0.045) + 0.25 * _gaussian(q, 1 / 2.1, 0.05)
    ice = np.zeros_like(q)
    for spacing, height in _ICE_RINGS.items():
        ice += height * _gaussian(q, 1 / spacing, _ICE_RING_WIDTH)
    norm = factor / np.mean(((diffuse + rings) * factor)[instrument.mask == 0])
    return Background(
        (diffuse * norm).astype(np.float32), (rings * norm).astype(np.float32), (ice * norm).astype(np.float32)
    )


def _gaussian(q: NDArray[np.floating], centre: float, width: float) -> NDArray[np.floating]:
    return np.asarray(np.exp(-0.5 * ((q - centre) / width) ** 2))


def _solid_angle_and_polarisation(detector: Detector) -> NDArray[np.float64]:
    factor = np.zeros(detector.shape)
    for panel in detector.panels:
        fs, ss = np.array(panel.fs), np.array(panel.ss)
        columns, rows = np.meshgrid(np.arange(panel.columns) + 0.5, np.arange(panel.rows) + 0.5)
        ray = (np.array(panel.corner) + columns[..., None] * fs + rows[..., None] * ss).reshape(-1, 3)
        solid_angle = np.abs(ray @ np.cross(fs, ss)) / np.linalg.norm(ray, axis=1) ** 3
        window = np.s_[panel.row : panel.row + panel.rows, panel.column : panel.column + panel.columns]
        factor[window] = (solid_angle * polarisation(ray)).reshape(panel.rows, panel.columns)
    return factor
