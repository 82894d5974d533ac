"""Trials of many frames, here or as one map over Dask workers."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from distributed import Client, Future, KilledWorker, as_completed
from numpy.typing import NDArray

from sfxlab.cluster import connection_lost, task_result
from sfxlab.recipe import Recipe
from sfxlab.tuning.trial import FramesToTry, Trials, try_frames

Report = Callable[[int, int], None]


def tried(
    parts: Sequence[FramesToTry],
    recipes: Sequence[Recipe],
    bad: NDArray[np.uint8] | None,
    client: Client | None,
    report: Report,
) -> list[Trials]:
    """All recipes on all frames, in the order of the frames. `report` is called with the frames done and all.

    A frame that kills its worker process again and again has failed. Raises `ClusterError`.
    """
    total, done = sum(len(part.positions) for part in parts), 0
    report(0, total)
    trials: list[Trials] = []
    for some in _here(parts, recipes, bad) if client is None else _on_workers(client, parts, recipes, bad):
        trials += some
        done += len(some)
        report(done, total)
    return sorted(trials, key=lambda trial: trial.frame)


@dataclass(frozen=True)
class _Common:
    """What all tasks have in common."""

    recipes: Sequence[Recipe]
    bad: NDArray[np.uint8] | None

    def tried(self, part: FramesToTry) -> list[Trials]:
        return try_frames(part, self.recipes, self.bad)


def _here(
    parts: Iterable[FramesToTry], recipes: Sequence[Recipe], bad: NDArray[np.uint8] | None
) -> Iterator[list[Trials]]:
    for part in parts:
        for alone in part.alone():
            yield try_frames(alone, recipes, bad)


def _on_workers(
    client: Client, parts: Sequence[FramesToTry], recipes: Sequence[Recipe], bad: NDArray[np.uint8] | None
) -> Iterator[list[Trials]]:
    held: list[Future[Any]] = []
    try:
        # What is the same for all tasks travels once, as the result of a task: that is made again where a worker dies.
        common = client.submit(_Common, recipes, bad, key=f"settings-{uuid.uuid4().hex[:8]}", pure=False)
        held.append(common)

        def mapped(those: Sequence[FramesToTry]) -> dict[Future[list[Trials]], FramesToTry]:
            token = uuid.uuid4().hex[:8]  # a scheduler that others use too takes tasks of one name for one task
            names = [f"try-settings-{number:04d}-{token}" for number in range(len(those))]
            tasks = client.map(_Common.tried, [common] * len(those), those, key=names, pure=False)
            held.extend(tasks)
            return dict(zip(tasks, those, strict=True))

        # A part may be innocent: a worker takes the parts that wait on it along when it dies.
        killed: list[FramesToTry] = []
        tasks = mapped(parts)
        for task in as_completed(list(tasks)):
            try:
                yield task_result(task)
            except KilledWorker:
                killed += tasks[task].alone()
        for part in killed:
            (task,) = mapped([part])
            try:
                yield task_result(task)
            except KilledWorker as error:
                reason = f"KilledWorker: the worker process died {error.allowed_failures + 1} times on this frame"
                yield [Trials(part.start + part.positions[0], None, reason)]
    except OSError as error:
        raise connection_lost(error) from error
    finally:
        if client.status == "running":
            client.cancel(held)
