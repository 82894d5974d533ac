"""Mean intensities at about the same resolution, for priors and weights."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sfxlab.merging.blocks import Block
from sfxlab.merging.observations import Observations

_SAMPLE = 200_000


def resolution_shells(s2: NDArray[np.float64]) -> NDArray[np.int64]:
    """Resolution shells of equally many unique reflections, for the mean intensity."""
    n_shells = int(np.clip(len(s2) // 100, 1, 25))
    rank = np.empty(len(s2), dtype=np.int64)
    rank[np.argsort(s2, kind="stable")] = np.arange(len(s2))
    return rank * n_shells // len(s2)


def first_means(o: Observations, shell: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean intensity at the resolution of each unique reflection, before anything is scaled."""
    # Every so many observations, counted over all blocks, so that blocks make no difference.
    step = len(o) // _SAMPLE + 1
    sample = [(b.reflection[start::step].copy(), b.intensity[start::step].copy()) for b, start in _starts(o, step)]
    of_observation, intensity = shell[np.concatenate([r for r, _ in sample])], np.concatenate([i for _, i in sample])
    order = np.argsort(of_observation, kind="stable")
    means = np.zeros(shell.max() + 1)
    ends = np.cumsum(np.bincount(of_observation, minlength=len(means)))[:-1]
    for i, values in enumerate(np.split(intensity[order], ends)):
        # One hot pixel may outweigh a shell; the highest 2 % are cut to the rest.
        means[i] = np.mean(np.minimum(values, np.percentile(values, 98))) if len(values) else 0.0
    return floored(means)[shell]


def _starts(o: Observations, step: int) -> Iterator[tuple[Block, int]]:
    """The blocks, and the first observation of each whose number among all is a multiple of `step`."""
    for block in o.blocks():
        yield block, int(-o.offsets[block.crystals.start] % step)


def shell_means(
    totals: NDArray[np.float64], shell: NDArray[np.int64], previous: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean of the merged intensities at the resolution of each unique reflection."""
    seen = totals[:, 0] > 0
    counts = np.bincount(shell[seen], minlength=shell.max() + 1)
    merged = np.divide(totals[:, 1], totals[:, 0], out=np.zeros(len(shell)), where=seen)
    # No intensity of Wilson's distribution among some hundred exceeds ten times the mean; outliers do.
    merged = np.minimum(merged, 10 * previous)
    sums = np.bincount(shell[seen], weights=merged[seen], minlength=shell.max() + 1)
    return floored(sums / np.maximum(counts, 1))[shell]


def floored(means: NDArray[np.float64]) -> NDArray[np.float64]:
    # Beyond the diffraction limit the mean may come out as zero or less; a prior has to be positive.
    highest = means.max()
    return np.maximum(means, 1e-3 * highest if highest > 0 else 1.0)
