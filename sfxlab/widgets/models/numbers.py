"""Arrays as numbers that JSON can carry."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def numbers(values: ArrayLike, digits: int = 5) -> list[Any]:
    """Numbers with so many significant digits; None for what is not finite, because JSON has no NaN."""
    array = np.asarray(values)
    if array.dtype.kind in "iub":
        return list(array.tolist())
    return [None if not np.isfinite(value) else float(f"{value:.{digits}g}") for value in array.tolist()]


def number(value: float, digits: int = 5) -> float | None:
    """One of them."""
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None
