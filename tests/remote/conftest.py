"""What tests of files on the network share: frames, and servers that have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import h5py
import hdf5plugin
import numpy as np
import pytest

from sfxlab.geometry import Geometry, parse_geometry
from sfxlab.remote import files

SHAPE = (256, 192)
N_FRAMES = 12


@pytest.fixture(scope="session")
def geometry() -> Geometry:
    rows, columns = SHAPE
    return parse_geometry(
        f"photon_energy = /energy eV\nclen = 0.1\nres = 10000\nadu_per_photon = 1\ndata = /data\n"
        f"dim0 = %\ndim1 = ss\ndim2 = fs\np0/min_fs = 0\np0/max_fs = {columns - 1}\np0/min_ss = 0\n"
        f"p0/max_ss = {rows - 1}\np0/corner_x = -96\np0/corner_y = -128\np0/fs = x\np0/ss = y\n"
    )


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run 1/a.cxi` and `b.cxi`, with frames of about 190 kB each that hardly compress, and what is no frames."""
    folder = tmp_path_factory.mktemp("served") / "run 1"
    folder.mkdir()
    random = np.random.default_rng(7)
    for name in "ab":
        with h5py.File(folder / f"{name}.cxi", "w") as file:
            pixels = random.integers(0, 2**31, (N_FRAMES, *SHAPE), dtype=np.int32)
            file.create_dataset("data", data=pixels, chunks=(1, *SHAPE), **hdf5plugin.Bitshuffle(cname="lz4"))
            file["energy"] = 9000.0 + np.arange(N_FRAMES)
    (folder / "notes.md").write_text("no frames")
    (folder / "some.lst").write_text("b.cxi //3\na.cxi //0\n\nb.cxi //4\n")
    return folder


@pytest.fixture(scope="session")
def servers(mockdata: Any) -> Any:
    return mockdata("servers")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers: Any) -> Iterator[Path]:
    monkeypatch.setenv("SFXLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "_PAUSES", (0.0, 0.0))
    yield tmp_path / "cache"
    servers.close_connections()


@pytest.fixture
def server(folder: Path, mockdata: Any) -> Iterator[Any]:
    with mockdata("file_server").serving(folder.parent) as server:
        yield server


@pytest.fixture(scope="session")
def s3_port(servers: Any, folder: Path) -> Iterator[int]:
    port = servers.free_port()
    with servers.s3_server(folder, port):
        yield port


@pytest.fixture
def s3_settings(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the environment that of somebody who uses the S3 server at a port."""

    def use(port: int) -> None:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "somebody", "AWS_MAX_ATTEMPTS": "1",
            "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)

    return use


@pytest.fixture
def s3(s3_port: int, s3_settings: Callable[[int], None]) -> Any:
    """The file system of the S3 server, which has the files in `beamtime/run1`."""
    s3_settings(s3_port)
    return fsspec.filesystem("s3", use_listings_cache=False)


@pytest.fixture(scope="session")
def dav_port(servers: Any, folder: Path) -> Iterator[int]:
    port = servers.free_port()
    with servers.webdav_server(folder.parent, port):
        yield port


@pytest.fixture
def dav(dav_port: int) -> str:
    """Address of a WebDAV server: the files are in `open/run 1` for all, in `closed/run 1` for anna."""
    return f"dav://127.0.0.1:{dav_port}"


@pytest.fixture
def log_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes anna's password to a netrc file."""

    def write(password: str) -> None:
        (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login anna password {password}\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    return write


@pytest.fixture(params=["s3", "http", "dav"])
def publish(request: pytest.FixtureRequest, servers: Any, mockdata: Any, tmp_path: Path) -> Iterator[Any]:
    """Puts a folder on a server of each kind: `publish(folder)` gives its address, without a slash at the end.

    Files that are removed or added later are so on the web servers too; on S3 after `publish(folder)` again.
    """
    if request.param == "s3":
        request.getfixturevalue("s3")
        system = fsspec.filesystem("s3", use_listings_cache=False)
        bucket = uuid4().hex
        system.call_s3("create_bucket", Bucket=bucket)

        def upload(folder: Path) -> str:
            place = f"{bucket}/{folder.name}"
            there = set(system.find(place))
            here = {f"{place}/{path.relative_to(folder)}": path for path in folder.rglob("*") if path.is_file()}
            for key in there - here.keys():
                system.rm_file(key)
            for key in here.keys() - there:
                system.pipe_file(key, here[key].read_bytes())
            return f"s3://{place}"

        yield upload
    elif request.param == "http":
        with mockdata("file_server").serving(tmp_path) as server:
            yield lambda folder: f"{server.address}/{folder.relative_to(tmp_path)}"
    else:
        port = servers.free_port()
        with servers.webdav_server(tmp_path, port):
            yield lambda folder: f"dav://127.0.0.1:{port}/open/{folder.relative_to(tmp_path)}"


@pytest.fixture
def gets(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the ranges that were fetched from S3."""
    from s3fs import S3File

    sizes: list[int] = []
    fetch = S3File._fetch_range

    def counted(self: Any, start: int, end: int) -> bytes:
        sizes.append(end - start)
        return fetch(self, start, end)  # type: ignore[no-any-return]

    monkeypatch.setattr(S3File, "_fetch_range", counted)
    return sizes
