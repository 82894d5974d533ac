"""What travels between the session service and its clients: JSON, and errors as their parts."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from sfxlab.errors import CatalogueError, NotAllowedError, SessionError, UnknownSessionError, ValueTooBigError

OPEN, CALL, FEED, SESSIONS, HEALTH = "api/open", "api/call", "api/feed", "api/sessions", "api/health"
"""Paths of the service below its own."""

MAX_MESSAGE = 8 << 20
"""Bytes: a value of the largest size, with room for what is around it."""
MAX_BATCH = 2 << 20
"""Bytes of changes that go out together."""

NOBODY_CODE = 4401
"""The code with which the service closes the feed of who has lost access."""
LATER_CODE = 1013
"""And where it cannot tell now."""

_KINDS: dict[type[SessionError], HTTPStatus] = {
    SessionError: HTTPStatus.BAD_REQUEST,
    ValueTooBigError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    NotAllowedError: HTTPStatus.FORBIDDEN,
    UnknownSessionError: HTTPStatus.NOT_FOUND,
    CatalogueError: HTTPStatus.SERVICE_UNAVAILABLE,
}
_PARTS = ("problem", "place", "found", "expected", "remedy")


def nobody() -> NotAllowedError:
    """What is said to those whose token is unknown."""
    return NotAllowedError(
        "the session service does not know who you are", expected="a valid token",
        remedy="put your token into the environment variable SFXLAB_TOKEN",
    )  # fmt: skip


def error_to_wire(error: SessionError) -> tuple[int, dict[str, Any]]:
    """The HTTP status and the JSON of an error; where the service keeps its files stays with it."""
    parts = {part: getattr(error, part) for part in _PARTS if getattr(error, part) is not None}
    told = {part: value if isinstance(value, int | float) else str(value) for part, value in parts.items()}
    return int(_KINDS[type(error)]), {"error": {"kind": type(error).__name__, **told}}


def error_from_wire(told: Any, address: str) -> SessionError:
    """The error that JSON tells of."""
    kinds = {kind.__name__: kind for kind in _KINDS}
    try:
        parts = dict(told["error"])
        kind = kinds[parts.pop("kind")]
        return kind(parts.pop("problem"), path=address, **{part: parts[part] for part in _PARTS if part in parts})
    except (KeyError, TypeError, ValueError):
        return CatalogueError("this is no session service", path=address, found=str(told)[:200])
