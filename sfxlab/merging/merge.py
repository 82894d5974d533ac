"""From the observations of many crystals to one set of intensities."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

import gemmi
import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import PointGroup, UnitCell, point_group_of
from sfxlab.crystal import point_group as point_group_named
from sfxlab.errors import CellError, MergeError
from sfxlab.merging.intensities import Intensities
from sfxlab.merging.merged import Merged
from sfxlab.merging.observations import Observations, ProcessedRun, gather
from sfxlab.merging.polarisation import parse_polarisation
from sfxlab.merging.scaling import Scaling, fit_scales

Model = Literal["none", "scaled"]

# Weight of the variance that scaling expects against the scatter that is found, in observations.
_EXPECTED_VARIANCE_WEIGHT = 4.0


def merge(
    runs: ProcessedRun | Sequence[ProcessedRun],
    point_group: str,
    model: Model = "scaled",
    *,
    cell: UnitCell | None = None,
    d_min: float | None = None,
    d_max: float | None = None,
    min_observations: int = 2,
    max_cycles: int = 30,
    polarisation: str | None = "horiz",
    space_group: str | None = None,
) -> Merged:
    """Merge the observations of one or several runs.

    Parameters
    ----------
    point_group:
        As CrystFEL's users write it, `4/mmm`; one that is not centrosymmetric, `422`, keeps Friedel mates apart.
    model:
        `none` takes the plain mean of all observations. `scaled` fits a scale and a B factor to every crystal, leaves
        out crystals and observations that disagree with the others, and takes weighted means (METHODS.md 7.2).
    cell:
        Cell of the merged data; the median over the crystals where left out.
    d_min, d_max:
        Limits of resolution, Å.
    min_observations:
        Reflections with fewer observations are left out, in the half data sets too.
    max_cycles:
        Most cycles of scaling.
    polarisation:
        `horiz`, `vert`, `none` or `<angle>deg<percent>`.
    space_group:
        Written into MTZ files; the lowest-numbered one of the point group where left out.

    Raises `CellError` for a symmetry that is unknown or not that of the cell, and `MergeError` where nothing can be
    merged.
    """
    given: Sequence[ProcessedRun] = runs if isinstance(runs, Sequence) else [runs]
    if model not in ("none", "scaled"):
        raise MergeError(f"unknown model '{model}'", expected="none or scaled")
    if min_observations < 1 or max_cycles < 1:
        raise MergeError("min_observations and max_cycles start at 1", found=(min_observations, max_cycles))
    group = point_group_named(point_group)
    observations = gather(
        given, group, cell=cell, d_min=d_min, d_max=d_max, polarisation=parse_polarisation(polarisation)
    )
    name = _space_group(space_group, group, observations.cell)
    scaling = fit_scales(observations, max_cycles) if model == "scaled" else None
    whole, half1, half2 = _average(observations, scaling, min_observations)
    seen = _seen(whole, observations, min_observations)
    whole, half1, half2 = whole[seen], half1[seen], half2[seen]
    settings = {
        "model": model, "point_group": group.name, "space_group": name, "cell": list(observations.cell.parameters),
        "polarisation": polarisation or "none", "d_min": d_min, "d_max": d_max, "min_observations": min_observations,
    }  # fmt: skip
    return Merged(
        hkl=observations.hkl[seen],
        intensity=whole.intensity,
        sigma=whole.sigma,
        n_observations=whole.n_observations,
        half1=half1,
        half2=half2,
        cell=observations.cell,
        point_group=group,
        space_group=name,
        wavelength=observations.wavelength,
        history=_history(given, observations, scaling, settings, int(whole.n_observations.sum())),
    )


def _seen(whole: Intensities, o: Observations, min_observations: int) -> NDArray[np.bool_]:
    """Which unique reflections were observed often enough, (n_reflections,)."""
    seen = np.isfinite(whole.intensity)
    if not seen.any():
        raise MergeError(
            "no reflection was observed often enough",
            found=f"{len(o)} observations of {len(o.hkl)} reflections",
            expected=f"{min_observations} observations of a reflection",
            remedy="lower min_observations or merge more crystals",
        )
    return seen


def _average(
    o: Observations, scaling: Scaling | None, min_observations: int
) -> tuple[Intensities, Intensities, Intensities]:
    """Mean of each unique reflection over all observations and over those of each half, each (n_reflections,)."""
    if scaling is None:
        factor, weight = np.ones(len(o)), np.ones(len(o))
    else:
        factor, weight = scaling.factor, scaling.weight
    intensity, sigma = o.intensity / factor, o.sigma / factor
    half = o.half[o.crystal]
    expected_weight = 0.0 if scaling is None else _EXPECTED_VARIANCE_WEIGHT
    sets = []
    for chosen in (weight > 0, (weight > 0) & (half == 0), (weight > 0) & (half == 1)):
        columns = (o.reflection[chosen], intensity[chosen], sigma[chosen], weight[chosen])
        sets.append(_weighted_means(*columns, len(o.hkl), expected_weight, min_observations))
    return sets[0], sets[1], sets[2]


def _weighted_means(
    reflection: NDArray[np.int32],
    intensity: NDArray[np.float64],
    sigma: NDArray[np.float64],
    weight: NDArray[np.float64],
    n_reflections: int,
    expected_weight: float,
    min_observations: int,
) -> Intensities:
    """Σ w I / Σ w and its standard error, NaN for reflections with fewer than `min_observations`.

    With `expected_weight` 0 the error is √(Σ w (I − ⟨I⟩)² / Σ w) / √n (METHODS.md 7.1). Otherwise weights are inverse
    variances, and the scatter that they predict counts like that of so many more observations, which keeps the errors
    of reflections with few observations from being zero by chance.
    """
    count = np.bincount(reflection, minlength=n_reflections)
    total = np.bincount(reflection, weights=weight, minlength=n_reflections)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.bincount(reflection, weights=weight * intensity, minlength=n_reflections) / total
        squares = weight * (intensity - mean[reflection]) ** 2
        scatter = np.bincount(reflection, weights=squares, minlength=n_reflections)
        if expected_weight:
            error = np.sqrt((scatter + expected_weight) / (count - 1 + expected_weight) / total)
        else:
            error = np.sqrt(scatter / total / count)
            counting = np.sqrt(np.bincount(reflection, weights=sigma**2, minlength=n_reflections))
            error = np.where(count == 1, counting, error)
    enough = count >= min_observations
    return Intensities(
        np.where(enough, mean, np.nan), np.where(enough, error, np.nan), np.where(enough, count, 0).astype(np.int32)
    )


def _space_group(name: str | None, group: PointGroup, cell: UnitCell) -> str | None:
    """The full symbol of the space group to write; None where this setting has none."""
    if name is None:
        try:
            return str(group.space_group(cell.centring).xhm())
        except CellError:
            return None
    found = gemmi.find_spacegroup_by_name(name, cell.alpha, cell.gamma)
    if found is None:
        raise CellError(f"unknown space group '{name}'", remedy="write it as in 'P 43 21 2'")
    symbol = str(found.xhm())
    of_space_group = point_group_of(symbol, friedel=False)
    if group.name not in (of_space_group.name, of_space_group.laue_group.name):
        raise CellError(
            f"space group {symbol} does not belong to point group {group.name}",
            expected=f"point group {of_space_group.laue_group.name} or {of_space_group.name}",
            remedy="correct the space group or the point group",
        )
    return symbol


def _history(
    runs: Sequence[ProcessedRun],
    o: Observations,
    scaling: Scaling | None,
    settings: dict[str, Any],
    n_merged: int,
) -> dict[str, Any]:
    rejected = [{"crystal": str(crystal), "reason": reason} for crystal, reason in o.excluded]
    counts = {reason: n for reason, n in o.dropped.items() if n}
    history: dict[str, Any] = {"program": f"sfxlab {version('sfxlab')}", **settings}
    history["created"] = datetime.now(UTC).isoformat(timespec="seconds")
    history["runs"] = [str(path) for run in runs if (path := getattr(run, "path", None)) is not None]
    if scaling is not None:
        excluded = {crystal for crystal, _ in o.excluded}
        pairs = zip(o.crystals, scaling.reasons, strict=True)
        rejected += [{"crystal": str(c), "reason": r} for c, r in pairs if r and c not in excluded]
        accepted = scaling.accepted[o.crystal]
        counts["in crystals that are left out"] = int(np.count_nonzero(~accepted))
        counts["disagrees with the others"] = int(np.count_nonzero(scaling.outlier & accepted))
        history["scaling"] = {
            "cycles": scaling.cycles,
            "converged": scaling.converged,
            "relative_scatter": round(float(np.median(scaling.scatter)), 3),
        }
    history["crystals"] = {
        "given": len(o.crystals), "used": len(o.crystals) - len(rejected), "rejected": rejected,
    }  # fmt: skip
    history["observations"] = {
        "given": len(o) + sum(o.dropped.values()), "merged": n_merged, "left_out": counts,
    }  # fmt: skip
    return history
