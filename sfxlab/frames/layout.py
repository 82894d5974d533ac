"""Which part of which HDF5 dataset goes to which part of the slab."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import h5py
from numpy.typing import NDArray

from sfxlab.errors import GeometryError, InputError
from sfxlab.frames.chunks import Extent, Selection, StoredArray
from sfxlab.frames.events import PLACEHOLDER
from sfxlab.frames.hdf5_file import check_filters
from sfxlab.frames.virtual_data import VirtualArray
from sfxlab.geometry import Geometry
from sfxlab.geometry.geometry import Block, Dims


def readings(geometry: Geometry) -> tuple[Reading, ...]:
    """The reads that fill a slab: one for each block, or for several that lie in one array one after the other."""
    width = geometry.shape[1]
    found: list[Reading] = []
    for block in geometry.blocks:
        if found and block.columns == width and (joined := _joined(found[-1], block)) is not None:
            found[-1] = joined
        else:
            found.append(Reading(block))
    return tuple(replace(reading, wanted=_wanted(geometry, reading)) for reading in found)


def _wanted(geometry: Geometry, reading: Reading) -> tuple[Extent, ...]:
    """Windows of what a reading reads that have panels, none where that is all of it."""
    block = reading.block
    windows: list[Extent] = []
    for p in (source.panel for source in geometry.panels):
        module, row = divmod(p.row - block.row, block.rows)
        if 0 <= module < reading.modules:
            window = ((row, row + p.rows), (p.column, p.column + p.columns))
            windows.append(window if reading.modules == 1 else ((module, module + 1), *window))
    covered = sum(math.prod(end - first for first, end in window) for window in windows)
    return () if covered == reading.modules * block.rows * block.columns else tuple(windows)


def _joined(before: Reading, block: Block) -> Reading | None:
    """The reading extended by a block, where this is its array's next module along the axis before ss."""
    first = before.block
    axis = first.dims.index("ss") - 1
    if axis < 0 or not isinstance(first.dims[axis], int) or first.data != block.data:
        return None
    next_module = int(first.dims[axis]) + before.modules
    expected = (*first.dims[:axis], next_module, *first.dims[axis + 1 :])
    same_size = (block.rows, block.columns) == (first.rows, first.columns)
    return replace(before, modules=before.modules + 1) if same_size and block.dims == expected else None


def check_block(geometry: Geometry, block: Block, dataset: h5py.Dataset) -> None:
    """Raise `GeometryError` or `InputError` where a data array is not what the geometry says of it."""
    path, place = dataset.file.filename, dataset.name
    dims, shape = block.dims, dataset.shape
    if dataset.dtype.kind not in "iuf":
        raise InputError("these are no pixel values", path=path, place=place, found=dataset.dtype, expected="numbers")
    if len(shape) != len(dims):
        raise GeometryError(
            "the data array has another number of axes than the geometry says", path=path, place=place,
            found=f"{len(shape)} axes, {_shape(shape)}",
            expected=f"{len(dims)}: " + ", ".join(f"dim{n} = {value}" for n, value in enumerate(dims)),
            remedy="for frames stacked in one array: dim0 = %, dim1 = ss, dim2 = fs, before the first panel",
        )  # fmt: skip
    for axis, value in enumerate(dims):
        if isinstance(value, int) and value >= shape[axis]:
            raise GeometryError(
                f"dim{axis} = {value} is outside the data array", path=path, place=place,
                found=f"{shape[axis]} along axis {axis} of {_shape(shape)}", expected=f"0 to {shape[axis] - 1}",
                remedy="is this geometry for this detector?",
            )  # fmt: skip
    rows, columns = shape[dims.index("ss")], shape[dims.index("fs")]
    for p in (s.panel for s in geometry.panels if (s.data, s.dims) == (block.data, dims)):
        if p.file_ss + p.rows > rows or p.file_fs + p.columns > columns:
            raise GeometryError(
                f"panel '{p.name}' is outside the data array", path=path, place=place,
                found=f"max_ss = {p.file_ss + p.rows - 1}, max_fs = {p.file_fs + p.columns - 1}",
                expected=f"max_ss below {rows}, max_fs below {columns}",
                remedy=f"is this geometry for this detector? It is from {geometry.path or 'a text'}",
            )  # fmt: skip
    check_filters(dataset, place)


def frame_axes(dims: Dims, shape: Sequence[int]) -> tuple[int, ...]:
    """Sizes of the axes that number frames."""
    return tuple(size for size, value in zip(shape, dims, strict=True) if value == PLACEHOLDER)


def selection_beside(
    block: Block, array: h5py.Dataset, indices: Sequence[int], name: str, key: str, types: str
) -> Selection:
    """The part of an array of masks, or of other values for each pixel, that belongs to a block in one frame.

    The array has the axes of the data, or these without the frames', or ss and fs only. An axis of frames of length 1
    serves all frames. Raises `GeometryError`, which calls it by `name` and `key`, where it is anything else, or of none
    of the kinds `types` of numpy's data types.
    """
    dims = block.dims
    without_frames = tuple(value for value in dims if value != PLACEHOLDER)
    candidates = {2: ("ss", "fs"), len(without_frames): without_frames, len(dims): dims}
    found = candidates.get(array.ndim)
    if found is not None and array.dtype.kind in types:
        rows, columns = array.shape[found.index("ss")], array.shape[found.index("fs")]
        numbers = [i if size > 1 else 0 for i, size in zip(indices, frame_axes(found, array.shape), strict=False)]
        selection = _selection(found, numbers, block.rows, block.columns)
        fixed = all(i < size for i, size in zip(selection, array.shape, strict=True) if isinstance(i, int))
        if rows >= block.rows and columns >= block.columns and fixed:
            return selection
    raise GeometryError(
        f"the {name} does not fit the data", path=array.file.filename, place=array.name,
        found=f"{_shape(array.shape) or 'one value'} of {array.dtype}",
        expected=f"{block.rows} × {block.columns} pixels (ss × fs), or the data array's own axes",
        remedy=f"correct {key} in the geometry file",
    )  # fmt: skip


def is_per_frame(block: Block, array: h5py.Dataset) -> bool:
    """Whether an array beside the data holds one mask, or what else it holds, for each frame."""
    return array.ndim == len(block.dims) and math.prod(frame_axes(block.dims, array.shape)) > 1


def _selection(dims: Dims, indices: Sequence[int], rows: int, columns: int) -> Selection:
    remaining: Iterator[int] = iter(indices)
    extent = {"ss": slice(0, rows), "fs": slice(0, columns)}
    return tuple(
        value if isinstance(value, int) else extent[value] if value in extent else next(remaining) for value in dims
    )


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(str(size) for size in shape)


@dataclass(frozen=True)
class Reading:
    """One read from one dataset: `block`, and the modules that follow it both in the array and in the slab."""

    block: Block
    modules: int = 1
    wanted: tuple[Extent, ...] = ()
    """Windows of it that have panels (`StoredArray.read`)."""

    def missing(self, array: StoredArray, indices: Sequence[int]) -> Iterator[tuple[tuple[slice, ...], str]]:
        """The windows of the slab that a virtual dataset has no pixels for, and the files that should have them."""
        if isinstance(array, VirtualArray):
            for number in range(self.modules):
                yield from self._missing_of_module(array, indices, number)

    def _missing_of_module(
        self, array: VirtualArray, indices: Sequence[int], number: int
    ) -> Iterator[tuple[tuple[slice, ...], str]]:
        block = self.block
        source = list(_selection(block.dims, indices, block.rows, block.columns))
        if number:
            axis = block.dims.index("ss") - 1
            source[axis] = int(block.dims[axis]) + number
        top = block.row + number * block.rows
        for (rows, columns), file in array.missing(tuple(source)):
            yield (slice(top + rows.start, top + rows.stop), columns), file

    def read(self, array: StoredArray, indices: Sequence[int], slab: NDArray[Any]) -> None:
        """Read a frame's pixels, `indices` being those along the `%` axes, straight into the slab."""
        block = self.block
        source = list(_selection(block.dims, indices, block.rows, block.columns))
        rows = slice(block.row, block.row + block.rows * self.modules)
        if self.modules == 1:
            array.read(tuple(source), slab[rows, : block.columns], self.wanted)
            return
        axis = block.dims.index("ss") - 1
        first = int(block.dims[axis])
        source[axis] = slice(first, first + self.modules)
        stack = slab[rows].reshape(self.modules, block.rows, block.columns)
        array.read(tuple(source), stack, self.wanted)
