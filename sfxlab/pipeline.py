"""The whole way of one frame."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import Crystal, UnitCell
from sfxlab.diffraction import Prediction, predict, refine
from sfxlab.errors import FrameError
from sfxlab.frames import Frame, FrameId
from sfxlab.indexing import IndexingResult, Lattice, Spots
from sfxlab.indexing.methods import index_frames, index_own
from sfxlab.indexing.reasons import Reason
from sfxlab.integration import Examples, Reflections, integrate
from sfxlab.peaks import Peaks, find_peaks, is_hit
from sfxlab.peaks.ice import ice_rings, ice_spots, salt
from sfxlab.peaks.radial_average import RadialSums, radial_sums
from sfxlab.recipe import USUAL_BANDWIDTH, Recipe

START_PROFILE_RADIUS = 0.002
"""Profile radius of a lattice before refinement, 1/Å."""

Status = Literal["blank", "hit", "indexed", "failed"]


@dataclass(frozen=True)
class FrameResult:
    """What became of one frame."""

    id: FrameId
    index: int
    """Position in the source, counting from 0."""
    status: Status
    """`hit` is a hit that no lattice was found in; `indexed` is a hit with one or more crystals."""
    reason: str = ""
    """Why a hit is not indexed, or why the frame failed; empty otherwise."""
    photon_energy: float = float("nan")
    """eV."""
    camera_length: float = float("nan")
    """Metres."""
    peaks: Peaks = field(default_factory=Peaks.empty)
    crystals: tuple[Crystal, ...] = ()
    reflections: tuple[Reflections, ...] = ()
    """One for each crystal, in the same order."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Time spent in each step."""
    ice_spots: float = float("nan")
    """By how many standard deviations the peaks prefer ice rings; from 5 on the frame counts as one with ice."""
    ice_rings: float = float("nan")
    """By how many standard deviations powder rings of ice rise above the background; the same holds."""
    salt: float = float("nan")
    """Share of the peaks' signal in spots like those of salt; from 0.7 on the frame counts as one with salt."""
    bandwidth: float = float("nan")
    """Standard deviation of the spectrum that reflections were predicted with, relative; NaN where none were."""
    radial: RadialSums | None = None
    """Sums of pixels by resolution; None where the result was read back, because runs keep sums of many frames."""

    def __repr__(self) -> str:
        facts = [f"{len(self.peaks)} peaks", *(str(crystal.cell) for crystal in self.crystals)]
        return f"<Frame {self.index} {self.status}: {'; '.join(filter(None, (*facts, self.reason)))}>"


def process_frame(frame: Frame, recipe: Recipe, found: IndexingResult | FrameError | None = None) -> FrameResult:
    """Find the peaks of a frame; where it is a hit, find its lattices, refine them and integrate their reflections.

    A pure function: the result depends on nothing but the frame and the recipe. `found` is what its indexer made of the
    frame's `spots`, where that is known already. Errors are left to the caller.
    """
    clock = _Clock()
    with clock("peaks"):
        peaks = find_peaks(frame, recipe)
    q = frame.detector.q(peaks.panel, peaks.fs, peaks.ss, frame.photon_energy)
    with clock("ice and salt"):
        seen = _seen(frame, peaks, q)
    if not is_hit(peaks, recipe):
        return _result(frame, "blank", peaks, seen, clock)
    if not recipe.indexing.enabled:
        return _result(frame, "hit", peaks, seen, clock, Reason.SWITCHED_OFF.because(""))
    with clock("indexing"):
        if found is None:
            (found,) = index_frames(
                [Spots(q, peaks, frame.detector, frame.photon_energy)], recipe.cell, recipe.indexing
            )
    if isinstance(found, FrameError):
        raise found
    with clock("refinement"):
        crystals, reason = _refined(frame, peaks, found.lattices, recipe)
    if not crystals:
        return _result(frame, "hit", peaks, seen, clock, found.reason or reason)
    with clock("integration"):
        reflections = integrate(frame, _predicted(frame, crystals, recipe), recipe.integration, peaks)
    result = _result(frame, "indexed", peaks, seen, clock, "", crystals, reflections)
    return replace(result, bandwidth=_bandwidth(frame, recipe))


def spots(frame: Frame, recipe: Recipe) -> Spots | None:
    """The peaks of a frame as an indexer gets them; None where it is no hit."""
    peaks = find_peaks(frame, recipe)
    if not is_hit(peaks, recipe):
        return None
    q = frame.detector.q(peaks.panel, peaks.fs, peaks.ss, frame.photon_energy)
    return Spots(q, peaks, frame.detector, frame.photon_energy)


def spot_examples(frame: Frame, recipe: Recipe) -> Examples | None:
    """Strong spots of a frame to learn profiles from; None where no lattice was found."""
    hit = spots(frame, recipe) if recipe.indexing.enabled else None
    if hit is None:
        return None
    # Spots look the same whoever indexed them, and our own indexer is at hand.
    (found,) = index_own([hit], recipe.cell, recipe.indexing)
    crystals, _ = _refined(frame, hit.peaks, found.lattices, recipe)
    if not crystals:
        return None
    return Examples.of(frame, _predicted(frame, crystals, recipe), hit.peaks, recipe.integration)


@dataclass(frozen=True)
class _Seen:
    """What a frame shows besides its lattices."""

    ice_spots: float
    ice_rings: float
    salt: float
    radial: RadialSums


def _seen(frame: Frame, peaks: Peaks, q: NDArray[np.float64]) -> _Seen:
    radial = radial_sums(frame)
    return _Seen(ice_spots(peaks.resolution), ice_rings(radial), salt(peaks, q), radial)


def _refined(
    frame: Frame, peaks: Peaks, lattices: tuple[Lattice, ...], recipe: Recipe
) -> tuple[tuple[Crystal, ...], str]:
    """The crystals that lattices refine to; where there is none, why."""
    crystals = []
    for lattice in lattices:
        cell = recipe.cell or UnitCell.of_basis(lattice.basis)
        start = Crystal(
            cell=cell.with_basis(lattice.basis),
            basis=lattice.basis,
            profile_radius=START_PROFILE_RADIUS,
            n_peaks=len(lattice.peaks),
            log10_p=lattice.log10_p,
        )
        crystal = refine(
            start, peaks, frame.detector, frame.photon_energy, recipe.refinement, cell, _bandwidth(frame, recipe)
        )
        if crystal is not None:
            crystals.append(crystal)
    reason = Reason.REFINEMENT_FAILED.because(f"too few peaks near the predictions of {len(lattices)} lattices")
    return tuple(crystals), "" if crystals else reason


def _predicted(frame: Frame, crystals: tuple[Crystal, ...], recipe: Recipe) -> list[Prediction]:
    """What each crystal should show on a frame."""
    limits = recipe.integration
    predictions = []
    for crystal in crystals:
        reach = limits.max_resolution
        if limits.push_resolution > 0 and math.isfinite(crystal.resolution_limit):
            pushed = crystal.resolution_limit + limits.push_resolution
            reach = min(reach, pushed) if reach > 0 else pushed
        predictions.append(
            predict(
                crystal, frame.detector, frame.photon_energy, bandwidth=_bandwidth(frame, recipe),
                min_partiality=limits.min_partiality, overprediction=limits.overprediction, max_resolution=reach,
            )
        )  # fmt: skip
    return predictions


def _bandwidth(frame: Frame, recipe: Recipe) -> float:
    """Standard deviation of the spectrum, relative: of the recipe, of the geometry, or a usual one."""
    known = USUAL_BANDWIDTH if frame.bandwidth is None else frame.bandwidth
    return recipe.integration.bandwidth or known


def _result(
    frame: Frame,
    status: Status,
    peaks: Peaks,
    seen: _Seen,
    clock: _Clock,
    reason: str = "",
    crystals: tuple[Crystal, ...] = (),
    reflections: tuple[Reflections, ...] = (),
) -> FrameResult:
    return FrameResult(
        id=frame.id,
        index=frame.index,
        status=status,
        reason=reason,
        photon_energy=frame.photon_energy,
        camera_length=frame.detector.camera_length,
        peaks=peaks,
        crystals=crystals,
        reflections=reflections,
        ice_spots=seen.ice_spots,
        ice_rings=seen.ice_rings,
        salt=seen.salt,
        radial=seen.radial,
        seconds=clock.seconds,
    )


class _Clock:
    """Seconds spent in named steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - start
