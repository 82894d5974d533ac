"""Waiting for workers, and why there are none."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from typing import Any, Literal

from distributed import Client, Future, wait
from rich.console import Console
from rich.markup import escape

from sfxlab.errors import ClusterError

Say = Callable[[str], None]
_SECONDS_BETWEEN_LOOKS = 2.0


def waiting_for(client: Client) -> str:
    """Why a client has fewer workers than it wants; empty where it has them all.

    For SLURM in its own words: "0 of 20 workers: PENDING (Priority), expected 14:20".
    """
    explain: Callable[[], str] | None = getattr(client.cluster, "waiting", None)
    if explain is not None:
        return explain()
    there = len(client.nthreads())
    return "" if there else f"no workers at {client.scheduler_info()['address']}; start `dask worker` there"


def wait_for_workers(
    client: Client, count: int = 1, report: Say | Literal["auto"] | None = "auto", timeout: float | None = None
) -> None:
    """Wait until so many workers have come; a first worker is enough to begin, others join the work later.

    `report` is called with what is waited for, whenever that changes; "auto" shows it in a line on a terminal or in a
    notebook. Raises `ClusterError` where workers cannot come, or do not within `timeout` seconds.
    """
    if report == "auto":
        with waiting_line() as say:
            _wait(client, count, say, timeout)
    else:
        _wait(client, count, report or _nobody, timeout)


def _wait(client: Client, count: int, say: Say, timeout: float | None) -> None:
    deadline, before = None if timeout is None else time.monotonic() + timeout, ""
    while len(client.nthreads()) < count:
        verdict = getattr(client.cluster, "verdict", None)
        if verdict is not None:
            raise verdict
        why = waiting_for(client)
        if why != before:
            say(why)
            before = why
        if deadline is not None and time.monotonic() > deadline:
            raise ClusterError("no workers came in time", found=why, remedy="wait longer, or ask for smaller jobs")
        time.sleep(0.25)


def settled(client: Client, task: Future[Any], report: Say) -> None:
    """Wait until a task has ended in whatever way; `report` is told why there are no workers, and "" once there are."""
    said = ""
    while not task.done():
        with suppress(TimeoutError, CancelledError):
            wait(task, timeout=_SECONDS_BETWEEN_LOOKS)
        why = "" if task.done() or client.nthreads() else waiting_for(client)
        if why != said:
            report(why)
            said = why


@contextmanager
def waiting_line() -> Iterator[Say]:
    """What to call with a text: a line on a terminal or in a notebook that changes and goes away in the end."""
    if "ipykernel" in sys.modules:
        from IPython.display import HTML, display

        shown = display(HTML(""), display_id=True)
        if shown is not None:  # None where this is no notebook after all
            try:
                yield lambda text: shown.update(HTML(html.escape(text)))
            finally:
                shown.update(HTML(""))
            return
    with Console(stderr=True).status("waiting for workers") as status:
        yield lambda text: status.update(escape(text))


def _nobody(text: str) -> None:
    pass
