"""Frames with something done to each as it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Self, overload

from sfxlab.frames.frame import Frame, FrameId, FrameSource
from sfxlab.frames.sequence import FrameSequence
from sfxlab.geometry import Detector

Change = Callable[[Frame], Frame]
"""Something that can be pickled."""


def changed_frames(frames: FrameSource, change: Change) -> FrameSource:
    """The same frames with a change made to each when it is read."""
    return _ChangedSequence(frames, change) if isinstance(frames, FrameSequence) else _ChangedFrames(frames, change)


class _ChangedSequence(FrameSequence):
    """A `FrameSequence` whose frames are changed."""

    def __init__(self, frames: FrameSequence, change: Change) -> None:
        super().__init__(frames.geometry, frames.numbers)
        self._frames, self._change = frames, change

    @property
    def paths(self) -> tuple[str, ...]:
        return self._frames.paths

    @property
    def files(self) -> tuple[str, ...]:
        return self._frames.files

    @property
    def detector(self) -> Detector:
        return self._frames.detector

    def _read(self, position: int) -> Frame:
        return self._change(self._frames[position])

    def _identity(self, position: int) -> FrameId:
        return self._frames.identity(position)

    def _frame(self, position: int, name: FrameId) -> Frame:
        return self._read(position)

    def _part(self, positions: range) -> Self:
        return type(self)(self._frames._part(positions), self._change)

    def _photon_energy(self, position: int) -> float:
        return self._frames._photon_energy(position)

    @property
    def _compression(self) -> str:
        return self._frames._compression

    @property
    def _positions_of_known_energy(self) -> Sequence[int]:
        return self._frames._positions_of_known_energy

    def _doubts_about_files(self) -> Iterator[str]:
        return self._frames._doubts_about_files()


class _ChangedFrames:
    """A `FrameSource` whose frames are changed."""

    def __init__(self, frames: FrameSource, change: Change) -> None:
        self._frames, self._change = frames, change

    def __len__(self) -> int:
        return len(self._frames)

    @overload
    def __getitem__(self, item: int) -> Frame: ...
    @overload
    def __getitem__(self, item: slice) -> FrameSource: ...

    def __getitem__(self, item: int | slice) -> Frame | FrameSource:
        if isinstance(item, slice):
            return _ChangedFrames(self._frames[item], self._change)
        return self._change(self._frames[item])

    def __iter__(self) -> Iterator[Frame]:
        return map(self._change, self._frames)

    def identity(self, index: int) -> FrameId:
        return self._frames.identity(index)

    @property
    def paths(self) -> tuple[str, ...]:
        return self._frames.paths

    @property
    def files(self) -> tuple[str, ...]:
        return self._frames.files

    @property
    def geometry_text(self) -> str:
        return self._frames.geometry_text

    @property
    def detector(self) -> Detector:
        return self._frames.detector
