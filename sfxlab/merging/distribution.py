"""How intensities are distributed: Wilson plot, second moments and the L-test for twins (METHODS.md section 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import gemmi
import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import PointGroup, point_group_of, resolution_of
from sfxlab.merging.figures import Values

if TYPE_CHECKING:
    from sfxlab.merging.merged import Merged

# Atoms of an average residue of a protein.
_RESIDUE = {"C": 5.0, "H": 8.0, "N": 1.35, "O": 1.5}
# Å; solvent and secondary structure bend the plot at lower resolution.
_STRAIGHT_FROM = 3.2
_MOST_BINS, _LEAST_IN_BIN = 50, 30
_MOMENT_BINS = 20
_LEAST_SNR = 3.0
# Of indices, so that pairs are close to each other and of the same parity, whatever the centring.
_STEPS = ((2, 0, 0), (0, 2, 0), (0, 0, 2), (2, 2, 0), (2, -2, 0), (2, 0, 2), (2, 0, -2), (0, 2, 2), (0, 2, -2))
_LEAST_PAIRS = 100


@dataclass(frozen=True)
class WilsonPlot:
    """ln(⟨I/ε⟩ / Σf²) against s² = 1/4d², in bins of equal volume, (n,) each."""

    s2: Values
    """Means over the bins, 1/Å²."""
    log_ratio: Values
    """NaN where the mean intensity is not positive."""
    n_reflections: NDArray[np.int64]
    b_factor: float
    """From the bins beyond 3.2 Å, Å²; NaN where they are fewer than three."""
    log_scale: float
    """Where the straight line meets s² = 0."""


@dataclass(frozen=True)
class TwinTest:
    """The L-test of Padilla & Yeates (2003) on acentric reflections, and their second moment."""

    n_pairs: int
    d_max: float
    """Å; the test is over the shells in which the mean I/σ is 3 or more."""
    d_min: float
    mean_abs_l: float
    """⟨|L|⟩: 0.5 without twins, 0.375 with twins of the same size, more with errors; NaN where data are too weak."""
    mean_square_l: float
    """⟨L²⟩: 1/3 without twins, 1/5 with twins of the same size."""
    second_moment: float
    """⟨(I/ε)²⟩/⟨I/ε⟩² in shells: 2 without twins, 1.5 with twins of the same size."""
    twin_fraction: float
    """The fraction that this ⟨|L|⟩ means; 0 where it is 0.5 or more."""
    l_values: Values
    """|L| of all pairs, sorted."""

    @property
    def verdict(self) -> str:
        """What it means, in words."""
        if not np.isfinite(self.mean_abs_l):
            return "too few strong reflections for the L-test"
        if self.mean_abs_l > 0.55:
            return "spread wider than that of untwinned data: large errors, or translational symmetry"
        if self.twin_fraction < 0.1:
            return "no sign of twins"
        if self.twin_fraction < 0.3:
            return "looks partly twinned: twins, or some crystals are indexed in the other way"
        return "looks perfectly twinned: twins, or the indexing ambiguity is not resolved"


def wilson_plot(merged: Merged, d_min: float | None = None, d_max: float | None = None) -> WilsonPlot:
    """The Wilson plot of a protein of average composition, between `d_min` and `d_max` (Å)."""
    hkl, intensity, _, resolution = _within(merged, d_min, d_max)
    epsilon, _ = multiplicities(rotations_of(merged), hkl)
    n_bins = int(np.clip(len(hkl) // _LEAST_IN_BIN, 1, _MOST_BINS))
    bins = _bins(resolution, n_bins)
    count = np.bincount(bins, minlength=n_bins)
    filled = np.maximum(count, 1)
    s2 = np.bincount(bins, weights=resolution**2 / 4, minlength=n_bins) / filled
    mean = np.bincount(bins, weights=intensity / epsilon, minlength=n_bins) / filled
    with np.errstate(divide="ignore", invalid="ignore"):
        log_ratio = np.where((mean > 0) & (count > 0), np.log(mean / _squared_factors(s2)), np.nan)
    straight = np.isfinite(log_ratio) & (s2 > 1 / (4 * _STRAIGHT_FROM**2))
    slope, offset = float("nan"), float("nan")
    if np.count_nonzero(straight) >= 3:
        slope, offset = np.polyfit(s2[straight], log_ratio[straight], 1, w=np.sqrt(count[straight]))
    return WilsonPlot(s2, log_ratio, count, -float(slope) / 2, float(offset))


def twin_test(merged: Merged, d_min: float | None = None, d_max: float | None = None) -> TwinTest:
    """The L-test over the shells in which the mean I/σ is 3 or more, between `d_min` and `d_max` (Å)."""
    hkl, intensity, sigma, resolution = _within(merged, d_min, d_max)
    laue = merged.point_group.laue_group
    epsilon, centric = multiplicities(rotations_of(merged), hkl)
    bins = _bins(resolution, _MOMENT_BINS)
    count = np.maximum(np.bincount(bins, minlength=_MOMENT_BINS), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        snr = np.nan_to_num(intensity / sigma, posinf=0, neginf=0)
    strong = (np.bincount(bins, weights=snr, minlength=_MOMENT_BINS) / count >= _LEAST_SNR)[bins] & ~centric
    # Without the fall with resolution, which would widen the spread of pairs.
    unit = intensity / epsilon / _mean_at(resolution, intensity / epsilon, bins)
    hkl, intensity, bins = hkl[strong], unit[strong], bins[strong]
    rows = {tuple(index): row for row, index in enumerate(laue.asu(hkl).tolist())}
    pairs = [_pairs(hkl, np.array(step, dtype=np.int32), rows, laue) for step in _STEPS]
    one, other = (np.concatenate(rows) for rows in zip(*pairs, strict=True))
    positive = intensity[one] + intensity[other] > 0
    i1, i2 = intensity[one[positive]], intensity[other[positive]]
    values = np.sort(np.minimum(np.abs((i1 - i2) / (i1 + i2)), 1))
    if len(values) < _LEAST_PAIRS:
        nan = float("nan")
        return TwinTest(len(values), nan, nan, nan, nan, nan, nan, values)
    used = resolution[strong]
    return TwinTest(
        n_pairs=len(values),
        d_max=float(1 / used.min()),
        d_min=float(1 / used.max()),
        mean_abs_l=float(values.mean()),
        mean_square_l=float(np.mean(values**2)),
        second_moment=_second_moment(intensity, bins),
        twin_fraction=_twin_fraction(float(values.mean())),
        l_values=values,
    )


def rotations_of(merged: Merged) -> NDArray[np.int32]:
    """Operations of the crystal's own point group: of chiral molecules where only the Laue group is known."""
    group = merged.point_group
    if merged.space_group is not None:
        group = point_group_of(merged.space_group, friedel=False)
    if not group.centrosymmetric:
        return group.operations
    return np.asarray(group.operations[np.linalg.det(group.operations) > 0], dtype=np.int32)


def acentric_intensities(merged: Merged, resolution: Values) -> Values:
    """I/ε over its mean at that resolution (1/d), (n,); NaN for centric reflections and those that are not known."""
    epsilon, centric = multiplicities(rotations_of(merged), merged.hkl)
    unit = np.where(centric, np.nan, merged.intensity / epsilon)
    known = np.isfinite(unit)
    unit[known] /= _mean_at(resolution[known], unit[known], _bins(resolution[known], _MOMENT_BINS))
    return unit


def multiplicities(operations: NDArray[np.int32], hkl: NDArray[np.int32]) -> tuple[Values, NDArray[np.bool_]]:
    """ε, how many operations leave each reflection where it is, and whether one turns it into its Friedel mate."""
    epsilon, centric = np.zeros(len(hkl)), np.zeros(len(hkl), dtype=bool)
    for operation in operations:
        turned = hkl @ operation.T
        epsilon += np.all(turned == hkl, axis=1)
        centric |= np.all(turned == -hkl, axis=1)
    return epsilon, centric


def mean_abs_l(twin_fraction: Values) -> Values:
    """⟨|L|⟩ of acentric reflections with a twin fraction below ½; the other twin's pair is unrelated to theirs."""
    a = np.asarray(twin_fraction)
    with np.errstate(divide="ignore", invalid="ignore"):
        mixed = np.where(a > 0, (a * (1 - a)) ** 2 * np.log(4 * a * (1 - a)), 0)
    return np.asarray(((1 - 2 * a) ** 2 * (1 - 6 * a + 6 * a**2) - 8 * mixed) / (2 * (1 - 2 * a) ** 4))


def _twin_fraction(found: float) -> float:
    # At ½ the expression is 0/0, and close to it numbers cancel.
    fractions = np.linspace(0, 0.48, 200)
    curve = np.append(mean_abs_l(fractions), 0.375)
    return float(np.interp(-found, -curve, np.append(fractions, 0.5)))


def _pairs(
    hkl: NDArray[np.int32], step: NDArray[np.int32], rows: dict[tuple[int, ...], int], group: PointGroup
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of reflections and of those that are a step away, where both are there and not equivalent."""
    other = np.array([rows.get(tuple(index), -1) for index in group.asu(hkl + step).tolist()], dtype=np.int64)
    one = np.arange(len(hkl))
    both = (other >= 0) & (other != one)
    return one[both], other[both]


def _mean_at(resolution: Values, intensity: Values, bins: NDArray[np.int64]) -> Values:
    """The mean intensity at each 1/d, between the means of bins; 1 where these are not positive."""
    count = np.bincount(bins)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean, s2 = (np.bincount(bins, weights=values) / count for values in (intensity, resolution**2))
    good = (count >= _LEAST_IN_BIN) & (mean > 0)
    if not good.any():
        return np.ones(len(resolution))
    return np.asarray(np.exp(np.interp(resolution**2, s2[good], np.log(mean[good]))))


def _second_moment(intensity: Values, bins: NDArray[np.int64]) -> float:
    """Mean over the bins of ⟨I²⟩/⟨I⟩², by their numbers of reflections."""
    count = np.bincount(bins)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.bincount(bins, weights=intensity) / count
        moment = np.bincount(bins, weights=intensity**2) / count / mean**2
    good = (count >= _LEAST_IN_BIN) & (mean > 0)
    return float(np.average(moment[good], weights=count[good])) if good.any() else float("nan")


def _within(
    merged: Merged, d_min: float | None, d_max: float | None
) -> tuple[NDArray[np.int32], Values, Values, Values]:
    """hkl, intensity, sigma and 1/d in a range, Friedel mates being one reflection."""
    resolution = resolution_of(merged.cell, merged.hkl)
    low, high = 0.0 if d_max is None else 1 / d_max, np.inf if d_min is None else 1 / d_min
    keep = np.isfinite(merged.intensity) & (resolution >= low) & (resolution < high)
    hkl, place = np.unique(merged.point_group.laue_group.asu(merged.hkl[keep]), axis=0, return_inverse=True)
    place = place.reshape(-1)
    n = np.bincount(place, minlength=len(hkl))
    intensity = np.bincount(place, weights=merged.intensity[keep], minlength=len(hkl)) / n
    variance = np.bincount(place, weights=merged.sigma[keep] ** 2, minlength=len(hkl)) / n**2
    return hkl, intensity, np.sqrt(variance), resolution_of(merged.cell, hkl)


def _bins(resolution: Values, n_bins: int) -> NDArray[np.int64]:
    """Which bin of equal volume each reflection is in, (n,)."""
    if not len(resolution):
        return np.empty(0, dtype=np.int64)
    cubes = resolution**3
    width = max((cubes.max() - cubes.min()) / n_bins, np.finfo(float).tiny)
    return np.asarray(np.minimum((cubes - cubes.min()) / width, n_bins - 1), dtype=np.int64)


def _squared_factors(s2: Values) -> Values:
    """Σf² of an average residue."""
    total = np.zeros(len(s2))
    for element, count in _RESIDUE.items():
        coefficients = gemmi.Element(element).it92
        total += count * np.array([coefficients.calculate_sf(float(value)) for value in s2]) ** 2
    return total
