"""Which pixels of a frame are bad: by the geometry, by masks in files, by their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.frames.events import PLACEHOLDER, fill_placeholders
from sfxlab.frames.hdf5_file import OpenFile, OpenFiles
from sfxlab.frames.layout import is_per_frame, mask_selection
from sfxlab.geometry import Geometry
from sfxlab.geometry.geometry import Block, Flag, MaskSource
from sfxlab.geometry.masks import geometry_bad_map, masked, window

Windows = tuple[tuple[slice, slice], ...]


@lru_cache(maxsize=4)
def _geometry_bad(geometry: Geometry) -> NDArray[np.uint8]:
    """The same for every file, and slow where bad regions are given in x and y."""
    return geometry_bad_map(geometry)


def flagged(data: NDArray[Any], flag: Flag) -> NDArray[np.bool_]:
    """True where a pixel value is one that means a bad pixel; the shape of `data`."""
    value: float | int = flag.value
    if data.dtype.kind in "iu" and np.isfinite(value):
        if flag.kind == "equal" and not float(value).is_integer():
            return np.zeros(data.shape, dtype=np.bool_)
        # Whole numbers keep the comparison in the pixels' own type, which is several times faster.
        value = int(np.ceil(value) if flag.kind == "lessthan" else np.floor(value))
    compare = {"lessthan": np.less, "morethan": np.greater, "equal": np.equal}[flag.kind]
    return np.asarray(compare(data, value), dtype=np.bool_)


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
        dataset = file.dataset(fill_placeholders(self.mask.data, tags))
        values = dataset[mask_selection(self.block, dataset, indices)]
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

    def bad(
        self, data: NDArray[Any], files: OpenFiles, path: str, tags: Sequence[str], indices: Sequence[int]
    ) -> NDArray[np.uint8]:
        """The map of bad pixels of a frame, read-only: frames without masks or flags of their own share one.

        Raises `SfxlabError` where a mask is missing or does not fit.
        """
        lasting = self._of_file(files, path)
        per_frame = [r for r in self._readings if not self._is_lasting(r, files, path)]
        if not per_frame and not self._flags and data.dtype.kind != "f":
            return lasting
        bad = self._by_value(data)
        bad |= lasting
        for reading in per_frame:
            reading.mark(bad, files[reading.mask.file or path], tags, indices)
        bad.flags.writeable = False
        return bad

    def check(self, files: OpenFiles, path: str, tags: Sequence[str], indices: Sequence[int]) -> None:
        """Raise `SfxlabError` where a mask of a frame is missing or does not fit, reading none of it."""
        for reading in self._readings:
            dataset = files[reading.mask.file or path].dataset(fill_placeholders(reading.mask.data, tags))
            mask_selection(reading.block, dataset, indices)

    def _by_value(self, data: NDArray[Any]) -> NDArray[np.uint8]:
        """1 where a pixel is flagged or not finite, a new array of the shape of `data`."""
        bad = ~np.isfinite(data) if data.dtype.kind == "f" else None
        for where, flags in self._flags:
            for flag in flags:
                marks = flagged(data[where], flag)
                if bad is None and marks.shape == data.shape:
                    bad = marks
                    continue
                bad = np.zeros(data.shape, dtype=np.bool_) if bad is None else bad
                bad[where] |= marks
        return np.zeros(data.shape, dtype=np.uint8) if bad is None else bad.view(np.uint8)

    def _of_file(self, files: OpenFiles, path: str) -> NDArray[np.uint8]:
        """What is bad in every frame of a file."""
        file = files[path]
        if "bad" not in file.derived:
            bad = _geometry_bad(self._geometry).copy()
            for reading in self._readings:
                if self._is_lasting(reading, files, path):
                    reading.mark(bad, files[reading.mask.file or path], (), (0,) * len(reading.block.dims))
            bad.flags.writeable = False
            file.derived["bad"] = bad
        found: NDArray[np.uint8] = file.derived["bad"]
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


def _flag_windows(geometry: Geometry) -> tuple[tuple[tuple[slice, slice], tuple[Flag, ...]], ...]:
    """Flags and the parts of the slab they apply to: all of it where the panels have the same ones."""
    if len({source.flags for source in geometry.panels}) == 1:
        flags = geometry.panels[0].flags
        return ((np.s_[0 : geometry.shape[0], 0 : geometry.shape[1]], flags),) if flags else ()
    return tuple((window(source.panel), source.flags) for source in geometry.panels if source.flags)
