"""Memory that is used again: to have the system clear megabytes for each frame costs about as much as to decode it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_LEAST = 2**18
"""Less memory than this comes fast from anywhere, bytes."""


class Buffers:
    """Arrays, the memory of which comes back by itself when the last view of them is gone, for the next ones.

    Threads may share it. It keeps `limit` bytes at most, those that came back last.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._free: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def array(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A new array, with whatever values its memory had."""
        kind = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        if size < _LEAST:
            return np.empty(shape, kind)
        memory: NDArray[np.uint8] = np.asarray(_Lease(self, self._memory(_rounded(size))))
        return memory[:size].view(kind).reshape(shape)

    def _memory(self, size: int) -> NDArray[np.uint8]:
        with self._lock:
            for i in reversed(range(len(self._free))):
                if len(self._free[i]) == size:
                    return self._free.pop(i)
        return np.empty(size, np.uint8)

    def take_back(self, memory: NDArray[np.uint8]) -> None:
        """Keep memory for another array."""
        # Python may collect an array in a thread that is in here already: then its memory just goes to the system.
        if self._lock.acquire(blocking=False):
            try:
                self._free.append(memory)
                while sum(map(len, self._free)) > self._limit:
                    self._free.pop(0)
            finally:
                self._lock.release()


class _Lease:
    """What arrays in some memory refer to as long as they live."""

    def __init__(self, buffers: Buffers, memory: NDArray[np.uint8]) -> None:
        self._buffers = buffers
        self._memory = memory
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        self._buffers.take_back(self._memory)


def _rounded(size: int) -> int:
    """A little more, so that chunks of about the same length fit into the same memory."""
    step: int = 1 << max(size.bit_length() - 4, 0)
    return -(-size // step) * step


BUFFERS = Buffers(limit=2**28)
"""Shared by all sources of a process, as the system's own free memory is."""
