"""Hit rate and indexing rate along a run."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ONE_STANDARD_ERROR = 0.6826894921370859
_LEAST_FRAMES = 10


@dataclass(frozen=True)
class HitRates:
    """Rates in windows of frames that follow one another, (n,) each."""

    first: NDArray[np.int64]
    """Number of the first frame of each window."""
    last: NDArray[np.int64]
    """Number of its last frame."""
    frames: NDArray[np.int64]
    """Frames of the window that are processed."""
    hits: NDArray[np.int64]
    indexed: NDArray[np.int64]
    confidence: float
    """Probability that the truth is within the bands."""

    @property
    def rate(self) -> NDArray[np.float64]:
        """Hits over frames."""
        return self.hits / self.frames

    @property
    def band(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper limit of the hit rate."""
        return wilson_interval(self.hits, self.frames, self.confidence)

    @property
    def indexing_rate(self) -> NDArray[np.float64]:
        """Indexed frames over hits, NaN without hits."""
        rate = np.full(len(self.hits), np.nan)
        np.divide(self.indexed, self.hits, out=rate, where=self.hits > 0)
        return rate

    @property
    def indexing_band(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper limit of the indexing rate."""
        return wilson_interval(self.indexed, self.hits, self.confidence)


def hit_rates(frames: pa.Table, windows: int = 50, confidence: float = 0.95) -> HitRates:
    """Rates of a table of frames (columns `frame` and `status`), in that many windows of as many frames each.

    Windows are fewer where they would have less than 10 frames. Frames that failed are no hits.
    """
    number, status = frames["frame"].to_numpy(), frames["status"].to_numpy(zero_copy_only=False)
    indexed = status == "indexed"
    hit = indexed | (status == "hit")
    edges = np.linspace(0, len(number), min(windows, max(1, len(number) // _LEAST_FRAMES)) + 1).astype(np.int64)
    if len(number) == 0:
        edges = np.zeros(1, dtype=np.int64)

    def counted(which: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.diff(np.concatenate([[0], np.cumsum(which)])[edges])

    return HitRates(
        first=number[edges[:-1]], last=number[edges[1:] - 1], frames=np.diff(edges), hits=counted(hit),
        indexed=counted(indexed), confidence=confidence,
    )  # fmt: skip


def wilson_interval(
    successes: NDArray[np.integer], trials: NDArray[np.integer], confidence: float = ONE_STANDARD_ERROR
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Intervals for binomial proportions (Wilson, 1927, J. Am. Stat. Assoc. 22, 209); 0 to 1 where nothing was tried.

    The usual ± σ is far too short for few successes, and has no width without any.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    n = np.asarray(trials, dtype=np.float64)
    share = np.divide(successes, n, out=np.full(n.shape, 0.5), where=n > 0)
    middle = (share * n + z**2 / 2) / (n + z**2)
    half = z * np.sqrt(share * (1 - share) * n + z**2 / 4) / (n + z**2)
    return np.where(n == 0, 0.0, np.maximum(middle - half, 0.0)), np.where(n == 0, 1.0, np.minimum(middle + half, 1.0))
