"""Files that are read besides those that are named."""

from __future__ import annotations

import pickle

import h5py
import numpy as np
import pytest

from sfxlab.frames import open_frames
from sfxlab.geometry import parse_geometry


@pytest.fixture
def nxmx(mockdata):
    return mockdata("nxmx")


def names_of(frames):
    return {path.rsplit("/", 1)[1] for path in frames.files}


def test_a_plain_file_is_all_that_is_read(make_cxi, two_panels):
    frames = open_frames(make_cxi(), parse_geometry(two_panels))
    assert frames.files == frames.paths


@pytest.mark.parametrize("layout", ["links", "virtual"])
def test_the_data_files_of_a_master_are_read(nxmx, tmp_path, layout):
    detector = nxmx.eiger((20, 16))
    pixels = np.arange(7 * 20 * 16, dtype=np.uint16).reshape(7, 20, 16)
    master = nxmx.write_master(tmp_path, pixels, *detector, layout=layout, name="series")
    frames = open_frames(master)
    data = {path.name for path in tmp_path.glob("*_data_*")}
    assert len(data) > 1
    assert names_of(frames) == {master.name, *data}
    assert frames.files[0] == str(master)
    assert pickle.loads(pickle.dumps(frames[2:4])).files == frames.files


def test_masks_and_numbers_behind_links_and_mask_files_are_read(make_cxi, make_hdf5, two_panels):
    path = make_cxi()
    make_hdf5("energy.h5", {"/e": np.full(4, 9000.0)})
    make_hdf5("linked_mask.h5", {"/m": np.zeros((8, 6), np.uint16)})
    make_hdf5("deep.h5", {"/m": np.zeros((8, 6), np.uint16)})
    own = make_hdf5("own_mask.h5", {})
    with h5py.File(own, "r+") as file:
        file["mask"] = h5py.ExternalLink("deep.h5", "/m")
    with h5py.File(path, "r+") as file:
        del file["/LCLS/photon_energy_eV"], file["/entry_1/data_1/mask"]
        file["/LCLS/photon_energy_eV"] = h5py.ExternalLink("energy.h5", "/e")
        file["/entry_1/data_1/mask"] = h5py.ExternalLink("linked_mask.h5", "/m")
    text = f"mask1_data = /mask\nmask1_file = {own}\nmask1_badbits = 1\n{two_panels}"
    frames = open_frames(path, parse_geometry(text))
    assert names_of(frames) == {"frames.cxi", "energy.h5", "linked_mask.h5", "own_mask.h5", "deep.h5"}


def test_virtual_datasets_of_virtual_datasets_are_followed_and_missing_files_named(make_hdf5, two_panels, tmp_path):
    for number in range(3):
        if number < 2:
            make_hdf5(f"raw_{number}.h5", {"/d": np.ones((2, 8, 6), np.uint16)})
        with h5py.File(tmp_path / f"part_{number}.h5", "w") as file:
            layout = h5py.VirtualLayout((2, 8, 6), np.uint16)
            layout[:] = h5py.VirtualSource(f"raw_{number}.h5", "/d", (2, 8, 6))
            file.create_virtual_dataset("/d", layout)
    whole = h5py.VirtualLayout((6, 8, 6), np.uint16)
    for number in range(3):
        whole[2 * number : 2 * number + 2] = h5py.VirtualSource(f"part_{number}.h5", "/d", (2, 8, 6))
    with h5py.File(tmp_path / "v.cxi", "w") as file:
        file.create_virtual_dataset("/entry_1/data_1/data", whole)
        file["/entry_1/data_1/mask"], file["/LCLS/photon_energy_eV"] = np.zeros((8, 6), np.uint16), np.full(6, 9e3)
    frames = open_frames(tmp_path / "v.cxi", parse_geometry(two_panels))
    assert names_of(frames) == {"v.cxi", *(f"{kind}_{n}.h5" for kind in ("raw", "part") for n in range(3))}


def test_files_behind_groups_of_single_frames_are_read(make_hdf5, two_panels, tmp_path):
    for number in range(3):
        make_hdf5(f"shot_{number}.h5", {"/d": np.ones((8, 6), np.uint16)})
    with h5py.File(tmp_path / "run.h5", "w") as file:
        for number in range(3):
            file[f"/shot_{number}/data"] = h5py.ExternalLink(f"shot_{number}.h5", "/d")
        file["/mask"], file["/energy"] = np.zeros((8, 6), np.uint16), 9000.0
    text = two_panels.replace("dim0 = %\ndim1 = ss\ndim2 = fs", "dim0 = ss\ndim1 = fs")
    for old, new in (("data = /entry_1/data_1/data", "data = /%/data"), ("/entry_1/data_1/mask", "/mask")):
        text = text.replace(old, new)
    frames = open_frames(tmp_path / "run.h5", parse_geometry(text.replace("/LCLS/photon_energy_eV", "/energy")))
    assert len(frames) == 3
    assert names_of(frames) == {"run.h5", "shot_0.h5", "shot_1.h5", "shot_2.h5"}
