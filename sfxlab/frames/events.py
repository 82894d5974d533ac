"""Frames within a file: CrystFEL's events (METHODS.md section 1.3).

An event is written `a/b//3/0`: before the double slash what stands for each `%` of the data path, after it the
indices along each `%` axis of the data array.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sfxlab.frames.growing import current_node

PLACEHOLDER = "%"


def format_event(tags: Sequence[str], indices: Sequence[int]) -> str:
    """CrystFEL's name for an event."""
    return f"{'/'.join(tags)}//{'/'.join(str(i) for i in indices)}"


def parse_event(event: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The path parts and array indices that an event's name stands for. Raises `ValueError` where it is none."""
    left, slashes, right = event.partition("//")
    if not slashes or "_" in right:  # which Python's numbers may have
        raise ValueError(event)
    return tuple(left.split("/")) if left else (), tuple(int(i) for i in right.split("/")) if right else ()


def fill_placeholders(path: str, tags: Sequence[str]) -> str:
    """An HDF5 path with each `%` replaced by a tag, in order; it may have fewer of them than there are tags."""
    if not tags:
        return path
    remaining = iter(tags)
    return "/".join(next(remaining, PLACEHOLDER) if part == PLACEHOLDER else part for part in path.split("/"))


def tags_in(group: h5py.Group, path: str) -> Iterator[tuple[str, ...]]:
    """Every way to fill the `%` of a path so that it leads to a dataset, in the order of names."""
    return _tags_below(group, [part for part in path.split("/") if part])


def _tags_below(node: Any, parts: list[str]) -> Iterator[tuple[str, ...]]:
    if not parts:
        if isinstance(node, h5py.Dataset):
            yield ()
    elif isinstance(node, h5py.Group):
        first, *rest = parts
        if first != PLACEHOLDER:
            yield from _tags_below(_member(node, first), rest)
            return
        for name in sorted(node):
            for tags in _tags_below(_member(node, name), rest):
                yield (name, *tags)


def _member(group: h5py.Group, name: str) -> Any:
    try:
        return current_node(group, name)
    except KeyError:
        return None


@dataclass(frozen=True, eq=False)
class EventRange:
    """Consecutive frames of one file under one set of tags."""

    path: str
    tags: tuple[str, ...]
    """What stands for each `%` of the data path."""
    shape: tuple[int, ...]
    """Sizes of the `%` axes of the data array."""
    events: range | NDArray[np.int64]
    """Numbers of the frames, counted through `shape` in row-major order."""

    def __len__(self) -> int:
        return len(self.events)

    def indices(self, position: int) -> tuple[int, ...]:
        """Indices along the `%` axes of the frame at a position."""
        return tuple(int(i) for i in np.unravel_index(int(self.events[position]), self.shape)) if self.shape else ()

    def event(self, position: int) -> str:
        """The name of the frame at a position."""
        return format_event(self.tags, self.indices(position))

    def part(self, positions: slice) -> EventRange:
        """Some of these frames."""
        events = self.events[positions]
        # A copy, because a view would take the whole array along when pickled.
        return replace(self, events=events if isinstance(events, range) else events.copy())


def all_events(path: str, tags: tuple[str, ...], shape: tuple[int, ...]) -> EventRange:
    """Every frame of an array whose `%` axes have these sizes."""
    return EventRange(path, tags, shape, range(math.prod(shape)))
