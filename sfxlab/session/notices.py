"""What PostgreSQL tells listeners at each commit: the changes themselves, where they fit into a notice.

So that many who listen need not all ask at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import Connection, text

from sfxlab.session.changes import Change, from_wire, to_wire

_MAX_BYTES = 7900
"""PostgreSQL takes less than 8000."""

# A database may hold several catalogues, each in a schema of its own.
_CHANNEL = "'sfxlab_sessions_' || current_schema()::regnamespace::oid"


def notify(connection: Connection, session: int, changes: Sequence[Change]) -> None:
    """Tell of the changes when this transaction is committed."""
    notice = json.dumps({"session": session, "changes": [to_wire(change) for change in changes]})
    if len(notice) > _MAX_BYTES:
        notice = json.dumps({"session": session, "changes": []})
    connection.execute(text(f"SELECT pg_notify({_CHANNEL}, :notice)"), {"notice": notice})


def listen(connection: Connection) -> None:
    """Hear, from now on, what others tell."""
    channel = connection.scalar(text(f"SELECT {_CHANNEL}"))
    connection.exec_driver_sql(f'LISTEN "{channel}"')


def understood(notice: str) -> list[tuple[int, Change]]:
    """The changes, each with its session; none where they did not fit."""
    told = json.loads(notice)
    return [(told["session"], from_wire(change)) for change in told["changes"]]
