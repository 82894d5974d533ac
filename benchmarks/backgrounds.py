"""Blanks and hits on structured backgrounds: how many blanks are taken for hits, and how many hits are kept.

    python benchmarks/backgrounds.py [FIRST SEED] [LAST SEED]

Four small detectors, gains of 1 to 100 ADU a photon, backgrounds of 0.01 to 100 photons, all drawn from the seed. A hit
counts where 15 of its spots or more stand 5.5 standard deviations above the background.
"""

from __future__ import annotations

import sys
from functools import cache

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from sfxlab.frames import Frame, FrameId
from sfxlab.geometry import Detector, Panel
from sfxlab.peaks import find_peaks, is_hit

PIXEL = 1e-4
KINDS = ("flat", "water", "ice", "sharp rings", "shadow", "pedestals")
LAYOUTS = ("square", "two", "tiles", "off axis")


def main(first: int, last: int) -> None:
    """Print a row for each kind of background."""
    table = Table("background", "blanks", "taken for hits", "most peaks in a blank", "hits", "kept", "recall of strong")
    for kind in KINDS:
        blanks = [find_peaks(frame_of(2 * seed, kind, hit=False)[0]) for seed in range(first, last)]
        hits = [scored(2 * seed + 1, kind) for seed in range(first, last, 3)]
        clear = [kept for strong, _, kept in hits if strong >= 15]
        strong, found, _ = np.sum(hits, axis=0)
        most, taken = max(map(len, blanks)), sum(map(is_hit, blanks))
        row = (kind, len(blanks), taken, most, len(clear), sum(clear), f"{found / strong:.3f}")
        table.add_row(*map(str, row))
    Console(width=120).print(table)


def scored(seed: int, kind: str) -> tuple[int, int, bool]:
    """Strong spots of a hit, how many of them have a peak within two pixels, and whether it is taken for a hit."""
    frame, spots = frame_of(seed, kind, hit=True)
    peaks = find_peaks(frame)
    strong = spots[spots[:, 2] > 1, :2]
    offsets = np.hypot(strong[:, :1] - peaks.fs, strong[:, 1:] - peaks.ss)
    return len(strong), int((offsets < 2).any(axis=1).sum()), is_hit(peaks)


@cache
def detector_of(layout: str, gain: float) -> Detector:
    """A detector of 0.26 to 0.53 megapixels."""
    x, y = (PIXEL, 0.0, 0.0), (0.0, PIXEL, 0.0)
    if layout == "square":
        return Detector((Panel("a", 0, 0, 512, 512, (-0.0256, -0.0256, 0.08), x, y, 0, 0, gain),), (512, 512), 0.08)
    if layout == "off axis":
        return Detector((Panel("m", 0, 0, 514, 1030, (-0.01, 0.004, 0.12), x, y, 0, 0, gain),), (514, 1030), 0.12)
    if layout == "two":
        left = Panel("l", 0, 0, 512, 256, (-0.0262, -0.0256, 0.08), x, y, 0, 0, gain)
        right = Panel("r", 0, 256, 512, 256, (0.0004, -0.0255, 0.0801), x, y, 256, 0, gain)
        return Detector((left, right), (512, 512), 0.08)
    return Detector(tuple(tile(i, gain) for i in range(8)), (8 * 185, 194), 0.1)


def tile(number: int, gain: float) -> Panel:
    """One of two rows of four tiles, a little turned, every other one by a right angle more."""
    row, column = divmod(number, 4)
    angle = np.radians(np.random.default_rng(number).uniform(-1, 1)) + (np.pi / 2 if number % 2 else 0)
    fs = PIXEL * np.array([np.cos(angle), np.sin(angle), 0])
    ss = PIXEL * np.array([-np.sin(angle), np.cos(angle), 0])
    corner = np.array([(column - 1.5) * 0.021, (row - 0.5) * 0.022, 0.1]) - 97 * fs - 92 * ss
    start = 185 * number
    return Panel(f"p{number}", start, 0, 185, 194, tuple(corner), tuple(fs), tuple(ss), 0, start, gain)


def frame_of(seed: int, kind: str, hit: bool) -> tuple[Frame, NDArray[np.float64]]:
    """A frame and its spots: fs, ss, and photons in units of what 5.5 standard deviations take, (n, 3)."""
    random = np.random.default_rng(seed)
    gain = float(random.choice([1, 1, 5, 30, 100]))
    detector = detector_of(LAYOUTS[random.integers(4)], gain)
    expected = background(detector, kind, random)
    spots = add_spots(expected, random) if hit else np.zeros((0, 3))
    data: NDArray[np.generic] = random.poisson(expected)
    if gain == 1 and kind != "pedestals":
        data = data.astype(np.uint16)
    else:
        noisy = gain * (data + random.normal(0, random.uniform(0.05, 0.5), data.shape))
        offsets = random.uniform(-10 * gain, 10 * gain, len(detector.panels)) * (kind == "pedestals")
        data = (noisy + offsets[detector.panel_map]).astype(np.float32)
    return Frame(data, np.zeros(detector.shape, np.uint8), 9500.0, detector, FrameId("simulated", f"//{seed}")), spots


def background(detector: Detector, kind: str, random: np.random.Generator) -> NDArray[np.float64]:
    """Expected photons of each pixel."""
    x, y = detector.xy
    radius = np.hypot(x, y) / PIXEL
    level = 10 ** random.uniform(-2, 2)
    if kind == "flat":
        return np.full(detector.shape, level)
    shape = 0.2 + np.exp(-((radius / random.uniform(80, 250)) ** 2))
    ring = (radius - random.uniform(120, 260)) / random.uniform(15, 40)
    shape += random.uniform(0, 1.5) * np.exp(-(ring**2))
    for _ in range(random.integers(3, 7) if kind in ("ice", "sharp rings") else 0):
        width = random.uniform(0.9, 1.5) if kind == "sharp rings" else random.uniform(1.2, 2.5)
        shape += random.uniform(0.3, 10) * np.exp(-0.5 * ((radius - random.uniform(40, 400)) / width) ** 2)
    if kind == "shadow":
        angle = random.uniform(0, 2 * np.pi)
        behind = (x - np.median(x)) * np.cos(angle) + (y - np.median(y)) * np.sin(angle) > 0
        shape[behind] *= random.uniform(0.02, 0.6)
    return np.asarray(level * shape)


def add_spots(expected: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """Add round spots of one width, 0.6 to 3 pixels, to the expected photons."""
    rows, columns = expected.shape
    n, width = random.integers(25, 150), 0.6 * 5 ** random.uniform(0, 1)
    fs, ss = random.uniform(4, columns - 4, n), random.uniform(4, rows - 4, n)
    needed = 5.5 * np.sqrt(expected[ss.astype(int), fs.astype(int)] * 4 * np.pi * (width**2 + 0.1)) + 12
    strength = random.exponential(2.0, n)
    reach = int(4 * width + 2)
    for f, s, photons in zip(fs, ss, needed * strength, strict=True):
        top, left = max(int(s) - reach, 0), max(int(f) - reach, 0)
        box = expected[top : int(s) + reach + 1, left : int(f) + reach + 1]
        row, column = np.indices(box.shape) + 0.5
        square = (column + left - f) ** 2 + (row + top - s) ** 2
        box += photons / (2 * np.pi * width**2) * np.exp(-square / (2 * width**2))
    return np.column_stack([fs, ss, strength])


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:3] or (2000, 2060)))
