"""The tables of a run: their columns, and frame results to and from Arrow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfxlab.crystal import Crystal, UnitCell
from sfxlab.frames import FrameId
from sfxlab.integration import Reflections
from sfxlab.peaks import Peaks
from sfxlab.peaks.radial_average import N_BINS, STEP, RadialSums
from sfxlab.pipeline import FrameResult

TableName = Literal["frames", "peaks", "crystals", "reflections", "timings", "radial"]


def _schema(*columns: tuple[str, str, str]) -> pa.Schema:
    types = {"string": pa.string(), "bool": pa.bool_(), **{str(t): t for t in _NUMBERS}}
    return pa.schema(
        [pa.field(name, types[kind], metadata={"unit": unit} if unit else None) for name, kind, unit in columns]
    )


_NUMBERS = (pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64())

_BASIS = tuple(f"{axis}star_{component}" for axis in "abc" for component in "xyz")
"""Columns of `Crystal.basis` one after the other: a* x, y, z, then b*, then c*."""

SCHEMAS: Mapping[TableName, pa.Schema] = {
    "frames": _schema(
        ("frame", "int64", ""),
        ("path", "string", ""),
        ("event", "string", ""),
        ("status", "string", ""),
        ("reason", "string", ""),
        ("photon_energy", "double", "eV"),
        ("camera_length", "double", "m"),
        ("n_peaks", "int32", ""),
        ("n_crystals", "int32", ""),
        ("peak_resolution", "float", "1/Å"),
        ("ice_spots", "double", ""),
        ("ice_rings", "double", ""),
        ("salt", "double", ""),
        ("bandwidth", "double", ""),
    ),
    "peaks": _schema(
        ("frame", "int64", ""),
        ("panel", "int16", ""),
        ("fs", "float", "pixel"),
        ("ss", "float", "pixel"),
        ("intensity", "float", "ADU"),
        ("sigma", "float", "ADU"),
        ("snr", "float", ""),
        ("resolution", "float", "1/Å"),
        ("max_value", "float", "ADU"),
        ("n_pixels", "int16", ""),
    ),
    "crystals": _schema(
        ("frame", "int64", ""),
        ("crystal", "int16", ""),
        *((name, "double", "Å") for name in ("a", "b", "c")),
        *((name, "double", "degree") for name in ("alpha", "beta", "gamma")),
        ("lattice_type", "string", ""),
        ("centring", "string", ""),
        ("unique_axis", "string", ""),
        *((name, "double", "1/Å") for name in _BASIS),
        ("profile_radius", "double", "1/Å"),
        ("resolution_limit", "double", "1/Å"),
        ("shift_x", "double", "m"),
        ("shift_y", "double", "m"),
        ("n_peaks", "int32", ""),
        ("log10_p", "double", ""),
        ("rms_residual", "double", "pixel"),
        ("mosaicity", "double", ""),
        ("n_reflections", "int32", ""),
        ("n_saturated", "int32", ""),
    ),
    "reflections": _schema(
        ("frame", "int64", ""),
        ("crystal", "int16", ""),
        *((name, "int32", "") for name in ("h", "k", "l")),
        ("intensity", "float", "ADU"),
        ("sigma", "float", "ADU"),
        *((f"{name}_{way}", "float", "ADU") for way in ("sum", "profile") for name in ("intensity", "sigma")),
        ("partiality", "float", ""),
        ("excitation_error", "float", "1/Å"),
        ("peak", "float", "ADU"),
        ("background", "float", "ADU"),
        ("panel", "int16", ""),
        ("fs", "float", "pixel"),
        ("ss", "float", "pixel"),
        ("resolution", "float", "1/Å"),
        ("saturated", "bool", ""),
    ),
    # Apart from the rest, because only these numbers differ when the same recipe runs twice.
    "timings": _schema(("frame", "int64", ""), ("step", "string", ""), ("seconds", "double", "s")),
    # Sums over the frames of a chunk, `frame` being its first: blanks and hits apart.
    "radial": _schema(
        ("frame", "int64", ""),
        ("kind", "string", ""),
        ("resolution", "double", "1/Å"),
        ("n_pixels", "int64", ""),
        ("total", "double", "ADU"),
        ("squares", "double", "ADU²"),
    ),
}
"""Columns, types and (as field metadata) units of each table. Rows are in the order of frames."""

ADDED: Mapping[TableName, Mapping[str, float]] = {
    "frames": {"bandwidth": float("nan")},
    "crystals": {"mosaicity": 0.0},
    "reflections": dict.fromkeys(("intensity_sum", "sigma_sum", "intensity_profile", "sigma_profile"), float("nan")),
}
"""Columns that runs of before lack, and what stands there for them."""

RadialKind = Literal["blank", "hit"]

RADIAL_KINDS: Mapping[RadialKind, tuple[str, ...]] = {"blank": ("blank",), "hit": ("hit", "indexed")}
"""The kinds of frames in the table `radial`, and the statuses that they have."""


def tables_of(results: Sequence[FrameResult]) -> dict[TableName, pa.Table]:
    """One Arrow table of each kind for some frames, rows in the order of `results`."""
    crystals = [
        (result.index, number, crystal, reflections)
        for result in results
        for number, (crystal, reflections) in enumerate(zip(result.crystals, result.reflections, strict=True))
    ]
    timings = [
        {"frame": result.index, "step": step, "seconds": seconds}
        for result in results
        for step, seconds in result.seconds.items()
    ]
    peaks = [({"frame": result.index}, result.peaks) for result in results]
    reflections = [({"frame": frame, "crystal": number}, block) for frame, number, _, block in crystals]
    return {
        "frames": pa.Table.from_pylist([_frame_row(result) for result in results], SCHEMAS["frames"]),
        "peaks": _stacked(peaks, SCHEMAS["peaks"]),
        "crystals": pa.Table.from_pylist([_crystal_row(*crystal) for crystal in crystals], SCHEMAS["crystals"]),
        "reflections": _stacked(reflections, SCHEMAS["reflections"]),
        "timings": pa.Table.from_pylist(timings, SCHEMAS["timings"]),
        "radial": _radial(results),
    }


def radial_sums_of(table: pa.Table, kind: RadialKind) -> RadialSums:
    """The sum of a table `radial` over all frames of a kind."""
    rows = table.filter(pc.equal(table["kind"], kind))
    bins = np.floor(rows["resolution"].to_numpy() / STEP).astype(np.int64)
    n, total, squares = (
        np.bincount(bins, rows[name].to_numpy().astype(np.float64), N_BINS).astype(np.float64)
        for name in ("n_pixels", "total", "squares")
    )
    return RadialSums(np.rint(n).astype(np.int64), total, squares)


def _radial(results: Sequence[FrameResult]) -> pa.Table:
    tables = [SCHEMAS["radial"].empty_table()]
    for kind, statuses in RADIAL_KINDS.items():
        sums = [result.radial for result in results if result.radial is not None and result.status in statuses]
        if sums:
            added = sum(sums, RadialSums.none())
            some = added.n_pixels > 0
            columns = {
                "frame": np.full(N_BINS, results[0].index), "kind": np.full(N_BINS, kind),
                "resolution": added.resolution, "n_pixels": added.n_pixels, "total": added.total,
                "squares": added.squares,
            }  # fmt: skip
            tables.append(pa.table({name: column[some] for name, column in columns.items()}, SCHEMAS["radial"]))
    return pa.concat_tables(tables)


def results_of(tables: Mapping[TableName, pa.Table]) -> Iterator[FrameResult]:
    """The frame results that `tables_of` made these tables from. Arrays are read-only views of the tables."""
    peaks = Peaks(**_arrays(tables["peaks"], Peaks))
    reflections = Reflections(**_arrays(tables["reflections"], Reflections))
    peak_frames = tables["peaks"]["frame"].to_numpy()
    reflection_owners = _owner(tables["reflections"]["frame"].to_numpy(), tables["reflections"]["crystal"].to_numpy())
    crystals, timings = _by_frame(tables["crystals"]), _by_frame(tables["timings"])
    for row in tables["frames"].to_pylist():
        frame = row["frame"]
        owners = [_owner(frame, crystal["crystal"]) for crystal in crystals[frame]]
        yield FrameResult(
            id=FrameId(row["path"], row["event"]),
            index=frame,
            status=row["status"],
            reason=row["reason"],
            photon_energy=row["photon_energy"],
            camera_length=row["camera_length"],
            peaks=peaks[_span(peak_frames, frame)],
            crystals=tuple(_crystal(crystal) for crystal in crystals[frame]),
            reflections=tuple(reflections[_span(reflection_owners, owner)] for owner in owners),
            ice_spots=row["ice_spots"],
            ice_rings=row["ice_rings"],
            salt=row["salt"],
            bandwidth=row["bandwidth"],
            seconds={timing["step"]: timing["seconds"] for timing in timings[frame]},
        )


def _frame_row(result: FrameResult) -> dict[str, Any]:
    resolution = result.peaks.resolution
    return {
        "frame": result.index,
        "path": _text(result.id.path),
        "event": _text(result.id.event),
        "status": result.status,
        "reason": _text(result.reason),
        "photon_energy": result.photon_energy,
        "camera_length": result.camera_length,
        "n_peaks": len(result.peaks),
        "n_crystals": len(result.crystals),
        "peak_resolution": float(np.percentile(resolution, 98)) if len(resolution) else float("nan"),
        "ice_spots": result.ice_spots,
        "ice_rings": result.ice_rings,
        "salt": result.salt,
        "bandwidth": result.bandwidth,
    }


def _text(text: str) -> str:
    # File names need not be UTF-8; Python carries the odd bytes as surrogates, which Arrow refuses.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _crystal_row(frame: int, number: int, crystal: Crystal, reflections: Reflections) -> dict[str, Any]:
    shift_x, shift_y = crystal.detector_shift
    return {
        "frame": frame,
        "crystal": number,
        **{field.name: getattr(crystal.cell, field.name) for field in fields(UnitCell)},
        **dict(zip(_BASIS, crystal.basis.T.ravel().tolist(), strict=True)),
        "profile_radius": crystal.profile_radius,
        "resolution_limit": crystal.resolution_limit,
        "shift_x": shift_x,
        "shift_y": shift_y,
        "n_peaks": crystal.n_peaks,
        "log10_p": crystal.log10_p,
        "rms_residual": crystal.rms_residual,
        "mosaicity": crystal.mosaicity,
        "n_reflections": len(reflections),
        "n_saturated": int(np.count_nonzero(reflections.saturated)),
    }


def _crystal(row: Mapping[str, Any]) -> Crystal:
    return Crystal(
        cell=UnitCell(**{field.name: row[field.name] for field in fields(UnitCell)}),
        basis=np.array([row[name] for name in _BASIS], dtype=np.float64).reshape(3, 3).T,
        profile_radius=row["profile_radius"],
        resolution_limit=row["resolution_limit"],
        detector_shift=(row["shift_x"], row["shift_y"]),
        n_peaks=row["n_peaks"],
        log10_p=row["log10_p"],
        rms_residual=row["rms_residual"],
        mosaicity=row["mosaicity"],
    )


def _stacked(blocks: Sequence[tuple[dict[str, int], Peaks | Reflections]], schema: pa.Schema) -> pa.Table:
    """Structs of arrays one below the other, each with its labels (frame, crystal) in columns of their own."""
    if not blocks:
        return schema.empty_table()
    lengths = [len(block) for _, block in blocks]
    labels = blocks[0][0].keys()
    columns = {
        name: np.repeat([label[name] for label, _ in blocks], lengths)
        if name in labels
        else np.concatenate([getattr(block, name) for _, block in blocks])
        for name in schema.names
    }
    return pa.table(columns, schema=schema)


def _arrays(table: pa.Table, kind: type[Peaks] | type[Reflections]) -> dict[str, NDArray[Any]]:
    return {field.name: table[field.name].to_numpy() for field in fields(kind)}


def _owner(frame: Any, crystal: Any) -> Any:
    # One number for (frame, crystal) that rises with both; crystals are numbered with 16 bits.
    return np.int64(frame) * 65536 + crystal


def _span(ordered: NDArray[np.int64], value: int) -> slice:
    first, last = np.searchsorted(ordered, [value, value + 1])
    return slice(int(first), int(last))


def _by_frame(table: pa.Table) -> dict[int, list[dict[str, Any]]]:
    rows = defaultdict(list)
    for row in table.to_pylist():
        rows[row["frame"]].append(row)
    return rows
