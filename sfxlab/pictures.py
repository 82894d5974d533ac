"""Frames as PNG pictures: the panels where they are in the laboratory, with peaks and predicted reflections drawn in.

Pictures show +x to the right and +y upwards, as CrystFEL's programs do: the view is from the detector towards the
source (METHODS.md section 1.1).
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sfxlab.bad_pixels import KINDS, LearnedMask
from sfxlab.frames import Frame
from sfxlab.geometry import HC_EV_ANGSTROM, Detector, Panel
from sfxlab.integration import Reflections
from sfxlab.peaks import Peaks

Colour = tuple[int, int, int]

GAP: Colour = (232, 236, 241)
BAD: Colour = (247, 205, 160)
RING: Colour = (95, 105, 120)
PEAK: Colour = (0, 114, 178)
LATTICES: tuple[Colour, ...] = ((213, 94, 0), (0, 158, 115), (204, 121, 167), (150, 110, 0))
"""Colours of the lattices of a frame, told apart by colour-blind readers too (Okabe and Ito, 2008)."""

_KIND_COLOURS: dict[str, Colour] = {
    "hot": (213, 94, 0), "dead": (0, 0, 0), "noisy": (204, 121, 167), "shadowed": (86, 180, 233),
}  # fmt: skip
_RING_SPACINGS = (40, 30, 20, 15, 10, 8, 6, 5, 4, 3.5, 3, 2.5, 2.2, 2, 1.8, 1.6, 1.5, 1.4, 1.3, 1.2, 1.1, 1, 0.9, 0.8)
# Marks are drawn so much larger and scaled down: Pillow draws without anti-aliasing.
_OVERSAMPLING = 3


@dataclass(frozen=True)
class Assembly:
    """A slab put together as seen in the laboratory."""

    image: NDArray[np.float32]
    """Largest good pixel under each picture pixel, ADU, (rows, columns); NaN where there is none."""
    inside: NDArray[np.bool_]
    """Where there is a panel, (rows, columns). Inside with a NaN is bad."""
    left: float
    """x of the picture's left edge, metres."""
    top: float
    """y of its upper edge, metres."""
    step: float
    """Width of a picture pixel, metres."""

    def place(self, x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Picture coordinates (column, row; the corner of the first pixel is 0, 0) of x, y in metres."""
        columns = (np.asarray(x, dtype=np.float64) - self.left) / self.step
        return columns, (self.top - np.asarray(y, dtype=np.float64)) / self.step


def assemble(data: NDArray[Any], bad: NDArray[Any] | None, detector: Detector, limit: int = 1000) -> Assembly:
    """Put a slab together, the longer side of the picture being `limit` pixels.

    `data` and `bad` (non-zero where not to be trusted) have the shape of the slab. Where several slab pixels share a
    picture pixel, the largest good one is shown, so that small spots survive.
    """
    corners = np.concatenate([_corners(panel) for panel in detector.panels])
    left, bottom = corners.min(axis=0)
    right, top = corners.max(axis=0)
    step = max(right - left, top - bottom) / limit
    columns, rows = (max(1, math.ceil(extent / step - 1e-6)) for extent in (right - left, top - bottom))
    picture = Assembly(
        np.full((rows, columns), -np.inf, dtype=np.float32), np.zeros((rows, columns), dtype=np.bool_), left, top, step
    )
    for panel in detector.panels:
        window = np.s_[panel.row : panel.row + panel.rows, panel.column : panel.column + panel.columns]
        values = data[window].astype(np.float32)
        worthless = ~np.isfinite(values)
        if bad is not None:
            worthless |= bad[window] != 0
        values[worthless] = -np.inf
        _add_largest(picture, panel, values)
        _fill_holes(picture, panel, values)
    picture.image[np.isneginf(picture.image)] = np.nan
    return picture


def frame_png(
    frame: Frame, peaks: Peaks | None = None, reflections: Sequence[Reflections] = (), width: int = 1000
) -> bytes:
    """A frame as PNG: dark spots on white, peaks circled, predicted reflections of each lattice in small squares."""
    return slab_png(
        frame.data,
        frame.bad,
        frame.detector,
        photon_energy=frame.photon_energy,
        peaks=peaks,
        reflections=reflections,
        width=width,
    )


def slab_png(
    data: NDArray[Any],
    bad: NDArray[Any] | None,
    detector: Detector,
    *,
    photon_energy: float = math.nan,
    peaks: Peaks | None = None,
    reflections: Sequence[Reflections] = (),
    width: int = 1000,
) -> bytes:
    """Any slab of pixels as PNG, see `frame_png`. Resolution rings are drawn where the photon energy (eV) is known."""
    assembly = assemble(data, bad, detector, width)
    picture = Image.fromarray(_shades(assembly)).convert("RGBA")
    size = (picture.width * _OVERSAMPLING, picture.height * _OVERSAMPLING)
    marks = Image.new("RGBA", size, (255, 255, 255, 0))
    draw = ImageDraw.Draw(marks)
    if math.isfinite(photon_energy):
        _draw_rings(draw, assembly, detector, photon_energy)
    unit = width / 1000 * _OVERSAMPLING
    for i, spots in enumerate(reflections):
        for x, y in _places(spots, detector, assembly):
            box = (x - 4 * unit, y - 4 * unit, x + 4 * unit, y + 4 * unit)
            draw.rectangle(box, outline=LATTICES[i % len(LATTICES)], width=round(1.2 * unit))
    if peaks is not None:
        for x, y in _places(peaks, detector, assembly):
            box = (x - 8 * unit, y - 8 * unit, x + 8 * unit, y + 8 * unit)
            draw.ellipse(box, outline=PEAK, width=round(1.6 * unit))
    picture.alpha_composite(marks.resize(picture.size, Image.Resampling.BOX))
    return png_bytes(picture)


def mask_png(learned: LearnedMask, detector: Detector, width: int = 1000) -> bytes:
    """Learned bad pixels as PNG: shadows as areas, single pixels as dots that are larger than the pixels."""
    shadowed = (learned.kinds & KINDS["shadowed"]).astype(np.uint8)
    assembly = assemble(shadowed, None, detector, width)
    picture = np.full((*assembly.image.shape, 3), GAP, dtype=np.uint8)
    picture[assembly.inside] = 255
    picture[assembly.image > 0] = _KIND_COLOURS["shadowed"]
    rows, columns = assembly.image.shape
    legend = round(0.035 * width)
    image = Image.new("RGB", (columns * _OVERSAMPLING, (rows + legend) * _OVERSAMPLING), (255, 255, 255))
    image.paste(Image.fromarray(picture).resize((columns * _OVERSAMPLING, rows * _OVERSAMPLING)), (0, 0))
    draw = ImageDraw.Draw(image)
    size = _OVERSAMPLING * max(2.5 * width / 1000, 1.6)
    for name in ("noisy", "dead", "hot"):
        ss, fs = np.nonzero((learned.kinds & KINDS[name] != 0) & (detector.panel_map >= 0))
        places = detector.positions(detector.panel_map[ss, fs], fs + 0.5, ss + 0.5)
        for x, y in zip(*(_OVERSAMPLING * p for p in assembly.place(places[:, 0], places[:, 1])), strict=True):
            draw.ellipse((x - size, y - size, x + size, y + size), fill=_KIND_COLOURS[name])
    _draw_legend(draw, learned.counts, (columns * _OVERSAMPLING, rows * _OVERSAMPLING, legend * _OVERSAMPLING))
    return png_bytes(image.resize((columns, rows + legend), Image.Resampling.BOX))


def _draw_legend(draw: ImageDraw.ImageDraw, counts: Mapping[str, int], place: tuple[int, int, int]) -> None:
    """Name and number of each kind of bad pixels, below a picture of a width and height, in a strip of a height."""
    width, top, height = place
    font = ImageFont.load_default(size=0.6 * height)
    for i, (name, number) in enumerate(counts.items()):
        x, y, size = (0.02 + 0.245 * i) * width, top + 0.5 * height, 0.2 * height
        draw.ellipse((x - size, y - size, x + size, y + size), fill=_KIND_COLOURS[name])
        draw.text((x + 2 * size, y), f"{name} {number}", fill=RING, font=font, anchor="lm")


def png_bytes(picture: Image.Image) -> bytes:
    """A picture as PNG of at most 128 colours, which is a third of the size and looks the same."""
    buffer = io.BytesIO()
    picture.convert("RGB").quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        buffer, "PNG", optimize=True
    )
    return buffer.getvalue()


def _corners(panel: Panel) -> NDArray[np.float64]:
    """x and y of the four corners, (4, 2), metres."""
    ends = np.array([(0, 0), (panel.columns, 0), (0, panel.rows), (panel.columns, panel.rows)])
    return np.asarray(ends @ np.array([panel.fs[:2], panel.ss[:2]]) + np.array(panel.corner[:2]))


def _add_largest(picture: Assembly, panel: Panel, values: NDArray[np.float32]) -> None:
    """Take each slab pixel into the picture pixel that its centre falls on."""
    fs, ss = np.arange(panel.columns) + 0.5, (np.arange(panel.rows) + 0.5)[:, None]
    x, y = (panel.corner[i] + fs * panel.fs[i] + ss * panel.ss[i] for i in range(2))
    column, row = (np.floor(p).astype(np.int64) for p in picture.place(x, y))
    rows, columns = picture.image.shape
    flat = np.clip(row, 0, rows - 1) * columns + np.clip(column, 0, columns - 1)
    picture.inside.ravel()[flat] = True
    np.maximum.at(picture.image.ravel(), flat.ravel(), values.ravel())


def _fill_holes(picture: Assembly, panel: Panel, values: NDArray[np.float32]) -> None:
    """Look up the slab pixel under each picture pixel: a turned or magnified panel would have holes otherwise."""
    column, row = picture.place(*_corners(panel).T)
    rows, columns = picture.image.shape
    window = np.s_[
        max(0, math.floor(row.min())) : min(rows, math.ceil(row.max())),
        max(0, math.floor(column.min())) : min(columns, math.ceil(column.max())),
    ]
    row_index, column_index = np.mgrid[window]
    x = picture.left + (column_index + 0.5) * picture.step - panel.corner[0]
    y = picture.top - (row_index + 0.5) * picture.step - panel.corner[1]
    inverse = np.linalg.inv(np.array([panel.fs[:2], panel.ss[:2]]))
    fs = np.floor(x * inverse[0, 0] + y * inverse[1, 0]).astype(np.int64)
    ss = np.floor(x * inverse[0, 1] + y * inverse[1, 1]).astype(np.int64)
    covered = (fs >= 0) & (fs < panel.columns) & (ss >= 0) & (ss < panel.rows)
    picture.inside[window] |= covered
    image = picture.image[window]
    image[covered] = np.maximum(image[covered], values[ss[covered], fs[covered]])


def _shades(assembly: Assembly) -> NDArray[np.uint8]:
    """The picture in colours, (rows, columns, 3): white for background, black for the strongest 0.1 %."""
    good = np.isfinite(assembly.image)
    shades = np.empty((*assembly.image.shape, 3), dtype=np.uint8)
    shades[...] = GAP
    shades[assembly.inside & ~good] = BAD
    if good.any():
        values = assembly.image[good]
        low, high = np.percentile(values, [10, 99.9])
        if high <= low:
            high = max(float(values.max()), low + 1)
        # Steps of 8 keep the file small, and no eye tells them apart in noise.
        grey = np.rint(31 * np.clip((values - low) / (high - low), 0, 1)) * 8
        shades[good] = (255 - grey).astype(np.uint8)[:, None]
    return shades


def _places(spots: Peaks | Reflections, detector: Detector, assembly: Assembly) -> list[tuple[float, float]]:
    """Where spots are on the enlarged picture."""
    positions = detector.positions(spots.panel, spots.fs, spots.ss)
    column, row = assembly.place(positions[:, 0], positions[:, 1])
    return list(zip((_OVERSAMPLING * column).tolist(), (_OVERSAMPLING * row).tolist(), strict=True))


def _draw_rings(draw: ImageDraw.ImageDraw, assembly: Assembly, detector: Detector, photon_energy: float) -> None:
    """Circles of equal resolution around the beam, for a detector at right angles to it."""
    rows, columns = assembly.image.shape
    centre_x, centre_y = (float(p) * _OVERSAMPLING for p in assembly.place(np.array(0.0), np.array(0.0)))
    largest = math.hypot(
        max(abs(assembly.left), abs(assembly.left + columns * assembly.step)),
        max(abs(assembly.top), abs(assembly.top - rows * assembly.step)),
    )
    font = ImageFont.load_default(size=0.02 * max(rows, columns) * _OVERSAMPLING)
    drawn = 0.0
    for spacing in _RING_SPACINGS:
        sine = HC_EV_ANGSTROM / photon_energy / (2 * spacing)
        if sine >= math.sqrt(0.5):
            break
        radius = detector.camera_length * math.tan(2 * math.asin(sine))
        if radius > largest or radius - drawn < 0.15 * largest:
            continue
        drawn = radius
        r = radius / assembly.step * _OVERSAMPLING
        draw.ellipse((centre_x - r, centre_y - r, centre_x + r, centre_y + r), outline=RING, width=_OVERSAMPLING)
        # Pillow's own font has no Å. At 45°, labels of the largest rings are inside the picture too.
        at = (centre_x + r * math.sqrt(0.5), centre_y + r * math.sqrt(0.5))
        draw.text(
            at,
            f"{spacing:g} A",
            fill=RING,
            font=font,
            anchor="mm",
            stroke_width=_OVERSAMPLING,
            stroke_fill=(255, 255, 255),
        )
