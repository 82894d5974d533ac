"""Sums over scaled observations, from which merged intensities and their errors follow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from sfxlab.merging.blocks import Block, Scaled
from sfxlab.merging.intensities import Intensities

# Weight of the variance that scaling expects against the scatter that is found, in observations.
_EXPECTED_VARIANCE_WEIGHT = 4.0


@dataclass(frozen=True)
class Sums:
    """Sums over the observations of each unique reflection, of both halves: they can be added to and taken from."""

    values: NDArray[np.float64]
    """Number, Σ w, Σ w y, Σ w y², Σ (σ/f)² with y = I / f, (2, n_reflections, 5); or of more groups than halves."""

    @staticmethod
    def zero(n_reflections: int, n_groups: int = 2) -> Sums:
        """Sums of nothing."""
        return Sums(np.zeros((n_groups, n_reflections, 5)))

    def add(
        self,
        block: Block,
        factor: NDArray[np.float64],
        weight: NDArray[np.float64],
        half: NDArray[np.uint8],
        sign: NDArray[np.int8],
    ) -> None:
        """Add the observations of crystals whose `sign` is 1, take away those of crystals whose `sign` is -1.

        `factor` and `weight` are of the observations, (n,), `half` and `sign` of the block's crystals. Observations
        without weight do not count.
        """
        add_observations(
            block.offsets, block.reflection, block.intensity, block.sigma, factor, weight, half, sign, self.values
        )

    def intensities(
        self,
        scaled: bool,
        min_observations: int,
        unit_variance: NDArray[np.float64] | None = None,
        max_error: NDArray[np.float64] | None = None,
    ) -> tuple[Intensities, Intensities, Intensities]:
        """Σ w y / Σ w and its standard error, of all and of both halves; NaN where there are too few observations.

        With `unit_variance` u of an error model (`sfxlab.merging.error_model`) the error is √(u / Σ w); those above
        `max_error` count as not observed. Both are of the reflections, (n_reflections,).

        Without, it is √(Σ w (y − ⟨y⟩)² / Σ w) / √n (METHODS.md 7.1). Where observations are `scaled` their weights are
        inverse variances, and the scatter that they predict counts like that of so many more observations, which
        keeps the errors of reflections with few observations from being zero by chance.
        """
        half1, half2 = self.values
        whole, first, second = (
            _intensities(v, scaled, min_observations, unit_variance, max_error) for v in (half1 + half2, half1, half2)
        )
        return whole, first, second


def absolute_deviations(
    blocks: Iterable[Scaled],
    sums: Sequence[Sums],
    selections: Sequence[NDArray[np.bool_]],
) -> list[NDArray[np.float64]]:
    """Σ w |y − m| / Σ w of each reflection for each selection of crystals, (n_reflections,); NaN without observations.

    `blocks` gives the observations with their factors and weights, of which `sums` were made; m are the means of these.
    """
    wholes = [s.values.sum(axis=0) for s in sums]
    with np.errstate(divide="ignore", invalid="ignore"):
        means = [whole[:, 2] / whole[:, 1] for whole in wholes]
    found = [np.zeros(len(mean)) for mean in means]
    for block, factor, weight in blocks:
        for selection, mean, total in zip(selections, means, found, strict=True):
            own = selection[block.crystals]
            add_deviations(block.offsets, block.reflection, block.intensity, factor, weight, own, mean, total)
    with np.errstate(divide="ignore", invalid="ignore"):
        return [total / whole[:, 1] for total, whole in zip(found, wholes, strict=True)]


def mean_and_error(values: NDArray[np.float64], scaled: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means and their errors, (n_reflections,), from sums (n_reflections, 5); NaN where there is nothing."""
    count, total, first, second, squares = values.T
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = first / total
        scatter = np.maximum(second - first * mean, 0.0)
        if scaled:
            more = _EXPECTED_VARIANCE_WEIGHT
            return mean, np.sqrt((scatter + more) / (count - 1 + more) / total)
        several = np.sqrt(scatter / total / count)
        return mean, np.where(np.rint(count) == 1, np.sqrt(np.maximum(squares, 0.0)), several)


def _intensities(
    values: NDArray[np.float64],
    scaled: bool,
    min_observations: int,
    unit_variance: NDArray[np.float64] | None,
    max_error: NDArray[np.float64] | None,
) -> Intensities:
    mean, error = mean_and_error(values, scaled)
    if unit_variance is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.sqrt(unit_variance / values[:, 1])
    count = np.rint(values[:, 0]).astype(np.int32)
    enough = count >= min_observations
    if max_error is not None:
        enough &= error <= max_error
    return Intensities(
        np.where(enough, mean, np.nan), np.where(enough, error, np.nan), np.where(enough, count, 0).astype(np.int32)
    )


@numba.njit(cache=True, nogil=True)
def add_deviations(offsets, reflection, intensity, factor, weight, chosen, mean, total):  # type: ignore[no-untyped-def]
    """Add w |y − m| of the observations of `chosen` crystals to `total[reflection]`, y = I / f, m = `mean`."""
    for i in range(len(chosen)):
        if chosen[i]:
            for j in range(offsets[i], offsets[i + 1]):
                if weight[j] > 0.0:
                    total[reflection[j]] += weight[j] * abs(intensity[j] / factor[j] - mean[reflection[j]])


@numba.njit(cache=True, nogil=True)
def add_observations(  # type: ignore[no-untyped-def]
    offsets, reflection, intensity, sigma, factor, weight, half, sign, sums
):
    """Add ±(1, w, w y, w y², (σ/f)²) to `sums[half, reflection]`, y = I / f.

    `offsets` (n_crystals + 1,), `half` and `sign` (n_crystals,), `sums` (2, n_reflections, 5); the rest (n,).
    """
    for i in range(len(sign)):
        if sign[i] == 0:
            continue
        for j in range(offsets[i], offsets[i + 1]):
            if weight[j] <= 0.0:
                continue
            y, w = intensity[j] / factor[j], sign[i] * weight[j]
            row = sums[half[i], reflection[j]]
            row[0] += sign[i]
            row[1] += w
            row[2] += w * y
            row[3] += w * y * y
            row[4] += sign[i] * (sigma[j] / factor[j]) ** 2
