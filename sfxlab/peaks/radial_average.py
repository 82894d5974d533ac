"""The mean of a frame by resolution, from a sample of its pixels, and sums of many such means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.frames import Frame
from sfxlab.frames.pixel_types import compiled_pixels, read_only
from sfxlab.geometry import HC_EV_ANGSTROM

STEP = 0.002
"""Width of a bin, 1/Å."""
N_BINS = 600
"""Up to 1.2 1/Å, which is 0.83 Å."""


@dataclass(frozen=True)
class RadialSums:
    """Sums over pixels in bins of 1/d from 0 on, each `STEP` wide, (`N_BINS`,) each. Sums of frames may be added."""

    n_pixels: NDArray[np.int64]
    total: NDArray[np.float64]
    """ADU."""
    squares: NDArray[np.float64]
    """ADU²."""

    @staticmethod
    def none() -> RadialSums:
        """Of no pixels."""
        return RadialSums(np.zeros(N_BINS, dtype=np.int64), np.zeros(N_BINS), np.zeros(N_BINS))

    def __add__(self, other: RadialSums) -> RadialSums:
        return RadialSums(
            self.n_pixels + other.n_pixels, self.total + other.total, self.squares + other.squares
        )  # fmt: skip

    @property
    def resolution(self) -> NDArray[np.float64]:
        """1/d of the middle of each bin, 1/Å."""
        return np.asarray((np.arange(N_BINS) + 0.5) * STEP, dtype=np.float64)

    @property
    def mean(self) -> NDArray[np.float64]:
        """ADU, NaN without pixels."""
        mean = np.full(N_BINS, np.nan)
        np.divide(self.total, self.n_pixels, out=mean, where=self.n_pixels > 0)
        return mean


def radial_sums(frame: Frame) -> RadialSums:
    """Sums over the good ones of some 50,000 pixels of a frame, evenly spread, by their 1/d."""
    sums = RadialSums.none()
    place, two_sine = frame.detector.sampled
    _add_pixels(
        compiled_pixels(frame.data).reshape(-1), read_only(frame.bad.reshape(-1)), place, two_sine,
        frame.photon_energy / HC_EV_ANGSTROM / STEP, sums.n_pixels, sums.total, sums.squares,
    )  # fmt: skip
    return sums


@njit(cache=True, nogil=True)
def _add_pixels(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    place: NDArray[np.int64],
    two_sine: NDArray[np.float32],
    scale: float,
    n_pixels: NDArray[np.int64],
    total: NDArray[np.float64],
    squares: NDArray[np.float64],
) -> None:
    """Add the good pixels at `place` of the flattened slab to the bins that `two_sine` · `scale` says, (n,) each."""
    for i in range(len(place)):
        if bad[place[i]] != 0:
            continue
        number = int(two_sine[i] * scale)
        value = float(data[place[i]])
        if number < len(n_pixels) and np.isfinite(value):
            n_pixels[number] += 1
            total[number] += value
            squares[number] += value * value
