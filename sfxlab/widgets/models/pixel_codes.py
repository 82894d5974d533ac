"""Pixels as codes of 8 or 16 bits, fine about the background and coarse where values are high.

Codes are evenly spaced in asinh((value − centre) / width): a fraction of a standard deviation of the background each,
and a fraction of the value far above it. Detectors of any range fit into 8 bits so, and no contrast shows the steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.frames import Frame
from sfxlab.widgets.models import assembling

NO_PANEL, MASKED, FIRST = 0, 1, 2
"""Codes of places without a panel and without a good pixel, and that of the lowest value."""

Bits = Literal[8, 16]


@dataclass(frozen=True)
class Background:
    """What most pixels of a frame have."""

    centre: float
    """Median of the good pixels, ADU."""
    width: float
    """Their standard deviation, from quantiles, ADU; above 0."""


@dataclass(frozen=True)
class Scale:
    """What codes mean: value = centre + width · sinh(low + (code − `FIRST`) · step)."""

    centre: float
    width: float
    low: float
    step: float
    bits: Bits

    def values(self, codes: NDArray[Any]) -> NDArray[np.float64]:
        """Values of codes, ADU; NaN where there is none."""
        values = self.centre + self.width * np.sinh(self.low + (codes.astype(np.float64) - FIRST) * self.step)
        return np.where(codes >= FIRST, values, np.nan)


def background(frame: Frame) -> Background:
    """The background of a frame, from a sample of its pixels."""
    places, _ = frame.detector.sampled
    good = frame.bad.ravel()[places] == 0
    values = frame.data.ravel()[places][good].astype(np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return Background(0.0, 1.0)
    low, centre, high = np.percentile(values, [15.87, 50, 84.13])
    width = max(high - centre, 0.5 * (high - low))
    # Where nearly all pixels are 0, one photon is the unit, or else the mean.
    return Background(float(centre), float(width) if width > 0 else max(float(values.mean() - centre), 1.0))


def encode(
    image: NDArray[np.float32], kind: NDArray[np.uint8], of: Background, bits: Bits = 8, *, show_bad: bool = False
) -> tuple[NDArray[Any], Scale]:
    """Codes of a region as `assemble_region` gives it, and what they mean.

    With `show_bad`, places where there is any bad pixel are `MASKED`, too.
    """
    known = image[np.isfinite(image)]
    least, largest = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
    low, high = (math.asinh((value - of.centre) / of.width) for value in (least, largest))
    n = (1 << bits) - 1 - FIRST
    scale = Scale(of.centre, of.width, low, max((high - low) / n, 1e-12), bits)
    codes = np.empty(image.shape, dtype=np.uint8 if bits == 8 else np.uint16)
    fill_codes(image, kind, scale.centre, scale.width, scale.low, scale.step, show_bad, codes)
    return codes, scale


@njit(cache=True, nogil=True)
def fill_codes(
    image: NDArray[np.float32],
    kind: NDArray[np.uint8],
    centre: float,
    width: float,
    low: float,
    step: float,
    show_bad: bool,
    codes: NDArray[Any],
) -> None:
    """The codes of `image`, all three (rows, columns)."""
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            value = image[row, column]
            if kind[row, column] == assembling.GAP:
                codes[row, column] = NO_PANEL
            elif not np.isfinite(value) or (show_bad and kind[row, column] == assembling.BAD):
                codes[row, column] = MASKED
            else:
                codes[row, column] = FIRST + int((math.asinh((value - centre) / width) - low) / step + 0.5)
