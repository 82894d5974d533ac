"""Who has a session open: signs of life of kernels, and the changes that tell of people who come and go."""

from __future__ import annotations

import json

from sqlalchemy import Connection, and_, delete, select, update

from sfxlab.session.changes import Json, Person, PersonHere, json_text
from sfxlab.session.ledger import Entry, append, present
from sfxlab.session.tables import PRESENCE, moment, now, put

HEARTBEAT = 10.0
"""Seconds between signs of life."""
ABSENT_AFTER = 3.5 * HEARTBEAT
"""Seconds without one after which a client counts as gone."""


def sign_of_life(connection: Connection, session: int, client: str, person: Person) -> None:
    """Note that a client is there, and that those are gone that gave no sign for long."""
    stale = and_(PRESENCE.c.session_id == session, PRESENCE.c.seen < _earliest())
    gone = set(connection.scalars(delete(PRESENCE).where(stale).returning(PRESENCE.c.person)))
    here = _people(connection, session)
    row = {
        "session_id": session, "client": client, "person": person.name, "display_name": person.display_name,
        "role": person.role, "looking_at": "null", "seen": now(),
    }  # fmt: skip
    put(connection, PRESENCE, [row], anew=("seen", "role"))
    for name in sorted(gone - here - {person.name}):
        append(connection, session, name, [_entry(name, False, None)])
    if person.name not in here:
        append(connection, session, person.name, [_entry(person.name, True, None)])


def leave(connection: Connection, session: int, client: str) -> None:
    """Note that a client is gone."""
    mine = and_(PRESENCE.c.session_id == session, PRESENCE.c.client == client)
    gone = connection.scalar(delete(PRESENCE).where(mine).returning(PRESENCE.c.person))
    if gone is not None and gone not in _people(connection, session):
        append(connection, session, gone, [_entry(gone, False, None)])


def look_at(connection: Connection, session: int, client: str, person: Person, what: Json) -> None:
    """Note where somebody looks, and tell the others."""
    sign_of_life(connection, session, client, person)
    mine = and_(PRESENCE.c.session_id == session, PRESENCE.c.client == client)
    connection.execute(update(PRESENCE).where(mine).values(looking_at=json_text(what, "where you look")))
    append(connection, session, person.name, [_entry(person.name, True, what)])


def people_here(connection: Connection, session: int) -> list[PersonHere]:
    """People by name; of who has several clients open, the one that looks somewhere and was seen last."""
    found: dict[str, PersonHere] = {}
    for row in present(connection, session, _earliest()):
        known = found.get(row.person)
        if known is None or (known.looking_at is None and row.looking_at != "null"):
            looking_at = json.loads(row.looking_at)
            found[row.person] = PersonHere(row.person, row.display_name, row.role, looking_at, moment(row.seen))
    return [found[name] for name in sorted(found)]


def _people(connection: Connection, session: int) -> set[str]:
    mine = and_(PRESENCE.c.session_id == session, PRESENCE.c.seen >= _earliest())
    return set(connection.scalars(select(PRESENCE.c.person).where(mine)))


def _earliest() -> int:
    return now() - round(ABSENT_AFTER * 1e6)


def _entry(person: str, here: bool, looking_at: Json) -> Entry:
    return Entry("presence", person, json_text({"here": here, "looking_at": looking_at}, "presence"))
