"""How far the data reach along each reciprocal axis (METHODS.md section 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import resolution_of
from sfxlab.merging.cutoffs import Cutoff, fitted_limit
from sfxlab.merging.figures import cc_star, correlation
from sfxlab.merging.statistics import each_shell, halves_on_one_scale, mean_snr, range_of, rows_of

if TYPE_CHECKING:
    from sfxlab.merging.merged import Merged

CONE = 30.0
"""Half the opening angle of the cone around an axis, degrees."""
_AXES = "abc"


@dataclass(frozen=True)
class DirectionShell:
    """Figures of merit of the reflections near an axis in a range of resolution."""

    d_max: float
    """Å."""
    d_min: float
    n_pairs: int
    """Reflections in both half data sets."""
    cc_half: float
    cc_star: float
    snr: float
    """Mean of I/σ(I)."""


@dataclass(frozen=True)
class Direction:
    """The reflections within 30° of an axis, or of axes that symmetry makes equal."""

    name: str
    """As `a*, b*`."""
    shells: tuple[DirectionShell, ...]
    overall: DirectionShell
    limit: Cutoff
    """Where the fitted CC1/2 falls to 0.3."""

    def to_rows(self) -> list[dict[str, Any]]:
        """One dictionary for each shell, and one for all, which has `shell` = `overall`."""
        return rows_of(self.shells, self.overall)


def directions(
    merged: Merged, n_shells: int = 10, d_min: float | None = None, d_max: float | None = None
) -> tuple[Direction, ...]:
    """Figures of merit along the reciprocal axes, between `d_min` and `d_max` (Å).

    A reflection is near an axis if one of its equivalents is within 30° of it, and may be near several. Axes that the
    Laue group turns into each other are one direction; where all are (cubic, rhombohedral axes), there is nothing to
    tell, and the result is empty. Raises `MergeError` where no reflection is in that range.
    """
    groups = _equal_axes(merged.point_group.laue_group.operations)
    if len(groups) == 1:
        return ()
    resolution = resolution_of(merged.cell, merged.hkl)
    r_min, r_max = range_of(resolution, d_min, d_max)
    i1, i2, _, paired = halves_on_one_scale(merged, resolution, r_min, r_max)
    near = _near_axes(merged)

    def direction(axes: tuple[int, ...]) -> Direction:
        own = near[:, list(axes)].any(axis=1)

        def shell(low: float, high: float) -> DirectionShell:
            inside = own & (resolution >= low) & (resolution < high)
            pairs = inside & paired
            cc_half = correlation(i1[pairs], i2[pairs])
            return DirectionShell(
                d_max=1 / low if low > 0 else float("inf"), d_min=1 / high, n_pairs=int(pairs.sum()),
                cc_half=cc_half, cc_star=cc_star(cc_half), snr=mean_snr(merged, inside),
            )  # fmt: skip

        shells, overall = each_shell(shell, r_min, r_max, n_shells)
        name = ", ".join(f"{_AXES[axis]}*" for axis in axes)
        return Direction(name, shells, overall, fitted_limit(shells, 0.3))

    return tuple(direction(axes) for axes in groups)


def _equal_axes(operations: NDArray[np.int32]) -> list[tuple[int, ...]]:
    """Reciprocal axes, numbered from 0, in groups that the operations make equal."""
    axes = np.eye(3, dtype=np.int32)
    images = [{tuple(row) for row in np.abs(operations @ axis).tolist()} for axis in axes]
    return sorted({tuple(j for j in range(3) if tuple(axes[j].tolist()) in image) for image in images})


def _near_axes(merged: Merged) -> NDArray[np.bool_]:
    """Whether an equivalent of each reflection is within the cone around each axis, (n, 3)."""
    basis = merged.cell.reciprocal_basis
    unit = basis / np.linalg.norm(basis, axis=0)
    near = np.zeros((len(merged), 3), dtype=bool)
    for operation in merged.point_group.laue_group.operations:
        q = merged.hkl @ operation.T @ basis.T
        near |= np.abs(q @ unit) >= np.cos(np.radians(CONE)) * np.linalg.norm(q, axis=1, keepdims=True)
    return near
