"""NXmx masters whose data files, masks and numbers lie in other files at the same address."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from sfxlab.errors import InputError, UnreachableError
from sfxlab.frames import open_frames
from sfxlab.processing import process
from sfxlab.recipe import Recipe

N_FRAMES, SHAPE = 7, (40, 30)
DETECTOR = "/entry/instrument/detector"


@pytest.fixture
def images() -> NDArray[np.uint32]:
    return np.random.default_rng(5).poisson(20, (N_FRAMES, *SHAPE)).astype(np.uint32)


@pytest.fixture
def write_master(mockdata: Any, tmp_path: Path, images: NDArray[np.uint32]) -> Any:
    """Writes a master with three data files to the folder `run1`, `write_master(layout)`."""

    def write(layout: str) -> Path:
        nxmx, mask = mockdata("nxmx"), np.zeros(SHAPE, np.uint32)
        mask[7, 8] = 1
        detector = {"pixel_mask": mask, "saturation_value": np.uint32(12440)}
        path: Path = nxmx.write_master(tmp_path / "run1", images, *nxmx.eiger(SHAPE), layout=layout, detector=detector)
        return path

    return write


def move_to_another_file(master: Path) -> None:
    """What Diamond's masters do: mask and numbers of the detector are links to a file of their own."""
    with h5py.File(master, "r+") as file, h5py.File(master.with_name("series_1_meta.h5"), "w") as meta:
        for name in ("pixel_mask", "saturation_value"):
            meta[f"/{name}"] = file[f"{DETECTOR}/{name}"][()]
            del file[f"{DETECTOR}/{name}"]
            file[f"{DETECTOR}/{name}"] = h5py.ExternalLink("series_1_meta.h5", f"/{name}")


@pytest.mark.parametrize("layout", ["links", "virtual", "single"])
def test_a_master_at_an_address_gives_the_same_frames_and_geometry(
    publish: Any, write_master: Any, images: NDArray[np.uint32], layout: str
) -> None:
    master = write_master(layout)
    move_to_another_file(master)
    here, there = open_frames(master), open_frames(f"{publish(master.parent)}/series_1_master.h5")
    there = pickle.loads(pickle.dumps(there))
    np.testing.assert_array_equal([frame.data for frame in there], images)
    assert here.geometry_text == there.geometry_text
    assert there.detector.panels[0].max_adu == 12440
    for mine, theirs in zip(here, there, strict=True):
        assert np.argwhere(theirs.bad).tolist() == [[7, 8]]
        assert mine.photon_energy == theirs.photon_energy


def test_a_folder_with_a_master_gives_the_frames_of_the_master(publish: Any, write_master: Any) -> None:
    address = publish(write_master("links").parent)
    frames = open_frames(f"{address}/")
    assert [frames.identity(i).path for i in range(len(frames))] == [f"{address}/series_1_master.h5"] * N_FRAMES


@pytest.mark.parametrize("numbers", [[3], [1, 2]])
def test_data_files_of_links_are_named_where_nobody_knows_how_many_frames_they_have(
    publish: Any, write_master: Any, numbers: list[int]
) -> None:
    master = write_master("links")
    for number in numbers:
        (master.parent / f"series_1_data_{number:06d}.h5").unlink()
    address = publish(master.parent)
    with pytest.raises(InputError, match=rf"{address}/series_1_data_{numbers[0]:06d}\.h5: there is no such object"):
        open_frames(f"{address}/series_1_master.h5")


@pytest.mark.parametrize("layout", ["links", "virtual"])
def test_a_missing_data_file_costs_its_frames_until_resuming(
    publish: Any, write_master: Any, images: NDArray[np.uint32], tmp_path: Path, layout: str
) -> None:
    master = write_master(layout)
    lost = master.parent / "series_1_data_000002.h5"
    content = lost.read_bytes()
    lost.unlink()
    address = publish(master.parent)
    frames = open_frames(f"{address}/series_1_master.h5")
    np.testing.assert_array_equal(frames[1].data, images[1])
    assert not frames[6].bad.all()
    with pytest.raises(UnreachableError, match=r"data_000002\.h5, frame //4: there is no such object"):
        frames[4]
    run = process(frames, Recipe(), output=tmp_path / "out", chunk_size=2, progress=None)
    assert run.unreachable_frames() == [3, 4, 5]
    lost.write_bytes(content)
    publish(master.parent)
    frames = open_frames(f"{address}/series_1_master.h5")
    run = process(frames, Recipe(), output=tmp_path / "out", resume=True, progress=None)
    assert (run.counts.failed, run.unreachable_frames()) == (0, [])
