"""Peaks that other programs have found."""

from __future__ import annotations

from dataclasses import fields

import h5py
import numpy as np
import pytest

from sfxlab.errors import InputError
from sfxlab.frames import open_frames
from sfxlab.geometry import parse_geometry
from sfxlab.interop.cxi_peaks import write_peaks
from sfxlab.interop.peak_lists import read_peaks
from sfxlab.peaks import Peaks
from sfxlab.pipeline import FrameResult

# Pixels of the CSPAD of 8 × 8 ASICs of 5 rows and 4 columns: x, y, intensity.
PEAKS = [
    [(0.0, 0.0, 100.0), (13.25, 21.5, 400.0), (31.0, 39.0, 50.0)],
    [],
    [(9.0, 12.0, 90.0)],
]


@pytest.fixture
def layouts(mockdata):
    return mockdata("facilities")


@pytest.fixture
def cspad(layouts, tmp_path):
    """Frames of a CXI file with Cheetah's peak list, no pixel of it bad."""
    path, text, _ = layouts.write_cspad(tmp_path)
    with h5py.File(path, "r+") as file:
        file["/entry_1/data_1/mask_shared"][...] = 0
    layouts.add_cheetah_peaks(path, PEAKS)
    return open_frames(path, parse_geometry(text))


def test_cxi_lists_are_read_row_by_row(cspad):
    for frame, expected in zip(cspad, PEAKS, strict=True):
        peaks = read_peaks(frame)
        found = sorted(zip(peaks.fs.tolist(), peaks.ss.tolist(), peaks.intensity.tolist(), strict=True))
        assert found == [(x + 0.5, y + 0.5, intensity) for x, y, intensity in expected]
        np.testing.assert_array_equal(peaks.snr, peaks.intensity / 10)
        np.testing.assert_array_equal(peaks.sigma, np.full(len(expected), 10))
        np.testing.assert_array_equal(peaks.max_value, peaks.intensity / 2)
        assert (peaks.n_pixels == 4).all()
        assert (np.diff(peaks.resolution) >= 0).all()
        # Panels of 4 columns and 5 rows, eight beside one another.
        np.testing.assert_array_equal(peaks.panel, (peaks.ss // 5) * 8 + peaks.fs // 4)
        q = frame.detector.q(peaks.panel, peaks.fs, peaks.ss, frame.photon_energy)
        np.testing.assert_allclose(peaks.resolution, np.linalg.norm(q, axis=1), rtol=1e-6)


def test_the_shift_by_half_a_pixel_can_be_left_out(cspad):
    peaks = read_peaks(cspad[2], half_pixel_shift=False)
    assert (peaks.fs.tolist(), peaks.ss.tolist()) == ([9.0], [12.0])


def test_peaks_on_bad_pixels_and_outside_are_left_out(layouts, tmp_path):
    path, text, exposures = layouts.write_cspad(tmp_path)
    bad_row, bad_column = np.argwhere(exposures[0].bad)[0]
    row, column = np.argwhere(~exposures[0].bad)[0]
    listed = [(bad_column, bad_row, 10.0), (column, row, 20.0), (32.0, 0.0, 30.0), (np.nan, 2.0, 40.0)]
    layouts.add_cheetah_peaks(path, [listed, [], []])
    peaks = read_peaks(open_frames(path, parse_geometry(text))[0])
    assert peaks.intensity.tolist() == [20]


def test_what_write_peaks_writes_is_read_back(layouts, tmp_path):
    path, text, _ = layouts.write_two_detectors(tmp_path)
    with h5py.File(path, "r+") as file:
        for number in (1, 2):
            file[f"/entry_1/instrument_1/detector_{number}/mask"][...] = 0
        # Coordinates of the two arrays would be ambiguous.
        del file["/entry_1/instrument_1/detector_2"]
    text = "\n".join(line for line in text.splitlines() if not line.startswith("back") and "data_2" not in line)
    frames = open_frames(path, parse_geometry(text))
    with h5py.File(path, "r+") as file:
        file["/list"] = np.array([[3.0, 4.0, 50.0], [7.0, 9.0, 200.0]])
    results = [FrameResult(frame.id, frame.index, "hit", peaks=read_peaks(frame, "/list")) for frame in frames]
    # In another order than in the file: frames are found by their names.
    write_peaks(tmp_path / "peaks.cxi", results[::-1], frames.detector)
    for frame, result in zip(frames, results, strict=True):
        again = read_peaks(frame, file=tmp_path / "peaks.cxi")
        for name in ("panel", "fs", "ss", "intensity", "resolution"):
            np.testing.assert_array_equal(getattr(again, name), getattr(result.peaks, name))
    write_peaks(tmp_path / "fewer.cxi", results[:1], frames.detector)
    with pytest.raises(InputError, match=r"fewer\.cxi.*nPeaks: the peak list has no row for this frame"):
        read_peaks(frames[1], file=tmp_path / "fewer.cxi")


def test_list3_belongs_to_each_frame_of_single_frame_files(layouts, tmp_path):
    path, text, exposures = layouts.write_sacla(tmp_path)
    good = [np.argwhere(~exposure.bad)[:2] for exposure in exposures]
    with h5py.File(path, "r+") as file:
        for exposure, pixels in zip(exposures, good, strict=True):
            listed = np.column_stack([pixels[:, 1], pixels[:, 0], [100, 200]]).astype(np.float32)
            file[f"{exposure.event.removesuffix('//')}/peaks"] = listed
    for frame, pixels in zip(open_frames(path, parse_geometry(text)), good, strict=True):
        peaks = read_peaks(frame, "/%/peaks")
        assert sorted(zip(peaks.ss, peaks.fs, strict=True)) == [(row + 0.5, column + 0.5) for row, column in pixels]
        pixels = peaks.ss.astype(int), peaks.fs.astype(int)
        np.testing.assert_array_equal(peaks.max_value, frame.data[pixels].astype(np.float32))
        # Ten units a photon: the standard error of counting is √(10 × intensity).
        np.testing.assert_allclose(peaks.sigma, np.sqrt(10 * peaks.intensity), rtol=1e-6)
        np.testing.assert_allclose(peaks.snr, peaks.intensity / peaks.sigma, rtol=1e-6)


def test_list3_can_be_one_array_of_all_frames(cspad, tmp_path):
    stacked = np.zeros((3, 5, 3))
    stacked[1, :2] = [[4, 4, 100], [5, 5, 60]]
    with h5py.File(tmp_path / "peaks.h5", "w") as file:
        file["/peakinfo"] = stacked
    counts = [len(read_peaks(frame, "/peakinfo", tmp_path / "peaks.h5")) for frame in cspad]
    assert counts == [0, 2, 0]


def test_a_list_that_does_not_tell_modules_apart_is_refused(layouts, tmp_path):
    path, text, _ = layouts.write_scans(tmp_path)
    with h5py.File(tmp_path / "list.h5", "w") as file:
        file["list"] = np.array([[1.0, 1.0, 10.0]])
    with pytest.raises(InputError, match=r"list\.h5, /list: the peak list does not tell on which module"):
        read_peaks(open_frames(path, parse_geometry(text))[0], "/list", tmp_path / "list.h5")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda file: None, "the file has no peak list"),
        (lambda file: file.create_group("p"), "this is no CXI peak list\n  found:    no nPeaks, no peakXPosRaw"),
        (lambda file: file.create_dataset("p", data=np.zeros((3, 2))), "this is no list3 of peaks"),
        (lambda file: file.create_dataset("p", data="text"), "this is no list3 of peaks"),
        (lambda file: _cxi_list(file, [9, 0, 0], (3, 8)), "does not fit its number of peaks"),
        (lambda file: _cxi_list(file, [], (3, 8)), "has no row for this frame"),
        (lambda file: _cxi_list(file, [-1, 0, 0], (3, 8)), "does not fit its number of peaks"),
    ],
)
def test_damaged_lists_are_described(layouts, tmp_path, make, message):
    path, text, _ = layouts.write_cspad(tmp_path)
    with h5py.File(tmp_path / "list.h5", "w") as file:
        make(file)
    with pytest.raises(InputError, match=rf"list\.h5, /p.*: .*{message}"):
        read_peaks(open_frames(path, parse_geometry(text))[0], "/p", tmp_path / "list.h5")


def _cxi_list(file: h5py.File, counts: list[int], shape: tuple[int, int]) -> None:
    group = file.create_group("p")
    group["nPeaks"] = np.array(counts, dtype=np.int64)
    for name in ("peakXPosRaw", "peakYPosRaw", "peakTotalIntensity"):
        group[name] = np.zeros(shape)


def _random_peaks(frame, seed):
    """Peaks on 20 good pixels of all panels, with every column filled, in order of resolution."""
    rng = np.random.default_rng(seed)
    detector = frame.detector
    chosen = rng.permutation(np.argwhere((frame.bad == 0) & (detector.panel_map >= 0)))[:20]
    panel = detector.panel_map[chosen[:, 0], chosen[:, 1]]
    fs, ss = (chosen[:, 1] + rng.random(20)).astype(np.float32), (chosen[:, 0] + rng.random(20)).astype(np.float32)
    intensity, sigma = rng.uniform(50, 5000, (2, 20)).astype(np.float32)
    peaks = Peaks(
        panel, fs, ss, intensity, sigma, rng.uniform(4, 90, 20).astype(np.float32),
        np.linalg.norm(detector.q(panel, fs, ss, frame.photon_energy), axis=1).astype(np.float32),
        rng.uniform(50, 5000, 20).astype(np.float32), rng.integers(1, 20, 20).astype(np.int16),
    )  # fmt: skip
    return peaks[np.argsort(peaks.resolution, kind="stable")]


@pytest.mark.parametrize("layout", ["write_scans", "write_cspad", "write_two_detectors"])
def test_peaks_of_any_layout_are_the_same_once_saved_and_read_back(layouts, tmp_path, layout):
    path, text, _ = getattr(layouts, layout)(tmp_path)
    frames = open_frames(path, parse_geometry(text))
    results = [FrameResult(f.id, f.index, "hit", peaks=_random_peaks(f, f.index)) for f in frames]
    assert all(len(set(result.peaks.panel)) > 1 for result in results)
    write_peaks(tmp_path / "peaks.cxi", results, frames.detector)
    for frame, result in zip(frames, results, strict=True):
        again = read_peaks(frame, file=tmp_path / "peaks.cxi")
        assert len(again) == 20
        for field in fields(Peaks):
            found, expected = getattr(again, field.name), getattr(result.peaks, field.name)
            np.testing.assert_allclose(found, expected, rtol=3e-7, atol=6e-8, err_msg=field.name)


def test_a_list_of_stacked_modules_says_where_in_the_stack_a_peak_is(layouts, tmp_path):
    path, text, _ = layouts.write_scans(tmp_path)
    frames = open_frames(path, parse_geometry(text))
    peaks = _random_peaks(frames[0], 0)
    write_peaks(tmp_path / "peaks.cxi", [FrameResult(frames[0].id, 0, "hit", peaks=peaks)], frames.detector)
    with h5py.File(tmp_path / "peaks.cxi") as file:
        group = file["/entry_1/result_1"]
        module = group["peakModule"]
        # Modules of 4 rows and 5 columns, two in a stack.
        np.testing.assert_array_equal(module[0], peaks.panel)
        np.testing.assert_array_equal(group["peakYPosRaw"][0], peaks.ss - np.float32(0.5))
        assert (np.floor(group["peakYPosRaw"][0] + 0.5) // 4 == module[0]).all()
        assert module.attrs["first_panel"].tolist() == ["m0", "m1"]
        assert module.attrs["first_row"].tolist() == [0, 4]


def test_a_list_of_stacked_modules_can_be_used_with_a_geometry_of_the_slab(layouts, tmp_path):
    path, text, exposures = layouts.write_scans(tmp_path)
    stacked = open_frames(path, parse_geometry(text))[0]
    peaks = _random_peaks(stacked, 0)
    write_peaks(tmp_path / "peaks.cxi", [FrameResult(stacked.id, 0, "hit", peaks=peaks)], stacked.detector)
    with h5py.File(tmp_path / "peaks.cxi", "r+") as file:
        # Other programs find the frame by its number, not by its name.
        del file["/entry_1/result_1/frame_path"]
        file["/data"], file["/mask"] = exposures[0].data[None], exposures[0].bad[None]
    slab = f"""photon_energy = {stacked.photon_energy}
clen = 0.1
res = 10000
data = /data
mask0_data = /mask
mask0_badbits = 1
dim0 = %
dim1 = ss
dim2 = fs
""" + layouts.panels(["m0", "m1"], 4, 5)
    again = read_peaks(open_frames(tmp_path / "peaks.cxi", parse_geometry(slab))[0])
    by_place = np.lexsort((peaks.fs, peaks.ss))
    again = again[np.lexsort((again.fs, again.ss))]
    for name in ("panel", "fs", "ss"):
        np.testing.assert_allclose(getattr(again, name), getattr(peaks[by_place], name), rtol=3e-7, atol=6e-8)


def test_a_list_of_another_slab_is_refused(layouts, tmp_path):
    path, text, _ = layouts.write_scans(tmp_path)
    frame = open_frames(path, parse_geometry(text))[0]
    write_peaks(
        tmp_path / "peaks.cxi", [FrameResult(frame.id, 0, "hit", peaks=_random_peaks(frame, 0))], frame.detector
    )
    first, _, second = text.partition("dim1 = 1")
    top = first[: first.index("m0/")].replace("dim1 = 0", "")
    swapped = f"{top}dim1 = 1\n{second}dim1 = 0\n{first[first.index('m0/') :]}"
    with pytest.raises(InputError, match=r"another slab\n +found: +2 arrays: m0 from row 0, m1 from row 4\n"):
        read_peaks(open_frames(path, parse_geometry(swapped))[0], file=tmp_path / "peaks.cxi")


def test_lists_of_programs_that_know_slabs_only_are_taken_for_what_they_are(layouts, tmp_path):
    path, text, exposures = layouts.write_scans(tmp_path)
    row, column = np.argwhere(~exposures[0].bad[:4])[0]
    h5py.File(tmp_path / "list.h5", "w").close()
    # The other frame has a peak in the lower module, which is what shows that coordinates are the slab's.
    layouts.add_cheetah_peaks(tmp_path / "list.h5", [[(column, row, 10.0)], [(0.0, 6.0, 20.0)]])
    frame = open_frames(path, parse_geometry(text))[0]
    peaks = read_peaks(frame, file=tmp_path / "list.h5")
    assert (peaks.fs.tolist(), peaks.ss.tolist()) == ([column + 0.5], [row + 0.5])
