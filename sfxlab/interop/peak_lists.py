"""Reading peaks that another program has found: CXI lists and `list3` (METHODS.md section 1.4)."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike, fspath
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import InputError
from sfxlab.frames import Frame
from sfxlab.frames.events import fill_placeholders, parse_event
from sfxlab.frames.hdf5_file import READ_ERRORS, OpenFiles, find_dataset, open_hdf5
from sfxlab.frames.virtual_data import VirtualArray
from sfxlab.geometry import Detector
from sfxlab.interop.cxi_peaks import CXI_PEAKS, PEAK_MODULE, Modules, listed_corners
from sfxlab.peaks import Peaks

Columns = dict[str, NDArray[np.float64]]
_CXI_COLUMNS = {"x": "peakXPosRaw", "y": "peakYPosRaw", "intensity": "peakTotalIntensity"}
_CXI_OPTIONAL = {"snr": "peakSNR", "max_value": "peakMaximumValue", "n_pixels": "peakNPixels", "sigma": "peakSigma"}
"""As Cheetah writes them besides, but for σ, which is our own."""
_ROWS_AT_ONCE = 1024


def read_peaks(
    frame: Frame,
    location: str = CXI_PEAKS,
    file: str | PathLike[str] | None = None,
    *,
    layout: Literal["auto", "cxi", "list3"] = "auto",
    half_pixel_shift: bool = True,
) -> Peaks:
    """The peaks of a frame as they stand in its own HDF5 file, or in `file`; in order of resolution.

    Parameters
    ----------
    location:
        HDF5 path of a group with `nPeaks`, `peakXPosRaw`, `peakYPosRaw` and `peakTotalIntensity` (`cxi`), a row a
        frame; or of an array (peaks, 3) of fs, ss and intensity (`list3`). `%` stands for the frame's own part. A CXI
        list that names its frames, as `write_peaks` does, is searched for this one.
    half_pixel_shift:
        Whether the centre of the first pixel is at 0 in the list, as most programs have it, not at 0.5.

    Coordinates are those of the data array. Where several arrays make a frame, they are those of the slab, of the same
    geometry as the frame's; a list that does not show that they are, and does not come from here, is refused.

    Peaks outside the panels and on bad pixels are left out. Where the list does not say, σ is that of counting
    (√(intensity × gain)), `max_value` the frame's own pixel and `n_pixels` 0. Raises `InputError` naming file and path.
    """
    path = fspath(file) if file is not None else frame.id.path
    tags, indices = parse_event(frame.id.event)
    place = fill_placeholders(location, tags)
    with open_hdf5(path) as opened:
        try:
            node = opened.get(place)
            if node is None:
                raise InputError(
                    "the file has no peak list", path=path, place=place, expected="a group or an array there",
                    remedy="give its HDF5 path, 'peak_list' of the geometry file",
                )  # fmt: skip
            is_cxi = isinstance(node, h5py.Group) if layout == "auto" else layout == "cxi"
            columns = _cxi(node, frame, indices) if is_cxi else _list3(node, indices)
            corners, of_slab = listed_corners(frame.detector.panels)
            if of_slab:
                _check_slab(node, frame, columns)
        except (*READ_ERRORS, TypeError) as error:
            raise InputError("the peak list cannot be read", path=path, place=place, found=str(error)) from error
    return _peaks(columns, frame, 0.5 if half_pixel_shift else 0.0, corners)


def _cxi(node: Any, frame: Frame, indices: tuple[int, ...]) -> Columns:
    """The columns of one frame of a CXI list."""
    path, place = node.file.filename, node.name
    missing = [
        name for name in ("nPeaks", *_CXI_COLUMNS.values()) if not isinstance(node, h5py.Group) or name not in node
    ]
    if missing:
        raise InputError(
            "this is no CXI peak list", path=path, place=place, found=f"no {', no '.join(missing)}",
            expected=f"a group with nPeaks, {', '.join(_CXI_COLUMNS.values())}",
        )  # fmt: skip
    wanted = _CXI_COLUMNS | {key: name for key, name in _CXI_OPTIONAL.items() if name in node}
    for name in ("nPeaks", *wanted.values()):
        _check_sources(find_dataset(node.file, f"{place}/{name}"))
    counts = np.atleast_1d(node["nPeaks"][()])
    row = _row(node, frame, indices)
    if row is None or not 0 <= row < len(counts):
        raise InputError(
            "the peak list has no row for this frame", path=path, place=f"{place}/nPeaks", found=f"{len(counts)} rows",
            expected=f"one for {frame.id.event}", remedy="is the list of this file's frames?",
        )  # fmt: skip
    return {key: _cells(node[name], row, int(counts[row])) for key, name in wanted.items()}


def _check_sources(dataset: h5py.Dataset) -> None:
    """HDF5 would give a fill value for what a file that is missing should have."""
    missing = VirtualArray(dataset, OpenFiles()).missing_files() if dataset.is_virtual else ()
    if missing:
        raise InputError(
            "a file that the peak list refers to is missing", path=dataset.file.filename, place=dataset.name,
            found=f"no {missing[0]}", expected="that file beside this one", remedy="copy it there",
        )  # fmt: skip


def _cells(dataset: h5py.Dataset, row: int, count: int) -> NDArray[np.float64]:
    """The first cells of a row."""
    if dataset.ndim == 2 and row < dataset.shape[0] and 0 <= count <= dataset.shape[1]:
        return np.asarray(dataset[row, :count], dtype=np.float64)
    raise InputError(
        "the peak list does not fit its number of peaks", path=dataset.file.filename, place=dataset.name,
        found=" × ".join(str(n) for n in dataset.shape), expected=f"{count} peaks or more in row {row}",
    )  # fmt: skip


def _row(node: h5py.Group, frame: Frame, indices: tuple[int, ...]) -> int | None:
    """The row of a frame: the one with its name, or else its index in the file."""
    if "frame_path" in node and "frame_event" in node:
        named = (node["frame_path"].asstr()[()] == frame.id.path) & (node["frame_event"].asstr()[()] == frame.id.event)
        return int(np.argmax(named)) if named.any() else None
    return {0: 0, 1: indices[0] if indices else 0}.get(len(indices))


def _list3(node: Any, indices: tuple[int, ...]) -> Columns:
    """Columns of an array (peaks, 3), or of one for each frame (frames, peaks, 3) filled up with zeros."""
    if isinstance(node, h5py.Dataset) and node.dtype.kind in "iuf" and node.shape and node.shape[-1] >= 3:
        if node.ndim == 2:
            return _three(node[()])
        if node.ndim == 3 and len(indices) == 1 and indices[0] < len(node):
            rows = node[indices[0]]
            return _three(rows[np.any(rows != 0, axis=1)])
    raise InputError(
        "this is no list3 of peaks", path=node.file.filename, place=node.name,
        found=f"{node.dtype} {' × '.join(map(str, node.shape))}" if isinstance(node, h5py.Dataset) else "a group",
        expected="numbers, peaks × 3: fs, ss, intensity",
    )  # fmt: skip


def _three(rows: NDArray[Any]) -> Columns:
    x, y, intensity = np.asarray(rows[:, :3], dtype=np.float64).T
    return {"x": x, "y": y, "intensity": intensity}


def _check_slab(node: Any, frame: Frame, columns: Columns) -> None:
    """Raise `InputError` where coordinates are not shown to be those of the frame's slab, made of several arrays."""
    panels = frame.detector.panels
    here = Modules.of(panels)
    module = node.get(PEAK_MODULE) if isinstance(node, h5py.Group) else None
    if module is not None and {"first_panel", "first_row"} <= module.attrs.keys():
        there = tuple(zip(module.attrs["first_panel"], module.attrs["first_row"].tolist(), strict=True))
        if there != tuple(zip(here.first_panel, here.first_row, strict=True)):
            raise InputError(
                "the peak list is of another slab", path=node.file.filename, place=node.name,
                found=_described(there), expected=_described(tuple(zip(here.first_panel, here.first_row, strict=True))),
                remedy="take the geometry file that the peaks were found with, or find them anew",
            )  # fmt: skip
        return
    # Programs that know slabs only, as Cheetah and OnDA do, list their coordinates without saying so.
    height, module_height = frame.detector.shape[0], max(p.file_ss + p.rows for p in panels)
    highest = float(np.max(columns["y"], initial=-np.inf, where=np.isfinite(columns["y"])))
    for rows in _all_rows(node):
        if highest >= module_height:
            break
        highest = max(highest, float(np.max(rows, initial=-np.inf, where=np.isfinite(rows))))
    if not module_height <= highest < height:
        raise InputError(
            "the peak list does not tell on which module a peak is", path=node.file.filename, place=node.name,
            found=f"coordinates along ss up to {highest:g}",
            expected=f"coordinates in the slab of all modules, of {height} rows", remedy="find the peaks anew",
        )  # fmt: skip


def _all_rows(node: Any) -> Iterator[NDArray[Any]]:
    """The coordinates along ss of a whole list, part by part."""
    if isinstance(node, h5py.Group):
        listed = node[_CXI_COLUMNS["y"]]
        yield from (listed[first : first + _ROWS_AT_ONCE] for first in range(0, len(listed), _ROWS_AT_ONCE))
    else:
        yield node[..., 1]


def _described(modules: tuple[tuple[str, int], ...]) -> str:
    """The arrays of a slab, in words."""
    words = [f"{name} from row {row}" for name, row in modules[:4]]
    return f"{len(modules)} arrays: {', '.join(words)}{', …' if len(modules) > 4 else ''}"


def _peaks(columns: Columns, frame: Frame, shift: float, corners: NDArray[np.int64]) -> Peaks:
    """The columns as peaks of the frame's detector."""
    panel, fs, ss = _on_panels(columns["x"] + shift, columns["y"] + shift, frame.detector, corners)
    on_panel = panel >= 0
    row, column = ss.astype(np.int64), fs.astype(np.int64)
    on_panel[on_panel] = frame.bad[row[on_panel], column[on_panel]] == 0
    panel, row, column = panel[on_panel], row[on_panel], column[on_panel]
    fs, ss = fs[on_panel], ss[on_panel]
    given = {key: values[on_panel] for key, values in columns.items()}
    gain = frame.detector.arrays.gain(frame.detector, frame.photon_energy)[panel]
    intensity = given["intensity"]
    counting = np.sqrt(np.maximum(intensity, gain) * gain)
    snr = given.get("snr", intensity / counting)
    sigma = given.get("sigma", np.divide(intensity, snr, out=counting.copy(), where=snr > 0))
    resolution = np.linalg.norm(frame.detector.q(panel, fs, ss, frame.photon_energy), axis=1)
    peaks = Peaks(
        panel=panel.astype(np.int16),
        fs=fs.astype(np.float32),
        ss=ss.astype(np.float32),
        intensity=intensity.astype(np.float32),
        sigma=sigma.astype(np.float32),
        snr=snr.astype(np.float32),
        resolution=resolution.astype(np.float32),
        max_value=given.get("max_value", frame.data[row, column]).astype(np.float32),
        n_pixels=given.get("n_pixels", np.zeros(len(fs))).astype(np.int16),
    )
    return peaks[np.argsort(peaks.resolution, kind="stable")]


def _on_panels(
    x: NDArray[np.float64], y: NDArray[np.float64], detector: Detector, corners: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Panel (−1 where none) and slab coordinates of listed coordinates, each (n,); `corners` as `listed_corners`."""
    panel = np.full(len(x), -1)
    fs, ss = np.zeros(len(x)), np.zeros(len(x))
    for number, (p, (corner_x, corner_y)) in enumerate(zip(detector.panels, corners, strict=True)):
        in_x, in_y = x - corner_x, y - corner_y
        here = (in_x >= 0) & (in_x < p.columns) & (in_y >= 0) & (in_y < p.rows)
        panel[here], fs[here], ss[here] = number, in_x[here] + p.column, in_y[here] + p.row
    return panel, fs, ss
