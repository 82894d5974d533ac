"""Frames from run directories of European XFEL: many files, one for each module and sequence.

METHODS.md section 1.5. EXtra-data finds the data, h5py reads them. A geometry file is one for virtual CXI files: an
axis of the array numbers the modules.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import FrameError, GeometryError, InputError
from sfxlab.frames.euxfel_index import ModulePlace, RunTable, index_run, joined
from sfxlab.frames.events import format_event, parse_event
from sfxlab.frames.frame import Frame, FrameId
from sfxlab.frames.hdf5_file import READ_ERRORS, OpenFiles, compression_name
from sfxlab.frames.listing import HDF5_SUFFIXES, Listed
from sfxlab.frames.pixel_masks import PixelMasks
from sfxlab.frames.saturation_maps import SaturationMaps, check_separate_maps
from sfxlab.frames.sequence import FrameSequence, as_slice, detector_at
from sfxlab.geometry import Detector, Geometry
from sfxlab.geometry.masks import masked
from sfxlab.remote.addresses import is_address

_FILE_NAME = re.compile(r"(RAW|CORR)-R\d+-.+-S\d+\.h5")
_ALL_BITS = 0xFFFFFFFF


def holds_run(names: Iterable[str]) -> bool:
    """Whether files of a folder are named as European XFEL's data acquisition and calibration name them."""
    return any(_FILE_NAME.fullmatch(name) for name in names)


def is_run_directory(path: str) -> bool:
    """Whether a path is a folder of such files, or the address of one, which ends in a slash."""
    if is_address(path):
        return path.endswith("/")
    return not path.lower().endswith(HDF5_SUFFIXES) and os.path.isdir(path) and holds_run(os.listdir(path))


def open_run_directories(listed: Sequence[Listed], geometry: Geometry | None) -> RunFrames:
    """The frames of run directories, named by train and pulse (`//1234567/8`), in their order.

    A photon energy that the geometry file gives as a path is the one its gas monitor was set to; a path
    `/CONTROL/DEVICE/PROPERTY/value` is what a device recorded for each train. Raises `InputError` or `GeometryError`.
    """
    if geometry is None:
        raise GeometryError(
            "a run directory does not carry the detector's geometry", path=listed[0].path,
            expected="a CrystFEL geometry file, or one from EXtra-geom",
            remedy="give one with -g FILE.geom; sfxlab.geometry.from_extra_geom makes one of an EXtra-geom object",
        )  # fmt: skip
    check_separate_maps(geometry, listed[0].path)
    tables = {path: index_run(path, geometry) for path in dict.fromkeys(entry.path for entry in listed)}
    parts: list[RunTable] = []
    for path, group in groupby(listed, key=lambda entry: entry.path):
        for whole, entries in groupby(group, key=lambda entry: entry.event is None):
            table = tables[path]
            chosen = list(entries)
            parts += (
                [table] * len(chosen) if whole else [table.part(np.array([_number(entry, table) for entry in chosen]))]
            )
    return RunFrames(geometry, joined(parts))


def _number(entry: Listed, table: RunTable) -> int:
    """The frame that an event names."""
    try:
        _, (train, pulse) = parse_event(entry.event or "")
        return int(table.numbers(train, pulse)[0])
    except (ValueError, IndexError):
        known = f"{_event(table, 0)} to {_event(table, len(table) - 1)}" if len(table) else "no frame"
        raise entry.unknown_event(known) from None


def _event(table: RunTable, position: int) -> str:
    return format_event((), (int(table.train[position]), int(table.pulse[position])))


class RunFrames(FrameSequence):
    """Frames of run directories; `open_frames` makes them.

    A module without data for a pulse is 0 and bad. `Frame.metadata` has `train_id`, `pulse_id` and `missing_modules`.
    """

    def __init__(self, geometry: Geometry, table: RunTable, numbers: range | None = None) -> None:
        super().__init__(geometry, range(len(table)) if numbers is None else numbers)
        self.table = table
        self._files = OpenFiles(2 * len(table.places) + 2)

    def __reduce__(self) -> tuple[Any, ...]:
        return RunFrames, (self.geometry, self.table, self.numbers)

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """The files of the modules, in order of first use."""
        return tuple(dict.fromkeys(file.path for file in self.table.files))

    def _identity(self, position: int) -> FrameId:
        directory = self.table.directories[self.table.directory[position]]
        return FrameId(directory, _event(self.table, position))

    def _part(self, positions: range) -> RunFrames:
        part = RunFrames(self.geometry, self.table.part(as_slice(positions)), self._numbers_at(positions))
        part._files = self._files
        return part

    def _frame(self, position: int, name: FrameId) -> Frame:
        table = self.table
        data = np.zeros(self.geometry.shape, dtype=table.dtype)
        # Modules that are missing stay bad.
        bad = np.ones(self.geometry.shape, dtype=np.uint8)
        for place, file, row in zip(table.places, table.file[position], table.row[position], strict=True):
            if file >= 0:
                self._read_module(place, int(file), (int(row), int(table.cell[position])), data, bad)
        bad |= self._masks.of_geometry(self._files)
        bad = self._masks.with_values(data, bad)
        missing = tuple(
            place.module for place, file in zip(table.places, table.file[position], strict=True) if file < 0
        )
        metadata = {
            "train_id": int(table.train[position]), "pulse_id": int(table.pulse[position]), "missing_modules": missing,
        }  # fmt: skip
        energy = float(table.photon_energy[position])
        detector, saturation = self._detector_of(position, name), self._saturation.of_geometry(self._files)
        return Frame(data, bad, energy, detector, name, self.numbers[position], metadata, saturation)

    def _read_module(
        self, place: ModulePlace, number: int, index: tuple[int, int], data: NDArray[Any], bad: NDArray[np.uint8]
    ) -> None:
        """Read a module's pixels and mask into their place in the slab."""
        file = self.table.files[number]
        window = np.s_[place.row : place.row + place.rows, : place.columns]
        pixels = np.s_[: place.rows, : place.columns]
        try:
            open_file = self._files[file.path]
            dataset = open_file.dataset(file.data)
            # Raw data have one more axis: pixels and gain, or one of length 1.
            leading = (index[0],) if index[1] < 0 else index
            leading += (0,) * (dataset.ndim - len(leading) - 2)
            data[window] = dataset[(*leading, *pixels)]
            bad[window] = 0
            if file.mask:
                mask = open_file.dataset(file.mask)
                marks = masked(mask[(*leading, *pixels)], 0, self._bad_bits)
                # Early files have a mask for each gain stage, along the last axis.
                bad[window] |= marks.any(axis=-1) if marks.ndim > 2 else marks
        except READ_ERRORS as error:
            raise FrameError(
                "a module cannot be read", path=file.path, place=file.data, found=str(error),
                remedy="the file is damaged here; the other frames can still be read",
            ) from error  # fmt: skip

    def _detector_of(self, position: int, name: FrameId) -> Detector:
        camera_length, x, y = (float(length) for length in self.table.lengths[position])
        if not (math.isfinite(camera_length) and math.isfinite(x) and math.isfinite(y)):
            raise InputError(
                "the camera length or detector shift is unknown for this train", path=name.path,
                found=str(self.geometry.camera_length.value), expected="a value for each train",
            )  # fmt: skip
        # Encoders jitter; to 0.1 µm no pixel moves visibly and frames share the detector.
        return detector_at(self.geometry, round(camera_length, 7), (round(x, 7), round(y, 7)))

    def _photon_energy(self, position: int) -> float:
        return float(self.table.photon_energy[position])

    @property
    def _compression(self) -> str:
        file = self.table.files[0]
        return compression_name(self._files[file.path].dataset(file.data))

    @cached_property
    def _masks(self) -> PixelMasks:
        return PixelMasks(self.geometry)

    @cached_property
    def _saturation(self) -> SaturationMaps:
        return SaturationMaps(self.geometry)

    @cached_property
    def _bad_bits(self) -> int:
        """The bits of the run's own mask that count: those that the geometry file names, or all."""
        return next(self._named_bits(), _ALL_BITS)

    def _named_bits(self) -> Iterator[int]:
        return (
            mask.bad_bits for source in self.geometry.panels for mask in source.masks
            if mask.file is None and mask.bad_bits
        )  # fmt: skip
