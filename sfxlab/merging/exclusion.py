"""Runs without some of their frames and crystals: those that people have tagged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfxlab.errors import MergeError
from sfxlab.merging.crystals import ProcessedRun, column, keys_of, tables


@runtime_checkable
class Tagged(Protocol):
    """Items of one kind, as `Session.tagged` gives them."""

    kind: str

    def __iter__(self) -> Iterator[str]:
        """Numbers of frames, or of rows in the run's table of crystals, as text."""


Excluded = Tagged | Mapping[str, Iterable[str]]
"""What to leave out: what has a tag, or `{"frame": numbers, "crystal": rows of the table of crystals}`."""


class Reduced(ProcessedRun, Protocol):
    """A run that lacks something."""

    @property
    def left_out(self) -> int:
        """Number of crystals."""


def without(run: ProcessedRun, exclude: Excluded) -> Reduced:
    """The run without these frames and crystals; what is on the disk stays as it is.

    Raises `MergeError` for what names no frames and no crystals.
    """
    items = {exclude.kind: list(exclude)} if isinstance(exclude, Tagged) else exclude
    if not isinstance(items, Mapping) or not set(items) <= {"frame", "crystal"}:
        raise MergeError(
            "it is not said what to leave out", found=repr(exclude)[:100],
            expected="session.tagged('frame', …), session.tagged('crystal', …) or {'frame': […], 'crystal': […]}",
        )  # fmt: skip
    frames, rows = (_numbers(items.get(kind, ()), kind) for kind in ("frame", "crystal"))
    crystals = pa.concat_tables(list(tables(run, "crystals", ["frame", "crystal"])))
    frame = column(crystals, "frame", np.int64)
    left_out = np.isin(frame, frames)
    if len(rows) and (rows.min() < 0 or rows.max() >= len(frame)):
        raise MergeError("there are no such crystals in the run", found=f"row {rows.max()} of {len(frame)}")
    left_out[rows] = True
    keys = np.sort(keys_of(frame, column(crystals, "crystal", np.int64))[left_out])
    if hasattr(run, "parts"):
        return _RunWithout(run, keys)
    return _TablesWithout(run.frames, _filtered(run.crystals, keys), _filtered(run.reflections, keys), len(keys))


def _numbers(items: Iterable[str], kind: str) -> NDArray[np.int64]:
    given = list(items)
    try:
        return np.array([int(item) for item in given], dtype=np.int64)
    except (TypeError, ValueError) as error:
        raise MergeError(f"a {kind} to leave out is no number", found=error) from error


def _filtered(table: Any, keys: NDArray[np.int64]) -> Any:
    own = keys_of(column(table, "frame", np.int64), column(table, "crystal", np.int64))
    return table.filter(pa.array(~np.isin(own, keys)))


@dataclass(frozen=True)
class _TablesWithout:
    frames: Any
    crystals: Any
    reflections: Any
    left_out: int


@dataclass(frozen=True)
class _RunWithout:
    """A run that comes in parts, less the crystals with these sorted keys."""

    run: Any
    keys: NDArray[np.int64]

    @property
    def left_out(self) -> int:
        return len(self.keys)

    @property
    def path(self) -> Any:
        return self.run.path

    @property
    def frames(self) -> Any:
        return self.run.frames

    @property
    def crystals(self) -> Any:
        return _filtered(self.run.crystals, self.keys)

    @property
    def reflections(self) -> Any:
        return _filtered(self.run.reflections, self.keys)

    def parts(self, name: str, columns: Sequence[str]) -> Iterator[Any]:
        """A table chunk by chunk, without what is left out."""
        if name == "frames":
            yield from self.run.parts(name, columns)
            return
        needed = list(dict.fromkeys([*columns, "frame", "crystal"]))
        for part in self.run.parts(name, needed):
            yield _filtered(part, self.keys).select(list(columns))
