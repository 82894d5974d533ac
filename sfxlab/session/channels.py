"""What the session service sends: one reader of the catalogue for everybody who listens."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from sfxlab.errors import SessionError
from sfxlab.session.catalogue import Catalogue
from sfxlab.session.changes import Change, Person, to_wire
from sfxlab.session.following import CatalogueFeed
from sfxlab.session.ledger import KEPT_CHANGES, changes_after, last_numbers
from sfxlab.session.presence import leave, sign_of_life
from sfxlab.session.wire import MAX_BATCH

_LOG = logging.getLogger(__name__)


class Listener(Protocol):
    """Somebody who has a session open through the service."""

    session: int
    client: str
    person: Person
    number: int
    """Of the last change that was sent."""
    news: asyncio.Event


class Channels:
    """Changes of those sessions that somebody listens to, read once; call it from the thread of the event loop."""

    def __init__(self, catalogue: Catalogue, aside: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
        self._catalogue, self._aside = catalogue, aside
        self._loop = asyncio.get_running_loop()
        self._listeners: set[Listener] = set()
        self._recent: dict[int, deque[tuple[int, str]]] = {}
        self._feed = CatalogueFeed(catalogue, self._keep_alive, lambda: None)

    async def join(self, listener: Listener) -> None:
        """Let somebody know from now on, and the others that he or she is there."""
        self._listeners.add(listener)
        session = listener.session
        newest = await self._aside(lambda: self._newest(session))
        if session not in self._recent:
            self._recent[session] = deque(maxlen=KEPT_CHANGES)
            self._feed.follow(session, newest, lambda change: self._took_elsewhere(session, change))
        await self._aside(lambda: self._sign_of_life([listener]))
        self._feed.hurry()

    async def part(self, listener: Listener) -> None:
        """Forget somebody who is gone."""
        self._listeners.discard(listener)
        if all(other.session != listener.session for other in self._listeners):
            self._feed.forget(listener.session)
            self._recent.pop(listener.session, None)
        try:
            await self._aside(lambda: self._leave(listener))
        except SessionError as error:
            _LOG.warning("%s left a session without telling: %s", listener.person.name, error)
        self._feed.hurry()

    async def changes(self, listener: Listener) -> str | None:
        """The next changes for somebody as JSON text, or None where there are none; counts them as sent."""
        listener.news.clear()
        recent = self._recent.get(listener.session, ())
        if recent and recent[0][0] <= listener.number + 1:
            found = [(number, text) for number, text in recent if number > listener.number]
        else:
            found = await self._aside(lambda: self._read(listener.session, listener.number))
        batch: list[str] = []
        size = 0
        for number, text in found:
            if batch and size + len(text) > MAX_BATCH:
                break
            batch.append(text)
            size += len(text)
            listener.number = number
        return f"[{','.join(batch)}]" if batch else None

    def hurry(self) -> None:
        """Look for changes now."""
        self._feed.hurry()

    def close(self) -> None:
        """Read no more; from another thread."""
        self._feed.close()

    def _took_elsewhere(self, session: int, change: Change) -> None:
        self._loop.call_soon_threadsafe(self._took, session, change.number, json.dumps(to_wire(change)))

    def _took(self, session: int, number: int, text: str) -> None:
        if session in self._recent:
            self._recent[session].append((number, text))
        for listener in self._listeners:
            if listener.session == session:
                listener.news.set()

    def _keep_alive(self) -> None:
        self._sign_of_life(list(self._listeners))

    def _sign_of_life(self, listeners: list[Listener]) -> None:
        for listener in listeners:
            with self._catalogue.connected("write") as connection:
                sign_of_life(connection, listener.session, listener.client, listener.person)

    def _leave(self, listener: Listener) -> None:
        with self._catalogue.connected("write") as connection:
            leave(connection, listener.session, listener.client)

    def _newest(self, session: int) -> int:
        with self._catalogue.connected() as connection:
            return last_numbers(connection, [session])[session]

    def _read(self, session: int, number: int) -> list[tuple[int, str]]:
        with self._catalogue.connected() as connection:
            found = changes_after(connection, session, number)
        return [(change.number, json.dumps(to_wire(change))) for change in found]
