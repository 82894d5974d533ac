"""Virtual datasets of which files are missing: never a fill value in silence."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from sfxlab.errors import FrameError, InputError, SfxlabWarning
from sfxlab.frames import open_frames
from sfxlab.frames.hdf5_file import OpenFiles
from sfxlab.frames.virtual_data import VirtualArray
from sfxlab.geometry import parse_geometry

MASK, ENERGY = "/entry_1/data_1/mask", "/LCLS/photon_energy_eV"


@pytest.fixture
def with_virtual(make_cxi, make_hdf5, tmp_path):
    """`with_virtual(dataset, values, parts, axis)`: a CXI file in which a dataset lies in files 0.h5, 1.h5…"""

    def write(dataset, values, parts, axis, fillvalue=0):
        path = make_cxi()
        layout = h5py.VirtualLayout(values.shape, values.dtype)
        for number, part in enumerate(np.split(np.arange(values.shape[axis]), parts)):
            own = np.take(values, part, axis)
            make_hdf5(f"{number}.h5", {"/d": own})
            where = (slice(None),) * axis + (slice(part[0], part[-1] + 1),)
            layout[where] = h5py.VirtualSource(f"{number}.h5", "/d", own.shape)
        with h5py.File(path, "r+") as file:
            del file[dataset]
            file.create_virtual_dataset(dataset, layout, fillvalue=fillvalue)
        return path

    return write


@pytest.mark.parametrize("fillvalue", [0, 0xFFFF])
def test_pixels_whose_mask_is_missing_are_bad(with_virtual, two_panels, tmp_path, fillvalue):
    mask = np.zeros((8, 6), np.uint16)
    mask[1, :] = 1
    path = with_virtual(MASK, mask, 2, 0, fillvalue)
    expected = mask.copy()
    np.testing.assert_array_equal(open_frames(path, parse_geometry(two_panels))[0].bad, expected)
    (tmp_path / "1.h5").unlink()
    with pytest.warns(SfxlabWarning, match=r"mask: 1 of the 2 files .* \(1\.h5…\); pixels whose masks .* masked"):
        frames = open_frames(path, parse_geometry(two_panels))
    expected[4:] = 1
    for frame in frames:
        np.testing.assert_array_equal(frame.bad, expected)


def test_a_mask_that_is_missing_altogether_is_refused(with_virtual, two_panels, tmp_path):
    path = with_virtual(MASK, np.zeros((8, 6), np.uint16), 2, 0)
    for number in (0, 1):
        (tmp_path / f"{number}.h5").unlink()
    with pytest.raises(InputError, match=r"frames\.cxi, /entry_1/data_1/mask: all files that this virtual dataset"):
        open_frames(path, parse_geometry(two_panels))


def test_frames_whose_own_masks_are_missing_fail_and_the_others_are_read(with_virtual, two_panels, tmp_path):
    path = with_virtual(MASK, np.zeros((4, 8, 6), np.uint16), 2, 0)
    (tmp_path / "1.h5").unlink()
    with pytest.warns(SfxlabWarning, match="masked"):
        frames = open_frames(path, parse_geometry(two_panels))
    assert not frames[1].bad.any()
    with pytest.raises(FrameError, match=r"frame //2, /entry_1/data_1/mask: the file with the mask is missing"):
        frames[2]


def test_frames_whose_photon_energy_is_missing_fail_and_the_others_are_read(with_virtual, two_panels, tmp_path):
    # What HDF5 would give instead is an energy like any other.
    path = with_virtual(ENERGY, np.full(4, 9000.0), 2, 0, fillvalue=8000.0)
    (tmp_path / "0.h5").unlink()
    with pytest.warns(SfxlabWarning, match=r"photon_energy_eV: 1 of the 2 .* frames whose values"):
        frames = open_frames(path, parse_geometry(two_panels))
    assert frames[3].photon_energy == 9000
    with pytest.raises(FrameError, match="the photon energy of the frame is no energy"):
        frames[1]


def test_a_camera_length_that_is_missing_is_not_taken_for_nought(with_virtual, make_cxi, two_panels, tmp_path):
    text = two_panels.replace("clen = 0.1 m", f"clen = {ENERGY} mm")
    path = with_virtual(ENERGY, np.full(4, 9000), 4, 0)
    (tmp_path / "2.h5").unlink()
    with pytest.warns(SfxlabWarning, match="frames whose values"):
        frames = open_frames(path, parse_geometry(text.replace(f"photon_energy = {ENERGY} eV", "photon_energy = 9000")))
    assert frames[1].detector.camera_length == 9
    with pytest.raises(FrameError, match="the camera length or detector shift is no length"):
        frames[2]


def test_frames_that_a_data_file_has_not_got_any_more_fail(with_virtual, make_hdf5, two_panels):
    data = np.arange(4 * 8 * 6, dtype=np.uint16).reshape(4, 8, 6)
    path = with_virtual("/entry_1/data_1/data", data, 2, 0)
    make_hdf5("1.h5", {"/d": data[2:3]})
    frames = open_frames(path, parse_geometry(two_panels))
    np.testing.assert_array_equal(frames[2].data, data[2])
    with pytest.raises(FrameError, match="has not what the virtual dataset refers to"):
        frames[3]


def test_files_that_data_and_mask_share_are_warned_of_once(make_cxi, make_hdf5, two_panels, tmp_path):
    path = make_cxi()
    make_hdf5("left.h5", {"/data": np.ones((4, 8, 3)), "/mask": np.zeros((4, 8, 3), np.uint16)})
    with h5py.File(path, "r+") as file:
        for name in ("data", "mask"):
            layout = h5py.VirtualLayout((4, 8, 6), np.uint16)
            layout[:, :, :3] = h5py.VirtualSource("left.h5", name, (4, 8, 3))
            layout[:, :, 3:] = h5py.VirtualSource("right.h5", name, (4, 8, 3))
            del file[f"/entry_1/data_1/{name}"]
            file.create_virtual_dataset(f"/entry_1/data_1/{name}", layout)
    with pytest.warns(SfxlabWarning) as warned:
        frames = open_frames(path, parse_geometry(two_panels))
    assert [str(one.message).split(":")[0] for one in warned] == [f"{path}, /entry_1/data_1/data"]
    assert frames[0].bad.tolist() == [[0, 0, 0, 1, 1, 1]] * 8


def _mapped(file, shape, max_shape, dtype, sources):
    """A virtual dataset made of (target, file, path, source) with selections of the low-level interface."""
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_fill_value(np.zeros((), dtype))
    for target, name, path, source in sources:
        settings.set_virtual(target, name.encode(), path.encode(), source)
    space = h5py.h5s.create_simple(shape, max_shape)
    return h5py.Dataset(h5py.h5d.create(file.id, b"d", h5py.h5t.py_create(np.dtype(dtype)), space, dcpl=settings))


def _blocks(shape, max_shape, start, count, stride, block):
    space = h5py.h5s.create_simple(shape, max_shape)
    space.select_hyperslab(start, count, stride, block)
    return space


UNLIMITED = h5py.h5s.UNLIMITED


def test_a_file_for_each_block_is_known_by_the_number_in_its_name(make_hdf5, tmp_path):
    for number in (0, 1, 3):
        make_hdf5(f"part_{number}.h5", {"/d": np.full((2, 3), number + 1, np.int32)})
    with h5py.File(tmp_path / "v.h5", "w") as file:
        target = _blocks((2, 3), (UNLIMITED, 3), (0, 0), (UNLIMITED, 1), (2, 1), (2, 3))
        source = h5py.h5s.create_simple((2, 3))
        _mapped(file, (2, 3), (UNLIMITED, 3), np.int32, [(target, "part_%b.h5", "/d", source)])
    with h5py.File(tmp_path / "v.h5") as file:
        array = VirtualArray(file["d"], OpenFiles())
        assert array.dataset.shape[0] in (4, 8)  # HDF5 may stop at the first that is missing
        values, n = array.numbers(), array.dataset.shape[0]
    expected = np.repeat([1.0, 2.0, np.nan, 4.0], 2)[:n]
    np.testing.assert_array_equal(values, np.broadcast_to(expected[:, None], (n, 3)))


def test_sources_that_grow_without_end_are_known_to_be_missing(make_hdf5, tmp_path):
    # Two writers take turns, as at Diamond: a frame from one, a frame from the other.
    make_hdf5("w0.h5", {"/d": np.arange(1, 4, dtype=np.int32)}, maxshape=(None,))
    make_hdf5("w1.h5", {"/d": np.arange(11, 14, dtype=np.int32)}, maxshape=(None,))
    with h5py.File(tmp_path / "v.h5", "w") as file:
        sources = [
            (_blocks((6,), (UNLIMITED,), (n,), (UNLIMITED,), (2,), (1,)), f"w{n}.h5", "/d",
             _blocks((3,), (UNLIMITED,), (0,), (UNLIMITED,), (1,), (1,)))
            for n in range(2)
        ]  # fmt: skip
        _mapped(file, (6,), (UNLIMITED,), np.int32, sources)
    with h5py.File(tmp_path / "v.h5") as file:
        assert VirtualArray(file["d"], OpenFiles()).numbers().tolist() == [1, 11, 2, 12, 3, 13]
    (tmp_path / "w1.h5").unlink()
    with h5py.File(tmp_path / "v.h5") as file:
        values = VirtualArray(file["d"], OpenFiles()).numbers()
        assert len(values) >= 5
        np.testing.assert_array_equal(values[:5], [1, np.nan, 2, np.nan, 3])
