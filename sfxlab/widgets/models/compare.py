"""Two runs of the same frames as a table, the worst first, and as sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfxlab.comparison import STATES, RunComparison, State
from sfxlab.widgets.models.filters import Column
from sfxlab.widgets.models.frame_table import WORST, FrameTable

LABELS: Mapping[str, tuple[str, str]] = {
    "frame": ("frame", ""), "state": ("what", ""),
    "lattices_before": ("lattices before", ""), "lattices_after": ("after", ""),
    "lattices_kept": ("kept", ""), "rotation": ("turned", "°"), "strain": ("strained", "%"),
    "status_before": ("status before", ""), "status_after": ("after", ""), "tags": ("tags", ""),
    "reason_before": ("reason before", ""), "reason_after": ("reason after", ""), "event": ("event", ""),
    "path": ("file", ""),
}  # fmt: skip

_RANK = {"lost": 3.0, "moved": 2.0, "gained": 1.0, "same": 0.0}
_TEXTS = ("state", "status_before", "status_after", "reason_before", "reason_after", "event", "path")


class ComparedRuns:
    """The frames that two runs have in common."""

    def __init__(self, comparison: RunComparison) -> None:
        self.comparison = comparison
        self.table = FrameTable(columns_of(comparison.frames), LABELS)
        self._before: NDArray[np.int64] = comparison.frames["frame"].to_numpy()
        self._after: NDArray[np.int64] = comparison.frames["frame_after"].to_numpy()
        self._by_after = np.argsort(self._after, kind="stable")

    def number_after(self, frame: int) -> int | None:
        """The number that a frame of the first run has in the second one; None where it is not there."""
        row = self._row(frame)
        return None if row is None else int(self._after[row])

    def number_before(self, frame: int) -> int | None:
        """The number that a frame of the second run has in the first one."""
        place = int(np.searchsorted(self._after, frame, sorter=self._by_after))
        row = self._by_after[place] if place < len(self._after) else -1
        return int(self._before[row]) if row >= 0 and self._after[row] == frame else None

    def worst(self) -> int | None:
        """The first frame where the worst come first; None where there is none."""
        self.table.arrange()
        first: list[int] = self.table.frames(0, 0)
        return first[0] if first else None

    def title(self) -> str:
        """Which runs these are."""
        before, after = self.comparison.before.path, self.comparison.after.path
        names = (before.name, after.name) if before.name != after.name else (str(before), str(after))
        return " → ".join(names)

    def counts(self) -> dict[State, int]:
        """Frames in each state, the worst first."""
        found = self.comparison.counts
        return {state: found[state] for state in sorted(STATES, key=lambda state: -_RANK[state])}

    def only(self) -> list[str]:
        """Frames that only one of the runs has, a sentence for each run that has some."""
        pairs = (
            (self.comparison.before, self.comparison.only_before), (self.comparison.after, self.comparison.only_after)
        )  # fmt: skip
        return [f"{len(frames):,} frames are only in {run.path.name} so far" for run, frames in pairs if len(frames)]

    def differences(self) -> list[tuple[str, str, str, str]]:
        """What was done otherwise: of which kind it is, its name, and what it was before and after."""
        found, both = self.comparison, ("recipe", "version")
        values = (found.recipe_differences, found.version_differences)
        lines = [
            (kind, name, *("–" if value is None else str(value) for value in pair))
            for kind, differences in zip(both, values, strict=True)
            for name, pair in differences.items()
        ]
        return [*lines, *(("input", line, "", "") for line in found.input_differences)]  # type: ignore[list-item]

    def sentence(self, frame: int) -> str:
        """What became of a frame of the first run."""
        row = self._row(frame)
        if row is None:
            return f"frame {frame} is not in both runs"
        one = {name: self.comparison.frames[name][row].as_py() for name in self.comparison.frames.column_names}
        n_before, n_after, kept = one["lattices_before"], one["lattices_after"], one["lattices_kept"]
        if n_before == n_after == 0:
            text = f"{one['status_before']} → {one['status_after']}"
        else:
            text = f"{n_before} → {n_after} lattices, {kept} of them in both"
        if kept:
            text += f", turned by {one['rotation']:.3f}° and strained by {100 * one['strain']:.3f} %"
        reasons = [f"{when}: {one[f'reason_{when}']}" for when in ("before", "after") if one[f"reason_{when}"]]
        return "; ".join([f"frame {frame} {_WORDS[one['state']]}: {text}", *reasons])

    def _row(self, frame: int) -> int | None:
        row = int(np.searchsorted(self._before, frame))
        return row if row < len(self._before) and self._before[row] == frame else None


_WORDS: Mapping[State, str] = {"same": "is the same", "gained": "gained", "lost": "lost", "moved": "moved"}


def columns_of(frames: pa.Table) -> dict[str, Column]:
    """Columns of a `FrameTable` from `RunComparison.frames`; the strain in percent.

    What sorting by `worst` goes by: frames that lost lattices, most of them first, then those whose lattices moved,
    the ones that are not there any more and those that turned the most first, then those that gained some.
    """
    columns: dict[str, Any] = {
        name: _dictionary(frames[name]) if name in _TEXTS else frames[name].to_numpy() for name in frames.column_names
    }
    columns["tags"] = _dictionary(pa.chunked_array([pa.nulls(len(frames), pa.string())]))
    columns["strain"] = (100 * columns["strain"]).astype(np.float32)
    columns["rotation"] = columns["rotation"].astype(np.float32)
    rank = np.array([_RANK[state] for state in frames["state"].to_pylist()], dtype=np.float64)
    change = np.abs(columns["lattices_after"] - columns["lattices_before"]).astype(np.float64)
    gone = columns["lattices_before"] - columns["lattices_kept"]
    turned = np.nan_to_num(columns["rotation"]) + np.nan_to_num(columns["strain"])
    much = np.where(rank == _RANK["moved"], gone + turned / (1 + turned), change)
    columns[WORST] = (rank + 0.999 * much / (1 + much)).astype(np.float32)
    return columns


def _dictionary(column: pa.ChunkedArray) -> pa.DictionaryArray:
    return pc.fill_null(column, "").combine_chunks().dictionary_encode()
