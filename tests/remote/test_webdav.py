"""WebDAV, from a server that others wrote."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfxlab.errors import InputError, UnreachableError
from sfxlab.frames import open_frames
from sfxlab.geometry import Geometry
from sfxlab.processing import process
from sfxlab.recipe import Recipe
from sfxlab.remote.files import BLOCK, RemoteFile

N_FRAMES = 12
BOTH = [f"{name}.cxi //{i}" for name in "ab" for i in range(N_FRAMES)]


def names_of(frames: Any) -> list[str]:
    names = (frames.identity(i) for i in range(len(frames)))
    return [f"{name.path.rpartition('/')[2]} {name.event}" for name in names]


def test_frames_over_webdav_equal_local_ones(dav: str, folder: Path, geometry: Geometry) -> None:
    here, there = open_frames(folder / "a.cxi", geometry), open_frames(f"{dav}/open/run%201/a.cxi", geometry)
    assert there.identity(0).path == f"{dav}/open/run%201/a.cxi"
    np.testing.assert_array_equal([f.data for f in here], [f.data for f in there])


@pytest.mark.parametrize(
    "name", ["run%201", "run%201/", "run%201/*.cxi", "run%201/[ab].cxi", "r*/*.cxi", "r*/", "../open/*/*.cxi"]
)
def test_folders_and_patterns_of_a_webdav_server_are_found_out(dav: str, geometry: Geometry, name: str) -> None:
    frames = open_frames(f"{dav}/open/{name}", geometry)
    assert names_of(frames) == BOTH
    assert frames.identity(0).path.endswith("/open/run%201/a.cxi")


def test_lists_on_a_webdav_server_name_files_beside_them(dav: str, geometry: Geometry) -> None:
    assert names_of(open_frames(f"{dav}/open/run%201/some.lst", geometry)) == ["b.cxi //3", "a.cxi //0", "b.cxi //4"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("run%201/none.cxi", "there is no such object"),
        ("none/", "there is no such object"),
        ("none", "there is no such object"),
        ("run%201/*.h5", "no file matches"),
        ("", "the directory has no HDF5 files or images"),
    ],
)
def test_what_is_not_there_is_named(dav: str, geometry: Geometry, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_frames(f"{dav}/open/{name}", geometry)
    assert f"{dav}/open/{name}" in str(caught.value)


@pytest.mark.parametrize("name", ["run%201/a.cxi", "run%201/", "run%201", "*/*.cxi", "run%201/some.lst"])
@pytest.mark.parametrize("password", [None, "wrong"])
def test_without_the_password_one_message_says_where_to_write_it(
    dav: str, geometry: Geometry, log_in: Callable[[str], None], name: str, password: str | None
) -> None:
    if password:
        log_in(password)
    with pytest.raises(UnreachableError, match=r"the server denies access\n[\s\S]*to do:[\s\S]*netrc") as caught:
        open_frames(f"{dav}/closed/{name}", geometry)
    assert "wrong" not in str(caught.value)


def test_a_password_from_netrc_opens_folders_and_files_and_is_written_nowhere(
    dav: str, folder: Path, geometry: Geometry, log_in: Callable[[str], None], tmp_path: Path, cache: Path
) -> None:
    log_in("secret")
    frames = open_frames(f"{dav}/closed/run*/", geometry)
    assert names_of(frames) == BOTH
    run = process(frames[:2], Recipe(), output=tmp_path / "run", progress=None)
    assert (run.counts.failed, run.record.inputs) == (0, (f"{dav}/closed/run%201/a.cxi",))
    written = [path for path in (*run.path.rglob("*"), *cache.rglob("*")) if path.is_file()]
    assert len(written) > 3
    for path in written:
        content = path.read_bytes()
        assert b"anna" not in content
        assert b"YW5uYTpzZWNyZXQ" not in content


def test_another_version_is_noticed(servers: Any, tmp_path: Path) -> None:
    path, port = tmp_path / "a.bin", servers.free_port()
    path.write_bytes(b"1" * 3 * BLOCK)
    with servers.webdav_server(tmp_path, port):
        address = f"dav://127.0.0.1:{port}/open/a.bin"
        before = RemoteFile(address)
        assert before.read_at(0, 10) == b"1" * 10
        path.write_bytes(b"2" * 3 * BLOCK)
        os.utime(path, ns=(10**18, 10**18))
        with pytest.raises(UnreachableError, match="the file has changed while it was read"):
            before.read_at(2 * BLOCK, 10)
        assert RemoteFile(address).read_at(0, 10) == b"2" * 10
