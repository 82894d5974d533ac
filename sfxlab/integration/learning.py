"""Profiles from the strong spots of frames (METHODS.md section 6.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from sfxlab.diffraction import Prediction
from sfxlab.frames import Frame
from sfxlab.frames.spot_profiles import SpotProfiles
from sfxlab.integration.extraction import profile_at
from sfxlab.integration.integrate import away_from_beam, measure
from sfxlab.peaks import Peaks
from sfxlab.recipe import IntegrationRecipe, ProfileRecipe

STEP = 0.25
"""Between entries of the tables, pixels."""
MIN_SNR = 6.0
"""Least I/σ of the sums of spots to learn from."""
_MOST_OF_FRAME = 200
"""Spots to learn from of one frame, the strongest."""
_SPOTS_IN_ZONE = 400
_MOST_ZONES = 6
_SPOTS_OF_PANEL = 20.0
"""So many spots on a panel count as much as all the others for where its spots lie."""
_ZONES_FOR_GROWTH, _FURTHER, _MOST_GROWTH = 3, 1.4, 1.4
"""From so many zones on, profiles are continued to so many times the last resolution, at most so much wider."""
_ODD = 5.0
"""Spots whose misfit is so many times the usual one are left out of the second round."""


@dataclass(frozen=True)
class Examples:
    """Strong spots without neighbours: a struct of arrays, each (n,) unless it says otherwise."""

    boxes: NDArray[np.float32]
    """Pixels above the background, ADU, (n, side, side); NaN where bad."""
    panel: NDArray[np.int16]
    fs: NDArray[np.float64]
    """Predicted positions, slab coordinates."""
    ss: NDArray[np.float64]
    away: NDArray[np.float64]
    """Directions away from the beam along fs and ss, (n, 2)."""
    resolution: NDArray[np.float64]
    """|q|, 1/Å."""
    total: NDArray[np.float64]
    """Summed intensities, ADU."""
    variance: NDArray[np.float64]
    """Of the background, ADU²."""
    gain: NDArray[np.float64]
    """ADU per photon."""
    frames: int = 1

    def __len__(self) -> int:
        return len(self.total)

    def __getitem__(self, which: NDArray[np.integer] | NDArray[np.bool_]) -> Examples:
        return replace(self, **{f.name: getattr(self, f.name)[which] for f in fields(self) if f.name != "frames"})

    @staticmethod
    def of(frame: Frame, predictions: Sequence[Prediction], peaks: Peaks, recipe: IntegrationRecipe) -> Examples:
        """Those of one frame."""
        frame = replace(frame, profiles=None)
        m = measure(frame, predictions, recipe, peaks)
        resolution = np.concatenate([prediction.resolution for prediction in predictions])
        snr = m.sums[:, 0] / m.sums[:, 1]
        good = np.flatnonzero((snr >= MIN_SNR) & ~m.saturated & np.isinf(m.nearest))
        good = np.sort(good[np.argsort(-snr[good], kind="stable")[:_MOST_OF_FRAME]])
        return Examples(
            boxes=m.boxes[good] - m.background[good, 0, None, None].astype(np.float32),
            panel=m.panel[good],
            fs=m.fs[good],
            ss=m.ss[good],
            away=away_from_beam(frame, m.panel[good], m.fs[good], m.ss[good]),
            resolution=resolution[good],
            total=m.sums[good, 0],
            variance=m.background[good, 1],
            gain=m.gain[good],
        )

    @staticmethod
    def joined(parts: Sequence[Examples]) -> Examples:
        """All of some frames, in order."""
        columns = {
            f.name: np.concatenate([getattr(part, f.name) for part in parts])
            for f in fields(Examples)
            if f.name != "frames"
        }
        return Examples(**columns, frames=sum(part.frames for part in parts))


def learn_profiles(
    examples: Examples, n_panels: int, recipe: ProfileRecipe, integration: IntegrationRecipe
) -> SpotProfiles | None:
    """Profiles of a detector with so many panels; None where there are fewer spots than `recipe.min_spots`.

    Spots are put one on top of the other, each as a share of its sum, in zones of resolution of equally many spots.
    Tables are then scaled such that fits agree with sums, and what scatters beyond counting is the misfit.
    """
    radius = integration.peak_radius
    for odd_left_out in (False, True):
        if len(examples) < recipe.min_spots:
            return None
        offsets = panel_offsets(examples, n_panels, radius)
        n_zones = min(max(len(examples) // _SPOTS_IN_ZONE, 1), _MOST_ZONES)
        order = np.argsort(examples.resolution, kind="stable")
        zones = [examples[part] for part in np.array_split(order, n_zones)]
        learned = [_zone(zone, offsets, radius) for zone in zones]
        if not odd_left_out:
            examples = Examples.joined([zone[usual] for zone, (_, _, usual) in zip(zones, learned, strict=True)])
            examples = replace(examples, frames=examples.frames // n_zones)
    profiles = SpotProfiles(
        tables=np.array([table for table, _, _ in learned]),
        step=STEP,
        resolution=np.array([float(np.median(zone.resolution)) for zone in zones]),
        misfit=np.array([misfit for _, misfit, _ in learned]),
        offsets=offsets,
        peak_radius=radius,
        frames=examples.frames,
        spots=len(examples),
    )
    return _continued(profiles)


def _continued(profiles: SpotProfiles) -> SpotProfiles:
    """The same with one more zone where spots are too weak to learn from: the last profile, as much wider as they grow.

    Spots grow with resolution by mosaicity and with the errors of predicted positions.
    """
    q, width = profiles.resolution, np.sqrt(profiles.width.prod(axis=1))
    if len(q) < _ZONES_FOR_GROWTH:
        return profiles
    beyond = _FURTHER * q[-1]
    growth = float(np.clip(1 + np.polyfit(q, width, 1)[0] * (beyond - q[-1]) / width[-1], 1.0, _MOST_GROWTH))
    half = profiles.tables.shape[1] // 2
    # Interpolation takes what lies outside the table for what is at its edge, where there is next to nothing.
    table = affine_transform(
        profiles.tables[-1], np.eye(2) / growth, offset=half * (1 - 1 / growth), order=1, mode="nearest"
    )
    return replace(
        profiles,
        tables=np.concatenate([profiles.tables, table[None] / growth**2]),
        resolution=np.append(q, beyond),
        misfit=np.append(profiles.misfit, profiles.misfit[-1]),
    )


def _sharpened(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """A table without the blur of sharing pixels among its entries and of interpolating between these.

    Both convolve with a triangle of variance step²/6 along each axis, which to this order a Laplacian takes back.
    """
    inside = np.pad(table, 1)
    around = inside[2:, 1:-1] + inside[:-2, 1:-1] + inside[1:-1, 2:] + inside[1:-1, :-2]
    return np.asarray(table - (around - 4 * table) / 6)


def panel_offsets(examples: Examples, n_panels: int, radius: float) -> NDArray[np.float64]:
    """Where spots lie from their predictions on each panel, along fs and ss, (n_panels, 2), pixels.

    Medians of the centroids, drawn towards that of all panels where a panel has few spots.
    """
    shift = _centroids(examples, radius)
    everywhere = np.median(shift, axis=0)
    out = np.tile(everywhere, (n_panels, 1))
    for panel in np.unique(examples.panel):
        mine = shift[examples.panel == panel]
        weight = len(mine) / (len(mine) + _SPOTS_OF_PANEL)
        out[panel] += weight * (np.median(mine, axis=0) - everywhere)
    return out


def _centroids(examples: Examples, radius: float) -> NDArray[np.float64]:
    """Centroids of the peaks relative to the predictions, (n, 2), pixels."""
    reach = examples.boxes.shape[1] // 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    share = np.where(x**2 + y**2 <= radius**2, examples.boxes, 0) / examples.total[:, None, None]
    fs, ss = (np.einsum("nij,ij->n", share, axis) for axis in (x, y))
    return np.stack([fs + 0.5 - examples.fs % 1, ss + 0.5 - examples.ss % 1], axis=1)


def _zone(
    zone: Examples, offsets: NDArray[np.float64], radius: float
) -> tuple[NDArray[np.float64], float, NDArray[np.bool_]]:
    """The table of a zone, its relative misfit, and which spots are no odd ones."""
    fs, ss = zone.fs + offsets[zone.panel, 0], zone.ss + offsets[zone.panel, 1]
    # Where an offset takes a spot into the next pixel its box is not quite in the middle, which matters to nobody.
    shift = np.stack([fs - np.floor(zone.fs), ss - np.floor(zone.ss)], axis=1)
    half = math.ceil((radius + 1.5) / STEP)
    weights, shares = np.zeros((2, 2 * half + 1, 2 * half + 1))
    stack_spots(zone.boxes, shift, zone.away, zone.total, radius, STEP, shares, weights)
    table = _sharpened(np.divide(shares, weights, out=np.zeros_like(shares), where=weights > 0))
    ratio, expected, misfit = refit(zone.boxes, shift, zone.away, zone.total, zone.variance, zone.gain, radius, STEP,
                                    table)  # fmt: skip
    known = np.isfinite(ratio)
    scale = float(np.median(ratio[known]))
    deviation = (ratio[known] / scale - 1) ** 2
    # Of squares of normal deviates the median is 0.455 times the mean.
    excess = float(np.median(deviation) / 0.455 - np.median(expected[known]))
    usual = known & (misfit <= _ODD * max(float(np.median(misfit[known])), 1.0))
    return table * scale, math.sqrt(max(excess, 0.0)), usual


@njit(cache=True, nogil=True)
def stack_spots(
    boxes: NDArray[np.float32],
    shift: NDArray[np.float64],
    away: NDArray[np.float64],
    total: NDArray[np.float64],
    radius: float,
    step: float,
    shares: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> None:
    """Add the pixels of peaks, as shares of their sums, to the entries of a table that are nearest, and their weights.

    `shift` is where the spots are from the corner of the middle pixel, (n, 2); rows of the table go along `away`. The
    weights of the four entries around a pixel are those of linear interpolation.
    """
    reach, half = boxes.shape[1] // 2, len(shares) // 2
    for n in range(len(boxes)):
        c, d = away[n, 0], away[n, 1]
        for i in range(2 * reach + 1):
            for j in range(2 * reach + 1):
                distance = (i - reach) ** 2 + (j - reach) ** 2
                if distance > (radius + 1.5) ** 2 or math.isnan(boxes[n, i, j]):
                    continue
                x, y = j - reach + 0.5 - shift[n, 0], i - reach + 0.5 - shift[n, 1]
                u, v = (x * c + y * d) / step + half, (y * c - x * d) / step + half
                if not (0 <= u < 2 * half and 0 <= v < 2 * half):
                    continue
                a, b = int(u), int(v)
                p, r = u - a, v - b
                share = boxes[n, i, j] / total[n]
                for e in range(2):
                    for f in range(2):
                        weight = (p if e else 1 - p) * (r if f else 1 - r)
                        shares[a + e, b + f] += weight * share
                        weights[a + e, b + f] += weight


@njit(cache=True, nogil=True)
def refit(
    boxes: NDArray[np.float32],
    shift: NDArray[np.float64],
    away: NDArray[np.float64],
    total: NDArray[np.float64],
    variance: NDArray[np.float64],
    gain: NDArray[np.float64],
    radius: float,
    step: float,
    table: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Fitted intensities over sums, their variances by counting, and χ² per pixel of n spots, each (n,).

    Fits are those of weak spots, with equal weights for all pixels: Σ P D / Σ P² of pixels D above the background. The
    difference from the sum is Σ (P/ΣP² − 1) D, whose variance follows from that of the pixels.
    """
    n, reach = len(boxes), boxes.shape[1] // 2
    tables = table.reshape(1, len(table), len(table))
    ratio, expected, misfit = np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan)
    shares = np.empty(boxes.shape[1] ** 2)
    values = np.empty(boxes.shape[1] ** 2)
    for s in range(n):
        m, product, square = 0, 0.0, 0.0
        for i in range(2 * reach + 1):
            for j in range(2 * reach + 1):
                if (i - reach) ** 2 + (j - reach) ** 2 > radius * radius:
                    continue
                x, y = j - reach + 0.5 - shift[s, 0], i - reach + 0.5 - shift[s, 1]
                c, d = away[s, 0], away[s, 1]
                p = profile_at(tables, 0, 0.0, step, x * c + y * d, y * c - x * d)
                shares[m], values[m] = p, boxes[s, i, j]
                product += p * values[m]
                square += p * p
                m += 1
        if not square > 0:
            continue
        fitted = product / square
        spread, chi = 0.0, 0.0
        for i in range(m):
            v = variance[s] + gain[s] * max(values[i], 0.0)
            spread += (shares[i] / square - 1) ** 2 * v
            model = fitted * shares[i]
            chi += (values[i] - model) ** 2 / (variance[s] + gain[s] * max(model, 0.0))
        ratio[s] = fitted / total[s]
        expected[s] = spread / total[s] ** 2
        misfit[s] = chi / (m - 1)
    return ratio, expected, misfit
