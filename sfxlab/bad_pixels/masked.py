"""Frames with learned bad pixels added to those that their files know."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.bad_pixels.learned import read_learned_mask
from sfxlab.errors import RunError
from sfxlab.frames import Frame, FrameSource
from sfxlab.frames.changed import changed_frames


def with_learned_mask(frames: FrameSource, path: str | os.PathLike[str]) -> FrameSource:
    """The same frames with the pixels of a learned mask bad besides; themselves where there is no such file.

    They travel to workers with the path alone. Raises `RunError` where the file cannot be read.
    """
    if not os.path.exists(path):
        return frames
    return changed_frames(frames, _MaskFile(Path(path).absolute()))


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

    def __call__(self, frame: Frame) -> Frame:
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
