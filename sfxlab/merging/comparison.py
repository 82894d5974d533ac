"""Agreement of merged data with a reference (METHODS.md section 8)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import point_group_of, resolution_of
from sfxlab.errors import MergeError
from sfxlab.merging.ambiguity_reference import MODEL_SUFFIXES, intensities_of_model
from sfxlab.merging.figures import Values, correlation, factors_onto, r1f, r1i, r2
from sfxlab.merging.files import read_merged
from sfxlab.merging.intensities import Intensities
from sfxlab.merging.statistics import each_shell, range_of, rows_of

if TYPE_CHECKING:
    from sfxlab.merging.merged import Merged


@dataclass(frozen=True)
class ComparisonShell:
    """Agreement with other data in a range of resolution. R factors are fractions, not percent."""

    d_max: float
    d_min: float
    n_common: int
    """Reflections in both."""
    cc: float
    r1i: float
    r1f: float
    r2: float


@dataclass(frozen=True)
class Comparison:
    """Agreement with other data by resolution, low resolution first, and over all."""

    shells: tuple[ComparisonShell, ...]
    overall: ComparisonShell

    def to_rows(self) -> list[dict[str, Any]]:
        """One dictionary for each shell, and one for all, which has `shell` = `overall`."""
        return rows_of(self.shells, self.overall)


def compare(
    merged: Merged,
    reference: Merged,
    n_shells: int = 10,
    d_min: float | None = None,
    d_max: float | None = None,
) -> Comparison:
    """Agreement of merged data with a reference, over the reflections of both between `d_min` and `d_max` (Å).

    The data are put on the scale of the reference (`factors_onto`), which is list 1 of the R factors. Where their
    point groups differ, both are brought to the higher one. Raises `MergeError` where they have nothing in common.
    """
    group = max(reference.point_group, merged.point_group, key=lambda g: len(g.operations))
    mine, i2 = _means(group.asu(merged.hkl), merged.intensity)
    theirs, i1 = _means(group.asu(reference.hkl), reference.intensity)
    rows = {tuple(hkl): row for row, hkl in enumerate(theirs.tolist())}
    place = np.array([rows.get(tuple(hkl), -1) for hkl in mine.tolist()], dtype=np.int64)
    common, i2, i1 = mine[place >= 0], i2[place >= 0], i1[place[place >= 0]]
    if not len(common):
        raise MergeError(
            "the data and the reference have no reflection in common",
            found=f"{len(mine)} and {len(theirs)} reflections in point group {group.name}",
            remedy="check that both are of the same crystal form",
        )
    resolution = resolution_of(merged.cell, common)
    r_min, r_max = range_of(resolution, d_min, d_max)
    inside = (resolution >= r_min) & (resolution < r_max)
    i1, i2, resolution = i1[inside], i2[inside], resolution[inside]
    i2 = i2 * factors_onto(i1, i2, resolution)

    def shell(low: float, high: float) -> ComparisonShell:
        part = (resolution >= low) & (resolution < high)
        a, b = i1[part], i2[part]
        return ComparisonShell(
            d_max=1 / low if low > 0 else float("inf"), d_min=1 / high, n_common=len(a),
            cc=correlation(a, b), r1i=r1i(a, b), r1f=r1f(a, b), r2=r2(a, b),
        )  # fmt: skip

    shells, overall = each_shell(shell, r_min, r_max, n_shells)
    return Comparison(shells, overall)


def read_comparable(path: str | Path, merged: Merged) -> Merged:
    """What merged data can be compared with: merged data, or calculated intensities of a model (PDB or mmCIF).

    Raises `MergeError` where the file cannot be read.
    """
    path = Path(path)
    if not path.name.lower().endswith(MODEL_SUFFIXES):
        return read_merged(path, cell=merged.cell)
    d_min = float(1 / resolution_of(merged.cell, merged.hkl).max())
    _, space_group, hkl, intensity = intensities_of_model(path, d_min)
    group = point_group_of(space_group, friedel=True)
    none = Intensities.missing(len(hkl))
    return replace(
        merged, hkl=group.asu(hkl), intensity=intensity, sigma=none.sigma, n_observations=none.n_observations,
        deviation=None, half1=none, half2=none, point_group=group, space_group=space_group, history={}, crystals=None,
    )  # fmt: skip


def _means(hkl: NDArray[np.int32], intensity: Values) -> tuple[NDArray[np.int32], Values]:
    """Mean intensity of those that have the same hkl."""
    finite = np.isfinite(intensity)
    unique, place = np.unique(hkl[finite], axis=0, return_inverse=True)
    place = place.reshape(-1)
    sums = np.bincount(place, weights=intensity[finite], minlength=len(unique))
    return unique, sums / np.maximum(np.bincount(place, minlength=len(unique)), 1)
