"""Peak lists in CXI files, as Cheetah, OnDA and CrystFEL exchange them (METHODS.md section 1.4).

Of frames that are one array (ss × fs), coordinates count pixels of that array. Where several arrays make a frame (an
axis of modules, two detectors) these would be ambiguous: coordinates are then those of the slab, in which the arrays
follow one another along ss, and CrystFEL can use the list with a geometry of that slab. `peakModule` names the array.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import OutputExistsError
from sfxlab.geometry import Detector, Panel
from sfxlab.peaks import Peaks
from sfxlab.pipeline import FrameResult
from sfxlab.whole_files import written_aside

CXI_PEAKS = "/entry_1/result_1"
PEAK_COLUMNS = {
    "peakXPosRaw": "fs", "peakYPosRaw": "ss", "peakTotalIntensity": "intensity", "peakSNR": "snr",
    "peakMaximumValue": "max_value", "peakNPixels": "n_pixels", "peakSigma": "sigma",
}  # fmt: skip
"""Datasets of a list, and the columns of `Peaks` that they have."""
PEAK_MODULE = "peakModule"


@dataclass(frozen=True)
class Modules:
    """The arrays that make a slab, from its top."""

    of_panel: NDArray[np.int16]
    """Number of the array that each panel is in, (panels,)."""
    first_panel: tuple[str, ...]
    """Name of the first panel of each array."""
    first_row: tuple[int, ...]
    """Slab row where the panels of each begin."""

    @staticmethod
    def of(panels: Sequence[Panel]) -> Modules:
        """Those of the panels of a detector."""
        _, first, of_panel = np.unique([p.row - p.file_ss for p in panels], return_index=True, return_inverse=True)
        rows = np.array([p.row for p in panels])
        return Modules(
            of_panel.astype(np.int16),
            tuple(panels[i].name for i in first),
            tuple(int(rows[of_panel == number].min()) for number in range(len(first))),
        )

    def within(self, panels: Sequence[Panel]) -> Modules:
        """The same arrays in another slab, one with smaller panels."""
        rows = np.array([p.row for p in panels])
        first_row = tuple(int(rows[self.of_panel == number].min()) for number in range(len(self.first_row)))
        return Modules(self.of_panel, self.first_panel, first_row)


def listed_corners(panels: Sequence[Panel]) -> tuple[NDArray[np.int64], bool]:
    """Coordinates (fs, ss) of each panel's first pixel in a peak list, (panels, 2), and whether they are the slab's.

    Otherwise they are those of the file's array, which is where panels do not share any.
    """
    low = np.array([(p.file_fs, p.file_ss) for p in panels])
    high = low + [(p.columns, p.rows) for p in panels]
    overlap = ((low[:, None] < high) & (low < high[:, None])).all(axis=2)
    if np.count_nonzero(overlap) == len(panels):
        return low, False
    return np.array([(p.column, p.row) for p in panels]), True


def write_peaks(
    path: str | Path, results: Sequence[FrameResult], detector: Detector, *, overwrite: bool = False
) -> None:
    """Write one row a frame to `/entry_1/result_1`; the file appears whole or not at all.

    `nPeaks` (frames,); `peakXPosRaw` and `peakYPosRaw` (frames, most peaks): pixel numbers, the centre of the first
    pixel being 0; `peakTotalIntensity`, `peakSigma` and `peakMaximumValue` (ADU), `peakSNR`, `peakNPixels` and
    `peakModule`, the number of the array that a peak is in, from the top of the slab. Its attributes `first_panel` and
    `first_row` tell the arrays apart. `frame_path` and `frame_event` name the frames.

    Raises `OutputExistsError` where the file exists and `overwrite` is false, `RunError` where it cannot be written.
    """
    target = Path(path)
    if target.exists() and not overwrite:
        raise OutputExistsError("the peak file exists", path=target, remedy="remove it or choose another name")
    with written_aside(target, "the peak file cannot be written") as aside, h5py.File(aside, "x") as file:
        group = file.create_group(CXI_PEAKS)
        corners, _ = listed_corners(detector.panels)
        moved = corners - np.array([(p.column, p.row) for p in detector.panels])
        write_peak_table(group, [result.peaks for result in results], moved, Modules.of(detector.panels))
        group["frame_path"] = [result.id.path for result in results]
        group["frame_event"] = [result.id.event for result in results]


def write_peak_table(group: h5py.Group, peaks: Sequence[Peaks], moved: NDArray[np.integer], modules: Modules) -> None:
    """Write one row a frame; `moved` (panels, 2) is what to add to slab coordinates (fs, ss) on each panel."""
    group["nPeaks"] = np.array([len(found) for found in peaks], dtype=np.int32)
    shift = moved - 0.5
    for name, column in PEAK_COLUMNS.items():
        cells: Iterable[NDArray[Any]] = (getattr(found, column) for found in peaks)
        if column in ("fs", "ss"):
            axis = ("fs", "ss").index(column)
            cells = (getattr(found, column) + shift[found.panel, axis] for found in peaks)
        _write_rows(group, name, cells, len(peaks), np.int16 if column == "n_pixels" else np.float32)
    _write_rows(group, PEAK_MODULE, (modules.of_panel[found.panel] for found in peaks), len(peaks), np.int16)
    attributes = group[PEAK_MODULE].attrs
    attributes.create("first_panel", list(modules.first_panel), dtype=h5py.string_dtype())
    attributes["first_row"] = np.array(modules.first_row, dtype=np.int64)


def _write_rows(group: h5py.Group, name: str, rows: Iterable[NDArray[Any]], n_rows: int, dtype: Any) -> None:
    widest = max(int(group["nPeaks"][()].max(initial=0)), 1)
    cells = np.zeros((n_rows, widest), dtype=dtype)
    for number, values in enumerate(rows):
        cells[number, : len(values)] = values
    group.create_dataset(name, data=cells, **({"compression": "gzip", "shuffle": True} if cells.size else {}))
