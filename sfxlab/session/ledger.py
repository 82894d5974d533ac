"""Writing to and reading from the tables of one session, without asking who may."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, case, delete, distinct, func, insert, literal, select, union_all, update

from sfxlab.errors import UnknownSessionError
from sfxlab.session.changes import Change, Json, Kind
from sfxlab.session.notices import notify
from sfxlab.session.tables import CHANGES, PRESENCE, SESSIONS, TAGS, VALUES, moment, now, put

KEPT_CHANGES = 1000
"""So many of the latest changes are kept whole; of older ones the records and what is still true."""
CHANGES_AT_ONCE = 200
_THINNED_EVERY = 500
_BIG_VALUE = 1 << 14
_KEPT_BIG_VALUES = 20
"""Superseded values of more than `_BIG_VALUE` bytes are kept for this many changes only."""


@dataclass(frozen=True)
class Entry:
    """A change that has no number yet; its value is JSON text."""

    kind: Kind
    name: str
    value: str


def session_id(connection: Connection, proposal: str, name: str) -> int | None:
    """The number of a session, or None where there is none."""
    return connection.scalar(select(SESSIONS.c.id).where(SESSIONS.c.proposal == proposal, SESSIONS.c.name == name))


def make_session(connection: Connection, proposal: str, name: str, person: str) -> int:
    """The number of a session, which is made where there is none."""
    row = {"proposal": proposal, "name": name, "person": person, "time": now(), "last_number": 0}
    put(connection, SESSIONS, [row], anew=())
    number = session_id(connection, proposal, name)
    assert number is not None
    return number


def sessions(connection: Connection) -> list[dict[str, Any]]:
    """All sessions as JSON, the one that changed last first."""
    latest = select(CHANGES.c.time).where(
        CHANGES.c.session_id == SESSIONS.c.id, CHANGES.c.number == SESSIONS.c.last_number
    )
    query = select(SESSIONS, latest.scalar_subquery().label("changed"))
    found = [
        {
            "proposal": row.proposal, "name": row.name, "person": row.person, "made": moment(row.time).isoformat(),
            "changed": moment(row.changed or row.time).isoformat(), "changes": row.last_number,
        }
        for row in connection.execute(query)
    ]  # fmt: skip
    return sorted(found, key=lambda one: str(one["changed"]), reverse=True)


def last_numbers(connection: Connection, sessions: Collection[int]) -> dict[int, int]:
    """The number of the last change of each session; 0 where there is none yet."""
    query = select(SESSIONS.c.id, SESSIONS.c.last_number).where(SESSIONS.c.id.in_(sessions))
    return {row.id: row.last_number for row in connection.execute(query)}


def append(connection: Connection, session: int, person: str, entries: Sequence[Entry]) -> int:
    """Add changes in a transaction for writing and bring the present state up to date; the number of the last one.

    Writers of a session queue for its row until they commit. So numbers have no gaps and the order of numbers is the
    order of commits: who has read up to a number never misses a smaller one that appears later.
    """
    last: int | None = connection.scalar(
        update(SESSIONS)
        .where(SESSIONS.c.id == session)
        .values(last_number=SESSIONS.c.last_number + len(entries))
        .returning(SESSIONS.c.last_number)
    )
    if last is None:
        raise UnknownSessionError(
            "the session is no longer in its catalogue", remedy="open it again; somebody may have replaced the file"
        )
    same = {"session_id": session, "person": person, "time": now()}
    numbered = list(enumerate(entries, last - len(entries) + 1))
    rows = [{"number": n, "kind": e.kind, "name": e.name, "value": e.value} for n, e in numbered]
    connection.execute(insert(CHANGES), [row | same for row in rows])
    newest = {row["name"]: row for row in rows if row["kind"] == "value"}
    if newest:
        keys = ("number", "name", "value")
        put(connection, VALUES, [{"session_id": session} | {key: row[key] for key in keys} for row in newest.values()])
    for number, entry in numbered:
        if entry.kind in ("tag", "untag"):
            _put_tags(connection, session, number, person, entry)
    _thin_out(connection, session, last - len(entries), last, entries)
    if connection.dialect.name == "postgresql":
        notify(connection, session, [change_of(row | same) for row in rows])
    return last


def changes_after(connection: Connection, session: int, number: int, limit: int = CHANGES_AT_ONCE) -> list[Change]:
    """Changes with larger numbers, in their order, no more than `limit` at once."""
    mine = CHANGES.c.session_id == session
    query = select(CHANGES).where(mine, CHANGES.c.number > number).order_by(CHANGES.c.number).limit(limit)
    return [change_of(row._asdict()) for row in connection.execute(query)]


def changes_of(connection: Connection, session: int, kind: Kind, name: str | None) -> list[Change]:
    """All changes of a kind, of one name or of any, in their order."""
    query = select(CHANGES).where(CHANGES.c.session_id == session, CHANGES.c.kind == kind).order_by(CHANGES.c.number)
    query = query if name is None else query.where(CHANGES.c.name == name)
    return [change_of(row._asdict()) for row in connection.execute(query)]


def values(connection: Connection, session: int, name: str | None = None) -> dict[str, Json]:
    """Present values: the one of a name, or all."""
    query = select(VALUES.c.name, VALUES.c.value).where(VALUES.c.session_id == session)
    rows = connection.execute(query if name is None else query.where(VALUES.c.name == name))
    return {row.name: json.loads(row.value) for row in rows}


_IS_GIVEN = func.max(case((TAGS.c.given, TAGS.c.number), else_=0)) == func.max(TAGS.c.number)
"""Over what all people said of a tag on an item: the last word gave it."""


def tagged(connection: Connection, session: int, kind: str, tag: str) -> list[str]:
    """Items that have the tag: the last word of anybody counts."""
    mine = and_(TAGS.c.session_id == session, TAGS.c.kind == kind, TAGS.c.tag == tag)
    return list(connection.scalars(select(TAGS.c.item).where(mine).group_by(TAGS.c.item).having(_IS_GIVEN)))


def tags(connection: Connection, session: int, kind: str, item: str | None) -> dict[str, int]:
    """Tags with the number of items that have them; of one item, with the number of people who gave them."""
    mine = and_(TAGS.c.session_id == session, TAGS.c.kind == kind)
    if item is None:
        given = select(TAGS.c.tag).where(mine).group_by(TAGS.c.tag, TAGS.c.item).having(_IS_GIVEN).subquery()
        query = select(given.c.tag, func.count()).group_by(given.c.tag).order_by(given.c.tag)
    else:
        people = func.count(distinct(case((TAGS.c.given, TAGS.c.person))))
        query = select(TAGS.c.tag, people).where(mine, TAGS.c.item == item)
        query = query.group_by(TAGS.c.tag).having(_IS_GIVEN).order_by(TAGS.c.tag)
    return {row.tag: row[1] for row in connection.execute(query)}


def last_words(connection: Connection, session: int, kind: str) -> Sequence[Any]:
    """The last word of each person on each tag of, and the last vote on, those items that several people judged.

    Rows of item, person, tag and whether it was given; of votes the tag is empty and the last one is the vote.
    """
    of_kind = f"{kind} "
    mine = and_(TAGS.c.session_id == session, TAGS.c.kind == kind)
    votes = and_(
        CHANGES.c.session_id == session, CHANGES.c.kind == "vote", CHANGES.c.name.startswith(of_kind, autoescape=True)
    )
    item = func.substr(CHANGES.c.name, len(of_kind) + 1)
    last = select(func.max(CHANGES.c.number)).where(votes).group_by(CHANGES.c.name, CHANGES.c.person)
    voted = select(item.label("item"), CHANGES.c.person, literal("").label("tag"), CHANGES.c.value).where(
        CHANGES.c.session_id == session, CHANGES.c.number.in_(last)
    )
    given = case((TAGS.c.given, "1"), else_="0").label("value")
    words = union_all(select(TAGS.c.item, TAGS.c.person, TAGS.c.tag, given).where(mine), voted).cte()
    several = select(words.c.item).group_by(words.c.item).having(func.count(distinct(words.c.person)) > 1)
    query = select(words).where(words.c.item.in_(several)).order_by(words.c.item, words.c.person, words.c.tag)
    return connection.execute(query).all()


def present(connection: Connection, session: int, since: int) -> Sequence[Any]:
    """Clients that gave a sign of life since then, the latest first."""
    mine = and_(PRESENCE.c.session_id == session, PRESENCE.c.seen >= since)
    return connection.execute(select(PRESENCE).where(mine).order_by(PRESENCE.c.seen.desc())).all()


def _put_tags(connection: Connection, session: int, number: int, person: str, entry: Entry) -> None:
    which = json.loads(entry.value)
    same = {"session_id": session, "kind": which["kind"], "tag": entry.name, "person": person}
    same |= {"given": entry.kind == "tag", "number": number}
    put(connection, TAGS, [same | {"item": item} for item in dict.fromkeys(which["items"])])


def _thin_out(connection: Connection, session: int, before: int, last: int, entries: Sequence[Entry]) -> None:
    """Leave out old values, and comings and goings, that something later has made untrue; now and then."""
    mine = CHANGES.c.session_id == session
    true = select(VALUES.c.number).where(VALUES.c.session_id == session)
    for name in {entry.name for entry in entries if entry.kind == "value" and len(entry.value) > _BIG_VALUE}:
        same = and_(mine, CHANGES.c.kind == "value", CHANGES.c.name == name, CHANGES.c.number.not_in(true))
        connection.execute(delete(CHANGES).where(same, CHANGES.c.number <= last - _KEPT_BIG_VALUES))
    if before // _THINNED_EVERY < last // _THINNED_EVERY:
        passing = and_(mine, CHANGES.c.kind.in_(("value", "presence")), CHANGES.c.number <= last - KEPT_CHANGES)
        connection.execute(delete(CHANGES).where(passing, CHANGES.c.number.not_in(true)))


def change_of(row: Mapping[str, Any]) -> Change:
    """A row of the table of changes."""
    value = json.loads(row["value"])
    return Change(row["number"], row["kind"], row["name"], value, row["person"], moment(row["time"]))
