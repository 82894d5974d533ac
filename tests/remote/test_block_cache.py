from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sfxlab.errors import InputError
from sfxlab.remote.block_cache import BlockCache, shared_cache

_WRITER = """
import sys
from pathlib import Path
from sfxlab.remote.block_cache import BlockCache

cache = BlockCache(Path(sys.argv[1]), int(sys.argv[2]))
sys.stdin.readline()
for number in range(60):
    block = bytes([number]) * 20000
    cache.write("key", number, block)
    found = bytearray(20000)
    assert not cache.read("key", number, 20000, 0, memoryview(found)) or found == block, f"block {number} is partial"
"""


def _read(cache: BlockCache, key: str, number: int, length: int, start: int, stop: int) -> bytearray | None:
    found = bytearray(stop - start)
    return found if cache.read(key, number, length, start, memoryview(found)) else None


def _used(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*/*"))


def test_a_block_is_read_as_it_was_written_and_in_parts(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 1000)
    assert _read(cache, "a", 3, 10, 0, 10) is None
    cache.write("a", 3, b"0123456789")
    assert _read(cache, "a", 3, 10, 0, 10) == b"0123456789"
    assert _read(cache, "a", 3, 10, 2, 5) == b"234"
    assert _read(cache, "b", 3, 10, 0, 10) is None
    assert ("a", 3) in cache
    assert ("a", 2) not in cache


def test_a_block_that_is_not_whole_is_not_read(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 1000)
    cache.write("a", 3, b"0123456789")
    os.truncate(tmp_path / "a" / "3", 9)
    assert _read(cache, "a", 3, 10, 0, 5) is None


def test_the_least_recently_used_blocks_make_room(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 1000)
    for number in range(10):
        cache.write("a", number, bytes(100))
        os.utime(tmp_path / "a" / str(number), (time.time() - 9000 + number,) * 2)
    assert _read(cache, "a", 0, 100, 0, 1) is not None
    cache.write("b", 0, bytes(100))
    assert _used(tmp_path) <= 1000
    assert [("a", number) in cache for number in range(3)] == [True, False, True]
    assert ("b", 0) in cache


def test_the_limit_holds_through_many_blocks_and_for_another_process(tmp_path: Path) -> None:
    for limit in (1000, 700):
        cache = BlockCache(tmp_path, limit)
        for number in range(50):
            cache.write(f"{limit}", number, bytes(90))
            assert _used(tmp_path) <= limit
    cache.write("large", 0, bytes(701))
    assert ("large", 0) not in cache


def test_a_counter_that_is_damaged_is_counted_anew(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 1000)
    for number in range(9):
        cache.write("a", number, bytes(100))
    (tmp_path / "size").write_text("")
    for number in range(9):
        cache.write("b", number, bytes(100))
        assert _used(tmp_path) <= 1000


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    (tmp_path / ".old.tmp").write_bytes(b"half")
    (tmp_path / ".new.tmp").write_bytes(b"half")
    os.utime(tmp_path / ".old.tmp", (time.time() - 7200,) * 2)
    BlockCache(tmp_path, 1000).write("a", 0, bytes(10))
    assert [path.name for path in tmp_path.glob(".*.tmp")] == [".new.tmp"]


def test_two_processes_fill_one_cache_at_once(tmp_path: Path) -> None:
    limit = 400_000
    command = [sys.executable, "-c", _WRITER, str(tmp_path / "cache"), str(limit)]
    writers = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert writer.returncode == 0, errors
    assert limit / 2 < _used(tmp_path / "cache") <= limit
    assert int((tmp_path / "cache" / "size").read_text()) <= limit
    for path in (tmp_path / "cache").glob("key/*"):
        assert path.read_bytes() == bytes([int(path.name)]) * 20000


def test_folder_and_size_are_what_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SFXLAB_CACHE", raising=False)
    monkeypatch.delenv("SFXLAB_CACHE_LIMIT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert (shared_cache().folder, shared_cache().limit) == (tmp_path / "sfxlab" / "blocks", 20 * 10**9)
    monkeypatch.setenv("SFXLAB_CACHE", str(tmp_path / "scratch"))
    monkeypatch.setenv("SFXLAB_CACHE_LIMIT", "1.5 GiB")
    assert (shared_cache().folder, shared_cache().limit) == (tmp_path / "scratch", 3 * 2**29)


@pytest.mark.parametrize("limit", ["lots", "-5 GB"])
def test_a_limit_that_is_no_size_is_refused(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFXLAB_CACHE_LIMIT", limit)
    with pytest.raises(InputError, match=r"SFXLAB_CACHE_LIMIT: this is no size[\s\S]*50 GB"):
        shared_cache()
