"""Runs made from Python without saying what the inputs were: their frames can be opened again, whatever they are."""

from __future__ import annotations

import os
import shutil

import h5py
import numpy as np
import pytest

from sfxlab.errors import InputError, RunError
from sfxlab.frames import open_frames
from sfxlab.geometry import parse_geometry
from sfxlab.processing import process
from sfxlab.recipe import Recipe
from sfxlab.store.reduction import export_hits


def _facility(write):
    def make(mockdata, folder):
        path, text, _ = getattr(mockdata("facilities"), write)(folder)
        (folder / "a.geom").write_text(text)
        return open_frames(path, folder / "a.geom")

    return make


def _master(layout):
    def make(mockdata, folder):
        nxmx = mockdata("nxmx")
        pixels = np.random.default_rng(1).poisson(3, (7, 40, 32)).astype(np.uint16)
        pixels[:, 30:32, 20:22] = 300
        return open_frames(nxmx.write_master(folder, pixels, *nxmx.eiger((40, 32)), layout=layout))

    return make


def _run_directory(mockdata, folder):
    extra_geom = pytest.importorskip("extra_geom")
    pytest.importorskip("extra_data")
    from sfxlab.geometry.extra_geom import from_extra_geom

    mockdata("euxfel").write_run(folder / "r0034", "AGIPD1M", trains=1)
    return open_frames(folder / "r0034", from_extra_geom(extra_geom.AGIPD_1MGeometry.example(), 0.2, 9300.0))


def _images(mockdata, folder):
    pixels = np.random.default_rng(1).poisson(3, (3, 40, 32)).astype(np.int32)
    for number, image in enumerate(pixels):
        mockdata("images").write_cbf(folder / f"a_{number}.cbf", image, mockdata("images").pilatus_comment())
    return open_frames(folder)


def _stack_of_images(mockdata, folder):
    mockdata("images").write_tiff_stack(folder / "a.tif", np.ones((3, 8, 6), np.uint16))
    panel = "min_fs = 0\nmax_fs = 5\nmin_ss = 0\nmax_ss = 7\ncorner_x = -3\ncorner_y = 4\nfs = x\nss = -y"
    lines = "\n".join(f"p/{line}" for line in panel.splitlines())
    return open_frames(folder / "a.tif", parse_geometry(f"photon_energy = 9000\nclen = 0.1\nres = 10000\n{lines}\n"))


def _list_of_events(mockdata, folder):
    path, text, _ = mockdata("facilities").write_cspad(folder)
    (folder / "some.lst").write_text(f"{path} //2\n{path} //0\n")
    return open_frames(folder / "some.lst", parse_geometry(text))


def _geometry_made_in_python(mockdata, folder):
    path, text, _ = mockdata("facilities").write_cspad(folder)
    geometry = parse_geometry(text)
    return open_frames(path, geometry.with_detector(geometry.detector(0.1).moved(x=1e-3), 0.1))


SOURCES = {
    "CXI": _facility("write_cspad"),
    "stacked modules, a group for each scan position": _facility("write_scans"),
    "a group for each frame": _facility("write_sacla"),
    "two detectors": _facility("write_two_detectors"),
    "mask in a file of its own": _facility("write_swissfel"),
    "NXmx master with links": _master("links"),
    "NXmx master with a virtual data set": _master("virtual"),
    "European XFEL run directory": _run_directory,
    "images": _images,
    "several images in a file": _stack_of_images,
    "list of events": _list_of_events,
    "geometry made in Python": _geometry_made_in_python,
}


@pytest.mark.parametrize("part", [slice(None), slice(1, 2)], ids=["all frames", "one frame"])
@pytest.mark.parametrize("source", SOURCES)
def test_frames_of_every_kind_of_source_are_found_again(mockdata, tmp_path, monkeypatch, source, part):
    data = tmp_path / "data"
    data.mkdir()
    frames = SOURCES[source](mockdata, data)[part]
    run = process(frames, Recipe(), output=tmp_path / "run", progress=None)
    assert run.counts.failed == 0
    monkeypatch.chdir(os.sep)
    again = run.open_frames()
    assert [again.identity(i) for i in range(len(again))] == [frames.identity(i) for i in range(len(frames))]
    np.testing.assert_array_equal(again[0].data, frames[0].data)
    np.testing.assert_array_equal(again[0].bad, frames[0].bad)
    assert again[0].photon_energy == pytest.approx(frames[0].photon_energy)
    np.testing.assert_allclose(again[0].detector.arrays.corner, frames[0].detector.arrays.corner, atol=1e-9)


def test_a_run_whose_files_are_gone_names_them(mockdata, tmp_path):
    (tmp_path / "data").mkdir()
    frames = SOURCES["CXI"](mockdata, tmp_path / "data")
    run = process(frames, Recipe(), output=tmp_path / "run", progress=None)
    os.unlink(frames.paths[0])
    with pytest.raises(InputError, match=rf"{frames.paths[0]}: there is no such file"):
        run.open_frames()


@pytest.mark.parametrize("layout", ["links", "virtual"])
def test_a_data_file_of_a_master_that_changes_is_noticed_on_resuming(mockdata, tmp_path, layout):
    frames = _master(layout)(mockdata, tmp_path)
    run = process(frames, Recipe(), output=tmp_path / "run", progress=None)
    data = sorted(tmp_path.glob("*_data_*"))
    assert run.record.linked.n_files == len(data) == 3
    assert [file.path for file in run.record.files] == list(frames.paths)
    again = open_frames(frames.paths)
    assert process(again, Recipe(), output=run.path, resume=True, progress=None).is_finished
    shutil.copy(data[1], tmp_path / "new.h5")
    with h5py.File(tmp_path / "new.h5", "r+") as file:
        file["/entry/data/data"][0] = 7
    os.replace(tmp_path / "new.h5", data[1])
    os.utime(data[1], (data[1].stat().st_atime, data[1].stat().st_mtime + 5))
    with pytest.raises(RunError, match=rf"{data[1]}: the file has changed since the run began"):
        process(again, Recipe(), output=run.path, resume=True, progress=None)


def test_a_data_file_that_an_older_one_takes_the_place_of_is_noticed_too(mockdata, tmp_path):
    frames = _master("links")(mockdata, tmp_path)
    run = process(frames, Recipe(), output=tmp_path / "run", progress=None)
    data = sorted(tmp_path.glob("*_data_*"))
    os.utime(data[0], (1e9, 1e9))
    with pytest.raises(RunError, match=r"through links: 3 of \d+ bytes in the run, 3 of \d+ bytes now, or their dates"):
        process(open_frames(frames.paths), Recipe(), output=run.path, resume=True, progress=None)


def test_the_size_of_a_data_set_is_that_of_all_its_files(mockdata, tmp_path):
    recipe = Recipe().changed(hits={"min_peaks": 1})
    frames = _master("links")(mockdata, tmp_path)
    run = process(frames, recipe, output=tmp_path / "run", progress=None)
    reduced = export_hits(run, tmp_path / "hits.cxi")
    files = [*tmp_path.glob("*_master.h5"), *tmp_path.glob("*_data_*")]
    assert reduced.bytes_before == sum(path.stat().st_size for path in files)
