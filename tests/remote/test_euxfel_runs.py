"""Run directories of European XFEL at addresses."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfxlab.errors import FrameError, InputError, SfxlabWarning
from sfxlab.frames import open_frames
from sfxlab.geometry import HC_EV_ANGSTROM, Geometry
from sfxlab.geometry.extra_geom import from_extra_geom
from sfxlab.processing import process
from sfxlab.recipe import Recipe

extra_geom = pytest.importorskip("extra_geom")
pytest.importorskip("extra_data")


@pytest.fixture
def euxfel(mockdata: Any) -> Any:
    return mockdata("euxfel")


def agipd(photon_energy: Any = 9300.0) -> Geometry:
    geometry: Geometry = from_extra_geom(extra_geom.AGIPD_1MGeometry.example(), 0.2, photon_energy)
    return geometry


def test_a_run_directory_at_an_address_gives_the_same_frames(publish: Any, euxfel: Any, tmp_path: Path) -> None:
    euxfel.write_run(tmp_path / "r0034", "AGIPD1M", missing=[3])
    here = open_frames(tmp_path / "r0034", agipd())
    address = publish(tmp_path / "r0034") + "/"
    there = pickle.loads(pickle.dumps(open_frames(address, agipd())))
    assert len(here) == len(there) == 4
    assert there.paths == tuple(path.replace(f"{tmp_path}/r0034/", address) for path in here.paths)
    for i, (mine, theirs) in enumerate(zip(here, there, strict=True)):
        assert (there.identity(i).path, there.identity(i).event) == (address, here.identity(i).event)
        assert mine.metadata == theirs.metadata
        np.testing.assert_array_equal(mine.data, theirs.data)
        np.testing.assert_array_equal(mine.bad, theirs.bad)


@pytest.mark.parametrize("publish", ["s3", "dav"], indirect=True)
def test_such_an_address_needs_no_slash_and_may_be_a_pattern_where_folders_are_known(
    publish: Any, euxfel: Any, tmp_path: Path
) -> None:
    euxfel.write_run(tmp_path / "raw" / "r0034", "JUNGFRAU4M")
    geometry = from_extra_geom(extra_geom.JUNGFRAUGeometry.example(n_modules=8), 0.2, 9300.0)
    address = publish(tmp_path / "raw")
    for name in ("r0034", "r00*"):
        frames = open_frames(f"{address}/{name}", geometry)
        assert frames.identity(3).path == f"{address}/r0034/"


def test_the_photon_energy_comes_from_the_raw_run_beside_a_corrected_one(
    publish: Any, euxfel: Any, tmp_path: Path
) -> None:
    euxfel.write_run(tmp_path / "p1" / "proc" / "r0034", "AGIPD1M")
    euxfel.write_devices(tmp_path / "p1" / "raw" / "r0034", np.array([0.1333, 0.1334]))
    frames = open_frames(f"{publish(tmp_path / 'p1')}/proc/r0034/", agipd("/XGM/photon_energy"))
    energies = [HC_EV_ANGSTROM / wavelength for wavelength in (1.333, 1.333, 1.334, 1.334)]
    assert [frame.photon_energy for frame in frames] == pytest.approx(energies)


def test_frames_of_a_file_that_is_gone_fail_until_resuming(publish: Any, euxfel: Any, tmp_path: Path) -> None:
    run_folder = tmp_path / "r0034"
    euxfel.write_run(run_folder, "AGIPD1M")
    address = publish(run_folder)
    frames = open_frames(f"{address}/", agipd())
    lost = run_folder / "CORR-R0034-AGIPD05-S00000.h5"
    content = lost.read_bytes()
    lost.unlink()
    publish(run_folder)
    with pytest.raises(FrameError, match=r"CORR-R0034-AGIPD05-S00000\.h5, frame //10000/0: there is no such object"):
        frames[0]
    with pytest.raises(InputError, match=rf"{lost.name}: there is no such object"):
        process(frames, Recipe(), output=tmp_path / "out", progress=None)
    lost.write_bytes(content)
    publish(run_folder)
    run = process(frames, Recipe(), output=tmp_path / "out", progress=None)
    assert run.counts.failed == 0
    assert run.open_frames()[2].metadata["train_id"] == frames[2].metadata["train_id"]


@pytest.mark.parametrize("publish", ["http"], indirect=True)
def test_damaged_files_are_left_out_with_a_warning(publish: Any, euxfel: Any, tmp_path: Path) -> None:
    euxfel.write_run(tmp_path / "r0034", "AGIPD1M")
    for path in sorted((tmp_path / "r0034").iterdir())[:2]:
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.warns(SfxlabWarning, match=r"2 files cannot be read and are left out \(CORR-R0034-AGIPD00"):
        frames = open_frames(f"{publish(tmp_path / 'r0034')}/", agipd())
    assert frames[0].metadata["missing_modules"] == (0, 1)
    for path in (tmp_path / "r0034").iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="no file of the run can be read"):
        open_frames(f"{publish(tmp_path / 'r0034')}/", agipd())
