"""The kernel for maps of all pixels of a detector, made once for each detector."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

X, Y, RADIUS, TWO_SINE = range(4)
"""What `map_pixels` can map."""


@njit(cache=True, nogil=True, error_model="numpy")
def map_pixels(
    quantity: int,
    bounds: NDArray[np.int64],
    corner: NDArray[np.float64],
    fs: NDArray[np.float64],
    ss: NDArray[np.float64],
    out: NDArray[Any],
) -> None:
    """Fill `out` (the slab's shape) with a function of the positions of pixel centres, for panels as in `PanelArrays`.

    `X` and `Y` themselves; `RADIUS` √(x² + y²), rounded, at most 65534; `TWO_SINE` 2 sin θ = λ|q| = |X/|X| − ẑ|, 2θ
    being the scattering angle (METHODS.md section 1.1).
    """
    for p in range(len(bounds)):
        first, end = bounds[p, 2], bounds[p, 3]
        for row in range(bounds[p, 0], bounds[p, 1]):
            s = row - bounds[p, 0] + 0.5
            x0, y0, z0 = corner[p, 0] + s * ss[p, 0], corner[p, 1] + s * ss[p, 1], corner[p, 2] + s * ss[p, 2]
            # Rows are taken as arrays, and divisions may not raise: so the compiler makes vector instructions of it.
            values = out[row, first:end]
            for i in range(len(values)):
                x, y, z = x0 + (i + 0.5) * fs[p, 0], y0 + (i + 0.5) * fs[p, 1], z0 + (i + 0.5) * fs[p, 2]
                square = x * x + y * y
                if quantity == X:
                    values[i] = x
                elif quantity == Y:
                    values[i] = y
                elif quantity == RADIUS:
                    values[i] = np.int32(min(np.rint(math.sqrt(square)), 65534.0))
                else:
                    distance = math.sqrt(square + z * z)
                    values[i] = math.sqrt(square + (z - distance) ** 2) / distance
