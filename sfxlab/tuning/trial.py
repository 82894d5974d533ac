"""What each of many settings makes of the same frame."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import Crystal
from sfxlab.frames import Frame, FrameSource
from sfxlab.peaks import Peaks, find_peaks, is_hit
from sfxlab.pipeline import process_frame
from sfxlab.recipe import PeakRecipe, Recipe

_LOG = logging.getLogger(__name__)

MEASURES = ("peaks", "hit", "lattices", "explained", "log10_p", "seconds")
"""Columns of `Trials.values`. `explained` is the number of peaks on lattice positions, `log10_p` that of the best
lattice; `seconds` are those of the peak search."""

_ON_LATTICE = 0.2
"""A peak is on a lattice position where all its indices are this close to whole numbers."""
_NO_REFLECTIONS = {"max_resolution": 1e-6}


@dataclass(frozen=True)
class FramesToTry:
    """Some frames that lie together in the data; travels to a worker without pixels."""

    frames: FrameSource
    positions: tuple[int, ...]
    """Of the frames to try, in `frames`."""
    start: int
    """Number of the first of `frames` in the whole data set."""

    def alone(self) -> list[FramesToTry]:
        """The same, each frame by itself."""
        return [
            FramesToTry(self.frames[position : position + 1], (0,), self.start + position)
            for position in self.positions
        ]


@dataclass(frozen=True)
class Trials:
    """Of one frame."""

    frame: int
    """Its number in the whole data set."""
    values: NDArray[np.float64] | None
    """A row of `MEASURES` for each setting, (n_settings, 6); None where the frame failed."""
    reason: str = ""
    """Why it failed."""


def try_frames(part: FramesToTry, recipes: Sequence[Recipe], bad: NDArray[np.uint8] | None) -> list[Trials]:
    """Try every recipe on every frame; a frame is read once. `bad` are learned bad pixels."""
    mask = _adding(bad)
    trials = []
    for position in part.positions:
        number = part.start + position
        try:
            frame = mask(part.frames[position])
            find_peaks(frame, recipes[0])  # the first search of a frame brings it near, at the cost of its time
            known: dict[Hashable, tuple[float, ...]] = {}
            trials.append(Trials(number, np.array([_tried(frame, recipe, known) for recipe in recipes])))
        except Exception as error:  # noqa: BLE001
            # As when it is processed: one frame must not end the whole.
            _LOG.info("frame %d failed", number, exc_info=True)
            trials.append(Trials(number, None, "; ".join(f"{type(error).__name__}: {error}".splitlines())))
    return trials


def up_to_refinement(recipe: Recipe) -> Recipe:
    """The same recipe with indexing, and without intensities, which say nothing about a peak search and take time."""
    return recipe.changed(indexing={"enabled": True}, integration=_NO_REFLECTIONS)


def _tried(frame: Frame, recipe: Recipe, known: dict[Hashable, tuple[float, ...]]) -> tuple[float, ...]:
    """Values of `MEASURES`. `known` are those of other settings of this frame: many find the same peaks."""
    began = time.perf_counter()
    peaks = find_peaks(frame, recipe)
    seconds = time.perf_counter() - began
    key = peaks.fs.tobytes(), peaks.ss.tobytes(), recipe.model_copy(update={"peaks": PeakRecipe()})
    if key not in known:
        known[key] = _judged(frame, peaks, recipe)
    return *known[key], seconds


def _judged(frame: Frame, peaks: Peaks, recipe: Recipe) -> tuple[float, ...]:
    """The same but for the time."""
    if not is_hit(peaks, recipe):
        return len(peaks), False, 0, 0.0, np.nan
    q = frame.detector.q(peaks.panel, peaks.fs, peaks.ss, frame.photon_energy)
    crystals = process_frame(frame, recipe).crystals
    log10_p = min((crystal.log10_p for crystal in crystals), default=np.nan)
    return len(peaks), True, len(crystals), peaks_on_lattices(q, crystals), log10_p


def peaks_on_lattices(q: NDArray[np.float64], crystals: Sequence[Crystal]) -> float:
    """How many of the peaks q, (n, 3), 1/Å, crystals explain, less those that are near lattice positions by chance.

    A random peak is within t of whole indices with probability p = (2t)³ for one crystal. Where m of n peaks are and e
    are truly explained, m = e + p (n − e).
    """
    if not crystals:
        return 0.0
    near = np.zeros(len(q), dtype=np.bool_)
    for crystal in crystals:
        indices = q @ crystal.real_basis.T
        near |= np.abs(indices - np.rint(indices)).max(axis=1) < _ON_LATTICE
    chance = 1 - (1 - (2 * _ON_LATTICE) ** 3) ** len(crystals)
    return float(np.clip((np.count_nonzero(near) - chance * len(q)) / (1 - chance), 0, len(q)))


def _adding(bad: NDArray[np.uint8] | None) -> Callable[[Frame], Frame]:
    """What adds bad pixels to frames. Frames that share theirs share them afterwards too."""
    before: Any = None
    after: Any = None

    def added(frame: Frame) -> Frame:
        nonlocal before, after
        if bad is None:
            return frame
        if before is not frame.bad:
            before, after = frame.bad, frame.bad | bad
            after.flags.writeable = False
        return replace(frame, bad=after)

    return added
