"""Frames in CXI files: parts of a data set that are written apart, and one file that makes a whole of them.

The whole holds all small tables itself; pixels and the masks of single frames are virtual and stay in the parts.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from sfxlab.bad_pixels import LEARNED
from sfxlab.errors import RunError, SfxlabError
from sfxlab.frames import Frame, FrameSequence
from sfxlab.frames.hdf5_file import READ_ERRORS
from sfxlab.geometry import Geometry, Quantity
from sfxlab.geometry.geometry import MaskSource
from sfxlab.interop.cxi_peaks import CXI_PEAKS, PEAK_COLUMNS, PEAK_MODULE, Modules, write_peak_table
from sfxlab.interop.pixel_reduction import PixelReduction, reduced_peaks, reduced_pixels, reduced_saturation
from sfxlab.peaks import Peaks
from sfxlab.pipeline import FrameResult
from sfxlab.whole_files import written_aside

DATA, MASK, SATURATION = (f"/entry_1/data_1/{name}" for name in ("data", "mask", "saturation"))
PHOTON_ENERGY = "/entry_1/instrument_1/source_1/photon_energy"
IDENTIFIER = "/entry_1/experiment_identifier"
FRAME_NUMBER = "/entry_1/frame_number"
CAMERA_LENGTH, SHIFT_X, SHIFT_Y = (
    f"/entry_1/instrument_1/detector_1/{name}" for name in ("camera_length", "shift_x", "shift_y")
)
UNREADABLE = "/entry_1/unreadable"
_TEXT = h5py.string_dtype()
_TABLES: dict[str, tuple[Any, str]] = {
    PHOTON_ENERGY: (np.float64, "eV"), CAMERA_LENGTH: (np.float64, "m"),
    SHIFT_X: (np.float64, "m"), SHIFT_Y: (np.float64, "m"),
    FRAME_NUMBER: (np.int64, ""), IDENTIFIER: (_TEXT, ""),
    f"{UNREADABLE}/frame_number": (np.int64, ""), f"{UNREADABLE}/experiment_identifier": (_TEXT, ""),
    f"{UNREADABLE}/reason": (_TEXT, ""),
}  # fmt: skip
"""HDF5 paths of tables with one value a frame, their types and units."""
_CAMERA_LENGTH_DIGITS = 7
"""As frames are read (`Hdf5Frames`)."""
_BITSHUFFLE: dict[str, Any] = dict(hdf5plugin.Bitshuffle(cname="lz4"))


def geometry_of_parts(geometry: Geometry) -> Geometry:
    """The geometry of frames as they are written: one array, all that makes a pixel bad in a mask, one saturation map.

    Numbers for the whole data set stay; what differs from frame to frame is looked up in the tables of the file.
    """
    saturation_map = SATURATION if _has_saturation_map(geometry) else None
    panels = tuple(
        replace(
            source, data=DATA, dims=("%", "ss", "fs"), masks=(MaskSource(0, MASK, bad_bits=0xFF),), flags=(),
            no_index=False, mask_edge_pixels=0, saturation_map=saturation_map, saturation_map_file=None,
            panel=replace(source.panel, file_fs=source.panel.column, file_ss=source.panel.row),
        )
        for source in geometry.panels
    )  # fmt: skip
    return replace(
        geometry,
        panels=panels,
        photon_energy=Quantity("photon_energy", PHOTON_ENERGY, "eV"),
        camera_length=_tabulated(geometry.camera_length, CAMERA_LENGTH),
        detector_shift_x=geometry.detector_shift_x and _tabulated(geometry.detector_shift_x, SHIFT_X),
        detector_shift_y=geometry.detector_shift_y and _tabulated(geometry.detector_shift_y, SHIFT_Y),
        bad_regions=(),
        peak_list=CXI_PEAKS,
        peak_list_type="cxi",
        text="",
        path=None,
    )


def _has_saturation_map(geometry: Geometry) -> bool:
    return any(source.saturation_map is not None for source in geometry.panels)


def _tabulated(quantity: Quantity, table: str) -> Quantity:
    return quantity if isinstance(quantity.value, float) else Quantity(quantity.key, table, "m")


def write_part(
    path: Path,
    results: Iterable[FrameResult],
    frames: FrameSequence,
    geometry: Geometry,
    reduction: PixelReduction,
    origin: str,
) -> None:
    """Write the frames that have these results, one frame a chunk; the file appears whole or not at all.

    `results` are of frames of `frames`, which knows them by their numbers; `geometry` is that of the reduced slab.
    Frames that cannot be read are listed in the file with the reason. Raises `RunError` where it cannot be written.
    """
    tables: dict[str, list[Any]] = {name: [] for name in _TABLES}
    peaks: list[Peaks] = []
    masks: set[bytes] = set()
    with written_hdf5(path) as file:
        saturation = _SaturationMaps(file)
        file.attrs.update(origin=origin, reduction=str(reduction))
        for result in results:
            name = str(result.id)
            try:
                frame = frames[frames.numbers.index(result.index)]
            except SfxlabError as error:
                reason = "; ".join(str(error).splitlines())
                row = {"frame_number": result.index, "experiment_identifier": name, "reason": reason}
                for key, value in row.items():
                    tables[f"{UNREADABLE}/{key}"].append(value)
                continue
            data, bad = reduced_pixels(frame, reduction, geometry)
            _append(file, DATA, data)
            _append(file, MASK, bad)
            masks.add(hashlib.blake2b(bad.tobytes()).digest())
            if _has_saturation_map(geometry):
                saturation.append(reduced_saturation(frame, reduction, geometry), geometry.shape)
            for key, value in _row(frame, frames.geometry, result.index, name).items():
                tables[key].append(value)
            peaks.append(reduced_peaks(result.peaks, frames.geometry, geometry, reduction))
        for key, values in tables.items():
            dtype, unit = _TABLES[key]
            table = file.create_dataset(key, (len(values),), dtype, data=values)
            if unit:
                table.attrs["units"] = unit
        nominal = [source.panel for source in geometry.panels]
        modules = Modules.of([source.panel for source in frames.geometry.panels]).within(nominal)
        write_peak_table(file.create_group(CXI_PEAKS), peaks, np.zeros((len(nominal), 2), dtype=np.int64), modules)
        file.attrs["one_mask"] = len(masks) <= 1


def _row(frame: Frame, geometry: Geometry, number: int, name: str) -> dict[str, Any]:
    """The frame's values in the tables."""
    first, nominal = frame.detector.panels[0].corner, geometry.panels[0].panel.corner
    x, y, z = (there - without for there, without in zip(first, nominal, strict=True))
    return {
        PHOTON_ENERGY: frame.photon_energy, CAMERA_LENGTH: round(z, _CAMERA_LENGTH_DIGITS), SHIFT_X: x, SHIFT_Y: y,
        FRAME_NUMBER: number, IDENTIFIER: name,
    }  # fmt: skip


def _append(file: h5py.File, path: str, image: NDArray[Any]) -> None:
    """Add an image to a stack, which takes a wider type where that is needed."""
    stack = file.get(path)
    if stack is None:
        stack = _new_stack(file, path, image)
    elif not np.can_cast(image.dtype, stack.dtype):
        file.move(path, f"{path}_before")
        before = file[f"{path}_before"]
        stack = _new_stack(file, path, image.astype(np.result_type(image.dtype, before.dtype)), len(before))
        for number in range(len(before)):
            stack[number] = before[number]
        del file[f"{path}_before"]
    stack.resize(len(stack) + 1, axis=0)
    stack[-1] = image


def _new_stack(file: h5py.File, path: str, image: NDArray[Any], length: int = 0) -> h5py.Dataset:
    return file.create_dataset(
        path, (length, *image.shape), image.dtype, maxshape=(None, *image.shape), chunks=(1, *image.shape),
        **_BITSHUFFLE,
    )  # fmt: skip


class _SaturationMaps:
    """The saturation maps of a part, one for all frames as long as they have the same: it does not compress well."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self._first: NDArray[np.float32] | None = None
        self._frames = 0

    def append(self, values: NDArray[np.float32] | None, shape: tuple[int, int]) -> None:
        """Add the map of the next frame; None where no pixel is saturated by it."""
        values = np.full(shape, np.inf, dtype=np.float32) if values is None else values
        first = values if self._first is None else self._first
        if self._first is None:
            _append(self._file, SATURATION, values)
        elif len(self._file[SATURATION]) > 1 or not (values is first or np.array_equal(values, first)):
            for _ in range(len(self._file[SATURATION]), self._frames):
                _append(self._file, SATURATION, first)
            _append(self._file, SATURATION, values)
        self._first, self._frames = first, self._frames + 1


def join_parts(path: Path, parts: Sequence[Path], learned: str = "") -> None:
    """Write the file that makes a whole of parts, which lie in a folder beside it.

    `learned` says which learned bad pixels its masks hold already; whoever processes it learns no others then.
    Masks, and saturation maps, are one array (ss, fs) where all frames have the same. Raises `RunError` where a part
    cannot be read or the file cannot be written.
    """
    with written_hdf5(path) as file:
        file["cxi_version"] = 160
        if learned:
            file.attrs[LEARNED] = learned
        lengths = [_copy_tables(file, part) for part in parts]
        _copy_peaks(file, parts, lengths)
        filled = [(part, length) for part, length in zip(parts, lengths, strict=True) if length]
        if not filled:
            raise RunError(
                "not one frame can be read any more", path=path, found=file[f"{UNREADABLE}/reason"].asstr()[:1],
                expected="the files that the run was made from", remedy="bring them back and export again",
            )  # fmt: skip
        _make_virtual(file, DATA, filled)
        for name in _names_beside(filled):
            common = _common_image(filled, name)
            if common is None:
                _make_virtual(file, name, filled)
            else:
                file.create_dataset(name, data=common, chunks=common.shape, **_BITSHUFFLE)
        file[DATA].attrs.update(axes="experiment_identifier:y:x", reduction=part_attribute(parts[0], "reduction"))


def _copy_tables(file: h5py.File, part: Path) -> int:
    """Add a part's tables to those of the whole; the number of its frames."""
    with opened_part(part) as source:
        for path in _TABLES:
            values = source[path]
            if path not in file:
                file.create_dataset(path, (0,), values.dtype, maxshape=(None,), chunks=(1024,))
                file[path].attrs.update(values.attrs)
            table = file[path]
            table.resize(len(table) + len(values), axis=0)
            if len(values):
                table[-len(values) :] = values[()]
        return len(source[PHOTON_ENERGY])


def _copy_peaks(file: h5py.File, parts: Sequence[Path], lengths: Sequence[int]) -> None:
    group, n_frames, widest = file.create_group(CXI_PEAKS), sum(lengths), 1
    for part in parts:
        with opened_part(part) as source:
            widest = max(widest, source[CXI_PEAKS]["peakXPosRaw"].shape[1])
    group.create_dataset("nPeaks", (n_frames,), np.int32)
    options: dict[str, Any] = {"compression": "gzip", "shuffle": True, "chunks": (min(max(n_frames, 1), 64), widest)}
    for name in (*PEAK_COLUMNS, PEAK_MODULE):
        dtype = np.int16 if name in ("peakNPixels", PEAK_MODULE) else np.float32
        group.create_dataset(name, (n_frames, widest), dtype, **(options if n_frames else {}))
    first = 0
    for part, length in zip(parts, lengths, strict=True):
        if length:
            with opened_part(part) as source:
                for name, cells in source[CXI_PEAKS].items():
                    where = (slice(first, first + length), *(slice(0, n) for n in cells.shape[1:]))
                    group[name][where] = cells[()]
                    group[name].attrs.update(cells.attrs)
        first += length


def _make_virtual(file: h5py.File, path: str, parts: Sequence[tuple[Path, int]]) -> None:
    """The stacks of all parts one after the other."""
    sources = []
    for part, _ in parts:
        with opened_part(part) as source:
            sources.append((source[path].shape, source[path].dtype))
    image = sources[0][0][1:]
    layout = h5py.VirtualLayout((sum(length for _, length in parts), *image), np.result_type(*(t for _, t in sources)))
    first = 0
    for (part, length), (shape, dtype) in zip(parts, sources, strict=True):
        name = os.path.join(part.parent.name, part.name)
        images = h5py.VirtualSource(name, path, shape, dtype)
        if shape[0] == length:
            layout[first : first + length] = images
        else:
            for number in range(first, first + length):
                layout[number] = images[0]
        first += length
    file.create_virtual_dataset(path, layout)


def _names_beside(parts: Sequence[tuple[Path, int]]) -> tuple[str, ...]:
    """HDF5 paths of what there is beside the pixels."""
    with opened_part(parts[0][0]) as source:
        return (MASK, SATURATION) if SATURATION in source else (MASK,)


def _common_image(parts: Sequence[tuple[Path, int]], name: str) -> NDArray[Any] | None:
    """The mask or saturation map that all frames of all parts have, None where they have different ones."""
    common: NDArray[Any] | None = None
    for part, _ in parts:
        with opened_part(part) as source:
            if not (source.attrs["one_mask"] if name == MASK else len(source[name]) == 1):
                return None
            image = source[name][0]
        if common is not None and not np.array_equal(image, common):
            return None
        common = image
    return common


def part_attribute(path: Path, name: str) -> str:
    """What a part says of itself, empty where it does not. Raises `RunError`."""
    with opened_part(path) as source:
        return str(source.attrs.get(name, ""))


def unreadable_frames(path: Path) -> list[tuple[str, str]]:
    """Names of the frames that a part or a whole has not got, with the reasons. Raises `RunError`."""
    with opened_part(path) as file:
        group = file[UNREADABLE]
        return list(zip(group["experiment_identifier"].asstr()[()], group["reason"].asstr()[()], strict=True))


@contextmanager
def opened_part(path: Path) -> Iterator[h5py.File]:
    """A file that was written here. Raises `RunError` where it cannot be read."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except READ_ERRORS as error:
        raise RunError(
            "this is no part of an export, or it is damaged", path=path, found=error,
            remedy="remove it and export again",
        ) from error  # fmt: skip


@contextmanager
def written_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file to write to that takes the place of `path` once the block is left, whole and on the disk.

    Raises `RunError` where it cannot be written.
    """
    with written_aside(path) as aside, h5py.File(aside, "x") as file:
        yield file
