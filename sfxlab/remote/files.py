"""Files on the network: `s3://`, `https://` and `http://` (WebDAV servers too, `davs://` and `dav://`), through fsspec.

Everything that is read goes through blocks that are kept on the local disk (`sfxlab.remote.block_cache`).
"""

from __future__ import annotations

import gc
import hashlib
import io
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any, TypeVar

from sfxlab.errors import InputError, SfxlabWarning, UnreachableError
from sfxlab.remote.block_cache import FOLDER_VARIABLE, shared_cache
from sfxlab.remote.file_systems import file_system
from sfxlab.remote.server_answers import asked

BLOCK = 2**20
"""Bytes of a block. Metadata of HDF5 needs a few of them; what is fetched together is asked for together."""

_MOST_AT_ONCE = 64 * BLOCK
_MOST_AHEAD = 8 * BLOCK
_CONSIDERABLE = 2**16
"""Reads from so many bytes on are of pixels, and tell whether these are read in order."""
_PAUSES = (0.5, 1.5, 3.0)
"""Seconds between attempts over HTTP; s3fs makes its own."""
_LARGEST_SMALL_FILE = 2**28

Result = TypeVar("Result")


def content_at(address: str) -> bytes:
    """All of a small file on the network: a geometry, a cell, a list. Raises `InputError`.

    It is fetched as a whole, because not every server of small files can do otherwise.
    """
    system, path = file_system(address)

    def fetch() -> bytes:
        size = system.info(path)["size"]
        if size is not None and size > _LARGEST_SMALL_FILE:
            raise InputError(
                "this is too long for a geometry, a cell or a list of files", path=address, found=f"{size} bytes"
            )
        content: bytes = system.cat_file(path)
        return content

    return _again(address, lambda: asked(address, fetch))


def _again(address: str, ask: Callable[[], Result]) -> Result:
    """What a server answers, asked again where the connection is lost."""
    for pause in () if _is_s3(address) else _PAUSES:
        try:
            return ask()
        except UnreachableError as error:
            if not error.is_passing:
                raise
        time.sleep(pause)
    return ask()


@dataclass(frozen=True)
class Version:
    """What tells one content of a remote file from another, as the server says it."""

    size: int
    etag: str | None
    modified: datetime | None

    @property
    def is_exact(self) -> bool:
        """Whether equal tags mean equal bytes; a weak one does not, and then the time counts."""
        return self.etag is not None and not self.etag.startswith("W/")

    @property
    def key(self) -> str:
        """What is the same only where the content is."""
        return f"{self.size} {self.etag}" if self.is_exact else f"{self.size} {self.etag} {self.modified}"


class RemoteFile(io.RawIOBase):
    """A file on the network, read through the blocks kept on the local disk.

    Opening asks the server for the file's version and nothing more. Raises `InputError`, of which `UnreachableError` is
    what may go better at another time.
    """

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        system, path = file_system(address)
        self._handle, self.version = asked(address, lambda: _opened(system, address, path))
        self.size = self.version.size
        self.neighbours: dict[str, Any] = {}
        """Files that this one refers to, opened, by their names in it."""
        self._cache = shared_cache()
        self._key = hashlib.sha256(f"{address}\n{self.version.key}".encode()).hexdigest()
        self._position = 0
        self._end_of_last = -1
        self._ahead = 0

    def __repr__(self) -> str:
        # h5py takes this for the name of the file.
        return self.address

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Where the next `readinto` begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set where the next `readinto` begins."""
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the current position on; the number of bytes read."""
        view = memoryview(buffer).cast("B")
        view = view[: max(self.size - self._position, 0)]
        with _without_collection():
            self._fill(view, self._position)
        self._position += len(view)
        return len(view)

    def read_at(self, offset: int, size: int) -> bytearray:
        """The bytes at an offset, fewer at the end of the file. Several threads may ask at once.

        What is not kept is fetched, neighbouring blocks in one request; and more than was asked for where the file is
        read in order. Raises `UnreachableError`.
        """
        data = bytearray(max(min(size, self.size - offset), 0))
        self._fill(memoryview(data), offset)
        return data

    def _fill(self, target: memoryview, offset: int) -> None:
        """Fill a buffer with the bytes at an offset; there are so many."""
        stop = offset + len(target)
        if not target:
            return
        ahead = self._blocks_ahead(offset, stop)
        numbers = range(offset // BLOCK, (stop - 1) // BLOCK + 1)
        for missing in _runs([number for number in numbers if not self._read_kept(number, target, offset)]):
            wanted = missing if missing[-1] != numbers[-1] else self._extended(missing, ahead)
            data = memoryview(self._fetched(wanted))
            first, last = max(wanted[0] * BLOCK, offset), min(missing.stop * BLOCK, stop)
            target[first - offset : last - offset] = data[first - wanted[0] * BLOCK : last - wanted[0] * BLOCK]

    def _read_kept(self, number: int, target: memoryview, offset: int) -> bool:
        """Fill what a block has of a buffer that begins at an offset, if the block is kept."""
        begin, end = number * BLOCK, min((number + 1) * BLOCK, self.size)
        first, last = max(begin, offset), min(end, offset + len(target))
        return self._cache.read(self._key, number, end - begin, first - begin, target[first - offset : last - offset])

    def _blocks_ahead(self, offset: int, stop: int) -> int:
        """How many blocks to read ahead: the more, the longer the file has been read in order."""
        if stop - offset >= _CONSIDERABLE:
            in_order = 0 <= offset - self._end_of_last < BLOCK
            self._ahead = min(max(2 * self._ahead, BLOCK), _MOST_AHEAD) if in_order else 0
            self._end_of_last = stop
        return self._ahead // BLOCK

    def _extended(self, missing: range, ahead: int) -> range:
        """Missing blocks, and up to so many that follow and are missing too."""
        end = missing.stop
        blocks = -(-self.size // BLOCK)
        while end < min(missing.stop + ahead, blocks) and (self._key, end) not in self._cache:
            end += 1
        return range(missing.start, end)

    def _fetched(self, numbers: range) -> bytes:
        """Consecutive blocks from the server, which are kept from now on."""
        first, stop = numbers[0] * BLOCK, min(numbers.stop * BLOCK, self.size)
        data = _again(self.address, lambda: self._request(first, stop))
        view = memoryview(data)
        try:
            for number in numbers:
                start = number * BLOCK - first
                self._cache.write(self._key, number, view[start : start + BLOCK])
        except OSError as error:
            warnings.warn(
                f"{self._cache.folder}: blocks of {self.address} cannot be kept here ({error}), and are fetched again "
                f"each time; set {FOLDER_VARIABLE} to a folder on a disk with room",
                SfxlabWarning,
                stacklevel=2,
            )
        return data

    def _request(self, start: int, stop: int) -> bytes:
        data: bytes = asked(self.address, lambda: self._handle._fetch_range(start, stop))
        if len(data) != stop - start:
            raise UnreachableError(
                "the server did not send what was asked for", path=self.address, place=f"bytes {start} to {stop}",
                found=f"{len(data)} bytes", expected=f"{stop - start} bytes", remedy="continue with --resume",
            )  # fmt: skip
        return data


def _is_s3(address: str) -> bool:
    return address.startswith("s3://")


def _opened(system: Any, address: str, path: str) -> tuple[Any, Version]:
    """A handle that fetches ranges of bytes of one version of a file, and which version this is."""
    if _is_s3(address):
        handle = system.open(path, "rb", cache_type="none")
        details = handle.details
        if details["type"] == "directory":
            raise InputError("this is a folder", path=address, remedy="end the address with a slash to take its files")
        return handle, Version(details["size"], details.get("ETag") or None, details.get("LastModified"))
    details = system.info(path)
    if details["size"] is None or details.get("partial") is False:
        raise InputError(
            "this server gives files only as a whole", path=address, expected="one that answers requests for ranges",
            remedy="copy the file",
        )  # fmt: skip
    version = Version(details["size"], details.get("ETag"), _time(details.get("Last-Modified")))
    headers = {**system.kwargs.get("headers", {}), "Accept-Encoding": "identity", **_unchanged(version)}
    return system.open(path, "rb", cache_type="none", size=version.size, headers=headers), version


def _unchanged(version: Version) -> dict[str, str]:
    """Headers by which an HTTP server refuses to send parts of another version."""
    if version.etag and version.is_exact:
        return {"If-Match": version.etag}
    return {"If-Unmodified-Since": format_datetime(version.modified, usegmt=True)} if version.modified else {}


def _time(text: str | None) -> datetime | None:
    try:
        return None if text is None else parsedate_to_datetime(text).astimezone(UTC)
    except ValueError:
        return None


def _runs(numbers: list[int]) -> Iterator[range]:
    """Ascending numbers as ranges, none longer than one request shall be."""
    first = 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1 or i - first >= _MOST_AT_ONCE // BLOCK:
            yield range(numbers[first], numbers[i - 1] + 1)
            first = i


@contextmanager
def _without_collection() -> Iterator[None]:
    """Keep Python's garbage collection from running while HDF5 waits for the network.

    HDF5's lock is held meanwhile. A collection in the thread that fetches would wait for the lock where it meets an
    object of h5py, and neither would ever go on (h5py issue 2019).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
