"""Pixels that are bad by their value: flags of the geometry file (METHODS.md section 1.2), NaN and infinity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.frames.buffers import BUFFERS
from sfxlab.frames.pixel_types import compiled_pixels, read_only
from sfxlab.geometry.geometry import Flag


def with_flagged(data: NDArray[Any], bad: NDArray[np.uint8], windows: Sequence[FlaggedWindow]) -> NDArray[np.uint8]:
    """A map of bad pixels with those that a frame's values tell besides; `bad` itself where there are none."""
    data, marked = compiled_pixels(data), bad
    for window in windows:
        limits = window.limits(data.dtype)
        if limits is None:
            continue
        part = window.rows, window.columns
        row = first_flagged_row(data[part], read_only(marked[part]), *limits)
        if row >= 0:
            if marked is bad:
                marked = BUFFERS.array(bad.shape, np.uint8)
                marked[...] = bad
            mark_flagged(data[part][row:], marked[part][row:], *limits)
    return marked


@dataclass(frozen=True)
class FlaggedWindow:
    """Rows and columns of the slab, and the flags that their pixels are compared with."""

    rows: slice
    columns: slice
    flags: tuple[Flag, ...] = ()

    def limits(self, dtype: np.dtype[Any]) -> tuple[Any, Any, NDArray[Any]] | None:
        """Least and largest value of a pixel type that are good, and those between that are bad all the same; None
        where all values are good.

        Values that are not finite are never good. Thresholds are rounded to the type's precision.
        """
        floating = dtype.kind == "f"
        limits = np.finfo(dtype) if floating else np.iinfo(dtype)
        least, largest = dtype.type(limits.min).item(), dtype.type(limits.max).item()
        low, high = least, largest
        equal = set()
        for flag in self.flags:
            value = flag.value if floating else _whole(flag)
            if flag.kind == "equal":
                equal.add(value)
            elif flag.kind == "lessthan":
                low = max(low, value)
            else:
                high = min(high, value)
        equal = {value for value in equal if low <= value <= high}
        if low > high:
            low, high = 1, 0
        elif not floating and not equal and (low, high) == (least, largest):
            return None
        return dtype.type(low), dtype.type(high), np.array(sorted(equal), dtype=dtype)


def _whole(flag: Flag) -> float:
    """The threshold that means the same to whole numbers."""
    if not math.isfinite(flag.value):
        return flag.value
    if flag.kind == "equal":
        return int(flag.value) if flag.value.is_integer() else math.nan
    return math.ceil(flag.value) if flag.kind == "lessthan" else math.floor(flag.value)


@njit(cache=True, nogil=True)
def first_flagged_row(data: NDArray[Any], bad: NDArray[np.uint8], low: Any, high: Any, equal: NDArray[Any]) -> int:
    """The first row of `data` (rows, columns) with a pixel that is not `bad` yet and has a value outside the closed
    interval from `low` to `high`, or one of `equal`; −1 where there is none.
    """
    for row in range(data.shape[0]):
        # Of rows as arrays the compiler makes vector instructions.
        values, known = data[row], bad[row]
        found = False
        for i in range(len(values)):
            found |= ((values[i] >= low) & (values[i] <= high)) ^ True
        for value in equal:
            for i in range(len(values)):
                found |= values[i] == value
        if not found:
            continue
        # Mostly these are masked already, so that the mask is looked at here only.
        found = False
        for i in range(len(values)):
            found |= (((values[i] >= low) & (values[i] <= high)) ^ True) & (known[i] == 0)
        for value in equal:
            for i in range(len(values)):
                found |= (values[i] == value) & (known[i] == 0)
        if found:
            return row
    return -1


@njit(cache=True, nogil=True)
def mark_flagged(data: NDArray[Any], bad: NDArray[np.uint8], low: Any, high: Any, equal: NDArray[Any]) -> None:
    """Set `bad` to 1 where `first_flagged_row` looks for pixels."""
    for row in range(data.shape[0]):
        values, marks = data[row], bad[row]
        for i in range(len(values)):
            marks[i] |= np.uint8(((values[i] >= low) & (values[i] <= high)) ^ True)
        for value in equal:
            for i in range(len(values)):
                marks[i] |= np.uint8(values[i] == value)
