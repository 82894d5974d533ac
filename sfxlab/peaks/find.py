"""From a frame to its peaks, and whether it is a hit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sfxlab.frames import Frame
from sfxlab.peaks.peaks import Peaks
from sfxlab.peaks.radial import lonely_pixels, pixel_thresholds, radial_background, search_panel
from sfxlab.recipe import HitRecipe, PeakRecipe, Recipe

MAX_PIXEL_SNR = 30.0
"""Where the threshold stops rising on frames that are noise all over."""


def find_peaks(frame: Frame, recipe: Recipe | PeakRecipe | None = None) -> Peaks:
    """Find Bragg peaks above a background that depends on the radius (METHODS.md sections 2.1 and 2.9).

    The strongest `max_peaks` peaks are returned, those of lowest resolution first.
    """
    wanted = recipe.peaks if isinstance(recipe, Recipe) else recipe or PeakRecipe()
    found = _search(frame, wanted)
    detector = frame.detector
    fs, ss = found[:, 0], found[:, 1]
    panel = detector.panel_of(fs, ss)
    on_panel = panel >= 0
    found, panel, fs, ss = found[on_panel], panel[on_panel], fs[on_panel], ss[on_panel]
    q = detector.q(panel, fs, ss, frame.photon_energy)
    peaks = Peaks(
        panel=panel,
        fs=fs.astype(np.float32),
        ss=ss.astype(np.float32),
        intensity=found[:, 2].astype(np.float32),
        sigma=found[:, 3].astype(np.float32),
        snr=found[:, 4].astype(np.float32),
        resolution=np.linalg.norm(q, axis=1).astype(np.float32),
        max_value=found[:, 5].astype(np.float32),
        n_pixels=found[:, 6].astype(np.int16),
    )
    peaks = peaks[_wanted(peaks, frame, wanted)]
    strongest = np.argsort(-peaks.snr, kind="stable")[: wanted.max_peaks]
    return peaks[strongest[np.argsort(peaks.resolution[strongest], kind="stable")]]


def is_hit(peaks: Peaks, recipe: Recipe | HitRecipe | None = None) -> bool:
    """Whether a frame with these peaks is a hit."""
    wanted = recipe.hits if isinstance(recipe, Recipe) else recipe or HitRecipe()
    return len(peaks) >= wanted.min_peaks


def _search(frame: Frame, recipe: PeakRecipe) -> NDArray[np.float64]:
    """Rows as `search_panel` makes them, over all panels."""
    detector = frame.detector
    gain = detector.arrays.gain(detector, frame.photon_energy)
    thresholds = _thresholds(frame, recipe, gain)
    claimed = np.zeros(detector.shape, dtype=np.uint8)
    # Blank frames have few candidates; the room for a crowded one grows with the detector.
    found = np.empty((max(4 * recipe.max_peaks, frame.data.size // 200), 7))
    n_found = 0
    for bounds, threshold, adu_per_photon in zip(detector.arrays.bounds, thresholds, gain, strict=True):
        n_found = search_panel(
            frame.data, frame.bad, detector.radius, threshold, bounds, adu_per_photon,
            recipe.min_pixels, recipe.max_pixels, recipe.min_snr, recipe.local_background_radius,
            claimed, found, n_found,
        )  # fmt: skip
    return found[:n_found]


def _thresholds(frame: Frame, recipe: PeakRecipe, gain: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least value of a peak's pixels for each panel and radius, (n_panels, n_radii), ADU.

    Few detectors have normal noise. Pixels that stand alone above the threshold are noise, and tell how often two noise
    pixels touch by chance: 4 n² / N times for n of N. The threshold rises until that is rare.
    """
    detector = frame.detector
    mean, sigma = radial_background(frame.data, frame.bad, detector.radius, recipe.pixel_snr)
    z = recipe.pixel_snr
    while True:
        thresholds = np.stack([pixel_thresholds(mean, sigma, g, z, recipe.min_value) for g in gain])
        counts = [
            lonely_pixels(frame.data, frame.bad, detector.radius, threshold, bounds)
            for threshold, bounds in zip(thresholds, detector.arrays.bounds, strict=True)
        ]
        lonely, good = (sum(count) for count in zip(*counts, strict=True))
        if 4 * lonely**2 <= recipe.max_chance_pairs * good or z >= MAX_PIXEL_SNR:
            return thresholds
        z += 0.5


def _wanted(peaks: Peaks, frame: Frame, recipe: PeakRecipe) -> NDArray[np.bool_]:
    wanted = peaks.resolution >= recipe.min_resolution
    if recipe.max_resolution > 0:
        wanted &= peaks.resolution <= recipe.max_resolution
    if not recipe.use_saturated:
        wanted &= peaks.max_value < frame.detector.arrays.max_adu[peaks.panel]
    return np.asarray(wanted)
