"""Frames from HDF5 files (CXI, NeXus-like, EuXFEL's virtual CXI) as a CrystFEL geometry file describes them."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import InputError, SfxlabError
from sfxlab.frames.buffers import BUFFERS
from sfxlab.frames.doubts import doubts_about_coverage
from sfxlab.frames.events import EventRange, fill_placeholders
from sfxlab.frames.frame import Frame, FrameId
from sfxlab.frames.hdf5_file import READ_ERRORS, OpenFile, OpenFiles, check_filters, compression_name
from sfxlab.frames.layout import Reading, readings
from sfxlab.frames.linked_files import linked_files
from sfxlab.frames.pixel_masks import PixelMasks
from sfxlab.frames.saturation_maps import SaturationMaps
from sfxlab.frames.sequence import FrameSequence, detector_at
from sfxlab.geometry import Detector, Geometry, Quantity

_CAMERA_LENGTH_DIGITS = 7
"""Encoders jitter. To 0.1 µm no pixel moves visibly, and frames share the detector and all that hangs on it."""


def quantity_of_frame(quantity: Quantity, file: OpenFile, tags: Sequence[str], indices: Sequence[int]) -> float:
    """The value of a quantity for one frame, in metres or eV.

    A path leads to one number, or to an array along the frames' axes, or the first of them. Raises `InputError` where
    it does not.
    """
    if isinstance(quantity.value, float):
        return quantity.convert(quantity.value)
    path = fill_placeholders(quantity.value, tags)
    numbers = file.numbers(path)
    if numbers.size == 1:
        return quantity.convert(float(numbers.reshape(())))
    index = tuple(indices[: numbers.ndim])
    rest = numbers.shape[len(index) :]
    if not index or math.prod(rest) != 1 or any(i >= n for i, n in zip(index, numbers.shape, strict=False)):
        raise InputError(
            f"'{quantity.key}' has no value for this frame", path=file.path, place=path,
            found=f"{' × '.join(str(n) for n in numbers.shape)} numbers",
            expected=f"one number, or one for frame {'/'.join(str(i) for i in indices) or 'this'}",
            remedy=f"correct the path of '{quantity.key}' in the geometry file",
        )  # fmt: skip
    return quantity.convert(float(numbers[index].reshape(())))


def data_type(geometry: Geometry, file: OpenFile, tags: Sequence[str]) -> np.dtype[Any]:
    """The type that holds the pixels of all data arrays, in native byte order."""
    types = {file.array(fill_placeholders(block.data, tags)).dtype for block in geometry.blocks}
    return np.result_type(*types).newbyteorder("=")


class Hdf5Frames(FrameSequence):
    """Frames of HDF5 files, a `FrameSource`; `open_frames` makes them.

    Slices keep the numbering: `frames[10:20][0].index` is 10. `Frame.bad` is read-only, because frames share it.
    """

    def __init__(self, geometry: Geometry, ranges: Sequence[EventRange], numbers: range | None = None) -> None:
        self.ranges = tuple(ranges)
        self._ends = list(accumulate(len(part) for part in self.ranges))
        self._files = OpenFiles()
        super().__init__(geometry, range(self._ends[-1] if self._ends else 0) if numbers is None else numbers)

    def __reduce__(self) -> tuple[Any, ...]:
        return Hdf5Frames, (self.geometry, self.ranges, self.numbers)

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """The files, in order of first use."""
        return tuple(dict.fromkeys(part.path for part in self.ranges))

    @property
    def files(self) -> tuple[str, ...]:
        """All files that are read for the frames, with those that links and virtual datasets lead to."""
        data = {block.data for block in self.geometry.blocks}
        beside = [(m.data, m.file) for s in self.geometry.panels for m in s.masks]
        beside += [(s.saturation_map, s.saturation_map_file) for s in self.geometry.panels if s.saturation_map]
        own = data | {place for place, file in beside if file is None}
        quantities = (self.geometry.photon_energy, self.geometry.camera_length)
        own |= {quantity.value for quantity in quantities if isinstance(quantity.value, str)}
        linked: set[str] = set()
        before = ""
        for path, tags in dict.fromkeys((part.path, part.tags) for part in self.ranges):
            # What is beside the data of frames in groups of their own is as in the first group.
            places = data if path == before else own
            linked |= linked_files(self._files, path, (fill_placeholders(place, tags) for place in places))
            before = path
        for place, file in dict.fromkeys(beside):
            if file is not None:
                linked |= linked_files(self._files, file, (place,))
        return tuple(dict.fromkeys((*super().files, *sorted(linked))))

    @property
    def detector(self) -> Detector:
        """The detector of the first frame. Raises `InputError` where there is no frame, or no camera length in it."""
        if not len(self):
            raise InputError("there are no frames", remedy="choose a slice that has some")
        part, position = self._locate(0)
        return self._detector_of(self._files[part.path], part.tags, part.indices(position))

    def _identity(self, position: int) -> FrameId:
        part, within = self._locate(position)
        return FrameId(part.path, part.event(within))

    def _photon_energy(self, position: int) -> float:
        part, within = self._locate(position)
        file = self._files[part.path]
        return quantity_of_frame(self.geometry.photon_energy, file, part.tags, part.indices(within))

    @property
    def _positions_of_known_energy(self) -> Sequence[int]:
        return range(len(self))

    @property
    def _compression(self) -> str:
        part, _ = self._locate(0)
        array = self._files[part.path].array(fill_placeholders(self.geometry.blocks[0].data, part.tags))
        return compression_name(array.first_source.dataset)

    def _doubts_about_files(self) -> Iterator[str]:
        part, _ = self._locate(0)
        for block in self.geometry.blocks:
            path = fill_placeholders(block.data, part.tags)
            shape = self._files[part.path].array(path).dataset.shape
            panels = (s.panel for s in self.geometry.panels if (s.data, s.dims) == (block.data, block.dims))
            stored = shape[block.dims.index("ss")], shape[block.dims.index("fs")]
            yield from doubts_about_coverage(f"{part.path}, {path}", stored, sum(p.rows * p.columns for p in panels))

    def _locate(self, index: int) -> tuple[EventRange, int]:
        """The range that holds a frame, and the frame's position in it."""
        i = bisect_right(self._ends, index)
        return self.ranges[i], index - (self._ends[i] - len(self.ranges[i]))

    def _part(self, positions: range) -> Hdf5Frames:
        ascending = positions if positions.step > 0 else positions[::-1]
        parts: list[EventRange] = []
        taken = 0
        while taken < len(ascending):
            part, position = self._locate(ascending[taken])
            count = min(len(ascending) - taken, -(-(len(part) - position) // ascending.step))
            parts.append(part.part(slice(position, position + (count - 1) * ascending.step + 1, ascending.step)))
            taken += count
        if positions.step < 0:
            parts = [part.part(slice(None, None, -1)) for part in reversed(parts)]
        selected = Hdf5Frames(self.geometry, parts, self._numbers_at(positions))
        selected._files = self._files
        return selected

    @cached_property
    def _readings(self) -> tuple[Reading, ...]:
        return readings(self.geometry)

    @cached_property
    def _masks(self) -> PixelMasks:
        return PixelMasks(self.geometry)

    @cached_property
    def _saturation(self) -> SaturationMaps:
        return SaturationMaps(self.geometry)

    @cached_property
    def _has_gaps(self) -> bool:
        """Whether the blocks leave some of the slab empty."""
        pixels = sum(block.rows * block.columns for block in self.geometry.blocks)
        return pixels != math.prod(self.geometry.shape)

    def _frame(self, position: int, name: FrameId) -> Frame:
        part, within = self._locate(position)
        indices = part.indices(within)
        try:
            file = self._files[part.path]
            missing = self._missing(file, part.tags, indices)
            data = self._pixels(file, part.tags, indices)
            energy = quantity_of_frame(self.geometry.photon_energy, file, part.tags, indices)
            detector = self._detector_of(file, part.tags, indices)
            bad = self._masks.bad(data, self._files, part.path, part.tags, indices)
            saturation = self._saturation.of_frame(self._files, part.path, part.tags, indices)
        except READ_ERRORS as error:
            raise self._diagnosis(part, error) from error
        if missing is not None:
            bad = bad | missing
            bad.flags.writeable = False
        return Frame(data, bad, energy, detector, name, self.numbers[position], saturation_map=saturation)

    def _diagnosis(self, part: EventRange, error: Exception) -> SfxlabError:
        """What is behind an error of h5py: a compression filter that is missing, or damage."""
        try:
            for block in self.geometry.blocks:
                path = fill_placeholders(block.data, part.tags)
                check_filters(self._files[part.path].dataset(path), path)
        except SfxlabError as found:
            return found
        except READ_ERRORS as worse:
            error = worse
        return InputError(
            "the frame cannot be read", path=part.path, found=str(error),
            remedy="the file is damaged here; the other frames can still be read",
        )  # fmt: skip

    def _pixels(self, file: OpenFile, tags: tuple[str, ...], indices: Sequence[int]) -> NDArray[Any]:
        slab: NDArray[Any] = BUFFERS.array(self.geometry.shape, data_type(self.geometry, file, tags))
        if self._has_gaps:
            slab[...] = 0
        for reading in self._readings:
            reading.read(file.array(fill_placeholders(reading.block.data, tags)), indices, slab)
        return slab

    def _missing(self, file: OpenFile, tags: Sequence[str], indices: tuple[int, ...]) -> NDArray[np.uint8] | None:
        """1 where a virtual dataset has no pixels because a file of it is missing, None where none is.

        Raises `InputError` where that is the whole frame.
        """
        missing: NDArray[np.uint8] | None = None
        pixels = sum(block.rows * block.columns for block in self.geometry.blocks)
        for reading in self._readings:
            array = file.array(fill_placeholders(reading.block.data, tags))
            for window, name in reading.missing(array, indices):
                missing = np.zeros(self.geometry.shape, dtype=np.uint8) if missing is None else missing
                missing[window] = 1
                if int(missing.sum()) == pixels:
                    raise InputError(
                        "the frame's data file is missing, or has not what the virtual dataset refers to",
                        path=file.path, place=reading.block.data, found=f"no {name}",
                        expected="that file beside this one", remedy="copy it there; the other frames can be read",
                    )  # fmt: skip
        return missing

    def _detector_of(self, file: OpenFile, tags: Sequence[str], indices: Sequence[int]) -> Detector:
        geometry = self.geometry
        lengths = [
            0.0 if quantity is None else quantity_of_frame(quantity, file, tags, indices)
            for quantity in (geometry.camera_length, geometry.detector_shift_x, geometry.detector_shift_y)
        ]
        if not all(math.isfinite(length) for length in lengths):
            raise InputError(
                "the camera length or detector shift is no length", path=file.path,
                place=str(geometry.camera_length.value),
                found=", ".join(str(length) for length in lengths), expected="metres",
            )  # fmt: skip
        camera_length, x, y = lengths
        if isinstance(geometry.camera_length.value, str):
            camera_length = round(camera_length, _CAMERA_LENGTH_DIGITS)
        key, detector = file.derived.get("detector", (None, None))
        if key != (camera_length, x, y):
            detector = detector_at(geometry, camera_length, (x, y))
            file.derived["detector"] = (camera_length, x, y), detector
        return detector  # type: ignore[no-any-return]
