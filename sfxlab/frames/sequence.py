"""What sources of frames have in common that read one frame at a time: numbers, slices, iteration."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self, overload

import numpy as np

from sfxlab.errors import FrameError, InputError, SfxlabError, UnreachableError
from sfxlab.frames.doubts import doubts_about_detector, doubts_about_energies, doubts_about_pixels
from sfxlab.frames.frame import Frame, FrameId
from sfxlab.frames.saturation_maps import saturation_map_names
from sfxlab.geometry import Detector, Geometry, format_geometry
from sfxlab.geometry.masks import window

_MOST_ENERGIES = 100
"""Of more frames than this the photon energy is summarised from so many, evenly spaced."""

_LOOKED_AT = 3
"""Frames that are read to guess what is wrong."""


@lru_cache(maxsize=4)
def detector_at(geometry: Geometry, camera_length: float, shift: tuple[float, float]) -> Detector:
    """Equal settings give the same object in one process, because its maps of pixel positions are costly."""
    return geometry.detector(camera_length, shift)


def as_slice(positions: range) -> slice:
    """The slice that takes these positions out of a sequence."""
    return slice(positions.start, None if positions.stop < 0 else positions.stop, positions.step)


def frame_error(name: FrameId, error: SfxlabError) -> FrameError:
    """An error that struck a frame, as this frame's own."""
    kind = UnreachableError if isinstance(error, UnreachableError) else FrameError
    return kind(
        error.problem, path=error.path, place=", ".join(filter(None, (f"frame {name.event}", error.place))),
        found=error.found, expected=error.expected, remedy=error.remedy,
    )  # fmt: skip


def _saturation(frame: Frame) -> tuple[float, float]:
    """Least and largest value from which on pixels of the panels are saturated, ADU."""
    limits = [
        np.minimum(p.max_adu, p.max_adu if frame.saturation_map is None else frame.saturation_map[window(p)])
        for p in frame.detector.panels
    ]
    return float(min(values.min() for values in limits)), float(max(values.max() for values in limits))


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
    saturation: tuple[float, float] = (math.inf, math.inf)
    """Least and largest value from which on pixels of the panels are saturated, in the first frame, ADU."""
    saturation_map: str | None = None
    """Where such values of single pixels come from, None where the frames have none."""
    geometry: str | None = None
    """The file that the geometry came from, None where it was no file."""
    doubts: tuple[str, ...] = ()
    """What looks wrong, in sentences."""


class FrameSequence(ABC):
    """A `FrameSource` whose frames are read one by one. Slices keep the numbering: `frames[10:20][0].index` is 10."""

    def __init__(self, geometry: Geometry, numbers: range) -> None:
        self.geometry = geometry
        self.numbers = numbers
        """`Frame.index` of each frame."""

    @property
    @abstractmethod
    def paths(self) -> tuple[str, ...]:
        """The files, in order of first use."""

    @property
    def files(self) -> tuple[str, ...]:
        """All files that are read for the frames: `paths`, and others that these or the geometry lead to."""
        named = (file for s in self.geometry.panels for file in (*(m.file for m in s.masks), s.saturation_map_file))
        return tuple(dict.fromkeys((*self.paths, *filter(None, named))))

    @abstractmethod
    def _identity(self, position: int) -> FrameId:
        """The name of the frame at a position, which exists."""

    @abstractmethod
    def _frame(self, position: int, name: FrameId) -> Frame:
        """The frame at a position; any `SfxlabError` where it cannot be read."""

    @abstractmethod
    def _part(self, positions: range) -> Self:
        """The frames at some positions."""

    @abstractmethod
    def _photon_energy(self, position: int) -> float:
        """Of the frame at a position, eV; NaN where the file does not say."""

    @property
    @abstractmethod
    def _compression(self) -> str:
        """How the files are compressed."""

    @property
    def _positions_of_known_energy(self) -> Sequence[int]:
        """Of which frames to summarise the photon energy."""
        return range(0, len(self), -(-len(self) // _MOST_ENERGIES) or 1)

    def _numbers_at(self, positions: range) -> range:
        """`Frame.index` of the frames at some positions."""
        return self.numbers[as_slice(positions)]

    def __len__(self) -> int:
        return len(self.numbers)

    def __repr__(self) -> str:
        rows, columns = self.geometry.shape
        files = f"{len(self.paths)} file{'' if len(self.paths) == 1 else 's'}"
        return f"<{len(self)} frames of {rows} × {columns} pixels in {files}>"

    @overload
    def __getitem__(self, item: int) -> Frame: ...
    @overload
    def __getitem__(self, item: slice) -> Self: ...

    def __getitem__(self, item: int | slice) -> Frame | Self:
        if isinstance(item, slice):
            return self._part(range(len(self))[item])
        return self._read(self._checked(item))

    def __iter__(self) -> Iterator[Frame]:
        # Unlike a generator, this goes on after a frame that cannot be read.
        return map(self._read, range(len(self)))

    def identity(self, index: int) -> FrameId:
        """The name of a frame, without reading its pixels."""
        return self._identity(self._checked(index))

    @property
    def geometry_text(self) -> str:
        """The geometry file, verbatim, or a text that says the same as the frames' own headers or a geometry object."""
        return self.geometry.text or format_geometry(self.geometry)

    @property
    def detector(self) -> Detector:
        """The detector of the first frame. Raises `InputError` where there is no frame."""
        if not len(self):
            raise InputError("there are no frames", remedy="choose a slice that has some")
        return self[0].detector

    def describe(self) -> FrameSummary:
        """What there is, and what looks wrong. Reads the first frames, and photon energies: of 100 frames at most
        where each is in a file of its own. Raises `FrameError` where the first frame cannot be read.
        """
        first = self[0]
        literal = isinstance(self.geometry.photon_energy.value, float)
        positions = self._positions_of_known_energy
        known = [first.photon_energy] if literal else [self._photon_energy(position) for position in positions]
        energies = [energy for energy in known if math.isfinite(energy)]
        return FrameSummary(
            files=len(self.paths),
            frames=len(self),
            shape=self.geometry.shape,
            dtype=str(first.data.dtype),
            compression=self._compression,
            photon_energy=(min(energies), max(energies)) if energies else (math.nan, math.nan),
            camera_length=first.detector.camera_length,
            panels=len(first.detector.panels),
            masked_fraction=float(np.mean(first.bad[first.detector.panel_map >= 0] != 0)),
            saturation=_saturation(first),
            saturation_map=None if first.saturation_map is None else saturation_map_names(self.geometry),
            geometry=self.geometry.path,
            doubts=tuple(self._doubts(first, known)),
        )

    def _doubts(self, first: Frame, energies: Sequence[float]) -> Iterator[str]:
        frames = [first]
        for position in range(1, min(_LOOKED_AT, len(self))):
            try:
                frames.append(self[position])
            except FrameError as error:
                yield f"frame {position} cannot be read: {error.problem}"
        yield from doubts_about_pixels(frames)
        yield from doubts_about_energies(energies, self.geometry.photon_energy.key == "electron_voltage")
        yield from doubts_about_detector(first.detector)
        yield from self._doubts_about_files()

    def _doubts_about_files(self) -> Iterator[str]:
        """What looks wrong about how the geometry fits the files."""
        yield from ()

    def _checked(self, index: int) -> int:
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        return position

    def _read(self, position: int) -> Frame:
        """A frame; `FrameError` where anything of it cannot be read."""
        name = self._identity(position)
        try:
            frame = self._frame(position, name)
        except SfxlabError as error:
            raise frame_error(name, error) from error
        if not (math.isfinite(frame.photon_energy) and frame.photon_energy > 0):
            raise FrameError(
                "the photon energy of the frame is no energy", path=name.path, place=f"frame {name.event}",
                found=f"{frame.photon_energy} eV at {self.geometry.photon_energy.value}", expected="a number above 0",
                remedy="write 'photon_energy = … eV' with the number in the geometry file",
            )  # fmt: skip
        return frame if self.geometry.bandwidth is None else replace(frame, bandwidth=self.geometry.bandwidth)
