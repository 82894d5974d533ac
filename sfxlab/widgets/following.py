"""What goes on beside a widget: a run that grows, tags that others give."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from sfxlab.errors import SfxlabError

if TYPE_CHECKING:
    from sfxlab.session import Change, Session

T = TypeVar("T")


class Tasks:
    """Work in the background that a widget has begun."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin it in the event loop that runs."""
        task = asyncio.get_running_loop().create_task(work)
        # The loop itself would forget it.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def repeat(
    seconds: float, read: Callable[[], T | None], take: Callable[[T], None], fail: Callable[[SfxlabError], None]
) -> Callable[[], None]:
    """Call `read` in a thread every so many seconds, and `take` in the event loop with what it gives, if not None.

    What `read` raises goes to `fail`, and it is tried again. Returns the function that ends it. Where no event loop
    runs, as in a script, nothing is repeated.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return _nothing

    async def forever() -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                found = await asyncio.to_thread(read)
            except SfxlabError as error:
                fail(error)
                continue
            if found is not None:
                take(found)

    task = loop.create_task(forever())
    return lambda: None if loop.is_closed() else _cancel(loop, task)


def hear(session: Session | None, kinds: tuple[str, ...], callback: Callable[[], None]) -> Callable[[], None]:
    """Call `callback`, in the event loop where one runs, after changes of some kinds; returns what ends it."""
    if session is None:
        return _nothing
    try:
        loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        loop = None

    def heard(change: Change) -> None:
        if change.kind not in kinds:
            return
        if loop is None or loop.is_closed():
            callback()
        else:
            loop.call_soon_threadsafe(callback)

    return session.subscribe(heard)


def _cancel(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    loop.call_soon_threadsafe(task.cancel)


def _nothing() -> None:
    pass
