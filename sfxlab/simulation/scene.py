"""One exposure: which crystals are in the beam, what they should show, and what the detector counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from sfxlab.crystal import UnitCell, symmetrise
from sfxlab.simulation.background import Background
from sfxlab.simulation.drawing import TruePeaks, draw, find_true_peaks
from sfxlab.simulation.instrument import Instrument
from sfxlab.simulation.spots import Beam, Lattice, Spots, diffracted_spots
from sfxlab.simulation.structure_factors import Intensities

Kind = Literal["single", "weak", "double", "blank", "blank_strong_background", "blank_ice_rings"]

USUAL_MIX: Mapping[Kind, float] = MappingProxyType(
    {
        "single": 0.55,
        "weak": 0.12,
        "double": 0.08,
        "blank": 0.17,
        "blank_strong_background": 0.05,
        "blank_ice_rings": 0.03,
    }
)
"""Kinds of frame and their usual shares."""

_SPOT_PHOTONS = 40.0
"""What the k-th strongest spot of a crystal carries in 5 × 5 pixels."""
_WIDTH_OF_A_BLOCK = 0.886 / 2.3548
"""Standard deviation of the Gaussian as wide at half height as the interference function of a block of length 1."""


@dataclass(frozen=True)
class Sample:
    """What flows through the beam."""

    cell: UnitCell
    intensities: Intensities
    cell_spread: float
    """Standard deviation of the crystals' axes, relative; angles vary by as much, in radians."""
    mosaicity: float
    """Growth of the node radius with |q|."""


@dataclass(frozen=True)
class TrueCrystal:
    """A simulated crystal."""

    cell: UnitCell
    lattice: Lattice
    quaternion: tuple[float, float, float, float]
    """w, x, y, z of the rotation from the PDB convention's orientation into the laboratory."""
    n_cells: tuple[int, int, int]
    """Unit cells along a, b and c."""
    scale: float
    """Photons per unit of intensity of a fully recorded reflection."""
    spots: Spots


@dataclass(frozen=True)
class Exposure:
    """A simulated frame with its truth."""

    kind: Kind
    data: NDArray[Any]
    """(slow, fast), as the detector records it."""
    beam: Beam
    crystals: tuple[TrueCrystal, ...]
    peaks: TruePeaks
    background_at_peaks: NDArray[np.float64]
    """Expected photons per pixel, (n_peaks,)."""
    mean_background: float
    """Expected photons per good pixel."""


def expose(
    kind: Kind,
    sample: Sample,
    instrument: Instrument,
    background: Background,
    beam: Beam,
    point_spread: float,
    rng: np.random.Generator,
) -> Exposure:
    """Simulate one frame; `beam` holds the mean photon energy, `point_spread` is in pixels."""
    # Shot-to-shot jitter of the photon energy, half a part in a thousand.
    beam = Beam(beam.photon_energy * (1 + 5e-4 * rng.standard_normal()), beam.bandwidth)
    crystals = tuple(
        _grow(kind, sample, instrument, beam, point_spread, rng)
        for _ in range({"single": 1, "weak": 1, "double": 2}.get(kind, 0))
    )
    scattering = _scattering(kind, background, rng)
    bragg = np.zeros(instrument.detector.shape)
    for crystal in crystals:
        draw(bragg, crystal.spots, crystal.scale, instrument.detector)
    bragg *= instrument.transmission
    peaks = find_true_peaks(bragg, instrument.detector)
    return Exposure(
        kind,
        _record(bragg + scattering, instrument, rng),
        beam,
        crystals,
        peaks,
        scattering[peaks.row, peaks.column].astype(np.float64),
        float(scattering[instrument.mask == 0].mean(dtype=np.float64)),
    )


def _grow(
    kind: Kind,
    sample: Sample,
    instrument: Instrument,
    beam: Beam,
    point_spread: float,
    rng: np.random.Generator,
) -> TrueCrystal:
    cell = _individual_cell(sample, rng)
    rotation = Rotation.random(None, rng)
    # Nano-crystals: 8 to 14 unit cells along the longest axis, about as long along the others.
    length = rng.uniform(8, 14) * max(cell.lengths)
    lattice = Lattice(rotation.as_matrix() @ cell.reciprocal_basis, _WIDTH_OF_A_BLOCK / length, sample.mosaicity)
    spots = diffracted_spots(lattice, sample.intensities, beam, instrument.detector, point_spread)
    x, y, z, w = (float(v) for v in rotation.as_quat())
    n_a, n_b, n_c = (max(1, round(length / axis)) for axis in cell.lengths)
    scale = _scale(kind, spots, rng)
    return TrueCrystal(cell, lattice, (w, x, y, z), (n_a, n_b, n_c), scale, spots)


def _individual_cell(sample: Sample, rng: np.random.Generator) -> UnitCell:
    """The cell of one crystal: no two are quite the same, but all have the symmetry of their lattice."""
    parameters = np.array(sample.cell.parameters)
    deviation = sample.cell_spread * rng.standard_normal(6)
    parameters[:3] *= 1 + deviation[:3]
    parameters[3:] += np.degrees(deviation[3:])
    return sample.cell.with_parameters(symmetrise(parameters, sample.cell))


def _scale(kind: Kind, spots: Spots, rng: np.random.Generator) -> float:
    """Photons per unit of intensity that give the k-th strongest spot 40 photons, k drawn log-uniformly."""
    fewest, most = (6, 15) if kind == "weak" else (16, 200)
    k = round(float(np.exp(rng.uniform(np.log(fewest), np.log(most)))))
    strengths = np.sort(spots.photons * spots.fraction_in_5x5())[::-1]
    # A small cell has fewer spots on a frame than k; then a third of them are strong.
    k = min(k, len(strengths) // 3 + 1)
    if k > len(strengths) or strengths[k - 1] <= 0:
        return 0.0
    return float(_SPOT_PHOTONS / strengths[k - 1])


def _scattering(kind: Kind, background: Background, rng: np.random.Generator) -> NDArray[np.float32]:
    level = 0.95 * np.exp(0.32 * rng.standard_normal())
    water = np.exp(0.25 * rng.standard_normal())
    if kind == "blank_strong_background":
        level *= rng.uniform(2, 3.5)
        water = rng.uniform(0.5, 2.0)
    scattering = np.float32(level) * (background.diffuse + np.float32(water) * background.rings)
    if kind == "blank_ice_rings":
        scattering += np.float32(level * rng.uniform(2, 6)) * background.ice
    return np.asarray(scattering)


def _record(expected: NDArray[np.float64], instrument: Instrument, rng: np.random.Generator) -> NDArray[Any]:
    """Counting noise, readout noise, saturation, hot and dead pixels."""
    counts = rng.poisson(expected).astype(np.float32)
    counts.flat[instrument.hot] += rng.poisson(instrument.hot_mean)
    if instrument.readout_noise:
        counts += instrument.readout_noise * rng.standard_normal(counts.shape, dtype=np.float32)
    counts *= instrument.gain
    counts = np.minimum(counts, instrument.saturation, dtype=np.float32)
    counts.flat[instrument.dead] = 0
    data = counts.astype(instrument.dtype)
    missing = instrument.detector.panel_map < 0
    if missing.any():
        data[missing] = np.iinfo(np.uint16).max if instrument.dtype is np.uint16 else np.nan
    return data
