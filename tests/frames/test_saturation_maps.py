"""Values from which on single pixels are saturated."""

import pickle

import h5py
import hdf5plugin
import numpy as np
import pytest

from sfxlab.errors import FrameError, GeometryError, SfxlabError, SfxlabWarning
from sfxlab.frames import open_frames
from sfxlab.frames.chunks import StoredArray
from sfxlab.geometry import parse_geometry

SATURATION = "/entry_1/data_1/saturation"


@pytest.fixture
def values() -> np.ndarray:
    """(8, 6) in double precision, with a pixel that never is saturated and one of which nothing is known."""
    values = np.random.default_rng(2).uniform(1e3, 1e5, (8, 6))
    values[2, 3], values[5, 1] = np.inf, np.nan
    return values


@pytest.fixture
def with_map(make_cxi):
    """`with_map(values, name, path)`: a file of frames with another array in it."""

    def write(values, name="frames.cxi", path=SATURATION, **creation):
        file_path = make_cxi(name)
        with h5py.File(file_path, "r+") as file:
            file.create_dataset(path, data=values, **creation)
        return file_path

    return write


@pytest.fixture
def parts_read(monkeypatch):
    """Names of the datasets that parts are read of as new arrays."""
    read = []
    part = StoredArray.part

    def counted(array, selection):
        read.append(array.dataset.name)
        return part(array, selection)

    monkeypatch.setattr(StoredArray, "part", counted)
    return read


def geometry_with(two_panels: str, lines: str):
    """The geometry with lines before the first panel, or `PANEL/key = value` after the last."""
    return parse_geometry(two_panels + lines if "/" in lines.split("=")[0] else lines + two_panels)


def test_without_a_map_frames_have_none(make_cxi, two_panels):
    frame = open_frames(make_cxi(), parse_geometry(two_panels))[0]
    assert frame.saturation_map is None


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint16, ">i4"])
def test_a_map_in_the_data_file_is_read_once_for_all_frames(with_map, two_panels, values, parts_read, dtype):
    stored = values if np.dtype(dtype).kind == "f" else np.nan_to_num(values, nan=9, posinf=8)
    stored = stored.astype(dtype)
    paths = [with_map(stored + i, f"{i}.cxi") for i in range(2)]
    frames = open_frames(paths, geometry_with(two_panels, f"saturation_map = {SATURATION}\n"))
    maps = [frame.saturation_map for frame in pickle.loads(pickle.dumps(frames))]
    assert parts_read.count(SATURATION) == 2
    assert len({id(found) for found in maps}) == 2
    for found, shift in ((maps[0], 0), (maps[7], 1)):
        expected = np.where(np.isnan(stored + shift), np.inf, stored + shift)
        np.testing.assert_allclose(found, expected, rtol=2e-7)
        assert found.dtype == np.float32
        assert (found <= expected).all()
        assert not found.flags.writeable


def test_a_value_that_single_precision_has_not_is_rounded_down(with_map, two_panels):
    limit = 2**24 + 3  # halfway, and rounded to 2²⁴ + 4 by the rule
    assert float(np.float32(limit)) > limit
    frames = open_frames(
        with_map(np.full((8, 6), limit)), geometry_with(two_panels, f"saturation_map = {SATURATION}\n")
    )
    assert (frames[0].saturation_map == 2**24 + 2).all()


def test_a_map_in_a_file_of_its_own_is_read_once_for_all_files(make_cxi, make_hdf5, two_panels, values, parts_read):
    path = make_hdf5("sat.h5", {"/sat": values})
    frames = open_frames(
        [make_cxi(f"{i}.cxi") for i in range(3)],
        geometry_with(two_panels, f"saturation_map = /sat\nsaturation_map_file = {path}\n"),
    )
    maps = [frame.saturation_map for frame in frames]
    assert parts_read.count("/sat") == 1
    assert all(found is maps[0] for found in maps)


def test_a_file_of_a_map_is_looked_for_beside_the_geometry_file(make_cxi, make_hdf5, two_panels, values, tmp_path):
    make_hdf5("calibration/sat.h5", {"/sat": values})
    geometry = tmp_path / "calibration/a.geom"
    geometry.write_text("saturation_map = /sat\nsaturation_map_file = sat.h5\n" + two_panels)
    assert open_frames(make_cxi(), geometry)[0].saturation_map is not None


def test_panels_may_have_maps_of_their_own_or_none(with_map, make_hdf5, two_panels, values):
    path = make_hdf5("sat.h5", {"/sat": values + 1})
    frame_file = with_map(values)
    one = open_frames(frame_file, geometry_with(two_panels, f"right/saturation_map = {SATURATION}\n"))[0]
    assert np.isinf(one.saturation_map[:, :3]).all()
    np.testing.assert_allclose(one.saturation_map[:, 3:], values[:, 3:], rtol=1e-6)
    text = f"saturation_map = {SATURATION}\n{two_panels}left/saturation_map = /sat\nleft/saturation_map_file = {path}\n"
    two = open_frames(frame_file, parse_geometry(text))[0]
    expected = np.where(np.arange(6) < 3, values + 1, values)
    np.testing.assert_allclose(two.saturation_map, np.where(np.isnan(expected), np.inf, expected), rtol=1e-6)


def test_frames_may_have_maps_of_their_own(with_map, two_panels, values):
    each = np.arange(4)[:, None, None] + values
    frames = open_frames(with_map(each), geometry_with(two_panels, f"saturation_map = {SATURATION}\n"))
    for i in (2, 0, 3):
        expected = np.where(np.isnan(each[i]), np.inf, each[i])
        np.testing.assert_allclose(frames[i].saturation_map, expected, rtol=1e-6)


def test_a_placeholder_in_the_path_is_the_frames_own(make_hdf5, two_panels):
    arrays = {}
    for number, name in enumerate("abc"):
        arrays[f"/{name}/data"] = np.full((8, 6), number, np.uint16)
        arrays[f"/{name}/sat"] = np.full((8, 6), 100.0 + number)
    path = make_hdf5("tags.h5", arrays)
    text = two_panels.replace("/LCLS/photon_energy_eV eV", "9000 eV").replace("/entry_1/data_1/data", "/%/data")
    text = text.replace(
        "dim0 = %\ndim1 = ss\ndim2 = fs\nmask0_data = /entry_1/data_1/mask\nmask0_badbits = 0xffff\n", ""
    )
    frames = open_frames(path, parse_geometry("saturation_map = /%/sat\n" + text))
    assert [float(frame.saturation_map[0, 0]) for frame in frames] == [100, 101, 102]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("saturation_map = /no", "frames.cxi, /no: the file has no such HDF5 path"),
        ("saturation_map = /small", "frames.cxi, /small: the saturation map does not fit the data"),
        ("saturation_map = /one", "found:    one value of float64"),
        ("saturation_map = /flags", "found:    8 × 6 of bool"),
        ("saturation_map = /text", "the saturation map does not fit the data"),
        ("saturation_map = /small", "to do:    correct saturation_map in the geometry file"),
        ("saturation_map = /a\nsaturation_map_file = no.h5", "there is no such saturation map file"),
        ("saturation_map = /a\nsaturation_map_file = {text}", "text.h5: this is not an HDF5 file"),
    ],
)
def test_a_map_that_is_not_there_or_does_not_fit_is_refused(make_cxi, two_panels, tmp_path, lines, message):
    path = make_cxi()
    with h5py.File(path, "r+") as file:
        file["/small"], file["/one"], file["/text"] = np.ones((7, 6)), 1000.0, "many"
        file["/flags"] = np.ones((8, 6), dtype=bool)
    (tmp_path / "text.h5").write_text("no map")
    lines = lines.format(text=tmp_path / "text.h5")
    with pytest.raises(SfxlabError) as caught:
        open_frames(path, geometry_with(two_panels, f"{lines}\n"))
    assert message in str(caught.value)


def _spoil(path, name, frame):
    """Write rubbish over the chunk of a frame, or over the only one."""
    with h5py.File(path, "r+") as file:
        dataset = file[name]
        dataset.id.write_direct_chunk((frame, 0, 0) if dataset.ndim == 3 else (0, 0), b"rubbish" * 5)


def test_a_damaged_map_of_a_frame_is_the_failure_of_that_frame(with_map, two_panels, values):
    each = np.arange(4)[:, None, None] + values
    path = with_map(each, chunks=(1, 8, 6), **hdf5plugin.Bitshuffle())
    _spoil(path, SATURATION, 2)
    frames = open_frames(path, geometry_with(two_panels, f"saturation_map = {SATURATION}\n"))
    with pytest.raises(FrameError, match=rf"frames\.cxi, frame //2, {SATURATION}: the saturation map cannot be read"):
        frames[2]
    assert frames[3].saturation_map is not None


def test_a_damaged_map_in_a_file_of_its_own_is_named(make_cxi, make_hdf5, two_panels, tmp_path):
    with h5py.File(tmp_path / "sat.h5", "w") as file:
        file.create_dataset("sat", data=np.ones((8, 6)), chunks=(8, 6), **hdf5plugin.Bitshuffle())
    _spoil(tmp_path / "sat.h5", "sat", 0)
    lines = f"saturation_map = /sat\nsaturation_map_file = {tmp_path / 'sat.h5'}\n"
    frames = open_frames(make_cxi(), geometry_with(two_panels, lines))
    with pytest.raises(FrameError, match=r"sat\.h5, frame //0, /sat: the saturation map cannot be read"):
        frames[0]


def test_a_source_says_that_it_has_a_map(with_map, two_panels, values):
    geometry = geometry_with(two_panels, f"max_adu = 50000\nsaturation_map = {SATURATION}\n")
    summary = open_frames(with_map(values), geometry).describe()
    assert summary.saturation_map == SATURATION
    assert summary.saturation == (pytest.approx(np.nanmin(values), rel=1e-6), 50000)


def test_images_take_maps_of_files_of_their_own(mockdata, make_hdf5, tmp_path):
    files, pixels = mockdata("images"), np.random.default_rng(1).poisson(9, (8, 6)).astype(np.int32)
    path = files.write_cbf(tmp_path / "a.cbf", pixels)
    text = "wavelength = 1.0 A\nclen = 0.1\nres = 5814\np/fs = x\np/ss = y\np/corner_x = -3\np/corner_y = -4\n"
    text += "p/min_fs = 0\np/max_fs = 5\np/min_ss = 0\np/max_ss = 7\n"
    own = make_hdf5("sat.h5", {"/sat": np.full((8, 6), 77), "/each": np.ones((3, 8, 6))})
    frames = open_frames(path, parse_geometry(f"saturation_map = /sat\nsaturation_map_file = {own}\n{text}"))
    assert (frames[0].saturation_map == 77).all()
    with pytest.warns(SfxlabWarning, match="there is no saturation map in such files"):
        frames = open_frames(path, parse_geometry(f"saturation_map = /sat\n{text}"))
    assert frames[0].saturation_map is None
    lines = f"dim0 = %\ndim1 = ss\ndim2 = fs\nsaturation_map = /each\nsaturation_map_file = {own}\n"
    with pytest.raises(GeometryError, match=r"sat\.h5, /each: the saturation map differs from frame to frame"):
        open_frames(path, parse_geometry(lines + text))
