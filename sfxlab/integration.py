"""Pixels under the predictions into intensities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.diffraction import Prediction
from sfxlab.frames import Frame
from sfxlab.recipe import IntegrationRecipe

IMPLAUSIBLE = -5.0
"""Reflections below so many standard deviations are no measurement."""

_NO_MAP = np.empty((0, 0), dtype=np.float32)
_NO_MAP.flags.writeable = False


@dataclass(frozen=True)
class Reflections:
    """Integrated reflections of one crystal: a struct of arrays, each (n,)."""

    h: NDArray[np.int32]
    k: NDArray[np.int32]
    l: NDArray[np.int32]  # noqa: E741  the field's name for it
    intensity: NDArray[np.float32]
    """Sum above the background, ADU."""
    sigma: NDArray[np.float32]
    """Standard error of `intensity`, ADU."""
    partiality: NDArray[np.float32]
    """Share of the full intensity that the still records, 0 to 1, by the model of the recipe."""
    excitation_error: NDArray[np.float32]
    """Distance of the node from the Ewald sphere, 1/Å; positive inside."""
    peak: NDArray[np.float32]
    """Highest pixel above the background, ADU."""
    background: NDArray[np.float32]
    """Mean background, ADU per pixel."""
    panel: NDArray[np.int16]
    fs: NDArray[np.float32]
    """Predicted position, slab coordinates."""
    ss: NDArray[np.float32]
    resolution: NDArray[np.float32]
    """|q| = 1/d, 1/Å."""
    saturated: NDArray[np.bool_]
    """A pixel of the peak reached `max_adu` of its panel, or what the saturation map says of it."""

    def __len__(self) -> int:
        return len(self.h)

    def __getitem__(self, which: NDArray[np.integer] | NDArray[np.bool_] | slice) -> Reflections:
        return Reflections(*(getattr(self, f.name)[which] for f in fields(self)))

    @property
    def hkl(self) -> NDArray[np.int32]:
        """Indices as they were measured, not reduced by symmetry, (n, 3)."""
        return np.stack([self.h, self.k, self.l], axis=1)


def integrate(
    frame: Frame, predictions: Sequence[Prediction], recipe: IntegrationRecipe | None = None
) -> tuple[Reflections, ...]:
    """Sum the pixels under the predicted reflections of all crystals of a frame (METHODS.md section 6.1).

    The peak is the pixels within `peak_radius` of the pixel that the prediction falls in, the background the mean of a
    ring around it without the peaks of any neighbour. Left out: reflections with a bad pixel in the peak, without
    enough background, whose peak is another's too, and those more than 5σ below zero.
    """
    recipe = recipe or IntegrationRecipe()
    owner = _owners(frame, predictions, recipe.peak_radius)
    gain = frame.detector.arrays.gain(frame.detector, frame.photon_energy)
    saturation_map = _NO_MAP if frame.saturation_map is None else frame.saturation_map
    results = []
    for prediction in predictions:
        sums = sum_rings(
            frame.data, frame.bad, owner, prediction.panel, prediction.fs, prediction.ss,
            frame.detector.arrays.bounds, gain, frame.detector.arrays.max_adu, saturation_map,
            recipe.peak_radius, recipe.background_inner, recipe.background_outer,
        )  # fmt: skip
        results.append(_reflections(prediction, sums))
    return tuple(results)


def _owners(frame: Frame, predictions: Sequence[Prediction], radius: float) -> NDArray[np.uint8]:
    """How many reflections' peaks each pixel belongs to, over all crystals; the shape of the slab."""
    owner = np.zeros(frame.detector.shape, dtype=np.uint8)
    for prediction in predictions:
        mark_peaks(owner, prediction.panel, prediction.fs, prediction.ss, frame.detector.arrays.bounds, radius)
    return owner


def _reflections(prediction: Prediction, sums: NDArray[np.float32]) -> Reflections:
    intensity, sigma, peak, background, saturated = sums.T
    good = np.isfinite(sigma) & (sigma > 0) & (intensity >= IMPLAUSIBLE * sigma)
    return Reflections(
        h=prediction.hkl[good, 0],
        k=prediction.hkl[good, 1],
        l=prediction.hkl[good, 2],
        intensity=intensity[good],
        sigma=sigma[good],
        partiality=prediction.partiality[good].astype(np.float32),
        excitation_error=prediction.excitation_error[good].astype(np.float32),
        peak=peak[good],
        background=background[good],
        panel=prediction.panel[good],
        fs=prediction.fs[good].astype(np.float32),
        ss=prediction.ss[good].astype(np.float32),
        resolution=prediction.resolution[good].astype(np.float32),
        saturated=saturated[good] > 0,
    )


@njit(cache=True, nogil=True)
def mark_peaks(
    owner: NDArray[np.uint8],
    panel: NDArray[np.int16],
    fs: NDArray[np.float64],
    ss: NDArray[np.float64],
    bounds: NDArray[np.int64],
    radius: float,
) -> None:
    """Add one to each pixel of `owner` for each reflection whose peak it lies in."""
    reach = math.ceil(radius)
    for n in range(len(fs)):
        row0, row1, column0, column1 = bounds[panel[n]]
        row, column = math.floor(ss[n]), math.floor(fs[n])
        for i in range(max(row - reach, row0), min(row + reach + 1, row1)):
            for j in range(max(column - reach, column0), min(column + reach + 1, column1)):
                if (i - row) ** 2 + (j - column) ** 2 <= radius * radius and owner[i, j] < 255:
                    owner[i, j] += 1


@njit(cache=True, nogil=True)
def sum_rings(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    owner: NDArray[np.uint8],
    panel: NDArray[np.int16],
    fs: NDArray[np.float64],
    ss: NDArray[np.float64],
    bounds: NDArray[np.int64],
    gain: NDArray[np.float64],
    max_adu: NDArray[np.float64],
    saturation_map: NDArray[np.float32],
    peak_radius: float,
    inner: float,
    outer: float,
) -> NDArray[np.float32]:
    """Intensity, sigma, highest pixel, mean background (ADU) and saturation (0 or 1) of reflections at fs, ss, (n, 5).

    I = Σ(p − b) over the m pixels of the peak; σ² = g max(|I|, g) + m σ_b² (1 + m / n_b), with g ADU per photon and the
    n_b background pixels' mean b and variance σ_b². Rows without a result are NaN. `saturation_map` has the shape of
    `data`, or no pixels where only `max_adu` counts.
    """
    out = np.full((len(fs), 5), np.nan, dtype=np.float32)
    reach = math.ceil(outer)
    for n in range(len(fs)):
        row0, row1, column0, column1 = bounds[panel[n]]
        row, column = math.floor(ss[n]), math.floor(fs[n])
        n_ring, ring, squares = 0, 0.0, 0.0
        for i in range(max(row - reach, row0), min(row + reach + 1, row1)):
            for j in range(max(column - reach, column0), min(column + reach + 1, column1)):
                d2 = (i - row) ** 2 + (j - column) ** 2
                if inner * inner < d2 <= outer * outer and bad[i, j] == 0 and owner[i, j] == 0:
                    value = float(data[i, j])
                    n_ring += 1
                    ring += value
                    squares += value * value
        if n_ring < 10:
            continue
        mean = ring / n_ring
        variance = max(squares / n_ring - mean * mean, 0.0) * n_ring / (n_ring - 1)
        m, total, highest, saturated, complete = 0, 0.0, -np.inf, 0.0, True
        small = math.ceil(peak_radius)
        for i in range(row - small, row + small + 1):
            for j in range(column - small, column + small + 1):
                if (i - row) ** 2 + (j - column) ** 2 > peak_radius * peak_radius:
                    continue
                if not (row0 <= i < row1 and column0 <= j < column1) or bad[i, j] != 0:
                    complete = False
                    continue
                value = float(data[i, j])
                m += 1
                total += value - mean
                highest = max(highest, value - mean)
                if value >= max_adu[panel[n]] or (saturation_map.size and value >= saturation_map[i, j]):
                    saturated = 1.0
        # Where another's prediction falls into the middle of this peak, the two cannot be told apart.
        if not complete or owner[row, column] > 1:
            continue
        g = gain[panel[n]]
        out[n, 0] = total
        out[n, 1] = math.sqrt(g * max(abs(total), g) + m * variance * (1.0 + m / n_ring))
        out[n, 2] = highest
        out[n, 3] = mean
        out[n, 4] = saturated
    return out
