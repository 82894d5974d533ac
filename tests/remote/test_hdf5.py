from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from sfxlab.errors import UnreachableError
from sfxlab.frames import open_frames
from sfxlab.frames.hdf5_file import find_dataset, open_hdf5
from sfxlab.geometry import Geometry
from sfxlab.remote.hdf5 import node_at, remote_bytes

SHAPE = (256, 192)
N_FRAMES = 12


def pixels_of(frames: Any) -> list[NDArray[Any]]:
    return [frame.data for frame in frames]


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
        np.testing.assert_array_equal(pixels_of(open_frames(address, geometry)), pixels)
        (tmp_path / "d_1.h5").unlink()
        frames = open_frames(address, geometry)
        np.testing.assert_array_equal(frames[1].data, pixels[1])
        with pytest.raises(UnreachableError, match=r"d_1\.h5, frame //2: there is no such object"):
            frames[2]


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
