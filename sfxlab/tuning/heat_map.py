"""A sweep as a picture: two parameters, and how many lattices each pair of their values finds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sfxlab.errors import RecipeError
from sfxlab.pictures import GAP, LATTICES, PEAK, RING, png_bytes
from sfxlab.tuning.choice import Proposal, propose, score_of
from sfxlab.tuning.sweep import Sweep

_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)
_CELL_WIDTH, _CELL_HEIGHT = 132, 84
_TOP, _BOTTOM, _LEAST_WIDTH = 150, 100, 620
_THIN, _THICK = 3, 7
# Drawn so much larger and scaled down: Pillow draws without anti-aliasing.
_OVERSAMPLING = 2


def heat_map(sweep: Sweep, names: tuple[str, str] | None = None, proposal: Proposal | None = None) -> bytes:
    """Lattices in 100 frames for each pair of values of two parameters, the first two by default, as PNG.

    Of the settings that share such a pair, the proposal, the recipe to begin with, or else that of the best score is
    shown. A thin frame marks the recipe to begin with, a thick one the proposal. Raises `RecipeError` for a name that
    was not varied.
    """
    proposal = proposal or propose(sweep)
    across, down = _axes(sweep, names)
    columns, rows = list(sweep.grid[across]), list(sweep.grid[down]) if down else [None]
    places = [
        (columns.index(setting[across]), len(rows) - 1 - (rows.index(setting[down]) if down else 0))
        for setting in sweep.settings
    ]
    # From the worst to the best: what comes last is what is seen.
    order = [*np.argsort(sweep.mean(score_of(sweep)), kind="stable").tolist(), sweep.start, proposal.setting]
    shown = {places[setting]: setting for setting in order}
    left = 36 + 10 * max(len(down or ""), 8)
    width, height = left + _CELL_WIDTH * len(columns) + 40, _TOP + _CELL_HEIGHT * len(rows) + _BOTTOM
    page = _Page(max(width, _LEAST_WIDTH), height, left)
    _draw_cells(page, sweep, shown)
    page.frame(places[sweep.start], _THIN)
    if proposal.is_better:
        page.frame(places[proposal.setting], _THICK)
    _draw_words(page, sweep, across, down)
    _draw_legend(page, proposal.is_better)
    return png_bytes(page.picture.resize((page.width, page.height), Image.Resampling.BOX))


class _Page:
    """A picture to draw in, in its own pixels whatever the oversampling."""

    def __init__(self, width: int, height: int, left: int) -> None:
        """`left` is where the first column of cells begins."""
        self.width, self.height, self.left = width, height, left
        self.picture = Image.new("RGB", (width * _OVERSAMPLING, height * _OVERSAMPLING), _WHITE)
        self._draw = ImageDraw.Draw(self.picture)

    def text(self, x: float, y: float, text: str, size: int, anchor: str, fill: tuple[int, int, int] = RING) -> None:
        font = ImageFont.load_default(size=size * _OVERSAMPLING)
        self._draw.text((x * _OVERSAMPLING, y * _OVERSAMPLING), text, fill=fill, font=font, anchor=anchor)

    def box(self, corners: Sequence[float], line: int, outline: Any, fill: Any = None) -> None:
        scaled = [corner * _OVERSAMPLING for corner in corners]
        self._draw.rectangle(scaled, outline=outline, width=line * _OVERSAMPLING, fill=fill)

    def cell(self, place: tuple[int, int]) -> tuple[int, int, int, int]:
        x, y = self.left + place[0] * _CELL_WIDTH, _TOP + place[1] * _CELL_HEIGHT
        return x, y, x + _CELL_WIDTH, y + _CELL_HEIGHT

    def frame(self, place: tuple[int, int], line: int) -> None:
        x0, y0, x1, y1 = self.cell(place)
        self.box((x0 + 3, y0 + 3, x1 - 3, y1 - 3), line, LATTICES[0])


def _axes(sweep: Sweep, names: tuple[str, str] | None) -> tuple[str, str | None]:
    if names is None:
        first, *others = sweep.grid
        return first, others[0] if others else None
    for name in names:
        if name not in sweep.grid:
            raise RecipeError("this parameter was not varied", found=name, expected=" or ".join(sweep.grid))
    return names


def _draw_cells(page: _Page, sweep: Sweep, shown: dict[tuple[int, int], int]) -> None:
    lattices = 100 * sweep.mean(sweep.measure("lattices"))
    false_hits = sweep.mean(sweep.measure("hit") > 0, sweep.without_lattice)
    values = lattices[list(shown.values())]
    low, high = float(values.min()), float(values.max())
    for place, setting in shown.items():
        level = (lattices[setting] - low) / (high - low) if high > low else 1.0
        red, green, blue = (round(light + level * (dark - light)) for light, dark in zip(GAP, PEAK, strict=True))
        box = page.cell(place)
        page.box(box, 1, _WHITE, (red, green, blue))
        ink = _WHITE if level > 0.55 else _BLACK
        centre = (box[0] + box[2]) / 2
        page.text(centre, box[1] + 34, f"{lattices[setting]:.1f}", 24, "mm", ink)
        if not math.isnan(false_hits[setting]):
            page.text(centre, box[1] + 62, f"{false_hits[setting]:.0%} false hits", 13, "mm", ink)


def _draw_words(page: _Page, sweep: Sweep, across: str, down: str | None) -> None:
    page.text(20, 26, "Lattices in 100 frames", 22, "lm")
    others = ", ".join(name for name in sweep.grid if name not in (across, down))
    if others:
        page.text(20, 56, f"each at the best {others}", 15, "lm")
    columns = sweep.grid[across]
    page.text(page.left + len(columns) * _CELL_WIDTH / 2, _TOP - 48, across, 18, "mm")
    for column, value in enumerate(columns):
        page.text(page.left + (column + 0.5) * _CELL_WIDTH, _TOP - 18, _short(value), 18, "mm")
    if down:
        page.text(20, _TOP - 18, down, 18, "lm")
        for row, value in enumerate(reversed(sweep.grid[down])):
            page.text(page.left - 16, _TOP + (row + 0.5) * _CELL_HEIGHT, _short(value), 18, "rm")


def _draw_legend(page: _Page, is_better: bool) -> None:
    entries = (
        ((_THIN, "recipe to begin with"), (_THICK, "proposal")) if is_better else ((_THIN, "recipe, as good as any"),)
    )
    for number, (line, text) in enumerate(entries):
        x, y = 20 + 260 * number, page.height - 60
        page.box((x, y, x + 34, y + 26), line, LATTICES[0])
        page.text(x + 46, y + 13, text, 17, "lm")


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
