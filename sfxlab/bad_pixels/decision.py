"""Which pixels are bad, from what they did.

Each test has its chance of error over all pixels of the detector together (Bonferroni). What good pixels do is not
assumed but taken from the pixels of the same radius and of the neighbourhood, so that diffraction, powder rings and
streaks raise what is asked of a bad pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, label, uniform_filter
from scipy.stats import binom, gamma

from sfxlab.bad_pixels.learned import DEAD, HOT, KINDS, NOISY, SHADOWED, LearnedMask
from sfxlab.bad_pixels.neighbourhood import surroundings
from sfxlab.bad_pixels.shadows import find_shadows, median_by
from sfxlab.bad_pixels.tally import PixelTally
from sfxlab.geometry import Detector
from sfxlab.recipe import BadPixelRecipe

_EIGHT = np.ones((3, 3), dtype=np.int8)
_BOX = 11
"""Side of the neighbourhood of a pixel."""
_RADII = 2
"""Radii on both sides of its own that a pixel is compared with."""
_PARTS_AT_LEAST = 0.25
"""Of the run's parts in which a hot pixel has to stand out: crystals that are exposed again and again do so in few."""
_NEARLY_ALWAYS = 0.9
_LARGEST_SPOT = 60
"""Pixels."""
_SPOTS_OF_A_CRYSTAL = 10
_ROUNDS = 3
_NOISE_FACTOR = 4.0
"""Times the usual squared deviation: a pixel that is twice as noisy counts as a quarter of a pixel at best."""
_ZONES = 32
_HIGH = 0.995
"""The quantile that the upper tail is judged from."""


def find_bad_pixels(tally: PixelTally | None, recipe: BadPixelRecipe) -> LearnedMask | None:
    """The mask that a tally speaks for; None where it is of too few frames to say anything."""
    if tally is None or tally.frames < recipe.min_frames:
        return None
    seen = tally.seen.astype(np.uint16)
    level = recipe.chance / max(int(np.count_nonzero(seen)), 1)
    kinds = np.zeros(seen.shape, dtype=np.uint8)
    excess = _excess(tally)
    hot, spots = _hot(tally, excess, level)
    kinds[hot] = HOT
    kinds[_dead(tally, level) & (kinds == 0)] = DEAD
    kinds[find_shadows(tally, kinds != 0) & (kinds == 0)] = SHADOWED
    kinds[_noisy(tally, excess, (kinds != 0) | binary_dilation(spots, np.ones((5, 5))), level) & (kinds == 0)] = NOISY
    kinds[(seen == 0)] = 0
    remarks = []
    if n_spots := int(label(spots, _EIGHT)[1]):
        remarks.append(f"{n_spots} spots came back again and again, as those of one crystal would; they are not masked")
    wanted = sum(bit for kind, bit in KINDS.items() if getattr(recipe, kind))
    return LearnedMask(kinds & np.uint8(wanted), seen, tally.stood_out.astype(np.uint16), tally.frames, tuple(remarks))


def usual_rate(
    counts: NDArray[np.unsignedinteger], trials: NDArray[np.unsignedinteger], detector: Detector
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How often something happens to the pixels about each radius, (n_radii,), and to those around each pixel.

    The neighbourhood is a square of the pixel's own panel without its innermost 3 × 3 pixels. One event more than was
    seen is taken, so that rates of what never happened are what one could just have missed. NaN where there is nothing
    around a pixel.
    """
    at = detector.radius.ravel()
    radial = np.zeros((2, int(at[at < 65535].max()) + 1))
    for row, values in zip(radial, (counts, trials), strict=True):
        sums = np.bincount(at, weights=values.ravel(), minlength=len(row))[: len(row)]
        row[:] = np.convolve(sums, np.ones(2 * _RADII + 1), "same")
    local = np.ones(counts.shape)
    for r0, r1, c0, c1 in detector.arrays.bounds:
        events, chances = (_around(values[r0:r1, c0:c1].astype(np.float64)) for values in (counts, trials))
        local[r0:r1, c0:c1] = np.where(chances > 0, (events + 1) / (chances + 1), np.nan)
    return (radial[0] + 1) / (radial[1] + 1), local


def _around(values: NDArray[np.float64]) -> NDArray[np.float64]:
    outer = uniform_filter(values, _BOX, mode="constant") * _BOX**2
    inner = uniform_filter(values, 3, mode="constant") * 9
    return np.asarray(np.maximum(np.rint(outer - inner), 0))


def _hot(tally: PixelTally, excess: NDArray[np.float32], level: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Hot pixels, and pixels of spots that come back as often but may be those of one crystal."""
    radial, local = usual_rate(tally.stood_out, tally.seen, tally.detector)
    suspect = tally.parts_stood_out >= max(_PARTS_AT_LEAST * tally.parts, 2)
    where = np.nonzero(suspect)
    rate = np.minimum(np.fmax(radial[tally.detector.radius[where]], local[where]), 1.0)
    suspect[where] = binom.sf(tally.stood_out[where] - 1.0, tally.seen[where], rate) < level
    # Where most of what stands out does not come back, crystals do not either.
    everything = float(tally.stood_out.sum(dtype=np.int64))
    varied = float(tally.stood_out[suspect].sum(dtype=np.int64)) < 0.5 * everything
    hot, spots = np.zeros_like(suspect), np.zeros_like(suspect)
    # A single pixel is taken out of its cluster with its eight neighbours, and what is left is looked at again.
    for _ in range(_ROUNDS):
        clusters = _clusters(suspect, excess, tally.detector)
        if not clusters:
            break
        peaks = np.array([cluster.peak for cluster in clusters])
        around = surroundings(excess, peaks, tally.detector, (tally.seen > 0) & ~suspect & ~hot)
        single, spot = around.is_single_pixel(), around.ring_is_raised()
        always = tally.stood_out[tuple(peaks.T)] >= _NEARLY_ALWAYS * tally.seen[tuple(peaks.T)]
        small = np.array([len(cluster.rows) <= _LARGEST_SPOT for cluster in clusters])
        may_be_crystal = not varied and np.count_nonzero(spot & small) >= _SPOTS_OF_A_CRYSTAL
        whole = ~single & always & ~(spot & small & may_be_crystal)
        spots[:] = False
        for cluster, is_single, is_whole, is_spot in zip(clusters, single, whole, spot, strict=True):
            chosen = cluster.near_peak() if is_single else np.full(len(cluster.rows), is_whole)
            hot[cluster.rows[chosen], cluster.columns[chosen]] = True
            spots[cluster.rows, cluster.columns] = is_spot
        suspect &= ~hot
        if not single.any():
            break
    return hot, spots & ~hot


@dataclass(frozen=True)
class _Cluster:
    """Neighbouring pixels of one panel that stand out too often."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    peak: tuple[int, int]
    """Row and column of the highest on average."""

    def near_peak(self) -> NDArray[np.bool_]:
        """Which of the pixels are the highest or touch it."""
        row, column = self.peak
        return np.asarray((abs(self.rows - row) <= 1) & (abs(self.columns - column) <= 1))


def _clusters(suspect: NDArray[np.bool_], mean: NDArray[np.float32], detector: Detector) -> Sequence[_Cluster]:
    found = []
    for r0, r1, c0, c1 in detector.arrays.bounds:
        labels, _ = label(suspect[r0:r1, c0:c1], _EIGHT)
        rows, columns = np.nonzero(labels)
        order = np.argsort(labels[rows, columns], kind="stable")
        rows, columns = rows[order], columns[order]
        starts = np.flatnonzero(np.diff(labels[rows, columns], prepend=0))
        for r, c in zip(np.split(rows + r0, starts)[1:], np.split(columns + c0, starts)[1:], strict=True):
            highest = int(np.argmax(mean[r, c]))
            found.append(_Cluster(r, c, (int(r[highest]), int(c[highest]))))
    return found


def _excess(tally: PixelTally) -> NDArray[np.float32]:
    """Mean value of each pixel above the median of its radius and panel, ADU; NaN where it was never good."""
    excess = np.full(tally.seen.shape, np.nan, dtype=np.float32)
    for r0, r1, c0, c1 in tally.detector.arrays.bounds:
        here = np.s_[r0:r1, c0:c1]
        good = tally.seen[here] > 0
        if not good.any():
            continue
        mean = tally.total[here] / np.maximum(tally.seen[here], 1)
        radius = tally.detector.radius[here].astype(np.int64)
        radius -= radius.min()
        usual = np.nan_to_num(median_by(radius, mean, good))[radius]
        excess[here] = np.where(good, mean - usual, np.nan)
    return excess


def _dead(tally: PixelTally, level: float) -> NDArray[np.bool_]:
    """Pixels that never change, where others do so often enough that it is no chance.

    The others are those at their radius and, as it may be dark there, those around them that do change.
    """
    dead: NDArray[np.bool_] = (tally.same == tally.compared) & (tally.compared > 0)
    radial, _ = usual_rate(tally.same, tally.compared, tally.detector)
    _, local = usual_rate(np.where(dead, 0, tally.same), np.where(dead, 0, tally.compared), tally.detector)
    where = np.nonzero(dead)
    rate = np.minimum(np.fmax(radial[tally.detector.radius[where]], local[where]), 1.0)
    dead[where] = tally.compared[where] * np.log(rate) < math.log(level)
    return dead


def _noisy(tally: PixelTally, excess: NDArray[np.float32], known: NDArray[np.bool_], level: float) -> NDArray[np.bool_]:
    """Single pixels whose squared deviation is far above that of the pixels at their radius and around them.

    Squared deviations follow a gamma distribution (χ² for Gaussian noise) with median and upper tail as they are found
    among pixels of similar radius, where pixels differ in gain too.
    """
    valid = (tally.seen > 0) & ~known
    noise = np.divide(tally.square, tally.seen, out=np.zeros(valid.shape, np.float32), where=tally.seen > 0)
    at = np.minimum(tally.detector.radius, 65534)
    edges = np.unique(np.quantile(at[valid][::7], np.linspace(0, 1, _ZONES + 1)[1:-1])) if valid.any() else np.zeros(0)
    zone = np.searchsorted(edges, at[valid], side="right")
    values = noise[valid]
    limit = np.full(values.shape, np.inf, dtype=np.float32)
    shapes = np.geomspace(0.2, 1e4, 200)
    ratios = gamma.ppf(_HIGH, shapes) / gamma.ppf(0.5, shapes)
    for z in range(len(edges) + 1):
        chosen = zone == z
        if np.count_nonzero(chosen) < 100:
            continue
        middle, high = np.quantile(values[chosen], (0.5, _HIGH))
        if high > _NOISE_FACTOR * middle:
            continue  # good pixels differ as much as that themselves, for example where photons are few
        # The wider the distribution, the smaller its shape.
        shape = np.interp(-high / middle, -ratios, shapes)
        scale = middle / gamma.ppf(0.5, shape)
        limit[chosen] = max(gamma.isf(level, shape, scale=scale), _NOISE_FACTOR * middle)
    noisy = np.zeros_like(valid)
    noisy[valid] = values > limit
    peaks = np.argwhere(noisy)
    if not len(peaks):
        return noisy
    spread = surroundings(excess, peaks, tally.detector, valid & ~noisy)
    deviations = surroundings(noise, peaks, tally.detector, valid & ~noisy)
    noisy[tuple(peaks.T)] = ~spread.ring_is_raised() & (deviations.value > _NOISE_FACTOR * deviations.level)
    return noisy
