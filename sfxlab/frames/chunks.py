"""Reading parts of datasets chunk by chunk, decompressing outside the lock that HDF5 holds while it decompresses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sfxlab.frames.buffers import BUFFERS
from sfxlab.frames.checksums import CHECKSUM, CHECKSUM_SIZE
from sfxlab.frames.chunk_places import ChunkPlaces, chunk_places
from sfxlab.frames.decompression import Bytes, Decompression, decompression

Selection = tuple[int | slice, ...]
"""For each axis of a dataset an index, or a slice with start and stop."""

_MOST_KEPT = 2**28
"""Bytes that a thread keeps of a dataset."""

Extent = tuple[tuple[int, int], ...]
"""First index and the one after the last, along each axis."""


class StoredArray:
    """A dataset, and the fastest way to its parts.

    Chunks in a format that `decompression` knows are decoded here, so that threads do not wait for one another. Of
    chunks of several frames each thread keeps those of its last frame, up to 256 MiB. All else is left to h5py: other
    filters and layouts, unusual types.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.dataset = dataset
        self._kept = _Kept()

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
        return decompression(self._filters, self.dtype.itemsize)

    @cached_property
    def _filters(self) -> list[tuple[int, tuple[int, ...]]]:
        """Numbers of the filters, and their parameters."""
        settings = self.dataset.id.get_create_plist()
        filters = [settings.get_filter(i) for i in range(settings.get_nfilters())]
        return [(code, values) for code, _, values, _ in filters]

    def part(self, selection: Selection) -> NDArray[Any]:
        """A part as a new array, of the type in the file."""
        shape = tuple(s.stop - s.start for s in selection if isinstance(s, slice))
        out = BUFFERS.array(shape, self.dtype)
        self.read(selection, out)
        return out

    def read(self, selection: Selection, out: NDArray[Any], wanted: tuple[Extent, ...] = ()) -> None:
        """Fill `out` with a part; its axes are those of the slices, its type holds the dataset's.

        With `wanted` (windows of `out`), what lies in chunks that touch none of them may be left 0. Raises what h5py
        raises where it cannot be read, `ValueError` where a chunk is damaged.
        """
        if not self._can_decode(selection):
            self._refuse_short_chunks(selection)
            if out.flags.c_contiguous:
                self.dataset.read_direct(out, selection)
            else:
                out[...] = self.dataset[selection]
            return
        extent = tuple((s.start, s.stop) for s in selection if isinstance(s, slice))
        chunk = tuple(size for size, s in zip(self._chunk, selection, strict=True) if isinstance(s, slice))
        for part in _parts(extent, chunk, wanted):
            if part.wanted:
                self._read_chunk(selection, part, out)
            else:
                out[part.target] = 0

    def _can_decode(self, selection: Selection) -> bool:
        if self._decompression is None or len(selection) != len(self._chunk):
            return False
        return all(
            0 <= s.start < s.stop <= size if isinstance(s, slice) else 0 <= s < size
            for s, size in zip(selection, self.dataset.shape, strict=True)
        )

    def _read_chunk(self, selection: Selection, part: _Part, out: NDArray[Any]) -> None:
        starts, sources, target = iter(part.start), iter(part.source), out[part.target]
        axes = list(zip(selection, self._chunk, strict=True))
        start = tuple(next(starts) if isinstance(s, slice) else s - s % size for s, size in axes)
        shared = any(size > 1 for s, size in axes if not isinstance(s, slice))
        if part.whole and not shared and target.flags.c_contiguous and out.dtype == self.dtype:
            if not self._decoded(start, target):
                target[...] = self.dataset.fillvalue
            return
        decoded = self._kept.chunk(start) if shared else None
        if decoded is None:
            decoded = BUFFERS.array(self._chunk, self.dtype)
            if not self._decoded(start, decoded):
                target[...] = self.dataset.fillvalue
                return
            if shared:
                self._kept.keep(start, decoded)
        target[...] = decoded[tuple(next(sources) if isinstance(s, slice) else s % size for s, size in axes)]

    def _decoded(self, start: tuple[int, ...], out: NDArray[Any]) -> bool:
        """Fill an array with a whole chunk, and say whether there is one."""
        stored = self._stored(start)
        if stored is None:
            return False
        assert self._decompression is not None
        self._decompression.decode(stored[1], stored[0], out.reshape(-1).view(np.uint8))
        return True

    def _refuse_short_chunks(self, selection: Selection) -> None:
        """Raise `ValueError` for what HDF5 does not survive: a part with a chunk that has no room for its checksum."""
        for start in self._short_chunks:
            axes = zip(selection, start, self._chunk, strict=True)
            if all(s.start < at + n and at < s.stop if isinstance(s, slice) else at <= s < at + n for s, at, n in axes):
                raise ValueError("a damaged chunk: it is shorter than its checksum")

    @cached_property
    def _short_chunks(self) -> list[tuple[int, ...]]:
        """Starts of the chunks that should have a checksum and have no room for it."""
        found: list[tuple[int, ...]] = []
        codes = [code for code, _ in self._filters]

        def look(chunk: h5py.h5d.StoreInfo) -> None:
            if chunk.size < CHECKSUM_SIZE and not chunk.filter_mask >> codes.index(CHECKSUM) & 1:
                found.append(chunk.chunk_offset)

        if CHECKSUM in codes and not self.dataset.file.swmr_mode:
            self.dataset.id.chunk_iter(look)
        return found

    @cached_property
    def _places(self) -> ChunkPlaces | None:
        return chunk_places(self.dataset)

    def _stored(self, start: tuple[int, ...]) -> tuple[int, bytes | Bytes] | None:
        """The filters that a chunk was written without and its bytes, None where it was never written."""
        if self._places is not None:
            return self._places.stored(start)
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


class _Kept(threading.local):
    """The chunks of several frames that a thread decoded last: one at each place beside the first axis."""

    def __init__(self) -> None:
        self._chunks: dict[tuple[int, ...], tuple[int, NDArray[Any]]] = {}

    def chunk(self, start: tuple[int, ...]) -> NDArray[Any] | None:
        """A chunk by its start, None where it is not kept."""
        first, decoded = self._chunks.get(start[1:], (None, None))
        return decoded if first == start[0] else None

    def keep(self, start: tuple[int, ...], decoded: NDArray[Any]) -> None:
        """Keep a chunk instead of the one at its place, unless they become too many."""
        self._chunks.pop(start[1:], None)
        if (len(self._chunks) + 1) * decoded.nbytes <= _MOST_KEPT:
            self._chunks[start[1:]] = start[0], decoded


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
