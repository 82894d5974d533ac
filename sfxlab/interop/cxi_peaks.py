"""Peak lists in CXI files, as Cheetah, OnDA and CrystFEL exchange them (METHODS.md section 1.4)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from sfxlab.errors import OutputExistsError, RunError
from sfxlab.geometry import Detector
from sfxlab.pipeline import FrameResult


def write_peaks(
    path: str | Path, results: Sequence[FrameResult], detector: Detector, *, overwrite: bool = False
) -> None:
    """Write one row a frame to `/entry_1/result_1`; the file appears whole or not at all.

    `nPeaks` (frames,), `peakXPosRaw`, `peakYPosRaw` and `peakTotalIntensity` (frames, most peaks): pixel numbers in the
    file's own array (for modules in a stack, in the module's), the centre of the first pixel being 0, and ADU.
    `frame_path` and `frame_event` name the frames.

    Raises `OutputExistsError` where the file exists and `overwrite` is false, `RunError` where it cannot be written.
    """
    target = Path(path)
    if target.exists() and not overwrite:
        raise OutputExistsError("the peak file exists", path=target, remedy="remove it or choose another name")
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    counts = np.array([len(result.peaks) for result in results], dtype=np.int32)
    shape = (len(results), max(int(counts.max(initial=0)), 1))
    x, y, total = (np.zeros(shape, dtype=np.float32) for _ in range(3))
    for row, result in enumerate(results):
        peaks = result.peaks
        panels = [detector.panels[i] for i in peaks.panel]
        fs_offset = np.array([p.file_fs - p.column - 0.5 for p in panels], dtype=np.float32)
        ss_offset = np.array([p.file_ss - p.row - 0.5 for p in panels], dtype=np.float32)
        x[row, : len(peaks)] = peaks.fs + fs_offset
        y[row, : len(peaks)] = peaks.ss + ss_offset
        total[row, : len(peaks)] = peaks.intensity
    try:
        with h5py.File(aside, "w") as file:
            group = file.create_group("/entry_1/result_1")
            group["nPeaks"] = counts
            for name, values in (("peakXPosRaw", x), ("peakYPosRaw", y), ("peakTotalIntensity", total)):
                group.create_dataset(name, data=values, compression="gzip", shuffle=True)
            group["frame_path"] = [result.id.path for result in results]
            group["frame_event"] = [result.id.event for result in results]
        os.replace(aside, target)
    except OSError as error:
        raise RunError("the peak file cannot be written", path=target, found=error) from error
    finally:
        aside.unlink(missing_ok=True)
