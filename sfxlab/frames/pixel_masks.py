"""Which pixels of a frame are bad: by the geometry, by masks in files, by their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.frames.events import PLACEHOLDER, fill_placeholders
from sfxlab.frames.flagged_values import FlaggedWindow, with_flagged
from sfxlab.frames.hdf5_file import OpenFile, OpenFiles
from sfxlab.frames.layout import is_per_frame, mask_selection
from sfxlab.geometry import Geometry
from sfxlab.geometry.geometry import Block, MaskSource
from sfxlab.geometry.masks import geometry_bad_map, masked, window

Windows = tuple[tuple[slice, slice], ...]


@lru_cache(maxsize=4)
def _geometry_bad(geometry: Geometry) -> NDArray[np.uint8]:
    """The same for every file, and slow where bad regions are given in x and y."""
    bad = geometry_bad_map(geometry)
    bad.flags.writeable = False
    return bad


@dataclass(frozen=True)
class _MaskReading:
    """A mask array that applies to a block, or to some windows of the slab in it."""

    block: Block
    mask: MaskSource
    windows: Windows

    @property
    def has_placeholder(self) -> bool:
        return PLACEHOLDER in self.mask.data.split("/")

    def mark(self, bad: NDArray[np.uint8], file: OpenFile, tags: Sequence[str], indices: Sequence[int]) -> None:
        """Read the mask and set what it calls bad."""
        array = file.array(fill_placeholders(self.mask.data, tags))
        values = array.part(mask_selection(self.block, array.dataset, indices))
        marks = masked(values, self.mask.good_bits, self.mask.bad_bits)
        top = self.block.row
        for rows, columns in self.windows:
            bad[rows, columns] |= marks[rows.start - top : rows.stop - top, columns]


class PixelMasks:
    """Bad pixels of the frames of one geometry."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._readings = _mask_readings(geometry)
        self._flags = _flag_windows(geometry)
        self._everywhere: NDArray[np.uint8] | None = None

    def bad(
        self, data: NDArray[Any], files: OpenFiles, path: str, tags: Sequence[str], indices: Sequence[int]
    ) -> NDArray[np.uint8]:
        """The map of bad pixels of a frame, read-only: frames without masks or flags of their own share one.

        Raises `SfxlabError` where a mask is missing or does not fit.
        """
        bad = self._of_file(files, path)
        per_frame = [r for r in self._readings if not self._is_lasting(r, files, path)]
        if per_frame:
            bad = bad.copy()
        for reading in per_frame:
            reading.mark(bad, files[reading.mask.file or path], tags, indices)
        return self.with_values(data, bad)

    def with_values(self, data: NDArray[Any], bad: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`bad` with the pixels that are flagged or not finite, read-only; itself where there are none."""
        bad = with_flagged(data, bad, self._flags)
        bad.flags.writeable = False
        return bad

    def check(self, files: OpenFiles, path: str, tags: Sequence[str], indices: Sequence[int]) -> None:
        """Raise `SfxlabError` where a mask of a frame is missing or does not fit, reading none of it."""
        for reading in self._readings:
            dataset = files[reading.mask.file or path].dataset(fill_placeholders(reading.mask.data, tags))
            mask_selection(reading.block, dataset, indices)

    def of_geometry(self, files: OpenFiles) -> NDArray[np.uint8]:
        """What is bad whatever file the frames are in: by the geometry, and by masks in files of their own."""
        if self._everywhere is None:
            elsewhere = [r for r in self._readings if r.mask.file and self._is_lasting(r, files, r.mask.file)]
            self._everywhere = _marked(_geometry_bad(self._geometry), elsewhere, files, "")
        return self._everywhere

    def _of_file(self, files: OpenFiles, path: str) -> NDArray[np.uint8]:
        """What is bad in every frame of a file."""
        derived = files[path].derived
        if "bad" not in derived:
            own = [r for r in self._readings if r.mask.file is None and self._is_lasting(r, files, path)]
            derived["bad"] = _marked(self.of_geometry(files), own, files, path)
        found: NDArray[np.uint8] = derived["bad"]
        return found

    @staticmethod
    def _is_lasting(reading: _MaskReading, files: OpenFiles, path: str) -> bool:
        if reading.has_placeholder:
            return False
        return not is_per_frame(reading.block, files[reading.mask.file or path].dataset(reading.mask.data))


def _mask_readings(geometry: Geometry) -> tuple[_MaskReading, ...]:
    found = []
    for block in geometry.blocks:
        sources = [s for s in geometry.panels if (s.data, s.dims) == (block.data, block.dims)]
        for mask in dict.fromkeys(mask for source in sources for mask in source.masks):
            windows: Windows = tuple(window(s.panel) for s in sources if mask in s.masks)
            if len(windows) == len(sources):
                windows = (np.s_[block.row : block.row + block.rows, 0 : block.columns],)
            found.append(_MaskReading(block, mask, windows))
    return tuple(found)


def _marked(bad: NDArray[np.uint8], readings: Sequence[_MaskReading], files: OpenFiles, path: str) -> NDArray[np.uint8]:
    """`bad` with masks that hold for all frames, read-only; itself where there are none."""
    if readings:
        bad = bad.copy()
        for reading in readings:
            reading.mark(bad, files[reading.mask.file or path], (), (0,) * len(reading.block.dims))
        bad.flags.writeable = False
    return bad


def _flag_windows(geometry: Geometry) -> tuple[FlaggedWindow, ...]:
    """What to compare values with. All of the slab at once for numbers that are not finite, and for flags where the
    panels have the same ones.
    """
    whole = FlaggedWindow(slice(0, geometry.shape[0]), slice(0, geometry.shape[1]))
    if len({source.flags for source in geometry.panels}) == 1:
        return (replace(whole, flags=geometry.panels[0].flags),)
    return whole, *(FlaggedWindow(*window(source.panel), source.flags) for source in geometry.panels if source.flags)
