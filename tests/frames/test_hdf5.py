import gc
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from sfxlab.errors import FrameError, SfxlabWarning
from sfxlab.frames import FrameId, Hdf5Frames, open_frames
from sfxlab.geometry import parse_geometry, read_geometry


def rows(names: dict[str, tuple[int, str]], size: tuple[int, int] = (4, 6)) -> str:
    """Geometry text of one panel for each name, its data path, and its lines."""
    text = ""
    for name, (column, lines) in names.items():
        text += "".join(f"{name}/{line}\n" for line in lines.splitlines())
        text += f"{name}/min_fs = 0\n{name}/max_fs = {size[1] - 1}\n{name}/min_ss = 0\n{name}/max_ss = {size[0] - 1}\n"
        text += f"{name}/corner_x = {column}\n{name}/corner_y = 0\n{name}/fs = x\n{name}/ss = y\n"
    return "photon_energy = 9 keV\nclen = 0.1\nres = 10000\n" + text


def test_frames_have_the_pixels_energy_name_and_number_of_the_file(make_cxi, two_panels):
    path = make_cxi()
    frames = open_frames(path, parse_geometry(two_panels))
    assert len(frames) == 4
    with h5py.File(path) as file:
        stored = file["/entry_1/data_1/data"][()]
    for i, frame in enumerate(frames):
        assert (frame.data == stored[i]).all()
        assert frame.data.dtype == np.uint16
        assert (frame.photon_energy, frame.index, frame.id) == (9000.0 + i, i, FrameId(str(path), f"//{i}"))
        assert frame.id == frames.identity(i)
        assert frame.bad.dtype == np.uint8
        assert not frame.bad.any()
    assert frames.paths == (str(path),)
    assert frames.geometry_text == two_panels
    assert frames.detector.shape == (8, 6)
    assert frames[-1].index == 3


def test_an_index_outside_is_an_index_error(make_cxi, two_panels):
    frames = open_frames(make_cxi(), parse_geometry(two_panels))
    for index in (4, -5):
        with pytest.raises(IndexError, match="of 4"):
            frames[index]


@pytest.mark.parametrize("which", [np.s_[2:7], np.s_[::3], np.s_[::-1], np.s_[9:1:-3], np.s_[4:4]])
def test_slices_hold_what_a_list_would_and_keep_the_numbering(make_cxi, two_panels, which):
    paths = [make_cxi("a.cxi"), make_cxi("b.cxi", frames=np.ones((5, 8, 6), dtype=np.uint16))]
    frames = open_frames(paths, parse_geometry(two_panels))
    part = frames[which]
    assert [f.index for f in part] == list(range(9))[which]
    assert [f.id for f in part] == [frames.identity(i) for i in range(9)][which]
    assert [f.index for f in part[1::2]] == list(range(9))[which][1::2]


def test_sources_travel_small_and_without_open_files(make_cxi, two_panels):
    data = np.zeros((1000, 8, 6), dtype=np.uint16)
    frames = open_frames(make_cxi(frames=data), parse_geometry(two_panels))
    assert frames[7].index == 7
    packed = pickle.dumps(frames[100:200])
    assert len(packed) < 4000 + len(two_panels)
    again = pickle.loads(packed)
    assert [again[i].id for i in (0, 99)] == [frames.identity(100), frames.identity(199)]


def test_slices_of_many_files_take_only_their_own_along(make_cxi, two_panels):
    paths = [make_cxi(f"{i}.cxi") for i in range(20)]
    frames = open_frames(paths, parse_geometry(two_panels))
    assert frames[8:16].paths == (str(paths[2]), str(paths[3]))


def test_few_files_stay_open_however_many_are_read(make_cxi, two_panels):
    frames = open_frames([make_cxi(f"{i}.cxi") for i in range(20)], parse_geometry(two_panels))
    assert len(list(frames)) == 80
    gc.collect()
    assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) <= 8 + 2


def test_frames_share_detector_and_bad_pixels_where_these_are_the_same(make_cxi, two_panels):
    frames = open_frames(make_cxi(), parse_geometry(two_panels))
    first, second = frames[0], frames[1]
    assert first.detector is second.detector
    assert pickle.loads(pickle.dumps(frames))[2].detector is first.detector
    assert first.bad is second.bad
    with pytest.raises(ValueError, match="read-only"):
        first.bad[0, 0] = 1


def test_several_axes_of_frames_are_counted_row_by_row(make_hdf5, two_panels):
    data = np.arange(2 * 3 * 48).reshape(2, 3, 8, 6)
    path = make_hdf5(
        "a.h5",
        {
            "/entry_1/data_1/data": data,
            "/entry_1/data_1/mask": np.zeros((8, 6), int),
            "/LCLS/photon_energy_eV": [8e3, 9e3],
        },
    )
    geometry = parse_geometry(two_panels.replace("dim1 = ss\ndim2 = fs", "dim1 = %\ndim2 = ss\ndim3 = fs"))
    frames = open_frames(path, geometry)
    assert [f.id.event for f in frames] == ["//0/0", "//0/1", "//0/2", "//1/0", "//1/1", "//1/2"]
    assert [f.photon_energy for f in frames] == [8e3] * 3 + [9e3] * 3
    assert (frames[4].data == data[1, 1]).all()


def test_placeholders_in_paths_are_filled_with_what_is_there_in_the_order_of_names(make_hdf5, two_panels):
    arrays = {}
    for n, tag in enumerate(("shot_b", "shot_a", "shot_10")):
        arrays[f"/run/{tag}/data"] = np.full((8, 6), n)
        arrays[f"/run/{tag}/mask"] = np.eye(8, 6, n, dtype=np.uint8)
        arrays[f"/run/{tag}/energy"] = 9000.0 + n
    arrays["/run/other/nothing"] = 1.0
    text = two_panels.replace("dim0 = %\ndim1 = ss\ndim2 = fs\n", "")
    text = text.replace("/entry_1/data_1/", "/run/%/").replace("/LCLS/photon_energy_eV", "/run/%/energy")
    frames = open_frames(make_hdf5("a.h5", arrays), parse_geometry(text))
    assert [f.id.event for f in frames] == ["shot_10//", "shot_a//", "shot_b//"]
    assert [int(f.data[0, 0]) for f in frames] == [2, 1, 0]
    assert [f.photon_energy for f in frames] == [9002, 9001, 9000]
    assert all((f.bad == np.eye(8, 6, n)).all() for f, n in zip(frames, (2, 1, 0), strict=True))


def test_several_placeholders_and_axes_together_make_long_names(make_hdf5, two_panels):
    arrays = {f"/{a}/x/{b}/data": np.zeros((2, 8, 6)) for a in "qp" for b in "ab"}
    text = two_panels.replace("/entry_1/data_1/data", "/%/x/%/data").replace("/LCLS/photon_energy_eV", "9000")
    text = "\n".join(line for line in text.splitlines() if not line.startswith("mask"))
    frames = open_frames(make_hdf5("a.h5", arrays), parse_geometry(text))
    assert [f.id.event for f in frames[::2]] == ["p/a//0", "p/b//0", "q/a//0", "q/b//0"]
    assert frames[3].id.event == "p/b//1"


def test_a_file_without_placeholders_is_one_frame(make_hdf5):
    path = make_hdf5("a.h5", {"/data/data": np.arange(24).reshape(4, 6)})
    frames = open_frames(path, parse_geometry(rows({"p0": (0, "coffset = 0")})))
    assert len(frames) == 1
    assert frames[0].id.event == "//"
    assert (frames[0].data == np.arange(24).reshape(4, 6)).all()


def test_modules_in_one_array_are_stacked_whatever_their_order(make_hdf5):
    data = np.random.default_rng(1).random((3, 4, 4, 6)).astype(np.float32)
    path = make_hdf5("a.h5", {"/d": data}, chunks=(1, 4, 4, 6), compression="gzip")
    for order, reads in (((0, 1, 2, 3), 1), ((2, 3, 0), 2), ((3, 2, 1, 0), 4)):
        lines = {f"p{m}": (m, f"data = /d\ndim0 = %\ndim1 = {m}\ndim2 = ss\ndim3 = fs") for m in order}
        frames = open_frames(path, parse_geometry(rows(lines)))
        assert isinstance(frames, Hdf5Frames)
        assert len(frames._readings) == reads
        assert (frames[2].data == data[2, list(order)].reshape(-1, 6)).all()


def test_data_may_come_from_several_datasets_of_different_type_and_width(make_hdf5):
    wide, narrow = np.arange(48, dtype=">i2").reshape(2, 4, 6), np.full((2, 4, 3), 1e6, dtype=np.float32)
    path = make_hdf5("a.h5", {"/wide": wide, "/narrow": narrow})
    stack = "\ndim0 = %\ndim1 = ss\ndim2 = fs"
    text = rows({"a": (0, f"data = /narrow{stack}"), "b": (9, f"data = /wide{stack}")})
    frame = open_frames(path, parse_geometry(text.replace("a/max_fs = 5", "a/max_fs = 2")))[1]
    assert frame.data.shape == (8, 6)
    assert (frame.data[:4, :3] == 1e6).all()
    assert (frame.data[4:] == wide[1]).all()
    assert (frame.bad == np.pad(np.zeros((4, 3)), ((0, 4), (0, 3)), constant_values=[[0, 0], [0, 1]]))[:4].all()
    assert not frame.bad[4:].any()


def test_only_the_part_of_the_array_that_has_panels_is_read(make_cxi, two_panels):
    frames = np.arange(2 * 10 * 9).reshape(2, 10, 9)
    source = open_frames(make_cxi(frames=frames), parse_geometry(two_panels))
    assert (source[1].data == frames[1, :8, :6]).all()


def test_frames_may_be_the_last_axis(make_cxi, two_panels):
    data = np.arange(8 * 6 * 3).reshape(8, 6, 3)
    text = two_panels.replace("dim0 = %\ndim1 = ss\ndim2 = fs", "dim0 = ss\ndim1 = fs\ndim2 = %")
    path = make_cxi(frames=data, mask=np.zeros((8, 6), int), energies=[1.0, 2.0, 3.0])
    frames = open_frames(path, parse_geometry(text))
    assert [f.photon_energy for f in frames] == [1, 2, 3]
    assert (frames[2].data == data[..., 2]).all()


def test_frames_that_share_a_chunk_are_read_right(make_cxi, two_panels):
    data = np.random.default_rng(1).integers(0, 9, (10, 8, 6))
    path = make_cxi(frames=data, chunks=(4, 8, 3), compression="gzip", shuffle=True)
    assert all((f.data == d).all() for f, d in zip(open_frames(path, parse_geometry(two_panels)), data, strict=True))


def test_masks_flags_and_values_that_are_no_numbers_make_bad_pixels(make_cxi, two_panels):
    data = np.zeros((2, 8, 6), dtype=np.float32)
    data[0, 0, :3] = np.nan, np.inf, -np.inf
    data[1, 1, 1:5] = -6, -5, 100, 100
    mask = np.zeros((8, 6), dtype=np.uint16)
    mask[7, 5] = 0x8000
    text = two_panels + "left/flag_lessthan = -5\nright/flag_equal = 100\nleft/flag_morethan = 99.5\n"
    frames = open_frames(make_cxi(frames=data, mask=mask), parse_geometry(text))
    assert np.argwhere(frames[0].bad).tolist() == [[0, 0], [0, 1], [0, 2], [7, 5]]
    assert np.argwhere(frames[1].bad).tolist() == [[1, 1], [1, 3], [1, 4], [7, 5]]
    both = open_frames(
        make_cxi("both.cxi", frames=data, mask=mask), parse_geometry("flag_morethan = 99\n" + two_panels)
    )
    assert np.argwhere(both[1].bad).tolist() == [[1, 3], [1, 4], [7, 5]]


@pytest.mark.parametrize(
    ("flag", "bad"),
    [
        ("flag_lessthan = 2.5", [0, 1, 2]),
        ("flag_lessthan = 2", [0, 1]),
        ("flag_morethan = 2.5", [3, 4]),
        ("flag_morethan = -1", [0, 1, 2, 3, 4]),
        ("flag_equal = 2.5", []),
        ("flag_equal = 4", [4]),
        ("flag_equal = 70000", []),
    ],
)
def test_flags_of_whole_numbers_are_strict(make_hdf5, flag, bad):
    path = make_hdf5("a.h5", {"/data/data": np.arange(5, dtype=np.uint16)[None]})
    frame = open_frames(path, parse_geometry(rows({"p0": (0, flag)}, (1, 5))))[0]
    assert np.flatnonzero(frame.bad).tolist() == bad


def test_a_mask_for_each_frame_is_used_frame_by_frame(make_cxi, two_panels):
    mask = np.zeros((4, 8, 6), dtype=np.uint32)
    mask[np.arange(4), np.arange(4), 2] = 1
    frames = open_frames(make_cxi(mask=mask), parse_geometry(two_panels))
    assert [np.argwhere(f.bad).tolist() for f in frames] == [[[i, 2]] for i in range(4)]


def test_masks_of_panels_may_differ_and_lie_in_another_file(make_cxi, make_hdf5, two_panels, tmp_path, monkeypatch):
    make_hdf5("masks/other.h5", {"/mask": np.full((8, 6), 2)})
    mask = np.full((8, 6), 1, dtype=np.uint16)
    mask[0, 0] = 0
    text = two_panels.replace("mask0_badbits = 0xffff", "mask0_goodbits = 1")
    text += "right/mask1_data = /mask\nright/mask1_file = masks/other.h5\nright/mask1_badbits = 2\n"
    (tmp_path / "a.geom").write_text(text)
    frames = open_frames(make_cxi(mask=mask), tmp_path / "a.geom")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for source in (frames, pickle.loads(pickle.dumps(frames))):
        bad = source[0].bad
        assert bad[:, 3:].all()
        assert np.argwhere(bad[:, :3]).tolist() == [[0, 0]]


def test_units_are_converted_for_numbers_and_arrays(make_hdf5, two_panels):
    arrays = {
        "/entry_1/data_1/data": np.zeros((2, 8, 6)),
        "/entry_1/data_1/mask": np.zeros((8, 6), int),
        "/wavelength": np.array([[1.0], [2.0]]),
        "/encoder": [60.0, 61.0],
        "/shift": 0.001,
    }
    text = two_panels.replace("photon_energy = /LCLS/photon_energy_eV eV", "wavelength = /wavelength A")
    text = text.replace("clen = 0.1 m", "clen = /encoder\ndetector_shift_x = 2 mm\ndetector_shift_y = /shift")
    frames = open_frames(make_hdf5("a.h5", arrays), parse_geometry(text))
    assert [f.photon_energy for f in frames] == pytest.approx([12398.4198, 6199.2099])
    assert [f.detector.camera_length for f in frames] == pytest.approx([0.06, 0.061])
    assert frames[1].detector.panels[0].corner == pytest.approx((-3.5e-4 + 2e-3, 4e-4 + 1e-3, 0.061))
    assert frames.detector is frames[0].detector


def test_a_unit_that_contradicts_the_file_is_warned_of(make_cxi, two_panels):
    path = make_cxi(energies=np.full(4, 1.5e-15))
    with h5py.File(path, "r+") as file:
        file["/LCLS/photon_energy_eV"].attrs["units"] = "J"
    with pytest.warns(SfxlabWarning, match="'photon_energy' is taken to be in eV, but the file says 'J'"):
        open_frames(path, parse_geometry(two_panels))


def test_one_frame_without_energy_fails_and_the_others_do_not(make_cxi, two_panels):
    frames = open_frames(make_cxi(energies=[9e3, np.nan, 0.0, 9e3]), parse_geometry(two_panels))
    assert [frames[i].photon_energy for i in (0, 3)] == [9e3, 9e3]
    for i in (1, 2):
        with pytest.raises(FrameError, match=rf"frames\.cxi, frame //{i}: the photon energy of the frame is no energy"):
            frames[i]


def test_one_damaged_frame_fails_and_the_others_do_not(make_cxi, two_panels):
    path = make_cxi(chunks=(1, 8, 6), compression="gzip")
    with h5py.File(path, "r+") as file:
        file["/entry_1/data_1/data"].id.write_direct_chunk((2, 0, 0), b"this is no gzip")
    frames = open_frames(path, parse_geometry(two_panels))
    with pytest.raises(FrameError, match=r"frames\.cxi, frame //2: the frame cannot be read"):
        frames[2]
    assert [frames[i].index for i in (1, 3)] == [1, 3]
    iteration = iter(frames)
    assert [next(iteration).index for _ in range(2)] == [0, 1]
    with pytest.raises(FrameError):
        next(iteration)
    assert next(iteration).index == 3


def test_a_file_that_vanishes_fails_its_frames_only(make_cxi, two_panels):
    paths = [make_cxi("a.cxi"), make_cxi("b.cxi")]
    frames = open_frames(paths, parse_geometry(two_panels))
    paths[1].unlink()
    with pytest.raises(FrameError, match=r"b\.cxi, frame //0: there is no such file"):
        frames[4]
    assert frames[3].index == 3


def test_missing_parts_of_a_virtual_dataset_are_warned_of(make_hdf5, two_panels, tmp_path):
    make_hdf5("raw/m0.h5", {"/d": np.ones((2, 4, 6), dtype=np.float32)})
    layout = h5py.VirtualLayout((2, 2, 4, 6), dtype=np.float32)
    for module in range(2):
        layout[:, module] = h5py.VirtualSource(f"raw/m{module}.h5", "/d", (2, 4, 6))
    with h5py.File(tmp_path / "v.cxi", "w") as file:
        file.create_virtual_dataset("/d", layout, fillvalue=np.nan)
    text = rows({f"p{m}": (m, f"data = /d\ndim0 = %\ndim1 = {m}\ndim2 = ss\ndim3 = fs") for m in range(2)})
    with pytest.warns(SfxlabWarning, match=r"v\.cxi, /d: 1 of the 2 files that it refers to are missing \(raw/m1\.h5"):
        frames = open_frames(tmp_path / "v.cxi", parse_geometry(text))
    assert frames[1].bad.mean(axis=1).tolist() == [0] * 4 + [1] * 4


def test_a_source_describes_itself(make_cxi, two_panels):
    mask = np.zeros((8, 6), dtype=np.uint16)
    mask[:, 0] = 1
    frames = open_frames(make_cxi(mask=mask, chunks=(1, 8, 6), compression="gzip"), parse_geometry(two_panels))
    assert isinstance(frames, Hdf5Frames)
    summary = frames.describe()
    assert (summary.files, summary.frames, summary.shape, summary.panels) == (1, 4, (8, 6), 2)
    assert (summary.dtype, summary.compression) == ("uint16", "gzip")
    assert summary.photon_energy == (9000, 9003)
    assert summary.camera_length == pytest.approx(0.1)
    assert summary.masked_fraction == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    ("data", "geometry", "where", "mask", "energy", "count"),
    [
        (
            "lyso/lyso.cxi", "lyso/lyso.geom", "/entry_1/data_1/data", "/entry_1/data_1/mask",
            "/LCLS/photon_energy_eV", 120,
        ),
        (
            "psii/psii.h5", "psii/psii.geom", "/entry/data/data", "/entry/instrument/detector/pixel_mask",
            "/entry/instrument/beam/incident_energy", 23,
        ),
        (
            "real/thermolysin_cspad/thermolysin_cspad.cxi", "real/thermolysin_cspad/thermolysin_cspad.geom",
            "/entry_1/data_1/data", "/entry_1/instrument_1/detector_1/mask", "/LCLS/photon_energy_eV", 4,
        ),
    ],
)  # fmt: skip
def test_example_data_are_read_as_they_are(shared_data: Path, data, geometry, where, mask, energy, count):
    frames = open_frames(shared_data / data, shared_data / geometry)
    assert len(frames) == count
    with h5py.File(shared_data / data) as file:
        stored, bad, energies = file[where][count - 1], file[mask][()] != 0, file[energy][()]
    last = frames[-1]
    assert (last.data == stored).all()
    assert last.photon_energy == energies[-1]
    assert ((last.bad != 0) == (bad | (last.detector.panel_map < 0))).all()
    assert last.detector is frames[0].detector
    assert last.detector.camera_length == pytest.approx(
        float(read_geometry(shared_data / geometry).camera_length.value), abs=1e-6
    )
