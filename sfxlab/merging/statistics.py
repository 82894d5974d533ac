"""Figures of merit of merged data, by shells of equal volume in reciprocal space (METHODS.md section 8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import possible_reflections, resolution_of
from sfxlab.errors import MergeError

if TYPE_CHECKING:
    from sfxlab.merging.merged import Merged

Values = NDArray[np.float64]
T = TypeVar("T")


def shell_edges(r_min: float, r_max: float, n_shells: int) -> Values:
    """Edges of shells of equal volume, (n_shells + 1,), in the unit of `r_min` and `r_max`, which are 1/d."""
    return np.asarray(np.cbrt(np.linspace(r_min**3, r_max**3, n_shells + 1)), dtype=np.float64)


def correlation(i1: Values, i2: Values) -> float:
    """Pearson's correlation of intensities, CC1/2 for half data sets; NaN for fewer than three or constant ones."""
    if len(i1) < 3 or np.ptp(i1) == 0 or np.ptp(i2) == 0:
        return float("nan")
    return float(np.corrcoef(i1, i2)[0, 1])


def cc_star(cc_half: float) -> float:
    """CC* = √(2 CC1/2 / (1 + CC1/2)) (Karplus & Diederichs 2012); NaN where CC1/2 is negative."""
    return float(np.sqrt(2 * cc_half / (1 + cc_half))) if cc_half >= 0 else float("nan")


def rsplit(i1: Values, i2: Values) -> float:
    """Rsplit = √2 Σ|I1 − I2| / Σ(I1 + I2) (White et al. 2012), a fraction; NaN for fewer than three."""
    if len(i1) < 3:
        return float("nan")
    return _ratio(np.sqrt(2) * np.abs(i1 - i2).sum(), (i1 + i2).sum())


def r1i(i1: Values, i2: Values) -> float:
    """R1(I) = Σ|I1 − I2| / ΣI1, a fraction."""
    return _ratio(np.abs(i1 - i2).sum(), i1.sum())


def r1f(i1: Values, i2: Values) -> float:
    """R1(F) = Σ|√I1 − √I2| / Σ√I1 over pairs without negative intensities, a fraction."""
    both = (i1 >= 0) & (i2 >= 0)
    f1, f2 = np.sqrt(i1[both]), np.sqrt(i2[both])
    return _ratio(np.abs(f1 - f2).sum(), f1.sum())


def r2(i1: Values, i2: Values) -> float:
    """R2 = √(Σ(I1 − I2)² / ΣI1²), a fraction."""
    return float(np.sqrt(_ratio(((i1 - i2) ** 2).sum(), (i1**2).sum())))


def factors_onto(i1: Values, i2: Values, resolution: Values) -> Values:
    """What puts `i2` on the scale of `i1`, (n,): k exp(B s²) by a straight line through ln(I1 / I2) against s².

    `resolution` is 1/d in 1/Å, s = 1/2d. Pairs of positive intensities count; with fewer than three of them, or all at
    the same resolution, the factors are 1.
    """
    s2 = resolution**2 / 4
    positive = (i1 > 0) & (i2 > 0)
    if np.count_nonzero(positive) < 3 or np.ptp(s2[positive]) == 0:
        return np.ones(len(i1))
    slope, offset = np.polyfit(s2[positive], np.log(i1[positive] / i2[positive]), 1)
    return np.asarray(np.exp(offset + slope * s2))


@dataclass(frozen=True)
class Shell:
    """Figures of merit in a range of resolution. Shares are fractions, not percent."""

    d_max: float
    """Å; infinite where the range has no end."""
    d_min: float
    """Å."""
    n_unique: int
    """Unique reflections measured."""
    n_possible: int
    """Unique reflections that the centring allows."""
    completeness: float
    n_measurements: int
    multiplicity: float
    """Measurements for each unique reflection; NaN where the file does not say."""
    snr: float
    """Mean of I/σ(I)."""
    mean_intensity: float
    n_pairs: int
    """Reflections in both half data sets, over which CC1/2, CC* and Rsplit are."""
    cc_half: float
    cc_star: float
    rsplit: float
    cc_ano: float
    """Correlation of Bijvoet differences of the halves; NaN where Friedel mates are merged."""


@dataclass(frozen=True)
class ShellStatistics:
    """Figures of merit by resolution, low resolution first, and over all."""

    shells: tuple[Shell, ...]
    overall: Shell

    def to_rows(self) -> list[dict[str, Any]]:
        """One dictionary for each shell, and one for all, which has `shell` = `overall`."""
        return _rows(self.shells, self.overall)


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
        return _rows(self.shells, self.overall)


def shell_statistics(
    merged: Merged, n_shells: int = 10, d_min: float | None = None, d_max: float | None = None
) -> ShellStatistics:
    """Figures of merit of merged data between `d_min` and `d_max` (Å; the range of the data where left out).

    One half data set is put on the scale of the other (`factors_onto`) before they are compared.
    Raises `MergeError` where no reflection is in that range.
    """
    resolution = resolution_of(merged.cell, merged.hkl)
    r_min, r_max = _range(resolution, d_min, d_max)
    possible = possible_reflections(merged.cell, merged.point_group, r_max, r_min)
    possible_resolution = resolution_of(merged.cell, possible)
    i1, i2 = merged.half1.intensity, merged.half2.intensity
    paired = np.isfinite(i1) & np.isfinite(i2) & (resolution >= r_min) & (resolution < r_max)
    i2 = i2.copy()
    i2[paired] *= factors_onto(i1[paired], i2[paired], resolution[paired])
    mate = _friedel_mates(merged.hkl) if not merged.point_group.centrosymmetric else None

    def shell(low: float, high: float) -> Shell:
        inside = (resolution >= low) & (resolution < high)
        pairs = inside & paired
        n_unique, n_measurements = int(inside.sum()), int(merged.n_observations[inside].sum())
        n_possible = int(np.count_nonzero((possible_resolution >= low) & (possible_resolution < high)))
        with np.errstate(divide="ignore", invalid="ignore"):
            snr = (merged.intensity / merged.sigma)[inside]
        snr = snr[np.isfinite(snr)]
        cc_half = correlation(i1[pairs], i2[pairs])
        return Shell(
            d_max=1 / low if low > 0 else float("inf"),
            d_min=1 / high,
            n_unique=n_unique,
            n_possible=n_possible,
            completeness=_ratio(n_unique, n_possible),
            n_measurements=n_measurements,
            multiplicity=_ratio(n_measurements, n_unique) if n_measurements else float("nan"),
            snr=float(snr.mean()) if len(snr) else float("nan"),
            mean_intensity=float(merged.intensity[inside].mean()) if n_unique else float("nan"),
            n_pairs=int(pairs.sum()),
            cc_half=cc_half,
            cc_star=cc_star(cc_half),
            rsplit=rsplit(i1[pairs], i2[pairs]),
            cc_ano=_cc_ano(i1, i2, pairs, mate) if mate is not None else float("nan"),
        )

    shells, overall = _each_shell(shell, r_min, r_max, n_shells)
    return ShellStatistics(shells, overall)


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
    r_min, r_max = _range(resolution, d_min, d_max)
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

    shells, overall = _each_shell(shell, r_min, r_max, n_shells)
    return Comparison(shells, overall)


def _each_shell(
    shell: Callable[[float, float], T], r_min: float, r_max: float, n_shells: int
) -> tuple[tuple[T, ...], T]:
    edges = shell_edges(r_min, r_max, n_shells)
    edges[0], edges[-1] = r_min, r_max
    shells = tuple(shell(float(low), float(high)) for low, high in pairwise(edges))
    return shells, shell(r_min, r_max)


def _range(resolution: Values, d_min: float | None, d_max: float | None) -> tuple[float, float]:
    """The least and the highest 1/d; a reflection at the very edge of the data is inside."""
    if not len(resolution):
        raise MergeError("there are no reflections", remedy="merge more crystals")
    r_min = float(resolution.min()) * (1 - 1e-9) if d_max is None else 1 / d_max
    r_max = float(resolution.max()) * (1 + 1e-9) if d_min is None else 1 / d_min
    if not np.any((resolution >= r_min) & (resolution < r_max)):
        raise MergeError(
            "no reflection is in the range of resolution",
            found=f"{1 / resolution.min():.2f} to {1 / resolution.max():.2f} Å",
            expected=f"{1 / r_min:.2f} to {1 / r_max:.2f} Å",
            remedy="change d_min and d_max",
        )
    return r_min, r_max


def _friedel_mates(hkl: NDArray[np.int32]) -> NDArray[np.int64]:
    """For reflections whose Friedel mate is there too, and comes later, its row; -1 for all others, (n,)."""
    rows = {tuple(index): row for row, index in enumerate(hkl.tolist())}
    mates = np.array([rows.get(tuple(index), -1) for index in (-hkl).tolist()], dtype=np.int64)
    return np.where(mates > np.arange(len(hkl)), mates, -1)


def _cc_ano(i1: Values, i2: Values, pairs: NDArray[np.bool_], mate: NDArray[np.int64]) -> float:
    plus = np.flatnonzero(pairs & (mate >= 0))
    minus = mate[plus]
    both = pairs[minus]
    plus, minus = plus[both], minus[both]
    return correlation(i1[plus] - i1[minus], i2[plus] - i2[minus])


def _means(hkl: NDArray[np.int32], intensity: Values) -> tuple[NDArray[np.int32], Values]:
    """Mean intensity of those that have the same hkl."""
    finite = np.isfinite(intensity)
    unique, place = np.unique(hkl[finite], axis=0, return_inverse=True)
    place = place.reshape(-1)
    sums = np.bincount(place, weights=intensity[finite], minlength=len(unique))
    return unique, sums / np.maximum(np.bincount(place, minlength=len(unique)), 1)


def _ratio(above: float, below: float) -> float:
    return float(above / below) if below else float("nan")


def _rows(shells: tuple[Any, ...], overall: Any) -> list[dict[str, Any]]:
    rows = [{"shell": str(number), **asdict(shell)} for number, shell in enumerate(shells, start=1)]
    return [*rows, {"shell": "overall", **asdict(overall)}]
