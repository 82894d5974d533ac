"""Virtual datasets: read straight from the files that they refer to, and what of them is missing found.

HDF5 gives a fill value and no error where such a file is missing, reads through one lock, and keeps all files open.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import InputError, SfxlabWarning, UnreachableError
from sfxlab.frames.chunks import Extent, Selection, StoredArray
from sfxlab.frames.growing import is_growing, length_written
from sfxlab.remote.addresses import beside, is_address


class SourceFile(Protocol):
    """An open HDF5 file."""

    def array(self, path: str) -> StoredArray:
        """A dataset by its HDF5 path. Raises `InputError` where there is none."""
        ...


class SourceFiles(Protocol):
    """Open HDF5 files by path."""

    def __getitem__(self, path: str) -> SourceFile: ...


class VirtualArray(StoredArray):
    """A virtual dataset. What a selection has no source for, or whose source is missing, is the fill value."""

    def __init__(self, dataset: h5py.Dataset, files: SourceFiles) -> None:
        super().__init__(dataset)
        self._files = files
        self._folder = os.path.dirname(dataset.file.filename)
        self._own_path = dataset.file.filename
        self._sources = [source for virtual in dataset.virtual_sources() for source in _sources(virtual, dataset.shape)]
        self._is_simple = all(source.origin is not None for source in self._sources)
        self._first_axis = np.array([s.target[0] for s in self._sources], dtype=np.int64).reshape(-1, 4)

    @property
    def files(self) -> list[str]:
        """Names of the files that it refers to, as it has them."""
        return sorted({source.file for source in self._sources} - {"."})

    def missing_files(self) -> list[str]:
        """Those of the files that do not exist."""
        return [name for name in self.files if self._existing(name) is None]

    def sources(self) -> Iterator[tuple[str, str]]:
        """The file and the HDF5 path of each dataset that it refers to, also where there is no such file."""
        for file, path in dict.fromkeys((source.file, source.path) for source in self._sources):
            existing = self._own_path if file == "." else self._existing(file)
            yield existing or os.path.join(self._folder, file), path

    @property
    def first_source(self) -> StoredArray:
        """The first of the datasets that it refers to and that is there; itself where none is."""
        return next((array for s in self._sources if (array := self._array_of(s)) is not None), self)

    def read(self, selection: Selection, out: NDArray[Any], wanted: tuple[Extent, ...] = ()) -> None:
        """Fill `out` with a part, as `StoredArray.read` does."""
        parts = self._parts(selection)
        arrays = [self._array_of(part.source) for part in parts or ()]
        origins = [() if a is None else p.origin(a.dataset.shape) for p, a in zip(parts or (), arrays, strict=True)]
        arrays = [a if a is None or _reaches(a, o) else None for a, o in zip(arrays, origins, strict=True)]
        if parts is None or None in origins:
            if is_address(self._own_path):
                raise InputError(
                    "this virtual dataset cannot be read over the network", path=self._own_path,
                    place=self.dataset.name, expected="one made of rectangles of other datasets",
                    remedy="copy the files",
                )  # fmt: skip
            super().read(selection, out)
            return
        if sum(out[part.target].size for part in parts) < out.size:
            out[...] = self.dataset.fillvalue
        for part, array, origin in zip(parts, arrays, origins, strict=True):
            if array is None or origin is None:
                out[part.target] = self.dataset.fillvalue
            else:
                view = part.view(out)
                array.read(origin, view, wanted if view.shape == out.shape else ())

    def numbers(self) -> NDArray[Any]:
        """All of it, NaN where the source is missing."""
        whole = tuple(slice(0, size) for size in self.dataset.shape)
        values, missing = self.part(whole), [place for place, _ in self.missing(whole)]
        if missing:
            values = values.astype(np.float64)
        for place in missing:
            values[place] = np.nan
        return values

    def missing(self, selection: Selection) -> Iterator[tuple[tuple[slice, ...], str]]:
        """The parts of a selection whose source is missing, along its slices, and the files that should have them."""
        for number in self._along_first_axis(selection[0]):
            source = self._sources[number]
            extents = list(source.extents(selection))
            if not extents:
                continue
            array, part = self._array_of(source), source.part(selection)
            if array is None or (part is not None and not _reaches(array, part.origin(array.dataset.shape))):
                yield from ((extent, source.file) for extent in extents)

    def length_written(self, axis: int) -> int | None:
        """Length along an axis up to what is not in a source yet; None where none of them is being written.

        A file that is not there is taken for one that is still to come, where others are being written.
        """
        found = {name: self._existing(name) for name in self.files}
        unfinished = {name for name, path in found.items() if path is None or is_growing(path)}
        if not any(found[name] for name in unfinished):
            return None
        end = int(self.dataset.shape[axis])
        for source in self._sources:
            if source.file in unfinished:
                array = self._array_of(source)
                end = min(end, source.first_missing(axis, 0 if array is None else length_written(array.dataset, 0)))
        return end

    def _parts(self, selection: Selection) -> list[_Part] | None:
        """Where the parts of a selection come from; None where HDF5 has to work that out."""
        if not self._is_simple:
            return None
        parts = []
        for number in self._along_first_axis(selection[0]):
            part = self._sources[number].part(selection)
            if part is None:
                return None
            if all(s.start < s.stop for s in part.target):
                parts.append(part)
        return parts

    def _along_first_axis(self, wanted: int | slice) -> Any:
        """Numbers of the sources that may have a selection, by its first axis alone."""
        if isinstance(wanted, slice):
            return range(len(self._sources))
        start, stride, count, block = self._first_axis.T
        number, rest = np.divmod(wanted - start, stride)
        return np.flatnonzero((number >= 0) & (number < count) & (rest < block))

    def _array_of(self, source: _Source) -> StoredArray | None:
        path = self._own_path if source.file == "." else self._existing(source.file)
        if path is None:
            return None
        try:
            return self._files[path].array(source.path)
        except UnreachableError:
            raise
        except InputError:
            return None

    def _existing(self, name: str) -> str | None:
        """Where HDF5 finds a source: at its path from the folder of the virtual dataset, or just in that folder."""
        if is_address(self._folder):
            return beside(self._own_path, name)
        places = (os.path.join(self._folder, name), os.path.join(self._folder, os.path.basename(name)), name)
        return next((place for place in places if os.path.isfile(place)), None)


def check_sources(array: StoredArray, consequence: str) -> None:
    """Warn where files that a virtual dataset refers to are missing, with what follows from it.

    HDF5 silently gives a fill value for what is in them. Raises `InputError` where all of them are missing.
    """
    if not isinstance(array, VirtualArray) or not (missing := array.missing_files()):
        return
    path, place = array.dataset.file.filename, array.dataset.name
    if len(missing) == len(array.files):
        raise InputError(
            "all files that this virtual dataset refers to are missing", path=path, place=place,
            found=f"no {missing[0]}", expected="that file beside this one", remedy="copy the data files too",
        )  # fmt: skip
    warnings.warn(
        f"{path}, {place}: {len(missing)} of the {len(array.files)} files that it refers to are missing "
        f"({missing[0]}…); {consequence}",
        SfxlabWarning,
        stacklevel=3,
    )


Pattern = tuple[int, int, int, int]
"""Start, stride, count and block of a regular selection along one axis."""

_END = 2**63


@dataclass(frozen=True)
class _Part:
    """A part of a selection that comes from one source."""

    source: _Source
    inner: Selection
    """Where it is among what the source fills, along the axes of the virtual dataset."""
    target: tuple[slice, ...]
    """Along the slices of the selection in the virtual dataset."""

    def origin(self, shape: tuple[int, ...]) -> Selection | None:
        """Where it is in the source, a dataset of this shape; None where that is no simple rectangle."""
        if self.source.origin is None:
            return None
        patterns = self.source.origin or self.source.whole(shape)
        long = [axis for axis, pattern in enumerate(self.source.target) if _length(pattern) > 1]
        if [_length(pattern) for pattern in patterns if _length(pattern) > 1] != [
            _length(self.source.target[axis]) for axis in long
        ]:
            return None
        along = iter(long)
        found: list[int | slice] = []
        for start, stride, count, block in patterns:
            steps = self.inner[next(along)] if count * block > 1 else 0
            if isinstance(steps, int):
                found.append(start + steps // block * stride + steps % block)
            elif count == 1:
                found.append(slice(start + steps.start, start + steps.stop))
            else:
                return None
        return tuple(found)

    def view(self, out: NDArray[Any]) -> NDArray[Any]:
        """The part of an array for the selection, without the axes along which a source has only one index."""
        sliced = (axis for axis, s in enumerate(self.inner) if isinstance(s, slice))
        lengths = {axis: _length(pattern) for axis, pattern in enumerate(self.source.target)}
        index = (s if lengths[axis] > 1 else s.start for axis, s in zip(sliced, self.target, strict=True))
        view: NDArray[Any] = out[(*index, ...)]  # a view also of a single element
        return view


@dataclass(frozen=True)
class _Source:
    """A dataset that a virtual one refers to, and which part of it goes where."""

    file: str
    path: str
    target: tuple[Pattern, ...]
    """Along each axis of the virtual dataset."""
    origin: tuple[Pattern, ...] | None
    """Along each axis of the source, empty where that is all of it; None where only HDF5 knows."""

    def part(self, selection: Selection) -> _Part | None:
        """What it has of a selection, with an empty target where nothing; None where that is no simple rectangle."""
        inner: list[int | slice] = []
        target: list[slice] = []
        for wanted, (start, stride, count, block) in zip(selection, self.target, strict=True):
            if isinstance(wanted, slice):
                if count != 1:
                    return None
                first = max(wanted.start, start)
                stop = max(min(wanted.stop, start + block), first)
                target.append(slice(first - wanted.start, stop - wanted.start))
                inner.append(slice(first - start, stop - start))
            else:
                number, rest = divmod(wanted - start, stride)
                if not (0 <= number < count and rest < block):
                    return _Part(self, (), (slice(0, 0),))
                inner.append(number * block + rest)
        return _Part(self, tuple(inner), tuple(target))

    def whole(self, shape: tuple[int, ...]) -> tuple[Pattern, ...]:
        """All of the source, of this shape now, with as many frames as it should have in the end."""
        lengths = tuple(_length(pattern) for pattern in self.target)
        if len(lengths) != len(shape):
            lengths = tuple(length for length in lengths if length > 1)
        is_stack = len(lengths) == len(shape) and lengths[1:] == shape[1:]
        return tuple((0, size or 1, 1, size) for size in (lengths if is_stack else shape))

    def first_missing(self, axis: int, length: int) -> int:
        """The first index along an axis for which the source, this long along its own first one, has nothing."""
        start, stride, count, block = target = self.target[axis]
        frames = self.origin[0] if self.origin else (0, _length(target), 1, _length(target))
        there = _count_below(frames, length) if _length(frames) == _length(target) else length and _length(target)
        return start + there // block * stride + there % block if there < count * block else _END

    def extents(self, selection: Selection) -> Iterator[tuple[slice, ...]]:
        """The parts of a selection that it fills, along the slices of the selection."""
        along: list[list[slice]] = []
        for wanted, (start, stride, count, block) in zip(selection, self.target, strict=True):
            if isinstance(wanted, slice):
                firsts = range(start, start + count * stride, stride)
                ends = ((max(first, wanted.start), min(first + block, wanted.stop)) for first in firsts)
                along.append([slice(a - wanted.start, b - wanted.start) for a, b in ends if a < b])
            else:
                number, rest = divmod(wanted - start, stride)
                if not (0 <= number < count and rest < block):
                    return
        yield from product(*along)


def _length(pattern: Pattern) -> int:
    return pattern[2] * pattern[3]


def _count_below(pattern: Pattern, end: int) -> int:
    """How many indices of a pattern come before one."""
    start, stride, count, block = pattern
    number, rest = divmod(max(end - start, 0), stride)
    return min(number * block + min(rest, block), count * block)


def _reaches(array: StoredArray, origin: Selection | None) -> bool:
    """Whether a source is as large as the virtual dataset takes it to be."""
    ends = [s.stop if isinstance(s, slice) else s + 1 for s in origin or ()]
    return all(end <= size for end, size in zip(ends, array.dataset.shape, strict=False))


def _sources(virtual: Any, shape: tuple[int, ...]) -> Iterator[_Source]:
    """What h5py says of one source; several where each block has a file or dataset of its own, `%b` in its name."""
    file, path = virtual.file_name, virtual.dset_name
    target, is_limited = _patterns(virtual.vspace, shape)
    if "%" not in file + path:
        everything = virtual.src_space.get_select_type() == h5py.h5s.SEL_ALL
        origin, is_simple = ((), True) if everything else _patterns(virtual.src_space, virtual.src_space.shape)
        yield _Source(file, path, target, origin if is_limited and is_simple else None)
        return
    axis = int(np.argmax([count for _, _, count, _ in target]))
    start, stride, count, block = target[axis]
    for number in range(count):
        own = (*target[:axis], (start + number * stride, block, 1, block), *target[axis + 1 :])
        yield _Source(_numbered(file, number), _numbered(path, number), own, None)


def _numbered(name: str, block: int) -> str:
    """The name that the `%b` in a name stands for (HDF5's `H5Pset_virtual`)."""
    return re.sub("%[%b]", lambda found: "%" if found[0] == "%%" else str(block), name)


def _patterns(space: Any, shape: tuple[int, ...]) -> tuple[tuple[Pattern, ...], bool]:
    """A selection along each axis, and whether it is one of rectangles that end; otherwise it is what surrounds it."""
    if space.get_select_type() == h5py.h5s.SEL_ALL:
        return tuple((0, size or 1, 1, size) for size in shape), True
    if not space.is_regular_hyperslab():
        first, last = space.get_select_bounds()
        return tuple((a, b + 1 - a, 1, b + 1 - a) for a, b in zip(first, last, strict=True)), False
    patterns, ends = [], True
    for start, stride, count, block, size in zip(*space.get_regular_hyperslab(), shape, strict=True):
        if count > size or block > size:  # unlimited
            ends = False
            block = min(block, max(size - start, 0))
            count = min(count, -(-(size - start) // max(stride, 1))) if start < size else 0
        joined = ends and (stride == block or count == 1)
        patterns.append((start, block * count, 1, block * count) if joined else (start, stride, count, block))
    return tuple((int(a), max(int(b), 1), int(c), int(d)) for a, b, c, d in patterns), ends
