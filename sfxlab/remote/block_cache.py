"""Blocks of files on the network, kept in a folder that all processes of a machine share.

fsspec's own caches do not serve here: `blockcache` notes which blocks it has in a file that it writes when the remote
file is closed, marks blocks before they are fetched and truncates what another process fills; `filecache` and
`simplecache` fetch whole files; none of them has a size limit.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from sfxlab.errors import InputError

FOLDER_VARIABLE = "SFXLAB_CACHE"
LIMIT_VARIABLE = "SFXLAB_CACHE_LIMIT"
DEFAULT_LIMIT = "20 GB"

_FULL = 0.9
"""What part of the limit is filled after an eviction, so that the folder is not searched for every block."""
_ABANDONED = 3600.0
"""Seconds after which a block that is still being written belongs to a killed process."""
_TOUCHED_AGAIN = 60.0
"""Seconds between two notes of a block's being used."""


def shared_cache() -> BlockCache:
    """The cache in the folder `SFXLAB_CACHE` (default: the user's cache folder) of the size `SFXLAB_CACHE_LIMIT`.

    Raises `InputError` where the limit is no size.
    """
    from dask.utils import parse_bytes  # takes longer than all else that reading a cell or a geometry needs

    folder = os.environ.get(FOLDER_VARIABLE) or platformdirs.user_cache_path("sfxlab") / "blocks"
    limit = os.environ.get(LIMIT_VARIABLE) or DEFAULT_LIMIT
    try:
        size = parse_bytes(limit)
    except ValueError:
        size = -1
    if size < 0:
        raise InputError(
            "this is no size of a cache", place=f"environment variable {LIMIT_VARIABLE}", found=limit,
            expected="a size such as '50 GB', or 0 to keep nothing",
        )  # fmt: skip
    return BlockCache(Path(folder), size)


class BlockCache:
    """Blocks of at most `limit` bytes in all, each a file that appears whole or not at all.

    A block is named by a key, which stands for one version of one remote file, and a number. The least recently used
    ones are removed to make room. Reading never fails: a block is there, whole, or it is not.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit

    def __contains__(self, block: tuple[str, int]) -> bool:
        return self._path(*block).exists()

    def read(self, key: str, number: int, length: int, start: int, target: memoryview) -> bool:
        """Fill `target` from `start` on with bytes of a block that has `length` bytes; False where it is not kept."""
        try:
            descriptor = os.open(self._path(key, number), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            # Whatever stands in the way, the server has the block.
            return False
        try:
            status = os.fstat(descriptor)
            if status.st_size != length:
                return False
            if time.time() - status.st_mtime > _TOUCHED_AGAIN:
                # Times of access are not kept on most machines; blocks never change, so the other time is free for it.
                os.utime(descriptor)
            return os.preadv(descriptor, [target], start) == len(target)
        except OSError:
            return False
        finally:
            os.close(descriptor)

    def write(self, key: str, number: int, data: bytes | memoryview) -> None:
        """Keep a block, removing older ones where there is no room. Raises `OSError`."""
        path = self._path(key, number)
        if len(data) > self.limit or path.exists():
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Aside in the folder itself, because an eviction may remove the key's folder meanwhile.
        aside = self.folder / f".{uuid.uuid4().hex}.tmp"
        try:
            with open(aside, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with self._room(len(data)):
                path.parent.mkdir(exist_ok=True)
                os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)

    def _path(self, key: str, number: int) -> Path:
        return self.folder / key / str(number)

    @contextmanager
    def _room(self, size: int) -> Iterator[None]:
        """Hold the lock of the folder while there is room for so many bytes more, and count them."""
        with open(self.folder / "size", "a+", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            kept = int(text) if text.isdigit() else self._evict(self.limit)
            if kept + size > self.limit:
                kept = self._evict(min(int(_FULL * self.limit), self.limit - size))
            yield
            file.truncate(0)
            file.write(str(kept + size))

    def _evict(self, limit: int) -> int:
        """Remove the least recently used blocks down to a limit; the bytes that remain."""
        blocks = sorted(self._blocks())
        kept = sum(size for _, size, _ in blocks)
        for _, size, path in blocks:
            if kept <= limit:
                break
            path.unlink(missing_ok=True)
            kept -= size
        return kept

    def _blocks(self) -> Iterator[tuple[float, int, Path]]:
        """When each block was used last, its size and its path; what nobody needs any more is removed."""
        for folder in list(os.scandir(self.folder)):
            if not folder.is_dir():
                if folder.name.endswith(".tmp") and time.time() - _modified(folder) > _ABANDONED:
                    Path(folder.path).unlink(missing_ok=True)
                continue
            blocks = list(os.scandir(folder.path))
            if not blocks:
                os.rmdir(folder.path)
            for block in blocks:
                status = block.stat()
                yield status.st_mtime, status.st_size, Path(block.path)


def _modified(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:
        return time.time()  # just put in place
