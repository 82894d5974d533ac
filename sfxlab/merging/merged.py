"""Merged intensities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import PointGroup, UnitCell
from sfxlab.merging import deposition, files
from sfxlab.merging.intensities import Intensities
from sfxlab.merging.statistics import ShellStatistics, shell_statistics
from sfxlab.merging.table_one import RunFacts, TableOne, table_one


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
    deviation: NDArray[np.float64] | None = None
    """Mean of |Iᵢ − intensity| over the scaled observations Iᵢ of each reflection, with their weights, (n,); None where
    it is not known."""
    history: Mapping[str, Any] = field(default_factory=dict)
    """How they were made: model, inputs, what was used and what was left out and why, when."""
    crystals: Any = field(default=None, repr=False, compare=False)
    """Arrow table of what was fitted to each crystal, its effect on CC1/2, and why it is left out (empty where it is
    not); None for plain means and for what was read from a file."""

    def __len__(self) -> int:
        return len(self.hkl)

    @property
    def sets(self) -> tuple[Intensities, Intensities, Intensities]:
        """All, and both halves."""
        return Intensities(self.intensity, self.sigma, self.n_observations), self.half1, self.half2

    def statistics(self, n_shells: int = 10, d_min: float | None = None, d_max: float | None = None) -> ShellStatistics:
        """Figures of merit by shells of equal volume between `d_min` and `d_max` (Å)."""
        return shell_statistics(self, n_shells, d_min, d_max)

    def to_mtz(
        self,
        path: str | Path,
        *,
        overwrite: bool = False,
        with_amplitudes: bool = False,
        free_from: str | Path | None = None,
    ) -> None:
        """Write an MTZ file with IMEAN, SIGIMEAN, N, the same of both halves, and FreeR_flag.

        Where Friedel mates were kept apart there are I(+) and I(-) besides. With `with_amplitudes` there are F and SIGF
        after French & Wilson, which needs reciprocalspaceship. Free reflections, 5 %, are those that a hash of their
        indices chooses, so other data of the same symmetry have the same; `free_from` takes them from an MTZ file.

        Raises `OutputExistsError` where the file exists and `overwrite` is false, `MergeError` where there is no space
        group in this setting or `free_from` has no flags.
        """
        files.write_mtz(self, Path(path), overwrite=overwrite, with_amplitudes=with_amplitudes, free_from=free_from)

    def to_mmcif(
        self,
        path: str | Path,
        facts: RunFacts | None = None,
        *,
        overwrite: bool = False,
        with_amplitudes: bool = False,
        free_from: str | Path | None = None,
    ) -> None:
        """Write reflections and statistics as mmCIF, ready for deposition; `facts` are those of the runs.

        Raises as `to_mtz` does.
        """
        deposition.write_mmcif(
            self, Path(path), facts, overwrite=overwrite, with_amplitudes=with_amplitudes, free_from=free_from
        )

    def table_one(
        self, facts: RunFacts | None = None, d_min: float | None = None, d_max: float | None = None
    ) -> TableOne:
        """What papers give as Table 1, of all data and of the outer shell; `facts` are those of the runs."""
        return table_one(self, facts, d_min, d_max)

    def to_hkl(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write CrystFEL reflection lists: `path`, and the halves with 1 and 2 added to the name.

        Raises `OutputExistsError` where one of them exists and `overwrite` is false.
        """
        files.write_hkl(self, Path(path), overwrite=overwrite)

    def __repr__(self) -> str:
        return f"<Merged: {len(self)} reflections, {self.point_group.name}, {self.cell}>"
