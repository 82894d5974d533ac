"""The checksum that HDF5's filter `fletcher32` puts behind a chunk."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

CHECKSUM = 3
"""Number of the filter."""

CHECKSUM_SIZE = 4
"""Bytes."""

_MODULUS = 0xFFFF
_BLOCK = 256
"""Words whose sums need no more than 32 bits."""


def without_checksum(stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The bytes before their checksum: two sums of 16 bits, lowest byte first.

    Accepts the sums of either byte order, as HDF5 does, because old versions of it wrote the wrong one. Raises
    `ValueError` where neither is right.
    """
    size = len(stored) - CHECKSUM_SIZE
    if size < 0:
        raise ValueError(f"a damaged chunk: {len(stored)} bytes are no checksum")
    content = stored[:size]
    words = content[: size - size % 2].view("<u2")
    found = fletcher_sums(words, int(content[-1]) if size % 2 else -1)
    # Of words in the other byte order the sums are the same with their bytes swapped, as 256² = 1 modulo 65535.
    either = found, (found[0] * 256 % _MODULUS, found[1] * 256 % _MODULUS)
    first, second = (int(part) % _MODULUS for part in stored[size:].copy().view("<u2"))
    if (first, second) not in either:
        raise ValueError("a damaged chunk: its checksum is another")
    return content


@njit(cache=True, nogil=True)
def fletcher_sums(words: NDArray[np.uint16], last: int) -> tuple[int, int]:
    """Sum of all words, and sum of all such sums on the way there, modulo 65535; `last` is one more word unless < 0.

    Fletcher, IEEE Transactions on Communications 30 (1982) 247, with one's complement sums of 16 bits.
    """
    first, second = np.uint64(0), np.uint64(0)
    for start in range(0, len(words), _BLOCK):
        block = words[start : start + _BLOCK]
        count = len(block)
        inner, outer = np.uint32(0), np.uint32(0)
        for i in range(count):
            inner += np.uint32(block[i])
            outer += np.uint32(count - i) * np.uint32(block[i])
        second = (second + np.uint64(count) * first + np.uint64(outer)) % np.uint64(_MODULUS)
        first = (first + np.uint64(inner)) % np.uint64(_MODULUS)
    if last >= 0:
        first = (first + np.uint64(last)) % np.uint64(_MODULUS)
        second = (second + first) % np.uint64(_MODULUS)
    return int(first), int(second)
