"""Chunks on workers: enough under way to keep them busy, and no more than scheduler and client can easily hold."""

from __future__ import annotations

import time
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from distributed import Client, Future, KilledWorker, as_completed
from distributed.protocol import pickle

from sfxlab.cluster import connection_lost, task_result, waiting_for
from sfxlab.frames import FrameSource
from sfxlab.learning import no_end_of_deaths
from sfxlab.recipe import Recipe
from sfxlab.store import Counts, RunRecord

_IN_FLIGHT_PER_THREAD = 3
_IN_FLIGHT_AT_LEAST = 16
_SECONDS_BETWEEN_COUNTS = 1.0
"""Workers are counted that often; with a thousand of them it is not for nothing."""
_SECONDS_BETWEEN_LOOKS = 2.0
"""It is looked that often whether there are workers at all."""
_MOST_TRIES = 10
"""So often a chunk may be among those that workers took along when they died, before something must be wrong."""


@dataclass(frozen=True)
class Chunk:
    """Some frames of a run."""

    number: int
    start: int
    """Number of the first frame."""
    frames: FrameSource
    is_missing: bool = True
    """None of its frames is in the run."""


def chunks_of(
    frames: FrameSource, record: RunRecord, numbers: Iterable[int], missing: Collection[int]
) -> Iterator[Chunk]:
    """The chunks of a run with these numbers, of which some are missing."""
    for number in numbers:
        those = record.frames_of(number)
        yield Chunk(number, those.start, frames[those.start : those.stop], number in missing)


Work = Callable[[Chunk, Recipe, Path], Counts]


def done_on_workers(
    client: Client,
    chunks: Iterator[Chunk],
    work: Work,
    recipe: Recipe,
    run_path: Path,
    waiting_for_workers: Callable[[str], None] = lambda why: None,
) -> Generator[Counts]:
    """What `work` says of each chunk, in the order in which they are done.

    Workers are given a few chunks each. A chunk whose worker dies goes to another one; which of its frames is to blame
    is known to `work`, so here it is tried anew, because it may be innocent: workers take along what waits on them.
    Where there are no workers any more, `waiting_for_workers` is told why, whenever that changes, and "" when there are
    some again. Raises `ClusterError`, and what `work` raises.
    """
    # Several people may share a scheduler, and it takes tasks of the same name for the same task.
    token = uuid.uuid4().hex[:8]
    waiting: dict[Future[Counts], Chunk] = {}
    tries: Counter[int] = Counter()
    completed = as_completed()
    room, watch = _Room(client), _Watch(client, waiting_for_workers)

    def submit(chunk: Chunk) -> None:
        name = f"process-frames-{chunk.number:06d}-{tries[chunk.number]}-{token}"
        task = client.submit(_unpacked, work, packed(chunk, recipe, run_path), key=name, pure=False)
        waiting[task] = chunk
        completed.add(task)

    def top_up() -> None:
        for chunk in islice(chunks, max(room.size() - len(waiting), 0)):
            submit(chunk)

    try:
        top_up()
        for task in _as_they_come(completed, watch):
            chunk = waiting.pop(task)
            try:
                yield _result(task, watch)
            except KilledWorker as error:
                tries[chunk.number] += 1
                if tries[chunk.number] == _MOST_TRIES:
                    those = f"frames {chunk.start} to {chunk.start + len(chunk.frames) - 1}"
                    raise no_end_of_deaths(those, error, _MOST_TRIES) from error
                submit(chunk)
            top_up()
    except OSError as error:
        raise connection_lost(error) from error
    finally:
        if client.status == "running":
            client.cancel(list(waiting))


class _Watch:
    """Looks now and then whether there are workers, and tells why there are none, whenever that changes."""

    def __init__(self, client: Client, tell: Callable[[str], None]) -> None:
        self._client, self._tell, self._said, self._looked = client, tell, "", time.monotonic()

    def look(self) -> None:
        if time.monotonic() - self._looked < _SECONDS_BETWEEN_LOOKS:
            return
        why = "" if self._client.nthreads() else waiting_for(self._client) or "0 workers"
        if why != self._said:
            self._tell(why)
        self._said, self._looked = why, time.monotonic()


def _as_they_come(completed: as_completed, watch: _Watch) -> Iterator[Future[Counts]]:
    """Tasks as they end."""
    while not completed.is_empty():
        if completed.has_ready():
            yield next(completed)
        else:
            with completed.thread_condition:
                completed.thread_condition.wait(timeout=0.1)
        watch.look()


def _result(task: Future[Counts], watch: _Watch) -> Counts:
    while True:
        try:
            counts: Counts = task_result(task, timeout=_SECONDS_BETWEEN_LOOKS)
            return counts
        except TimeoutError:
            if task.status == "error":
                raise
            watch.look()


class _Room:
    """How many chunks may be under way at a time."""

    def __init__(self, client: Client) -> None:
        self._client, self._asked, self._size = client, -float("inf"), _IN_FLIGHT_AT_LEAST

    def size(self) -> int:
        if time.monotonic() - self._asked > _SECONDS_BETWEEN_COUNTS:
            self._asked = time.monotonic()
            threads = sum(self._client.nthreads().values())
            self._size = max(threads * _IN_FLIGHT_PER_THREAD, _IN_FLIGHT_AT_LEAST)
        return self._size


def packed(chunk: Chunk, recipe: Recipe, run_path: Path) -> bytes:
    """What a task carries. Geometries of many panels would otherwise be most of what the scheduler holds."""
    return zlib.compress(pickle.dumps((chunk, recipe, run_path)), level=1)


def _unpacked(work: Work, values: bytes) -> Counts:
    return work(*pickle.loads(zlib.decompress(values)))
