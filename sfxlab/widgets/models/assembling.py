"""Any part of a detector at any magnification: the panels where they are, the largest pixel shown.

Coordinates of the picture are in detector pixels, x to the right and y downwards from the upper left corner of what the
panels cover, seen as in `sfxlab.pictures`: +x of the laboratory to the right, +y upwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.geometry import HC_EV_ANGSTROM, Detector

GAP, PANEL, BAD = 0, 1, 2
"""What is at a place: no panel, good pixels only, or a bad pixel among them."""

RING_SPACINGS = (40, 30, 20, 15, 10, 8, 6, 5, 4, 3.5, 3, 2.5, 2.2, 2, 1.8, 1.6, 1.5, 1.4, 1.3, 1.2, 1.1, 1, 0.9, 0.8)
"""d of the rings that may be drawn, Å."""


@dataclass(frozen=True)
class Region:
    """A rectangle of the picture as a grid of screen pixels."""

    x: float
    """Left edge, in pixels of the picture."""
    y: float
    """Upper edge."""
    step: float
    """Pixels of the picture to a screen pixel."""
    columns: int
    rows: int


@dataclass(frozen=True)
class Plane:
    """The plane that a detector is seen in."""

    detector: Detector
    left: float
    """x of the picture's left edge, metres."""
    top: float
    """y of its upper edge, metres."""
    step: float
    """Width of a pixel of the picture, that of the smallest detector pixels, metres."""
    columns: int
    rows: int

    @cached_property
    def panels(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Corner, fs step and ss step of each panel in the picture, (n, 2) each."""
        a = self.detector.arrays
        corner = np.stack([a.corner[:, 0] - self.left, self.top - a.corner[:, 1]], axis=1) / self.step
        flip = np.array([1.0, -1.0]) / self.step
        return corner, a.fs[:, :2] * flip, a.ss[:, :2] * flip

    @property
    def beam(self) -> tuple[float, float]:
        """Where the beam goes through, (x, y)."""
        return -self.left / self.step, self.top / self.step

    def places(self, panel: NDArray[Any], fs: NDArray[Any], ss: NDArray[Any]) -> NDArray[np.float32]:
        """x and y, (n, 2), of slab coordinates on panels, (n,) each."""
        corner, right, down = self.panels
        bounds = self.detector.arrays.bounds
        f, s = np.asarray(fs, np.float64) - bounds[panel, 2], np.asarray(ss, np.float64) - bounds[panel, 0]
        return np.asarray(corner[panel] + f[:, None] * right[panel] + s[:, None] * down[panel], dtype=np.float32)

    def pixel_at(self, x: float, y: float) -> tuple[int, float, float] | None:
        """Panel and slab coordinates fs, ss at a place of the picture; None where there is no panel."""
        corner, right, down = self.panels
        bounds = self.detector.arrays.bounds
        dx, dy = x - corner[:, 0], y - corner[:, 1]
        det = right[:, 0] * down[:, 1] - right[:, 1] * down[:, 0]
        f, s = (dx * down[:, 1] - dy * down[:, 0]) / det, (dy * right[:, 0] - dx * right[:, 1]) / det
        inside = (f >= 0) & (f < bounds[:, 3] - bounds[:, 2]) & (s >= 0) & (s < bounds[:, 1] - bounds[:, 0])
        if not inside.any():
            return None
        # Where panels overlap, the last one is drawn on top in `fill`; any will do here.
        p = int(np.flatnonzero(inside)[-1])
        return p, float(f[p] + bounds[p, 2]), float(s[p] + bounds[p, 0])

    def outlines(self) -> NDArray[np.float64]:
        """The four corners of each panel in order, (n, 4, 2)."""
        corner, right, down = self.panels
        bounds = self.detector.arrays.bounds
        f, s = (bounds[:, 3] - bounds[:, 2])[:, None] * right, (bounds[:, 1] - bounds[:, 0])[:, None] * down
        return np.stack([corner, corner + f, corner + f + s, corner + s], axis=1)

    def rings(self, photon_energy: float) -> list[tuple[float, float]]:
        """d in Å and radius in pixels of rings of equal resolution, for a detector at right angles to the beam."""
        found = []
        for d in RING_SPACINGS:
            sine = HC_EV_ANGSTROM / photon_energy / (2 * d)
            if sine < math.sqrt(0.5):
                found.append((float(d), self.detector.camera_length * math.tan(2 * math.asin(sine)) / self.step))
        return found

    @property
    def whole(self) -> Region:
        """The whole picture, a screen pixel for each of its pixels."""
        return Region(0.0, 0.0, 1.0, self.columns, self.rows)


@lru_cache(maxsize=8)
def plane_of(detector: Detector) -> Plane:
    """The plane of a detector."""
    a = detector.arrays
    sizes = (a.bounds[:, 3] - a.bounds[:, 2])[:, None, None], (a.bounds[:, 1] - a.bounds[:, 0])[:, None, None]
    ends = np.array([(0, 0), (1, 0), (0, 1), (1, 1)])
    right, down = a.fs[:, None, :2] * sizes[0], a.ss[:, None, :2] * sizes[1]
    corners = (a.corner[:, None, :2] + ends[:, :1] * right + ends[:, 1:] * down).reshape(-1, 2)
    (left, bottom), (end, top) = corners.min(axis=0), corners.max(axis=0)
    step = float(np.linalg.norm(a.fs, axis=1).min())
    columns, rows = (max(1, math.ceil(extent / step - 1e-6)) for extent in (end - left, top - bottom))
    return Plane(detector, float(left), float(top), step, columns, rows)


def assemble_region(
    data: NDArray[Any], bad: NDArray[np.uint8], plane: Plane, region: Region
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """The largest good pixel under each screen pixel, −∞ where there is none, and what is there: `GAP`, `PANEL`, `BAD`.

    `data` and `bad` have the shape of the slab; both results are (rows, columns) of the region.
    """
    image = np.full((region.rows, region.columns), -np.inf, dtype=np.float32)
    kind = np.zeros((region.rows, region.columns), dtype=np.uint8)
    corner, right, down = plane.panels
    start = np.array([region.x, region.y])
    grid = (corner - start) / region.step, right / region.step, down / region.step
    fill(data, bad, plane.detector.arrays.bounds, *grid, image, kind)
    return image, kind


@njit(cache=True, nogil=True)
def fill(
    data: NDArray[Any],
    bad: NDArray[np.uint8],
    bounds: NDArray[np.int64],
    corner: NDArray[np.float64],
    right: NDArray[np.float64],
    down: NDArray[np.float64],
    image: NDArray[np.float32],
    kind: NDArray[np.uint8],
) -> None:
    """Take the pixels of all panels into `image` and `kind`, (rows, columns); panels as in `Plane.panels`, (n, 2) each.

    Pixels go where their centres fall, unless each is so large that it covers the centre of a place anyway. Where some
    places would be left out, because pixels are large or turned, places also look up the pixel under their centre.
    """
    rows, columns = image.shape
    for p in range(len(bounds)):
        ax, ay, bx, by = right[p, 0], right[p, 1], down[p, 0], down[p, 1]
        n_fs, n_ss = bounds[p, 3] - bounds[p, 2], bounds[p, 1] - bounds[p, 0]
        det = ax * by - ay * bx
        # The part of the panel that the image may show, and the part of the image that the panel may cover.
        f0, f1, s0, s1 = np.inf, -np.inf, np.inf, -np.inf
        x0, x1, y0, y1 = np.inf, -np.inf, np.inf, -np.inf
        for i in range(4):
            dx, dy = (i % 2) * columns - corner[p, 0], (i // 2) * rows - corner[p, 1]
            f, s = (dx * by - dy * bx) / det, (dy * ax - dx * ay) / det
            f0, f1, s0, s1 = min(f0, f), max(f1, f), min(s0, s), max(s1, s)
            f, s = (i % 2) * n_fs, (i // 2) * n_ss
            x, y = corner[p, 0] + f * ax + s * bx, corner[p, 1] + f * ay + s * by
            x0, x1, y0, y1 = min(x0, x), max(x1, x), min(y0, y), max(y1, y)
        if x0 >= columns or x1 <= 0 or y0 >= rows or y1 <= 0:
            continue
        # A square whose sides are longer than √2 covers the centre of a place, however it is turned.
        covers = min(ax * ax + ay * ay, bx * bx + by * by) >= 2
        if not covers:
            first, end = max(0, math.floor(f0) - 1), min(n_fs, math.ceil(f1) + 1)
            for s in range(max(0, math.floor(s0) - 1), min(n_ss, math.ceil(s1) + 1)):
                values = data[bounds[p, 0] + s, bounds[p, 2] + first : bounds[p, 2] + end]
                worthless = bad[bounds[p, 0] + s, bounds[p, 2] + first : bounds[p, 2] + end]
                x = corner[p, 0] + (first + 0.5) * ax + (s + 0.5) * bx
                y = corner[p, 1] + (first + 0.5) * ay + (s + 0.5) * by
                for i in range(len(values)):
                    # Conversion cuts off: −0.5 would become 0.
                    column, row = int(x + i * ax + 1.0) - 1, int(y + i * ay + 1.0) - 1
                    if 0 <= column < columns and 0 <= row < rows:
                        if worthless[i] != 0:
                            kind[row, column] = BAD
                        else:
                            if kind[row, column] == GAP:
                                kind[row, column] = PANEL
                            if values[i] > image[row, column]:
                                image[row, column] = values[i]
        if covers or abs(ax) + abs(bx) > 1 or abs(ay) + abs(by) > 1:
            for row in range(max(0, math.floor(y0)), min(rows, math.ceil(y1))):
                dy = row + 0.5 - corner[p, 1]
                for column in range(max(0, math.floor(x0)), min(columns, math.ceil(x1))):
                    dx = column + 0.5 - corner[p, 0]
                    f, s = (dx * by - dy * bx) / det, (dy * ax - dx * ay) / det
                    if f < 0 or s < 0 or f >= n_fs or s >= n_ss:
                        continue
                    i, j = bounds[p, 0] + int(s), bounds[p, 2] + int(f)
                    if bad[i, j] != 0:
                        kind[row, column] = BAD
                    else:
                        if kind[row, column] == GAP:
                            kind[row, column] = PANEL
                        if data[i, j] > image[row, column]:
                            image[row, column] = data[i, j]
