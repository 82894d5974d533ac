"""What two sets of merged intensities differ in, such as those of light and dark frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import resolution_of
from sfxlab.errors import MergeError
from sfxlab.merging.figures import correlation, factors_onto
from sfxlab.merging.intensities import Intensities
from sfxlab.merging.merged import Merged
from sfxlab.merging.statistics import each_shell, range_of, rows_of


@dataclass(frozen=True)
class DifferenceShell:
    """Differences of two data sets in a range of resolution. R factors are fractions, not percent."""

    d_max: float
    """Å."""
    d_min: float
    n_common: int
    """Reflections in both."""
    cc: float
    """Correlation of the intensities of both."""
    r_iso: float
    """Mean fractional isomorphous difference, Σ|F1 − F2| / Σ(F1 + F2)/2 over positive intensities."""
    significance: float
    """Root mean square of ΔI / σ(ΔI): 1 where the sets differ by noise only."""
    cc_difference: float
    """Correlation of ΔI of the first halves with ΔI of the second halves: 0 where the sets differ by noise only."""


@dataclass(frozen=True)
class Differences:
    """Differences of two data sets by resolution, low resolution first, and over all."""

    shells: tuple[DifferenceShell, ...]
    overall: DifferenceShell

    def to_rows(self) -> list[dict[str, Any]]:
        """One dictionary for each shell, and one for all, which has `shell` = `overall`."""
        return rows_of(self.shells, self.overall)


def differences(
    one: Merged, other: Merged, n_shells: int = 10, d_min: float | None = None, d_max: float | None = None
) -> Differences:
    """Differences of two data sets that were merged with the same point group.

    The other one, and each half with its counterpart, is put on the scale of the first (`factors_onto`).
    Raises `MergeError` where they have nothing in common.
    """
    if one.point_group != other.point_group:
        raise MergeError("these are merged in two point groups", found=(one.point_group.name, other.point_group.name))
    rows, other_rows = _common(one.hkl, other.hkl)
    if not len(rows):
        raise MergeError("the two data sets have no reflection in common", remedy="merge more crystals")
    resolution = resolution_of(one.cell, one.hkl[rows])
    pairs = [_on_scale(a[rows], b[other_rows], resolution) for a, b in zip(one.sets, other.sets, strict=True)]
    shells, overall = each_shell(_shell_of(pairs, resolution), *range_of(resolution, d_min, d_max), n_shells)
    return Differences(shells, overall)


def _common(one: NDArray[np.int32], other: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of those reflections that are in both."""
    place = {tuple(hkl): row for row, hkl in enumerate(other.tolist())}
    rows = np.array([place.get(tuple(hkl), -1) for hkl in one.tolist()], dtype=np.int64)
    return np.flatnonzero(rows >= 0), rows[rows >= 0]


def _on_scale(a: Intensities, b: Intensities, resolution: NDArray[np.float64]) -> tuple[Intensities, Intensities]:
    both = np.isfinite(a.intensity) & np.isfinite(b.intensity)
    factor = np.ones(len(resolution))
    factor[both] = factors_onto(a.intensity[both], b.intensity[both], resolution[both])
    return a, Intensities(b.intensity * factor, b.sigma * factor, b.n_observations)


def _shell_of(
    pairs: list[tuple[Intensities, Intensities]], resolution: NDArray[np.float64]
) -> Callable[[float, float], DifferenceShell]:
    whole, other = pairs[0]
    difference, first, second = (a.intensity - b.intensity for a, b in pairs)
    sigma = np.hypot(whole.sigma, other.sigma)

    def shell(low: float, high: float) -> DifferenceShell:
        inside = (resolution >= low) & (resolution < high)
        i1, i2 = whole.intensity[inside], other.intensity[inside]
        positive = (i1 > 0) & (i2 > 0)
        f1, f2 = np.sqrt(i1[positive]), np.sqrt(i2[positive])
        known = inside & (sigma > 0)
        halves = inside & np.isfinite(first) & np.isfinite(second)
        return DifferenceShell(
            d_max=1 / low if low > 0 else float("inf"),
            d_min=1 / high,
            n_common=int(inside.sum()),
            cc=correlation(i1, i2),
            r_iso=float(2 * np.abs(f1 - f2).sum() / (f1 + f2).sum()) if len(f1) else float("nan"),
            significance=float(np.sqrt(np.mean((difference / sigma)[known] ** 2))) if known.any() else float("nan"),
            cc_difference=correlation(first[halves], second[halves]),
        )

    return shell
