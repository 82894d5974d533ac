"""A detector as a geometry file describes it, before a camera length makes a `Detector` of it.

METHODS.md section 1.2. Whatever a geometry file can say is kept here: where each panel's pixels lie in the data
files, which of them not to trust, and where camera length and photon energy come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from sfxlab.geometry.detector import HC_EV_ANGSTROM, Detector, Panel

ELECTRON_REST_ENERGY = 510998.95
"""eV."""

_LENGTHS = {"m": 1.0, "mm": 1e-3}
UNITS = {
    "photon_energy": {"eV": 1.0, "keV": 1e3},
    "wavelength": {"m": 1e10, "A": 1.0},
    "electron_voltage": {"V": 1.0, "kV": 1e3},
    "clen": _LENGTHS,
    "detector_shift_x": _LENGTHS,
    "detector_shift_y": _LENGTHS,
}
"""Units that each quantity may be given in, with their size in eV, Å, V or metres."""


def stack_blocks(panels: Sequence[PanelSource]) -> tuple[PanelSource, ...]:
    """The panels with their places in the slab: blocks follow one another along ss, in order of first appearance."""
    heights: dict[tuple[str, Dims], int] = {}
    for p in panels:
        heights[p.data, p.dims] = max(heights.get((p.data, p.dims), 0), p.panel.file_ss + p.panel.rows)
    first_row: dict[tuple[str, Dims], int] = {}
    row = 0
    for key, height in heights.items():
        first_row[key] = row
        row += height
    return tuple(
        replace(
            p,
            panel=replace(p.panel, row=first_row[p.data, p.dims] + p.panel.file_ss, column=p.panel.file_fs),
        )
        for p in panels
    )


Dims = tuple[int | str, ...]
"""Axes of a data array, slowest first: `"%"` numbers frames, `"ss"` and `"fs"` pixels, an integer is fixed."""


@dataclass(frozen=True)
class Quantity:
    """A length or an energy, written in the geometry file or kept in the data files."""

    key: str
    """The word of the geometry file: `photon_energy`, `wavelength`, `electron_voltage`, `clen`, `detector_shift_x`…"""
    value: float | str
    """The number, or the HDF5 path of the dataset that holds it."""
    unit: str

    def convert(self, number: float) -> float:
        """A number in `unit` as metres, or as eV.

        A wavelength, and an electron's accelerating voltage (taken relativistically, METHODS.md section 1.1), becomes
        the energy of photons of that wavelength.
        """
        scaled = number * UNITS[self.key][self.unit]
        if self.key == "wavelength":
            return HC_EV_ANGSTROM / scaled if scaled else math.inf
        if self.key == "electron_voltage":
            return math.sqrt(max(scaled * (scaled + 2 * ELECTRON_REST_ENERGY), 0.0))
        return scaled


@dataclass(frozen=True)
class MaskSource:
    """An array of flag bits. A pixel is bad if a bit of `bad_bits` is set or one of `good_bits` is not."""

    number: int
    """0 to 7."""
    data: str
    """HDF5 path; `%` stands for the frame's own part."""
    file: str | None = None
    """HDF5 file; the data file where None."""
    good_bits: int = 0
    bad_bits: int = 0


@dataclass(frozen=True, order=True)
class Flag:
    """Pixel values that mean a bad pixel: strictly less than, strictly more than, or equal to `value`."""

    kind: Literal["lessthan", "morethan", "equal"]
    value: float


@dataclass(frozen=True)
class PanelSource:
    """A panel, and where its pixels come from."""

    panel: Panel
    """z of its corner is `coffset` alone: the camera length is still to be added."""
    resolution: float
    """`res`, the pixels per metre that corner and steps were given in."""
    data: str = "/data/data"
    """HDF5 path of the data array; `%` stands for the frame's own part."""
    dims: Dims = ("ss", "fs")
    masks: tuple[MaskSource, ...] = ()
    flags: tuple[Flag, ...] = ()
    no_index: bool = False
    """The whole panel is bad."""
    mask_edge_pixels: int = 0
    """Width of the border that is bad."""
    saturation_map: str | None = None
    """HDF5 path of the values at which single pixels are saturated, besides `max_adu`; `%` as in masks."""
    saturation_map_file: str | None = None
    """HDF5 file; the data file where None."""


@dataclass(frozen=True)
class BadPixels:
    """A rectangle of bad pixels of one panel, in the data array's coordinates, both ends included."""

    name: str
    panel: str
    min_fs: int
    max_fs: int
    min_ss: int
    max_ss: int


@dataclass(frozen=True)
class BadArea:
    """A rectangle in the laboratory, in pixel widths from the beam axis; every pixel centred in it is bad."""

    name: str
    min_x: float
    max_x: float
    min_y: float
    max_y: float


@dataclass(frozen=True)
class Group:
    """Panels or groups that move together."""

    name: str
    members: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """One rectangle of the slab that one data array fills."""

    data: str
    dims: Dims
    row: int
    """Slab row that the array's row 0 goes to; its column 0 goes to slab column 0."""
    rows: int
    columns: int


@dataclass(frozen=True)
class Geometry:
    """A geometry file. `detector(camera_length)` makes a `Detector` of it."""

    panels: tuple[PanelSource, ...]
    photon_energy: Quantity
    camera_length: Quantity
    detector_shift_x: Quantity | None = None
    detector_shift_y: Quantity | None = None
    bandwidth: float | None = None
    """Standard deviation of the spectrum over its mean."""
    bad_regions: tuple[BadPixels | BadArea, ...] = ()
    groups: tuple[Group, ...] = ()
    rigid_groups: tuple[Group, ...] = ()
    """Groups and collections (`collection_…`) as CrystFEL wrote them before 0.11; kept, not used."""
    peak_list: str | None = None
    peak_list_type: str | None = None
    other: tuple[tuple[str, str], ...] = ()
    """Keys that mean nothing here, with their values."""
    text: str = field(default="", compare=False, repr=False)
    """The file, verbatim."""
    path: str | None = field(default=None, compare=False)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The rectangles of the slab and the arrays that fill them, from the top."""
        found: dict[tuple[str, Dims], Block] = {}
        for p in self.panels:
            bottom, right = p.panel.file_ss + p.panel.rows, p.panel.file_fs + p.panel.columns
            row = p.panel.row - p.panel.file_ss
            known = found.get((p.data, p.dims), Block(p.data, p.dims, row, 0, 0))
            found[p.data, p.dims] = replace(known, rows=max(known.rows, bottom), columns=max(known.columns, right))
        return tuple(found.values())

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Shape of the slab, (slow, fast)."""
        return max(b.row + b.rows for b in self.blocks), max(b.columns for b in self.blocks)

    def detector(self, camera_length: float, shift: tuple[float, float] = (0.0, 0.0)) -> Detector:
        """The detector at a camera length (`clen`, to which each panel's `coffset` is added), moved by `shift`; metres.

        Its own `camera_length` is the mean over the panels, with `coffset`.
        """
        panels = tuple(
            replace(
                p.panel,
                corner=(
                    p.panel.corner[0] + shift[0],
                    p.panel.corner[1] + shift[1],
                    p.panel.corner[2] + camera_length,
                ),
            )
            for p in self.panels
        )
        offsets = [p.panel.corner[2] for p in self.panels]
        return Detector(panels, self.shape, camera_length + math.fsum(offsets) / len(offsets))

    def with_detector(
        self, detector: Detector, camera_length: float, shift: tuple[float, float] = (0.0, 0.0)
    ) -> Geometry:
        """The same geometry with the panels where `detector` has them: the inverse of `detector(…)`."""
        panels = tuple(
            replace(
                source,
                panel=replace(
                    source.panel,
                    corner=(
                        p.corner[0] - shift[0],
                        p.corner[1] - shift[1],
                        p.corner[2] - camera_length,
                    ),
                    fs=p.fs,
                    ss=p.ss,
                ),
            )
            for source, p in zip(self.panels, detector.panels, strict=True)
        )
        return replace(self, panels=panels, text="", path=None)
