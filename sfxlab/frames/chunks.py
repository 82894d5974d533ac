"""Reading parts of datasets chunk by chunk, decompressing outside the lock that HDF5 holds while it decompresses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sfxlab.frames.decompression import Bytes, Decompression, decompression

Selection = tuple[int | slice, ...]
"""For each axis of a dataset an index, or a slice with start and stop."""

Extent = tuple[tuple[int, int], ...]
"""First index and the one after the last, along each axis."""


class StoredArray:
    """A dataset, and the fastest way to its parts.

    Chunks in a format that `decompression` knows are decoded here, so that threads do not wait for one another. All
    else is left to h5py: other filters and layouts, unusual types, chunks of several frames (HDF5 keeps these).
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.dataset = dataset

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The type in the file."""
        dtype: np.dtype[Any] = self.dataset.dtype
        return dtype

    @property
    def first_source(self) -> StoredArray:
        """The dataset itself; of a virtual one the first that it refers to."""
        return self

    @cached_property
    def _chunk(self) -> tuple[int, ...]:
        return tuple(self.dataset.chunks or ())

    @cached_property
    def _decompression(self) -> Decompression | None:
        if not self._chunk or self.dtype.kind not in "iufb":
            return None
        if self.dataset.file.swmr_mode:  # where chunks lie changes while the file grows, and HDF5 keeps track of it
            return None
        if self.dataset.id.get_type() != h5py.h5t.py_create(self.dtype, logical=True):
            return None
        settings = self.dataset.id.get_create_plist()
        filters = [settings.get_filter(i) for i in range(settings.get_nfilters())]
        return decompression([(code, values) for code, _, values, _ in filters], self.dtype.itemsize)

    def part(self, selection: Selection) -> NDArray[Any]:
        """A part as a new array, of the type in the file."""
        shape = tuple(s.stop - s.start for s in selection if isinstance(s, slice))
        out: NDArray[Any] = np.empty(shape, dtype=self.dtype)
        self.read(selection, out)
        return out

    def read(self, selection: Selection, out: NDArray[Any], wanted: tuple[Extent, ...] = ()) -> None:
        """Fill `out` with a part; its axes are those of the slices, its type holds the dataset's.

        With `wanted` (windows of `out`), what lies in chunks that touch none of them may be left 0. Raises what h5py
        raises where it cannot be read, `ValueError` where a chunk is damaged.
        """
        if not self._can_decode(selection):
            if out.flags.c_contiguous:
                self.dataset.read_direct(out, selection)
            else:
                out[...] = self.dataset[selection]
            return
        extent = tuple((s.start, s.stop) for s in selection if isinstance(s, slice))
        chunk = tuple(size for size, s in zip(self._chunk, selection, strict=True) if isinstance(s, slice))
        for part in _parts(extent, chunk, wanted):
            if part.wanted:
                starts = iter(part.start)
                self._read_chunk(tuple(next(starts) if isinstance(s, slice) else s for s in selection), part, out)
            else:
                out[part.target] = 0

    def _can_decode(self, selection: Selection) -> bool:
        if self._decompression is None or len(selection) != len(self._chunk):
            return False
        return all(
            0 <= s.start < s.stop <= size if isinstance(s, slice) else chunk == 1 and 0 <= s < size
            for s, size, chunk in zip(selection, self.dataset.shape, self._chunk, strict=True)
        )

    def _read_chunk(self, start: tuple[int, ...], part: _Part, out: NDArray[Any]) -> None:
        target = out[part.target]
        stored = self._stored(start)
        if stored is None:
            target[...] = self.dataset.fillvalue
        elif part.whole and target.flags.c_contiguous and out.dtype == self.dtype:
            self._decode(stored, target)
        else:
            decoded = np.empty(part.chunk, dtype=self.dtype)
            self._decode(stored, decoded)
            target[...] = decoded[part.source]

    def _decode(self, stored: tuple[int, bytes], out: NDArray[Any]) -> None:
        assert self._decompression is not None
        plain: Bytes = out.reshape(-1).view(np.uint8)
        self._decompression.decode(stored[1], stored[0], plain)

    def _stored(self, start: tuple[int, ...]) -> tuple[int, bytes] | None:
        """The filters that a chunk was written without and its bytes, None where it was never written."""
        try:
            skipped, stored = self.dataset.id.read_direct_chunk(start)
        except MemoryError as error:
            raise ValueError("a damaged chunk: its length is impossible") from error
        except (OSError, RuntimeError, ValueError):
            # Asking first would make HDF5 go through the table of all chunks.
            if self.dataset.id.get_chunk_info_by_coord(start).byte_offset is None:
                return None
            raise
        return skipped, stored


@dataclass(frozen=True)
class _Part:
    """What a chunk has of a part; axes are those of the part."""

    start: tuple[int, ...]
    """Of the chunk, in the dataset."""
    chunk: tuple[int, ...]
    """Shape of the chunk."""
    source: tuple[slice, ...]
    """In the chunk."""
    target: tuple[slice, ...]
    """In the part."""
    wanted: bool

    @property
    def whole(self) -> bool:
        """Whether all of the chunk belongs to the part."""
        return all(s.stop - s.start == size for s, size in zip(self.source, self.chunk, strict=True))


@lru_cache(maxsize=256)
def _parts(extent: Extent, chunk: tuple[int, ...], wanted: tuple[Extent, ...]) -> tuple[_Part, ...]:
    """The chunks that a part of a dataset lies in."""
    return tuple(_generate_parts(extent, chunk, wanted))


def _generate_parts(extent: Extent, chunk: tuple[int, ...], wanted: tuple[Extent, ...]) -> Iterator[_Part]:
    starts = [range(first - first % size, end, size) for (first, end), size in zip(extent, chunk, strict=True)]
    for start in product(*starts):
        source, target = [], []
        for at, size, (first, end) in zip(start, chunk, extent, strict=True):
            low, high = max(at, first), min(at + size, end)
            source.append(slice(low - at, high - at))
            target.append(slice(low - first, high - first))
        yield _Part(start, chunk, tuple(source), tuple(target), not wanted or any(_meet(target, w) for w in wanted))


def _meet(target: list[slice], window: Extent) -> bool:
    return all(t.start < end and first < t.stop for t, (first, end) in zip(target, window, strict=True))
