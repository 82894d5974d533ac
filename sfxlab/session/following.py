"""The feed of sessions from their catalogue: every change once and in order, over restarts of servers too."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sfxlab.errors import SessionError
from sfxlab.session.catalogue import Catalogue
from sfxlab.session.changes import Change
from sfxlab.session.ledger import CHANGES_AT_ONCE, last_numbers
from sfxlab.session.presence import HEARTBEAT
from sfxlab.session.watching import Alarm, Told, Watch, watching

_LOG = logging.getLogger(__name__)

Deliver = Callable[[Change], None]

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
"""Seconds before another try after a lost connection."""


class Feed(Protocol):
    """A thread that delivers changes until it is ended."""

    trouble: SessionError | None
    """Why nothing arrives at the moment; it goes on by itself when it can."""

    def end(self) -> None:
        """End it soon, without waiting."""

    def close(self) -> None:
        """End it; nothing is delivered afterwards."""


@dataclass
class _Followed:
    number: int
    deliver: Deliver


class CatalogueFeed:
    """Delivers the changes of some sessions of a catalogue, which it reads itself.

    In the same thread, `alive` is called every `HEARTBEAT` seconds and `gone` at the end.
    """

    trouble: SessionError | None = None

    def __init__(self, catalogue: Catalogue, alive: Callable[[], None], gone: Callable[[], None]) -> None:
        self._catalogue, self._alive, self._gone = catalogue, alive, gone
        self._followed: dict[int, _Followed] = {}
        self._alarm, self._ended = Alarm(), threading.Event()
        self._next_sign = time.monotonic() + HEARTBEAT
        self._thread = threading.Thread(target=self._run, name="sfxlab session", daemon=True)
        self._thread.start()

    def follow(self, session: int, after: int, deliver: Deliver) -> None:
        """Deliver the changes of this session whose numbers are larger than `after`."""
        self._followed[session] = _Followed(after, deliver)
        self._alarm.ring()

    def forget(self, session: int) -> None:
        """Deliver no more changes of this session."""
        self._followed.pop(session, None)

    def hurry(self) -> None:
        """Look for changes now; PostgreSQL tells of them at once anyway."""
        if self._catalogue.dialect == "sqlite":
            self._alarm.ring()

    def end(self) -> None:
        self._ended.set()
        self._alarm.ring()

    def close(self) -> None:
        self.end()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._ended.is_set():
            try:
                with watching(self._catalogue, self._alarm) as watch:
                    pause, self.trouble = FIRST_PAUSE, None
                    self._watch(watch)
            except SessionError as error:
                if self.trouble is None:
                    _LOG.warning("the feed of a session waits: %s", error)
                self.trouble = error
                self._ended.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        self._say_goodbye()
        self._alarm.close()

    def _watch(self, watch: Watch) -> None:
        told: Told | None = None
        while not self._ended.is_set():
            if told is None or not self._take(told):
                self._read(watch)
            if time.monotonic() >= self._next_sign:
                self._next_sign = time.monotonic() + HEARTBEAT
                self._alive()
            told = watch.wait(self._next_sign - time.monotonic())

    def _take(self, told: Told) -> bool:
        """Deliver what was told; False where something before it was not, and has to be read."""
        for session, change in told:
            one = self._followed.get(session)
            if one is None or change.number <= one.number:
                continue
            if change.number > one.number + 1:
                return False
            self._hand_over(one, change)
        return True

    def _read(self, watch: Watch) -> None:
        followed = dict(self._followed)
        behind = list(followed)
        if len(followed) > 1:
            newest = last_numbers(watch.connection, behind)
            behind = [session for session in behind if followed[session].number < newest.get(session, 0)]
        for session in behind:
            one, found = followed[session], CHANGES_AT_ONCE
            while found == CHANGES_AT_ONCE:
                changes = watch.changes_after(session, one.number)
                found = len(changes)
                for change in changes:
                    self._hand_over(one, change)

    def _hand_over(self, one: _Followed, change: Change) -> None:
        if not self._ended.is_set():
            one.number = change.number
            one.deliver(change)

    def _say_goodbye(self) -> None:
        try:
            self._gone()
        except SessionError as error:
            _LOG.warning("left a session without telling: %s", error)
