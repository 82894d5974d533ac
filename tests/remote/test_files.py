from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from sfxlab.errors import SfxlabWarning, UnreachableError
from sfxlab.frames import open_frames
from sfxlab.frames.hdf5_file import find_dataset, open_hdf5
from sfxlab.geometry import Geometry
from sfxlab.remote.files import BLOCK, RemoteFile

SHAPE = (256, 192)
N_FRAMES = 12


def pixels_of(frames: Any) -> list[NDArray[Any]]:
    return [frame.data for frame in frames]


def test_reads_at_any_place_give_the_bytes_of_the_file(server: Any, folder: Path) -> None:
    address, content = f"{server.address}/run%201/a.cxi", (folder / "a.cxi").read_bytes()
    file = RemoteFile(address)
    random = np.random.default_rng(3)
    for offset, size in [(0, 1), (BLOCK - 1, 2), (len(content) - 5, 50), (len(content), 5), (0, len(content))]:
        assert file.read_at(offset, size) == content[offset : offset + size]
    for offset, size in zip(random.integers(0, len(content), 60), random.integers(0, 3 * BLOCK, 60), strict=True):
        assert file.read_at(int(offset), int(size)) == content[offset : offset + size]
    assert server.bytes_sent == len(content)


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


def test_the_cache_stays_below_its_limit(
    server: Any, folder: Path, geometry: Geometry, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFXLAB_CACHE_LIMIT", str(3 * BLOCK))
    local = pixels_of(open_frames(folder / "a.cxi", geometry))
    for _ in range(2):
        np.testing.assert_array_equal(pixels_of(open_frames(f"{server.address}/run%201/a.cxi", geometry)), local)
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
