"""Frames of NXmx masters, opened without a geometry file."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from sfxlab.cli import main
from sfxlab.errors import FrameError, GeometryError, InputError, SfxlabWarning
from sfxlab.frames import open_frames
from sfxlab.geometry import format_geometry, parse_geometry, write_geometry
from sfxlab.interop.stream_reader import read_stream
from sfxlab.pipeline import process_frame
from sfxlab.processing import process
from sfxlab.recipe import Recipe
from sfxlab.store import Run

N_FRAMES, SHAPE = 7, (40, 30)


@pytest.fixture(scope="session")
def nxmx(mockdata):
    return mockdata("nxmx")


def images(dtype=np.uint32, n_frames=N_FRAMES, shape=SHAPE):
    return np.random.default_rng(5).poisson(20, (n_frames, *shape)).astype(dtype)


@pytest.fixture
def make_eiger(nxmx, tmp_path):
    """Writes a master of seven frames of an Eiger with their data files, `make_eiger(frames=…, layout=…)`."""

    def write(frames=None, folder="run", **options):
        frames = images() if frames is None else frames
        return nxmx.write_master(tmp_path / folder, frames, *nxmx.eiger(frames.shape[-2:]), **options)

    return write


def events(frames):
    return [f"{Path(frames.identity(i).path).name} {frames.identity(i).event}" for i in range(len(frames))]


@pytest.mark.parametrize("layout", ["links", "virtual", "single"])
@pytest.mark.parametrize("compression", ["bitshuffle-lz4", "lz4", "gzip", "blosc", "none"])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32, np.float32])
def test_every_way_to_keep_the_images_gives_the_same_frames(make_eiger, layout, compression, dtype):
    data = images(dtype, n_frames=4)
    frames = open_frames(make_eiger(data, layout=layout, compression=compression))
    assert events(frames) == [f"series_1_master.h5 //{i}" for i in range(4)]
    assert frames[0].data.dtype == dtype
    np.testing.assert_array_equal([frame.data for frame in frames], data)


@pytest.mark.parametrize("layout", ["links", "virtual"])
def test_modules_along_an_axis_of_their_own_lie_one_below_the_other(nxmx, tmp_path, layout):
    data = images(np.int32, shape=(3, 16, 32))
    mask = np.zeros((3, 16, 32), np.uint32)
    mask[1, 2, 3] = 8
    master = nxmx.write_master(
        tmp_path, data, *nxmx.jungfrau(stacked=False), layout=layout, detector={"pixel_mask": mask}
    )
    frames = open_frames(master)
    np.testing.assert_array_equal(frames[4].data, data[4].reshape(48, 32))
    assert np.argwhere(frames[4].bad).tolist() == [[16 + 2, 3]]


@pytest.mark.parametrize("layout", ["links", "virtual"])
def test_each_frame_has_its_own_wavelength_across_data_files(make_eiger, layout):
    wavelengths = np.linspace(1.0, 1.3, N_FRAMES)
    frames = open_frames(make_eiger(layout=layout, wavelength=wavelengths))
    assert [frame.wavelength for frame in frames] == pytest.approx(wavelengths.tolist())
    assert frames[5:6][0].wavelength == pytest.approx(wavelengths[5])


def test_a_geometry_file_still_wins_and_reads_the_links_as_one_array(make_eiger, tmp_path):
    master = make_eiger()
    geometry = open_frames(master).geometry
    write_geometry(parse_geometry(format_geometry(geometry).replace("clen = 0.12", "clen = 0.2")), tmp_path / "a.geom")
    frames = open_frames(master, tmp_path / "a.geom")
    assert frames.detector.camera_length == 0.2
    np.testing.assert_array_equal(frames[6].data, images()[6])


def test_saturated_invalid_and_masked_pixels_are_known(make_eiger):
    data = images()
    data[3, 4, 5] = 2**32 - 1
    mask = np.zeros(SHAPE, np.uint32)
    mask[7, 8], mask[9, 10] = 1, 1 << 31
    frames = open_frames(make_eiger(data, detector={"pixel_mask": mask, "saturation_value": np.uint32(12440)}))
    assert np.argwhere(frames[2].bad).tolist() == [[7, 8], [9, 10]]
    assert np.argwhere(frames[3].bad).tolist() == [[4, 5], [7, 8], [9, 10]]
    assert frames.detector.panels[0].max_adu == 12440


@pytest.mark.parametrize(
    ("dtype", "extra", "bad"),
    [
        (np.uint16, {}, [65535]),
        (np.uint32, {"bit_depth_image": np.uint32(16)}, [65535, 2**32 - 1]),
        (np.int32, {}, [-(2**31), 2**31 - 1]),
        (np.int32, {"underload_value": np.int32(-10)}, [-(2**31), -11, 2**31 - 1]),
        (np.float32, {}, [np.nan, np.inf]),
    ],
)
def test_values_that_stand_for_no_measurement_are_bad(make_eiger, dtype, extra, bad):
    data = np.zeros((1, *SHAPE), dtype)
    row = [*bad, 65534, 5]
    data[0, 0, : len(row)] = row
    frame = open_frames(make_eiger(data, detector=extra))[0]
    assert np.argwhere(frame.bad).tolist() == [[0, i] for i in range(len(bad))]


def test_a_missing_data_file_of_links_is_named_with_master_and_link(make_eiger):
    master = make_eiger()
    (master.parent / "series_1_data_000002.h5").unlink()
    with pytest.raises(InputError, match=r"series_1_master\.h5, /entry/data/data_000002: a data file[\s\S]*"
                       r"series_1_data_000002\.h5, /entry/data/data[\s\S]*'data = /entry/data/%'"):  # fmt: skip
        open_frames(master)


def test_the_data_files_that_are_there_can_be_read_with_a_geometry_file_for_each_link(make_eiger):
    master = make_eiger()
    text = open_frames(master).geometry_text.replace("/entry/data/data", "/entry/data/%")
    (master.parent / "series_1_data_000002.h5").unlink()
    frames = open_frames(master, parse_geometry(text))
    assert [frames.identity(i).event for i in (0, 3)] == ["data_000001//0", "data_000003//0"]
    np.testing.assert_array_equal(frames[3].data, images()[6])


@pytest.mark.parametrize("damage", ["absent", "truncated", "renamed"])
def test_frames_of_a_missing_source_of_a_virtual_dataset_fail_and_the_others_are_read(make_eiger, damage):
    master = make_eiger(layout="virtual")
    victim = master.parent / "series_1_data_000002.h5"
    if damage == "absent":
        victim.unlink()
        with pytest.warns(SfxlabWarning, match=r"1 of the 3 files that it refers to are missing"):
            frames = open_frames(master)
    else:
        if damage == "truncated":
            victim.write_bytes(victim.read_bytes()[:3000])
        else:
            with h5py.File(victim, "r+") as file:
                file.move("/entry/data/data", "/entry/data/images")
        frames = open_frames(master)
    for index in (3, 4, 5):
        with pytest.raises(FrameError, match=rf"series_1_master\.h5, frame //{index}, /entry/data/data[\s\S]*000002"):
            frames[index]
    for index in (0, 2, 6):
        np.testing.assert_array_equal(frames[index].data, images()[index])
        assert not frames[index].bad.any()


def test_a_virtual_dataset_without_any_source_is_refused(make_eiger):
    master = make_eiger(layout="virtual")
    for path in master.parent.glob("*_data_*"):
        path.unlink()
    with pytest.raises(InputError, match=r"series_1_master\.h5, /entry/data/data: all files"):
        open_frames(master)


def test_a_missing_module_of_a_virtual_dataset_is_masked(make_hdf5, two_panels, tmp_path):
    layout = h5py.VirtualLayout((2, 8, 6), dtype=np.uint16)
    for side in range(2):
        if side:
            make_hdf5(f"m{side}.h5", {"/d": np.full((2, 8, 3), 7, dtype=np.uint16)})
        layout[:, :, 3 * side : 3 * side + 3] = h5py.VirtualSource(f"m{side}.h5", "/d", (2, 8, 3))
    with h5py.File(tmp_path / "v.cxi", "w") as file:
        file.create_virtual_dataset("/entry_1/data_1/data", layout, fillvalue=3)
        file["/entry_1/data_1/mask"] = np.zeros((8, 6), np.uint16)
        file["/LCLS/photon_energy_eV"] = [9000.0, 9100.0]
    with pytest.warns(SfxlabWarning, match="missing"):
        frames = open_frames(tmp_path / "v.cxi", parse_geometry(two_panels))
    assert frames[1].bad.tolist() == [[1, 1, 1, 0, 0, 0]] * 8
    assert (frames[1].data[:, 3:] == 7).all()


def test_a_virtual_dataset_of_one_file_for_each_module_is_read_module_by_module(nxmx, tmp_path):
    data = images(np.int32, shape=(3, 16, 32))
    master = nxmx.write_master(tmp_path, data, *nxmx.jungfrau(stacked=False), layout="single")
    layout = h5py.VirtualLayout(data.shape, data.dtype)
    for module in range(3):
        with h5py.File(tmp_path / f"module{module}.h5", "w") as file:
            file["data"] = data[:, module]
        layout[:, module] = h5py.VirtualSource(f"module{module}.h5", "data", (N_FRAMES, 16, 32))
    with h5py.File(master, "r+") as file:
        del file["/entry/data/data"]
        file["/entry/data"].create_virtual_dataset("data", layout)
    np.testing.assert_array_equal(open_frames(master)[5].data, data[5].reshape(48, 32))
    (tmp_path / "module1.h5").unlink()
    with pytest.warns(SfxlabWarning, match="missing"):
        frame = open_frames(master)[5]
    assert frame.bad.all(axis=1).tolist() == [False] * 16 + [True] * 16 + [False] * 16
    np.testing.assert_array_equal(frame.data[32:], data[5, 2])


def test_interleaved_virtual_data_sets_are_read_from_the_right_file(tmp_path, nxmx, make_eiger):
    data = images(n_frames=8)
    master = make_eiger(data, layout="single")
    with h5py.File(master, "r+") as file:
        layout = h5py.VirtualLayout(data.shape, data.dtype)
        for number in range(2):
            chosen = np.array([i for i in range(8) if i // 2 % 2 == number])
            with h5py.File(master.parent / f"writer_{number}.h5", "w") as part:
                part["data"] = data[chosen]
            source = h5py.VirtualSource(f"writer_{number}.h5", "data", (4, *SHAPE))
            for start in (0, 1):
                layout[2 * number + start :: 4] = source[start::2]
        del file["/entry/data/data"]
        file["/entry/data"].create_virtual_dataset("data", layout)
    np.testing.assert_array_equal([frame.data for frame in open_frames(master)], data)
    (master.parent / "writer_1.h5").unlink()
    with pytest.warns(SfxlabWarning, match="missing"):
        frames = open_frames(master)
    np.testing.assert_array_equal(frames[5].data, data[5])
    with pytest.raises(FrameError, match=r"writer_1"):
        frames[2]


def test_data_files_that_differ_are_refused(make_eiger):
    master = make_eiger()
    with h5py.File(master.parent / "series_1_data_000002.h5", "w") as file:
        file["/entry/data/data"] = np.zeros((3, *SHAPE), np.uint16)
    with pytest.raises(InputError, match=r"series_1_data_000002\.h5: the data files of this master differ"):
        open_frames(master)


def test_a_data_file_given_by_mistake_asks_for_its_master(make_eiger):
    master = make_eiger()
    with pytest.raises(GeometryError, match=r"data_000001\.h5: this is a data file[\s\S]*series_1_master\.h5"):
        open_frames(master.parent / "series_1_data_000001.h5")


def test_a_directory_counts_the_frames_of_masters_once(make_eiger):
    folder = make_eiger().parent
    make_eiger(name="series_2")
    frames = open_frames(folder)
    assert events(frames) == [f"series_{n}_master.h5 //{i}" for n in (1, 2) for i in range(N_FRAMES)]
    assert len(open_frames(f"{folder}/*.h5", frames.geometry)) == 2 * N_FRAMES


def test_masters_of_two_geometries_are_refused(nxmx, make_eiger):
    master = make_eiger()
    other = nxmx.write_master(master.parent / "other", images(), *nxmx.eiger(SHAPE, distance=0.3))
    with pytest.raises(GeometryError, match=r"other/series_1_master\.h5: the files carry different geometries"):
        open_frames([master, other])


def test_a_moved_measurement_is_read_from_its_new_place(make_eiger, tmp_path):
    for layout in ("links", "virtual"):
        folder = make_eiger(folder=layout, layout=layout).parent
        shutil.move(folder, tmp_path / "elsewhere" / layout)
        frames = open_frames(tmp_path / "elsewhere" / layout / "series_1_master.h5")
        np.testing.assert_array_equal(frames[6].data, images()[6])


def test_show_says_where_the_geometry_came_from(make_eiger):
    master = make_eiger(layout="virtual")
    result = CliRunner().invoke(main, ["show", str(master)])
    assert result.exit_code == 0, result.output
    assert str(master) in "".join(line.strip() for line in result.output.splitlines() if "geometry" in line)
    assert "bitshuffle" in result.output


def test_a_run_without_a_geometry_file_can_be_opened_again_and_exported(make_eiger, tmp_path):
    master = make_eiger()
    frames = open_frames(master)
    run = process(frames, Recipe(), output=tmp_path / "result", inputs=[str(master)])
    assert "wavelength = /entry/instrument/beam/incident_wavelength A" in run.geometry_text
    again = run.open_frames()
    np.testing.assert_array_equal(again[6].data, frames[6].data)
    assert again.detector.panels[0].corner == pytest.approx(frames.detector.panels[0].corner, abs=1e-12)
    result = CliRunner().invoke(main, ["export", str(run.path), "--to", "stream", str(tmp_path / "a.stream")])
    assert result.exit_code == 0, result.output
    assert read_stream(tmp_path / "a.stream").geometry_text == run.geometry_text
    assert Run(run.path).detector().panels[0].fs == pytest.approx((-75e-6, 0, 0))


@pytest.mark.parametrize("layout", ["links", "virtual"])
def test_frames_in_nxmx_give_the_same_peaks_as_in_cxi(shared_data, nxmx, tmp_path, layout):
    source = open_frames(shared_data / "lyso/lyso.cxi", shared_data / "lyso/lyso.geom")[:5]
    frames = list(source)
    modules, axes = nxmx.modules_of(frames[0].detector)
    saturation = {panel.max_adu for panel in frames[0].detector.panels}
    detector = {"pixel_mask": frames[0].bad.astype(np.uint32)}
    if saturation != {np.inf}:
        detector["saturation_value"] = min(saturation)
    data = np.stack([frame.data for frame in frames])
    wavelength = [frame.wavelength for frame in frames]
    master = nxmx.write_master(
        tmp_path, data, modules, axes, layout=layout, wavelength=wavelength, detector=detector, frames_per_file=2
    )
    recipe = Recipe()
    for before, after in zip(frames, open_frames(master), strict=True):
        expected, found = process_frame(before, recipe).peaks, process_frame(after, recipe).peaks
        assert len(expected) == len(found)
        np.testing.assert_allclose(found.fs, expected.fs)
        np.testing.assert_allclose(found.ss, expected.ss)
