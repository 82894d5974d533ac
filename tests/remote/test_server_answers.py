from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from sfxlab.errors import InputError, UnreachableError
from sfxlab.frames import open_frames
from sfxlab.geometry import Geometry

SHAPE = (256, 192)
N_FRAMES = 12


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://beamtime/none.cxi", r"s3://beamtime/none\.cxi: there is no such object"),
        ("s3://nobucket/a.cxi", r"s3://nobucket/a\.cxi: there is no such object[\s\S]*bucket does not exist"),
        ("s3://nobucket/*.cxi", r"s3://nobucket/\*\.cxi: "),
        ("s3://beamtime/run1/*.h5", "no file matches"),
        ("s3://beamtime/empty/", r"s3://beamtime/empty/: there is no such object"),
        ("s3://beamtime/run1/notes.md", "this is not an HDF5 file"),
        ("ftp://host/a.cxi", r"ftp://host/a\.cxi: addresses of this kind cannot be read[\s\S]*s3://, https://"),
        ("https://anna:secret@host/a.cxi", r"https://…@host/a\.cxi: the address contains a password"),
    ],
)
def test_what_is_not_there_on_s3_is_named(s3: Any, geometry: Geometry, address: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_frames(address, geometry)
    assert "secret" not in str(caught.value)


def test_denied_access_on_s3_says_how_to_give_credentials(
    s3: Any, geometry: Geometry, monkeypatch: pytest.MonkeyPatch, servers: Any
) -> None:
    servers.close_connections()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(InputError, match=r"there are no credentials[\s\S]*AWS_PROFILE[\s\S]*FSSPEC_S3_ANON"):
        open_frames("s3://beamtime/run1/a.cxi", geometry)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "the server denies access"),
        (403, r"the server denies access\n[\s\S]*to do: .*netrc"),
        (404, "there is no such object"),
        (500, "the server has a problem of its own"),
        (503, "the server has too much to do"),
    ],
)
def test_what_a_web_server_refuses_is_named(server: Any, geometry: Geometry, status: int, message: str) -> None:
    server.refusals["/run%201/a.cxi"] = status
    with pytest.raises(InputError, match=rf"run%201/a\.cxi: {message}"):
        open_frames(f"{server.address}/run%201/a.cxi", geometry)


def test_a_server_that_is_not_there_is_named(servers: Any, geometry: Geometry, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnreachableError, match=r"a\.cxi: the server cannot be reached[\s\S]*Connect call failed"):
        open_frames(f"http://127.0.0.1:{servers.free_port()}/a.cxi", geometry)


def test_a_server_that_does_not_answer_is_given_up(geometry: Geometry, monkeypatch: pytest.MonkeyPatch) -> None:
    import aiohttp

    patience = {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=1, sock_read=0.2)}
    monkeypatch.setitem(fsspec.config.conf, "http", {"client_kwargs": patience})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/a.cxi"
        with pytest.raises(UnreachableError, match="the server does not answer in time"):
            open_frames(address, geometry)


def test_a_token_from_the_configuration_is_sent(
    server: Any, folder: Path, geometry: Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.password = "Bearer 123"
    address = f"{server.address}/run%201/a.cxi"
    with pytest.raises(InputError, match="denies access"):
        open_frames(address, geometry)
    monkeypatch.setitem(fsspec.config.conf, "http", {"headers": {"Authorization": "Bearer 123"}})
    np.testing.assert_array_equal(
        open_frames(address, geometry)[3].data, open_frames(folder / "a.cxi", geometry)[3].data
    )


def test_a_missing_library_is_named_with_the_extra(geometry: Geometry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(InputError, match=r"is missing[\s\S]*pip install 'sfxlab\[remote\]'"):
        open_frames("https://host/a.cxi", geometry)
