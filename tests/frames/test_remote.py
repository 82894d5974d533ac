from __future__ import annotations

import base64
import gc
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
import h5py
import hdf5plugin
import numpy as np
import pytest
from numpy.typing import NDArray

from sfxlab.errors import InputError, SfxlabWarning, UnreachableError
from sfxlab.frames import Hdf5Frames, open_frames, remote
from sfxlab.frames.hdf5_file import find_dataset, open_hdf5
from sfxlab.frames.remote import BLOCK, RemoteFile
from sfxlab.frames.remote_hdf5 import node_at, remote_bytes
from sfxlab.geometry import Geometry, parse_geometry
from sfxlab.processing import process
from sfxlab.progress import Progress
from sfxlab.recipe import Recipe
from sfxlab.store import Run

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


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SFXLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_PAUSES", (0.0, 0.0))
    return tmp_path / "cache"


@pytest.fixture
def server(folder: Path, mockdata: Any) -> Iterator[Any]:
    with mockdata("file_server").serving(folder.parent) as server:
        yield server


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


@contextmanager
def _running(command: list[str], port: int) -> Iterator[subprocess.Popen[Any]]:
    """A server that listens; it is killed in the end."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(300):
                assert server.poll() is None, "the server has ended"
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.05)
            yield server
        finally:
            server.kill()


@contextmanager
def _web_server(folder: Path, port: int) -> Iterator[subprocess.Popen[Any]]:
    script = Path(__file__).parents[1] / "mockdata" / "file_server.py"
    with _running([sys.executable, str(script), str(folder.parent), str(port)], port) as server:
        yield server


@contextmanager
def _s3_server(folder: Path, port: int) -> Iterator[subprocess.Popen[Any]]:
    """An S3 server with the files in `beamtime/run1`."""
    with _running([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port) as server:
        client = {"endpoint_url": f"http://127.0.0.1:{port}", "key": "somebody", "secret": "secret"}
        region = {"region_name": "us-east-1"}
        system = fsspec.filesystem("s3", **client, client_kwargs=region, skip_instance_cache=True)
        system.call_s3("create_bucket", Bucket="beamtime")
        for path in folder.iterdir():
            system.pipe_file(f"beamtime/run1/{path.name}", path.read_bytes())
        yield server


@pytest.fixture(scope="session")
def s3_port(free_port: Callable[[], int], folder: Path) -> Iterator[int]:
    port = free_port()
    with _s3_server(folder, port):
        yield port


@pytest.fixture
def s3_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Makes the environment that of somebody who uses the S3 server at a port."""

    def use(port: int) -> None:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "somebody", "AWS_MAX_ATTEMPTS": "1",
            "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()

    yield use
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def s3(s3_port: int, s3_settings: Callable[[int], None]) -> Any:
    """The file system of the S3 server, which has the files in `beamtime/run1`."""
    s3_settings(s3_port)
    return fsspec.filesystem("s3", use_listings_cache=False)


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


def _pixels(frames: Any) -> list[NDArray[Any]]:
    return [frame.data for frame in frames]


def _names(frames: Any) -> list[str]:
    names = (frames.identity(i) for i in range(len(frames)))
    return [f"{name.path.rpartition('/')[2]} {name.event}" for name in names]


def test_frames_from_s3_equal_local_ones(s3: Any, folder: Path, geometry: Geometry) -> None:
    here, there = (open_frames(f"{place}/*.cxi", geometry) for place in (folder, "s3://beamtime/run1"))
    assert _names(here) == _names(there)
    assert there.identity(0).path == "s3://beamtime/run1/a.cxi"
    np.testing.assert_array_equal(_pixels(here), _pixels(there))
    assert [f.photon_energy for f in here] == [f.photon_energy for f in there]
    assert isinstance(here, Hdf5Frames)
    assert isinstance(there, Hdf5Frames)
    assert here.describe() == there.describe()


def test_the_second_pass_fetches_no_byte(s3: Any, gets: list[int], folder: Path, geometry: Geometry) -> None:
    first = _pixels(open_frames("s3://beamtime/run1/", geometry))
    total = sum(path.stat().st_size for path in folder.glob("*.cxi"))
    assert total <= sum(gets) <= total + 2 * BLOCK
    assert len(gets) < 2 * total / BLOCK
    gets.clear()
    second = _pixels(open_frames("s3://beamtime/run1/", geometry))
    assert gets == []
    np.testing.assert_array_equal(first, second)


def test_everything_that_names_files_works_on_s3(s3: Any, geometry: Geometry, tmp_path: Path) -> None:
    both = [f"{name}.cxi //{i}" for name in "ab" for i in range(N_FRAMES)]
    for name in ("s3://beamtime/run1", "s3://beamtime/run1/", "s3://beamtime/*/*.cxi", "s3://beamtime/run1/[ab].cxi"):
        assert _names(open_frames(name, geometry)) == both
    assert _names(open_frames("s3://beamtime/run1/b.cxi", geometry)) == both[N_FRAMES:]
    listed = ["b.cxi //3", "a.cxi //0", "b.cxi //4"]
    assert _names(open_frames("s3://beamtime/run1/some.lst", geometry)) == listed
    (tmp_path / "here.lst").write_text("s3://beamtime/run1/b.cxi //3\ns3://beamtime/run1/a.cxi //0\n")
    assert _names(open_frames(tmp_path / "here.lst", geometry)) == listed[:2]


def test_frames_over_http_equal_local_ones_and_are_fetched_once(server: Any, folder: Path, geometry: Geometry) -> None:
    address = f"{server.address}/run%201/a.cxi"
    local = _pixels(open_frames(folder / "a.cxi", geometry))
    np.testing.assert_array_equal(_pixels(open_frames(address, geometry)), local)
    assert server.bytes_sent == (folder / "a.cxi").stat().st_size
    np.testing.assert_array_equal(_pixels(pickle.loads(pickle.dumps(open_frames(address, geometry)))), local)
    assert server.bytes_sent == (folder / "a.cxi").stat().st_size


def test_folders_and_patterns_are_read_from_pages_and_from_webdav(server: Any, geometry: Geometry) -> None:
    both = [f"{name}.cxi //{i}" for name in "ab" for i in range(N_FRAMES)]
    assert _names(open_frames(f"{server.address}/run%201/*.cxi", geometry)) == both
    assert _names(open_frames(f"{server.address}/run%201/some.lst", geometry))[1] == "a.cxi //0"
    server.has_index = False
    dav = server.address.replace("http://", "dav://")
    frames = open_frames([f"{dav}/run%201/[b].cxi", f"{dav}/run%201/*a.c*"], geometry)
    assert _names(frames) == both[N_FRAMES:] + both[:N_FRAMES]
    assert frames.identity(0).path == f"{dav}/run%201/b.cxi"
    with pytest.raises(InputError, match="only the last part"):
        open_frames(f"{dav}/run*/a.cxi", geometry)


def test_neighbouring_frames_are_read_ahead_and_a_frame_is_one_request(
    tmp_path: Path, mockdata: Any, geometry: Geometry
) -> None:
    pixels = np.random.default_rng(1).integers(0, 2**31, (4, 1024, 1024), dtype=np.int32)
    with h5py.File(tmp_path / "large.h5", "w") as file:
        file.create_dataset("data", data=pixels, chunks=(1, 1024, 1024))
    with mockdata("file_server").serving(tmp_path) as server:
        dataset = find_dataset(open_hdf5(f"{server.address}/large.h5"), "/data")
        server.sent.clear()
        np.testing.assert_array_equal(dataset[2], pixels[2])
        assert 1 <= len(server.sent) <= 2
        server.sent.clear()
        content = RemoteFile(f"{server.address}/large.h5")
        for offset in range(4 * BLOCK, 16 * BLOCK, BLOCK // 2):
            assert content.read_at(offset, BLOCK // 2) == (tmp_path / "large.h5").read_bytes()[offset:][: BLOCK // 2]
        assert len(server.sent) <= 4


def test_reads_at_any_place_give_the_bytes_of_the_file(server: Any, folder: Path) -> None:
    address, content = f"{server.address}/run%201/a.cxi", (folder / "a.cxi").read_bytes()
    file = RemoteFile(address)
    random = np.random.default_rng(3)
    for offset, size in [(0, 1), (BLOCK - 1, 2), (len(content) - 5, 50), (len(content), 5), (0, len(content))]:
        assert file.read_at(offset, size) == content[offset : offset + size]
    for offset, size in zip(random.integers(0, len(content), 60), random.integers(0, 3 * BLOCK, 60), strict=True):
        assert file.read_at(int(offset), int(size)) == content[offset : offset + size]
    assert server.bytes_sent == len(content)


def test_the_cache_stays_below_its_limit(
    server: Any, folder: Path, geometry: Geometry, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFXLAB_CACHE_LIMIT", str(3 * BLOCK))
    local = _pixels(open_frames(folder / "a.cxi", geometry))
    for _ in range(2):
        np.testing.assert_array_equal(_pixels(open_frames(f"{server.address}/run%201/a.cxi", geometry)), local)
    kept = [path.stat().st_size for path in cache.glob("*/*")]
    assert 0 < sum(kept) <= 3 * BLOCK


def test_without_a_place_for_blocks_frames_are_read_all_the_same(
    server: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SFXLAB_CACHE", str(tmp_path / "file" / "cache"))
    file = RemoteFile(f"{server.address}/run%201/a.cxi")
    with pytest.warns(SfxlabWarning, match="cannot be kept here"):
        assert file.read_at(5, 100) == (folder / "a.cxi").read_bytes()[5:105]


def test_another_version_is_not_mixed_with_kept_blocks(tmp_path: Path, mockdata: Any) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"1" * 3 * BLOCK)
    with mockdata("file_server").serving(tmp_path) as server:
        before = RemoteFile(f"{server.address}/a.bin")
        assert before.read_at(0, 10) == b"1" * 10
        path.write_bytes(b"2" * 3 * BLOCK)
        os.utime(path, ns=(10**18, 10**18))
        assert before.read_at(0, 10) == b"1" * 10
        with pytest.raises(UnreachableError, match="the file has changed while it was read"):
            before.read_at(2 * BLOCK, 10)
        assert RemoteFile(f"{server.address}/a.bin").read_at(0, 10) == b"2" * 10


def test_another_version_on_s3_is_noticed(s3: Any) -> None:
    s3.pipe_file("beamtime/changing", b"1" * 3 * BLOCK)
    before = RemoteFile("s3://beamtime/changing")
    assert before.read_at(0, 10) == b"1" * 10
    s3.pipe_file("beamtime/changing", b"2" * 3 * BLOCK)
    with pytest.raises(UnreachableError, match="the file has changed while it was read"):
        before.read_at(2 * BLOCK, 10)
    assert RemoteFile("s3://beamtime/changing").read_at(0, 10) == b"2" * 10


_READER = """
import sys
import numpy as np
from sfxlab.frames import open_frames
if __name__ == "__main__":
    sys.stdin.readline()
    np.save(sys.argv[3], [frame.data for frame in open_frames(sys.argv[1], sys.argv[2])])
"""


def test_two_processes_read_the_same_file_at_once(
    server: Any, folder: Path, geometry: Geometry, tmp_path: Path, cache: Path
) -> None:
    (tmp_path / "g.geom").write_text(geometry.text)
    command = [sys.executable, "-c", _READER, f"{server.address}/run%201/a.cxi", str(tmp_path / "g.geom")]
    readers = [
        subprocess.Popen([*command, str(tmp_path / f"{n}.npy")], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for n in range(2)
    ]
    for reader in readers:
        assert reader.stdin is not None
        reader.stdin.write(b"\n")
        reader.stdin.flush()
    local = _pixels(open_frames(folder / "a.cxi", geometry))
    for n, reader in enumerate(readers):
        _, errors = reader.communicate(timeout=60)
        assert reader.returncode == 0, errors.decode()
        np.testing.assert_array_equal(np.load(tmp_path / f"{n}.npy"), local)
    kept = b"".join(path.read_bytes() for path in sorted(cache.glob("*/*"), key=lambda path: int(path.name)))
    assert kept == (folder / "a.cxi").read_bytes()


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
    s3: Any, geometry: Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.get_filesystem_class("s3").clear_instance_cache()
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


def test_a_server_that_is_not_there_is_named(
    free_port: Callable[[], int], geometry: Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnreachableError, match=r"a\.cxi: the server cannot be reached[\s\S]*Connect call failed"):
        open_frames(f"http://127.0.0.1:{free_port()}/a.cxi", geometry)


def test_a_server_that_does_not_answer_is_given_up(geometry: Geometry, monkeypatch: pytest.MonkeyPatch) -> None:
    import aiohttp

    patience = {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=1, sock_read=0.2)}
    monkeypatch.setitem(fsspec.config.conf, "http", {"client_kwargs": patience})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/a.cxi"
        with pytest.raises(UnreachableError, match="the server does not answer in time"):
            open_frames(address, geometry)


def test_servers_without_ranges_or_tags(server: Any, folder: Path, geometry: Geometry) -> None:
    address = f"{server.address}/run%201/a.cxi"
    server.has_tags = False
    local = _pixels(open_frames(folder / "a.cxi", geometry))
    np.testing.assert_array_equal(_pixels(open_frames(address, geometry)), local)
    server.has_ranges = False
    with pytest.raises(InputError, match="range"):
        open_frames(f"{server.address}/run%201/b.cxi", geometry)[5]


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


def test_a_password_from_netrc_is_sent(
    server: Any, geometry: Geometry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.password = f"Basic {base64.b64encode(b'anna:secret').decode()}"
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login anna password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    fsspec.get_filesystem_class("http").clear_instance_cache()
    assert len(open_frames(f"{server.address}/run%201/a.cxi", geometry)) == N_FRAMES


def test_a_missing_library_is_named_with_the_extra(geometry: Geometry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(InputError, match=r"is missing[\s\S]*pip install 'sfxlab\[remote\]'"):
        open_frames("https://host/a.cxi", geometry)


def test_a_connection_that_is_cut_costs_a_frame_only_if_it_stays_cut(
    server: Any, folder: Path, geometry: Geometry
) -> None:
    frames = open_frames(f"{server.address}/run%201/a.cxi", geometry)
    server.cut_after = 100
    with pytest.raises(UnreachableError, match=r"a\.cxi, frame //8: the connection was lost"):
        frames[8]
    server.cut_after = None
    np.testing.assert_array_equal(frames[8].data, open_frames(folder / "a.cxi", geometry)[8].data)


def test_garbage_that_holds_hdf5_objects_does_not_stop_the_network(
    server: Any, folder: Path, geometry: Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.http import HTTPFile

    fetch = HTTPFile.async_fetch_range

    async def littering(self: Any, start: int, end: int) -> Any:
        # Enough allocations for several collections, in the thread that fetches.
        _ = [[] for _ in range(5000)]
        return await fetch(self, start, end)

    monkeypatch.setattr(HTTPFile, "_fetch_range", fsspec.asyn.sync_wrapper(littering))
    before = gc.get_threshold()
    gc.set_threshold(100, 1, 1)
    try:
        frames = open_frames(f"{server.address}/run%201/a.cxi", geometry)
        with h5py.File(folder / "b.cxi") as other:
            for i in range(N_FRAMES):
                cycle: list[Any] = [other["data"]]
                cycle.append(cycle)
                del cycle
                assert frames[i].data.any()
    finally:
        gc.set_threshold(*before)
    assert gc.isenabled()


def test_a_process_that_leaves_files_open_ends_without_a_crash(server: Any, tmp_path: Path) -> None:
    code = (
        "import sys; from sfxlab.frames.hdf5_file import open_hdf5, find_dataset\n"
        "file = open_hdf5(sys.argv[1]); kept = find_dataset(open_hdf5(sys.argv[1]), '/data'); print(kept[0, 0, 0])"
    )
    done = subprocess.run([sys.executable, "-c", code, f"{server.address}/run%201/a.cxi"], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""


def _write_master(folder: Path, pixels: NDArray[Any]) -> None:
    for n in range(2):
        with h5py.File(folder / f"d_{n}.h5", "w") as file:
            file.create_dataset("/e/data", data=pixels[2 * n : 2 * n + 2], chunks=(1, *pixels.shape[1:]))
    with h5py.File(folder / "master.h5", "w") as file:
        file["/e/data_1"] = h5py.ExternalLink("d_1.h5", "/e/data")
        file["/e/data"] = np.zeros((2, *pixels.shape[1:]))  # what HDF5 itself would take for the target of the link
        file["/soft"] = h5py.SoftLink("/e/data_1")
        file["/broken"] = h5py.ExternalLink("none.h5", "/e/data")
        layout = h5py.VirtualLayout(pixels.shape, pixels.dtype)
        for n in range(2):
            layout[2 * n : 2 * n + 2] = h5py.VirtualSource(f"d_{n}.h5", "/e/data", (2, *pixels.shape[1:]))
        file.create_virtual_dataset("/data", layout, fillvalue=7)
        file["energy"] = [9000.0, 9001.0, 9002.0, 9003.0]


def test_links_and_virtual_datasets_lead_to_the_neighbouring_files(
    tmp_path: Path, mockdata: Any, geometry: Geometry
) -> None:
    pixels = np.random.default_rng(5).integers(0, 1000, (4, *SHAPE), dtype=np.int32)
    _write_master(tmp_path, pixels)
    with mockdata("file_server").serving(tmp_path) as server:
        address = f"{server.address}/master.h5"
        file = open_hdf5(address)
        for path in ("/e/data_1", "e/data_1", "/soft"):
            np.testing.assert_array_equal(find_dataset(file, path)[:], pixels[2:])
        assert remote_bytes(node_at(file, "/soft")).address == f"{server.address}/d_1.h5"
        with pytest.raises(UnreachableError, match=r"none\.h5: there is no such object"):
            find_dataset(file, "/broken")
        np.testing.assert_array_equal(_pixels(open_frames(address, geometry)), pixels)
        (tmp_path / "d_1.h5").unlink()
        frames = open_frames(address, geometry)
        np.testing.assert_array_equal(frames[1].data, pixels[1])
        with pytest.raises(UnreachableError, match=r"d_1\.h5, frame //2: there is no such object"):
            frames[2]


@pytest.mark.parametrize("kind", ["s3", "http"])
def test_a_server_that_dies_costs_frames_that_resuming_repairs(
    kind: str,
    folder: Path,
    geometry: Geometry,
    tmp_path: Path,
    free_port: Callable[[], int],
    s3_settings: Callable[[int], None],
) -> None:
    port = free_port()
    s3_settings(port)
    start = _s3_server if kind == "s3" else _web_server
    address = "s3://beamtime/run1" if kind == "s3" else f"http://127.0.0.1:{port}/run%201"
    with start(folder, port) as server:

        def kill(progress: Progress) -> None:
            if progress.done.frames == 8:
                server.kill()
                server.wait()

        frames = open_frames(f"{address}/*.cxi", geometry)
        run = process(frames, Recipe(), output=tmp_path / "run", chunk_size=4, progress=kill)
    assert run.is_finished
    rows, failed = run.frames.to_pylist(), run.unreachable_frames()
    assert 3 <= len(failed) < 2 * N_FRAMES - 8
    assert failed == [row["frame"] for row in rows if row["status"] == "failed"]
    reason = f"UnreachableError: {address}/b.cxi, frame //11: the server cannot be reached"
    assert rows[failed[-1]]["reason"].startswith(reason)
    times = {path.name: path.stat().st_mtime_ns for path in (run.path / "frames").iterdir()}

    seen: list[Progress] = []
    with start(folder, port):
        frames = open_frames(f"{address}/*.cxi", geometry)
        repaired = process(frames, Recipe(), output=run.path, resume=True, progress=seen.append)
        undisturbed = process(frames, Recipe(), output=tmp_path / "other", chunk_size=4, progress=None)
    assert (repaired.counts.failed, repaired.unreachable_frames()) == (0, [])
    assert seen[0].done.frames == 2 * N_FRAMES - len(failed)
    assert (seen[-1].done, seen[-1].fresh) == (repaired.counts, len(failed))
    untouched = {p.name for p in (run.path / "frames").iterdir() if p.stat().st_mtime_ns == times[p.name]}
    assert untouched == {f"part-{n:06d}.parquet" for n in range(6) if not any(i // 4 == n for i in failed)}
    for table in ("frames", "peaks", "crystals", "reflections"):
        assert repr(repaired.table(table).to_pylist()) == repr(undisturbed.table(table).to_pylist())


def test_a_run_records_versions_of_remote_files_and_refuses_others(
    tmp_path: Path, mockdata: Any, folder: Path, geometry: Geometry
) -> None:
    served = tmp_path / "served"
    served.mkdir()
    (served / "a.cxi").write_bytes((folder / "a.cxi").read_bytes())
    with mockdata("file_server").serving(served) as server:
        address = f"{server.address}/a.cxi"
        run = process(open_frames(address, geometry)[:2], Recipe(), output=tmp_path / "run", progress=None)
        (file,) = Run(run.path).record.files
        status = (served / "a.cxi").stat()
        assert (file.path, file.hashed, file.size, file.sha256) == (address, "nothing", status.st_size, None)
        assert file.etag == f'"{status.st_mtime_ns:x}"'
        assert file.modified is not None
        assert int(file.modified.timestamp()) == int(status.st_mtime)
        assert run.open_frames()[1].data.any()
        os.utime(served / "a.cxi", ns=(10**18, 10**18))
        with pytest.raises(InputError.__bases__[0], match=r"a\.cxi: the file has changed since the run began"):
            process(open_frames(address, geometry)[:2], Recipe(), output=run.path, resume=True)
