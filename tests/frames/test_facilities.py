import pickle
import shutil

import h5py
import numpy as np
import pytest

from sfxlab.errors import FrameError, GeometryError
from sfxlab.frames import open_frames
from sfxlab.geometry import parse_geometry

LAYOUTS = ("cspad", "epix", "two_detectors", "scans", "swissfel", "sacla", "sacla_runs", "pal")


@pytest.fixture
def layouts(mockdata):
    return mockdata("facilities")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_back_exactly(layouts, tmp_path, layout):
    path, text, exposures = getattr(layouts, f"write_{layout}")(tmp_path)
    frames = open_frames(path, parse_geometry(text))
    assert len(frames) == len(exposures)
    for frame, expected in zip(pickle.loads(pickle.dumps(frames)), exposures, strict=True):
        assert (frame.id.path, frame.id.event) == (str(path), expected.event)
        assert frame.data.dtype == expected.data.dtype
        np.testing.assert_array_equal(frame.data, expected.data)
        np.testing.assert_array_equal(frame.bad, expected.bad)
        assert frame.photon_energy == pytest.approx(expected.photon_energy, rel=1e-12)
        assert frame.detector.camera_length == pytest.approx(expected.camera_length, abs=1e-7)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_events_of_every_layout_can_be_listed(layouts, tmp_path, layout):
    path, text, exposures = getattr(layouts, f"write_{layout}")(tmp_path)
    chosen = [exposures[-1], exposures[0]]
    (tmp_path / "some.lst").write_text("".join(f"{path.name} {exposure.event}\n" for exposure in chosen))
    frames = open_frames(tmp_path / "some.lst", parse_geometry(text))
    assert [frame.id.event for frame in frames] == [exposure.event for exposure in chosen]
    for frame, expected in zip(frames, chosen, strict=True):
        np.testing.assert_array_equal(frame.data, expected.data)


@pytest.mark.parametrize("number", [1, 2])
def test_one_detector_of_two_can_be_chosen(layouts, tmp_path, number):
    path, text, _ = layouts.write_two_detectors(tmp_path)
    keep = "front" if number == 1 else "back"
    lines = [line for line in text.splitlines() if "/min" not in line or line.startswith(keep)]
    lines = [line for line in lines if not line.startswith("back" if number == 1 else "front")]
    frames = open_frames(path, parse_geometry("\n".join(lines)))
    with h5py.File(path) as file:
        data, mask = (file[f"/entry_1/instrument_1/detector_{number}/{name}"][()] for name in ("data", "mask"))
    for n, frame in enumerate(frames):
        assert frame.data.dtype == data.dtype
        np.testing.assert_array_equal(frame.data, data[n])
        np.testing.assert_array_equal(frame.bad, mask[n] > 0)


def test_detectors_that_were_not_recorded_together_are_refused(layouts, tmp_path):
    path, text, _ = layouts.write_two_detectors(tmp_path)
    with h5py.File(path, "r+") as file:
        del file["/entry_1/instrument_1/detector_2/data"]
        file["/entry_1/instrument_1/detector_2/data"] = np.zeros((5, 6, 7), np.float32)
    with pytest.raises(GeometryError, match="data arrays have different numbers of frames"):
        open_frames(path, parse_geometry(text))


def test_a_tag_without_its_energy_fails_alone(layouts, tmp_path):
    path, text, exposures = layouts.write_sacla(tmp_path)
    tag = exposures[1].event.removesuffix("//")
    with h5py.File(path, "r+") as file:
        del file[f"{tag}/photon_energy_ev"]
    frames = open_frames(path, parse_geometry(text))
    with pytest.raises(FrameError, match=rf"frame {tag}//, /{tag}/photon_energy_ev: the file has no such HDF5 path"):
        frames[1]
    assert frames[2].photon_energy == exposures[2].photon_energy


def test_runs_of_many_files_are_opened_together(layouts, tmp_path):
    path, text, exposures = layouts.write_pal(tmp_path)
    shutil.copy(path, tmp_path / "R0017_2.h5")
    frames = open_frames(str(tmp_path / "R*.h5"), parse_geometry(text))
    assert len(frames) == 2 * len(exposures)
    assert [frame.id.event for frame in frames] == 2 * [exposure.event for exposure in exposures]
