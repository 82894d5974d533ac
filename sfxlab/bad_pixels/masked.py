"""Frames with learned bad pixels added to those that their files know."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from sfxlab.bad_pixels.learned import read_learned_mask
from sfxlab.errors import RunError
from sfxlab.frames import Frame, FrameId, FrameSequence, FrameSource
from sfxlab.geometry import Detector


def with_learned_mask(frames: FrameSource, path: str | os.PathLike[str]) -> FrameSource:
    """The same frames with the pixels of a learned mask bad besides; themselves where there is no such file.

    They travel to workers with the path alone. Raises `RunError` where the file cannot be read.
    """
    if not os.path.exists(path):
        return frames
    mask = _MaskFile(Path(path).absolute())
    return _MaskedSequence(frames, mask) if isinstance(frames, FrameSequence) else _MaskedFrames(frames, mask)


@lru_cache(maxsize=4)
def _bad(path: Path, modified: int) -> NDArray[np.uint8]:
    return read_learned_mask(path).bad


class _MaskFile:
    """A learned mask that is read where it is wanted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._combined: tuple[Any, Any] = (None, None)

    def __reduce__(self) -> tuple[Any, ...]:
        return _MaskFile, (self._path,)

    def added(self, frame: Frame) -> Frame:
        """The frame with more bad pixels. Frames that share their bad pixels share them afterwards too."""
        before, after = self._combined
        if before is not frame.bad:
            learned = _bad(self._path, os.stat(self._path).st_mtime_ns)
            if learned.shape != frame.bad.shape:
                raise RunError(
                    "the learned mask is of another detector", path=self._path,
                    found=" × ".join(map(str, learned.shape)), expected=" × ".join(map(str, frame.bad.shape)),
                )  # fmt: skip
            after = frame.bad | learned
            after.flags.writeable = False
            self._combined = frame.bad, after
        return replace(frame, bad=after)


class _MaskedSequence(FrameSequence):
    """A `FrameSequence` whose frames have more bad pixels."""

    def __init__(self, frames: FrameSequence, mask: _MaskFile) -> None:
        super().__init__(frames.geometry, frames.numbers)
        self._frames, self._mask = frames, mask

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
        return self._mask.added(self._frames[position])

    def _identity(self, position: int) -> FrameId:
        return self._frames.identity(position)

    def _frame(self, position: int, name: FrameId) -> Frame:
        return self._read(position)

    def _part(self, positions: range) -> Self:
        return type(self)(self._frames._part(positions), self._mask)

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


class _MaskedFrames:
    """A `FrameSource` whose frames have more bad pixels."""

    def __init__(self, frames: FrameSource, mask: _MaskFile) -> None:
        self._frames, self._mask = frames, mask

    def __len__(self) -> int:
        return len(self._frames)

    @overload
    def __getitem__(self, item: int) -> Frame: ...
    @overload
    def __getitem__(self, item: slice) -> FrameSource: ...

    def __getitem__(self, item: int | slice) -> Frame | FrameSource:
        if isinstance(item, slice):
            return _MaskedFrames(self._frames[item], self._mask)
        return self._mask.added(self._frames[item])

    def __iter__(self) -> Iterator[Frame]:
        return map(self._mask.added, self._frames)

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
