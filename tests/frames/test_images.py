import bz2
import gzip
import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from sfxlab.errors import FrameError, GeometryError, InputError, SfxlabWarning
from sfxlab.frames import images as images_module
from sfxlab.frames import open_frames
from sfxlab.geometry import HC_EV_ANGSTROM, parse_geometry, write_geometry
from sfxlab.processing import process
from sfxlab.recipe import Recipe

PIXEL = 172e-6


@pytest.fixture
def files(mockdata):
    return mockdata("images")


@pytest.fixture
def pixels() -> np.ndarray:
    """(40, 30) counts of a photon counter with a dead pixel, a gap and a saturated pixel."""
    counts = np.random.default_rng(5).poisson(20, (40, 30)).astype(np.int32)
    counts[7, 3], counts[20:22], counts[9, 9] = -2, -1, 1000001
    return counts


GEOM = """photon_energy = 12.4 keV
clen = 0.15
res = 5814
data = /entry/data/data
dim0 = %
dim1 = ss
dim2 = fs
flag_lessthan = 0
a/min_fs = 0
a/max_fs = 29
a/min_ss = 0
a/max_ss = 19
a/corner_x = 15
a/corner_y = 20
a/fs = -x
a/ss = -y
b/min_fs = 0
b/max_fs = 29
b/min_ss = 22
b/max_ss = 39
b/corner_x = 15
b/corner_y = -2
b/fs = -x
b/ss = -y
"""


@pytest.mark.parametrize("suffix", [".cbf", "-8.tif", "-130.tiff"])
def test_dectris_images_carry_all_that_is_needed(files, pixels, tmp_path, suffix):
    comment = files.pilatus_comment(wavelength=1.25, distance=0.1234, beam=(12.5, 17.25), cutoff=1000000)
    path = tmp_path / f"image{suffix}"
    if suffix == ".cbf":
        files.write_cbf(path, pixels, comment)
    else:
        files.write_pilatus_tiff(path, pixels, comment, ifd=int(suffix[1 : suffix.index(".")]))
    frames = open_frames(path)
    assert len(frames) == 1
    frame = frames[0]
    assert frame.data.dtype == np.int32
    np.testing.assert_array_equal(frame.data, pixels)
    np.testing.assert_array_equal(frame.bad, pixels < 0)
    assert frame.photon_energy == pytest.approx(HC_EV_ANGSTROM / 1.25)
    assert (frame.id.path, frame.id.event) == (str(path), "//")
    panel = frame.detector.panels[0]
    assert panel.max_adu == 1000000
    assert frame.detector.camera_length == 0.1234
    # The beam, 12.5 pixels along the rows and 17.25 down, is at the origin; to the right of it x is negative.
    position = frame.detector.positions(np.zeros(2, int), np.array([12.5, 13.5]), np.array([17.25, 16.25]))
    np.testing.assert_allclose(position, [[0, 0, 0.1234], [-PIXEL, PIXEL, 0.1234]], atol=1e-12)


def test_each_file_has_its_own_wavelength_distance_and_beam(files, pixels, tmp_path):
    for number in range(3):
        comment = files.pilatus_comment(1 + 0.01 * number, 0.2 + 0.001 * number, (10.0 + number, 20.0))
        files.write_cbf(tmp_path / f"still_{number:05d}.cbf", pixels + number, comment)
    frames = open_frames(tmp_path)
    assert [frame.photon_energy for frame in frames] == pytest.approx([HC_EV_ANGSTROM / w for w in (1, 1.01, 1.02)])
    assert [frame.detector.camera_length for frame in frames] == [0.2, 0.201, 0.202]
    assert [frame.detector.panels[0].corner[0] for frame in frames] == pytest.approx([1720e-6, 1892e-6, 2064e-6])
    summary = frames.describe()
    assert (summary.files, summary.frames, summary.compression) == (3, 3, "cbf")
    assert summary.photon_energy == pytest.approx((HC_EV_ANGSTROM / 1.02, HC_EV_ANGSTROM))
    # What a run keeps beside its tables opens the same frames.
    (tmp_path / "run.geom").write_text(frames.geometry_text)
    again = open_frames(str(tmp_path / "*.cbf"), tmp_path / "run.geom")
    for one, other in zip(frames, again, strict=True):
        assert one.photon_energy == other.photon_energy
        assert one.detector.panels == other.detector.panels
        np.testing.assert_array_equal(one.bad, other.bad)


def test_a_geometry_file_wins_over_the_header(files, pixels, tmp_path):
    path = files.write_cbf(tmp_path / "a.cbf", pixels, files.pilatus_comment(wavelength=1.0))
    frame = open_frames(path, parse_geometry(GEOM))[0]
    assert frame.photon_energy == 12400
    assert frame.detector.camera_length == 0.15
    assert [panel.name for panel in frame.detector.panels] == ["a", "b"]
    np.testing.assert_array_equal(frame.data, pixels)
    expected = pixels < 0
    expected[20:22] = True
    np.testing.assert_array_equal(frame.bad, expected)
    with pytest.warns(SfxlabWarning, match="header says 12398 eV, the geometry file 9000 eV, which is used"):
        frames = open_frames(path, parse_geometry(GEOM.replace("12.4 keV", "9 keV")))
    assert frames[0].photon_energy == 9000


def test_paths_in_a_geometry_file_mean_the_header(files, pixels, tmp_path):
    path = files.write_cbf(tmp_path / "a.cbf", pixels, files.pilatus_comment(0.9, 0.3))
    text = GEOM.replace("12.4 keV", "/LCLS/photon_energy_eV").replace("clen = 0.15", "clen = /LCLS/encoder mm")
    frame = open_frames(path, parse_geometry(text))[0]
    assert frame.photon_energy == pytest.approx(HC_EV_ANGSTROM / 0.9)
    assert frame.detector.camera_length == 0.3
    bare = files.write_tiff_stack(tmp_path / "a.tif", np.zeros((1, 40, 30), np.uint16))
    with pytest.raises(GeometryError, match=r"a\.tif: 'photon_energy' is to come from the header"):
        open_frames(bare, parse_geometry(text))
    with pytest.raises(GeometryError, match="no HDF5 path for 'detector_shift_x'"):
        open_frames(path, parse_geometry("detector_shift_x = /a/b m\n" + text))


def test_masks_of_their_own_files_apply_to_images(files, pixels, tmp_path):
    path = files.write_cbf(tmp_path / "a.cbf", pixels)
    mask = np.zeros(pixels.shape, np.uint8)
    mask[1, 2] = 1
    with h5py.File(tmp_path / "mask.h5", "w") as file:
        file["mask"] = mask
    text = f"mask0_data = /mask\nmask0_file = {tmp_path / 'mask.h5'}\nmask0_badbits = 1\n" + GEOM
    bad = open_frames(path, parse_geometry(text))[0].bad
    assert bad[1, 2] == 1
    assert bad[1, 3] == 0
    with pytest.warns(SfxlabWarning, match="an image file holds no mask"):
        open_frames(path, parse_geometry("mask0_data = /mask\nmask0_badbits = 1\n" + GEOM))


def test_smv_images_are_read_with_mosflm_s_beam_centre(files, tmp_path):
    counts = np.arange(40 * 30, dtype=np.uint16).reshape(40, 30)
    path = files.write_smv(tmp_path / "still_001.img", counts)
    with pytest.warns(SfxlabWarning, match=r"still_001\.img: BEAM_CENTER_X is taken along the slow axis"):
        frames = open_frames(path)
    frame = frames[0]
    np.testing.assert_array_equal(frame.data, counts)
    assert frame.photon_energy == pytest.approx(HC_EV_ANGSTROM / 0.979)
    assert frame.detector.camera_length == 0.15
    position = frame.detector.positions(np.zeros(1, int), np.array([10.0]), np.array([20.0]))
    np.testing.assert_allclose(position, [[0, 0, 0.15]], atol=1e-12)


def test_a_stack_of_images_is_one_frame_each(files, tmp_path):
    stack = np.random.default_rng(1).integers(0, 60000, (4, 40, 30)).astype(np.uint16)
    files.write_tiff_stack(tmp_path / "a.tif", stack)
    files.write_tiff_stack(tmp_path / "b.tif", stack[:1])
    frames = open_frames(str(tmp_path / "*.tif"), parse_geometry(GEOM))
    assert [frames.identity(i).event for i in range(5)] == ["//0", "//1", "//2", "//3", "//"]
    for frame, expected in zip(frames, [*stack, stack[0]], strict=True):
        np.testing.assert_array_equal(frame.data, expected)
    (tmp_path / "some.lst").write_text("a.tif //2\nb.tif //\na.tif //0\n")
    some = open_frames(tmp_path / "some.lst", parse_geometry(GEOM))
    assert [str(some.identity(i)).rsplit("/", 3)[-3:] for i in range(3)] == [
        ["a.tif ", "", "2"], ["b.tif ", "", ""], ["a.tif ", "", "0"],
    ]  # fmt: skip
    np.testing.assert_array_equal(some[0].data, stack[2])
    (tmp_path / "some.lst").write_text("a.tif //4\n")
    with pytest.raises(InputError, match=r"some\.lst, line 1: the list names an event[\s\S]*//0 to //3 of .*a\.tif"):
        open_frames(tmp_path / "some.lst", parse_geometry(GEOM))


def test_frames_are_numbered_sliced_and_pickled(files, pixels, tmp_path):
    for number in range(6):
        files.write_cbf(tmp_path / f"{number}.cbf", pixels + number)
    frames = open_frames(tmp_path)
    some = pickle.loads(pickle.dumps(frames[1:6:2]))
    assert [frame.index for frame in some] == [1, 3, 5]
    np.testing.assert_array_equal(some[-1].data, pixels + 5)
    assert [frame.index for frame in frames[::-1][:2]] == [5, 4]
    assert [Path(p).name for p in some.paths] == ["1.cbf", "3.cbf", "5.cbf"]
    assert len(frames[3:3]) == 0
    with pytest.raises(IndexError):
        some[3]


def test_of_ten_thousand_images_one_is_opened_beforehand(files, pixels, tmp_path, monkeypatch):
    first = files.write_cbf(tmp_path / "00000.cbf", pixels)
    for number in range(1, 10000):
        os.link(first, tmp_path / f"{number:05d}.cbf")
    opened = []
    read = images_module.read_image
    monkeypatch.setattr(images_module, "read_image", lambda path, *rest: opened.append(path) or read(path, *rest))
    frames = open_frames(str(tmp_path / "*.cbf"))
    assert len(frames) == 10000
    assert opened == [str(first)]
    assert frames[9999].id.path.endswith("09999.cbf")


def test_a_damaged_image_is_the_failure_of_its_frame_only(files, pixels, tmp_path):
    whole = files.write_cbf(tmp_path / "1.cbf", pixels).read_bytes()
    (tmp_path / "0.cbf").write_bytes(whole[:-5000])
    (tmp_path / "2.cbf").write_bytes(whole[:700])
    middle = whole.index(b"\x0c\x1a\x04\xd5") + 200
    (tmp_path / "3.cbf").write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    (tmp_path / "4.cbf").write_bytes(b"")
    (tmp_path / "5.cbf").write_text("<html>not found</html>")
    files.write_cbf(tmp_path / "6.cbf", pixels[:20])
    files.write_cbf(tmp_path / "7.cbf", pixels)
    frames = open_frames(tmp_path)
    for number in range(8):
        if number in (1, 7):
            np.testing.assert_array_equal(frames[number].data, pixels)
            continue
        with pytest.raises(FrameError, match=rf"{number}\.cbf, frame //: [\s\S]*found:"):
            frames[number]
    with pytest.raises(InputError, match=r"2\.cbf: the image cannot be read\n.*header without pixels"):
        open_frames(tmp_path / "2.cbf")


def test_a_truncated_smv_or_tiff_is_said_to_be_so(files, pixels, tmp_path):
    whole = files.write_smv(tmp_path / "a.img", abs(pixels).astype(np.uint16)).read_bytes()
    (tmp_path / "a.img").write_bytes(whole[:-1001])
    whole = files.write_pilatus_tiff(tmp_path / "b.tif", pixels).read_bytes()
    (tmp_path / "b.tif").write_bytes(whole[:-1001])
    for name in ("a.img", "b.tif"):
        with pytest.raises(InputError, match=rf"{name}: the image cannot be read"):
            open_frames(tmp_path / name, parse_geometry(GEOM))


@pytest.mark.parametrize(
    ("comment", "found"),
    [
        ("# Pixel_size 172e-6 m x 172e-6 m\n", "no distance, no wavelength, no beam centre"),
        (None, "a detector swung out by 5.0°"),
    ],
)
def test_without_a_complete_header_a_geometry_file_is_asked_for(files, pixels, tmp_path, comment, found):
    path = files.write_cbf(tmp_path / "a.cbf", pixels, comment or files.pilatus_comment(two_theta=5.0))
    with pytest.raises(GeometryError, match=rf"a\.cbf: the header .* does not say[\s\S]*{found}[\s\S]*-g FILE\.geom"):
        open_frames(path)


def test_a_geometry_for_another_detector_is_refused(files, pixels, tmp_path):
    path = files.write_cbf(tmp_path / "a.cbf", pixels[:30])
    with pytest.raises(GeometryError, match=r"a\.cbf: the image does not suit the geometry[\s\S]*40 × 30"):
        open_frames(path, parse_geometry(GEOM))


def test_images_and_hdf5_files_are_not_mixed(files, pixels, make_cxi, tmp_path):
    path = files.write_cbf(tmp_path / "a.cbf", pixels)
    with pytest.raises(InputError, match="the inputs are of different kinds"):
        open_frames([path, make_cxi()])
    with pytest.raises(InputError, match="the directory has HDF5 files and images"):
        open_frames(tmp_path)


def test_the_geometry_of_a_header_can_be_written(files, pixels, tmp_path):
    frames = open_frames(files.write_cbf(tmp_path / "a.cbf", pixels))
    write_geometry(frames.geometry, tmp_path / "out.geom")
    assert (tmp_path / "out.geom").read_text() == frames.geometry_text


@pytest.mark.parametrize("suffix", [".gz", ".bz2"])
def test_compressed_images_are_read(files, pixels, tmp_path, suffix):
    content = files.write_cbf(tmp_path / "a.cbf", pixels).read_bytes()
    compress = {".gz": gzip.compress, ".bz2": bz2.compress}[suffix]
    (tmp_path / f"a.cbf{suffix}").write_bytes(compress(content))
    np.testing.assert_array_equal(open_frames(tmp_path / f"a.cbf{suffix}")[0].data, pixels)
    (tmp_path / f"a.cbf{suffix}").write_bytes(compress(content)[:-100])
    with pytest.raises(InputError, match="the image cannot be read"):
        open_frames(tmp_path / f"a.cbf{suffix}")


def test_images_are_read_from_a_web_server(files, pixels, tmp_path, monkeypatch, mockdata):
    monkeypatch.setenv("SFXLAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "run").mkdir()
    for number in range(2):
        files.write_cbf(tmp_path / "run" / f"{number}.cbf", pixels + number)
    with mockdata("file_server").serving(tmp_path / "run") as server:
        frames = open_frames([f"{server.address}/{number}.cbf" for number in range(2)])
        assert [frame.id.path for frame in frames] == [f"{server.address}/{number}.cbf" for number in range(2)]
        np.testing.assert_array_equal(frames[1].data, pixels + 1)
        with pytest.raises(InputError, match=r"none\.cbf"):
            open_frames(f"{server.address}/none.cbf")


def test_a_run_opens_its_images_again(files, pixels, tmp_path):
    for number in range(2):
        files.write_cbf(tmp_path / f"{number}.cbf", pixels + number, files.pilatus_comment(1 + 0.01 * number))
    frames = open_frames(tmp_path)
    run = process(frames, Recipe(), output=tmp_path / "run", inputs=[str(tmp_path / "*.cbf")], progress=None)
    assert run.counts.frames == 2
    assert run.counts.failed == 0
    for frame, again in zip(frames, run.open_frames(), strict=True):
        assert again.photon_energy == frame.photon_energy
        np.testing.assert_array_equal(again.data, frame.data)
