"""Two runs of the same frames side by side: what the second one gained, lost and moved, and what was done otherwise."""

from __future__ import annotations

import functools
import hashlib
import html
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from distributed import Client
from numpy.typing import NDArray

from sfxlab.crystal import CENTRINGS, UnitCell
from sfxlab.frames import FrameSource
from sfxlab.merging import Comparison, Merged
from sfxlab.merging import compare as compare_merged
from sfxlab.processing import process
from sfxlab.progress import Report
from sfxlab.recipe import Recipe
from sfxlab.store import Run, RunRecord, TableName
from sfxlab.store.differences import input_differences, moved_files, version_differences

State = Literal["same", "gained", "lost", "moved"]
STATES: tuple[State, ...] = ("same", "gained", "lost", "moved")
_SAME, _GAINED, _LOST, _MOVED = range(4)

_RANK = {"failed": 0, "blank": 1, "hit": 2, "indexed": 3}
_FRAME_COLUMNS = ("frame", "path", "event", "status", "reason")
_BASIS = tuple(f"{axis}star_{component}" for axis in "abc" for component in "xyz")
_TABLES: tuple[TableName, ...] = ("frames", "peaks", "crystals", "reflections")
_SAME_LATTICE = 5.0, 0.05
"""Degrees and strain up to which two lattices of a frame are taken for one that moved."""


@dataclass(frozen=True)
class RunComparison:
    """What became of the frames of two runs, and why it may differ."""

    before: Run
    after: Run
    frames: pa.Table
    """The frames that are in both so far, in the order of the first run: `frame` and `frame_after` (their numbers),
    `path`, `event`, `state`, `status_before`, `status_after`, `lattices_before`, `lattices_after`, `lattices_kept`
    (found in both), `rotation` (of the kept lattice that turned the most, degrees), `strain` (of the kept cell that
    changed the most), `reason_before`, `reason_after`.

    A frame has `gained` where it has more lattices now, or none as before and became more (a hit, or a frame that could
    be read), and `lost` the other way round; it has `moved` where it has as many lattices, but not the same ones.
    """
    only_before: pa.Table
    """Frames of which only the first run has something: `frame`, `path`, `event`."""
    only_after: pa.Table
    recipe_differences: Mapping[str, tuple[Any, Any]]
    """Parameters that differ, with their values before and after."""
    input_differences: tuple[str, ...]
    """What differs in files, geometry and frames, one sentence each; a file that was only moved does not differ."""
    version_differences: Mapping[str, tuple[str | None, str | None]]
    """Programs and libraries of other versions."""

    @property
    def counts(self) -> dict[State, int]:
        """How many frames are in which state."""
        states = self.frames["state"].to_pylist()
        return {state: states.count(state) for state in STATES}

    def of_state(self, state: State) -> pa.Table:
        """The frames in this state."""
        return self.frames.filter(pc.equal(self.frames["state"], state))

    @functools.cached_property
    def differing_columns(self) -> tuple[str, ...]:
        """Columns of frames, peaks, crystals and reflections that are not the same to the last bit: "frames.status".

        Reads both runs as a whole, a chunk at a time.
        """
        before, after = _digests(self.before), _digests(self.after)
        return tuple(name for name in before if before[name] != after[name])

    @property
    def is_identical(self) -> bool:
        """Whether both runs hold the same to the last bit, timings apart."""
        return not self.differing_columns

    def __str__(self) -> str:
        changed = ", ".join(f"{n:,} {state}" for state, n in self.counts.items())
        only = [
            f"{len(table):,} frames only in {run.path.name}"
            for table, run in ((self.only_before, self.before), (self.only_after, self.after))
            if len(table)
        ]
        return "; ".join([f"{len(self.frames):,} frames: {changed}", *only])

    def _repr_html_(self) -> str:
        rows = [("frames", str(self))]
        for name, differences in (("recipe", self.recipe_differences), ("version", self.version_differences)):
            rows += [(f"{name}: {key}", f"{was} → {now}") for key, (was, now) in differences.items()]
        rows += [("input", line) for line in self.input_differences]
        lines = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, text in rows)
        caption = html.escape(f"{self.before.path} → {self.after.path}")
        return f"<table><caption>{caption}</caption>{lines}</table>"


@overload
def compare(one: Run, other: Run, *, rotation: float = 0.1, strain: float = 0.005) -> RunComparison: ...


@overload
def compare(
    one: Merged, other: Merged, n_shells: int = 10, d_min: float | None = None, d_max: float | None = None
) -> Comparison: ...


def compare(one: Any, other: Any, *arguments: Any, **options: Any) -> RunComparison | Comparison:
    """Two runs frame by frame (`compare_runs`), or merged data with a reference by resolution (`merging.compare`)."""
    kinds = type(one).__name__, type(other).__name__
    if isinstance(one, Run) and isinstance(other, Run):
        return compare_runs(one, other, *arguments, **options)
    if isinstance(one, Merged) and isinstance(other, Merged):
        return compare_merged(one, other, *arguments, **options)
    raise TypeError(f"compare takes two runs, or two merged data sets, and not {' and '.join(kinds)}")


def compare_runs(before: Run, after: Run, *, rotation: float = 0.1, strain: float = 0.005) -> RunComparison:
    """What became of each frame in two runs, finished or growing, and what differs in what they were made from.

    Frames are told by file and event; a file that was moved, but has the same content, is the same. A lattice is the
    same where one orientation turns into the other, up to the lattice's own symmetry, by no more than `rotation`
    degrees, and no direction of the cell is longer or shorter by more than `strain` (a fraction).
    """
    first, second = before.record, after.record
    a, b = before.table("frames", _FRAME_COLUMNS), after.table("frames", _FRAME_COLUMNS)
    rows_a, rows_b = _common(a, b, first, second)
    lattices = _lattices_of_both(before, after, a["frame"].to_numpy()[rows_a], b["frame"].to_numpy()[rows_b])
    ranks = [np.array([_RANK[status] for status in table["status"].to_pylist()]) for table in (a, b)]
    states = _states(ranks[0][rows_a], ranks[1][rows_b], lattices, rotation, strain)
    a_too, b_too = a.take(rows_a), b.take(rows_b)
    frames = {
        "frame": a_too["frame"], "frame_after": b_too["frame"], "path": a_too["path"], "event": a_too["event"],
        "state": pa.array(STATES).take(states),
        "status_before": a_too["status"], "status_after": b_too["status"], "lattices_before": lattices.before,
        "lattices_after": lattices.after, "lattices_kept": lattices.kept, "rotation": lattices.rotation,
        "strain": lattices.strain, "reason_before": a_too["reason"], "reason_after": b_too["reason"],
    }  # fmt: skip
    return RunComparison(
        before, after, pa.table(frames), _others(a, rows_a), _others(b, rows_b),
        first.recipe_differences(second), tuple(input_differences(first, second)), version_differences(first, second),
    )  # fmt: skip


def compare_recipes(
    frames: FrameSource,
    before: Recipe,
    after: Recipe,
    client: Client | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    most: int | None = 200,
    resume: bool = False,
    rotation: float = 0.1,
    strain: float = 0.005,
    progress: Report | Literal["auto"] | None = "auto",
) -> RunComparison:
    """Process the same frames with two recipes, here or on the workers of `client`, and compare what becomes of them.

    `most` evenly spread frames are taken, or all of them for None. The runs are `before` and `after` in the folder
    `output`, by default a new one in `sfxlab-runs` in the working directory; `resume` and `progress` are those of
    `process`, `rotation` and `strain` those of `compare_runs`. Raises what `process` does.
    """
    n = len(frames)
    step = 1 if most is None else max(1, -(-n // most))
    folder = Path("sfxlab-runs", f"{datetime.now():%Y-%m-%dT%H-%M-%S-%f}") if output is None else Path(output)
    one, other = (
        process(frames[0:n:step], recipe, client, folder / name, resume=resume, progress=progress)
        for name, recipe in (("before", before), ("after", after))
    )
    return compare_runs(one, other, rotation=rotation, strain=strain)


@dataclass(frozen=True)
class _Lattices:
    """Lattices of each frame in two runs, (n frames,) each."""

    before: NDArray[np.int64]
    after: NDArray[np.int64]
    kept: NDArray[np.int64]
    rotation: NDArray[np.float64]
    """The largest of those that are in both, degrees; NaN where none is."""
    strain: NDArray[np.float64]


def _states(
    rank_a: NDArray[np.int64], rank_b: NDArray[np.int64], lattices: _Lattices, rotation: float, strain: float
) -> NDArray[np.int64]:
    more = np.sign(lattices.after - lattices.before)
    more = np.where(more == 0, np.where(lattices.after == 0, np.sign(rank_b - rank_a), 0), more)
    elsewhere = (lattices.kept < lattices.before) | (lattices.rotation > rotation) | (lattices.strain > strain)
    return np.select([more > 0, more < 0, elsewhere], [_GAINED, _LOST, _MOVED], _SAME)


def _common(
    a: pa.Table, b: pa.Table, first: RunRecord, second: RunRecord
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the frames that are in both tables, in the order of the first."""
    if first.frames_sha256 == second.frames_sha256:
        _, rows_a, rows_b = np.intersect1d(
            a["frame"].to_numpy(), b["frame"].to_numpy(), assume_unique=True, return_indices=True
        )
        return rows_a, rows_b
    moved = moved_files(first, second)
    names = [
        pa.table({"path": paths, "event": table["event"], row: np.arange(len(table))})
        for table, row, paths in (
            (a, "row_a", a["path"]),
            (b, "row_b", pa.array([moved.get(path, path) for path in b["path"].to_pylist()], pa.string())),
        )
    ]
    joined = names[0].join(names[1], ["path", "event"], join_type="inner").sort_by([("row_a", "ascending")])
    # A list may name a frame twice.
    rows_a, once = np.unique(joined["row_a"].to_numpy(), return_index=True)
    return rows_a, joined["row_b"].to_numpy()[once]


def _others(table: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    others = np.ones(len(table), dtype=bool)
    others[rows] = False
    return table.select(["frame", "path", "event"]).filter(pa.array(others))


def _lattices_of_both(before: Run, after: Run, frames_a: NDArray[np.int64], frames_b: NDArray[np.int64]) -> _Lattices:
    """Lattices of these frames, each of which has a number in either run."""
    (owners_a, axes_a), (owners_b, axes_b) = _axes(before), _axes(after)
    order_a, order_b = np.argsort(owners_a, kind="stable"), np.argsort(owners_b, kind="stable")
    starts_a, n_a = _spans(owners_a[order_a], frames_a)
    starts_b, n_b = _spans(owners_b[order_b], frames_b)
    pairs = n_a * n_b
    frame = np.repeat(np.arange(len(pairs)), pairs)
    within = np.arange(pairs.sum()) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    one = order_a[starts_a[frame] + within // np.maximum(n_b[frame], 1)]
    other = order_b[starts_b[frame] + within % np.maximum(n_b[frame], 1)]
    rotation, strain = _moves(axes_a[one], axes_b[other])
    kept = np.zeros(len(pairs), np.int64)
    largest = np.full((2, len(pairs)), np.nan)
    taken_a, taken_b = np.zeros(len(axes_a), bool), np.zeros(len(axes_b), bool)
    candidates = np.flatnonzero((rotation <= _SAME_LATTICE[0]) & (strain <= _SAME_LATTICE[1]))
    for pair in candidates[np.argsort(rotation[candidates], kind="stable")]:
        i, j, k = one[pair], other[pair], frame[pair]
        if not (taken_a[i] or taken_b[j]):
            taken_a[i] = taken_b[j] = True
            kept[k] += 1
            largest[:, k] = np.fmax(largest[:, k], (rotation[pair], strain[pair]))
    return _Lattices(n_a, n_b, kept, largest[0], largest[1])


def _axes(run: Run) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The frame of each crystal, (n,), and its primitive axes, rows in Å, (n, 3, 3)."""
    table = run.table("crystals", ["frame", "centring", *_BASIS])
    bases = np.stack([table[name].to_numpy() for name in _BASIS], axis=-1).reshape(-1, 3, 3).transpose(0, 2, 1)
    axes = np.linalg.inv(bases)
    centring = np.array(table["centring"].to_pylist())
    for kind in CENTRINGS:
        rows = np.flatnonzero(centring == kind)
        axes[rows] = UnitCell(1, 1, 1, centring=kind).primitive_transform @ axes[rows]
    return table["frame"].to_numpy(), axes


def _spans(owners: NDArray[np.int64], frames: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    starts = np.searchsorted(owners, frames)
    return starts, np.searchsorted(owners, frames, side="right") - starts


def _moves(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """By how many degrees lattices have to be turned to be others, and how much they are strained then, (n,) each.

    Rows of `one` and `other`, (n, 3, 3), are primitive axes, which describe the same lattice where they are whole
    numbers of each other: other = M · one · D with the whole numbers M of determinant 1 and a deformation D near 1,
    which is a rotation times a stretch. Both are infinite where there is no such M.
    """
    change = np.rint(other @ np.linalg.inv(one))
    same = np.rint(np.linalg.det(change)) == 1
    rotation, strain = np.full((2, len(one)), np.inf)
    deformation = np.linalg.inv(change[same] @ one[same]) @ other[same]
    left, stretch, right = np.linalg.svd(deformation)
    turn = left @ right
    axis = np.stack([turn[:, i, j] - turn[:, j, i] for i, j in ((1, 2), (2, 0), (0, 1))], axis=-1)
    cosine = np.trace(turn, axis1=1, axis2=2) - 1
    rotation[same] = np.degrees(np.arctan2(np.linalg.norm(axis, axis=-1), cosine))
    strain[same] = np.abs(stretch - 1).max(axis=-1)
    return rotation, strain


def _digests(run: Run) -> dict[str, str]:
    """A checksum of each column, whatever the chunks."""
    sums: dict[str, Any] = {}
    for table in _TABLES:
        for part in run.parts(table):
            for name in part.column_names:
                sums.setdefault(f"{table}.{name}", hashlib.sha256()).update(_bytes(part[name]))
    return {name: digest.hexdigest() for name, digest in sums.items()}


def _bytes(column: pa.ChunkedArray) -> bytes:
    if pa.types.is_string(column.type):
        return "\0".join([*column.to_pylist(), ""]).encode()
    return np.ascontiguousarray(column.to_numpy()).tobytes()
