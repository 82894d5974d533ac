"""Decompressing the chunks of HDF5 files outside HDF5, whose one lock would let only one thread decompress at a time.

The decoders are those of HDF5 itself: the libraries that hdf5plugin ships, called so that Python's lock is released.
No length in a chunk is believed: a damaged one is a `ValueError`, and nothing is read or written outside the arrays.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import hdf5plugin
import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.frames.buffers import BUFFERS
from sfxlab.frames.checksums import CHECKSUM, CHECKSUM_SIZE, without_checksum

Bytes = NDArray[np.uint8]
Decoder = Callable[[Bytes, Bytes, int], None]
"""Fills its second argument from its first, for items of so many bytes. Raises `ValueError` where it cannot."""

_SIZE, _POINTER = ctypes.c_size_t, ctypes.c_void_p
_LARGEST_BLOCK = 0x7E000000
"""LZ4 knows no larger ones, bytes."""
_LARGEST_LENGTH = 2**31 - 1
"""More is a negative number to the libraries."""
_PIECE = 2**15
"""Of a gzip stream, bytes."""


@dataclass(frozen=True)
class Decompression:
    """How the chunks of a dataset become pixels: its filters, in the order they were written with."""

    decoders: tuple[Decoder | None, ...]
    """None stands for a checksum."""
    item_size: int
    """Bytes of a pixel."""

    def decode(self, stored: bytes | Bytes, skipped: int, out: Bytes) -> None:
        """Fill `out`, as long as the chunk without compression, from the bytes that are stored.

        Bit i of `skipped` says that filter i was not used on this chunk. Raises `ValueError` where it is damaged.
        """
        current = np.frombuffer(stored, dtype=np.uint8)
        used = [decoder for i, decoder in enumerate(self.decoders) if not skipped >> i & 1]
        while used:
            decoder = used.pop()
            if decoder is None:
                current = without_checksum(current)
                continue
            size = len(out) + CHECKSUM_SIZE * used.count(None)
            target = BUFFERS.array((size,), np.uint8) if used else out
            decoder(current, target, self.item_size)
            current = target
        if current is not out:
            _check(len(current) == len(out), f"{len(current)} bytes of pixels, not {len(out)}")
            out[:] = current


def decompression(filters: Sequence[tuple[int, Sequence[int]]], item_size: int) -> Decompression | None:
    """The way to decode chunks with these HDF5 filters (code and parameters), None where HDF5 must do it.

    Known are gzip (1), LZ4 (32004), Zstandard (32015) and bitshuffle (32008) with LZ4, Zstandard or nothing, the first
    three also after shuffle (2); and Fletcher's checksum (3) anywhere.
    """
    codes = [code for code, _ in filters if code != CHECKSUM]
    decoders = [None if code == CHECKSUM else _decoder(code, values, item_size) for code, values in filters]
    unknown = decoders.count(None) > len(filters) - len(codes)
    if not decoders or unknown or 2 in codes[1:] or len(codes) > 1 + (codes[:1] == [2]):
        return None
    return Decompression(tuple(decoders), item_size)


def _decoder(code: int, values: Sequence[int], item_size: int) -> Decoder | None:
    if code == 1:
        return _inflate
    if code == 2:
        return _undo_shuffle if tuple(values[:1]) == (item_size,) else None
    if code == 32004:
        return _bound(_lz4, "lz4", "LZ4_decompress_safe", ctypes.c_int, [_POINTER] * 2 + [ctypes.c_int] * 2)
    if code == 32015:
        return _bound(_zstandard, "zstd", "ZSTD_decompress", _SIZE, [_POINTER, _SIZE] * 2)
    if code == 32008 and len(values) > 2 and values[2] == item_size:
        pointers, sizes = [_POINTER] * 2, [_SIZE] * 3
        method = values[4] if len(values) > 4 else 0
        if method in (2, 3):
            name = {2: "bshuf_decompress_lz4", 3: "bshuf_decompress_zstd"}[method]
            return _bound(_bitshuffle_blocks, "bshuf", name, ctypes.c_int64, pointers + sizes)
        if method == 0:
            decoder = partial(_bitshuffle, values[3] if len(values) > 3 else 0)
            return _bound(decoder, "bshuf", "bshuf_bitunshuffle", ctypes.c_int64, pointers + sizes)
    return None


def _bound(decoder: Callable[..., None], library: str, name: str, result: Any, arguments: list[Any]) -> Decoder | None:
    """A decoder with the library's function it needs as first argument, None where the library does not have it."""
    function = getattr(_library(library), name, None)
    if function is None:
        return None
    function.restype, function.argtypes = result, arguments
    return partial(decoder, function)


@cache
def _library(name: str) -> ctypes.CDLL | None:
    """A library of hdf5plugin, which has loaded it already."""
    path = hdf5plugin.get_config().registered_filters.get(name)
    try:
        return ctypes.CDLL(path) if path else None
    except OSError:
        # A filter that was registered by another package has no path; HDF5 still decodes with it.
        return None


def _check(fine: object, found: str) -> None:
    if not fine:
        raise ValueError(f"a damaged chunk: {found}")


def _inflate(stored: Bytes, out: Bytes, item_size: int) -> None:
    """In pieces, which stay in the processor's cache until they are where they belong."""
    stream = zlib.decompressobj()
    filled = 0
    for start in range(0, len(stored), _PIECE):
        try:
            # One byte more than there should be, so that zlib goes on to its checksum.
            plain = stream.decompress(stored[start : start + _PIECE].data, len(out) + 1 - filled)
        except zlib.error as error:
            raise ValueError(f"a damaged chunk: {error}") from error
        _check(filled + len(plain) <= len(out), f"more than {len(out)} bytes of pixels")
        out[filled : filled + len(plain)] = np.frombuffer(plain, dtype=np.uint8)
        filled += len(plain)
    _check(stream.eof and filled == len(out), f"{filled} bytes of pixels, not {len(out)}")


def _undo_shuffle(stored: Bytes, out: Bytes, item_size: int) -> None:
    _check(len(stored) == len(out), f"{len(stored)} bytes of pixels, not {len(out)}")
    unshuffle(stored, out, item_size)


def _lz4(decompress: Any, stored: Bytes, out: Bytes, item_size: int) -> None:
    """Size of all and of a block (8 and 4 bytes, the first byte highest), then each block after its length."""
    total, block = _number(stored, 0, 8), _number(stored, 8, 4)
    _check(total == len(out), f"{total} bytes of pixels, not {len(out)}")
    _check(0 < min(block, total) <= _LARGEST_BLOCK, f"blocks of {block} bytes")
    position = 12
    for start in range(0, total, block):
        size = min(block, total - start)
        length = _number(stored, position, 4)
        position += 4
        _check(length <= min(len(stored) - position, _LARGEST_LENGTH), "it ends within a block")
        if length == size:
            out[start : start + size] = stored[position : position + size]
        else:
            decoded = decompress(stored.ctypes.data + position, out.ctypes.data + start, length, size)
            _check(decoded == size, f"the block at byte {position} cannot be decompressed")
        position += length


def _zstandard(decompress: Any, stored: Bytes, out: Bytes, item_size: int) -> None:
    decoded = decompress(out.ctypes.data, len(out), stored.ctypes.data, len(stored))
    _check(decoded == len(out), "it cannot be decompressed")


def _bitshuffle_blocks(decompress: Any, stored: Bytes, out: Bytes, item_size: int) -> None:
    """As `_lz4`, with blocks of whole eights of items, and the items beyond the last eight as they are."""
    total, block = _number(stored, 0, 8), _number(stored, 8, 4)
    _check(total == len(out), f"{total} bytes of pixels, not {len(out)}")
    _check(block and block % (8 * item_size) == 0, f"blocks of {block} bytes")
    _check(min(block, total) <= _LARGEST_BLOCK, f"blocks of {block} bytes")
    beyond = total // item_size % 8 * item_size
    # The library believes the lengths of the blocks.
    end = end_of_blocks(stored, 12, -(-(total - beyond) // block))
    _check(end > 0 and end + beyond <= len(stored), "it ends within a block")
    decoded = decompress(stored.ctypes.data + 12, out.ctypes.data, total // item_size, item_size, block // item_size)
    _check(decoded >= 0, "a block cannot be decompressed")


def _bitshuffle(block: int, undo: Any, stored: Bytes, out: Bytes, item_size: int) -> None:
    _check(len(stored) == len(out), f"{len(stored)} bytes of pixels, not {len(out)}")
    decoded = undo(stored.ctypes.data, out.ctypes.data, len(out) // item_size, item_size, block)
    _check(decoded >= 0, f"blocks of {block} items")


def _number(stored: Bytes, position: int, size: int) -> int:
    _check(position + size <= len(stored), f"it ends after {len(stored)} bytes")
    return int.from_bytes(stored[position : position + size].tobytes(), "big")


@njit(cache=True, nogil=True)
def end_of_blocks(stored: Bytes, position: int, blocks: int) -> int:
    """Position after so many blocks that each follow their length (4 bytes, the first highest), −1 where they do not
    fit into `stored`.
    """
    for _ in range(blocks):
        if position + 4 > len(stored):
            return -1
        length = 0
        for i in range(position, position + 4):
            length = length << 8 | int(stored[i])
        position += 4 + length
        if length > _LARGEST_LENGTH or position > len(stored):
            return -1
    return position


@njit(cache=True, nogil=True)
def unshuffle(stored: Bytes, out: Bytes, item_size: int) -> None:
    """Undo HDF5's shuffle, which writes all first bytes of the items, then all second ones…"""
    items = len(out) // item_size
    if item_size == 2:
        for i in range(items):
            out[2 * i] = stored[i]
            out[2 * i + 1] = stored[items + i]
    elif item_size == 4:
        for i in range(items):
            out[4 * i] = stored[i]
            out[4 * i + 1] = stored[items + i]
            out[4 * i + 2] = stored[2 * items + i]
            out[4 * i + 3] = stored[3 * items + i]
    else:
        for i in range(items):
            for byte in range(item_size):
                out[item_size * i + byte] = stored[byte * items + i]
