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
from sfxlab.merging.distribution import acentric_intensities
from sfxlab.merging.figures import (
    Values,
    cc_half_sigma_tau,
    cc_star,
    correlation,
    correlation_interval,
    crd_ano,
    factors_onto,
    merging_factors,
    r_ano,
    ratio,
    rsplit,
    shell_edges,
)

if TYPE_CHECKING:
    from sfxlab.merging.merged import Merged

T = TypeVar("T")


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
    multiplicity_5: float
    """5 % of the unique reflections were measured so often or less; NaN where the file does not say."""
    multiplicity_50: float
    """The median."""
    multiplicity_95: float
    snr: float
    """Mean of I/σ(I)."""
    mean_intensity: float
    second_moment: float
    """⟨(I/ε)²⟩/⟨I/ε⟩² of acentric reflections, without the fall with resolution: 2 without errors and twins, 1.5 for
    perfect twins."""
    r_merge: float
    """These three (`sfxlab.merging.figures.merging_factors`) say how far scaled observations scatter. For stills they
    mean little, because that is mostly partiality; depositions ask for them. NaN where the file does not say."""
    r_meas: float
    r_pim: float
    n_pairs: int
    """Reflections in both half data sets, over which CC1/2, CC* and Rsplit are."""
    cc_half: float
    cc_half_low: float
    """CC1/2 is between this and `cc_half_high` with a confidence of 95 %."""
    cc_half_high: float
    cc_half_sigma_tau: float
    """CC1/2 without halves, from the errors; far from `cc_half` where the errors are wrong."""
    cc_star: float
    rsplit: float
    d1sig: float
    """Share of the pairs of halves that differ by less than the error of their difference; 0.68 if that is right."""
    d2sig: float
    """By less than twice the error; 0.95 if that is right."""
    error_ratio: float
    """Standard deviation of differences of the halves in units of their errors; 1 where these are right."""
    cc_ano: float
    """Correlation of Bijvoet differences of the halves; NaN, as what follows, where Friedel mates are merged."""
    crd_ano: float
    """Spread of these differences along the diagonal over that across it; 1 without a signal."""
    r_ano: float
    """Σ|I⁺ − I⁻| / ½Σ(I⁺ + I⁻) of the means of the halves."""
    r_ano_over_rsplit: float


@dataclass(frozen=True)
class ShellStatistics:
    """Figures of merit by resolution, low resolution first, and over all."""

    shells: tuple[Shell, ...]
    overall: Shell

    def to_rows(self) -> list[dict[str, Any]]:
        """One dictionary for each shell, and one for all, which has `shell` = `overall`."""
        return rows_of(self.shells, self.overall)


def shell_statistics(
    merged: Merged, n_shells: int = 10, d_min: float | None = None, d_max: float | None = None
) -> ShellStatistics:
    """Figures of merit of merged data between `d_min` and `d_max` (Å; the range of the data where left out).

    One half data set is put on the scale of the other (`factors_onto`) before they are compared.
    Raises `MergeError` where no reflection is in that range.
    """
    resolution = resolution_of(merged.cell, merged.hkl)
    r_min, r_max = range_of(resolution, d_min, d_max)
    possible = possible_reflections(merged.cell, merged.point_group, r_max, r_min)
    possible_resolution = resolution_of(merged.cell, possible)
    i1, i2, error, paired = halves_on_one_scale(merged, resolution, r_min, r_max)
    unit = acentric_intensities(merged, resolution)
    deviation = np.full(len(i1), np.nan) if merged.deviation is None else merged.deviation
    mate = np.full(len(i2), -1) if merged.point_group.centrosymmetric else _friedel_mates(merged.hkl)

    def shell(low: float, high: float) -> Shell:
        inside = (resolution >= low) & (resolution < high)
        pairs = inside & paired
        n_unique, n_measurements = int(inside.sum()), int(merged.n_observations[inside].sum())
        n_possible = int(np.count_nonzero((possible_resolution >= low) & (possible_resolution < high)))
        cc_half, split = correlation(i1[pairs], i2[pairs]), rsplit(i1[pairs], i2[pairs])
        low_cc, high_cc = correlation_interval(cc_half, int(pairs.sum()))
        known = inside & np.isfinite(merged.intensity) & np.isfinite(merged.sigma)
        plus, minus = _bijvoet_pairs(pairs, mate)
        count = merged.n_observations[inside]
        percentiles = np.percentile(count, (5, 50, 95)) if n_measurements else np.full(3, np.nan)
        r_merge, r_meas, r_pim = merging_factors(merged.intensity[inside], count, deviation[inside])
        acentric = unit[inside & np.isfinite(unit)]
        anomalous = r_ano((i1 + i2)[plus] / 2, (i1 + i2)[minus] / 2)
        differences = i1[plus] - i1[minus], i2[plus] - i2[minus]
        return Shell(
            d_max=1 / low if low > 0 else float("inf"),
            d_min=1 / high,
            n_unique=n_unique,
            n_possible=n_possible,
            completeness=ratio(n_unique, n_possible),
            n_measurements=n_measurements,
            multiplicity=ratio(n_measurements, n_unique) if n_measurements else float("nan"),
            **dict(zip(("multiplicity_5", "multiplicity_50", "multiplicity_95"), map(float, percentiles), strict=True)),
            snr=mean_snr(merged, inside),
            mean_intensity=float(merged.intensity[inside].mean()) if n_unique else float("nan"),
            second_moment=ratio(float((acentric**2).sum()) * len(acentric), float(acentric.sum()) ** 2),
            r_merge=r_merge,
            r_meas=r_meas,
            r_pim=r_pim,
            n_pairs=int(pairs.sum()),
            cc_half=cc_half,
            cc_half_low=low_cc,
            cc_half_high=high_cc,
            cc_half_sigma_tau=cc_half_sigma_tau(merged.intensity[known], merged.sigma[known]),
            cc_star=cc_star(cc_half),
            rsplit=split,
            **_errors(np.abs(i1 - i2)[pairs], error[pairs]),
            cc_ano=correlation(*differences),
            crd_ano=crd_ano(*differences),
            r_ano=anomalous,
            r_ano_over_rsplit=ratio(anomalous, split),
        )

    shells, overall = each_shell(shell, r_min, r_max, n_shells)
    return ShellStatistics(shells, overall)


def halves_on_one_scale(
    merged: Merged, resolution: Values, r_min: float, r_max: float
) -> tuple[Values, Values, Values, NDArray[np.bool_]]:
    """I1, I2 on the scale of I1, the error of their difference, and which reflections are in both and in the range."""
    i1, i2 = merged.half1.intensity, merged.half2.intensity
    paired = np.isfinite(i1) & np.isfinite(i2) & (resolution >= r_min) & (resolution < r_max)
    factors = np.ones(len(i2))
    factors[paired] = factors_onto(i1[paired], i2[paired], resolution[paired])
    return i1, i2 * factors, np.hypot(merged.half1.sigma, factors * merged.half2.sigma), paired


def mean_snr(merged: Merged, inside: NDArray[np.bool_]) -> float:
    """Mean of I/σ(I) of some reflections; NaN where none has an error."""
    with np.errstate(divide="ignore", invalid="ignore"):
        snr = merged.intensity[inside] / merged.sigma[inside]
    snr = snr[np.isfinite(snr)]
    return float(snr.mean()) if len(snr) else float("nan")


def each_shell(
    shell: Callable[[float, float], T], r_min: float, r_max: float, n_shells: int
) -> tuple[tuple[T, ...], T]:
    """What `shell` makes of each shell between two 1/d, and of the whole range."""
    edges = shell_edges(r_min, r_max, n_shells)
    edges[0], edges[-1] = r_min, r_max
    shells = tuple(shell(float(low), float(high)) for low, high in pairwise(edges))
    return shells, shell(r_min, r_max)


def range_of(resolution: Values, d_min: float | None, d_max: float | None) -> tuple[float, float]:
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


def _bijvoet_pairs(pairs: NDArray[np.bool_], mate: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of I⁺ and of I⁻ for those of which both are among the `pairs` of halves."""
    plus = np.flatnonzero(pairs & (mate >= 0))
    plus = plus[pairs[mate[plus]]]
    return plus, mate[plus]


def _errors(difference: Values, error: Values) -> dict[str, float]:
    """How differences of halves compare with their errors; NaN for fewer than three."""
    known = np.isfinite(error) & (error > 0)
    if np.count_nonzero(known) < 3:
        return dict.fromkeys(("d1sig", "d2sig", "error_ratio"), float("nan"))
    relative = difference[known] / error[known]
    shares = {"d1sig": float(np.mean(relative < 1)), "d2sig": float(np.mean(relative < 2))}
    return {**shares, "error_ratio": float(np.sqrt(np.mean(relative**2)))}


def rows_of(shells: tuple[Any, ...], overall: Any) -> list[dict[str, Any]]:
    """One dictionary for each shell, and one for all, which has `shell` = `overall`."""
    rows = [{"shell": str(number), **asdict(shell)} for number, shell in enumerate(shells, start=1)]
    return [*rows, {"shell": "overall", **asdict(overall)}]
