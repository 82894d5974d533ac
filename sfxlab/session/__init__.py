"""What a group looks at together: view, selection, tags, comments and presence, outside every kernel."""

from sfxlab.errors import CatalogueError, NotAllowedError, SessionError, UnknownSessionError, ValueTooBigError
from sfxlab.session.changes import (
    Change,
    Comment,
    Disagreement,
    Json,
    Kind,
    Person,
    PersonHere,
    Record,
    Role,
)
from sfxlab.session.session import Session

__all__ = [
    "CatalogueError",
    "Change",
    "Comment",
    "Disagreement",
    "Json",
    "Kind",
    "NotAllowedError",
    "Person",
    "PersonHere",
    "Record",
    "Role",
    "Session",
    "SessionError",
    "UnknownSessionError",
    "ValueTooBigError",
]
