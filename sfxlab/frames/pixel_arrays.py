"""Arrays beside the data that have a value for each pixel, for one frame or for all: masks, saturation values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import InputError
from sfxlab.frames.events import PLACEHOLDER, fill_placeholders
from sfxlab.frames.hdf5_file import READ_ERRORS, OpenFiles, check_filters
from sfxlab.frames.layout import is_per_frame, selection_beside
from sfxlab.frames.virtual_data import VirtualArray
from sfxlab.geometry import Geometry, PanelSource
from sfxlab.geometry.geometry import Block
from sfxlab.geometry.masks import window

Windows = tuple[tuple[slice, slice], ...]
_Source = TypeVar("_Source")


@dataclass(frozen=True)
class PixelArray:
    """An array that applies to a block, or to some windows of the slab in it."""

    name: str
    """What it is, for messages."""
    key: str
    """Its key in a geometry file, for messages."""
    types: str
    """Kinds of numpy's data types that it may have."""
    block: Block
    data: str
    """HDF5 path; `%` stands for the frame's own part."""
    file: str | None
    """HDF5 file; the data file where None."""
    windows: Windows

    def is_lasting(self, files: OpenFiles, path: str) -> bool:
        """Whether it is the same for all frames of a data file."""
        if PLACEHOLDER in self.data.split("/"):
            return False
        return not is_per_frame(self.block, files[self.file or path].dataset(self.data))

    def check(self, files: OpenFiles, path: str, tags: Sequence[str], indices: Sequence[int]) -> None:
        """Raise `SfxlabError` where what belongs to a frame is missing or does not fit, reading none of it."""
        dataset = files[self.file or path].dataset(fill_placeholders(self.data, tags))
        selection_beside(self.block, dataset, indices, self.name, self.key, self.types)

    def parts(
        self, files: OpenFiles, path: str, tags: Sequence[str], indices: Sequence[int]
    ) -> Iterator[tuple[tuple[slice, slice], NDArray[Any], NDArray[np.bool_]]]:
        """The windows, each with the values of its pixels in a frame, and where a virtual dataset has no such values.

        Raises `SfxlabError` where the array is missing, damaged or does not fit.
        """
        place = fill_placeholders(self.data, tags)
        array = files[self.file or path].array(place)
        selection = selection_beside(self.block, array.dataset, indices, self.name, self.key, self.types)
        try:
            values = array.part(selection)
        except READ_ERRORS as error:
            check_filters(array.dataset, place)
            raise InputError(
                f"the {self.name} cannot be read", path=self.file or path, place=place, found=str(error),
                remedy="the file is damaged here; copy it again",
            ) from error  # fmt: skip
        missing = np.zeros(values.shape, dtype=bool)
        for where, _ in array.missing(selection) if isinstance(array, VirtualArray) else ():
            missing[where] = True
        top = self.block.row
        for rows, columns in self.windows:
            part = np.s_[rows.start - top : rows.stop - top, columns]
            yield (rows, columns), values[part], missing[part]


def sources_by_block(
    geometry: Geometry, of_panel: Callable[[PanelSource], Iterable[_Source]]
) -> Iterator[tuple[_Source, Block, Windows]]:
    """What panels name, each once for each block, with the windows of the panels that name it.

    It is one window where all panels of the block do.
    """
    for block in geometry.blocks:
        panels = [s for s in geometry.panels if (s.data, s.dims) == (block.data, block.dims)]
        for source in dict.fromkeys(source for panel in panels for source in of_panel(panel)):
            windows: Windows = tuple(window(p.panel) for p in panels if source in of_panel(p))
            if len(windows) == len(panels):
                windows = (np.s_[block.row : block.row + block.rows, 0 : block.columns],)
            yield source, block, windows
