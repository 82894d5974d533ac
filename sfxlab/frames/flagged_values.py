"""Pixels that are bad by their value: flags of the geometry file (METHODS.md section 1.2), NaN and infinity."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.geometry.geometry import Flag

_COMPILED_TYPES = "bBhHiIlLqQfd"


def with_flagged(data: NDArray[Any], bad: NDArray[np.uint8], windows: Sequence[FlaggedWindow]) -> NDArray[np.uint8]:
    """A map of bad pixels with those that a frame's values tell besides; `bad` itself where there are none."""
    if data.dtype.char not in _COMPILED_TYPES:
        data = data.astype(np.float64)
    marked = bad
    for window in windows:
        values, columns = data[window.rows], window.columns
        for low, high, inside in window.intervals(data.dtype):
            interval = (columns.start, columns.stop, low, high, inside)
            if has_flagged(values, marked[window.rows], *interval):
                marked = bad.copy() if marked is bad else marked
                mark_flagged(values, marked[window.rows], *interval)
    return marked


@dataclass(frozen=True)
class FlaggedWindow:
    """Rows and columns of the slab, and the flags that their pixels are compared with."""

    rows: slice
    columns: slice
    flags: tuple[Flag, ...] = ()

    def intervals(self, dtype: np.dtype[Any]) -> Iterator[tuple[Any, Any, bool]]:
        """Closed intervals of values of a pixel type, and whether the values inside or those outside are bad.

        Values that are not finite are always outside. Thresholds are rounded to the type's precision.
        """
        floating = dtype.kind == "f"
        limits = np.finfo(dtype) if floating else np.iinfo(dtype)
        low, high = dtype.type(limits.min).item(), dtype.type(limits.max).item()
        least, largest = low, high
        equal = set()
        for flag in self.flags:
            value = flag.value if floating else _whole(flag)
            if flag.kind == "equal":
                equal.add(value)
            elif flag.kind == "lessthan":
                low = max(low, value)
            else:
                high = min(high, value)
        if low > high:
            yield dtype.type(1), dtype.type(0), False
        elif floating or (low, high) != (least, largest):
            yield dtype.type(low), dtype.type(high), False
        yield from ((dtype.type(value), dtype.type(value), True) for value in equal if low <= value <= high)


def _whole(flag: Flag) -> float:
    """The threshold that means the same to whole numbers."""
    if not math.isfinite(flag.value):
        return flag.value
    if flag.kind == "equal":
        return int(flag.value) if flag.value.is_integer() else math.nan
    return math.ceil(flag.value) if flag.kind == "lessthan" else math.floor(flag.value)


@njit(cache=True, nogil=True)
def has_flagged(
    data: NDArray[Any], bad: NDArray[np.uint8], first: int, end: int, low: Any, high: Any, inside: bool
) -> bool:
    """Whether some pixel in columns `first` to `end` − 1 of `data` (rows, columns) that is not `bad` yet has a value
    in (with `inside`) or outside the closed interval.
    """
    for row in range(data.shape[0]):
        # Of rows as arrays the compiler makes vector instructions.
        values, known = data[row, first:end], bad[row, first:end]
        found = False
        for i in range(len(values)):
            found |= (((values[i] >= low) & (values[i] <= high)) == inside) & (known[i] == 0)
        if found:
            return True
    return False


@njit(cache=True, nogil=True)
def mark_flagged(
    data: NDArray[Any], bad: NDArray[np.uint8], first: int, end: int, low: Any, high: Any, inside: bool
) -> None:
    """Set `bad` to 1 where `has_flagged` looks for pixels."""
    for row in range(data.shape[0]):
        values, marks = data[row, first:end], bad[row, first:end]
        for i in range(len(values)):
            marks[i] |= np.uint8(((values[i] >= low) & (values[i] <= high)) == inside)
