"""What a group looks at together: view, selection, tags, comments and presence, outside every kernel."""

from sfxlab.errors import CatalogueError, NotAllowedError, SessionError, UnknownSessionError, ValueTooBigError
from sfxlab.session.changes import (
    Change,
    Comment,
    Disagreement,
    Json,
    Judged,
    Kind,
    Opinion,
    Person,
    PersonHere,
    Record,
    Role,
)
from sfxlab.session.session import Session, tagged

__all__ = [
    "CatalogueError",
    "Change",
    "Comment",
    "Disagreement",
    "Json",
    "Judged",
    "Kind",
    "NotAllowedError",
    "Opinion",
    "Person",
    "PersonHere",
    "Record",
    "Role",
    "Session",
    "SessionError",
    "UnknownSessionError",
    "ValueTooBigError",
    "tagged",
]
