"""Frames as pictures for papers: every pixel, with rings, marks, a scale bar and a legend where wanted."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sfxlab.pipeline import FrameResult
from sfxlab.widgets.models.assembling import Plane, Region, plane_of
from sfxlab.widgets.models.colour_maps import COLOUR_MAPS, INVERTED_GREY, LATTICE_COLOURS, MARK_COLOURS
from sfxlab.widgets.models.frame_viewer import FrameViewerModel, Marks, Picture
from sfxlab.widgets.models.pixel_codes import MASKED, NO_PANEL

Colour = tuple[int, ...]

_GAP: Colour = (255, 255, 255)
_MASKED: Colour = (200, 200, 200)
_BAR_SHARE = 0.2
"""Length of the scale bar, of the picture's width, about."""


@dataclass(frozen=True)
class PaperPicture:
    """What a picture shall show."""

    contrast: Mapping[str, Any] = field(default_factory=dict)
    """As in the viewer: low, high, gamma, map."""
    layers: Mapping[str, bool] = field(default_factory=dict)
    """As in the viewer: peaks, predictions, rings, panels, mask, beam."""
    region: tuple[float, float, float, float] | None = None
    """Left, upper, right, lower edge in pixels of the picture; None for all of it."""
    scale: float = 1.0
    """Pixels of the PNG to a pixel of the picture; 1 is full resolution."""
    scale_bar: bool = True
    """A bar of a round length on the detector."""
    legend: bool = True
    """What the marks mean, below the picture."""

    def draw(self, model: FrameViewerModel, number: int, result: FrameResult | None = None) -> Image.Image:
        """The picture of a frame, with what became of it. Raises `FrameError`."""
        frame = model.frame(number)
        plane = plane_of(frame.detector)
        x0, y0, x1, y1 = self.region or (0.0, 0.0, float(plane.columns), float(plane.rows))
        columns, rows = (max(1, math.ceil((b - a) * self.scale - 1e-6)) for a, b in ((x0, x1), (y0, y1)))
        picture = model.picture(
            number, Region(x0, y0, 1 / self.scale, columns, rows), 16, show_bad=self.layers.get("mask", False)
        )
        image = Image.fromarray(self._colours(picture))
        marks, unit = model.marks(number, result), max(image.size) / 1000
        canvas = _Canvas(ImageDraw.Draw(image), picture.region, unit)
        if self.layers.get("panels"):
            for outline in plane.outlines():
                canvas.polygon(outline)
        if self.layers.get("rings"):
            canvas.rings(plane, frame.photon_energy)
        if self.layers.get("beam"):
            canvas.cross(*plane.beam)
        if self.layers.get("predictions"):
            for i, places in enumerate(marks.predictions):
                canvas.boxes(places, LATTICE_COLOURS[i % len(LATTICE_COLOURS)])
        if self.layers.get("peaks"):
            for owner in range(-1, len(marks.predictions)):
                canvas.circles(marks.peaks[marks.owners == owner], _owner_colour(owner))
        if self.scale_bar:
            canvas.scale_bar(plane.step)
        return _with_legend(image, self._entries(marks), unit) if self.legend else image

    def _colours(self, picture: Picture) -> NDArray[np.uint8]:
        """The picture in colours, (rows, columns, 3)."""
        codes = np.arange(1 << picture.scale.bits)
        low, high = (
            automatic if self.contrast.get(name) is None else float(self.contrast[name])
            for name, automatic in zip(("low", "high"), picture.contrast, strict=True)
        )
        share = np.clip((np.nan_to_num(picture.scale.values(codes)) - low) / max(high - low, 1e-9), 0, 1)
        table = COLOUR_MAPS[self.contrast.get("map", INVERTED_GREY)]
        colours = table[np.rint(255 * share ** float(self.contrast.get("gamma", 1.0))).astype(np.int64)]
        colours[NO_PANEL], colours[MASKED] = _GAP, MARK_COLOURS["bad"] if self.layers.get("mask") else _MASKED
        return np.asarray(colours[picture.codes])

    def _entries(self, marks: Marks) -> list[tuple[str, Colour, str]]:
        """Shape, colour and words of each entry of the legend."""
        entries: list[tuple[str, Colour, str]] = []
        if self.layers.get("peaks"):
            if np.any(marks.owners < 0):
                entries.append(("circle", MARK_COLOURS["peak"], "peaks not indexed"))
            entries += [("circle", _owner_colour(i), f"peaks, lattice {i + 1}") for i in range(len(marks.cells))]
        if self.layers.get("predictions"):
            entries += [("box", _owner_colour(i), f"predicted, lattice {i + 1}") for i in range(len(marks.cells))]
        return entries


def png_of(picture: Image.Image) -> bytes:
    """A picture as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _owner_colour(owner: int) -> Colour:
    return MARK_COLOURS["peak"] if owner < 0 else LATTICE_COLOURS[owner % len(LATTICE_COLOURS)]


@dataclass(frozen=True)
class _Canvas:
    """Marks on a region of the picture; `unit` is a thousandth of its longer side."""

    pen: ImageDraw.ImageDraw
    region: Region
    unit: float

    @property
    def _line(self) -> int:
        return max(1, round(1.4 * self.unit))

    def _on(self, places: NDArray[Any]) -> list[tuple[float, float]]:
        return [tuple(place) for place in ((places - (self.region.x, self.region.y)) / self.region.step).tolist()]

    def circles(self, places: NDArray[np.float32], colour: Colour) -> None:
        r = max(7 * self.unit, 4 / self.region.step)
        for x, y in self._on(places):
            self.pen.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=self._line)

    def boxes(self, places: NDArray[np.float32], colour: Colour) -> None:
        r = max(4 * self.unit, 2.5 / self.region.step)
        for x, y in self._on(places):
            self.pen.rectangle((x - r, y - r, x + r, y + r), outline=colour, width=self._line)

    def polygon(self, outline: NDArray[np.float64]) -> None:
        self.pen.polygon(self._on(outline), outline=MARK_COLOURS["ring"], width=self._line)

    def cross(self, x: float, y: float) -> None:
        ((x, y),), r = self._on(np.array([[x, y]])), 12 * self.unit
        for ends in ((x - r, y, x + r, y), (x, y - r, x, y + r)):
            self.pen.line(ends, fill=MARK_COLOURS["ring"], width=self._line)

    def text(self, x: float, y: float, words: str, anchor: str = "mm") -> None:
        font, halo = ImageFont.load_default(size=22 * self.unit), max(1, round(2 * self.unit))
        self.pen.text(
            (x, y), words, fill=MARK_COLOURS["ring"], font=font, anchor=anchor, stroke_width=halo,
            stroke_fill=(255, 255, 255),
        )  # fmt: skip

    def rings(self, plane: Plane, photon_energy: float) -> None:
        ((x, y),) = self._on(np.array([plane.beam]))
        drawn = 0.0
        for d, radius in plane.rings(photon_energy):
            r = radius / self.region.step
            if r - drawn < 90 * self.unit:
                continue
            drawn = r
            self.pen.ellipse((x - r, y - r, x + r, y + r), outline=MARK_COLOURS["ring"], width=self._line)
            # Pillow's own font has no Å.
            self.text(x + r * math.sqrt(0.5), y + r * math.sqrt(0.5), f"{d:g} A")

    def scale_bar(self, step: float) -> None:
        """A bar of 1, 2 or 5 times a power of ten of millimetres; `step` is the size of a pixel of the picture, m."""
        wanted = _BAR_SHARE * self.region.columns * self.region.step * step * 1e3
        power = 10.0 ** math.floor(math.log10(wanted))
        length = max(k * power for k in (1, 2, 5) if k * power <= wanted)
        pixels = length * 1e-3 / step / self.region.step
        x, y, half = 30 * self.unit, self.region.rows - 30 * self.unit, 3 * self.unit
        self.pen.rectangle(
            (x, y - half, x + pixels, y + half), fill=(0, 0, 0), outline=(255, 255, 255), width=max(1, round(self.unit))
        )
        self.text(x + pixels / 2, y - 18 * self.unit, f"{length:g} mm")


def _with_legend(image: Image.Image, entries: list[tuple[str, Colour, str]], unit: float) -> Image.Image:
    """The picture with a strip below it that says what marks mean."""
    if not entries:
        return image
    font, row = ImageFont.load_default(size=22 * unit), 34 * unit
    wide = max(font.getlength(words) for *_, words in entries) + 60 * unit
    across = max(1, int((image.width - 20 * unit) // wide))
    extra = math.ceil((len(entries) + across - 1) // across * row + 12 * unit)
    whole = Image.new("RGB", (image.width, image.height + extra), (255, 255, 255))
    whole.paste(image)
    pen, r, line = ImageDraw.Draw(whole), 8 * unit, max(1, round(2 * unit))
    for i, (shape, colour, words) in enumerate(entries):
        x, y = 20 * unit + (i % across) * wide + r, image.height + (i // across + 0.6) * row
        draw = pen.ellipse if shape == "circle" else pen.rectangle
        draw((x - r, y - r, x + r, y + r), outline=colour, width=line)
        pen.text((x + 2.2 * r, y), words, fill=(0, 0, 0), font=font, anchor="lm")
    return whole
