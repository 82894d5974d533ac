"""Frames from HDF5 files (CXI, NeXus-like, EuXFEL's virtual CXI) as a CrystFEL geometry file describes them."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import FrameError, InputError, SfxlabError
from sfxlab.frames.events import EventRange, fill_placeholders
from sfxlab.frames.frame import Frame, FrameId
from sfxlab.frames.hdf5_file import READ_ERRORS, OpenFile, OpenFiles, check_filters, compression_name
from sfxlab.frames.layout import Reading, readings
from sfxlab.frames.pixel_masks import PixelMasks
from sfxlab.geometry import Detector, Geometry, Quantity

_CAMERA_LENGTH_DIGITS = 7
"""Encoders jitter. To 0.1 µm no pixel moves visibly, and frames share the detector and all that hangs on it."""


@lru_cache(maxsize=4)
def _detector(geometry: Geometry, camera_length: float, shift: tuple[float, float]) -> Detector:
    """Equal settings give the same object in one process, because its maps of pixel positions are costly."""
    return geometry.detector(camera_length, shift)


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
    types = {file.dataset(fill_placeholders(block.data, tags)).dtype for block in geometry.blocks}
    return np.result_type(*types).newbyteorder("=")


def _frame_error(name: FrameId, error: SfxlabError) -> FrameError:
    return FrameError(
        error.problem, path=error.path, place=", ".join(filter(None, (f"frame {name.event}", error.place))),
        found=error.found, expected=error.expected, remedy=error.remedy,
    )  # fmt: skip


@dataclass(frozen=True)
class FrameSummary:
    """What a source of frames holds."""

    files: int
    frames: int
    shape: tuple[int, int]
    """Of the slab, (slow, fast)."""
    dtype: str
    compression: str
    photon_energy: tuple[float, float]
    """Least and largest, eV; NaN where none can be read."""
    camera_length: float
    """Of the first frame, metres."""
    panels: int
    masked_fraction: float
    """Bad pixels among those of the panels, in the first frame."""


class Hdf5Frames:
    """Frames of HDF5 files, a `FrameSource`; `open_frames` makes them.

    Slices keep the numbering: `frames[10:20][0].index` is 10. `Frame.bad` is read-only, because frames share it.
    """

    def __init__(self, geometry: Geometry, ranges: Sequence[EventRange], first: int = 0, step: int = 1) -> None:
        self.geometry = geometry
        self.ranges = tuple(ranges)
        self._first = first
        self._step = step
        self._files = OpenFiles()
        self._ends = list(accumulate(len(part) for part in self.ranges))

    def __reduce__(self) -> tuple[Any, ...]:
        return Hdf5Frames, (self.geometry, self.ranges, self._first, self._step)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __repr__(self) -> str:
        rows, columns = self.geometry.shape
        return f"<{len(self)} frames of {rows} × {columns} pixels in {len(self.paths)} files>"

    @overload
    def __getitem__(self, item: int) -> Frame: ...
    @overload
    def __getitem__(self, item: slice) -> Hdf5Frames: ...

    def __getitem__(self, item: int | slice) -> Frame | Hdf5Frames:
        if isinstance(item, slice):
            return self._slice(range(len(self))[item])
        return self._read(self._checked(item))

    def __iter__(self) -> Iterator[Frame]:
        # Unlike a generator, this goes on after a frame that cannot be read.
        return map(self._read, range(len(self)))

    def identity(self, index: int) -> FrameId:
        """The name of a frame, without reading its pixels."""
        part, position = self._locate(self._checked(index))
        return FrameId(part.path, part.event(position))

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """The files, in order of first use."""
        return tuple(dict.fromkeys(part.path for part in self.ranges))

    @property
    def geometry_text(self) -> str:
        """The geometry file, verbatim."""
        return self.geometry.text

    @property
    def detector(self) -> Detector:
        """The detector of the first frame. Raises `InputError` where there is no frame, or no camera length in it."""
        if not len(self):
            raise InputError("there are no frames", remedy="choose a slice that has some")
        part, position = self._locate(0)
        return self._detector_of(self._files[part.path], part.tags, part.indices(position))

    def describe(self) -> FrameSummary:
        """What there is: files, frames, energies. Reads one frame, and the photon energies of all files."""
        first = self[0]
        part, _ = self._locate(0)
        block = self.geometry.blocks[0]
        dataset = self._files[part.path].dataset(fill_placeholders(block.data, part.tags))
        on_panels = first.detector.panel_map >= 0
        energies = [e for e in self._photon_energies() if math.isfinite(e)]
        return FrameSummary(
            files=len(self.paths),
            frames=len(self),
            shape=self.geometry.shape,
            dtype=str(first.data.dtype),
            compression=compression_name(dataset),
            photon_energy=(min(energies), max(energies)) if energies else (math.nan, math.nan),
            camera_length=first.detector.camera_length,
            panels=len(first.detector.panels),
            masked_fraction=float(np.mean(first.bad[on_panels] != 0)),
        )

    def _photon_energies(self) -> Iterator[float]:
        quantity = self.geometry.photon_energy
        if isinstance(quantity.value, float):
            yield quantity.convert(quantity.value)
            return
        for part in self.ranges:
            for position in range(len(part)):
                yield quantity_of_frame(quantity, self._files[part.path], part.tags, part.indices(position))

    def _checked(self, index: int) -> int:
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        return position

    def _locate(self, index: int) -> tuple[EventRange, int]:
        """The range that holds a frame, and the frame's position in it."""
        i = bisect_right(self._ends, index)
        return self.ranges[i], index - (self._ends[i] - len(self.ranges[i]))

    def _slice(self, wanted: range) -> Hdf5Frames:
        ascending = wanted if wanted.step > 0 else wanted[::-1]
        parts: list[EventRange] = []
        taken = 0
        while taken < len(ascending):
            part, position = self._locate(ascending[taken])
            count = min(len(ascending) - taken, -(-(len(part) - position) // ascending.step))
            parts.append(part.part(slice(position, position + (count - 1) * ascending.step + 1, ascending.step)))
            taken += count
        if wanted.step < 0:
            parts = [part.part(slice(None, None, -1)) for part in reversed(parts)]
        selected = Hdf5Frames(self.geometry, parts, self._first + wanted.start * self._step, self._step * wanted.step)
        selected._files = self._files
        return selected

    @cached_property
    def _readings(self) -> tuple[Reading, ...]:
        return readings(self.geometry)

    @cached_property
    def _masks(self) -> PixelMasks:
        return PixelMasks(self.geometry)

    @cached_property
    def _new_slab(self) -> Any:
        """`numpy.empty` where the blocks fill the slab, `numpy.zeros` where they leave gaps."""
        pixels = sum(block.rows * block.columns for block in self.geometry.blocks)
        return np.empty if pixels == math.prod(self.geometry.shape) else np.zeros

    def _read(self, index: int) -> Frame:
        """A frame; `FrameError` where anything of it cannot be read."""
        part, position = self._locate(index)
        indices = part.indices(position)
        name = FrameId(part.path, part.event(position))
        try:
            file = self._files[part.path]
            data = self._pixels(file, part.tags, indices)
            energy = quantity_of_frame(self.geometry.photon_energy, file, part.tags, indices)
            detector = self._detector_of(file, part.tags, indices)
            bad = self._masks.bad(data, self._files, part.path, part.tags, indices)
        except SfxlabError as error:
            raise _frame_error(name, error) from error
        except READ_ERRORS as error:
            raise _frame_error(name, self._diagnosis(part, error)) from error
        if not (math.isfinite(energy) and energy > 0):
            raise FrameError(
                "the photon energy of the frame is no energy", path=part.path, place=f"frame {name.event}",
                found=f"{energy} eV at {self.geometry.photon_energy.value}", expected="a number above 0",
            )  # fmt: skip
        return Frame(data, bad, energy, detector, name, self._first + index * self._step)

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
        slab: NDArray[Any] = self._new_slab(self.geometry.shape, dtype=data_type(self.geometry, file, tags))
        for reading in self._readings:
            reading.read(file.dataset(fill_placeholders(reading.block.data, tags)), indices, slab)
        return slab

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
            detector = _detector(geometry, camera_length, (x, y))
            file.derived["detector"] = (camera_length, x, y), detector
        return detector  # type: ignore[no-any-return]
