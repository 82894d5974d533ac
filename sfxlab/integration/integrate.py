"""The reflections of a frame's crystals from its pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfxlab.diffraction import Prediction
from sfxlab.frames import Frame
from sfxlab.frames.pixel_types import read_only
from sfxlab.integration.boxes import backgrounds, cut_boxes, find_neighbours
from sfxlab.integration.extraction import directions_away, fit_profiles, sum_peaks
from sfxlab.integration.reflections import Reflections
from sfxlab.peaks import Peaks
from sfxlab.recipe import IntegrationRecipe

IMPLAUSIBLE = -5.0
"""Reflections below so many standard deviations are no measurement."""
MOST_MISFIT = 4.0
"""A profile with a larger χ² per pixel does not fit; the sum counts."""

_NEIGHBOURS = 30
"""Reflections of lower, and of higher resolution, whose sums say what to expect of a reflection."""

_NO_MAP = np.empty((0, 0), dtype=np.float32)
_NO_MAP.flags.writeable = False


@dataclass(frozen=True)
class Measured:
    """What the pixels say of the predictions of a frame, all crystals one after the other."""

    panel: NDArray[np.int16]
    fs: NDArray[np.float64]
    """Where the spots are taken to be: the predictions with the offsets of their panels, (n,)."""
    ss: NDArray[np.float64]
    boxes: NDArray[np.float32]
    """Pixels around each, ADU, NaN where bad, (n, side, side)."""
    saturated: NDArray[np.bool_]
    gain: NDArray[np.float64]
    """ADU per photon, (n,)."""
    background: NDArray[np.float64]
    """Level and variance (ADU) and number of pixels, (n, 3)."""
    sums: NDArray[np.float64]
    """Intensity, standard error and highest pixel, (n, 3)."""
    fits: NDArray[np.float64]
    """Intensity, standard error and χ² per pixel, (n, 3)."""
    nearest: NDArray[np.float64]
    """Distance to the nearest other spot whose peak touches the background or peak of each, pixels; infinite: none."""


def integrate(
    frame: Frame,
    predictions: Sequence[Prediction],
    recipe: IntegrationRecipe | None = None,
    peaks: Peaks | None = None,
) -> tuple[Reflections, ...]:
    """Integrate the predicted reflections of all crystals of a frame (METHODS.md sections 6.1 and 6.2).

    The peak is the pixels within `peak_radius` of the pixel that the prediction falls in, the background a robust mean
    of a ring around it without the peaks of other predictions and of `peaks` that no prediction explains. Both are
    summed, and fitted with the profiles that the frame carries. The fit is the better one for weak and overlapping
    spots, the sum for strong ones, whose profile is not known as well as they are counted, and for saturated ones and
    those that the profile does not fit; `intensity` is the one with the smaller standard error, and the fit where
    another peak overlaps. Frames without profiles are summed only.

    Left out: reflections that neither way can measure, and those more than 5σ below zero.
    """
    recipe = recipe or IntegrationRecipe()
    measured = measure(frame, predictions, recipe, peaks)
    ends = np.cumsum([len(prediction) for prediction in predictions])
    return tuple(
        _reflections(prediction, measured, slice(end - len(prediction), end), recipe.peak_radius)
        for prediction, end in zip(predictions, ends, strict=True)
    )


def measure(
    frame: Frame, predictions: Sequence[Prediction], recipe: IntegrationRecipe, peaks: Peaks | None = None
) -> Measured:
    """Boxes, backgrounds, sums and fits of all predictions of a frame, one crystal after the other."""
    arrays, profiles = frame.detector.arrays, frame.profiles if recipe.fit_profiles else None
    panel, fs, ss, resolution = (
        np.concatenate([getattr(prediction, name) for prediction in predictions])
        for name in ("panel", "fs", "ss", "resolution")
    )
    if profiles is not None:
        fs, ss = fs + profiles.offsets[panel, 0], ss + profiles.offsets[panel, 1]
    n, radius = len(fs), recipe.peak_radius
    reach = math.ceil(recipe.background_outer)
    saturation_map = _NO_MAP if frame.saturation_map is None else frame.saturation_map
    boxes, saturated = cut_boxes(
        frame.data, read_only(frame.bad), panel, fs, ss, arrays.bounds, arrays.max_adu, read_only(saturation_map),
        radius, reach,
    )  # fmt: skip
    gain = arrays.gain(frame.detector, frame.photon_energy)[panel]
    near = recipe.background_outer + radius + 1.5
    if peaks is not None:
        # Whatever is at a prediction is the prediction's own.
        panel, fs, ss = (
            np.concatenate([mine, getattr(peaks, name)]).astype(mine.dtype)
            for name, mine in (("panel", panel), ("fs", fs), ("ss", ss))
        )
    first, neighbours = find_neighbours(panel, fs, ss, n, near)
    if peaks is not None:
        first, neighbours = _without_own_peaks(first, neighbours, fs, ss, radius + 1)
    nearest, some = np.full(n, np.inf), np.flatnonzero(np.diff(first))
    nearest[some] = np.hypot(fs[neighbours[first[some]]] - fs[some], ss[neighbours[first[some]]] - ss[some])
    rings = (radius, recipe.background_inner, recipe.background_outer)
    background = backgrounds(boxes, fs, ss, gain, first, neighbours, *rings)
    sums = sum_peaks(boxes, fs, ss, gain, background, first, neighbours, radius)
    fits = np.full((n, 3), np.nan)
    if profiles is not None:
        zone = np.interp(resolution, profiles.resolution, np.arange(len(profiles.resolution)))
        zone = np.append(zone, np.full(len(fs) - n, zone.mean() if n else 0.0))
        fits = fit_profiles(
            boxes, fs, ss, away_from_beam(frame, panel, fs, ss), zone, _expected(predictions, sums[:, 0]), gain,
            background, first, neighbours, profiles.tables, profiles.step, radius,
        )  # fmt: skip
        misfit = np.interp(resolution, profiles.resolution, profiles.misfit)
        fits[:, 1] = np.hypot(fits[:, 1], misfit * fits[:, 0])
    return Measured(panel[:n], fs[:n], ss[:n], boxes, saturated, gain, background, sums, fits, nearest)


def _expected(predictions: Sequence[Prediction], sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each reflection gives on average, by the sums of reflections of similar resolution of its crystal, (n,)."""
    out, begin = np.zeros(len(sums)), 0
    for prediction in predictions:
        rows = slice(begin, begin := begin + len(prediction))
        order = np.argsort(prediction.resolution, kind="stable")
        mine = sums[rows][order]
        known = np.isfinite(mine)
        share = prediction.partiality[order]
        totals = [np.concatenate([[0.0], np.cumsum(np.where(known, column, 0.0))]) for column in (mine, share)]
        low = np.maximum(np.arange(len(order)) - _NEIGHBOURS, 0)
        high = np.minimum(np.arange(len(order)) + _NEIGHBOURS + 1, len(order))
        intensity, excited = (total[high] - total[low] for total in totals)
        out[begin - len(prediction) + order] = share * np.maximum(intensity, 0.0) / np.maximum(excited, 1e-3)
    return out


def away_from_beam(
    frame: Frame, panel: NDArray[np.int16], fs: NDArray[np.float64], ss: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Unit vectors along fs and ss that point away from the beam at positions on panels, (n, 2)."""
    a = frame.detector.arrays
    return directions_away(panel, fs, ss, a.bounds, a.corner, a.fs, a.ss)


def _without_own_peaks(
    first: NDArray[np.int64],
    neighbours: NDArray[np.int64],
    fs: NDArray[np.float64],
    ss: NDArray[np.float64],
    distance: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Neighbours without the peaks that lie nearer than `distance` to a prediction, as in `find_neighbours`."""
    n = len(first) - 1
    spot = np.repeat(np.arange(n), np.diff(first))
    near = np.hypot(fs[neighbours] - fs[spot], ss[neighbours] - ss[spot]) < distance
    explained = np.unique(neighbours[near & (neighbours >= n)])
    kept = (neighbours < n) | ~np.isin(neighbours, explained)
    return np.concatenate([[0], np.cumsum(np.bincount(spot[kept], minlength=n))]), neighbours[kept]


def _reflections(prediction: Prediction, measured: Measured, rows: slice, radius: float) -> Reflections:
    """The reflections of one crystal, whose predictions are these rows."""
    saturated = measured.saturated[rows]
    total, total_sigma, peak = measured.sums[rows].T
    fitted, fitted_sigma, misfit = (column.copy() for column in measured.fits[rows].T)
    fits = misfit <= MOST_MISFIT
    fitted[~fits], fitted_sigma[~fits] = np.nan, np.nan
    crowded = measured.nearest[rows] < 2 * radius
    by_fit = fits & ~saturated & (crowded | ~(total_sigma <= fitted_sigma))
    intensity, sigma = np.where(by_fit, fitted, total), np.where(by_fit, fitted_sigma, total_sigma)
    good = np.isfinite(intensity) & (sigma > 0)
    good[good] &= intensity[good] >= IMPLAUSIBLE * sigma[good]

    def kept(column: NDArray[np.float64]) -> NDArray[np.float32]:
        return np.asarray(column[good], dtype=np.float32)

    return Reflections(
        h=prediction.hkl[good, 0],
        k=prediction.hkl[good, 1],
        l=prediction.hkl[good, 2],
        intensity=kept(intensity),
        sigma=kept(sigma),
        intensity_sum=kept(total),
        sigma_sum=kept(total_sigma),
        intensity_profile=kept(fitted),
        sigma_profile=kept(fitted_sigma),
        partiality=kept(prediction.partiality),
        excitation_error=kept(prediction.excitation_error),
        peak=kept(peak),
        background=kept(measured.background[rows, 0]),
        panel=prediction.panel[good],
        fs=kept(prediction.fs),
        ss=kept(prediction.ss),
        resolution=kept(prediction.resolution),
        saturated=saturated[good],
    )
