"""Frames with bad pixels that are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtr

from sfxlab.frames import Frame, FrameId
from sfxlab.geometry import Detector


@dataclass
class Experiment:
    """Frames in memory: a background that falls with the radius, a water ring, crystals, and bad pixels."""

    detector: Detector
    frames: int = 96
    photons: float = 4.0
    """Mean background per pixel."""
    gain: float = 1.0
    dtype: type = np.uint16
    readout_noise: float = 0.0
    """ADU."""
    flat_field: float = 0.0
    """Relative standard deviation of the pixels' gains."""
    hits: float = 0.4
    """Share of frames with a crystal."""
    spots: int = 80
    one_crystal: bool = False
    """All crystals are the same one, and never turn."""
    ice: float = 0.0
    """Share of frames with sharp powder rings."""
    hot: dict[tuple[int, int], tuple[float, float]] = field(default_factory=dict)
    """Mean photons of hot pixels, and the share of frames in which they are hot."""
    late: set[tuple[int, int]] = field(default_factory=set)
    """Hot pixels that become hot half-way."""
    crosstalk: float = 0.0
    """What each neighbour of a hot pixel gets of it."""
    dead: set[tuple[int, int]] = field(default_factory=set)
    noisy: dict[tuple[int, int], float] = field(default_factory=dict)
    """Standard deviations of noisy pixels, in those of the pixels around them."""
    shadow: NDArray[np.bool_] | None = None
    seed: int = 1

    def __iter__(self) -> Iterator[Frame]:
        random = np.random.default_rng(self.seed)
        fixed = np.random.default_rng(self.seed + 1)
        rows, columns = self.detector.shape
        radius = self.detector.radius.astype(float)
        profile = np.exp(-radius / 150) + 0.6 * np.exp(-(((radius - 180) / 30) ** 2)) + 0.05
        profile *= self.photons / profile.mean()
        if self.shadow is not None:
            profile = np.where(self.shadow, 0.1 * profile, profile)
        rings = sum(np.exp(-(((radius - r) / 1.2) ** 2)) for r in (90, 130, 210))
        gains = self.gain * (1 + self.flat_field * fixed.standard_normal(self.detector.shape))
        same = self._crystal(fixed)
        no_bad = np.zeros(self.detector.shape, np.uint8)
        no_bad.flags.writeable = False
        for number in range(self.frames):
            level = np.exp(0.3 * random.standard_normal())
            expected = level * profile
            if random.random() < self.ice:
                expected = expected + 8 * level * self.photons * rings
            if random.random() < self.hits:
                expected = expected + (same if self.one_crystal else self._crystal(random)) * random.uniform(0.5, 2)
            for (row, column), (mean, duty) in self.hot.items():
                if random.random() < duty and ((row, column) not in self.late or number >= self.frames / 2):
                    here = np.s_[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
                    expected[here] += self.crosstalk * mean
                    expected[row, column] += mean * (1 - self.crosstalk)
            values = gains * random.poisson(expected) + self.readout_noise * random.standard_normal((rows, columns))
            for (row, column), factor in self.noisy.items():
                sigma = np.hypot(self.gain * np.sqrt(expected[row, column]), self.readout_noise)
                values[row, column] += np.sqrt(factor**2 - 1) * sigma * random.standard_normal()
            for pixel in self.dead:
                values[pixel] = 0
            if np.issubdtype(self.dtype, np.integer):
                limits = np.iinfo(self.dtype)
                values = np.clip(np.rint(values), limits.min, limits.max)
            yield Frame(values.astype(self.dtype), no_bad, 9000.0, self.detector, FrameId("made up", f"//{number}"))

    def _crystal(self, random: np.random.Generator) -> NDArray[np.float64]:
        """Photons of spots of 0.4 pixels that get fewer and weaker with the radius."""
        image = np.zeros(self.detector.shape)
        edges = np.arange(-3, 5)
        ss = random.uniform(6, self.detector.shape[0] - 6, self.spots)
        fs = random.uniform(6, self.detector.shape[1] - 6, self.spots)
        strength = 20 * random.pareto(1.2, self.spots).clip(0, 200) + 20
        for s, f, photons in zip(ss, fs, strength, strict=True):
            i, j = int(s), int(f)
            down, right = (np.diff(ndtr((edges + floor - centre) / 0.4)) for floor, centre in ((i, s), (j, f)))
            image[i - 3 : i + 4, j - 3 : j + 4] += photons * np.outer(down, right)
        return image


@pytest.fixture
def experiment(detector: Detector) -> Callable[..., Experiment]:
    """`experiment(hot={(row, column): (photons, share of frames)}, …)`."""

    def make(**settings: Any) -> Experiment:
        return Experiment(detector, **settings)

    return make
