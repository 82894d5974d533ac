"""Which frames to try settings on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfxlab.frames import FrameSource
from sfxlab.tuning.trial import FramesToTry

_FRAMES_IN_PART = 8
"""Frames in a task: the settings make each of them a second of work or so."""


@dataclass(frozen=True)
class Sample:
    """Frames that stand for all those that were looked at."""

    numbers: NDArray[np.int64]
    """In the whole data set, (n_frames,)."""
    promising: NDArray[np.bool_]
    """Whether some of the settings tried first found a lattice, (n_frames,)."""
    weights: NDArray[np.float64]
    """For how many frames that were looked at each of them stands, (n_frames,)."""
    looked_at: int
    """Frames that the sample was drawn from."""


def spread_order(n: int, most: int) -> list[int]:
    """At most so many of n numbers in an order any beginning of which is evenly spread (van der Corput's sequence)."""
    bits = max(1, math.ceil(math.log2(max(n, 2))))
    chosen: dict[int, None] = {}
    for i in range(2**bits):
        if len(chosen) >= min(n, most):
            break
        reversed_bits = int(f"{i:0{bits}b}"[::-1], 2)
        chosen[reversed_bits * n >> bits] = None
    return list(chosen)


def parts_of(frames: FrameSource, numbers: Sequence[int]) -> list[FramesToTry]:
    """Frames by their numbers, in parts that lie together."""
    ordered = sorted(numbers)
    return list(_parts(frames, ordered))


def _parts(frames: FrameSource, ordered: Sequence[int]) -> Iterator[FramesToTry]:
    for first in range(0, len(ordered), _FRAMES_IN_PART):
        group = ordered[first : first + _FRAMES_IN_PART]
        yield FramesToTry(frames[group[0] : group[-1] + 1], tuple(i - group[0] for i in group), group[0])


def everything(n: int) -> Sample:
    """All of n frames."""
    return Sample(np.arange(n), np.zeros(n, dtype=np.bool_), np.ones(n), n)


def drawn(promising: Sequence[int], others: Sequence[int], most: int) -> Sample:
    """At most `most` of the promising frames, and as many others as there are of these, as they come.

    Both are evenly spread where they come in a `spread_order`.
    """
    first, second = promising[:most], others[: max(min(len(promising), most), _FRAMES_IN_PART)]
    numbers = np.array([*first, *second], dtype=np.int64)
    flags = np.arange(len(numbers)) < len(first)
    weights = np.where(flags, len(promising) / max(len(first), 1), len(others) / max(len(second), 1))
    order = np.argsort(numbers)
    return Sample(numbers[order], flags[order], weights[order], len(promising) + len(others))
