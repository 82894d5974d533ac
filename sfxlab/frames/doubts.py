"""What looks wrong about frames that can be read: guesses, each a sentence for the user."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from sfxlab.frames.frame import Frame
from sfxlab.geometry import Detector

_PHOTON_ENERGIES = 1e3, 1e5
_CAMERA_LENGTHS = 0.01, 10.0
_PIXEL_SIZES = 5e-6, 1e-3
_LARGEST_SPREAD = 0.05
_LEAST_COVERED = 0.8
_MOST_MASKED = 0.5


def doubts_about_pixels(frames: Sequence[Frame]) -> Iterator[str]:
    """Of the first frames: all zeros or all the same where they are not bad, nearly everything masked."""
    good = [frame.data[frame.bad == 0] for frame in frames]
    if good and all(values.size and (values == values[0]).all() for values in good):
        found = ", ".join(sorted({str(values[0]) for values in good}))
        yield (
            f"all good pixels of the first {len(good)} frames are {found}: was the detector on, and is 'data' the "
            "right HDF5 path?"
        )
    bad = [float(np.mean(frame.bad[frame.detector.panel_map >= 0] != 0)) for frame in frames]
    if bad and min(bad) > _MOST_MASKED:
        yield (
            f"{min(bad):.0%} of the panels are masked: are mask…_goodbits, mask…_badbits and the flags those of this "
            "mask?"
        )


def doubts_about_energies(energies: Sequence[float], electrons: bool) -> Iterator[str]:
    """Photon energies, eV, NaN where missing, of X-rays or `electrons`: missing, absurd, or spread too far."""
    known = [energy for energy in energies if math.isfinite(energy) and energy > 0]
    if len(known) < len(energies):
        yield f"{len(energies) - len(known)} of {len(energies)} frames have no photon energy; they will fail"
    least, most = _PHOTON_ENERGIES
    if known and not electrons and not (min(known) >= least and max(known) <= most):
        yield (
            f"a photon energy of {min(known):.6g} to {max(known):.6g} eV is not that of diffraction from crystals: is "
            "the unit of photon_energy or wavelength right?"
        )
    if known and max(known) - min(known) > _LARGEST_SPREAD * max(known):
        yield f"the photon energy changes between frames, from {min(known):.6g} to {max(known):.6g} eV"


def doubts_about_detector(detector: Detector) -> Iterator[str]:
    """A distance or pixels of a size that no detector has, and a beam far beside it."""
    least, most = _CAMERA_LENGTHS
    if not least <= detector.camera_length <= most:
        yield f"a camera length of {1e3 * detector.camera_length:.6g} mm is unusual: is the unit of clen right?"
    sizes = [math.hypot(*step) for panel in detector.panels for step in (panel.fs, panel.ss)]
    least, most = _PIXEL_SIZES
    if not (min(sizes) >= least and max(sizes) <= most):
        yield (
            f"pixels of {1e6 * min(sizes):.6g} to {1e6 * max(sizes):.6g} µm are unusual: is res the number of pixels "
            "per metre, and are fs and ss about 1 long?"
        )
    x, y = (values[np.isfinite(values)] for values in detector.xy)
    nearest = float(np.sqrt((x.astype(np.float64) ** 2 + y.astype(np.float64) ** 2).min()))
    extent = float(max(np.ptp(x), np.ptp(y)))
    if nearest > extent:
        yield (
            f"the beam passes the detector {1e3 * nearest:.6g} mm away, which is {1e3 * extent:.6g} mm wide: are "
            "corner_x and corner_y in pixels?"
        )


def doubts_about_coverage(place: str, stored: tuple[int, int], panel_pixels: int) -> Iterator[str]:
    """A data array of which the panels take only a part; `stored` is its (rows, columns)."""
    rows, columns = stored
    covered = panel_pixels / (rows * columns)
    if covered < _LEAST_COVERED:
        yield (
            f"the panels take only {covered:.0%} of the {rows} × {columns} pixels at {place}: is this the geometry of "
            "this detector?"
        )
