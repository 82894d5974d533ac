"""What a frame viewer shows: pictures, marks on them, what is under the pointer, and which frame comes next."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.frames import Frame
from sfxlab.indexing.assignment import CLAIM
from sfxlab.pipeline import FrameResult, Status
from sfxlab.widgets.models.assembling import Plane, Region, assemble_region, plane_of
from sfxlab.widgets.models.pixel_codes import Background, Bits, Scale, background, encode
from sfxlab.widgets.models.viewed_frames import Recent, ViewedFrames

CONTRAST = (-1.0, 12.0)
"""Where the automatic contrast begins and ends, in standard deviations from the background."""

_FRAMES_KEPT = 4
_MOST_NUMBERS = 2500
"""Values of single pixels are sent for no more pixels than this."""


@dataclass(frozen=True)
class Picture:
    """A part of a frame at some magnification, as it goes to a browser."""

    codes: NDArray[Any]
    """See `sfxlab.widgets.models.pixel_codes`, (rows, columns)."""
    scale: Scale
    region: Region
    contrast: tuple[float, float]
    """The frame's automatic contrast, ADU."""
    values: NDArray[np.float32]
    """x, y and value of single pixels, (n, 3); none where too many are seen."""


@dataclass(frozen=True)
class Marks:
    """What is drawn on a frame."""

    number: int
    status: Status | None
    """None where the frame is not processed yet."""
    reason: str
    peaks: NDArray[np.float32]
    """Places in the picture, (n, 2)."""
    owners: NDArray[np.int8]
    """The lattice that each peak belongs to, −1 where none, (n,)."""
    predictions: tuple[NDArray[np.float32], ...]
    """Places of the reflections of each lattice, (m, 2)."""
    cells: tuple[str, ...]
    """The cell of each lattice."""

    @property
    def sentence(self) -> str:
        """What became of the frame."""
        if self.status is None:
            return "not processed yet"
        peaks = f"{len(self.owners)} peak{'' if len(self.owners) == 1 else 's'}"
        if self.status == "failed":
            return f"failed: {self.reason}"
        if self.status == "blank":
            return f"blank: {peaks}"
        if self.status == "hit":
            return f"hit, not indexed: {peaks}; {self.reason}"
        lattices = f"{len(self.cells)} lattice{'' if len(self.cells) == 1 else 's'}"
        return f"indexed: {lattices}, {np.count_nonzero(self.owners >= 0)} of {peaks}"


@dataclass(frozen=True)
class Pixel:
    """What is under the pointer."""

    panel: str
    fs: float
    """Slab coordinates."""
    ss: float
    value: float
    """ADU; NaN where it is none."""
    is_bad: bool
    resolution: float
    """d, Å; infinite in the beam."""
    hkl: tuple[tuple[float, float, float], ...] = ()
    """Indices by each lattice, not rounded."""
    reflection: str = ""
    """The predicted reflection that is there, and its intensity."""

    def __str__(self) -> str:
        value = "bad pixel" if math.isnan(self.value) else f"{self.value:g} ADU{' (bad pixel)' if self.is_bad else ''}"
        parts = [value, f"{self.resolution:.2f} Å" if math.isfinite(self.resolution) else "beam"]
        parts.append(f"{self.panel} fs {self.fs:.0f} ss {self.ss:.0f}")
        parts += [f"hkl {h:.2f} {k:.2f} {l:.2f}" for h, k, l in self.hkl]  # noqa: E741
        return " · ".join([*parts, *filter(None, [self.reflection])])


class FrameViewerModel:
    """Everything about frames that a viewer asks for. Methods may be called from several threads."""

    def __init__(self, source: ViewedFrames) -> None:
        self.source = source
        self._frames: Recent[int, tuple[Frame, Background]] = Recent(_FRAMES_KEPT)

    def __len__(self) -> int:
        return len(self.source.frames)

    def frame(self, number: int) -> Frame:
        """A frame, of which the last few are kept. Raises `FrameError`."""
        return self._read(number)[0]

    def _read(self, number: int) -> tuple[Frame, Background]:
        def read() -> tuple[Frame, Background]:
            frame = self.source.frames[number]
            return frame, background(frame)

        return self._frames.get(number, read)

    def picture(self, number: int, region: Region, bits: Bits = 8, *, show_bad: bool = False) -> Picture:
        """A part of a frame. With `show_bad`, places with any bad pixel are marked as such. Raises `FrameError`."""
        frame, around = self._read(number)
        plane = plane_of(frame.detector)
        image, kind = assemble_region(frame.data, frame.bad, plane, region)
        codes, scale = encode(image, kind, around, bits, show_bad=show_bad)
        low, high = (around.centre + k * around.width for k in CONTRAST)
        return Picture(codes, scale, region, (low, high), _values(frame, plane, region))

    def fitting(self, number: int, wide: float, high: float) -> Region:
        """The whole picture on so many screen pixels. Raises `FrameError`."""
        plane = plane_of(self.frame(number).detector)
        step = max(plane.columns / wide, plane.rows / high)
        return Region(0.0, 0.0, step, math.ceil(plane.columns / step - 1e-6), math.ceil(plane.rows / step - 1e-6))

    def scene(self, number: int) -> dict[str, Any]:
        """Where things are in the picture of a frame, as JSON: panels, beam, rings. Raises `FrameError`."""
        frame = self.frame(number)
        plane = plane_of(frame.detector)
        return {
            "columns": plane.columns,
            "rows": plane.rows,
            "beam": plane.beam,
            "step": plane.step,
            "panels": [
                {"name": panel.name, "corners": corners}
                for panel, corners in zip(frame.detector.panels, np.round(plane.outlines(), 2).tolist(), strict=True)
            ],
            "rings": plane.rings(frame.photon_energy),
        }

    def facts(self, number: int) -> str:
        """The frame's name, energy and camera length, on one line. Raises `FrameError`."""
        frame = self.frame(number)
        length = 1e3 * frame.detector.camera_length
        return f"{frame.id} · {frame.photon_energy:.0f} eV · {length:.2f} mm"

    def marks(self, number: int, result: FrameResult | None) -> Marks:
        """What to draw on a frame that this became of. Raises `FrameError`."""
        if result is None or result.status == "failed":
            none = np.zeros((0, 2), np.float32)
            status, reason = (None, "") if result is None else (result.status, result.reason)
            return Marks(number, status, reason, none, np.zeros(0, np.int8), (), ())
        plane, peaks = plane_of(self.frame(number).detector), result.peaks
        return Marks(
            number,
            result.status,
            result.reason,
            plane.places(peaks.panel, peaks.fs, peaks.ss),
            owners(result, self.frame(number)),
            tuple(plane.places(r.panel, r.fs, r.ss) for r in result.reflections),
            tuple(str(crystal.cell) for crystal in result.crystals),
        )

    def under(self, number: int, x: float, y: float, result: FrameResult | None = None) -> Pixel | None:
        """What is at a place of the picture; None where there is no panel. Raises `FrameError`."""
        frame = self.frame(number)
        plane = plane_of(frame.detector)
        found = plane.pixel_at(x, y)
        if found is None:
            return None
        panel, fs, ss = found
        at = (np.array([panel]), np.array([fs]), np.array([ss]))
        q = frame.detector.q(*at, frame.photon_energy)[0]
        length = float(np.linalg.norm(q))
        crystals = () if result is None else result.crystals
        hkl = []
        for crystal in crystals:
            shifted = frame.detector.moved(*crystal.detector_shift).q(*at, frame.photon_energy)[0]
            hkl.append(tuple((crystal.real_basis @ shifted).tolist()))
        pixel = int(ss), int(fs)
        return Pixel(
            panel=frame.detector.panels[panel].name,
            fs=fs,
            ss=ss,
            value=float(frame.data[pixel]),
            is_bad=bool(frame.bad[pixel]),
            resolution=1 / length if length > 1e-9 else math.inf,
            hkl=tuple(hkl),
            reflection="" if result is None else _reflection(plane, result, x, y),
        )


def owners(result: FrameResult, frame: Frame) -> NDArray[np.int8]:
    """The lattice that explains each peak best, −1 where none makes all its indices nearly whole, (n,)."""
    peaks = result.peaks
    best = np.full(len(peaks), CLAIM)
    found = np.full(len(peaks), -1, dtype=np.int8)
    for i, crystal in enumerate(result.crystals):
        detector = frame.detector.moved(*crystal.detector_shift)
        hkl = detector.q(peaks.panel, peaks.fs, peaks.ss, frame.photon_energy) @ crystal.real_basis.T
        distance = np.abs(hkl - np.rint(hkl)).max(axis=1, initial=0.0)
        closer = distance < best
        found[closer], best[closer] = i, distance[closer]
    return found


def header(picture: Picture) -> Mapping[str, Any]:
    """All of a picture but its pixels, as JSON."""
    return {"scale": asdict(picture.scale), "region": asdict(picture.region), "contrast": picture.contrast}


def _values(frame: Frame, plane: Plane, region: Region) -> NDArray[np.float32]:
    """Pixels of the picture whose centres are in a region, with their values."""
    wide, high = region.columns * region.step, region.rows * region.step
    if wide * high > _MOST_NUMBERS:
        return np.zeros((0, 3), np.float32)
    found: list[NDArray[np.float32]] = []
    corner, right, down = plane.panels
    bounds = frame.detector.arrays.bounds
    corners = np.array([(region.x + i * wide, region.y + j * high) for i in (0, 1) for j in (0, 1)])
    for p in range(len(bounds)):
        fs_ss = (corners - corner[p]) @ np.linalg.inv(np.array([right[p], down[p]]))
        (f0, s0), (f1, s1) = np.floor(fs_ss.min(axis=0)), np.ceil(fs_ss.max(axis=0))
        f = np.arange(max(0, f0), min(f1, bounds[p, 3] - bounds[p, 2]), dtype=np.int64)
        s = np.arange(max(0, s0), min(s1, bounds[p, 1] - bounds[p, 0]), dtype=np.int64)
        if len(f) and len(s):
            ff, ss = (axis.ravel() for axis in np.meshgrid(f, s))
            at = corner[p] + (ff + 0.5)[:, None] * right[p] + (ss + 0.5)[:, None] * down[p]
            value = frame.data[bounds[p, 0] + ss, bounds[p, 2] + ff]
            found.append(np.column_stack([at, value]).astype(np.float32))
    return np.concatenate(found) if found else np.zeros((0, 3), np.float32)


def _reflection(plane: Plane, result: FrameResult, x: float, y: float) -> str:
    """The predicted reflection within 3 pixels, if any, in words."""
    words, nearest = "", 3.0
    for i, reflections in enumerate(result.reflections):
        places = plane.places(reflections.panel, reflections.fs, reflections.ss)
        distance = np.hypot(*(places - np.array([x, y])).T) if len(places) else np.array([np.inf])
        k = int(np.argmin(distance))
        if distance[k] < nearest:
            nearest = float(distance[k])
            r = reflections
            lattice = f", lattice {i + 1}" if len(result.crystals) > 1 else ""
            words = f"({r.h[k]} {r.k[k]} {r.l[k]}) I = {r.intensity[k]:.0f} ± {r.sigma[k]:.0f}{lattice}"
    return words
