from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sfxlab.errors import InputError
from sfxlab.frames import open_frames
from sfxlab.geometry import Geometry

SHAPE = (256, 192)
N_FRAMES = 12


def names_of(frames: Any) -> list[str]:
    names = (frames.identity(i) for i in range(len(frames)))
    return [f"{name.path.rpartition('/')[2]} {name.event}" for name in names]


def test_everything_that_names_files_works_on_s3(s3: Any, geometry: Geometry, tmp_path: Path) -> None:
    both = [f"{name}.cxi //{i}" for name in "ab" for i in range(N_FRAMES)]
    for name in ("s3://beamtime/run1", "s3://beamtime/run1/", "s3://beamtime/*/*.cxi", "s3://beamtime/run1/[ab].cxi"):
        assert names_of(open_frames(name, geometry)) == both
    assert names_of(open_frames("s3://beamtime/run1/b.cxi", geometry)) == both[N_FRAMES:]
    listed = ["b.cxi //3", "a.cxi //0", "b.cxi //4"]
    assert names_of(open_frames("s3://beamtime/run1/some.lst", geometry)) == listed
    (tmp_path / "here.lst").write_text("s3://beamtime/run1/b.cxi //3\ns3://beamtime/run1/a.cxi //0\n")
    assert names_of(open_frames(tmp_path / "here.lst", geometry)) == listed[:2]


def test_folders_and_patterns_are_read_from_the_pages_of_web_servers(server: Any, geometry: Geometry) -> None:
    both = [f"{name}.cxi //{i}" for name in "ab" for i in range(N_FRAMES)]
    for name in ("run%201/", "run%201/*.cxi", "run%201/[ab].cxi"):
        assert names_of(open_frames(f"{server.address}/{name}", geometry)) == both
    assert names_of(open_frames(f"{server.address}/run%201/some.lst", geometry))[1] == "a.cxi //0"
    with pytest.raises(InputError, match="only the last part"):
        open_frames(f"{server.address}/run*/a.cxi", geometry)
    with pytest.raises(InputError, match=r"the server cannot do this[\s\S]*is this a WebDAV server"):
        open_frames(server.address.replace("http", "dav") + "/run%201/", geometry)
    with pytest.raises(InputError, match="the directory has no HDF5 files or images"):
        open_frames(f"{server.address}/", geometry)
