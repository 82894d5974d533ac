"""Frames that carry what spots look like in their run."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from sfxlab.errors import RunError
from sfxlab.frames.changed import changed_frames
from sfxlab.frames.frame import Frame, FrameSource
from sfxlab.frames.spot_profiles import SpotProfiles, read_spot_profiles


def with_profiles(frames: FrameSource, path: str | os.PathLike[str]) -> FrameSource:
    """The same frames with learned profiles; themselves where there is no such file.

    They travel to workers with the path alone. Raises `RunError` where the file cannot be read.
    """
    return changed_frames(frames, _ProfileFile(Path(path).absolute())) if os.path.exists(path) else frames


@lru_cache(maxsize=4)
def _profiles(path: Path, modified: int) -> SpotProfiles:
    return read_spot_profiles(path)


@dataclass(frozen=True)
class _ProfileFile:
    """Learned profiles that are read where they are wanted."""

    path: Path

    def __call__(self, frame: Frame) -> Frame:
        profiles = _profiles(self.path, os.stat(self.path).st_mtime_ns)
        if len(profiles.offsets) != len(frame.detector.panels):
            raise RunError(
                "the spot profiles are of another detector", path=self.path,
                found=f"{len(profiles.offsets)} panels", expected=f"{len(frame.detector.panels)} panels",
            )  # fmt: skip
        return replace(frame, profiles=profiles)
