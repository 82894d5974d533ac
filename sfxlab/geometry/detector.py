"""Where each pixel is in the laboratory, and what it is worth.

Laboratory frame (CrystFEL, NeXus/McStas): z along the beam, y up, x completing the right-handed set; the origin is
the sample. Everything in metres. Pixel coordinates (fs, ss) are continuous; pixel i covers [i, i + 1), so the centre
of the first pixel is at 0.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sfxlab.geometry.panel_grid import PanelGrid, grid_of
from sfxlab.geometry.pixel_maps import RADIUS, TWO_SINE, X, Y, map_pixels

HC_EV_ANGSTROM = 12398.4198
"""Planck's constant times the speed of light, eV Å."""

Vector = tuple[float, float, float]

_SAMPLED = 1 << 16
"""Pixels of a sample of a detector, at most about."""


@dataclass(frozen=True)
class Panel:
    """A flat rectangle of pixels.

    The panel occupies `rows × columns` pixels of the slab (`Frame.data`), beginning at slab row `row` and column
    `column`. `file_fs` and `file_ss` are the coordinates of its first pixel in the file's own array (`min_fs`,
    `min_ss` of a geometry file); for most detectors they equal `column` and `row`.
    """

    name: str
    row: int
    column: int
    rows: int
    columns: int
    corner: Vector
    """Outer corner of the first pixel, metres."""
    fs: Vector
    """Step of one pixel along the fast axis, metres."""
    ss: Vector
    """Step of one pixel along the slow axis, metres."""
    file_fs: int = 0
    file_ss: int = 0
    adu_per_photon: float | None = None
    """Detector units that one photon gives, where constant; `adu_per_ev` otherwise."""
    adu_per_ev: float | None = None
    max_adu: float = math.inf
    """Pixel values from here on are saturated."""

    @property
    def pixel_size(self) -> float:
        """Length of a pixel along fs, metres."""
        return math.hypot(*self.fs)

    def gain(self, photon_energy: float) -> float:
        """ADU per photon at a photon energy in eV; 1 where the geometry does not say."""
        if self.adu_per_ev is not None:
            return self.adu_per_ev * photon_energy
        return self.adu_per_photon if self.adu_per_photon is not None else 1.0


@dataclass(frozen=True)
class PanelArrays:
    """The panels of a detector as arrays for kernels; row i of each belongs to panel i."""

    corner: NDArray[np.float64]
    """(n, 3), metres."""
    fs: NDArray[np.float64]
    """(n, 3), metres per pixel."""
    ss: NDArray[np.float64]
    """(n, 3), metres per pixel."""
    bounds: NDArray[np.int64]
    """(n, 4): first row, row after the last, first column, column after the last, in the slab."""
    max_adu: NDArray[np.float64]
    """(n,)."""

    def gain(self, detector: Detector, photon_energy: float) -> NDArray[np.float64]:
        """ADU per photon of each panel, (n,)."""
        return np.array([panel.gain(photon_energy) for panel in detector.panels], dtype=np.float64)


@dataclass(frozen=True)
class Detector:
    """Panels that are read out together.

    `shape` is that of the slab, (slow, fast). Pixels of the slab that belong to no panel do not exist.
    `camera_length` (metres) is the nominal distance, for display; the panels' corners already contain it.
    """

    panels: tuple[Panel, ...]
    shape: tuple[int, int]
    camera_length: float

    @cached_property
    def arrays(self) -> PanelArrays:
        """The panels as arrays."""
        panels = self.panels
        return PanelArrays(
            corner=np.array([p.corner for p in panels], dtype=np.float64),
            fs=np.array([p.fs for p in panels], dtype=np.float64),
            ss=np.array([p.ss for p in panels], dtype=np.float64),
            bounds=np.array([(p.row, p.row + p.rows, p.column, p.column + p.columns) for p in panels], dtype=np.int64),
            max_adu=np.array([p.max_adu for p in panels], dtype=np.float64),
        )

    @cached_property
    def panel_grid(self) -> PanelGrid:
        """Which panels a direction may meet."""
        a = self.arrays
        return grid_of(a.corner, a.fs, a.ss, [(p.columns, p.rows) for p in self.panels])

    @cached_property
    def panel_map(self) -> NDArray[np.int16]:
        """Index of the panel that each slab pixel belongs to, −1 where none, `shape`."""
        panel_map = np.full(self.shape, -1, dtype=np.int16)
        for i, p in enumerate(self.panels):
            panel_map[p.row : p.row + p.rows, p.column : p.column + p.columns] = i
        return panel_map

    @cached_property
    def xy(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """x and y of the centre of each slab pixel, metres, each `shape`; NaN outside the panels."""
        return self._pixel_map(X), self._pixel_map(Y)

    @cached_property
    def radius(self) -> NDArray[np.uint16]:
        """Distance of each slab pixel from the beam axis in pixels, rounded, `shape`; 65535 outside the panels."""
        radius = np.full(self.shape, 65535, dtype=np.uint16)
        a, pixel = self.arrays, self.panels[0].pixel_size
        map_pixels(RADIUS, a.bounds, a.corner / pixel, a.fs / pixel, a.ss / pixel, radius)
        return radius

    @cached_property
    def _two_sine(self) -> NDArray[np.float32]:
        """Wavelength times |q|, `shape`, NaN outside the panels."""
        return self._pixel_map(TWO_SINE)

    def _pixel_map(self, quantity: int) -> NDArray[np.float32]:
        """A quantity of each slab pixel, `shape`, NaN outside the panels."""
        values = np.full(self.shape, np.nan, dtype=np.float32)
        a = self.arrays
        map_pixels(quantity, a.bounds, a.corner, a.fs, a.ss, values)
        return values

    @cached_property
    def sampled(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Some 50,000 pixels, evenly spread: their places in the flattened slab, and wavelength times |q|, (n,)."""
        stride = max(1, math.ceil(math.sqrt(sum(p.rows * p.columns for p in self.panels) / _SAMPLED)))
        places, sines = [], []
        for i, p in enumerate(self.panels):
            ss, fs = np.mgrid[stride // 2 : p.rows : stride, stride // 2 : p.columns : stride].reshape(2, -1)
            ss, fs = ss + p.row, fs + p.column
            places.append(ss * self.shape[1] + fs)
            sines.append(np.linalg.norm(self.q(np.full(len(fs), i), fs + 0.5, ss + 0.5, HC_EV_ANGSTROM), axis=1))
        return np.concatenate(places), np.concatenate(sines).astype(np.float32)

    def __reduce__(self) -> tuple[type[Detector], tuple[object, ...]]:
        # The cached maps are as large as frames and are made anew where they are needed.
        return Detector, (self.panels, self.shape, self.camera_length)

    def positions(
        self, panel: NDArray[np.integer], fs: NDArray[np.floating], ss: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Laboratory positions, (n, 3) in metres, of slab coordinates fs, ss (n,) on panels (n,)."""
        a = self.arrays
        f = np.asarray(fs, dtype=np.float64) - a.bounds[panel, 2]
        s = np.asarray(ss, dtype=np.float64) - a.bounds[panel, 0]
        return np.asarray(a.corner[panel] + f[:, None] * a.fs[panel] + s[:, None] * a.ss[panel])

    def q(
        self,
        panel: NDArray[np.integer],
        fs: NDArray[np.floating],
        ss: NDArray[np.floating],
        photon_energy: float,
    ) -> NDArray[np.float64]:
        """Scattering vectors, (n, 3) in 1/Å (no 2π), of slab coordinates on panels; photon energy in eV.

        q = (X/|X| − ẑ)/λ, METHODS.md section 1.1.
        """
        x = self.positions(panel, fs, ss)
        q = x / np.linalg.norm(x, axis=1)[:, None]
        q[:, 2] -= 1.0
        return np.asarray(q * (photon_energy / HC_EV_ANGSTROM))

    def resolution_map(self, photon_energy: float) -> NDArray[np.float32]:
        """|q| = 1/d at the centre of each slab pixel, 1/Å, `shape`, NaN outside the panels.

        Photon energy in eV.
        """
        return np.asarray(self._two_sine * np.float32(photon_energy / HC_EV_ANGSTROM))

    def panel_of(self, fs: NDArray[np.floating], ss: NDArray[np.floating]) -> NDArray[np.int16]:
        """Index of the panel under each slab coordinate, −1 where there is none or outside the slab, (n,)."""
        row, column = np.floor(ss).astype(np.int64), np.floor(fs).astype(np.int64)
        inside = (row >= 0) & (row < self.shape[0]) & (column >= 0) & (column < self.shape[1])
        found = np.full(len(row), -1, dtype=np.int16)
        found[inside] = self.panel_map[row[inside], column[inside]]
        return found

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Detector:
        """The detector shifted as a whole, metres."""
        panels = tuple(replace(p, corner=(p.corner[0] + x, p.corner[1] + y, p.corner[2] + z)) for p in self.panels)
        return Detector(panels, self.shape, self.camera_length + z)
