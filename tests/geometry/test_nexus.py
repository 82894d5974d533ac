"""Geometry that NXmx files carry, compared with what DIALS makes of the same files."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from sfxlab.errors import GeometryError, SfxlabWarning
from sfxlab.frames.hdf5_file import OpenFile
from sfxlab.geometry import parse_geometry
from sfxlab.geometry.nexus import is_nexus_mx, read_nexus_geometry
from sfxlab.geometry.nexus_transformations import chain_from, placed_by

_SYSTEM_PYTHON = Path("/usr/bin/python3")
_DIALS = """
import json, sys
from dxtbx.model.experiment_list import ExperimentListFactory

def describe(path):
    experiments = ExperimentListFactory.from_filenames([path])
    experiment, panels = experiments[0], []
    for panel in experiment.detector:
        width, height = panel.get_image_size()
        across, down = panel.get_pixel_size()  # without DIALS' correction of parallax
        pixels = [(x + 0.5, y + 0.5) for x in (0, width // 3, width - 1) for y in (0, height // 2, height - 1)]
        panels.append({
            "name": panel.get_name(), "pixels": pixels, "trusted": panel.get_trusted_range(),
            "positions": [panel.get_lab_coord((x * across, y * down)) for x, y in pixels], "size": (width, height),
        })
    wavelengths = [each.beam.get_wavelength() for each in experiments]
    bad = [[not good for good in mask] for mask in experiment.imageset.get_mask(0)]
    return {"panels": panels, "wavelengths": wavelengths, "bad": bad}

print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps(describe(line.strip())), flush=True)
"""


@pytest.fixture(scope="session")
def nxmx(mockdata):
    return mockdata("nxmx")


@pytest.fixture(scope="session")
def ask_dials():
    """What dxtbx of the system's Python makes of a file."""
    if not _SYSTEM_PYTHON.exists():
        pytest.skip("no system Python that could have dxtbx")
    command = [_SYSTEM_PYTHON, "-c", _DIALS]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True) as dials:
        said = [line for line in iter(dials.stdout.readline, "ready\n") if line]
        if dials.poll() is not None:
            pytest.skip(f"no dxtbx (Debian package python3-dials, see .ci/system-deps): {said[-1:]}")

        def ask(path):
            dials.stdin.write(f"{path}\n")
            dials.stdin.flush()
            answer = dials.stdout.readline()
            assert answer.startswith("{"), answer + dials.communicate()[0]
            return json.loads(answer)

        yield ask


@pytest.fixture
def write(nxmx, tmp_path):
    """Writes a master for modules and axes: `write(nxmx.eiger((40, 30)), frames=…, …)`."""

    def master(layout_of_detector, shape=(2, 40, 30), dtype=np.uint32, **options):
        frames = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
        options = {"compression": "gzip"} | options  # Debian's h5py has no other
        return nxmx.write_master(tmp_path, frames, *layout_of_detector, **options)

    return master


def read(path):
    file = OpenFile(str(path))
    return read_nexus_geometry(file.file, file.dataset)


def assert_same_positions(geometry, dials):
    """The same laboratory positions, DIALS' axes being (−x, y, −z) and its lengths millimetres."""
    detector = geometry.detector(geometry.camera_length.value)
    panels = {panel.name: panel for panel in detector.panels}
    assert len(panels) == len(dials["panels"])
    for theirs in dials["panels"]:
        ours = panels[theirs["name"].rsplit("/", 1)[-1]]
        assert [ours.columns, ours.rows] == theirs["size"]
        pixels = np.array(theirs["pixels"])
        positions = np.array(ours.corner) + pixels[:, :1] * np.array(ours.fs) + pixels[:, 1:] * np.array(ours.ss)
        expected = np.array(theirs["positions"]) * [-1e-3, 1e-3, -1e-3]
        np.testing.assert_allclose(positions, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("layout", ["links", "virtual", "single"])
def test_an_eiger_is_where_dials_has_it(write, nxmx, ask_dials, layout):
    mask = np.zeros((40, 30), np.uint32)
    mask[3, 5] = 1
    extra = {"pixel_mask": mask, "saturation_value": np.uint32(12440), "underload_value": np.int32(0)}
    wavelengths = [1.0, 1.1]
    layout_of_detector = nxmx.eiger((40, 30), (11.3, 17.9), 0.1234)
    path = write(layout_of_detector, layout=layout, wavelength=wavelengths, detector=extra)
    dials, geometry = ask_dials(path), read(path)
    assert_same_positions(geometry, dials)
    assert dials["panels"][0]["trusted"] == [-1, geometry.panels[0].panel.max_adu]
    assert dials["wavelengths"] == pytest.approx(wavelengths)
    assert np.flatnonzero(dials["bad"][0]).tolist() == [3 * 30 + 5]
    assert geometry.panels[0].masks[0].data == "/entry/instrument/detector/pixel_mask"


def test_tilted_modules_on_a_tilted_quadrant_are_where_dials_has_them(write, nxmx, ask_dials):
    path = write(nxmx.jungfrau(stacked=True), shape=(2, 48, 32), dtype=np.int32, layout="virtual")
    dials, geometry = ask_dials(path), read(path)
    assert len(dials["panels"]) == 3
    assert_same_positions(geometry, dials)
    assert parse_geometry(geometry.text) == geometry


def test_a_detector_arm_at_an_angle_is_where_dials_has_it(write, nxmx, ask_dials):
    modules, (translation,) = nxmx.eiger((40, 30))
    arm = nxmx.Axis("two_theta", 20.0, (-1.0, 0.0, 0.0), "rotation", "degree")
    hung = nxmx.Axis(
        "translation", translation.value, translation.vector, depends_on="two_theta", offset=(1.0, 2.0, 3.0),
        offset_units="mm",
    )  # fmt: skip
    path = write((modules, [arm, hung]), layout="single")
    assert_same_positions(read(path), ask_dials(path))


def test_modules_with_an_axis_of_their_own_are_where_stacked_ones_are(write, nxmx):
    stacked = read(write(nxmx.jungfrau(stacked=True), shape=(2, 48, 32), name="stacked"))
    apart = read(write(nxmx.jungfrau(stacked=False), shape=(2, 3, 16, 32), name="apart"))
    assert [p.dims for p in apart.panels] == [("%", module, "ss", "fs") for module in range(3)]
    assert stacked.camera_length == apart.camera_length
    for ours, theirs in zip(stacked.panels, apart.panels, strict=True):
        assert (ours.panel.corner, ours.panel.fs, ours.panel.ss) == (
            theirs.panel.corner, theirs.panel.fs, theirs.panel.ss
        )  # fmt: skip
        assert ours.panel.row == theirs.panel.row


def test_an_upright_eiger_runs_to_minus_x_and_minus_y_with_the_beam_at_its_centre(write, nxmx):
    geometry = read(write(nxmx.eiger((40, 30), beam_center=(11.0, 17.0), distance=0.2)))
    panel = geometry.detector(geometry.camera_length.value).panels[0]
    assert panel.corner == pytest.approx((11 * 75e-6, 17 * 75e-6, 0.2), abs=1e-12)
    assert panel.fs == pytest.approx((-75e-6, 0, 0), abs=1e-15)
    assert panel.ss == pytest.approx((0, -75e-6, 0), abs=1e-15)


def test_an_old_eiger_is_placed_by_its_beam_centre_with_a_warning(nxmx, tmp_path):
    path = nxmx.write_old_eiger(tmp_path, np.zeros((2, 40, 30), np.uint32), distance=0.15)
    with pytest.warns(SfxlabWarning, match=r"old_master\.h5, /entry/instrument/detector: .* upright is assumed"):
        geometry = read(path)
    panel = geometry.panels[0].panel
    assert panel.corner == pytest.approx((12.5 * 75e-6, 30.25 * 75e-6, 0), abs=1e-12)
    assert geometry.camera_length.value == 0.15
    assert panel.max_adu == 12440
    assert geometry.panels[0].masks[0].data.endswith("detectorSpecific/pixel_mask")


def test_a_distance_of_the_wrong_sign_is_mended_as_dials_does_it(write, nxmx, ask_dials):
    path = write(nxmx.eiger((40, 30), distance=-0.2), layout="single")
    with pytest.warns(SfxlabWarning, match="wrong sign"):
        geometry = read(path)
    assert_same_positions(geometry, ask_dials(path))


def test_dimensions_in_the_wrong_order_are_put_right(nxmx, write):
    modules, axes = nxmx.eiger((30, 40))
    panel = read(write((modules, axes), shape=(2, 40, 30))).panels[0].panel
    assert (panel.rows, panel.columns) == (40, 30)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"wavelength": 1.2}, ("wavelength", "/entry/instrument/beam/incident_wavelength", "A")),
        ({"wavelength": 1.2e-10, "wavelength_units": "m"}, ("wavelength", "incident_wavelength", "m")),
        ({"wavelength": None, "energy": 9000.0}, ("photon_energy", "/entry/instrument/beam/incident_energy", "eV")),
    ],
)
def test_the_photon_energy_stays_a_path(write, nxmx, options, expected):
    quantity = read(write(nxmx.eiger((40, 30)), **options)).photon_energy
    key, path, unit = expected
    assert (quantity.key, quantity.unit) == (key, unit)
    assert str(quantity.value).endswith(path)


def test_the_first_of_several_channels_is_read_with_its_mask(write, nxmx):
    path = write(nxmx.eiger((40, 30)), shape=(2, 2, 40, 30), layout="single")
    with h5py.File(path, "r+") as file:
        file["/entry/data/channel"] = [b"threshold_1", b"threshold_2"]
        file["/entry/instrument/detector/threshold_1_channel/pixel_mask"] = np.zeros((40, 30), np.uint32)
    with pytest.warns(SfxlabWarning, match=r"only the first channel is read, threshold_1, not threshold_2"):
        geometry = read(path)
    assert geometry.panels[0].dims == ("%", 0, "ss", "fs")
    assert geometry.panels[0].masks[0].data.endswith("threshold_1_channel/pixel_mask")


DETECTOR = "/entry/instrument/detector"
TRANSLATION = f"{DETECTOR}/transformations/translation"
FAST = f"{DETECTOR}/module/fast_pixel_direction"


def _set(path, name, value):
    def change(file):
        file[path].attrs[name] = value

    return change


def _replace(path, value):
    def change(file):
        attributes = dict(file[path].attrs)
        del file[path]
        file[path] = value
        file[path].attrs.update(attributes)

    return change


def _delete(path):
    def change(file):
        del file[path]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _set(TRANSLATION, "transformation_type", "shear"),
            rf"{TRANSLATION}: unknown transformation type\s+found: +shear",
        ),
        (_set(TRANSLATION, "depends_on", "translation"), rf"{TRANSLATION}: the chain of depends_on is a loop"),
        (_set(TRANSLATION, "depends_on", "nowhere"), rf"{TRANSLATION}: this depends on something that is not there"),
        (_set(TRANSLATION, "units", "furlong"), rf"{TRANSLATION}: the unit is unknown\s+found: +units = furlong"),
        (_set(TRANSLATION, "vector", [1.0, 2.0]), rf"{TRANSLATION}: the attribute 'vector' is wrong"),
        (_set(TRANSLATION, "offset", [0.0, np.nan, 1.0]), rf"{TRANSLATION}: the attribute 'offset' is wrong"),
        (_replace(TRANSLATION, np.nan), rf"{TRANSLATION}: this is no finite number"),
        (_replace(TRANSLATION, [0.1, 0.2]), rf"{TRANSLATION}: this changes from frame to frame"),
        (_replace(TRANSLATION, "far"), rf"{TRANSLATION}: this is no number"),
        (_replace(TRANSLATION, 0.0), rf"{DETECTOR}: the detector is not at a distance"),
        (_set(FAST, "vector", [0.0, 0.0, 0.0]), rf"{FAST}: this is no pixel"),
        (_set(FAST, "vector", [0.0, 1.0, 0.0]), rf"{DETECTOR}/module: fast and slow pixel direction are parallel"),
        (_replace(FAST, 0.0), rf"{FAST}: this is no pixel"),
        (_delete(f"{DETECTOR}/module/slow_pixel_direction"), r"module: 'slow_pixel_direction' is missing"),
        (_delete(f"{DETECTOR}/module/data_size"), r"module: 'data_size' is missing"),
        (_replace(f"{DETECTOR}/module/data_size", [400, 30]), r"module: the module is outside the images"),
        (_replace(f"{DETECTOR}/module/data_origin", [0]), r"module: data_origin and data_size do not fit"),
        (
            _replace("/entry/instrument/beam/incident_wavelength", 0.0),
            r"incident_wavelength: the wavelength is not set",
        ),
        (
            _set("/entry/instrument/beam/incident_wavelength", "units", "nm"),
            r"incident_wavelength: the unit is unknown",
        ),
        (_delete("/entry/instrument/beam/incident_wavelength"), r"/entry: the wavelength is missing"),
        (_delete("/entry/data"), r"/entry: there are no images"),
        (_delete(f"{DETECTOR}/module"), r"/entry: there is no NXdetector"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_hdf5_path(write, nxmx, change, message):
    path = write(nxmx.eiger((40, 30)))
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(GeometryError, match=rf"series_1_master\.h5, [\s\S]*{message}"):
        read(path)


def test_a_loop_of_several_axes_is_shown(write, nxmx):
    modules, axes = nxmx.jungfrau()
    rail = nxmx.Axis("AXIS_RAIL", 0.1, (0, 0, 1), depends_on="AXIS_D0Q0")
    path = write((modules, [rail, *axes[1:]]), shape=(2, 48, 32))
    with pytest.raises(GeometryError, match=r"is a loop\s+found: .*AXIS_D0Q0 → .*AXIS_D0 → .*AXIS_RAIL → .*AXIS_D0Q0"):
        read(path)


def test_modules_that_claim_the_same_pixels_are_refused(write, nxmx):
    path = write(nxmx.jungfrau(), shape=(2, 48, 32))
    with h5py.File(path, "r+") as file:
        file[f"{DETECTOR}/ARRAY_D0Q0M1/data_origin"][...] = [8, 0]
    with pytest.raises(GeometryError, match=r"series_1_master\.h5, panel ARRAY_D0Q0M1: panels .* overlap"):
        read(path)


def test_an_offset_that_nothing_depends_on_is_warned_of(write, nxmx):
    modules, axes = nxmx.eiger((40, 30))
    path = write((modules, axes))
    with h5py.File(path, "r+") as file:
        file[f"{DETECTOR}/module/module_offset"].attrs["offset"] = [0.0, 0.001, 0.0]
    with pytest.warns(SfxlabWarning, match=r"module_offset: fast_pixel_direction does not depend on this offset"):
        read(path)


def test_other_hdf5_files_are_no_nexus(make_cxi):
    with h5py.File(make_cxi(), "r") as file:
        assert not is_nexus_mx(file)


vectors = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.1)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(-180, 180), vectors, vectors), min_size=1, max_size=5))
def test_a_chain_of_transformations_acts_from_its_first_axis_to_its_last(nxmx, steps):
    point = np.array([0.3, -0.2, 0.1])
    with h5py.File("chain", "w", driver="core", backing_store=False) as file:
        for number, (turns, value, vector, offset) in enumerate(steps):
            kind, unit = ("rotation", "deg") if turns else ("translation", "mm")
            after = f"a{number + 1}" if number + 1 < len(steps) else "."
            nxmx.write_axis(file, nxmx.Axis(f"a{number}", value, vector, kind, unit, after, offset, "cm"))
            if turns:
                axis = np.array(vector) / np.linalg.norm(vector)
                point = Rotation.from_rotvec(np.radians(value) * axis).apply(point)
            else:
                point = point + 1e-3 * value * np.array(vector)
            point = point + 1e-2 * np.array(offset)
        placed = placed_by(chain_from(file["a0"]))
    np.testing.assert_allclose((placed @ [0.3, -0.2, 0.1, 1])[:3], point, atol=1e-9)
