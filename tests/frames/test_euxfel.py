import pickle
import shutil
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest

from sfxlab.errors import FrameError, GeometryError, InputError, SfxlabWarning
from sfxlab.frames import open_frames
from sfxlab.geometry import HC_EV_ANGSTROM, Geometry
from sfxlab.geometry.extra_geom import from_extra_geom
from sfxlab.processing import process
from sfxlab.recipe import Recipe

extra_geom = pytest.importorskip("extra_geom")
pytest.importorskip("extra_data")

DETECTORS = ("AGIPD1M", "LPD1M", "JUNGFRAU4M")


@pytest.fixture
def euxfel(mockdata):
    return mockdata("euxfel")


@pytest.fixture(scope="module")
def written(mockdata, tmp_path_factory):
    """A run of two pulses in each of two trains, to be copied, and its truth."""
    folder = tmp_path_factory.mktemp("run")
    return folder, mockdata("euxfel").write_run(folder, "AGIPD1M")


@pytest.fixture
def agipd(written, tmp_path):
    """The same at `r0034`, to be spoilt."""
    folder, pulses = written
    shutil.copytree(folder, tmp_path / "r0034")
    return [replace(pulse, modules=list(pulse.modules)) for pulse in pulses]


def geometry_of(kind: str, camera_length=0.2, photon_energy=9300.0) -> Geometry:
    geom = {
        "AGIPD1M": lambda: extra_geom.AGIPD_1MGeometry.example(),
        "LPD1M": lambda: extra_geom.LPD_1MGeometry.example(),
        "JUNGFRAU4M": lambda: extra_geom.JUNGFRAUGeometry.example(n_modules=8),
    }[kind]()
    return from_extra_geom(geom, camera_length, photon_energy)


def check(frame, pulse) -> None:
    """The frame has the pixels and masks of its modules, each in its own place, and missing ones are bad."""
    modules = np.split(frame.data, len(pulse.modules))
    bad = np.split(frame.bad, len(pulse.modules))
    for data, marks, expected in zip(modules, bad, pulse.modules, strict=True):
        if expected is None:
            assert marks.all()
            continue
        np.testing.assert_array_equal(data, expected[0])
        np.testing.assert_array_equal(marks, expected[1] != 0)


@pytest.mark.parametrize("kind", DETECTORS)
def test_run_directories_are_read_back_exactly(euxfel, tmp_path, kind):
    pulses = euxfel.write_run(tmp_path / "r0034", kind, missing=[3])
    frames = open_frames(tmp_path / "r0034", geometry_of(kind))
    assert len(frames) == len(pulses) == 4
    for frame, pulse in zip(pickle.loads(pickle.dumps(frames)), pulses, strict=True):
        assert frame.id.path == str(tmp_path / "r0034")
        assert frame.id.event == f"//{pulse.train}/{pulse.pulse}"
        assert frame.metadata == {"train_id": pulse.train, "pulse_id": pulse.pulse, "missing_modules": (3,)}
        assert frame.data.dtype == np.float32
        assert frame.photon_energy == 9300
        assert frame.detector.camera_length == pytest.approx(0.2)
        check(frame, pulse)
    assert len(frames.paths) == (7 if kind == "JUNGFRAU4M" else 15)


@pytest.mark.parametrize("kind", DETECTORS)
def test_virtual_cxi_files_need_h5py_alone(euxfel, tmp_path, kind, capsys):
    from extra_data import RunDirectory
    from extra_data.components import AGIPD1M, JUNGFRAU, LPD1M

    pulses = euxfel.write_run(tmp_path / "r0034", kind, missing=[3])
    interface = {"AGIPD1M": AGIPD1M, "LPD1M": LPD1M, "JUNGFRAU4M": JUNGFRAU}[kind]
    interface(RunDirectory(str(tmp_path / "r0034")), raw=False).write_virtual_cxi(str(tmp_path / "virtual.cxi"))
    frames = open_frames(tmp_path / "virtual.cxi", geometry_of(kind))
    assert len(frames) == 4
    for number, (frame, pulse) in enumerate(zip(frames, pulses, strict=True)):
        assert frame.id.event == f"//{number}"
        check(frame, pulse)


def test_a_virtual_file_without_a_module_is_refused_not_shifted(euxfel, tmp_path):
    # As EXtra-data wrote them before it left room for missing modules.
    with h5py.File(tmp_path / "old.cxi", "w") as file:
        for name, dtype in (("data", np.float32), ("mask", np.uint32)):
            file[f"/entry_1/instrument_1/detector_1/{name}"] = np.zeros((2, 15, 512, 128), dtype)
    with pytest.raises(GeometryError, match=r"dim1 = 15 is outside the data array[\s\S]*0 to 14"):
        open_frames(tmp_path / "old.cxi", geometry_of("AGIPD1M"))


def test_files_that_a_virtual_file_misses_are_warned_of_and_bad(euxfel, tmp_path, capsys):
    from extra_data import RunDirectory
    from extra_data.components import AGIPD1M

    pulses = euxfel.write_run(tmp_path / "r0034", "AGIPD1M", missing=[0])
    AGIPD1M(RunDirectory(str(tmp_path / "r0034")), raw=False).write_virtual_cxi(str(tmp_path / "virtual.cxi"))
    (tmp_path / "r0034" / "CORR-R0034-AGIPD05-S00000.h5").unlink()
    with pytest.warns(SfxlabWarning, match=r"1 of the 15 files that it refers to are missing"):
        frames = open_frames(tmp_path / "virtual.cxi", geometry_of("AGIPD1M"))
    pulses[1].modules[5] = None
    check(frames[1], pulses[1])


@pytest.mark.parametrize(("counts", "lost"), [([2, 0], [2, 3]), ([2, 1], [3]), ([0, 0], [0, 1, 2, 3])])
def test_pulses_that_one_module_lost_are_masked_there_only(agipd, tmp_path, counts, lost):
    with h5py.File(tmp_path / "r0034" / "CORR-R0034-AGIPD07-S00000.h5", "r+") as file:
        file["INDEX/SPB_DET_AGIPD1M-1/DET/7CH0:xtdf/image/count"][:] = counts
    for number in lost:
        agipd[number].modules[7] = None
    frames = open_frames(tmp_path / "r0034", geometry_of("AGIPD1M"))
    assert [n for n, frame in enumerate(frames) if frame.metadata["missing_modules"] == (7,)] == lost
    for frame, pulse in zip(frames, agipd, strict=True):
        check(frame, pulse)


def test_lists_name_pulses_of_run_directories(agipd, tmp_path):
    (tmp_path / "some.lst").write_text("r0034 //10001/1\nr0034 //10000/0\n")
    frames = open_frames(tmp_path / "some.lst", geometry_of("AGIPD1M"))
    assert [frame.id.event for frame in frames] == ["//10001/1", "//10000/0"]
    check(frames[0], agipd[3])
    (tmp_path / "some.lst").write_text("r0034 //10002/0\n")
    with pytest.raises(InputError, match=r"line 1: the list names an event[\s\S]*//10000/0 to //10001/1 of .*r0034"):
        open_frames(tmp_path / "some.lst", geometry_of("AGIPD1M"))


def test_several_runs_are_opened_together_and_sliced(agipd, tmp_path):
    shutil.copytree(tmp_path / "r0034", tmp_path / "r0035")
    frames = open_frames(str(tmp_path / "r*"), geometry_of("AGIPD1M"))
    assert [frame.id.path.rsplit("/")[-1] for frame in frames] == 4 * ["r0034"] + 4 * ["r0035"]
    some = pickle.loads(pickle.dumps(frames[6:2:-1]))
    assert [frame.index for frame in some] == [6, 5, 4, 3]
    check(some[0], agipd[2])
    check(some[3], agipd[3])
    assert len(frames.paths) == 32
    assert len(frames[:3].paths) == 16


def test_energy_and_camera_length_come_from_the_devices_of_the_raw_run(euxfel, written, tmp_path):
    shutil.copytree(written[0], tmp_path / "proc" / "r0034")
    wavelengths, z = np.array([0.1, 0.125]), np.array([250.0, 251.5])
    euxfel.write_devices(tmp_path / "raw" / "r0034", wavelengths, z)
    path = "/CONTROL/SPB_IRU_AGIPD1M/MOTOR/Z_STEPPER/actualPosition/value mm"
    frames = open_frames(tmp_path / "proc" / "r0034", geometry_of("AGIPD1M", path, "/XGM/photon_energy"))
    expected = np.repeat(HC_EV_ANGSTROM / (10 * wavelengths), 2)
    assert [frame.photon_energy for frame in frames] == pytest.approx(expected, rel=1e-6)
    assert [frame.detector.camera_length for frame in frames] == pytest.approx([0.25, 0.25, 0.2515, 0.2515], abs=1e-6)
    assert frames.describe().photon_energy == pytest.approx((expected[2], expected[0]), rel=1e-6)
    with pytest.raises(GeometryError, match="'clen' cannot be found for this run"):
        open_frames(tmp_path / "proc" / "r0034", geometry_of("AGIPD1M", path.replace("Z_STEPPER", "Y")))


def test_a_train_without_an_energy_fails_and_no_other(euxfel, written, tmp_path):
    shutil.copytree(written[0], tmp_path / "proc" / "r0034")
    euxfel.write_devices(tmp_path / "raw" / "r0034", np.array([0.1]))
    frames = open_frames(tmp_path / "proc" / "r0034", geometry_of("AGIPD1M", 0.2, "/XGM/photon_energy"))
    assert frames[1].photon_energy == pytest.approx(12398.4198, rel=1e-6)
    with pytest.raises(FrameError, match="frame //10001/0: the photon energy of the frame is no energy"):
        frames[2]


def test_without_a_gas_monitor_the_number_is_asked_for(agipd, tmp_path):
    with pytest.raises(GeometryError, match=r"'photon_energy' cannot be found[\s\S]*no gas monitor"):
        open_frames(tmp_path / "r0034", geometry_of("AGIPD1M", 0.2, "/XGM/photon_energy"))


def test_raw_data_are_warned_of(euxfel, tmp_path):
    pulses = euxfel.write_run(tmp_path / "r0034", "AGIPD1M", trains=1, raw=True)
    with pytest.warns(SfxlabWarning, match="the data of SPB_DET_AGIPD1M-1 are raw"):
        frames = open_frames(tmp_path / "r0034", geometry_of("AGIPD1M"))
    assert frames[1].data.dtype == np.uint16
    np.testing.assert_array_equal(frames[1].data[:512], pulses[1].modules[0][0][0])


def test_a_damaged_file_costs_its_frames_and_no_others(agipd, tmp_path):
    name = "CORR-R0034-AGIPD02-S00000.h5"
    geometry = geometry_of("AGIPD1M")
    frames = open_frames(tmp_path / "r0034", geometry)
    with h5py.File(tmp_path / "r0034" / name, "r+") as file:
        del file["INSTRUMENT/SPB_DET_AGIPD1M-1/DET/2CH0:xtdf/image/mask"]
    with pytest.raises(FrameError, match=rf"{name}, frame //10000/0.*image/mask: the file has no such HDF5 path"):
        frames[0]
    (tmp_path / "r0034" / name).unlink()
    (tmp_path / "r0034" / name).write_bytes(b"nothing")
    with pytest.warns(SfxlabWarning, match=rf"1 files cannot be read and are left out \({name}"):
        frames = open_frames(tmp_path / "r0034", geometry)
    agipd[0].modules[2] = None
    check(frames[0], agipd[0])


@pytest.mark.parametrize(
    ("geometry", "message"),
    [(None, r"does not carry the detector's geometry"), ("LPD1M", r"not for the detector of this run[\s\S]*512 × 128")],
)
def test_a_run_needs_the_geometry_of_its_detector(written, geometry, message):
    with pytest.raises(GeometryError, match=message):
        open_frames(written[0], None if geometry is None else geometry_of(geometry))


def test_a_run_without_a_detector_is_said_to_be_one(euxfel, tmp_path):
    euxfel.write_devices(tmp_path / "r0034", np.array([0.1]))
    with pytest.raises(InputError, match="no data of a detector of several modules"):
        open_frames(tmp_path / "r0034", geometry_of("AGIPD1M"))


def test_a_run_opens_its_pulses_again(written, tmp_path):
    folder, pulses = written
    frames = open_frames(folder, geometry_of("AGIPD1M"))[1:3]
    run = process(frames, Recipe(), output=tmp_path / "run", inputs=[str(folder)], progress=None)
    assert run.counts.failed == 0
    # The run is of a slice, so that its list of frames is opened, which names pulses of a directory.
    for frame, pulse in zip(run.open_frames(), pulses[1:3], strict=True):
        check(frame, pulse)


def test_without_extra_data_it_is_said_what_to_install(written, monkeypatch):
    geometry = geometry_of("AGIPD1M")
    monkeypatch.setitem(sys.modules, "extra_data", None)
    with pytest.raises(InputError, match=r"EXtra-data, which is not installed[\s\S]*sfxlab\[euxfel\]"):
        open_frames(written[0], geometry)


def test_a_saturation_map_of_modules_comes_from_a_file_of_its_own(agipd, tmp_path):
    geometry = geometry_of("AGIPD1M")
    limits = np.random.default_rng(1).uniform(1e3, 1e4, (16, 512, 128)).astype(np.float32)
    with h5py.File(tmp_path / "limits.h5", "w") as file:
        file["limits"] = limits

    def with_map(file: str | None) -> Geometry:
        panels = (replace(s, saturation_map="/limits", saturation_map_file=file) for s in geometry.panels)
        return replace(geometry, panels=tuple(panels))

    frames = open_frames(tmp_path / "r0034", with_map(str(tmp_path / "limits.h5")))
    np.testing.assert_array_equal(frames[1].saturation_map, limits.reshape(-1, 128))
    assert frames[0].saturation_map is frames[1].saturation_map
    with pytest.warns(SfxlabWarning, match="r0034: there is no saturation map in such files"):
        assert open_frames(tmp_path / "r0034", with_map(None))[0].saturation_map is None
