"""Detectors to simulate with: where the panels are, and what each pixel is worth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import GeometryError, suggestion
from sfxlab.geometry import Detector, Panel, read_geometry

BEAM_STOP_RADIUS = 1.2e-3
"""Metres on the detector."""
BEAM_STOP_ARM_WIDTH = 0.9e-3
"""Metres on the detector."""
BEAM_STOP_ARM_TRANSMISSION = 0.2
_BEAM_STOP_ARM_DIRECTION = math.radians(104.0)
_HOT_FRACTION = 6e-5
_DEAD_FRACTION = 3e-4


@dataclass(frozen=True)
class Instrument:
    """A detector with its flaws."""

    detector: Detector
    """Where the pixels truly are."""
    nominal: Detector
    """Where the geometry file says they are."""
    dtype: type[np.uint16] | type[np.float32]
    """Of the recorded pixels; integers are whole photons."""
    readout_noise: float
    """Standard deviation, photons; 0 for a counting detector."""
    mask: NDArray[np.uint16]
    """1 where the data file says that a pixel is bad, (slow, fast)."""
    full_mask: NDArray[np.uint16]
    """1 where a pixel is bad, (slow, fast): `mask` and the hot pixels that it leaves out."""
    dead: NDArray[np.intp]
    """Flat indices of the pixels that always read 0."""
    hot: NDArray[np.intp]
    """Flat indices of the hot pixels."""
    hot_mean: NDArray[np.float64]
    """Mean reading of the hot pixels, photons."""
    transmission: NDArray[np.float32]
    """Of the beam stop in front of each pixel, (slow, fast)."""
    gain: NDArray[np.float32]
    """ADU per photon of each pixel, (slow, fast)."""
    saturation: NDArray[np.float32]
    """Highest reading of each pixel, ADU, (slow, fast); infinite where the panel names none."""


@dataclass(frozen=True)
class Preset:
    """A detector without flaws."""

    detector: Detector
    """At its usual distance."""
    dtype: type[np.uint16] | type[np.float32] = np.uint16
    """Of the recorded pixels."""
    readout_noise: float = 0.0
    """Standard deviation, photons."""


def load_preset(name: str | Path, photon_energy: float) -> Preset:
    """The detector of a name in `DETECTORS`, or of a CrystFEL geometry file, at a photon energy in eV.

    A geometry file whose gain is one unit per photon gives 16-bit counts, any other single-precision numbers.
    Raises `GeometryError` where there is no such detector, or the file does not say how far away it is.
    """
    if Path(name).suffix == ".geom":
        return _from_file(Path(name), photon_energy)
    if name not in _PRESETS:
        raise GeometryError(
            f"no detector is called '{name}'",
            expected=", ".join(_PRESETS) + ", or a .geom file",
            remedy=suggestion(str(name), _PRESETS),
        )
    return _PRESETS[str(name)]()


def _from_file(path: Path, photon_energy: float) -> Preset:
    geometry = read_geometry(path)
    length = geometry.camera_length
    if isinstance(length.value, str):
        raise GeometryError(
            "the camera length is kept in data files that do not exist yet",
            path=path, found=f"clen = {length.value}", expected="a number", remedy="write 'clen' as a number in metres",
        )  # fmt: skip
    detector = geometry.detector(length.convert(length.value))
    counting = all(panel.gain(photon_energy) == 1 for panel in detector.panels)
    return Preset(detector, np.uint16 if counting else np.float32)


def misaligned(detector: Detector, pixels: float, rng: np.random.Generator) -> Detector:
    """The detector with every panel shifted by a random error of `pixels` (standard deviation) along x and y."""
    panels = []
    for panel in detector.panels:
        dx, dy = rng.normal(0, pixels * panel.pixel_size, 2)
        x, y, z = panel.corner
        panels.append(replace(panel, corner=(x + dx, y + dy, z)))
    return replace(detector, panels=tuple(panels))


def build_instrument(
    detector: Detector,
    nominal: Detector,
    preset: Preset,
    photon_energy: float,
    rng: np.random.Generator,
) -> Instrument:
    """Give a detector of the kind of a preset dead and hot pixels, half of the hot ones in no mask, and a beam stop.

    The core of the beam stop is masked, its arm is not. The photon energy, eV, sets the gain.
    """
    exists = detector.panel_map >= 0
    pixels = np.flatnonzero(exists)
    flawed = rng.choice(pixels, max(2, round((_HOT_FRACTION + _DEAD_FRACTION) * len(pixels))), replace=False)
    n_hot = max(2, round(_HOT_FRACTION * len(pixels)))
    hot, dead = flawed[:n_hot], flawed[n_hot:]
    transmission = _beam_stop(detector)
    mask = (~exists).astype(np.uint16)
    mask[transmission == 0] = 1
    mask.flat[dead] = 1
    mask.flat[hot[::2]] = 1
    full_mask = mask.copy()
    full_mask.flat[hot] = 1
    hot_mean = rng.uniform(80, 2000, n_hot)
    arrays = detector.arrays
    gain = _per_pixel(arrays.gain(detector, photon_energy), detector)
    # An integer pixel cannot hold more than its type.
    most = float(np.iinfo(np.uint16).max) if preset.dtype is np.uint16 else math.inf
    saturation = _per_pixel(np.minimum(arrays.max_adu, most), detector)
    return Instrument(
        detector, nominal, preset.dtype, preset.readout_noise, mask, full_mask, dead, hot, hot_mean, transmission,
        gain, saturation,
    )  # fmt: skip


def _per_pixel(values: NDArray[np.float64], detector: Detector) -> NDArray[np.float32]:
    return np.where(detector.panel_map >= 0, values[detector.panel_map], 1).astype(np.float32)


def _beam_stop(detector: Detector) -> NDArray[np.float32]:
    x, y = detector.xy
    cos, sin = math.cos(_BEAM_STOP_ARM_DIRECTION), math.sin(_BEAM_STOP_ARM_DIRECTION)
    along, across = x * cos + y * sin, y * cos - x * sin
    transmission = np.ones(detector.shape, dtype=np.float32)
    transmission[(along > 0) & (np.abs(across) < BEAM_STOP_ARM_WIDTH / 2)] = BEAM_STOP_ARM_TRANSMISSION
    transmission[np.hypot(x, y) < BEAM_STOP_RADIUS] = 0
    return transmission


def _placed(
    name: str,
    origin: tuple[int, int],
    size: tuple[int, int],
    centre: tuple[float, float, float],
    turn: float,
    pixel: float,
    tilt: tuple[float, float] = (0.0, 0.0),
) -> Panel:
    """A panel of `size` (rows, columns) around `centre` (metres), `turn` (degrees) from fs along x, ss along −y.

    `tilt` gives the z components of fs and ss, in pixels per pixel; `origin` is the row and column in the slab.
    """
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    fs = np.array([cos, sin, tilt[0]])
    ss = np.array([sin, -cos, tilt[1]])
    fs, ss = fs / np.linalg.norm(fs) * pixel, ss / np.linalg.norm(ss) * pixel
    corner = np.array(centre) - size[1] / 2 * fs - size[0] / 2 * ss
    row, column = origin
    return Panel(
        name, row, column, *size,
        corner=(float(corner[0]), float(corner[1]), float(corner[2])),
        fs=(float(fs[0]), float(fs[1]), float(fs[2])),
        ss=(float(ss[0]), float(ss[1]), float(ss[2])),
        file_fs=column, file_ss=row, adu_per_photon=1.0, max_adu=20000.0,
    )  # fmt: skip


def _at(camera_length: float, panels: tuple[Panel, ...], shape: tuple[int, int]) -> Detector:
    """Panels whose z is relative to the detector's plane, put at a distance in metres."""
    return Detector(panels, shape, 0.0).moved(z=camera_length)


def _multipanel_1m() -> tuple[Panel, ...]:
    """Two modules of four panels of 512 × 256 pixels of 75 µm, the lower module turned by 180°.

    Every panel is a little shifted, turned and tilted, as panels are.
    """
    rng = np.random.default_rng(20)
    pixel = 75e-6
    panels = []
    for module, column in np.ndindex(2, 4):
        offset = rng.normal(0, 0.4 * pixel, 2)
        # Gaps of 6 pixels between panels, 12 to 13 between the modules.
        x = (column - 1.5) * 262 * pixel * (1 if module == 0 else -1) + offset[0]
        y = (262.3 if module == 0 else -262.3) * pixel + offset[1]
        turn = rng.normal(0, 0.15) + (0.0 if module == 0 else 180.0)
        f, s = rng.normal(0, 5e-4, 2)
        centre = (float(x), float(y), float(rng.normal(0, 60e-6)))
        panels.append(
            _placed(f"m{module}a{column}", (512 * module, 256 * column), (512, 256), centre, turn, pixel,
                    (float(f), float(s)))
        )  # fmt: skip
    return tuple(panels)


def _eiger_4m() -> tuple[Panel, ...]:
    """Four rows of two modules of 514 × 1030 pixels of 75 µm; the gaps are part of the slab."""
    pixel = 75e-6
    panels = []
    for row, column in np.ndindex(4, 2):
        first = (551 * row, 1040 * column)
        x = (first[1] + 515 - 1035) * pixel
        y = -(first[0] + 257 - 1083.5) * pixel
        panels.append(_placed(f"m{row}{column}", first, (514, 1030), (x, y, 0.0), 0.0, pixel))
    return tuple(panels)


def _agipd_1m() -> tuple[Panel, ...]:
    """Sixteen modules of eight tiles of 64 × 128 pixels of 200 µm in four quadrants around a central hole."""
    pixel = 200e-6
    panels = []
    for module, tile in np.ndindex(16, 8):
        quadrant, position = divmod(module, 4)
        right, up = (1, -1, -1, 1)[quadrant], (1, 1, -1, -1)[quadrant]
        # Modules run outwards along x; opposite quadrants are shifted against each other to leave the hole.
        along = right * ((tile - 3.5) * 66 + 264) + 14 * up
        across = (1.5 - position) * 158 + 316 * up - 14 * right
        turn = 90.0 if right > 0 else -90.0
        centre = (along * pixel, across * pixel, 0.0)
        panels.append(_placed(f"p{module}a{tile}", (512 * module + 64 * tile, 0), (64, 128), centre, turn, pixel))
    return tuple(panels)


_PRESETS: dict[str, Callable[[], Preset]] = {
    "multipanel-1M": lambda: Preset(_at(0.065, _multipanel_1m(), (1024, 1024))),
    "eiger-4M-like": lambda: Preset(_at(0.110, _eiger_4m(), (2167, 2070))),
    "agipd-like-1M": lambda: Preset(_at(0.150, _agipd_1m(), (8192, 128)), np.float32, 0.15),
}
DETECTORS = tuple(_PRESETS)
"""The names of the detectors that can be simulated."""
