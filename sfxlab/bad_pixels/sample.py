"""Which frames bad pixels are learned from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sfxlab.bad_pixels.tally import MOST_FRAMES, PixelTally, tally_frames
from sfxlab.errors import SfxlabError
from sfxlab.frames import Frame, FrameSource
from sfxlab.frames.hdf5_file import open_hdf5

_FRAMES_IN_PART = 4
"""At least, to see whether values change."""
LEARNED = "learned_bad_pixels"
"""Attribute of an HDF5 file whose masks already hold what was learned from more frames than it has."""

MOST_PARTS = 16
"""What does not repeat over several parts of the run is not a pixel's own doing."""


@dataclass(frozen=True)
class Part:
    """Some frames of the sample that lie together in the run; travels to a worker without pixels."""

    frames: FrameSource
    positions: tuple[int, ...]
    """Of the frames of the sample."""

    def tally(self) -> PixelTally | None:
        """What the pixels did in these frames; those that cannot be read are left out."""
        return tally_frames(self._readable())

    def _readable(self) -> Iterator[Frame]:
        for position in self.positions:
            try:
                yield self.frames[position]
            except SfxlabError:
                continue  # it becomes a row with a reason when the run comes to it


def parts_of_sample(frames: FrameSource, most_frames: int) -> list[Part]:
    """The sample: at most so many frames, evenly spread over the run, in parts. It depends on nothing else.

    A frame that is listed more than once counts once, as it says nothing new.
    """
    count = min(most_frames, len(frames), MOST_PARTS * MOST_FRAMES)
    spread = np.linspace(0, len(frames) - 1, count).round().astype(int).tolist()
    chosen = sorted({frames.identity(index): index for index in reversed(spread)}.values())
    count = len(chosen)
    length = max(-(-count // MOST_PARTS), _FRAMES_IN_PART)
    groups = [chosen[first : first + length] for first in range(0, count, length)]
    return [Part(frames[group[0] : group[-1] + 1], tuple(i - group[0] for i in group)) for group in groups]


def learned_before(frames: FrameSource) -> bool:
    """Whether the files say that their masks already hold what was learned, from all frames of the run they are of."""
    return bool(frames.paths) and all(_says_so(path) for path in frames.paths)


def _says_so(path: str) -> bool:
    try:
        with open_hdf5(path) as file:
            return bool(file.attrs.get(LEARNED))
    except (SfxlabError, OSError):
        return False  # images and folders say nothing
