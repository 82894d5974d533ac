"""The whole way of one frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sfxlab.crystal import Crystal
from sfxlab.frames import FrameId
from sfxlab.integration import Reflections
from sfxlab.peaks import Peaks

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
