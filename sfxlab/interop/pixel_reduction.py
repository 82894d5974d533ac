"""Pixels made smaller at the price of information: photons counted, pixels binned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import GeometryError, InputError
from sfxlab.frames import Frame
from sfxlab.geometry import Geometry, Panel
from sfxlab.geometry.detector import Vector
from sfxlab.geometry.geometry import PanelSource
from sfxlab.geometry.masks import window
from sfxlab.peaks import Peaks

_LARGEST_BIN = 16


@dataclass(frozen=True)
class PixelReduction:
    """What is lost of the pixels; nothing by default."""

    bin: int = 1
    """So many by so many pixels become one, their sum, which is bad if any of them is. Rows and columns of a panel that
    are left over are dropped."""
    photons: Literal["uint8", "uint16"] | None = None
    """Pixels become whole photons (value / gain, rounded, at least 0) of this type; more than it holds is saturated."""

    def __post_init__(self) -> None:
        if not 1 <= self.bin <= _LARGEST_BIN:
            raise InputError("pixels cannot be binned like this", found=self.bin, expected=f"1 to {_LARGEST_BIN}")

    @property
    def is_lossless(self) -> bool:
        """Whether all pixels stay what they were."""
        return self.bin == 1 and self.photons is None

    def __str__(self) -> str:
        words = []
        if self.photons is not None:
            words.append(f"photons counted (value / gain, rounded, clipped to {self.photons})")
        if self.bin > 1:
            words.append(f"{self.bin} x {self.bin} pixels summed")
        return "lossy: " + "; ".join(words) if words else "lossless"


def reduced_panels(geometry: Geometry, reduction: PixelReduction, photon_energy: float) -> Geometry:
    """The geometry of the reduced slab; that of the frames where nothing is lost.

    Where `adu_per_eV` sets the gain, the saturation in photons is that at `photon_energy` (eV). Raises `GeometryError`
    where a panel is smaller than a bin, or photons are to be counted and its gain is unknown.
    """
    if reduction.is_lossless:
        return geometry
    panels = tuple(_reduced_panel(source, reduction, photon_energy, geometry.path) for source in geometry.panels)
    # Bad regions are in pixels of before; frames carry what they say in their masks.
    return replace(geometry, panels=panels, bad_regions=(), text="", path=None)


def reduced_pixels(
    frame: Frame, reduction: PixelReduction, geometry: Geometry
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Pixels and bad pixels of a frame in the slab of `geometry`, which `reduced_panels` made.

    Bad pixels are 0 in a sum and a count. A sum with a saturated pixel in it is saturated, by `max_adu` or by what
    `reduced_saturation` gives; it is bad where neither says from which value on.
    """
    if reduction.is_lossless:
        return frame.data, frame.bad
    saturation = reduced_saturation(frame, reduction, geometry)
    data = np.zeros(geometry.shape, dtype=_reduced_type(frame.data.dtype, reduction))
    bad = np.ones(geometry.shape, dtype=np.uint8)
    for before, source in zip(frame.detector.panels, geometry.panels, strict=True):
        after = source.panel
        values, marks = frame.data[window(before)], frame.bad[window(before)] != 0
        saturated = values >= _limits(frame, before)
        values = np.where(marks, 0, values)
        if reduction.photons is not None:
            values = np.maximum(np.rint(values / before.gain(frame.photon_energy)), 0)
        values = _bins(values, reduction.bin, after).sum(axis=(1, 3))
        most = np.broadcast_to(after.max_adu if saturation is None else saturation[window(after)], values.shape)
        lost = _bins(saturated, reduction.bin, after).any(axis=(1, 3)) | (values > most)
        values[lost] = np.where(np.isfinite(most), np.ceil(most), 0)[lost]
        data[window(after)] = values
        bad[window(after)] = _bins(marks, reduction.bin, after).any(axis=(1, 3)) | (lost & np.isinf(most))
    return data, bad


def reduced_saturation(frame: Frame, reduction: PixelReduction, geometry: Geometry) -> NDArray[np.float32] | None:
    """A frame's saturation map in the slab of `geometry`: of a sum, the sum of its pixels' values. None without one."""
    if frame.saturation_map is None or reduction.is_lossless:
        return frame.saturation_map
    reduced = np.full(geometry.shape, np.inf, dtype=np.float32)
    for before, source in zip(frame.detector.panels, geometry.panels, strict=True):
        limits = _limits(frame, before)
        if frame.data.dtype.kind in "iu":
            limits = np.minimum(limits, np.iinfo(frame.data.dtype).max)
        if reduction.photons is not None:
            limits = np.maximum(np.rint(limits / before.gain(frame.photon_energy)), 1)
        sums = _bins(limits, reduction.bin, source.panel).sum(axis=(1, 3))
        reduced[window(source.panel)] = np.minimum(sums, source.panel.max_adu)
    return reduced


def _limits(frame: Frame, panel: Panel) -> NDArray[np.float64]:
    """Values from which on a panel's pixels are saturated, (rows, columns)."""
    limits = np.full((panel.rows, panel.columns), panel.max_adu)
    return limits if frame.saturation_map is None else np.minimum(limits, frame.saturation_map[window(panel)])


def reduced_peaks(peaks: Peaks, before: Geometry, after: Geometry, reduction: PixelReduction) -> Peaks:
    """The peaks in coordinates of the reduced slab."""
    if reduction.bin == 1:
        return peaks
    corner = np.array([(s.panel.column, s.panel.row) for s in before.panels], dtype=np.float32)[peaks.panel]
    moved = np.array([(s.panel.column, s.panel.row) for s in after.panels], dtype=np.float32)[peaks.panel]
    return replace(
        peaks,
        fs=(peaks.fs - corner[:, 0]) / np.float32(reduction.bin) + moved[:, 0],
        ss=(peaks.ss - corner[:, 1]) / np.float32(reduction.bin) + moved[:, 1],
    )


def _reduced_panel(
    source: PanelSource, reduction: PixelReduction, photon_energy: float, path: str | None
) -> PanelSource:
    panel, n = source.panel, reduction.bin
    if min(panel.rows, panel.columns) < n:
        raise GeometryError(
            "a panel is smaller than a bin", path=path, place=f"panel {panel.name}",
            found=f"{panel.rows} × {panel.columns} pixels", expected=f"{n} × {n} or more", remedy="bin less",
        )  # fmt: skip
    reduced = replace(
        panel, row=panel.row // n, column=panel.column // n, rows=panel.rows // n, columns=panel.columns // n,
        fs=_scaled(panel.fs, n), ss=_scaled(panel.ss, n),
        max_adu=panel.max_adu * n * n,
    )  # fmt: skip
    if reduction.photons is not None:
        reduced = _in_photons(reduced, np.iinfo(reduction.photons).max, photon_energy, path)
    return replace(source, panel=reduced, resolution=source.resolution / n)


def _scaled(step: Vector, n: int) -> Vector:
    return n * step[0], n * step[1], n * step[2]


def _in_photons(panel: Panel, most: int, photon_energy: float, path: str | None) -> Panel:
    if panel.adu_per_photon is None and panel.adu_per_ev is None:
        raise GeometryError(
            "photons cannot be counted where the gain is unknown", path=path, place=f"panel {panel.name}",
            expected="adu_per_photon or adu_per_eV", remedy="write it into the geometry file and process again",
        )  # fmt: skip
    saturation = panel.max_adu / panel.gain(photon_energy)
    return replace(
        panel, adu_per_photon=1.0, adu_per_ev=None,
        max_adu=float(most if saturation >= most else max(round(saturation), 1)),
    )  # fmt: skip


def _bins(values: NDArray[Any], n: int, panel: Panel) -> NDArray[Any]:
    """A panel's pixels as (rows, n, columns, n) of the reduced panel."""
    return values[: panel.rows * n, : panel.columns * n].reshape(panel.rows, n, panel.columns, n)


def _reduced_type(dtype: np.dtype[Any], reduction: PixelReduction) -> np.dtype[Any]:
    if reduction.photons is not None:
        return np.dtype(reduction.photons)
    # 16 × 16 values of 8, 16 or 32 bits fit into twice as many.
    return dtype if dtype.kind == "f" else np.dtype(f"{dtype.kind}{min(2 * dtype.itemsize, 8)}")
