"""Regions that something keeps the light from: beam stops and their holders, nozzles, dead chips."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, label, uniform_filter

from sfxlab.bad_pixels.tally import PixelTally

_DARK = 0.5
"""Of what the pixels at the same radius have."""
_BORDER = 0.7
"""Of what they would have, for single pixels at the border of a region."""
_BOX = 5
_LEAST_REGION = 50
"""Pixels; smaller regions are left to the tests of single pixels."""
_LEAST_AT_A_RADIUS = 50
_SIGNIFICANCE = 6.0
_RADII_IN_ZONE = 32


def find_shadows(tally: PixelTally, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Connected regions of a panel with less than half of what the panel has at their radius; the slab's shape.

    `known` pixels, which are bad for themselves, do not count. Each pixel is taken with its neighbours within 5 × 5,
    and has to be darker than six robust standard deviations of such means.
    """
    shadows = np.zeros(tally.seen.shape, dtype=np.bool_)
    for r0, r1, c0, c1 in tally.detector.arrays.bounds:
        here = np.s_[r0:r1, c0:c1]
        good = (tally.seen[here] > 0) & ~known[here]
        if np.count_nonzero(good) < _LEAST_AT_A_RADIUS:
            continue
        mean = np.divide(tally.total[here], tally.seen[here], out=np.zeros(good.shape, np.float32), where=good)
        shadows[here] = _of_panel(mean, good, tally.detector.radius[here].astype(np.int64))
    return shadows


def _of_panel(mean: NDArray[np.float32], good: NDArray[np.bool_], radius: NDArray[np.int64]) -> NDArray[np.bool_]:
    radius = radius - radius.min()
    usual = median_by(radius, mean, good)[radius]
    good = good & (usual > 0)
    share = _mean_around(np.where(good, mean, 0), good) / np.maximum(
        _mean_around(np.where(good, usual, 0), good), 1e-30
    )
    zone = radius // _RADII_IN_ZONE
    sigma = 1.4826 * median_by(zone, abs(share - 1), good)[zone]
    dark = good & (share < _DARK) & (1 - share > _SIGNIFICANCE * sigma)
    regions, _ = label(dark)
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    large = (sizes >= _LEAST_REGION)[regions]
    # Means over neighbours may move the border inwards.
    return np.asarray(large | (binary_dilation(large, np.ones((3, 3))) & good & (mean < _BORDER * usual)))


def _mean_around(values: NDArray[np.floating], good: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.asarray(uniform_filter(values.astype(np.float64), _BOX, mode="constant") / np.maximum(
        uniform_filter(good.astype(np.float64), _BOX, mode="constant"), 0.5 / _BOX**2
    ))  # fmt: skip


def median_by(group: NDArray[np.int64], values: NDArray[np.floating], good: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Median of the good values of each group, (n_groups,); NaN where there are few values."""
    groups, chosen = group[good], values[good].astype(np.float64)
    order = np.lexsort((chosen, groups))
    groups, chosen = groups[order], chosen[order]
    n_groups = int(group.max()) + 1
    starts = np.searchsorted(groups, np.arange(n_groups + 1))
    counts = np.diff(starts)
    medians = np.full(n_groups, np.nan)
    enough = counts >= _LEAST_AT_A_RADIUS
    medians[enough] = chosen[(starts[:-1] + counts // 2)[enough]]
    return medians
