"""Where the chunks of a dataset lie in its file, so that threads read them without waiting for HDF5's one lock."""

from __future__ import annotations

import math
import os
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sfxlab.frames.buffers import BUFFERS

_MOST_CHUNKS = 2**17
"""Of a dataset of more, the table would take too long to read."""

_NOWHERE = 2**64 - 1


class ChunkPlaces:
    """Places, lengths and skipped filters of all chunks of a dataset that no one writes, in a file on disk."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._chunk = dataset.chunks
        grid = [-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True)]
        self._place = np.full(grid, _NOWHERE, np.uint64)
        self._length = np.zeros(grid, np.uint64)
        self._skipped = np.zeros(grid, np.uint32)
        self._file = dataset.file
        self._descriptor: int = self._file.id.get_vfd_handle()
        self._end = os.fstat(self._descriptor).st_size
        dataset.id.chunk_iter(self._add)

    def _add(self, chunk: Any) -> None:
        at = self._number(chunk.chunk_offset)
        self._place[at], self._length[at], self._skipped[at] = chunk.byte_offset, chunk.size, chunk.filter_mask

    def _number(self, start: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(at // size for at, size in zip(start, self._chunk, strict=True))

    def stored(self, start: tuple[int, ...]) -> tuple[int, NDArray[np.uint8]] | None:
        """The filters that a chunk was written without and its bytes, None where it was never written.

        Raises `ValueError` where it ends behind the end of the file, `OSError` where it cannot be read.
        """
        number = self._number(start)
        place, length = int(self._place[number]), int(self._length[number])
        if place == _NOWHERE:
            return None
        if place + length > self._end:
            raise ValueError("a damaged chunk: the file ends before it does")
        stored: NDArray[np.uint8] = BUFFERS.array((length,), np.uint8)
        done = 0
        while done < length:
            count = os.preadv(self._descriptor, [stored[done:].data], place + done)
            if not count:
                raise ValueError("a damaged chunk: the file ends before it does")
            done += count
        return int(self._skipped[number]), stored


def chunk_places(dataset: h5py.Dataset) -> ChunkPlaces | None:
    """The table of a dataset's chunks, None where only HDF5 can read them (not on disk), or there are too many."""
    file = dataset.file
    chunks = math.prod(-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    plain = file.driver == "sec2" and file.userblock_size == 0 and file.mode == "r" and not file.swmr_mode
    if not plain or chunks > _MOST_CHUNKS or not hasattr(os, "preadv"):
        return None
    try:
        return ChunkPlaces(dataset)
    except (OSError, RuntimeError, ValueError, IndexError):
        return None  # the table is damaged; of single chunks HDF5 may still know
