"""Virtual datasets: read straight from the files that they refer to, and what of them is missing found.

HDF5 gives a fill value and no error where such a file is missing, reads through one lock, and keeps all files open.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import InputError, UnreachableError
from sfxlab.frames.chunks import Extent, Selection, StoredArray
from sfxlab.frames.remote import beside, is_address


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
        virtual = dataset.virtual_sources()
        sources = [_source(v, dataset.shape) for v in virtual]
        self._sources = [s for s in sources if s is not None]
        self._is_simple = len(self._sources) == len(virtual)
        self._first_axis = np.array([s.target[0] for s in self._sources], dtype=np.int64).reshape(-1, 4)

    @property
    def files(self) -> list[str]:
        """Names of the files that it refers to, as it has them."""
        return sorted({source.file for source in self._sources} - {"."})

    def missing_files(self) -> list[str]:
        """Those of the files that do not exist."""
        return [name for name in self.files if self._existing(name) is None]

    @property
    def first_source(self) -> StoredArray:
        """The first of the datasets that it refers to and that is there; itself where none is."""
        return next((array for s in self._sources if (array := self._array_of(s)) is not None), self)

    def read(self, selection: Selection, out: NDArray[Any], wanted: tuple[Extent, ...] = ()) -> None:
        """Fill `out` with a part, as `StoredArray.read` does."""
        parts = self._parts(selection)
        arrays = [self._array_of(part.source) for part in parts or ()]
        origins = [() if a is None else p.origin(a.dataset.shape) for p, a in zip(parts or (), arrays, strict=True)]
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

    def missing(self, selection: Selection) -> Iterator[tuple[tuple[slice, ...], str]]:
        """The parts of a selection whose source is missing, along its slices, and the files that should have them."""
        for part in self._parts(selection) or ():
            if self._array_of(part.source) is None:
                yield part.target, part.source.file

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


Pattern = tuple[int, int, int, int]
"""Start, stride, count and block of a regular selection along one axis."""


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
        patterns = self.source.origin or tuple((0, size or 1, 1, size) for size in shape)
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
        view: NDArray[Any] = out[tuple(index)]
        return view


@dataclass(frozen=True)
class _Source:
    """A dataset that a virtual one refers to, and which part of it goes where."""

    file: str
    path: str
    target: tuple[Pattern, ...]
    """Along each axis of the virtual dataset."""
    origin: tuple[Pattern, ...]
    """Along each axis of the source, empty where that is all of it."""

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


def _length(pattern: Pattern) -> int:
    return pattern[2] * pattern[3]


def _source(virtual: Any, shape: tuple[int, ...]) -> _Source | None:
    """What h5py says of one source, None where that is not from rectangles to rectangles."""
    target = _patterns(virtual.vspace, shape)
    everything = virtual.src_space.get_select_type() == h5py.h5s.SEL_ALL
    origin = () if everything else _patterns(virtual.src_space, virtual.src_space.shape)
    if target is None or origin is None or "%" in virtual.file_name:
        return None
    return _Source(virtual.file_name, virtual.dset_name, target, origin)


def _patterns(space: Any, shape: tuple[int, ...]) -> tuple[Pattern, ...] | None:
    if space.get_select_type() == h5py.h5s.SEL_ALL:
        return tuple((0, size or 1, 1, size) for size in shape)
    if not space.is_regular_hyperslab():
        return None
    patterns = []
    for start, stride, count, block, size in zip(*space.get_regular_hyperslab(), shape, strict=True):
        if count > size or block > size:
            return None  # unlimited
        joined = stride == block or count == 1
        patterns.append((start, block * count, 1, block * count) if joined else (start, stride, count, block))
    return tuple((int(a), max(int(b), 1), int(c), int(d)) for a, b, c, d in patterns)
