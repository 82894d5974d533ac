"""Merged intensities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import PointGroup, UnitCell
from sfxlab.merging import files
from sfxlab.merging.intensities import Intensities
from sfxlab.merging.statistics import ShellStatistics, shell_statistics


@dataclass(frozen=True)
class Merged:
    """Merged intensities with their half data sets and the history of how they came about."""

    hkl: NDArray[np.int32]
    """Unique reflections, (n, 3), in the asymmetric unit of the point group, sorted."""
    intensity: NDArray[np.float64]
    """(n,), ADU or whatever the observations were in, on the mean scale of the crystals."""
    sigma: NDArray[np.float64]
    """Standard error of `intensity`, (n,)."""
    n_observations: NDArray[np.int32]
    """How many observations went into `intensity`, (n,); 0 where the file does not say."""
    half1: Intensities
    """From half of the frames, in the same rows; NaN where this half has too few observations."""
    half2: Intensities
    cell: UnitCell
    point_group: PointGroup
    space_group: str | None
    """Hermann-Mauguin symbol; None where the tables have no space group in this setting."""
    wavelength: float = float("nan")
    """Å."""
    history: Mapping[str, Any] = field(default_factory=dict)
    """How they were made: model, inputs, what was used and what was left out and why, when."""

    def __len__(self) -> int:
        return len(self.hkl)

    @property
    def sets(self) -> tuple[Intensities, Intensities, Intensities]:
        """All, and both halves."""
        return Intensities(self.intensity, self.sigma, self.n_observations), self.half1, self.half2

    def statistics(self, n_shells: int = 10, d_min: float | None = None, d_max: float | None = None) -> ShellStatistics:
        """Figures of merit by shells of equal volume between `d_min` and `d_max` (Å)."""
        return shell_statistics(self, n_shells, d_min, d_max)

    def to_mtz(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write an MTZ file with IMEAN, SIGIMEAN, N and the same of both halves.

        Where Friedel mates were kept apart there are I(+) and I(-) besides. Raises `OutputExistsError` where the file
        exists and `overwrite` is false, `MergeError` where there is no space group in this setting.
        """
        files.write_mtz(self, Path(path), overwrite=overwrite)

    def to_hkl(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write CrystFEL reflection lists: `path`, and the halves with 1 and 2 added to the name.

        Raises `OutputExistsError` where one of them exists and `overwrite` is false.
        """
        files.write_hkl(self, Path(path), overwrite=overwrite)

    def __repr__(self) -> str:
        return f"<Merged: {len(self)} reflections, {self.point_group.name}, {self.cell}>"
