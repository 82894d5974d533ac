"""Bad pixels and shapes of spots learned from the frames of a run, here or over Dask, before the run is processed."""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError
from contextlib import closing
from typing import Any

import numpy as np
from distributed import Client, Future, KilledWorker, wait

from sfxlab.bad_pixels import LearnedMask, Part, added, find_bad_pixels, parts_of_sample
from sfxlab.cluster import connection_lost, task_result
from sfxlab.frames import FrameSource
from sfxlab.frames.spot_profiles import SpotProfiles
from sfxlab.integration import Examples, learn_profiles
from sfxlab.pipeline import spot_examples
from sfxlab.recipe import BadPixelRecipe, Recipe

_LOG = logging.getLogger(__name__)

_GOLDEN = 0.6180339887498949
_FRAMES_IN_TASK = 4


def learn_bad_pixels(
    frames: FrameSource,
    recipe: BadPixelRecipe,
    client: Client | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LearnedMask | None:
    """The bad pixels of these frames that no mask knows; None where there are too few frames to say anything.

    At most `recipe.frames` frames are read, evenly spread. The result does not depend on the workers. `progress` is
    called with the parts of the sample done and of all. Raises `ClusterError`.
    """
    if len(frames) < recipe.min_frames:
        return None
    parts = parts_of_sample(frames, recipe.frames)
    report = progress or (lambda done, total: None)
    report(0, len(parts))
    if client is not None:
        return _on_workers(client, parts, recipe, report)
    tally = None
    for done, part in enumerate(parts, start=1):
        tally = added(tally, part.tally())
        report(done, len(parts))
    return find_bad_pixels(tally, recipe)


def _on_workers(
    client: Client, parts: Sequence[Part], recipe: BadPixelRecipe, report: Callable[[int, int], None]
) -> LearnedMask | None:
    """The same on workers, which keep the tallies; only the mask comes here."""
    try:
        return _added_on_workers(client, parts, recipe, report)
    except KilledWorker:
        # A worker takes all that it keeps and that waits on it along when it dies, so that any part may be blamed.
        harmless = [part for part in parts if not _kills(client, Part.tally, part)]
        _LOG.warning("bad pixels are learned without frames that kill workers: %d parts", len(parts) - len(harmless))
        return _added_on_workers(client, harmless, recipe, report)


def _added_on_workers(
    client: Client, parts: Sequence[Part], recipe: BadPixelRecipe, report: Callable[[int, int], None]
) -> LearnedMask | None:
    # Several people may share a scheduler, and it takes tasks of the same name for the same task.
    token = uuid.uuid4().hex[:8]

    def submit(name: str, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        task = client.submit(function, *arguments, key=f"{name}-{token}", pure=False)
        held.append(task)
        return task

    held: list[Future[Any]] = []
    waiting: deque[Future[Any]] = deque()
    # Tallies are as large as several frames; workers shall not hold many more than they make at a time.
    ahead = sum(client.nthreads().values()) + 1
    tally: Future[Any] | None = None
    try:
        for number in range(len(parts)):
            for later in range(number + len(waiting), min(number + ahead, len(parts))):
                waiting.append(submit(f"learn-bad-pixels-{later}", Part.tally, parts[later]))
            task = waiting.popleft()
            _settled(task)
            tally = submit(f"add-bad-pixels-{number}", added, tally, task)
            held[:] = [*waiting, tally]
            report(number + 1, len(parts))
        found: LearnedMask | None = task_result(submit("find-bad-pixels", find_bad_pixels, tally, recipe))
        return found
    except OSError as error:
        raise connection_lost(error) from error
    finally:
        if client.status == "running":
            client.cancel(held)


def _settled(task: Future[Any]) -> None:
    """Wait for a task without fetching what it made. Raises `KilledWorker` and `ClusterError`."""
    try:
        wait(task)
    except CancelledError as error:
        raise connection_lost(error) from error
    failure = task.exception() if task.status == "error" else None
    if isinstance(failure, KilledWorker):
        raise failure


def _kills(client: Client, function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether workers die of this, where nothing else is under way that they could die of."""
    task = client.submit(function, *arguments, key=f"alone-{uuid.uuid4().hex}", pure=False)
    try:
        _settled(task)
    except KilledWorker:
        return True
    except OSError as error:
        raise connection_lost(error) from error
    return False


def learn_spot_profiles(
    frames: FrameSource,
    recipe: Recipe,
    client: Client | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SpotProfiles | None:
    """What spots look like on these frames; None where too few of them are strong (`recipe.profiles`).

    Frames are taken from all over the run, one after the other until there are spots enough, so the result does not
    depend on the workers. `progress` is called with the spots found and wanted. Raises `ClusterError`.
    """
    wanted, report = recipe.profiles, progress or (lambda done, total: None)
    # Of multiples of the golden ratio the smallest fractions belong to numbers that are evenly spread.
    spread = np.argsort(np.arange(len(frames)) * _GOLDEN % 1, kind="stable").tolist()
    order = _first_of_each(frames, spread, wanted.frames)
    groups = [order[first : first + _FRAMES_IN_TASK] for first in range(0, len(order), _FRAMES_IN_TASK)]
    tasks = [tuple(frames[position : position + 1] for position in group) for group in groups]
    found: list[Examples] = []
    count = 0
    report(count, wanted.spots)
    with closing(_found_on_workers(client, tasks, recipe) if client else _found_here(tasks, recipe)) as results:
        for examples in results:
            found += examples
            count += sum(map(len, examples))
            report(min(count, wanted.spots), wanted.spots)
            if count >= wanted.spots:
                break
    if not found:
        return None
    return learn_profiles(Examples.joined(found), len(frames.detector.panels), wanted, recipe.integration)


def _first_of_each(frames: FrameSource, positions: Sequence[int], most: int) -> list[int]:
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
    client: Client, tasks: Sequence[Sequence[FrameSource]], recipe: Recipe
) -> Generator[list[Examples]]:
    """The same on workers, in the same order, a few tasks ahead of what is asked for."""
    token = uuid.uuid4().hex[:8]
    ahead = sum(client.nthreads().values()) + 1
    waiting: deque[Future[Any]] = deque()
    try:
        for number in range(len(tasks)):
            for later in range(number + len(waiting), min(number + ahead, len(tasks))):
                name = f"learn-profiles-{later:06d}-{token}"
                waiting.append(client.submit(examples_of_frames, tasks[later], recipe, key=name, pure=False))
            task = waiting.popleft()
            try:
                examples: list[Examples] = task_result(task)
            except KilledWorker:
                # It may be innocent, a victim of what ran beside it.
                client.cancel(list(waiting))
                waiting.clear()
                token = uuid.uuid4().hex[:8]
                if _kills(client, examples_of_frames, tasks[number], recipe):
                    _LOG.warning("profiles are learned without frames that kill workers: part %d of the sample", number)
                    continue
                name = f"learn-profiles-{number:06d}-{token}"
                examples = task_result(client.submit(examples_of_frames, tasks[number], recipe, key=name, pure=False))
            yield examples
    except OSError as error:
        raise connection_lost(error) from error
    finally:
        if client.status == "running":
            client.cancel(list(waiting))
