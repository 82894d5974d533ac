"""Hits of a run as a data set of their own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 -- registers the compression filter
import numpy as np
import pytest
from distributed import Client

from sfxlab.crystal import read_cell
from sfxlab.errors import OutputExistsError, RunError
from sfxlab.frames import FrameSource, open_frames
from sfxlab.geometry import Geometry, parse_geometry
from sfxlab.interop import cxi_frames
from sfxlab.interop.peak_lists import read_peaks
from sfxlab.interop.pixel_reduction import PixelReduction
from sfxlab.peaks import Peaks
from sfxlab.pipeline import FrameResult
from sfxlab.processing import process
from sfxlab.recipe import Recipe
from sfxlab.simulation import simulate
from sfxlab.store import Run, describe
from sfxlab.store.reduction import export_hits

MakeRun = Callable[..., Run]

_MODULES = """
photon_energy = /energy keV
clen = /z mm
detector_shift_x = /shift mm
data = /data
dim0 = %
dim2 = ss
dim3 = fs
res = 10000
adu_per_photon = 10
max_adu = 5000
flag_equal = -7
fs = x
ss = y
mask0_data = /mask
mask0_badbits = 0x2
a/dim1 = 0
a/min_fs = 0
a/max_fs = 15
a/min_ss = 0
a/max_ss = 11
a/corner_x = -8.123
a/corner_y = 20.5
a/mask_edge_pixels = 1
b/dim1 = 2
b/min_fs = 2
b/max_fs = 15
b/min_ss = 0
b/max_ss = 11
b/corner_x = -8
b/corner_y = -3.25
b/fs = 0.9999x + 0.01y
b/ss = -0.01x + 0.9999y
b/coffset = 0.0002
badspot/panel = b
badspot/min_fs = 5
badspot/max_fs = 6
badspot/min_ss = 3
badspot/max_ss = 3
"""


@pytest.fixture
def modules(tmp_path: Path) -> Callable[..., FrameSource]:
    """`modules(name, …)`: 7 frames of a stack of modules; masks, energies and lengths of their own, flags and NaN."""
    geometry = tmp_path / "modules.geom"
    geometry.write_text(_MODULES)

    def write(*names: str, one_mask: bool = False) -> FrameSource:
        random = np.random.default_rng(5)
        for name in names:
            with h5py.File(tmp_path / name, "w") as file:
                data = random.normal(50, 20, (7, 3, 12, 16)).astype(np.float32)
                data[random.random(data.shape) < 0.02] = np.nan
                data[random.random(data.shape) < 0.02] = -7
                file["data"] = data
                mask = random.integers(0, 4, data.shape[1:] if one_mask else data.shape).astype(np.uint16)
                file["mask"] = np.broadcast_to(mask, data.shape)
                file["energy"], file["z"] = random.normal(9.4, 0.01, 7), random.normal(120, 0.3, 7)
                file["shift"] = random.normal(0, 0.1, 7)
        return open_frames([tmp_path / name for name in names], geometry)

    return write


@pytest.fixture
def run_of(tmp_path: Path) -> MakeRun:
    """`run_of(frames, hits)`: a run in which these frames are hits, with made-up peaks."""

    def make(frames: FrameSource, hits: Collection[int], chunk_size: int = 3, **named: str) -> Run:
        names = [frames.identity(i) for i in range(len(frames))]
        inputs = list(dict.fromkeys(name.path for name in names))
        record = describe(
            Recipe(), names, n_frames=len(names), chunk_size=chunk_size, paths=frames.paths, inputs=inputs
        )  # fmt: skip
        run = Run.create(tmp_path / named.get("name", "run"), record, names, frames.geometry_text)
        with run.writing():
            for chunk in range(record.n_chunks):
                results = [_result(frames, i, i in hits) for i in record.frames_of(chunk)]
                run.write_chunk(chunk, results)
        return run

    return make


def _result(frames: FrameSource, index: int, is_hit: bool) -> FrameResult:
    n = 3 + index if is_hit else 0
    fs, ss = np.arange(n, dtype=np.float32) + 3.25, np.full(n, 14.75, dtype=np.float32)
    peaks = Peaks(np.full(n, 1, np.int16), fs, ss, 100 * fs, fs, fs, fs, fs, np.full(n, 4, np.int16))
    energy = 9400.0 + index
    return FrameResult(frames.identity(index), index, "hit" if is_hit else "blank", "", energy, 0.12, peaks)


def assert_same_frames(before: FrameSource, numbers: Collection[int], path: Path) -> FrameSource:
    """The frames of the reduced file are, in all that matters, some frames of before."""
    after = open_frames(path, path.with_suffix(".geom"))
    assert len(after) == len(numbers)
    for frame, number in zip(after, numbers, strict=True):
        original = before[number]
        assert frame.data.dtype == original.data.dtype
        assert frame.photon_energy == original.photon_energy
        np.testing.assert_array_equal(frame.data, original.data)
        np.testing.assert_array_equal(frame.bad != 0, original.bad != 0)
        np.testing.assert_allclose(frame.detector.arrays.corner, original.detector.arrays.corner, rtol=0, atol=1e-12)
        np.testing.assert_allclose(frame.detector.arrays.fs, original.detector.arrays.fs, rtol=0, atol=1e-15)
        np.testing.assert_array_equal(frame.detector.arrays.bounds, original.detector.arrays.bounds)
        np.testing.assert_array_equal(frame.detector.arrays.max_adu, original.detector.arrays.max_adu)
        if original.saturation_map is None:
            assert frame.saturation_map is None
        else:
            np.testing.assert_array_equal(frame.saturation_map, original.saturation_map)
    return after


def test_the_reduced_data_set_reprocesses_to_the_same_peaks_and_crystals(tmp_path: Path) -> None:
    made = simulate(tmp_path / "set", 8, seed=3, kinds={"single": 3, "blank": 1})
    recipe = Recipe().with_cell(read_cell(tmp_path / "set/frames.cell"))
    run = process(open_frames(made.frames, made.geometry), recipe, output=tmp_path / "run", progress=None, chunk_size=3)
    hits = [row["frame"] for row in run.frames.to_pylist() if row["status"] != "blank"]
    assert 0 < len(hits) < 8
    reduced = export_hits(run, tmp_path / "hits.cxi")
    assert (reduced.frames, reduced.hits, reduced.unreadable) == (8, len(hits), ())
    frames = open_frames(reduced.path, reduced.geometry)
    again = process(frames, recipe, output=tmp_path / "again", progress=None)
    assert len(again.crystals) > 0
    for name in ("frames", "peaks", "crystals", "reflections"):
        before = [row | {"frame": hits.index(row["frame"])} for row in run.table(name).to_pylist()
                  if row["frame"] in hits]  # fmt: skip
        after = again.table(name).to_pylist()
        for row in (*before, *after):
            row.pop("path", None)
            row.pop("event", None)
        assert repr(before) == repr(after)
    found = reduced.bytes_after
    assert found == sum(file.stat().st_size for file in (reduced.path, *(tmp_path / "hits.parts").iterdir()))
    assert reduced.factor == pytest.approx(made.frames.stat().st_size / found)


@pytest.mark.parametrize("one_mask", [False, True])
def test_modules_in_a_stack_become_one_array(
    modules: Callable[..., FrameSource], run_of: MakeRun, tmp_path: Path, one_mask: bool
) -> None:
    before, hits = modules("a.h5", one_mask=one_mask), [1, 2, 5, 6]
    reduced = export_hits(run_of(before, hits), tmp_path / "hits.cxi")
    assert_same_frames(before, hits, reduced.path)
    with h5py.File(reduced.path) as file:
        data = file["entry_1/data_1/data"]
        assert data.is_virtual
        assert data.shape == (4, 24, 16)
        assert file["entry_1/frame_number"][()].tolist() == hits
        names = file["entry_1/experiment_identifier"].asstr()[()].tolist()
        assert names == [str(before.identity(number)) for number in hits]
        assert data.attrs["reduction"] == "lossless"
        # All peaks are on panel b, which fills the second of the modules.
        modules = file["entry_1/result_1/peakModule"]
        counts = file["entry_1/result_1/nPeaks"][()]
        assert [row[:n].tolist() for row, n in zip(modules[()], counts, strict=True)] == [[1] * n for n in counts]
        assert modules.attrs["first_panel"].tolist() == ["a", "b"]
        assert modules.attrs["first_row"].tolist() == [0, 12]
    with h5py.File(tmp_path / "hits.parts/part-000000.cxi") as file:
        data = file["entry_1/data_1/data"]
        assert data.chunks == (1, 24, 16)
        assert data.id.get_create_plist().get_filter(0)[0] == 32008


def test_frames_of_a_european_xfel_run_with_a_missing_module_stay_the_same(
    mockdata: Callable[[str], ModuleType], run_of: MakeRun, tmp_path: Path
) -> None:
    extra_geom = pytest.importorskip("extra_geom")
    pytest.importorskip("extra_data")
    from sfxlab.geometry.extra_geom import from_extra_geom

    mockdata("euxfel").write_run(tmp_path / "r0034", "AGIPD1M", missing=[3])
    geometry: Geometry = from_extra_geom(extra_geom.AGIPD_1MGeometry.example(), 0.2, 9300.0)
    before = open_frames(tmp_path / "r0034", geometry)
    reduced = export_hits(run_of(before, [0, 3]), tmp_path / "hits.cxi")
    assert_same_frames(before, [0, 3], reduced.path)


def test_the_file_has_a_static_mask_where_all_frames_share_one(
    make_cxi: Callable[..., Path], two_panels: str, run_of: MakeRun, tmp_path: Path
) -> None:
    mask = np.zeros((8, 6), np.uint16)
    mask[2, 1] = 4
    geometry = parse_geometry(two_panels)
    same = open_frames([make_cxi("a.cxi", mask=mask), make_cxi("b.cxi", mask=mask)], geometry)
    export_hits(run_of(same, [0, 5]), tmp_path / "same.cxi")
    other = open_frames([make_cxi("c.cxi", mask=mask), make_cxi("d.cxi")], geometry)
    export_hits(run_of(other, [0, 5], name="run2"), tmp_path / "other.cxi")
    with h5py.File(tmp_path / "same.cxi") as file:
        np.testing.assert_array_equal(file["entry_1/data_1/mask"][()], mask != 0)
    assert_same_frames(same, [0, 5], tmp_path / "same.cxi")
    assert_same_frames(other, [0, 5], tmp_path / "other.cxi")


@pytest.mark.parametrize("kind", ["one for all", "one for each file", "one for each frame", "in a file of its own"])
def test_saturation_maps_go_along(
    make_cxi: Callable[..., Path], make_hdf5: Callable[..., Path], two_panels: str, run_of: MakeRun, tmp_path: Path,
    kind: str,
) -> None:  # fmt: skip
    random, names = np.random.default_rng(8), ("a.cxi", "b.cxi")
    shared = random.uniform(50, 200, (8, 6))
    maps = {
        "one for all": [shared, shared],
        "one for each file": [shared, shared + 1],
        "one for each frame": list(random.uniform(50, 200, (2, 4, 8, 6))),
        "in a file of its own": [None, None],
    }[kind]
    paths = [make_cxi(name) for name in names]
    text = "left/saturation_map = /sat\n"
    if kind == "in a file of its own":
        text += f"left/saturation_map_file = {make_hdf5('sat.h5', {'/sat': shared})}\n"
    for path, values in zip(paths, maps, strict=True):
        if values is not None:
            with h5py.File(path, "r+") as file:
                file["sat"] = values
    before, hits = open_frames(paths, parse_geometry(two_panels + text)), [0, 1, 3, 5, 6]
    reduced = export_hits(run_of(before, hits, 4), tmp_path / "hits.cxi")
    for name in (*names, "sat.h5"):
        (tmp_path / name).rename(tmp_path / f"{name}.away") if (tmp_path / name).exists() else None
    after = open_frames(reduced.path, reduced.geometry)
    for name in (*names, "sat.h5"):
        (tmp_path / f"{name}.away").rename(tmp_path / name) if (tmp_path / f"{name}.away").exists() else None
    assert all(frame.saturation_map is not None for frame in after)
    assert_same_frames(before, hits, reduced.path)
    with h5py.File(reduced.path) as file:
        lasting = kind in ("one for all", "in a file of its own")
        assert file[cxi_frames.SATURATION].shape == ((8, 6) if lasting else (5, 8, 6))
    with h5py.File(tmp_path / "hits.parts/part-000000.cxi") as file:
        assert len(file[cxi_frames.SATURATION]) == (3 if kind == "one for each frame" else 1)


def test_files_of_different_pixel_types_take_the_wider_one(
    make_cxi: Callable[..., Path], two_panels: str, run_of: MakeRun, tmp_path: Path
) -> None:
    narrow = make_cxi("a.cxi", frames=np.arange(192).reshape(4, 8, 6).astype(np.uint8))
    wide = make_cxi("b.cxi", frames=np.arange(192).reshape(4, 8, 6) - 100000)
    before = open_frames([narrow, wide], parse_geometry(two_panels))
    export_hits(run_of(before, range(8)), tmp_path / "hits.cxi")
    after = open_frames(tmp_path / "hits.cxi", tmp_path / "hits.geom")
    for frame, original in zip(after, before, strict=True):
        np.testing.assert_array_equal(frame.data, original.data)


def test_peaks_are_where_they_were(modules: Callable[..., FrameSource], run_of: MakeRun, tmp_path: Path) -> None:
    run = run_of(modules("a.h5", one_mask=True), [0, 4])
    export_hits(run, tmp_path / "hits.cxi")
    with h5py.File(tmp_path / "hits.cxi") as file:
        assert file["entry_1/result_1/nPeaks"][()].tolist() == [3, 7]
    for frame, number in zip(open_frames(tmp_path / "hits.cxi", tmp_path / "hits.geom"), [0, 4], strict=True):
        stored, found = run.result(number).peaks, read_peaks(frame)
        good = frame.bad[stored.ss.astype(int), stored.fs.astype(int)] == 0
        order = np.argsort(found.fs)
        np.testing.assert_array_equal(found.fs[order], stored.fs[good])
        np.testing.assert_array_equal(found.intensity[order], stored.intensity[good])
        np.testing.assert_array_equal(found.n_pixels, 4)


def test_file_and_parts_can_be_moved_together(
    modules: Callable[..., FrameSource], run_of: MakeRun, tmp_path: Path
) -> None:
    before = modules("a.h5")
    export_hits(run_of(before, [0, 4]), tmp_path / "hits.cxi")
    (tmp_path / "home").mkdir()
    for name in ("hits.cxi", "hits.geom", "hits.parts"):
        shutil.move(tmp_path / name, tmp_path / "home" / name)
    assert_same_frames(before, [0, 4], tmp_path / "home/hits.cxi")


def test_workers_write_the_same(modules: Callable[..., FrameSource], run_of: MakeRun, tmp_path: Path) -> None:
    before, hits, seen = modules("a.h5", "b.h5"), [0, 4, 8, 12, 13], []
    with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None) as client:
        reduced = export_hits(run_of(before, hits, 1), tmp_path / "hits.cxi", None, client, lambda *n: seen.append(n))
    assert_same_frames(before, hits, reduced.path)
    assert seen == [(done, 14) for done in range(15)]


def test_hits_that_cannot_be_read_any_more_are_named_and_come_back_with_their_file(
    modules: Callable[..., FrameSource], run_of: MakeRun, tmp_path: Path
) -> None:
    before, hits = modules("a.h5", "b.h5"), [3, 5, 9, 13]
    run = run_of(before, hits, 3)
    shutil.copy(tmp_path / "b.h5", tmp_path / "whole.h5")
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        file["energy"][2] = np.nan
    reduced = export_hits(run, tmp_path / "hits.cxi")
    ((name, reason),) = reduced.unreadable
    assert reduced.hits == 3
    assert name == str(before.identity(9))
    assert "no energy" in reason
    assert len(open_frames(reduced.path, reduced.geometry)) == 3

    (tmp_path / "whole.h5").replace(tmp_path / "b.h5")
    reduced.path.unlink()
    reduced.geometry.unlink()
    parts = sorted((tmp_path / "hits.parts").iterdir())
    written = [part.stat().st_mtime_ns for part in parts]
    assert export_hits(run, tmp_path / "hits.cxi").unreadable == ()
    assert_same_frames(run.open_frames(), hits, reduced.path)
    rewritten = [part.stat().st_mtime_ns != before for part, before in zip(parts, written, strict=True)]
    assert rewritten == [False, False, False, True, False]


def test_an_interrupted_export_goes_on_where_it_stopped(
    modules: Callable[..., FrameSource], run_of: MakeRun, tmp_path: Path
) -> None:
    before = modules("a.h5")
    run = run_of(before, [0, 4, 6])

    def interrupt(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_hits(run, tmp_path / "hits.cxi", progress=interrupt)
    assert not (tmp_path / "hits.cxi").exists()
    (first,) = (tmp_path / "hits.parts").iterdir()
    written = first.stat().st_mtime_ns
    export_hits(run, tmp_path / "hits.cxi")
    assert first.stat().st_mtime_ns == written
    assert_same_frames(before, [0, 4, 6], tmp_path / "hits.cxi")


@pytest.mark.parametrize("taken", ["hits.cxi", "hits.geom", "hits.parts/notes.txt"])
def test_nothing_is_overwritten(
    modules: Callable[..., FrameSource], run_of: MakeRun, tmp_path: Path, taken: str
) -> None:
    run = run_of(modules("a.h5"), [0, 4])
    (tmp_path / "hits.parts").mkdir()
    (tmp_path / taken).write_text("precious")
    with pytest.raises(OutputExistsError, match=r"hits\."):
        export_hits(run, tmp_path / "hits.cxi")
    assert (tmp_path / taken).read_text() == "precious"


def test_parts_of_another_export_are_not_taken_for_ones_own(
    modules: Callable[..., FrameSource], run_of: MakeRun, tmp_path: Path
) -> None:
    run = run_of(modules("a.h5"), [0, 4])
    reduced = export_hits(run, tmp_path / "hits.cxi")
    reduced.path.unlink()
    reduced.geometry.unlink()
    with pytest.raises(OutputExistsError, match="folder of parts"):
        export_hits(run, tmp_path / "hits.cxi", PixelReduction(bin=2))


def test_a_damaged_part_is_named(modules: Callable[..., FrameSource], run_of: MakeRun, tmp_path: Path) -> None:
    run = run_of(modules("a.h5"), [0, 4])
    (tmp_path / "hits.parts").mkdir()
    (tmp_path / "hits.parts/part-000001.cxi").write_bytes(b"rubbish")
    with pytest.raises(RunError, match=r"part-000001\.cxi"):
        export_hits(run, tmp_path / "hits.cxi")


@pytest.mark.parametrize(("hits", "path"), [((), "hits.cxi"), ((1,), "hits.geom"), ((1,), "nothere/hits.cxi")])
def test_what_cannot_be_exported_is_said(
    modules: Callable[..., FrameSource], run_of: MakeRun, tmp_path: Path, hits: Any, path: str
) -> None:
    with pytest.raises(RunError):
        export_hits(run_of(modules("a.h5"), hits), tmp_path / path)


def test_a_run_whose_frames_are_all_damaged_gives_no_file(
    modules: Callable[..., FrameSource], run_of: MakeRun, tmp_path: Path
) -> None:
    run = run_of(modules("a.h5"), [0, 4])
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["energy"][...] = np.nan
    with pytest.raises(RunError, match="not one frame"):
        export_hits(run, tmp_path / "hits.cxi")
    assert not (tmp_path / "hits.cxi").exists()
    assert not (tmp_path / "hits.geom").exists()


def test_what_is_lost_is_said_in_the_file_and_in_the_geometry(
    modules: Callable[..., FrameSource], run_of: MakeRun, tmp_path: Path
) -> None:
    reduced = export_hits(run_of(modules("a.h5"), [0, 4]), tmp_path / "hits.cxi", PixelReduction(2, "uint8"))
    frame = open_frames(reduced.path, reduced.geometry)[0]
    assert (frame.data.shape, frame.data.dtype) == ((12, 8), np.uint8)
    assert all(panel.max_adu == 255 for panel in frame.detector.panels)
    with h5py.File(reduced.path) as file:
        said = file[cxi_frames.DATA].attrs["reduction"]
    assert "uint8" in said
    assert "2 x 2" in said
    assert f"; pixels: {said}\n" in reduced.geometry.read_text()
