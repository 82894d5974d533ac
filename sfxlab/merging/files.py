"""Merged intensities to and from MTZ files and CrystFEL reflection lists."""

from __future__ import annotations

import gzip
import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import gemmi
import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import PointGroup, UnitCell, point_group, point_group_of, read_cell
from sfxlab.errors import CellError, MergeError, OutputExistsError
from sfxlab.interop.hkl import ReflectionList, format_hkl, read_hkl
from sfxlab.interop.mtz import MtzTable, mtz_bytes, read_mtz
from sfxlab.merging.amplitudes import amplitudes
from sfxlab.merging.free_set import LABELS, flags_from, free_flags
from sfxlab.merging.intensities import Intensities, concatenate
from sfxlab.whole_files import written_whole

if TYPE_CHECKING:
    from sfxlab.merging.merged import Merged

# Labels of intensity, sigma and number of observations: of all, and of both halves.
_LABELS = (("IMEAN", "SIGIMEAN", "N"), ("IHALF1", "SIGIHALF1", "NHALF1"), ("IHALF2", "SIGIHALF2", "NHALF2"))
FREE = LABELS[0]
_DEVIATION = "ADEV"
_BIJVOET_LABELS = (("I", "SIGI", "N"), *_LABELS[1:])


def read_merged(path: str | Path, *, cell: UnitCell | None = None, space_group: str | None = None) -> Merged:
    """Read merged intensities from an `.mtz` or an `.hkl` (also `.hkl.gz`) file.

    A reflection list has no cell, so `cell` is needed for it; `space_group` is only asked for where the list does not
    say its symmetry. Its halves are taken from the files with 1 and 2 added to the name, where they exist. Of MTZ files
    of other programs the first intensities are taken, or the squares of the first amplitudes.

    Raises `MergeError`, `StreamError` or `CellError`.
    """
    path = Path(path)
    if path.suffix.lower() == ".mtz":
        return _read_mtz(path)
    if path.name.lower().endswith((".hkl", ".hkl.gz")):
        return _read_hkl(path, cell, space_group)
    raise MergeError(
        "merged data of this kind cannot be read", path=path, found=path.suffix or "no suffix", expected=".mtz or .hkl"
    )


def write_hkl(merged: Merged, path: Path, *, overwrite: bool = False) -> None:
    """Write a reflection list and one for each half; see `Merged.to_hkl`."""
    targets = [path, *_half_paths(path)]
    for target in targets:
        _refuse_to_overwrite(target, overwrite)
    for target, part in zip(targets, merged.sets, strict=True):
        reflections = ReflectionList(
            symmetry=merged.point_group.name,
            hkl=merged.hkl,
            intensity=part.intensity,
            sigma=part.sigma,
            n_observations=part.n_observations,
            notes=_history_lines(merged),
        )
        text = format_hkl(reflections).encode()
        with written_whole(target) as file:
            file.write(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def write_mtz(
    merged: Merged,
    path: Path,
    *,
    overwrite: bool = False,
    with_amplitudes: bool = False,
    free_from: str | Path | None = None,
) -> None:
    """Write an MTZ file; see `Merged.to_mtz`."""
    _refuse_to_overwrite(path, overwrite)
    content = mtz_bytes(mtz_table(merged, with_amplitudes=with_amplitudes, free_from=free_from))
    with written_whole(path) as file:
        file.write(content)


def mtz_table(merged: Merged, *, with_amplitudes: bool = False, free_from: str | Path | None = None) -> MtzTable:
    """The columns of the MTZ file. Raises `MergeError` where there is no space group in this setting."""
    if merged.space_group is None:
        raise MergeError(
            f"an MTZ or mmCIF file needs a space group, and there is none of point group {merged.point_group.name} and "
            f"centring {merged.cell.centring} on these axes",
            remedy="merge with unique axis c, or write a reflection list (.hkl)",
        )
    if merged.point_group.centrosymmetric:
        hkl, columns = merged.hkl, _plain_columns(merged)
    else:
        hkl, columns = _bijvoet_columns(merged, merged.space_group)
    if with_amplitudes:
        columns = _amplitudes(merged, hkl, columns) | columns
    flags = flags_from(free_from, hkl, merged.point_group) if free_from else free_flags(hkl, merged.point_group)
    columns = columns | {FREE: flags.astype(np.float64)}
    return MtzTable(
        cell=merged.cell.gemmi,
        space_group=merged.space_group,
        hkl=hkl,
        columns=columns,
        types={label: _mtz_type(label) for label in columns},
        wavelength=merged.wavelength,
        history=_history_lines(merged),
    )


def _plain_columns(merged: Merged) -> dict[str, NDArray[np.float64]]:
    columns: dict[str, NDArray[np.float64]] = {}
    for labels, part in zip(_LABELS, merged.sets, strict=True):
        columns |= zip(labels, (part.intensity, part.sigma, part.n_observations.astype(np.float64)), strict=True)
    return columns if merged.deviation is None else columns | {_DEVIATION: merged.deviation}


def _bijvoet_columns(merged: Merged, space_group: str) -> tuple[NDArray[np.int32], dict[str, NDArray[np.float64]]]:
    """Rows in the asymmetric unit of the Laue group, and columns with (+) and (-) of each set, and their mean."""
    laue = np.ascontiguousarray(merged.hkl, dtype=np.int32).copy()
    gemmi.SpaceGroup(space_group).switch_to_asu(laue)
    is_plus = np.all(merged.point_group.asu(laue) == merged.hkl, axis=1)
    rows, place = np.unique(laue, axis=0, return_inverse=True)
    place = place.reshape(-1)
    pairs: dict[str, NDArray[np.float64]] = {}
    for labels, part in zip(_BIJVOET_LABELS, merged.sets, strict=True):
        for sign, chosen in (("+", is_plus), ("-", ~is_plus)):
            placed = part[chosen].placed(place[chosen], len(rows))
            values = (placed.intensity, placed.sigma, placed.n_observations.astype(np.float64))
            pairs |= zip((f"{label}({sign})" for label in labels), values, strict=True)
    if merged.deviation is not None:
        for sign, chosen in (("+", is_plus), ("-", ~is_plus)):
            of_sign = pairs[f"{_DEVIATION}({sign})"] = np.full(len(rows), np.nan)
            of_sign[place[chosen]] = merged.deviation[chosen]
    intensity, sigma, count = (np.stack([pairs[f"{label}({sign})"] for sign in "+-"]) for label in _BIJVOET_LABELS[0])
    weight = np.where(np.isfinite(intensity), np.maximum(count, 1), 0.0)
    mean = {
        "IMEAN": np.nansum(weight * intensity, axis=0) / weight.sum(axis=0),
        "SIGIMEAN": np.sqrt(np.nansum((weight * sigma) ** 2, axis=0)) / weight.sum(axis=0),
    }
    return rows, mean | pairs


def _amplitudes(
    merged: Merged, hkl: NDArray[np.int32], columns: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.float64]]:
    """F of each intensity but those of the halves: F and, with Friedel mates apart, F(+) and F(-)."""
    assert merged.space_group is not None
    found: dict[str, NDArray[np.float64]] = {}
    for intensity, sigma, f, sigma_f in (
        ("IMEAN", "SIGIMEAN", "F", "SIGF"), *((f"I({s})", f"SIGI({s})", f"F({s})", f"SIGF({s})") for s in "+-"),
    ):  # fmt: skip
        if intensity in columns:
            values = amplitudes(hkl, columns[intensity], columns[sigma], merged.cell.gemmi, merged.space_group)
            found |= zip((f, sigma_f), values, strict=True)
    return found


def _mtz_type(label: str) -> str:
    if label.startswith("N") or label == FREE:
        return "I"
    if label.startswith(_DEVIATION):
        return "R"
    if label in ("F", "F(+)", "F(-)"):
        return "F" if label == "F" else "G"
    if label in ("SIGF(+)", "SIGF(-)"):
        return "L"
    if label.endswith(")"):
        return "M" if label.startswith("SIG") else "K"
    return "Q" if label.startswith("SIG") else "J"


def _read_mtz(path: Path) -> Merged:
    table = read_mtz(path)
    cell = read_cell(path)
    if "I(+)" in table.columns and "I(-)" in table.columns:
        group = point_group_of(table.space_group, friedel=False)
        hkl = np.concatenate([group.asu(table.hkl), group.asu(-table.hkl)])
        sets = [
            concatenate([_set(table, tuple(f"{label}({sign})" for label in labels)) for sign in "+-"])
            for labels in _BIJVOET_LABELS
        ]
        # A centric reflection is its own Friedel mate, and other programs give it twice.
        n = len(table.hkl)
        second = np.arange(2 * n) >= n
        keep = np.isfinite(sets[0].intensity) & ~(second & np.tile(np.all(hkl[:n] == hkl[n:], axis=1), 2))
        labels = [f"{_DEVIATION}({sign})" for sign in "+-"]
        known = set(labels) <= table.columns.keys()
        deviation = np.concatenate([table.columns[label] for label in labels]) if known else None
    else:
        group = point_group_of(table.space_group, friedel=True)
        hkl, sets = group.asu(table.hkl), _mean_sets(table, path)
        keep = np.isfinite(sets[0].intensity)
        deviation = table.columns.get(_DEVIATION)
    history = {"mtz": list(table.history)}
    sets, deviation = [s[keep] for s in sets], None if deviation is None else deviation[keep]
    return _assemble(hkl[keep], sets, cell, group, table.space_group, table.wavelength, history, deviation)


def _mean_sets(table: MtzTable, path: Path) -> list[Intensities]:
    """All, and both halves, from whatever columns there are."""
    halves = [_set(table, labels) for labels in _LABELS[1:]]
    if "IMEAN" in table.columns:
        return [_set(table, _LABELS[0]), *halves]
    first = {kind: next((label for label, t in table.types.items() if t == kind), "") for kind in "JFQ"}
    if first["J"]:
        return [_set(table, (first["J"], first["Q"], "N")), *halves]
    if first["F"]:
        amplitude = _set(table, (first["F"], first["Q"], "N"))
        squared, sigma = amplitude.intensity**2, 2 * np.abs(amplitude.intensity) * amplitude.sigma
        return [Intensities(squared, sigma, amplitude.n_observations), *halves]
    raise MergeError(
        "the MTZ file has neither intensities nor amplitudes",
        path=path,
        found=", ".join(f"{label} ({t})" for label, t in table.types.items()) or "no columns",
        expected="a column of type J or F",
    )


def _set(table: MtzTable, labels: Sequence[str]) -> Intensities:
    missing = np.full(len(table.hkl), np.nan)
    intensity, sigma, count = (table.columns.get(label, missing) for label in labels)
    return Intensities(intensity, sigma, np.nan_to_num(count).astype(np.int32))


def _read_hkl(path: Path, cell: UnitCell | None, space_group: str | None) -> Merged:
    if cell is None:
        raise MergeError("a reflection list has no unit cell", path=path, remedy="give one with -p CELL")
    whole = read_hkl(path)
    if whole.symmetry:
        group = point_group(whole.symmetry)
    elif space_group:
        group = point_group_of(space_group, friedel=True)
    else:
        raise MergeError("the reflection list does not say its symmetry", path=path, remedy="give a space group")
    hkl = group.asu(whole.hkl)
    rows = {tuple(index): row for row, index in enumerate(hkl.tolist())}
    sets = [Intensities(whole.intensity, whole.sigma, whole.n_observations)]
    sets += [_read_half(half, group, rows) for half in _half_paths(path)]
    if space_group is None:
        try:
            space_group = str(group.space_group(cell.centring).xhm())
        except CellError:
            space_group = None
    return _assemble(hkl, sets, cell, group, space_group, float("nan"), {"hkl": list(whole.notes)})


def _read_half(path: Path, group: PointGroup, rows: Mapping[tuple[int, ...], int]) -> Intensities:
    """A half data set in the rows of the whole."""
    if not path.is_file():
        return Intensities.missing(len(rows))
    half = read_hkl(path)
    place = np.array([rows.get(tuple(index), -1) for index in group.asu(half.hkl).tolist()], dtype=np.int64)
    found = Intensities(half.intensity, half.sigma, half.n_observations)
    return found[place >= 0].placed(place[place >= 0], len(rows))


def _assemble(
    hkl: NDArray[np.int32],
    sets: Sequence[Intensities],
    cell: UnitCell,
    group: PointGroup,
    space_group: str | None,
    wavelength: float,
    history: Mapping[str, object],
    deviation: NDArray[np.float64] | None = None,
) -> Merged:
    from sfxlab.merging.merged import Merged  # which imports this module to write itself

    order = np.lexsort(hkl.T[::-1])
    whole, half1, half2 = (s[order] for s in sets)
    return Merged(
        hkl=hkl[order],
        intensity=whole.intensity,
        sigma=whole.sigma,
        n_observations=whole.n_observations,
        half1=half1,
        half2=half2,
        cell=cell,
        point_group=group,
        space_group=space_group,
        wavelength=wavelength,
        deviation=None if deviation is None else deviation[order],
        history=history,
    )


def _half_paths(path: Path) -> tuple[Path, Path]:
    """`X.hkl1` and `X.hkl2` for `X.hkl`, as CrystFEL names them."""
    stem, gz = (path.name[:-3], ".gz") if path.name.endswith(".gz") else (path.name, "")
    return path.with_name(f"{stem}1{gz}"), path.with_name(f"{stem}2{gz}")


def _history_lines(merged: Merged) -> tuple[str, ...]:
    """The history in lines of at most 80 characters; lists are only counted."""
    lines: list[str] = []
    for key, value in merged.history.items():
        if isinstance(value, Mapping):
            value = {k: len(v) if isinstance(v, list) else v for k, v in value.items()}
        text = f"{key}: {value if isinstance(value, str) else json.dumps(value, default=str)}"
        lines += textwrap.wrap(text.encode("ascii", "replace").decode(), 80)
    return tuple(lines)


def _refuse_to_overwrite(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise OutputExistsError("this file exists", path=path, remedy="choose another name, or ask to overwrite it")
