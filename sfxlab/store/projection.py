"""The maximum projection of a run's hits: the largest value that each good pixel had.

Every thread of every process that works on a run has a file of its own, which it brings up to date before the part of
`frames` that says that a chunk is done. A maximum stays the same however often a frame is in it, and so whoever died
and whatever is done again makes no difference. Reading takes the maximum over the files.
"""

from __future__ import annotations

import io
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.errors import RunError
from sfxlab.frames import Frame
from sfxlab.frames.pixel_types import compiled_pixels, read_only
from sfxlab.whole_files import written_whole

_PROCESS = uuid.uuid4().hex[:12]


class MaximumProjection:
    """The maximum over hits of a chunk. Nothing is allocated before the first hit."""

    def __init__(self) -> None:
        self._values: NDArray[np.float32] | None = None

    def add(self, frame: Frame) -> None:
        """Take a hit in."""
        if self._values is None:
            self._values = np.full(frame.data.shape, np.nan, dtype=np.float32)
        if frame.data.shape == self._values.shape:
            pixels, bad = compiled_pixels(frame.data).reshape(-1), read_only(frame.bad.reshape(-1))
            _take_larger(self._values.reshape(-1), pixels, bad)

    def save(self, run_path: Path) -> None:
        """Add it to this thread's file in the run. Raises `RunError`."""
        if self._values is None:
            return
        # Forked processes share the first part of the name.
        path = _folder(run_path) / f"{_PROCESS}-{os.getpid()}-{threading.get_native_id()}.npy"
        path.parent.mkdir(exist_ok=True)
        before = _read(path)
        _write(path, self._values if before is None else np.fmax(before, self._values, out=self._values))


def read_projection(run_path: Path) -> NDArray[np.float32] | None:
    """The maximum over the hits so far, ADU, the slab's shape, NaN where no pixel was good; None without hits.

    Raises `RunError` where a file is damaged.
    """
    return _maximum(_folder(run_path))


def join_projections(run_path: Path) -> None:
    """Make one file of all. Only whoever holds the run's lock may call this. Raises `RunError`."""
    folder = _folder(run_path)
    paths = _paths(folder)
    if len(paths) < 2:
        return
    taken = []
    for path in paths:
        # Under another name, because a worker of a session that died may still be about to write its own.
        taken.append(path.with_name(f"{uuid.uuid4().hex}.npy"))
        path.rename(taken[-1])
    joined = _maximum(folder)
    assert joined is not None
    _write(folder / f"joined-{uuid.uuid4().hex}.npy", joined)
    for path in taken:
        path.unlink()


@njit(cache=True, nogil=True)
def _take_larger(values: NDArray[np.float32], data: NDArray[Any], bad: NDArray[np.uint8]) -> None:
    """Replace what is smaller in `values`, or NaN, by the good pixels of `data`, (n,) each."""
    for i in range(len(values)):
        value = np.float32(data[i])
        if bad[i] == 0 and not value <= values[i]:
            values[i] = value if value == value else values[i]


def _maximum(folder: Path) -> NDArray[np.float32] | None:
    while True:
        try:
            return _maximum_of(_read_all(folder))
        except FileNotFoundError:
            continue  # they were joined meanwhile


def _maximum_of(projections: Iterator[NDArray[np.float32]]) -> NDArray[np.float32] | None:
    largest: NDArray[np.float32] | None = None
    for one in projections:
        if largest is None:
            largest = one
        elif one.shape == largest.shape:
            np.fmax(largest, one, out=largest)
    return largest


def _read_all(folder: Path) -> Iterator[NDArray[np.float32]]:
    for path in _paths(folder):
        values = _read(path)
        if values is None:
            raise FileNotFoundError(path)
        yield values


def _paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.npy") if not path.name.startswith("."))


def _read(path: Path) -> NDArray[np.float32] | None:
    try:
        values: NDArray[np.float32] = np.load(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(
            "the maximum projection of the run is damaged", path=path, found=error,
            remedy="remove the file; the projection will lack some hits",
        ) from error  # fmt: skip
    return values


def _write(path: Path, values: NDArray[np.float32]) -> None:
    text = io.BytesIO()
    np.save(text, values)
    with written_whole(path) as file:
        file.write(text.getbuffer())  # unlike np.save, says what is wrong where the disk is full


def _folder(run_path: Path) -> Path:
    return run_path / "projection"
