"""From a frame to its peaks."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.frames import Frame
from sfxlab.geometry import HC_EV_ANGSTROM
from sfxlab.peaks.peakfinder8 import peakfinder8
from sfxlab.peaks.peaks import Peaks
from sfxlab.peaks.search import search
from sfxlab.recipe import PeakRecipe, Recipe


def find_peaks(frame: Frame, recipe: Recipe | PeakRecipe | None = None) -> Peaks:
    """Find Bragg peaks above a background that depends on the radius (METHODS.md section 2.9).

    The strongest `max_peaks` peaks are returned, those of lowest resolution first.
    """
    wanted = recipe.peaks if isinstance(recipe, Recipe) else recipe or PeakRecipe()
    if wanted.method == "peakfinder8":
        found, significance, panel = peakfinder8(frame, wanted.peakfinder8)
    else:
        found, significance, panel = search(frame, wanted)
    a = frame.detector.arrays
    resolution = _resolution(found, panel, a.bounds, a.corner, a.fs, a.ss, frame.photon_energy / HC_EV_ANGSTROM)
    kept = np.flatnonzero(_wanted(found, panel, resolution, frame, wanted))
    if len(kept) > wanted.max_peaks:
        kept = kept[np.argsort(-significance[kept], kind="stable")[: wanted.max_peaks]]
    kept = kept[np.lexsort((-significance[kept], resolution[kept]))]
    columns = found[kept].T.astype(np.float32)
    return Peaks(
        panel=panel[kept].astype(np.int16),
        fs=columns[0],
        ss=columns[1],
        intensity=columns[2],
        sigma=columns[3],
        snr=significance[kept].astype(np.float32),
        resolution=resolution[kept],
        max_value=columns[4],
        n_pixels=columns[5].astype(np.int16),
    )


@njit(cache=True, nogil=True)
def _resolution(
    found: NDArray[np.float64],
    panel: NDArray[np.int64],
    bounds: NDArray[np.int64],
    corner: NDArray[np.float64],
    fs: NDArray[np.float64],
    ss: NDArray[np.float64],
    wavenumber: float,
) -> NDArray[np.float32]:
    """|q|, 1/Å, of the slab coordinates in the first two columns of `found`, as from `Detector.q` but sooner."""
    out = np.empty(len(found), dtype=np.float32)
    for i in range(len(found)):
        k = panel[i]
        right, down = found[i, 0] - bounds[k, 2], found[i, 1] - bounds[k, 0]
        x = corner[k, 0] + right * fs[k, 0] + down * ss[k, 0]
        y = corner[k, 1] + right * fs[k, 1] + down * ss[k, 1]
        z = corner[k, 2] + right * fs[k, 2] + down * ss[k, 2]
        distance = math.sqrt(x * x + y * y + z * z)
        out[i] = wavenumber * math.sqrt(x * x + y * y + (z - distance) ** 2) / distance
    return out


def _wanted(
    found: NDArray[np.float64],
    panel: NDArray[np.int64],
    resolution: NDArray[np.float32],
    frame: Frame,
    recipe: PeakRecipe,
) -> NDArray[np.bool_]:
    wanted = resolution >= recipe.min_resolution
    if recipe.max_resolution > 0:
        wanted &= resolution <= recipe.max_resolution
    if not recipe.use_saturated and recipe.method == "matched":
        wanted &= found[:, 6] == 0
    elif not recipe.use_saturated:
        wanted &= found[:, 4] < frame.detector.arrays.max_adu[panel]
        if frame.saturation_map is not None:
            radius = np.sqrt(found[:, 5] / np.pi) + 1
            wanted &= ~frame.saturated_near(panel, found[:, 0], found[:, 1], radius)
    return np.asarray(wanted)
