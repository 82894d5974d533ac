"""What can be asked of a session, and by whom: the one place where roles are checked.

Whoever reaches the catalogue, a kernel directly or the service for somebody else, does so through `perform`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, validate_call
from sqlalchemy import Connection

from sfxlab.errors import NotAllowedError, SessionError
from sfxlab.session import ledger, presence
from sfxlab.session.catalogue import Access, Catalogue
from sfxlab.session.changes import Kind, Person, json_text, to_wire
from sfxlab.session.ledger import Entry

FROZEN = "session.frozen"
"""While this value is true, only a lead changes anything."""
OF_LEADS = "session."
"""Values whose names begin so are set by leads only."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
_NAME: TypeAdapter[str] = TypeAdapter(Name)
ItemKind = Literal["frame", "crystal", "run"]
Items = Annotated[list[Name], Field(min_length=1)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


@dataclass(frozen=True)
class Place:
    """Where an operation takes place: a transaction, a session, somebody and his or her kernel."""

    connection: Connection
    session: int
    person: Person
    client: str

    def append(self, kind: Kind, name: str, value: Any, what: str) -> None:
        """Add one change."""
        ledger.append(self.connection, self.session, self.person.name, [Entry(kind, name, json_text(value, what))])


@dataclass(frozen=True)
class _Operation:
    function: Callable[..., Any]
    access: Access
    changes: bool


OPERATIONS: dict[str, _Operation] = {}
"""By name; `changes` are for analysts and leads."""


def perform(
    catalogue: Catalogue, session: int, person: Person, client: str, operation: str, arguments: dict[str, Any]
) -> Any:
    """Do what somebody asks, if the role allows it; the answer as JSON.

    `claimed` among the arguments is who sits at the page of the kernel that asks, by what that page says: it is on
    record beside the name that is known, and gives no rights.

    Raises `NotAllowedError` where it does not, `SessionError` for what cannot be asked.
    """
    if operation not in OPERATIONS:
        raise SessionError("no such operation", found=operation, expected=", ".join(OPERATIONS))
    asked = OPERATIONS[operation]
    if asked.changes and person.role == "viewer":
        raise _refused(person, operation, "an analyst or a lead of the session can")
    with catalogue.connected(asked.access) as connection:
        if asked.changes and person.role != "lead":
            _require_analyst(connection, session, person, operation, arguments)
        try:
            return asked.function(Place(connection, session, _author(person, arguments), client), **arguments)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            raise SessionError(
                f"{operation} cannot be asked like this", place=".".join(str(part) for part in first["loc"]) or None,
                found=repr(first["input"])[:200], expected=first["msg"],
            ) from error  # fmt: skip


def _author(person: Person, arguments: dict[str, Any]) -> Person:
    claimed = arguments.pop("claimed", None)
    return person if claimed is None else person.with_claim(_NAME.validate_python(claimed))


def _require_analyst(
    connection: Connection, session: int, person: Person, operation: str, arguments: dict[str, Any]
) -> None:
    if operation == "set" and str(arguments.get("name", "")).startswith(OF_LEADS):
        raise _refused(person, f"set {arguments['name']}", "a lead of the session can")
    if ledger.values(connection, session, FROZEN).get(FROZEN):
        raise _refused(person, operation, f"the session is frozen; a lead can set {FROZEN} to False")


def _refused(person: Person, what: str, remedy: str) -> NotAllowedError:
    found = f"{person.name}, {person.role}: {what}"
    return NotAllowedError("your role does not allow this", found=found, remedy=remedy)


def _operation(name: str, access: Access = "read", changes: bool = False) -> Callable[[Callable[..., Any]], Any]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        checked = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(function)
        OPERATIONS[name] = _Operation(checked, access, changes)
        return function

    return register


@_operation("get")
def _get(at: Place, name: Name) -> Any:
    return ledger.values(at.connection, at.session, name)


@_operation("values")
def _values(at: Place, prefix: str = "") -> Any:
    everything = ledger.values(at.connection, at.session)
    return {name: value for name, value in sorted(everything.items()) if name.startswith(prefix)}


@_operation("tagged")
def _tagged(at: Place, kind: ItemKind, tag: Name) -> Any:
    return sorted(ledger.tagged(at.connection, at.session, kind, tag))


@_operation("tags")
def _tags(at: Place, kind: ItemKind, item: Name | None = None) -> Any:
    return ledger.tags(at.connection, at.session, kind, item)


@_operation("last_words")
def _last_words(at: Place, kind: ItemKind) -> Any:
    return [
        [row.item, row.person, row.tag, int(row.value)] for row in ledger.last_words(at.connection, at.session, kind)
    ]


@_operation("records")
def _records(at: Place, kind: Literal["tag", "untag", "comment", "vote", "record"], name: Name | None = None) -> Any:
    return [to_wire(change) for change in ledger.changes_of(at.connection, at.session, kind, name)]


@_operation("changes")
def _changes(at: Place, after: int) -> Any:
    return [to_wire(change) for change in ledger.changes_after(at.connection, at.session, after)]


@_operation("present")
def _present(at: Place) -> Any:
    people = presence.people_here(at.connection, at.session)
    return [asdict(person) | {"seen": person.seen.isoformat()} for person in people]


@_operation("look_at", "write")
def _look_at(at: Place, what: Any) -> None:
    presence.look_at(at.connection, at.session, at.client, at.person, what)


@_operation("attend", "write")
def _attend(at: Place, page: Name) -> None:
    presence.attend(at.connection, at.session, at.client, at.person, page)


@_operation("part", "write")
def _part(at: Place, page: Name) -> None:
    presence.part(at.connection, at.session, at.client, page)


@_operation("set", "write", changes=True)
def _set(at: Place, name: Name, value: Any) -> None:
    at.append("value", name, value, f"the value of {name!r}")


@_operation("tag", "record", changes=True)
def _tag(at: Place, kind: ItemKind, items: Items, tag: Name) -> None:
    at.append("tag", tag, {"kind": kind, "items": items}, f"the list of items with tag {tag!r}")


@_operation("untag", "record", changes=True)
def _untag(at: Place, kind: ItemKind, items: Items, tag: Name) -> None:
    at.append("untag", tag, {"kind": kind, "items": items}, f"the list of items without tag {tag!r}")


@_operation("comment", "record", changes=True)
def _comment(at: Place, on: Name, text: Text) -> None:
    at.append("comment", on, text, "the comment")


@_operation("vote", "record", changes=True)
def _vote(at: Place, on: Name, choice: Literal[-1, 0, 1]) -> None:
    at.append("vote", on, choice, "the vote")


@_operation("record", "record", changes=True)
def _record(at: Place, name: Name, value: Any) -> None:
    at.append("record", name, value, f"the record {name!r}")
