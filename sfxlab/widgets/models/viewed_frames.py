"""Frames that are looked at, with what became of each: those of a run, or of any source."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, Literal, Protocol, TypeVar

from sfxlab.errors import RunError
from sfxlab.frames import FrameSource
from sfxlab.pipeline import FrameResult, Status
from sfxlab.processing import process_one
from sfxlab.recipe import Recipe
from sfxlab.store import Run
from sfxlab.store.parts import committed_chunks, results_in_chunk

T = TypeVar("T")
K = TypeVar("K")

Wanted = Literal["hit", "unindexed"]
"""What may be looked for: a frame with or without lattices, or a hit without one."""

_KINDS: dict[Wanted, tuple[Status, ...]] = {"hit": ("hit", "indexed"), "unindexed": ("hit",)}


class ViewedFrames(Protocol):
    """Frames and what became of them."""

    frames: FrameSource
    recipe: Recipe

    def result(self, number: int) -> FrameResult | None:
        """What became of a frame; None where that is not known yet."""
        ...

    def status(self, number: int) -> Status | None:
        """In a word."""
        ...


class RunFrames:
    """The frames of a run, with its results. The run may be growing."""

    def __init__(self, run: Run, frames: FrameSource | None = None) -> None:
        self.run = run
        self.frames = run.open_frames() if frames is None else frames
        self.recipe = run.recipe
        self._chunk_size = run.record.chunk_size
        self._chunks: Recent[int, list[FrameResult]] = Recent(4)
        self._statuses: list[Status] = []
        self._chunk_rows: dict[int, int] = {}

    def result(self, number: int) -> FrameResult | None:
        """What the run has of a frame; None where it is not processed yet."""
        chunk, position = divmod(number, self._chunk_size)
        try:
            return self._chunks.get(chunk, lambda: list(results_in_chunk(self.run.path, chunk)))[position]
        except RunError:
            if chunk in committed_chunks(self.run.path):
                raise
            return None

    def status(self, number: int) -> Status | None:
        """In a word; None where the frame is not processed yet."""
        chunk, position = divmod(number, self._chunk_size)
        if chunk not in self._chunk_rows:
            known = committed_chunks(self.run.path)
            if len(known) != len(self._chunk_rows):
                self._statuses = self.run.table("frames", ["status"])["status"].to_pylist()
                # All chunks but the last of a run have the same length.
                self._chunk_rows = {number: row * self._chunk_size for row, number in enumerate(known)}
        row = self._chunk_rows.get(chunk)
        return None if row is None or row + position >= len(self._statuses) else self._statuses[row + position]


class PlainFrames:
    """Frames of any source, processed when they are looked at."""

    def __init__(self, frames: FrameSource, recipe: Recipe | None = None) -> None:
        self.frames = frames
        self.recipe = recipe or Recipe()
        self._results: Recent[int, FrameResult] = Recent(1000)

    def result(self, number: int) -> FrameResult:
        """What becomes of a frame with the recipe; a frame that cannot be processed has failed."""
        return self._results.get(number, lambda: process_one(self.frames, number, number, self.recipe))

    def status(self, number: int) -> Status:
        """In a word."""
        return self.result(number).status


def viewed(source: Run | FrameSource | RunFrames | PlainFrames, recipe: Recipe | None = None) -> ViewedFrames:
    """What to look at, for a run or for frames; these are processed with `recipe`."""
    if isinstance(source, Run):
        return RunFrames(source)
    return source if isinstance(source, RunFrames | PlainFrames) else PlainFrames(source, recipe)


def find_next(
    source: ViewedFrames, number: int, wanted: Wanted, step: int = 1, stop: Callable[[], bool] = bool
) -> int | None:
    """The next frame after `number` (before it for a step of −1) that is wanted; None where there is none.

    `stop` is asked before each frame, which may have to be processed first, whether to give up.
    """
    candidates = range(number + step, len(source.frames) if step > 0 else -1, step)
    for candidate in candidates:
        if stop():
            return None
        if source.status(candidate) in _KINDS[wanted]:
            return candidate
    return None


class Recent(Generic[K, T]):
    """The last few things that were made, each once, whoever asks first; several threads may."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._kept: OrderedDict[K, Future[T]] = OrderedDict()

    def get(self, key: K, make: Callable[[], T]) -> T:
        """What was made of `key`, or is made now."""
        with self._lock:
            future = self._kept.get(key)
            is_new = future is None
            if future is None:
                future = self._kept[key] = Future()
            self._kept.move_to_end(key)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        if is_new:
            try:
                future.set_result(make())
            except BaseException as error:
                with self._lock:
                    self._kept.pop(key, None)
                future.set_exception(error)
                raise
        return future.result()

    def __contains__(self, key: K) -> bool:
        with self._lock:
            return key in self._kept and self._kept[key].done()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
