"""Ice and salt: what a frame shows of crystals that nobody wanted."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from sfxlab.peaks.peaks import Peaks
from sfxlab.peaks.radial_average import STEP, RadialSums

ICE_SPACINGS = (3.90, 3.67, 3.44, 2.67, 2.25, 2.07, 1.95, 1.92, 1.88, 1.72, 1.52, 1.47, 1.44, 1.37)
"""d of the rings of hexagonal ice, Å (METHODS.md section 3)."""
ICE = 5.0
"""`ice_spots` or `ice_rings` from which on a frame counts as one with ice."""
SALT = 0.7
"""`salt` from which on a frame counts as one with salt."""

_BAND = 0.012
"""Half the width of a band around a ring, relative: what errors of the camera length and the width of rings need."""
_NEIGHBOURS = 3.0
"""Neighbouring bands reach so many times as far."""
_POWDER_RINGS = tuple(1 / d for d in ICE_SPACINGS[:3])
_ON_RING, _BESIDE = 0.003, (0.005, 0.009)
"""Distances from the ring, 1/Å: what belongs to it, and what to compare with."""
_CURVATURE = 0.02
"""What a smooth background may be higher in the middle than on both sides, relative."""
_SALT_SNR = 20.0
_SALT_RESOLUTION = 1 / 7.5
"""Salts have no planes that are further apart, 1/Å."""
_SALT_SPACING = 1 / 12
"""Spots of a crystal of protein come closer than this, 1/Å."""
_SALT_PEAKS = 3


def ice_spots(resolution: NDArray[np.floating]) -> float:
    """By how many standard deviations peaks, 1/d (n,), prefer the rings of hexagonal ice to what is beside them.

    Peaks in the bands around the rings are compared with those within three times the distance, ring by ring (close
    ones together), since the share of the bands is that of their widths where peaks know nothing of ice; the sums over
    rings give a z-score (Cochran, 1954). 0 where there are no peaks near rings.
    """
    if len(resolution) == 0:
        return 0.0
    counts = np.bincount(np.searchsorted(_EDGES, resolution, "right"), minlength=len(_EDGES) + 1)
    inside, near = _INSIDE @ counts, _NEAR @ counts
    variance = float(np.sum(near * _SHARE * (1 - _SHARE)))
    return float(np.sum(inside - near * _SHARE)) / math.sqrt(variance) if variance else 0.0


def ice_rings(sums: RadialSums) -> float:
    """By how many standard deviations the three strong powder rings of hexagonal ice rise above their surroundings.

    Of the three z-scores the middle one, so that neither a peak nor a smooth ring of water makes ice; a background
    may curve by 2 %. NaN where a ring is not on the detector.
    """
    sums_of_bands = np.stack([sums.n_pixels, sums.total, sums.squares]) @ _BANDS_OF_POWDER.T
    n, total, squares = sums_of_bands
    if n.min() < 2:
        return math.nan
    mean = total / n
    error = np.maximum(squares / n - mean**2, 0.0) / n
    level = mean[1::2]
    spread = np.sqrt(error[::2] + error[1::2] + (_CURVATURE * level) ** 2)
    rise = mean[::2] - level
    return float(np.median(np.divide(rise, spread, out=np.zeros(len(rise)), where=spread > 0)))


def salt(peaks: Peaks, q: NDArray[np.floating]) -> float:
    """Share of the signal of a frame's peaks in spots like those of salt, 0 where these are fewer than three.

    Such spots are very strong (signal-to-noise ratio from 20 on), at high angle (d < 7.5 Å), and alone: crystals of
    protein have spots closer than 1/12 1/Å, those of salt have not. `q` holds the scattering vectors, (n, 3), 1/Å.
    Crystals of small molecules look the same.
    """
    if len(peaks) < _SALT_PEAKS:
        return 0.0
    distance, _ = cKDTree(q).query(q, k=2)
    like = (peaks.snr >= _SALT_SNR) & (peaks.resolution > _SALT_RESOLUTION) & (distance[:, 1] > _SALT_SPACING)
    if np.count_nonzero(like) < _SALT_PEAKS:
        return 0.0
    return float(peaks.snr[like].sum() / peaks.snr.sum())


def _bands_of_powder() -> NDArray[np.float64]:
    """Which bins of radial sums lie on each strong ring and, in the next row, beside it, (6, n_bins), 0 or 1."""
    rows = []
    for ring in _POWDER_RINGS:
        distance = np.abs(RadialSums.none().resolution - ring)
        rows += [distance <= _ON_RING, (distance >= _BESIDE[0] - STEP / 2) & (distance <= _BESIDE[1])]
    return np.array(rows, dtype=np.float64)


_BANDS_OF_POWDER = _bands_of_powder()


def _groups() -> tuple[tuple[float, float, float, tuple[tuple[float, float], ...]], ...]:
    """Ranges of 1/d with the share of the bands of rings in each, and these bands; rings that touch are one group."""
    groups: list[list[float]] = []
    for ring in (1 / d for d in ICE_SPACINGS):
        # Where neighbours of two rings overlap, peaks beside the one are beside the other too.
        if groups and ring * (1 - _NEIGHBOURS * _BAND) < groups[-1][-1] * (1 + _NEIGHBOURS * _BAND):
            groups[-1].append(ring)
        else:
            groups.append([ring])
    found = []
    for rings in groups:
        bands: list[tuple[float, float]] = []
        for first, last in ((ring * (1 - _BAND), ring * (1 + _BAND)) for ring in rings):
            if bands and first < bands[-1][1]:
                bands[-1] = (bands[-1][0], last)
            else:
                bands.append((first, last))
        low, high = rings[0] * (1 - _NEIGHBOURS * _BAND), rings[-1] * (1 + _NEIGHBOURS * _BAND)
        found.append((low, high, sum(b - a for a, b in bands) / (high - low), tuple(bands)))
    return tuple(found)


_GROUPS = _groups()
_SHARE = np.array([share for _, _, share, _ in _GROUPS])


def _intervals() -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Edges of all groups and bands, and of the intervals between them: which are near rings of a group, and in a band.

    (n,), (n_groups, n + 1) twice: the first interval is below all edges, the last one above.
    """
    edges = np.sort(np.concatenate([(low, high, *np.ravel(bands)) for low, high, _, bands in _GROUPS]))
    middle = np.concatenate([[0.0], (edges[:-1] + edges[1:]) / 2, [np.inf]])
    near = [(middle > low) & (middle < high) for low, high, _, _ in _GROUPS]
    inside = [np.any([(middle > a) & (middle < b) for a, b in bands], axis=0) for _, _, _, bands in _GROUPS]
    return edges, np.array(near), np.array(inside)


_EDGES, _NEAR, _INSIDE = _intervals()
