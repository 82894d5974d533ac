"""Colours of pixels and of marks, the same in browsers and in pictures for papers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from bokeh import palettes
from numpy.typing import NDArray

from sfxlab.pictures import BAD, LATTICES, PEAK, RING

INVERTED_GREY = "inverted grey"
"""Dark spots on white, as on film."""


def _table(palette: tuple[str, ...]) -> NDArray[np.uint8]:
    return np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in palette], dtype=np.uint8)


COLOUR_MAPS: Mapping[str, NDArray[np.uint8]] = {
    INVERTED_GREY: _table(palettes.Greys256[::-1]),
    "grey": _table(palettes.Greys256),
    "viridis": _table(palettes.Viridis256),
    "inferno": _table(palettes.Inferno256),
    "magma": _table(palettes.Magma256),
    "cividis": _table(palettes.Cividis256),
    "turbo": _table(palettes.Turbo256),
}
"""256 colours each from low to high values, (256, 3)."""

LATTICE_COLOURS = (
    *LATTICES,
    (86, 180, 233),
    (170, 51, 119),
    (0, 90, 50),
    (240, 110, 170),
    (110, 80, 200),
    (130, 60, 20),
)
"""Of up to ten lattices of a frame."""

MARK_COLOURS = {"peak": PEAK, "bad": BAD, "ring": RING}
"""Of peaks that belong to no lattice, of bad pixels, and of rings."""
