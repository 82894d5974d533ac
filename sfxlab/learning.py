"""Bad pixels and shapes of spots learned from the frames of a run, here or over Dask, before the run is processed."""

from __future__ import annotations

import logging
import math
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from distributed import Client, Future, KilledWorker, get_worker

from sfxlab.bad_pixels import LearnedMask, Part, PixelTally, added, find_bad_pixels, parts_of_sample
from sfxlab.cluster import connection_lost, settled, task_result
from sfxlab.errors import ClusterError
from sfxlab.frames import FrameSource
from sfxlab.frames.spot_profiles import SpotProfiles
from sfxlab.integration import Examples, learn_profiles
from sfxlab.pipeline import spot_examples
from sfxlab.recipe import BadPixelRecipe, Recipe
from sfxlab.store.under_way import UnderWay

_LOG = logging.getLogger(__name__)

_GOLDEN = 0.6180339887498949
_FRAMES_IN_TASK = 4
_MOST_TRIES = 5

_Result = TypeVar("_Result")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Guard:
    """What keeps frames that hang from holding up all others: a limit of time, and a run to write down who did."""

    run_path: Path
    seconds: float
    """That a frame may take on a worker."""

    def notes(self, task: str, frames: int = 1) -> UnderWay:
        """Notes of a task for which this worker may take the time of so many frames, if a nanny starts it anew."""
        worker = get_worker()
        seconds = self.seconds * frames if worker.nanny else math.inf
        return UnderWay(self.run_path, task, seconds, alone=worker.state.nthreads == 1)

    def call(self, task: str, frames: int, function: Callable[..., _Result], *arguments: Any) -> _Result | None:
        """What the function returns for so many frames; None where it has hung or killed its worker before."""
        with self.notes(task, frames) as notes:
            if (verdict := notes.verdict(0)) is not None:
                _LOG.warning("nothing is learned from %d frames (%s): %s", frames, task, verdict)
                return None
            with notes.at(0):
                return function(*arguments)


def learn_bad_pixels(
    frames: FrameSource,
    recipe: BadPixelRecipe,
    client: Client | None = None,
    progress: Callable[[int, int], None] | None = None,
    guard: Guard | None = None,
    waiting: Say = lambda why: None,
) -> LearnedMask | None:
    """The bad pixels of these frames that no mask knows; None where there are too few frames to say anything.

    At most `recipe.frames` frames are read, evenly spread. The result does not depend on the workers. `progress` is
    called with the parts of the sample done and of all. `guard` limits the time on workers. `waiting` is told why there
    are no workers, whenever that changes, and "" when there are some again. Raises `ClusterError`.
    """
    if len(frames) < recipe.min_frames:
        return None
    parts = parts_of_sample(frames, recipe.frames)
    report = progress or (lambda done, total: None)
    report(0, len(parts))
    if client is not None:
        return _on_workers(client, parts, recipe, report, guard, waiting)
    tally = None
    for done, part in enumerate(parts, start=1):
        tally = added(tally, part.tally())
        report(done, len(parts))
    return find_bad_pixels(tally, recipe)


def _on_workers(
    client: Client,
    parts: Sequence[Part],
    recipe: BadPixelRecipe,
    report: Callable[[int, int], None],
    guard: Guard | None,
    waiting: Say,
) -> LearnedMask | None:
    """The same on workers, which keep the tallies; only the mask comes here."""
    numbered = list(enumerate(parts))
    for _ in range(_MOST_TRIES):
        try:
            return _added_on_workers(client, numbered, recipe, report, guard, waiting)
        except KilledWorker as error:
            # A worker takes all that it keeps and that waits on it along when it dies, so that any part may be blamed.
            killed = error
            numbered = [part for part in numbered if not _kills(client, waiting, _tally, part, guard)]
    raise no_end_of_deaths("learning bad pixels", killed, _MOST_TRIES) from killed


def _tally(numbered: tuple[int, Part], guard: Guard | None) -> PixelTally | None:
    number, part = numbered
    if guard is None:
        return part.tally()
    return guard.call(f"bad-pixels-{number:06d}", len(part.positions), part.tally)


def _added_on_workers(
    client: Client,
    parts: Sequence[tuple[int, Part]],
    recipe: BadPixelRecipe,
    report: Callable[[int, int], None],
    guard: Guard | None,
    waiting: Say,
) -> LearnedMask | None:
    # Several people may share a scheduler, and it takes tasks of the same name for the same task.
    token = uuid.uuid4().hex[:8]

    def submit(name: str, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        task = client.submit(function, *arguments, key=f"{name}-{token}", pure=False)
        held.append(task)
        return task

    held: list[Future[Any]] = []
    under_way: deque[Future[Any]] = deque()
    # Tallies are as large as several frames; workers shall not hold many more than they make at a time.
    ahead = sum(client.nthreads().values()) + 1
    tally: Future[Any] | None = None
    try:
        for number in range(len(parts)):
            for later in range(number + len(under_way), min(number + ahead, len(parts))):
                under_way.append(submit(f"learn-bad-pixels-{later}", _tally, parts[later], guard))
            task = under_way.popleft()
            _settled(task, waiting)
            tally = submit(f"add-bad-pixels-{number}", added, tally, task)
            held[:] = [*under_way, tally]
            report(number + 1, len(parts))
        last = submit("find-bad-pixels", find_bad_pixels, tally, recipe)
        _settled(last, waiting)
        found: LearnedMask | None = task_result(last)
        return found
    except OSError as error:
        raise connection_lost(error) from error
    finally:
        if client.status == "running":
            client.cancel(held)


def no_end_of_deaths(what: str, error: KilledWorker, tries: int) -> ClusterError:
    """What to say where workers die though nothing that they do is to blame."""
    return ClusterError(
        "workers die again and again, and no frame is to blame",
        place=what,
        found=f"{tries} times {error.allowed_failures + 1} deaths of workers that had this to do",
        remedy="read the workers' logs; give them more memory or time, then continue with --resume",
    )


def _settled(task: Future[Any], waiting: Say) -> None:
    """Wait for a task without fetching what it made. Raises `KilledWorker` and `ClusterError`."""
    settled(task.client, task, waiting)
    if task.status == "cancelled":
        task_result(task)
    failure = task.exception() if task.status == "error" else None
    if isinstance(failure, KilledWorker):
        raise failure


def _kills(client: Client, waiting: Say, function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether workers die of this, where nothing else is under way that they could die of."""
    task = client.submit(function, *arguments, key=f"alone-{uuid.uuid4().hex}", pure=False)
    try:
        _settled(task, waiting)
    except KilledWorker:
        _LOG.warning("nothing is learned from frames that kill workers: %s", arguments[0])
        return True
    except OSError as error:
        raise connection_lost(error) from error
    return False


def learn_spot_profiles(
    frames: FrameSource,
    recipe: Recipe,
    client: Client | None = None,
    progress: Callable[[int, int], None] | None = None,
    guard: Guard | None = None,
    waiting: Say = lambda why: None,
) -> SpotProfiles | None:
    """What spots look like on these frames; None where too few of them are strong (`recipe.profiles`).

    Frames are taken from all over the run, one after the other until there are spots enough, so the result does not
    depend on the workers. `progress` is called with the spots found and wanted. `guard` and `waiting` are as for
    `learn_bad_pixels`. Raises `ClusterError`.
    """
    wanted, report = recipe.profiles, progress or (lambda done, total: None)
    # Of multiples of the golden ratio the smallest fractions belong to numbers that are evenly spread.
    spread = np.argsort(np.arange(len(frames)) * _GOLDEN % 1, kind="stable")
    order = _first_of_each(frames, map(int, spread), wanted.frames)
    groups = [order[first : first + _FRAMES_IN_TASK] for first in range(0, len(order), _FRAMES_IN_TASK)]
    tasks = [tuple(frames[position : position + 1] for position in group) for group in groups]
    found: list[Examples] = []
    count = 0
    report(count, wanted.spots)
    work = _found_on_workers(client, tasks, recipe, guard, waiting) if client else _found_here(tasks, recipe)
    with closing(work) as results:
        for examples in results:
            found += examples
            count += sum(map(len, examples))
            report(min(count, wanted.spots), wanted.spots)
            if count >= wanted.spots:
                break
    if not found:
        return None
    return learn_profiles(Examples.joined(found), len(frames.detector.panels), wanted, recipe.integration)


def _first_of_each(frames: FrameSource, positions: Iterable[int], most: int) -> list[int]:
    """The first so many positions without frames that are there before, which say nothing new."""
    found: dict[Any, int] = {}
    for position in positions:
        found.setdefault(frames.identity(position), position)
        if len(found) == most:
            break
    return list(found.values())


def examples_of_frames(frames: Sequence[FrameSource], recipe: Recipe) -> list[Examples]:
    """Strong spots of some frames, each a source of its own; frames that fail are left out."""
    found = []
    for source in frames:
        try:
            examples = spot_examples(source[0], recipe)
        except Exception:  # noqa: BLE001
            # It becomes a row with a reason when the run comes to it.
            _LOG.debug("no spots are learned from %s", source.identity(0), exc_info=True)
            continue
        if examples is not None:
            found.append(examples)
    return found


def _found_here(tasks: Sequence[Sequence[FrameSource]], recipe: Recipe) -> Generator[list[Examples]]:
    for task in tasks:
        yield examples_of_frames(task, recipe)


def _found_on_workers(
    client: Client, tasks: Sequence[Sequence[FrameSource]], recipe: Recipe, guard: Guard | None, waiting: Say
) -> Generator[list[Examples]]:
    """The same on workers, in the same order, a few tasks ahead of what is asked for."""
    token = uuid.uuid4().hex[:8]
    ahead = sum(client.nthreads().values()) + 1
    under_way: deque[Future[Any]] = deque()

    def submit(number: int) -> Future[Any]:
        name = f"learn-profiles-{number:06d}-{token}"
        return client.submit(_examples, (number, tasks[number]), recipe, guard, key=name, pure=False)

    try:
        for number in range(len(tasks)):
            until = min(number + ahead, len(tasks))
            under_way += [submit(later) for later in range(number + len(under_way), until)]
            task = under_way.popleft()
            for _ in range(_MOST_TRIES):
                try:
                    settled(client, task, waiting)
                    examples: list[Examples] = task_result(task)
                    break
                except KilledWorker as error:
                    # It may be innocent, a victim of what ran beside it.
                    killed = error
                    client.cancel(list(under_way))
                    under_way.clear()
                    token = uuid.uuid4().hex[:8]
                    if _kills(client, waiting, _examples, (number, tasks[number]), recipe, guard):
                        examples = []
                        break
                    task = submit(number)
            else:
                raise no_end_of_deaths("learning shapes of spots", killed, _MOST_TRIES) from killed
            yield examples
    except OSError as error:
        raise connection_lost(error) from error
    finally:
        if client.status == "running":
            client.cancel(list(under_way))


def _examples(numbered: tuple[int, Sequence[FrameSource]], recipe: Recipe, guard: Guard | None) -> list[Examples]:
    number, frames = numbered
    if guard is None:
        return examples_of_frames(frames, recipe)
    return guard.call(f"profiles-{number:06d}", len(frames), examples_of_frames, frames, recipe) or []
