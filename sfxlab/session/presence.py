"""Who has a session open: signs of life of kernels, people at their pages, and the changes that tell who came and went.

Where a kernel says who sits at the pages that it serves, those are there, and go when their pages do; the kernel's own
person is there as long as no page was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, or_, select, update

from sfxlab.session.changes import Json, Person, PersonHere, json_text
from sfxlab.session.ledger import Entry, append, present
from sfxlab.session.tables import PRESENCE, SESSIONS, moment, now, put

HEARTBEAT = 10.0
"""Seconds between signs of life."""
ABSENT_AFTER = 3.5 * HEARTBEAT
"""Seconds without one after which a client counts as gone."""

_PAGE = "\x1f"
"""Between a client and one of its pages; with nothing behind it: the client has had pages."""


def sign_of_life(connection: Connection, session: int, client: str, person: Person) -> None:
    """Note that a client is there with its pages, and that those are gone that gave no sign for long."""
    with _telling(connection, session):
        _put(connection, session, client, person, anew=("seen", "role"))
        connection.execute(update(PRESENCE).where(_pages_of(session, client)).values(seen=now()))


def attend(connection: Connection, session: int, client: str, person: Person, page: str) -> None:
    """Note that somebody sits at a page of a client."""
    with _telling(connection, session):
        for key in ("", page):
            _put(connection, session, client + _PAGE + key, person, anew=("person", "display_name", "seen", "role"))


def part(connection: Connection, session: int, client: str, page: str) -> None:
    """Note that a page of a client is gone."""
    with _telling(connection, session):
        gone = PRESENCE.c.client == client + _PAGE + page
        connection.execute(delete(PRESENCE).where(PRESENCE.c.session_id == session, gone))


def leave(connection: Connection, session: int, client: str) -> None:
    """Note that a client is gone, with its pages."""
    with _telling(connection, session):
        own = and_(PRESENCE.c.session_id == session, PRESENCE.c.client == client)
        connection.execute(delete(PRESENCE).where(or_(own, _pages_of(session, client))))


def look_at(connection: Connection, session: int, client: str, person: Person, what: Json) -> None:
    """Note where somebody looks, and tell the others."""
    sign_of_life(connection, session, client, person)
    mine = and_(PRESENCE.c.session_id == session, PRESENCE.c.client == client)
    connection.execute(update(PRESENCE).where(mine).values(looking_at=json_text(what, "where you look")))
    rows = present(connection, session, _earliest())
    pages = {row.person for row in _of_people(rows) if row.client.startswith(client + _PAGE)}
    for name in sorted(pages) or [person.name]:
        append(connection, session, name, [_entry(name, True, what)])


def people_here(connection: Connection, session: int) -> list[PersonHere]:
    """People by name; of who has several clients open, the one that looks somewhere and was seen last."""
    rows = present(connection, session, _earliest())
    looking = {row.client: json.loads(row.looking_at) for row in rows}
    found: dict[str, PersonHere] = {}
    for row in _of_people(rows):
        looking_at = looking.get(row.client.split(_PAGE)[0])
        known = found.get(row.person)
        if known is None or (known.looking_at is None and looking_at is not None):
            found[row.person] = PersonHere(row.person, row.display_name, row.role, looking_at, moment(row.seen))
    return [found[name] for name in sorted(found)]


@contextmanager
def _telling(connection: Connection, session: int) -> Iterator[None]:
    """Tell of those who come and go by what is written meanwhile, or went silently before."""
    connection.execute(select(SESSIONS.c.id).where(SESSIONS.c.id == session).with_for_update())  # once, not twice
    before = {row.person for row in _of_people(present(connection, session, 0))}
    yield
    stale = and_(PRESENCE.c.session_id == session, PRESENCE.c.seen < _earliest())
    connection.execute(delete(PRESENCE).where(stale))
    after = {row.person for row in _of_people(present(connection, session, 0))}
    for name in sorted(before ^ after):
        append(connection, session, name, [_entry(name, name in after, None)])


def _put(connection: Connection, session: int, client: str, person: Person, anew: Sequence[str]) -> None:
    row = {
        "session_id": session, "client": client, "person": person.name, "display_name": person.display_name,
        "role": person.role, "looking_at": "null", "seen": now(),
    }  # fmt: skip
    put(connection, PRESENCE, [row], anew=anew)


def _of_people(rows: Sequence[Any]) -> list[Any]:
    """Rows of pages, and of clients that never had any."""
    speaking = {row.client.split(_PAGE)[0] for row in rows if _PAGE in row.client}
    return [row for row in rows if row.client not in speaking and not row.client.endswith(_PAGE)]


def _pages_of(session: int, client: str) -> ColumnElement[bool]:
    return and_(PRESENCE.c.session_id == session, PRESENCE.c.client.startswith(client + _PAGE, autoescape=True))


def _earliest() -> int:
    return now() - round(ABSENT_AFTER * 1e6)


def _entry(person: str, here: bool, looking_at: Json) -> Entry:
    return Entry("presence", person, json_text({"here": here, "looking_at": looking_at}, "presence"))
