"""Bad pixels learned from the frames of a run, here or over Dask, before the run is processed."""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from typing import Any

from distributed import Client, Future, KilledWorker, wait

from sfxlab.bad_pixels import LearnedMask, Part, added, find_bad_pixels, parts_of_sample
from sfxlab.cluster import connection_lost, task_result
from sfxlab.frames import FrameSource
from sfxlab.recipe import BadPixelRecipe

_LOG = logging.getLogger(__name__)


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
        for number, part in enumerate(parts):
            for later in range(number + len(waiting), min(number + ahead, len(parts))):
                waiting.append(submit(f"learn-bad-pixels-{later}", Part.tally, parts[later]))
            task = waiting.popleft()
            if _killed(task):
                # It may be innocent: a worker takes the tasks that wait on it along when it dies.
                task = submit(f"learn-bad-pixels-{number}-again", Part.tally, part)
            if _killed(task):
                _LOG.warning("bad pixels are learned without frames that kill workers: part %d of the sample", number)
            else:
                tally = submit(f"add-bad-pixels-{number}", added, tally, task)
            held[:] = [*waiting, *([tally] if tally is not None else [])]
            report(number + 1, len(parts))
        found: LearnedMask | None = task_result(submit("find-bad-pixels", find_bad_pixels, tally, recipe))
        return found
    except OSError as error:
        raise connection_lost(error) from error
    finally:
        if client.status == "running":
            client.cancel(held)


def _killed(task: Future[Any]) -> bool:
    """Wait for a task; whether workers died of it."""
    try:
        wait(task)
    except CancelledError as error:
        raise connection_lost(error) from error
    return task.status == "error" and isinstance(task.exception(), KilledWorker)
