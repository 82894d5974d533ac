"""From the observations of many crystals to one set of intensities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

import gemmi
import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import PointGroup, UnitCell, point_group_of
from sfxlab.crystal import point_group as point_group_named
from sfxlab.errors import CellError, MergeError
from sfxlab.merging.ambiguity import INDICES, brought_into_line
from sfxlab.merging.blocks import Scaled, passes
from sfxlab.merging.crystals import ProcessedRun
from sfxlab.merging.error_model import ErrorModel, fit_error_model
from sfxlab.merging.exclusion import Excluded, without
from sfxlab.merging.merged import Merged
from sfxlab.merging.models import (
    Fit,
    Model,
    check_model,
    columns_of,
    crystal_table,
    effects_of,
    fit_model,
    without_harmful,
)
from sfxlab.merging.observations import ANGLE_TOLERANCE, LENGTH_TOLERANCE, MEMORY_LIMIT, Observations, gather
from sfxlab.merging.partiality import NodeModel
from sfxlab.merging.polarisation import parse_polarisation
from sfxlab.merging.post_refinement import PostRefinement
from sfxlab.merging.scaling import Scaling
from sfxlab.merging.splits import Labels, MergedSplits, crystals_by_label
from sfxlab.merging.sums import Sums, absolute_deviations


class Options(TypedDict, total=False):
    """What `merge` can be told besides."""

    cell: UnitCell | None
    d_min: float | None
    d_max: float | None
    min_observations: int
    max_cycles: int
    polarisation: str | None
    space_group: str | None
    memory_limit: int
    ambiguity: str | Path | None
    node_model: NodeModel | None
    reject_harmful: bool
    length_tolerance: float
    angle_tolerance: float
    exclude: Excluded | None


@overload
def merge(
    runs: ProcessedRun | Sequence[ProcessedRun],
    point_group: str,
    model: Model = ...,
    *,
    labels: None = ...,
    **options: Unpack[Options],
) -> Merged: ...
@overload
def merge(
    runs: ProcessedRun | Sequence[ProcessedRun],
    point_group: str,
    model: Model = ...,
    *,
    labels: Labels,
    **options: Unpack[Options],
) -> MergedSplits: ...
@overload
def merge(
    runs: ProcessedRun | Sequence[ProcessedRun],
    point_group: str,
    model: Model = ...,
    *,
    labels: Labels | None,
    **options: Unpack[Options],
) -> Merged | MergedSplits: ...


def merge(
    runs: ProcessedRun | Sequence[ProcessedRun],
    point_group: str,
    model: Model = "scaled",
    *,
    labels: Labels | None = None,
    cell: UnitCell | None = None,
    d_min: float | None = None,
    d_max: float | None = None,
    min_observations: int = 2,
    max_cycles: int = 30,
    polarisation: str | None = "horiz",
    space_group: str | None = None,
    memory_limit: int = MEMORY_LIMIT,
    ambiguity: str | Path | None = None,
    node_model: NodeModel | None = None,
    reject_harmful: bool = True,
    length_tolerance: float = LENGTH_TOLERANCE,
    angle_tolerance: float = ANGLE_TOLERANCE,
    exclude: Excluded | None = None,
) -> Merged | MergedSplits:
    """Merge the observations of one or several runs.

    All that is kept in memory is what belongs to crystals and to unique reflections; observations come in blocks, from
    scratch files where they would take more than `memory_limit`. The result is the same either way.

    Parameters
    ----------
    point_group:
        As CrystFEL's users write it, `4/mmm`; one that is not centrosymmetric, `422`, keeps Friedel mates apart.
    model:
        `none` takes the plain mean of all observations. `scaled` fits a scale and a B factor to every crystal, leaves
        out crystals and observations that disagree with the others, and takes weighted means (METHODS.md 7.2).
        `partiality` models which share of its intensity each still shows, with orientation, cell and node radius of
        every crystal refined against the others (METHODS.md 7.3 and 7.4).
    labels:
        Labels of frames (`sfxlab.merging.splits.Labels`). All crystals are scaled together; what comes out then is a
        `MergedSplits`, a mapping from each label to the `Merged` of its frames, each with its own halves.
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
    memory_limit:
        Bytes that observations may take; those of more go into scratch files in the folder `TMPDIR`.
    ambiguity:
        `auto` resolves the indexing ambiguity by comparing crystals with each other, each half by itself; the path of
        a reference (MTZ, `.hkl`, PDB, mmCIF) by comparing them with that. Crystals that are not resolved are left out.
    node_model:
        Of partialities, `sphere` or `gaussian` (`sfxlab.merging.partiality`); the likelier one where left out.
    reject_harmful:
        Leave out crystals that make CC1/2 worse (`sfxlab.merging.crystal_rejection`). What each crystal does to it is
        in the table `Merged.crystals` in any case, and which were left out and why is in the history.
    length_tolerance, angle_tolerance:
        By how much the cell of a crystal may differ from that of the merged data: lengths by a fraction, angles by
        degrees. Other crystals are left out.
    exclude:
        Frames or crystals of the run to leave out: `tagged("ice")` of an open session, or numbers by kind
        (`sfxlab.merging.exclusion`). Of several runs, give each as `without(run, …)`.

    Raises `CellError` for a symmetry that is unknown or not that of the cell, and `MergeError` where nothing can be
    merged.
    """
    given: Sequence[ProcessedRun] = runs if isinstance(runs, Sequence) else [runs]
    if exclude is not None:
        if len(given) != 1:
            raise MergeError("numbers of frames and crystals to leave out are of one run", found=f"{len(given)} runs")
        given = [reduced := without(given[0], exclude)]
    check_model(model, node_model)
    if min_observations < 1 or max_cycles < 1:
        raise MergeError("min_observations and max_cycles start at 1", found=(min_observations, max_cycles))
    if not (length_tolerance > 0 and angle_tolerance > 0):
        raise MergeError("tolerances of cells are above zero", found=(length_tolerance, angle_tolerance))
    group = point_group_named(point_group)
    observations = gather(
        given, group, cell=cell, d_min=d_min, d_max=d_max, polarisation=parse_polarisation(polarisation),
        length_tolerance=length_tolerance, angle_tolerance=angle_tolerance, memory_limit=memory_limit,
        extra=columns_of(model) if ambiguity is None else INDICES,
    )  # fmt: skip
    observations, resolved = brought_into_line(observations, ambiguity)
    name = symbol_of_space_group(space_group, group, observations.cell)
    crystals = {} if labels is None else crystals_by_label(labels, given, observations.facts)
    scaling, effects = fit_model(observations, model, max_cycles, node_model), None
    if scaling is not None:
        effects = effects_of(scaling)
        scaling = without_harmful(scaling, effects) if reject_harmful else scaling
    everything = np.ones(len(observations.crystals), dtype=bool)
    selections = [everything, *crystals.values()]
    blocks = passes(lambda: _scaled(observations, scaling), kept=not observations.columns.on_disk)
    sums = sum_observations(blocks(), observations, selections)
    deviations = absolute_deviations(blocks(), sums, selections)
    settings = {
        "model": model, "point_group": group.name, "space_group": name, "cell": list(observations.cell.parameters),
        "polarisation": polarisation or "none", "d_min": d_min, "d_max": d_max, "min_observations": min_observations,
    }  # fmt: skip
    history = _history(given, observations, scaling, settings)
    if exclude is not None:
        history["left_out"] = {"crystals": reduced.left_out}
    if resolved is not None:
        history["indexing_ambiguity"] = resolved
    errors = errors_of(observations, scaling, sums[0], blocks())
    history["errors"] = errors.history()
    limit = scaling.max_error if isinstance(scaling, PostRefinement) else None
    whole = merged_of(
        sums[0], observations, name, scaling is not None, min_observations, history, errors=errors, max_error=limit,
        deviation=deviations[0],
    )  # fmt: skip
    if scaling is not None and effects is not None:
        whole = replace(whole, crystals=crystal_table(scaling, effects))
    if labels is None:
        return whole
    used = everything if scaling is None else scaling.accepted
    by_label = {}
    for (label, own), of_label, deviation in zip(crystals.items(), sums[1:], deviations[1:], strict=True):
        its_history = {
            **history, "label": label,
            "crystals": {"given": int(own.sum()), "used": int((own & used).sum())}, "observations": {},
        }  # fmt: skip
        by_label[label] = merged_of(
            of_label, observations, name, scaling is not None, min_observations, its_history, label, errors, limit,
            deviation,
        )  # fmt: skip
    return MergedSplits(whole, by_label)


def sum_observations(
    blocks: Iterable[Scaled], observations: Observations, selections: Sequence[NDArray[np.bool_]]
) -> list[Sums]:
    """Sums of the scaled observations of each selection of crystals, (n_crystals,)."""
    sums = [Sums.zero(len(observations.hkl)) for _ in selections]
    signs = [selection.astype(np.int8) for selection in selections]
    for block, factor, weight in blocks:
        half = observations.half[block.crystals]
        for sign, own in zip(signs, sums, strict=True):
            own.add(block, factor, weight, half, sign[block.crystals])
    return sums


def sum_observations_by(
    observations: Observations, scaling: Fit | None, group: NDArray[np.uint8], n_groups: int
) -> Sums:
    """Sums of the observations of each group of crystals, which are numbered from 0, (n_crystals,)."""
    sums = Sums.zero(len(observations.hkl), n_groups)
    for block, factor, weight in _scaled(observations, scaling):
        own = group[block.crystals]
        sums.add(block, factor, weight, own, np.ones(len(own), dtype=np.int8))
    return sums


def add_crystals(sums: Sums, scaling: Scaling, sign: NDArray[np.int8]) -> None:
    """Add crystals whose `sign` is 1 to the sums, take away those whose `sign` is -1, (n_crystals,)."""
    for block, factor, weight in scaling.blocks():
        sums.add(block, factor, weight, scaling.observations.half[block.crystals], sign[block.crystals])


def errors_of(
    observations: Observations, scaling: Fit | None, sums: Sums, blocks: Iterable[Scaled] | None = None
) -> ErrorModel:
    """The errors of intensities that are merged from these sums over all crystals; `blocks` are what was summed."""
    inflation = scaling.inflation if isinstance(scaling, PostRefinement) else None
    blocks = _scaled(observations, scaling) if blocks is None else blocks
    return fit_error_model(blocks, sums, observations.resolution, scaling is not None, inflation)


def _scaled(observations: Observations, scaling: Fit | None) -> Iterator[Scaled]:
    """The observations in blocks, what to divide each by, and its weight."""
    if scaling is not None:
        yield from scaling.blocks()
        return
    for block in observations.blocks():
        yield block, np.ones(len(block)), np.ones(len(block))


def merged_of(
    sums: Sums,
    o: Observations,
    space_group: str | None,
    scaled: bool,
    min_observations: int,
    history: Mapping[str, Any],
    label: str | None = None,
    errors: ErrorModel | None = None,
    max_error: NDArray[np.float64] | None = None,
    deviation: NDArray[np.float64] | None = None,
) -> Merged:
    """Merged intensities of those reflections that were observed often enough, and no worse than with `max_error`.

    Raises `MergeError` where there are none.
    """
    unit_variance = None if errors is None else errors.unit_variance
    whole, half1, half2 = sums.intensities(scaled, min_observations, unit_variance, max_error)
    seen = np.isfinite(whole.intensity)
    if not seen.any():
        raise MergeError(
            "no reflection was observed often enough" + (f" with the label {label!r}" if label else ""),
            found=f"{len(o)} observations of {len(o.hkl)} reflections" if label is None else None,
            expected=f"{min_observations} observations of a reflection",
            remedy="lower min_observations or merge more crystals",
        )
    whole, half1, half2 = whole[seen], half1[seen], half2[seen]
    counts = {**history["observations"], "merged": int(whole.n_observations.sum())}
    return Merged(
        hkl=o.hkl[seen],
        intensity=whole.intensity,
        sigma=whole.sigma,
        n_observations=whole.n_observations,
        half1=half1,
        half2=half2,
        cell=o.cell,
        point_group=o.point_group,
        space_group=space_group,
        wavelength=o.wavelength,
        deviation=None if deviation is None else deviation[seen],
        history={**history, "observations": counts},
    )


def symbol_of_space_group(name: str | None, group: PointGroup, cell: UnitCell) -> str | None:
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
    runs: Sequence[ProcessedRun], o: Observations, scaling: Fit | None, settings: dict[str, Any]
) -> dict[str, Any]:
    rejected = [{"crystal": str(crystal), "reason": reason} for crystal, reason in o.excluded]
    counts = {reason: n for reason, n in o.dropped.items() if n}
    history: dict[str, Any] = {"program": f"sfxlab {version('sfxlab')}", **settings}
    history["created"] = datetime.now(UTC).isoformat(timespec="seconds")
    history["runs"] = [str(path) for run in runs if (path := getattr(run, "path", None)) is not None]
    if scaling is not None:
        excluded = {crystal for crystal, _ in o.excluded}
        of_left_out = [(o.crystals[i], scaling.reasons[i]) for i in np.flatnonzero(~scaling.accepted).tolist()]
        rejected += [{"crystal": str(c), "reason": r} for c, r in of_left_out if c not in excluded]
        counts["in crystals that are left out"] = int(np.diff(o.offsets)[~scaling.accepted].sum())
        counts["disagrees with the others"] = scaling.n_outliers
        if isinstance(scaling, PostRefinement):
            history["post_refinement"] = scaling.history()
        else:
            history["scaling"] = {
                "cycles": scaling.cycles,
                "converged": scaling.converged,
                "relative_scatter": round(float(np.median(scaling.scatter)), 3),
            }
    history["crystals"] = {
        "given": len(o.crystals), "used": len(o.crystals) - len(rejected), "rejected": rejected,
    }  # fmt: skip
    history["observations"] = {"given": len(o) + sum(o.dropped.values()), "left_out": counts}
    return history
