"""Peaks that other programs have found."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from sfxlab.errors import InputError
from sfxlab.frames import open_frames
from sfxlab.geometry import parse_geometry
from sfxlab.interop.cxi_peaks import write_peaks
from sfxlab.interop.peak_lists import read_peaks
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
