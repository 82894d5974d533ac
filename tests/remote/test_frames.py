"""Frames, and runs of them, from S3 and web servers."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sfxlab.errors import InputError, UnreachableError
from sfxlab.frames import Hdf5Frames, open_frames
from sfxlab.geometry import Geometry
from sfxlab.processing import process
from sfxlab.progress import Progress
from sfxlab.recipe import Recipe
from sfxlab.remote.files import BLOCK
from sfxlab.store import Run

SHAPE = (256, 192)
N_FRAMES = 12


def pixels_of(frames: Any) -> list[NDArray[Any]]:
    return [frame.data for frame in frames]


def names_of(frames: Any) -> list[str]:
    names = (frames.identity(i) for i in range(len(frames)))
    return [f"{name.path.rpartition('/')[2]} {name.event}" for name in names]


def test_frames_from_s3_equal_local_ones(s3: Any, folder: Path, geometry: Geometry) -> None:
    here, there = (open_frames(f"{place}/*.cxi", geometry) for place in (folder, "s3://beamtime/run1"))
    assert names_of(here) == names_of(there)
    assert there.identity(0).path == "s3://beamtime/run1/a.cxi"
    np.testing.assert_array_equal(pixels_of(here), pixels_of(there))
    assert [f.photon_energy for f in here] == [f.photon_energy for f in there]
    assert isinstance(here, Hdf5Frames)
    assert isinstance(there, Hdf5Frames)
    assert here.describe() == there.describe()


def test_the_second_pass_fetches_no_byte(s3: Any, gets: list[int], folder: Path, geometry: Geometry) -> None:
    first = pixels_of(open_frames("s3://beamtime/run1/", geometry))
    total = sum(path.stat().st_size for path in folder.glob("*.cxi"))
    assert total <= sum(gets) <= total + 2 * BLOCK
    assert len(gets) < 2 * total / BLOCK
    gets.clear()
    second = pixels_of(open_frames("s3://beamtime/run1/", geometry))
    assert gets == []
    np.testing.assert_array_equal(first, second)


def test_frames_over_http_equal_local_ones_and_are_fetched_once(server: Any, folder: Path, geometry: Geometry) -> None:
    address = f"{server.address}/run%201/a.cxi"
    local = pixels_of(open_frames(folder / "a.cxi", geometry))
    np.testing.assert_array_equal(pixels_of(open_frames(address, geometry)), local)
    assert server.bytes_sent == (folder / "a.cxi").stat().st_size
    np.testing.assert_array_equal(pixels_of(pickle.loads(pickle.dumps(open_frames(address, geometry)))), local)
    assert server.bytes_sent == (folder / "a.cxi").stat().st_size


def test_a_connection_that_is_cut_costs_a_frame_only_if_it_stays_cut(
    server: Any, folder: Path, geometry: Geometry
) -> None:
    frames = open_frames(f"{server.address}/run%201/a.cxi", geometry)
    server.cut_after = 100
    with pytest.raises(UnreachableError, match=r"a\.cxi, frame //8: the connection was lost"):
        frames[8]
    server.cut_after = None
    np.testing.assert_array_equal(frames[8].data, open_frames(folder / "a.cxi", geometry)[8].data)


def test_servers_without_ranges_or_tags(server: Any, folder: Path, geometry: Geometry) -> None:
    address = f"{server.address}/run%201/a.cxi"
    server.has_tags = False
    local = pixels_of(open_frames(folder / "a.cxi", geometry))
    np.testing.assert_array_equal(pixels_of(open_frames(address, geometry)), local)
    server.has_ranges = False
    with pytest.raises(InputError, match="range"):
        open_frames(f"{server.address}/run%201/b.cxi", geometry)[5]


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
    local = pixels_of(open_frames(folder / "a.cxi", geometry))
    with ExitStack() as stack:
        readers = []
        for n in range(2):
            options = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
            readers.append(stack.enter_context(subprocess.Popen([*command, str(tmp_path / f"{n}.npy")], **options)))
            stack.callback(readers[n].kill)
        for reader in readers:
            assert reader.stdin is not None
            reader.stdin.write(b"\n")
            reader.stdin.flush()
        for n, reader in enumerate(readers):
            _, errors = reader.communicate()
            assert reader.returncode == 0, errors.decode()
            np.testing.assert_array_equal(np.load(tmp_path / f"{n}.npy"), local)
    kept = b"".join(path.read_bytes() for path in sorted(cache.glob("*/*"), key=lambda path: int(path.name)))
    assert kept == (folder / "a.cxi").read_bytes()


@pytest.mark.parametrize("kind", ["s3", "http"])
def test_a_server_that_dies_costs_frames_that_resuming_repairs(
    kind: str,
    folder: Path,
    geometry: Geometry,
    tmp_path: Path,
    servers: Any,
    s3_settings: Callable[[int], None],
) -> None:
    # Learning would fetch all frames while the server lives.
    recipe = Recipe().changed(bad_pixels={"learn": False}, profiles={"learn": False})
    port = servers.free_port()
    s3_settings(port)
    start, served = (servers.s3_server, folder) if kind == "s3" else (servers.web_server, folder.parent)
    address = "s3://beamtime/run1" if kind == "s3" else f"http://127.0.0.1:{port}/run%201"
    with start(served, port) as server:

        def kill(progress: Progress) -> None:
            if progress.done.frames == 8:
                server.kill()
                server.wait()

        frames = open_frames(f"{address}/*.cxi", geometry)
        run = process(frames, recipe, output=tmp_path / "run", chunk_size=4, progress=kill)
    assert run.is_finished
    rows, failed = run.frames.to_pylist(), run.unreachable_frames()
    assert 3 <= len(failed) < 2 * N_FRAMES - 8
    assert failed == [row["frame"] for row in rows if row["status"] == "failed"]
    last = failed[-1] - N_FRAMES  # of the second file; the end of it may have been fetched when it was opened
    reason = f"UnreachableError: {address}/b.cxi, frame //{last}: the server cannot be reached"
    assert rows[failed[-1]]["reason"].startswith(reason)
    times = {path.name: path.stat().st_mtime_ns for path in (run.path / "frames").iterdir()}

    seen: list[Progress] = []
    with start(served, port):
        frames = open_frames(f"{address}/*.cxi", geometry)
        repaired = process(frames, recipe, output=run.path, resume=True, progress=seen.append)
        undisturbed = process(frames, recipe, output=tmp_path / "other", chunk_size=4, progress=None)
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
