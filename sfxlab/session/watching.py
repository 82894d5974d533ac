"""Waiting until a catalogue changes, at next to no cost."""

from __future__ import annotations

import select
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from sqlalchemy import Connection

from sfxlab.errors import CatalogueError
from sfxlab.session.catalogue import Catalogue
from sfxlab.session.changes import Change
from sfxlab.session.ledger import CHANGES_AT_ONCE, change_of, changes_after
from sfxlab.session.notices import listen, understood

POLL = 0.05
"""Seconds between looks at a file: SQLite tells nobody of changes, but answers in microseconds whether there were."""

_COLUMNS = ("number", "kind", "name", "value", "person", "time")
_AFTER = f"SELECT {', '.join(_COLUMNS)} FROM changes WHERE session_id = ? AND number > ? ORDER BY number LIMIT ?"


class Alarm:
    """Ends the wait of another thread."""

    def __init__(self) -> None:
        self._ear, self._mouth = socket.socketpair()
        self._ear.setblocking(False)
        self._mouth.setblocking(False)

    def ring(self) -> None:
        """End the wait that is going on, or the next one."""
        try:
            self._mouth.send(b"!")
        except BlockingIOError:
            pass  # full of rings that nobody has heard yet: it rings already
        except OSError:
            if self._mouth.fileno() != -1:
                raise

    def wait(self, timeout: float, *others: int) -> bool:
        """Wait for a ring or for one of other descriptors; whether there was one in time."""
        poll = select.poll()  # unlike select.select, for descriptors of any number
        for descriptor in (self._ear.fileno(), *others):
            poll.register(descriptor, select.POLLIN)
        ready = poll.poll(max(0.0, timeout) * 1000)
        if self._ear.fileno() in dict(ready):
            self._ear.recv(4096)
        return bool(ready)

    def close(self) -> None:
        """Give the sockets back."""
        self._ear.close()
        self._mouth.close()


Told = list[tuple[int, Change]]
"""Changes, each with its session."""


class Watch(Protocol):
    """Waits for changes, and reads them."""

    connection: Connection

    def changes_after(self, session: int, number: int) -> list[Change]:
        """Changes of a session with larger numbers, in their order, no more than `CHANGES_AT_ONCE`."""

    def wait(self, timeout: float) -> Told | None:
        """Return when the catalogue may have changed, the alarm rang, or the time is over.

        The changes, where it is known that there are these and no others; None where the catalogue has to be read.
        """


@contextmanager
def watching(catalogue: Catalogue, alarm: Alarm) -> Iterator[Watch]:
    """What waits for changes that are committed after it was made.

    Raises `CatalogueError` where the connection is lost.
    """
    kind = _PostgresqlWatch if catalogue.dialect == "postgresql" else _SqliteWatch
    with catalogue.listening() as connection:
        yield kind(connection, alarm)


class _SqliteWatch:
    """Looks at the counter that SQLite keeps of what other connections have written."""

    def __init__(self, connection: Connection, alarm: Alarm) -> None:
        self.connection, self._alarm = connection, alarm
        self._cursor = connection.connection.cursor()
        self._version = self._look()

    def changes_after(self, session: int, number: int) -> list[Change]:
        # A sign of life of anybody wakes all who watch, of whom there may be many on one machine.
        rows = self._ask(_AFTER, (session, number, CHANGES_AT_ONCE))
        return [change_of(dict(zip(_COLUMNS, row, strict=True))) for row in rows]

    def wait(self, timeout: float) -> Told | None:
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            rang = self._alarm.wait(min(POLL, left))
            version = self._look()
            if rang or version != self._version:
                self._version = version
                break
        return None

    def _look(self) -> int:
        version: int = self._ask("PRAGMA data_version")[0][0]
        return version

    def _ask(self, question: str, values: tuple[int, ...] = ()) -> list[Any]:
        # Straight to the driver: this is done twenty times a second, for days.
        try:
            rows: list[Any] = self._cursor.execute(question, values).fetchall()
        except sqlite3.Error as error:
            raise CatalogueError("the catalogue cannot be looked at", found=error) from error
        return rows


class _PostgresqlWatch:
    """Listens to what PostgreSQL tells at each commit."""

    def __init__(self, connection: Connection, alarm: Alarm) -> None:
        self.connection, self._alarm = connection, alarm
        self._driver: Any = connection.connection.driver_connection
        listen(connection)

    def changes_after(self, session: int, number: int) -> list[Change]:
        return changes_after(self.connection, session, number)

    def wait(self, timeout: float) -> Told | None:
        if not (heard := self._heard()):
            self._alarm.wait(timeout, self._driver.fileno())
            heard = self._heard()
        told = [understood(notice) for notice in heard]
        return [change for changes in told for change in changes] if told and all(told) else None

    def _heard(self) -> list[str]:
        import psycopg  # which those with a file need not have

        try:
            heard = [notice.payload for notice in self._driver.notifies(timeout=0)]
            while (notice := self._driver.pgconn.notifies()) is not None:
                heard.append(notice.extra.decode())  # came with the answer to a query, and the socket is silent
        except psycopg.Error as error:
            raise CatalogueError("the connection to the catalogue is lost", found=error) from error
        return heard
