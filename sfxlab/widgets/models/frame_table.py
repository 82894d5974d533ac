"""The frames of a run as a table: sorted, filtered, and handed out in pages."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfxlab.errors import FilterError, suggestion
from sfxlab.store import SCHEMAS, Run
from sfxlab.store.parts import committed_chunks, part_path, read_part
from sfxlab.widgets.models.filters import Column, filtered
from sfxlab.widgets.models.numbers import numbers

CELL = ("a", "b", "c", "alpha", "beta", "gamma")
WORST = "worst"

LABELS: Mapping[str, tuple[str, str]] = {
    "frame": ("frame", ""), "status": ("status", ""), "n_peaks": ("peaks", ""), "n_crystals": ("lattices", ""),
    "explained": ("explained", "%"), "resolution": ("resolution", "Å"), "reason": ("reason", ""), "tags": ("tags", ""),
    "a": ("a", "Å"), "b": ("b", "Å"), "c": ("c", "Å"), "alpha": ("α", "°"), "beta": ("β", "°"), "gamma": ("γ", "°"),
    "n_reflections": ("reflections", ""), "ice": ("ice", ""), "photon_energy": ("energy", "eV"),
    "event": ("event", ""), "path": ("file", ""),
}  # fmt: skip
"""Name of each column, what stands above it, and its unit."""

_FRAME_COLUMNS = (
    "frame", "status", "n_peaks", "n_crystals", "peak_resolution", "ice_spots", "ice_rings", "reason", "photon_energy",
    "event", "path",
)  # fmt: skip
_CRYSTAL_COLUMNS = ("frame", *CELL, "n_peaks", "n_reflections", "log10_p")

NO_FRAMES = SCHEMAS["frames"].empty_table()
NO_CRYSTALS = SCHEMAS["crystals"].empty_table()


class FrameTable:
    """Rows of frames, which can be sorted by any column, filtered, and read page by page.

    `columns` are those of `columns_of`, or others with `frame`, which rises; of equal length; numbers, or texts as
    Arrow dictionaries. `labels` are those to show, as `LABELS`.
    """

    def __init__(self, columns: Mapping[str, Column], labels: Mapping[str, tuple[str, str]] = LABELS) -> None:
        self.columns = dict(columns)
        self.labels = labels
        self.n = len(self.columns["frame"])
        self._tags: dict[str, set[int]] = {}
        self._sorted: dict[tuple[str, bool], NDArray[np.int64]] = {}
        self.order = np.arange(self.n)
        """Rows as they are shown, (n_shown,)."""

    def arrange(
        self, sort: str = WORST, descending: bool = True, text: str = "", only: Iterable[int] | None = None
    ) -> int:
        """Sort by a column and let a filter's rows through, of `only` these frames; returns how many are shown.

        What is not known comes last either way. Rows with the same value stay in the order of frames. Raises
        `FilterError` where the filter is not understood or there is no such column; what is shown stays then.
        """
        order = self._in_order(sort, descending)
        passing = filtered(text, self.columns, self.n)
        if only is not None:
            passing &= np.isin(self.columns["frame"], np.fromiter(only, dtype=np.int64))
        self.order = order[passing[order]]
        return len(self.order)

    def page(self, first: int, count: int) -> dict[str, list[Any]]:
        """Columns of the rows at some places of what is shown, as JSON carries them."""
        rows = self.order[max(0, first) : max(0, first) + max(0, count)]
        return {
            name: column.take(pa.array(rows)).to_pylist()
            if isinstance(column, pa.DictionaryArray)
            else numbers(column[rows])
            for name, column in self.columns.items()
            if name in self.labels
        }

    def is_text(self, name: str) -> bool:
        """Whether a column has texts."""
        return isinstance(self.columns[name], pa.DictionaryArray)

    def place(self, frame: int) -> int:
        """Where a frame is in what is shown, -1 where it is not."""
        found = np.flatnonzero(self.columns["frame"][self.order] == frame)
        return int(found[0]) if len(found) else -1

    def frames(self, first: int, last: int) -> list[int]:
        """Numbers of the frames from one place to another, both included, whichever comes first."""
        low, high = sorted((first, last))
        frames: list[int] = self.columns["frame"][self.order[max(low, 0) : high + 1]].tolist()
        return frames

    def set_tags(self, tags: Mapping[str, Iterable[str]]) -> None:
        """Say which frames (numbers, as texts) have which tag. What is shown stays until it is arranged again."""
        of_frame: dict[int, list[str]] = {}
        for tag, items in sorted(tags.items()):
            for item in items:
                if item.isdecimal():
                    of_frame.setdefault(int(item), []).append(tag)
        texts = np.full(self.n, "", dtype=object)
        frames = self.columns["frame"]
        places = np.minimum(np.searchsorted(frames, list(of_frame)), max(self.n - 1, 0))
        for place, (frame, words) in zip(places.tolist(), of_frame.items(), strict=True):
            if self.n and frames[place] == frame:
                texts[place] = ", ".join(words)
        self.columns["tags"] = pa.array(texts, pa.string()).dictionary_encode()
        self._sorted = {key: order for key, order in self._sorted.items() if key[0] != "tags"}

    def _in_order(self, sort: str, descending: bool) -> NDArray[np.int64]:
        if sort not in self.columns:
            raise FilterError(
                f"there is no column '{sort}' to sort by", expected=", ".join(self.columns),
                remedy=suggestion(sort, self.columns),
            )  # fmt: skip
        key = (sort, descending)
        if key not in self._sorted:
            if len(self._sorted) > 5:
                self._sorted.pop(next(iter(self._sorted)))
            self._sorted[key] = np.argsort(_sortable(self.columns[sort], descending), kind="stable")
        return self._sorted[key]


def columns_of(frames: pa.Table, crystals: pa.Table) -> dict[str, Column]:
    """Columns of `FrameTable` from the tables of frames and crystals of a run.

    The cell is that of the best crystal of each frame. `explained` is the percentage of its peaks that its lattices
    explain. `worst` is what sorting by it goes by: frames that failed, then hits that are not indexed, those with most
    peaks first, then indexed frames, those that explain least first, then blanks.
    """
    numbers_of = {name: frames[name].to_numpy() for name in _FRAME_COLUMNS if not pa.types.is_string(frames[name].type)}
    texts = {name: _text(frames[name]) for name in ("status", "reason", "event", "path")}
    n = len(frames)
    best, n_peaks, n_reflections = _of_frames(numbers_of["frame"], crystals)
    with np.errstate(divide="ignore", invalid="ignore"):
        explained = np.where(
            numbers_of["n_crystals"] > 0, 100 * n_peaks / np.maximum(numbers_of["n_peaks"], 1), np.nan
        ).astype(np.float32)
        resolution = (1 / numbers_of["peak_resolution"]).astype(np.float32)
    resolution[~np.isfinite(resolution)] = np.nan
    columns: dict[str, Column] = {
        "frame": numbers_of["frame"], "status": texts["status"], "n_peaks": numbers_of["n_peaks"],
        "n_crystals": numbers_of["n_crystals"], "explained": np.minimum(explained, 100), "resolution": resolution,
        **best, "n_reflections": n_reflections,
        "ice": np.fmax(numbers_of["ice_spots"], numbers_of["ice_rings"]).astype(np.float32),
        "tags": _text(pa.chunked_array([pa.nulls(n, pa.string())]).fill_null("")), "reason": texts["reason"],
        "photon_energy": numbers_of["photon_energy"], "event": texts["event"], "path": texts["path"],
    }  # fmt: skip
    columns[WORST] = _badness(columns)
    return columns


class RunFrames:
    """The table of a run, which may be growing."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._parts: dict[int, tuple[int, pa.Table, pa.Table]] = {}
        self.crystal_frames = np.zeros(0, dtype=np.int64)
        """The frame of each crystal, in the order of `Run.crystals`."""

    def read(self) -> FrameTable | None:
        """The table with what has come since, None where nothing has. Raises `RunError`."""
        chunks, new = committed_chunks(self.run.path), False
        for chunk in chunks:
            try:
                stamp = os.stat(part_path(self.run.path, "frames", chunk)).st_mtime_ns
            except FileNotFoundError:
                continue  # it is being replaced
            if chunk not in self._parts or self._parts[chunk][0] != stamp:
                frames = read_part(self.run.path, "frames", chunk, _FRAME_COLUMNS)
                crystals = read_part(self.run.path, "crystals", chunk, _CRYSTAL_COLUMNS)
                self._parts[chunk], new = (stamp, frames, crystals), True
        if not new and chunks:
            return None
        parts = [self._parts[chunk] for chunk in sorted(self._parts)]
        if not parts:
            return None
        crystals = pa.concat_tables([crystals for _, _, crystals in parts])
        self.crystal_frames = crystals["frame"].to_numpy()
        return FrameTable(columns_of(pa.concat_tables([frames for _, frames, _ in parts]), crystals))

    def frames_of(self, selection: Mapping[str, Any] | None) -> list[int] | None:
        """Numbers of the frames that a selection of a session means; None where nothing is selected."""
        items: Sequence[int] = (selection or {}).get("items") or ()
        if not items:
            return None
        if (selection or {}).get("kind") == "crystal":
            rows = np.asarray(items, dtype=np.int64)
            rows = rows[(rows >= 0) & (rows < len(self.crystal_frames))]
            return list(np.unique(self.crystal_frames[rows]).tolist())
        return [int(item) for item in items]


def _of_frames(
    frames: NDArray[np.int64], crystals: pa.Table
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int32], NDArray[np.int32]]:
    """Cell of the best crystal of each frame, NaN where there is none; peaks and reflections of all its crystals."""
    of_frame = crystals["frame"].to_numpy()
    row = np.searchsorted(frames, of_frame)
    order = np.lexsort((crystals["log10_p"].to_numpy(), of_frame))
    _, first = np.unique(of_frame[order], return_index=True)
    best = order[first]
    cells = {}
    for name in CELL:
        cells[name] = np.full(len(frames), np.nan, dtype=np.float32)
        cells[name][row[best]] = crystals[name].to_numpy()[best]
    n_peaks, n_reflections = (
        np.bincount(row, weights=crystals[name].to_numpy(), minlength=len(frames)).astype(np.int32)
        for name in ("n_peaks", "n_reflections")
    )
    return cells, n_peaks, n_reflections


def _badness(columns: Mapping[str, Column]) -> NDArray[np.float32]:
    kinds = {"failed": 3.0, "hit": 2.0, "indexed": 1.0, "blank": 0.0}
    status, n_peaks, explained = columns["status"], columns["n_peaks"], columns["explained"]
    words = np.array([kinds.get(word, 0.0) for word in status.dictionary.to_pylist()] or [0.0])
    kind = words[status.indices.to_numpy()]
    share = n_peaks / (float(n_peaks.max(initial=0)) + 1)
    least_explained = kind + 0.999 * (1 - np.nan_to_num(explained) / 100)
    badness: NDArray[np.float32] = np.where(kind == 1, least_explained, kind + share).astype(np.float32)
    return badness


def _sortable(column: Column, descending: bool) -> NDArray[Any]:
    """Numbers that rise in the order asked for; NaN, and empty texts, are last."""
    if not isinstance(column, pa.DictionaryArray):
        return np.asarray(-column if descending else column)
    words, codes = column.dictionary, column.indices.to_numpy()
    rank = np.empty(max(len(words), 1), dtype=np.int32)
    rank[pc.sort_indices(words).to_numpy()] = np.arange(len(words), dtype=np.int32)
    rank = -rank if descending else rank
    empty = pc.index(words, "").as_py()
    if empty >= 0:
        rank[empty] = len(words)
    return np.asarray(rank[codes])


def _text(column: pa.ChunkedArray) -> pa.DictionaryArray:
    return pc.fill_null(column, "").combine_chunks().dictionary_encode()
