"""The tables of the catalogue. Times are microseconds since 1970, UTC; values are JSON text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import postgresql, sqlite

LAYOUT = 1
"""Changes with the tables, so that another release can say what it found."""

METADATA = MetaData()

CATALOGUE = Table("catalogue", METADATA, Column("layout", Integer, nullable=False))

SESSIONS = Table(
    "sessions",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("proposal", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("person", Text, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("last_number", BigInteger, nullable=False),
    UniqueConstraint("proposal", "name"),
)
"""Who made a session and when, and the number of its last change: the row that all its writers queue for."""


def _of_session() -> Column[int]:
    return Column("session_id", Integer, ForeignKey("sessions.id"), primary_key=True)


CHANGES = Table(
    "changes",
    METADATA,
    _of_session(),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("value", Text, nullable=False),
    Column("person", Text, nullable=False),
    Column("time", BigInteger, nullable=False),
    Index("changes_by_kind", "session_id", "kind", "name", "number"),
)

VALUES = Table(
    "present_values",
    METADATA,
    _of_session(),
    Column("name", Text, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("value", Text, nullable=False),
)

TAGS = Table(
    "tags",
    METADATA,
    _of_session(),
    Column("kind", Text, primary_key=True),
    Column("tag", Text, primary_key=True),
    Column("item", Text, primary_key=True),
    Column("person", Text, primary_key=True),
    Column("given", Boolean, nullable=False),
    Column("number", BigInteger, nullable=False),
)
"""The last word of each person on each tag of each item."""

PRESENCE = Table(
    "presence",
    METADATA,
    _of_session(),
    Column("client", Text, primary_key=True),
    Column("person", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("looking_at", Text, nullable=False),
    Column("seen", BigInteger, nullable=False),
)
"""Kernels that have the session open."""

_INSERT = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def put(
    connection: Connection, table: Table, rows: Sequence[dict[str, Any]], anew: Sequence[str] | None = None
) -> None:
    """Write rows; of those whose key is there already, the columns `anew` (all where left out, none where empty)."""
    statement: Any = _INSERT[connection.dialect.name](table)
    if anew is None:
        anew = [column.name for column in table.c if not column.primary_key]
    if anew:
        what = {name: statement.excluded[name] for name in anew}
        statement = statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=what)
    else:
        statement = statement.on_conflict_do_nothing()
    connection.execute(statement, list(rows))


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now() -> int:
    """This moment, as the tables keep it."""
    return (datetime.now(UTC) - _EPOCH) // timedelta(microseconds=1)


def moment(microseconds: int) -> datetime:
    """A time of the tables, UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)
