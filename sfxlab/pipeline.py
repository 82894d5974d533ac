"""The whole way of one frame."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from sfxlab.crystal import Crystal, UnitCell
from sfxlab.diffraction import predict, refine
from sfxlab.frames import Frame, FrameId
from sfxlab.indexing import Lattice, Target, index, target_of
from sfxlab.integration import Reflections, integrate
from sfxlab.peaks import Peaks, find_peaks, is_hit
from sfxlab.recipe import Recipe

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

    def __repr__(self) -> str:
        facts = [f"{len(self.peaks)} peaks", *(str(crystal.cell) for crystal in self.crystals)]
        return f"<Frame {self.index} {self.status}: {'; '.join(filter(None, (*facts, self.reason)))}>"


def process_frame(frame: Frame, recipe: Recipe) -> FrameResult:
    """Find the peaks of a frame; where it is a hit, find its lattices, refine them and integrate their reflections.

    A pure function: the result depends on nothing but the frame and the recipe. Errors are left to the caller.
    """
    clock = _Clock()
    with clock("peaks"):
        peaks = find_peaks(frame, recipe)
    if not is_hit(peaks, recipe):
        return _result(frame, "blank", peaks, clock)
    if recipe.cell is None:
        return _result(frame, "hit", peaks, clock, "no unit cell given")
    with clock("indexing"):
        q = frame.detector.q(peaks.panel, peaks.fs, peaks.ss, frame.photon_energy)
        found = index(q, _target(recipe.cell), recipe.indexing)
    with clock("refinement"):
        crystals, reason = _refined(frame, peaks, found.lattices, recipe)
    if not crystals:
        return _result(frame, "hit", peaks, clock, found.reason or reason)
    with clock("integration"):
        limits = recipe.integration
        predictions = [
            predict(
                crystal, frame.detector, frame.photon_energy,
                min_partiality=limits.min_partiality, max_resolution=limits.max_resolution,
            )
            for crystal in crystals
        ]  # fmt: skip
        reflections = integrate(frame, predictions, limits)
    return _result(frame, "indexed", peaks, clock, "", crystals, reflections)


def _refined(
    frame: Frame, peaks: Peaks, lattices: tuple[Lattice, ...], recipe: Recipe
) -> tuple[tuple[Crystal, ...], str]:
    """The crystals that lattices refine to; where there is none, why."""
    cell = recipe.cell
    assert cell is not None
    crystals = []
    for lattice in lattices:
        start = Crystal(
            cell=cell.with_basis(lattice.basis),
            basis=lattice.basis,
            profile_radius=START_PROFILE_RADIUS,
            n_peaks=len(lattice.peaks),
            log10_p=lattice.log10_p,
        )
        crystal = refine(start, peaks, frame.detector, frame.photon_energy, recipe.refinement, cell)
        if crystal is not None:
            crystals.append(crystal)
    reason = f"refinement failed: too few peaks near the predictions of {len(lattices)} lattices"
    return tuple(crystals), "" if crystals else reason


def _result(
    frame: Frame,
    status: Status,
    peaks: Peaks,
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
        seconds=clock.seconds,
    )


@lru_cache(maxsize=8)
def _target(cell: UnitCell) -> Target:
    """The target of a run is the same for all its frames."""
    return target_of(cell)


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
