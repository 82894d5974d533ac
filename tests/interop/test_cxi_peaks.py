"""Peak lists in CXI files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from sfxlab.errors import OutputExistsError, RunError
from sfxlab.frames import FrameId
from sfxlab.geometry import Detector
from sfxlab.interop.cxi_peaks import write_peaks
from sfxlab.peaks import Peaks
from sfxlab.pipeline import FrameResult

MakeResult = Callable[..., FrameResult]


@pytest.fixture
def make_result() -> MakeResult:
    """`make_result(number, (panel, fs, ss, intensity), …)`."""

    def make(number: int, *peaks: tuple[int, float, float, float]) -> FrameResult:
        zeros = {f.name: np.zeros(len(peaks), np.float32) for f in fields(Peaks)}
        columns = np.array(peaks, dtype=np.float32).reshape(-1, 4).T
        named = dict(zip(("panel", "fs", "ss", "intensity"), columns, strict=True))
        named["panel"] = named["panel"].astype(np.int16)
        return FrameResult(FrameId("/data/a.cxi", f"//{number}"), number, "hit", peaks=Peaks(**zeros | named))

    return make


def test_coordinates_count_pixels_from_0_in_the_array_of_the_file(
    make_result: MakeResult, detector: Detector, tmp_path: Path
) -> None:
    left, right = detector.panels
    # In this file the right panel begins at row 1000, column 7.
    detector = replace(detector, panels=(left, replace(right, file_fs=7, file_ss=1000)))
    results = [
        make_result(0, (0, 0.5, 0.5, 100), (1, right.column + 0.5, right.row + 0.5, 50), (1, 300.25, 20.75, 10)),
        make_result(1),
        make_result(2, (0, 10.0, 20.5, 30)),
    ]
    write_peaks(tmp_path / "peaks.cxi", results, detector)
    with h5py.File(tmp_path / "peaks.cxi") as file:
        group = {name: dataset[()] for name, dataset in file["/entry_1/result_1"].items()}
    assert group["nPeaks"].tolist() == [3, 0, 1]
    assert group["peakXPosRaw"].tolist() == [[0, 7, 300.25 - 256.5 + 7], [0, 0, 0], [9.5, 0, 0]]
    assert group["peakYPosRaw"].tolist() == [[0, 1000, 1020.25], [0, 0, 0], [20, 0, 0]]
    assert group["peakTotalIntensity"].tolist() == [[100, 50, 10], [0, 0, 0], [30, 0, 0]]
    assert group["frame_path"].tolist() == [b"/data/a.cxi"] * 3
    assert group["frame_event"].tolist() == [b"//0", b"//1", b"//2"]


def test_frames_without_any_peak_are_written(make_result: MakeResult, detector: Detector, tmp_path: Path) -> None:
    write_peaks(tmp_path / "peaks.cxi", [make_result(0), make_result(1)], detector)
    with h5py.File(tmp_path / "peaks.cxi") as file:
        assert file["/entry_1/result_1/nPeaks"][:].tolist() == [0, 0]


def test_a_file_is_replaced_only_when_asked_and_then_whole(
    make_result: MakeResult, detector: Detector, tmp_path: Path
) -> None:
    path = tmp_path / "peaks.cxi"
    path.write_text("mine")
    with pytest.raises(OutputExistsError, match=r"peaks\.cxi"):
        write_peaks(path, [make_result(0)], detector)
    assert path.read_text() == "mine"
    write_peaks(path, [make_result(0)], detector, overwrite=True)
    assert h5py.is_hdf5(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_named(make_result: MakeResult, detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no/peaks\.cxi: the peak file cannot be written"):
        write_peaks(tmp_path / "no" / "peaks.cxi", [make_result(0)], detector)
