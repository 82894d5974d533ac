"""What detector refinement takes of frames: peaks and crystals, in parts that workers read themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from sfxlab.crystal import Crystal, UnitCell
from sfxlab.diffraction import refine
from sfxlab.errors import FrameError
from sfxlab.geometry import Detector
from sfxlab.indexing import Spots
from sfxlab.indexing.methods import index_frames
from sfxlab.peaks import Peaks
from sfxlab.pipeline import START_PROFILE_RADIUS
from sfxlab.recipe import USUAL_BANDWIDTH, Recipe
from sfxlab.store.parts import read_part
from sfxlab.store.tables import SCHEMAS, TableName, results_of


@dataclass(frozen=True)
class Still:
    """One hit."""

    peaks: Peaks
    photon_energy: float
    """eV."""
    crystals: tuple[Crystal, ...] = ()
    offset: float = 0.0
    """Metres by which the detector was further away than the one that is refined."""


class Part(Protocol):
    """Some hits; small to send to a worker."""

    def stills(self) -> Sequence[Still]:
        """The hits, always in the same order."""
        ...


@dataclass(frozen=True)
class Given:
    """Hits that are at hand."""

    held: tuple[Still, ...]

    def stills(self) -> Sequence[Still]:
        """The hits."""
        return self.held


@dataclass(frozen=True)
class Chunk:
    """The hits of one chunk of a run."""

    path: Path
    number: int
    camera_length: float
    """Of the detector that is refined, metres: the mean over its panels, as in the table of frames."""

    def stills(self) -> Sequence[Still]:
        """The hits, read from the run. Raises `RunError` where a part is damaged."""
        read: tuple[TableName, ...] = ("frames", "peaks", "crystals")
        tables = {name: read_part(self.path, name, self.number) if name in read else SCHEMAS[name].empty_table()
                  for name in SCHEMAS}  # fmt: skip
        return [
            Still(r.peaks, r.photon_energy, r.crystals, r.camera_length - self.camera_length)
            for r in results_of(tables)
            if r.status in ("hit", "indexed") and math.isfinite(r.camera_length)
        ]


@dataclass(frozen=True)
class Reindexed:
    """The hits of another part with crystals found anew."""

    part: Part
    crystals: tuple[tuple[Crystal, ...], ...]

    def stills(self) -> Sequence[Still]:
        """The hits."""
        return [replace(still, crystals=c) for still, c in zip(self.part.stills(), self.crystals, strict=True)]


def reindexed(part: Part, detector: Detector, recipe: Recipe) -> Reindexed:
    """The hits of a part, indexed with a detector as `process_frame` does it."""
    found = []
    for still in part.stills():
        placed = detector.moved(z=still.offset)
        peaks = still.peaks
        q = placed.q(peaks.panel, peaks.fs, peaks.ss, still.photon_energy)
        (result,) = index_frames([Spots(q, peaks, placed, still.photon_energy)], recipe.cell, recipe.indexing)
        bases = () if isinstance(result, FrameError) else tuple(lattice.basis for lattice in result.lattices)
        crystals = []
        for basis in bases:
            cell = recipe.cell or UnitCell.of_basis(basis)
            start = Crystal(cell.with_basis(basis), basis, START_PROFILE_RADIUS)
            bandwidth = USUAL_BANDWIDTH if recipe.integration.bandwidth is None else recipe.integration.bandwidth
            crystal = refine(start, peaks, placed, still.photon_energy, recipe.refinement, cell, bandwidth)
            if crystal is not None:
                crystals.append(crystal)
        found.append(tuple(crystals))
    return Reindexed(part, tuple(found))
