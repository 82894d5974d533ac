import h5py
import numpy as np
import pytest

from sfxlab.frames import open_frames
from sfxlab.frames.chunks import StoredArray
from sfxlab.geometry import parse_geometry


@pytest.fixture
def masks_read(monkeypatch):
    """Names of the datasets that parts are read of as new arrays, which masks are."""
    read = []
    part = StoredArray.part

    def counted(array, selection):
        read.append(array.dataset.name)
        return part(array, selection)

    monkeypatch.setattr(StoredArray, "part", counted)
    return read


def test_a_mask_of_all_frames_is_read_once_for_each_file(make_cxi, two_panels, masks_read):
    mask = np.zeros((8, 6), dtype=np.uint16)
    mask[1, 1] = 1
    frames = open_frames([make_cxi("a.cxi", mask=mask), make_cxi("b.cxi", mask=mask)], parse_geometry(two_panels))
    maps = [frame.bad for frame in frames]
    assert masks_read == ["/entry_1/data_1/mask"] * 2
    assert all(np.argwhere(bad).tolist() == [[1, 1]] for bad in maps)
    assert len({id(bad) for bad in maps}) == 2


def test_a_mask_in_a_file_of_its_own_is_read_once_for_all(make_cxi, make_hdf5, two_panels, masks_read):
    path = make_hdf5("mask.h5", {"/mask": np.eye(8, 6, dtype=np.uint8)})
    text = two_panels.replace("mask0_data = /entry_1/data_1/mask", f"mask0_data = /mask\nmask0_file = {path}")
    frames = open_frames([make_cxi(f"{i}.cxi") for i in range(3)], parse_geometry(text))
    maps = [frame.bad for frame in frames]
    assert masks_read == ["/mask"]
    assert all(bad is maps[0] for bad in maps)
    assert (maps[0] == np.eye(8, 6)).all()


def test_masks_of_frames_do_not_mix_with_those_of_all(make_cxi, make_hdf5, two_panels):
    each = np.zeros((4, 8, 6), dtype=np.uint8)
    each[[0, 1, 2, 3], 4, 2] = 1, 0, 1, 0
    path = make_cxi()
    with h5py.File(path, "r+") as file:
        file["/each"] = each
    text = two_panels + "left/mask1_data = /each\nleft/mask1_badbits = 1\n"
    frames = open_frames(path, parse_geometry(text))
    assert [int(frame.bad.sum()) for frame in frames] == [1, 0, 1, 0]
    assert [int(frames[i].bad[4, 2]) for i in (1, 0, 3, 2)] == [0, 1, 0, 1]
