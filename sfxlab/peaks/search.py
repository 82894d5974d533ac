"""The steps of a peak search over a frame (METHODS.md sections 2.8 and 2.9)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.frames import Frame
from sfxlab.frames.pixel_types import compiled_pixels, read_only
from sfxlab.geometry import Detector
from sfxlab.peaks.background import backgrounds, pixel_thresholds
from sfxlab.peaks.candidates import find_tops
from sfxlab.peaks.lanes import LANES
from sfxlab.peaks.matched import filter_tops, spot_shapes
from sfxlab.peaks.measure import measure_tops
from sfxlab.peaks.pixel_bins import BinsOfDetectors, PixelBins
from sfxlab.recipe import PeakRecipe

_REMEMBERED = BinsOfDetectors()
_MOST_CANDIDATES = 0.03
"""More than this share of the pixels above the threshold, and the noise is not what it was taken for."""
_MAX_PIXEL_SNR = 30.0
"""Where the threshold stops rising on frames that are noise all over."""
_WHOLE_SPOT = 0.75
"""Of the significance asked for, what the plain sum of 3 × 3 pixels must have for a closer look."""
_LEAST_REST = 2.4
"""Significance that a spot has without its highest pixel, at least."""
_BINS_FOR_GAIN = 250
_GAIN_OF_SCATTER = 4.0
"""Median deviations that a photon gives at most, where the gain is not known; so little hides no noise."""
_SAME = 1e-5
"""Values that differ by less, relative to the largest one, are the same."""
_NO_MAP = np.empty(0, dtype=np.float32)


@dataclass(frozen=True)
class _Pixels:
    """What all kernels want of a frame."""

    data: NDArray[Any]
    bad: NDArray[np.uint8]
    look_at_bad: bool
    bins: PixelBins
    detector: Detector
    gain: NDArray[np.float64]

    @property
    def first(
        self,
    ) -> tuple[NDArray[Any], NDArray[np.uint8], bool, int, NDArray[np.uint16], NDArray[np.int64], NDArray[np.int64]]:
        """The first arguments of most kernels."""
        bins = self.bins
        return (
            self.data, self.bad, self.look_at_bad, bins.columns, bins.bin, bins.panel, self.detector.arrays.bounds
        )  # fmt: skip


@dataclass(frozen=True)
class _Noise:
    """The background of a frame in each bin, (n_bins,) each."""

    mean: NDArray[np.float32]
    """ADU; infinite where it is not known."""
    variance: NDArray[np.float32]
    """ADU²."""
    quantum: NDArray[np.float32]
    """Third cumulant over variance, ADU: what one count gives, as far as the noise is that of counting."""
    threshold: NDArray[Any]
    """Pixels above it may belong to a peak, ADU; of the type of the pixels."""

    @property
    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[Any]]:
        """As kernels want them."""
        return self.mean, self.variance, self.quantum, self.threshold


def search(frame: Frame, recipe: PeakRecipe) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Rows as `measure_tops` makes them, significance and panel of each."""
    pixels = _pixels(frame)
    least_z = _least_significance(recipe, frame)
    noise, tops, lonely = _tops(pixels, recipe, least_z)
    scores = np.empty((len(tops), 3))
    filter_tops(
        *pixels.first, pixels.bins.axes, pixels.gain, *noise.arrays, _shapes(), recipe.local_background_radius, least_z,
        tops, scores,
    )  # fmt: skip
    chosen = _choose(scores, lonely, least_z, recipe, len(pixels.data))
    tops, significance = tops[chosen], scores[chosen, 0]
    found = np.empty((len(tops), 7))
    limits = read_only(_NO_MAP if frame.saturation_map is None else frame.saturation_map.reshape(-1))
    measure_tops(
        *pixels.first, pixels.gain, frame.detector.arrays.max_adu, limits, noise.threshold,
        recipe.min_pixels, recipe.max_pixels, recipe.local_background_radius, tops, found,
    )  # fmt: skip
    kept = found[:, 5] > 0
    return found[kept], significance[kept], pixels.bins.panel[pixels.bins.bin[tops[kept]]]


def _pixels(frame: Frame) -> _Pixels:
    detector = frame.detector
    bins, masked = _REMEMBERED.find(detector, frame.bad)
    data = np.ascontiguousarray(compiled_pixels(frame.data)).reshape(-1)
    if len(data) < LANES:
        data = np.concatenate([data, np.zeros(LANES - len(data), dtype=data.dtype)])
    bad = read_only(np.ascontiguousarray(frame.bad).reshape(-1))
    gain = detector.arrays.gain(detector, frame.photon_energy)
    if data.dtype.kind == "f":
        unknown = [panel.adu_per_photon is None and panel.adu_per_ev is None for panel in detector.panels]
        if any(unknown):
            gain[unknown] = np.minimum(gain[unknown], _least_gain(data, bad, bins))
    return _Pixels(data, bad, not masked, bins, detector, gain)


def _least_gain(data: NDArray[Any], bad: NDArray[np.uint8], bins: PixelBins) -> float:
    """What a photon may give of the units of a frame, judged from its noise: unscaled floats may be tiny.

    A few times the scatter, or where most pixels are equal, the step between values.
    """
    some = bins.samples[:, :: max(1, bins.samples.shape[1] // _BINS_FOR_GAIN)]
    values = data[some].astype(np.float64)
    values[(some < 0) | (bad[some] != 0) | ~np.isfinite(values)] = np.nan
    values = values[:, np.isfinite(values).all(axis=0)]
    if values.size == 0:
        return math.inf
    scatter = float(np.median(np.abs(values - np.median(values, axis=0))))
    if scatter > 0:
        return _GAIN_OF_SCATTER * scatter
    steps = np.diff(np.unique(values))
    steps = steps[steps > _SAME * np.abs(values).max()]
    return float(steps.min(initial=math.inf))


def _tops(pixels: _Pixels, recipe: PeakRecipe, least_z: float) -> tuple[_Noise, NDArray[np.int32], NDArray[np.float32]]:
    """The background of a frame, possible tops of peaks, and lonely pixels."""
    bins, kind = pixels.bins, pixels.data.dtype
    most = int(_MOST_CANDIDATES * len(pixels.data)) + LANES
    tops, lonely = np.empty(most, dtype=np.int32), np.empty(most, dtype=np.float32)
    mean, variance, quantum = np.empty((3, len(bins.panel)), dtype=np.float32)
    noise = _Noise(mean, variance, quantum, np.empty(len(bins.panel), dtype=kind))
    z, wide = recipe.pixel_snr, False
    while True:
        backgrounds(*pixels.first[:3], bins.panel, bins.tiles, bins.samples, pixels.gain, wide, mean, variance, quantum)
        while True:
            pixel_thresholds(mean, variance, quantum, z, recipe.min_value or -math.inf, *_limits(kind), noise.threshold)
            n, n_tops, n_lonely = find_tops(
                *pixels.first, bins.start, bins.good, bins.whole, bins.first_bin, bins.last_bin, bins.level,
                *noise.arrays, _WHOLE_SPOT * least_z, tops, lonely,
            )  # fmt: skip
            if n <= most or (wide and z >= _MAX_PIXEL_SNR):
                return noise, tops[:n_tops], lonely[:n_lonely]
            if not wide:
                break
            z *= 1.25
        wide = True


def _limits(kind: np.dtype[Any]) -> tuple[float, float, bool]:
    """Least and largest threshold that a type of pixels can hold, and whether it is one of integers."""
    if kind.kind == "f":
        return -float(np.finfo(kind).max), math.inf, False
    limits = np.iinfo(kind)
    # Of integers of 64 bits, what a float holds without becoming larger.
    return float(limits.min), float(min(limits.max, 2**63 - 2**10)), True


def _least_significance(recipe: PeakRecipe, frame: Frame) -> float:
    """What is asked of a peak, so that few of the pixels of a frame have it by chance."""
    return max(recipe.min_snr, NormalDist().inv_cdf(1 - min(recipe.max_false_peaks / frame.data.size, 0.5)))


def _choose(
    scores: NDArray[np.float64], lonely: NDArray[np.float32], z: float, recipe: PeakRecipe, n_pixels: int
) -> NDArray[np.bool_]:
    """Which tops are peaks.

    A lonely pixel, hot or of noise with a heavy tail, is no spot: what surrounds it must be significant too, the more
    so the more such pixels there are. n of them touch in 4 n² / N pairs by chance among N pixels; where pairs are many,
    the second pixel must stand out as only few lonely ones do.
    """
    chosen = scores[:, 0] >= z
    alone = int(np.count_nonzero(chosen & (scores[:, 1] < _LEAST_REST)))
    chance = recipe.max_false_peaks / max(alone, 1)
    chosen &= scores[:, 1] >= max(_LEAST_REST, NormalDist().inv_cdf(1 - min(chance, 0.5)))
    few = int(math.sqrt(recipe.max_chance_pairs * n_pixels) / 2)
    if len(lonely) > few:
        limit = np.partition(lonely, len(lonely) - 1 - few)[len(lonely) - 1 - few]
        chosen &= scores[:, 2] > limit
    return np.asarray(chosen)


@lru_cache(maxsize=1)
def _shapes() -> NDArray[np.float64]:
    return spot_shapes()
