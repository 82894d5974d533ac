"""Integrated reflections."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Reflections:
    """Integrated reflections of one crystal: a struct of arrays, each (n,)."""

    h: NDArray[np.int32]
    k: NDArray[np.int32]
    l: NDArray[np.int32]  # noqa: E741  the field's name for it
    intensity: NDArray[np.float32]
    """Above the background, ADU: the better one of `intensity_sum` and `intensity_profile`."""
    sigma: NDArray[np.float32]
    """Standard error of `intensity`, ADU."""
    intensity_sum: NDArray[np.float32]
    """Sum of the pixels of the peak above the background, ADU; NaN where the peak is not whole."""
    sigma_sum: NDArray[np.float32]
    """Standard error of `intensity_sum`, ADU."""
    intensity_profile: NDArray[np.float32]
    """Fit of the profile to the pixels of the peak, ADU; NaN where there is no profile or it does not fit."""
    sigma_profile: NDArray[np.float32]
    """Standard error of `intensity_profile` with that of the profile itself, ADU."""
    partiality: NDArray[np.float32]
    """Share of what the reflection would give exactly on the Ewald sphere, 0 to 1."""
    excitation_error: NDArray[np.float32]
    """Distance of the node from the Ewald sphere, 1/Å; positive inside."""
    peak: NDArray[np.float32]
    """Highest pixel above the background, ADU."""
    background: NDArray[np.float32]
    """Mean background, ADU per pixel."""
    panel: NDArray[np.int16]
    fs: NDArray[np.float32]
    """Predicted position, slab coordinates."""
    ss: NDArray[np.float32]
    resolution: NDArray[np.float32]
    """|q| = 1/d, 1/Å."""
    saturated: NDArray[np.bool_]
    """A pixel of the peak reached `max_adu` of its panel, or what the saturation map says of it."""

    def __len__(self) -> int:
        return len(self.h)

    def __getitem__(self, which: NDArray[np.integer] | NDArray[np.bool_] | slice) -> Reflections:
        return Reflections(*(getattr(self, f.name)[which] for f in fields(self)))

    @property
    def hkl(self) -> NDArray[np.int32]:
        """Indices as they were measured, not reduced by symmetry, (n, 3)."""
        return np.stack([self.h, self.k, self.l], axis=1)
