"""Bragg peaks of one frame."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Peaks:
    """A struct of arrays, each (n,)."""

    panel: NDArray[np.int16]
    """Index of the panel in the detector."""
    fs: NDArray[np.float32]
    """Centroid along the fast axis, slab coordinates (centre of the first pixel at 0.5)."""
    ss: NDArray[np.float32]
    """Centroid along the slow axis, slab coordinates."""
    intensity: NDArray[np.float32]
    """Sum above the local background, ADU."""
    sigma: NDArray[np.float32]
    """Standard error of `intensity`, ADU."""
    snr: NDArray[np.float32]
    """Signal-to-noise ratio by which the peak was accepted."""
    resolution: NDArray[np.float32]
    """|q| = 1/d, 1/Å."""
    max_value: NDArray[np.float32]
    """Highest pixel, ADU, background included."""
    n_pixels: NDArray[np.int16]
    """Pixels above the threshold."""

    def __len__(self) -> int:
        return len(self.fs)

    def __getitem__(self, which: NDArray[np.integer] | NDArray[np.bool_] | slice) -> Peaks:
        return Peaks(*(getattr(self, f.name)[which] for f in fields(self)))

    def __repr__(self) -> str:
        if len(self) == 0:
            return "<Peaks: none>"
        return f"<Peaks: {len(self)}, from {1 / self.resolution.min():.1f} to {1 / self.resolution.max():.2f} Å>"

    @staticmethod
    def empty() -> Peaks:
        """No peaks."""
        integers, floats = np.zeros(0, dtype=np.int16), np.zeros(0, dtype=np.float32)
        return Peaks(integers, floats, floats, floats, floats, floats, floats, floats, integers)
