"""Columns of observations in blocks of whole crystals: in memory, or in scratch files where there are too many.

Scratch files are read with plain reads, a block at a time, and not mapped, so that what is not in use takes no memory
of the process. They lie in a folder of their own under `TMPDIR` and go with the object.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import MergeError


@dataclass(frozen=True)
class Block:
    """The observations of some crystals that follow each other, sorted by crystal, then by hkl as measured."""

    number: int
    """Which block it is."""
    crystals: slice
    """Numbers of its crystals."""
    offsets: NDArray[np.int64]
    """Observations `offsets[i]` to `offsets[i + 1]` are those of the block's crystal i, (n_crystals + 1,)."""
    columns: Mapping[str, NDArray[Any]]
    """What was asked for, each (n,)."""

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @property
    def reflection(self) -> NDArray[np.int32]:
        """Which unique reflection each observation is of, (n,)."""
        return self.columns["reflection"]

    @property
    def intensity(self) -> NDArray[np.float64]:
        """Corrected for polarisation, (n,)."""
        return self.columns["intensity"]

    @property
    def sigma(self) -> NDArray[np.float64]:
        """Standard error of `intensity` by counting, (n,)."""
        return self.columns["sigma"]

    @property
    def crystal(self) -> NDArray[np.int32]:
        """Number of the crystal of each observation, (n,)."""
        numbers = np.arange(self.crystals.start, self.crystals.stop, dtype=np.int32)
        return np.repeat(numbers, np.diff(self.offsets))


Scaled = tuple[Block, NDArray[np.float64], NDArray[np.float64]]
"""Observations, by what to divide each, and its weight."""


def passes(make: Callable[[], Iterator[Scaled]], kept: bool) -> Callable[[], Iterator[Scaled]]:
    """What gives the same blocks again and again: from `make` each time, or from it once where they are to be kept."""
    if not kept:
        return make
    held = list(make())
    return lambda: iter(held)


class Columns:
    """Arrays by block and name. Floating-point numbers are kept with single precision and given with double."""

    def __init__(self, on_disk: bool) -> None:
        self._folder = _scratch_folder(self) if on_disk else None
        self._arrays: dict[tuple[int, str], NDArray[Any]] = {}
        self._types: dict[str, np.dtype[Any]] = {}

    @property
    def on_disk(self) -> bool:
        """Whether they are in files."""
        return self._folder is not None

    @property
    def names(self) -> tuple[str, ...]:
        """What there is."""
        return tuple(self._types)

    def put(self, block: int, name: str, values: NDArray[Any]) -> None:
        """Keep an array in place of what was there. Raises `MergeError` where the disk is full."""
        if values.dtype.kind == "f":
            values = values.astype(np.float32)
        self._types[name] = values.dtype
        if self._folder is None:
            self._arrays[block, name] = (
                values.astype(np.float64) if values.dtype.kind == "f" else np.ascontiguousarray(values)
            )
            return
        path = self._path(block, name)
        try:
            values.tofile(path)
        except OSError as error:
            raise _scratch_error(path, error) from error

    def get(self, block: int, name: str) -> NDArray[Any]:
        """An array as it was put; changes to it count only when it is put again."""
        if self._folder is None:
            return self._arrays[block, name]
        values = np.fromfile(self._path(block, name), dtype=self._types[name])
        return values.astype(np.float64) if values.dtype.kind == "f" else values

    def _path(self, block: int, name: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{block:06d}.{name}"


class Rows:
    """Rows of structured arrays, collected by block until they are taken: in memory, or in scratch files."""

    def __init__(self, on_disk: bool) -> None:
        self._folder = _scratch_folder(self) if on_disk else None
        self._parts: list[NDArray[Any]] = []

    def add(self, rows: NDArray[Any], block: NDArray[np.integer] | int) -> None:
        """Add rows to the blocks that they belong to, or all to one. Raises `MergeError` where the disk is full."""
        if self._folder is None:
            self._parts.append(rows)
            return
        if not len(rows):
            return
        block = np.broadcast_to(block, len(rows))
        order = np.argsort(block, kind="stable")
        numbers, starts = np.unique(block[order], return_index=True)
        for number, part in zip(numbers.tolist(), np.split(rows[order], starts[1:]), strict=True):
            path = self._path(number)
            try:
                with open(path, "ab") as file:
                    part.tofile(file)
            except OSError as error:
                raise _scratch_error(path, error) from error

    def take(self, block: int, kind: np.dtype[Any]) -> NDArray[Any]:
        """The rows of a block, which are then forgotten here."""
        if self._folder is None:
            parts, self._parts = self._parts, []
            return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.empty(0, kind)
        path = self._path(block)
        if not path.exists():
            return np.empty(0, kind)
        rows = np.fromfile(path, dtype=kind)
        path.unlink()
        return rows

    def _path(self, block: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{block:06d}.rows"


def _scratch_folder(owner: object) -> Path:
    """A new folder that is removed with its owner, at the end of the process at the latest."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="sfxlab-merge-"))
    except OSError as error:
        raise _scratch_error(Path(tempfile.gettempdir()), error) from error
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder


def _scratch_error(path: Path, error: OSError) -> MergeError:
    """What to tell the user where scratch files cannot be written."""
    return MergeError(
        "the scratch files of merging cannot be written",
        path=path,
        found=error.strerror or error,
        remedy="set TMPDIR to a folder with more space, or raise memory_limit",
    )
