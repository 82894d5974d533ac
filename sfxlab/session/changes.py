"""What happens in a session, as values: people, changes, and what is kept of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias, get_args

from sfxlab.errors import SessionError, ValueTooBigError

Role = Literal["viewer", "analyst", "lead"]
"""A viewer looks; an analyst changes and records; a lead also sets what begins with `session.`, as `session.frozen`."""
ROLES: tuple[Role, ...] = get_args(Role)

Kind = Literal["value", "tag", "untag", "comment", "vote", "record", "presence"]
RECORDS: tuple[Kind, ...] = ("tag", "untag", "comment", "vote", "record")
"""Kinds that are only added to and never thinned out."""

Json: TypeAlias = bool | int | float | str | list[Any] | dict[str, Any] | None

MAX_VALUE_BYTES = 1 << 20
"""A value as JSON text: a selection of 100,000 crystals fits, a picture does not."""


@dataclass(frozen=True)
class Person:
    """Somebody, with the role that he or she has in a session."""

    name: str
    display_name: str
    role: Role

    def with_claim(self, claimed: str) -> Person:
        """Somebody at a page of this person's kernel, who may do what this one may: `ben via anna`.

        The page's word stands for the first name, that of whoever let the kernel in for the second.
        """
        if claimed == self.name:
            return self
        display_name = f"{claimed} (kernel of {self.display_name})"
        return Person(f"{claimed} via {self.name}", display_name, self.role)

    def wrote(self, change: Change) -> bool:
        """Whether this person did it, or somebody at a page of this person's kernel."""
        return change.person == self.name or change.person.endswith(f" via {self.name}")


@dataclass(frozen=True)
class PersonHere(Person):
    """Somebody who has the session open."""

    looking_at: Json
    """What the person said last with `Session.look_at`."""
    seen: datetime
    """The last sign of life, UTC."""


@dataclass(frozen=True)
class Change:
    """One thing that happened, in the order of `number`."""

    number: int
    """Counts through a session without gaps, in the order in which things became true."""
    kind: Kind
    name: str
    """Of the value or record, the tag, what a comment or a vote is on, or the person who came or went."""
    value: Json
    """The new value; of tags `{"kind": "frame", "items": [...]}`, of a person `{"here": bool, "looking_at": ...}`."""
    person: str
    """Who did it; `ben via anna` for somebody who says to be Ben at a page of Anna's kernel."""
    time: datetime
    """UTC."""

    @property
    def is_another_view(self) -> bool:
        """Not one of the session's: another view is shown here from now on (`Session.follow`)."""
        return self.number < 0


@dataclass(frozen=True)
class Comment:
    """What somebody wrote about a frame, a crystal, a run."""

    number: int
    on: str
    text: str
    person: str
    time: datetime


@dataclass(frozen=True)
class Record:
    """A cell, recipe or merge that was chosen, or anything else to keep."""

    number: int
    name: str
    value: Json
    person: str
    time: datetime


@dataclass(frozen=True)
class Disagreement:
    """A tag that one person gave and another took away."""

    item: str
    tag: str
    given_by: tuple[str, ...]
    taken_by: tuple[str, ...]


@dataclass(frozen=True)
class Opinion:
    """What one person says of one item, by the last word on each tag and the last vote."""

    tags: tuple[str, ...] = ()
    """That the person gave."""
    refused: tuple[str, ...] = ()
    """That the person took away."""
    vote: int = 0
    """1 for it, -1 against it, 0 for no vote."""


@dataclass(frozen=True)
class Judged:
    """A frame, a crystal or a run that several people judged, each for himself or herself."""

    kind: str
    item: str
    opinions: Mapping[str, Opinion]
    """By person, two or more."""

    @property
    def is_disputed(self) -> bool:
        """One says the contrary of another: a tag that one gave and another took away, votes for and against."""
        given = {tag for one in self.opinions.values() for tag in one.tags}
        refused = {tag for one in self.opinions.values() for tag in one.refused}
        return bool(given & refused) or {1, -1} <= {one.vote for one in self.opinions.values()}

    @property
    def differs(self) -> bool:
        """It is disputed, or those who gave tags gave other ones."""
        return self.is_disputed or len({one.tags for one in self.opinions.values() if one.tags}) > 1


class TaggedItems(set[str]):
    """A set of items that knows of which kind they are; so do unions, intersections and differences of them."""

    def __init__(self, kind: str, items: Iterable[str]) -> None:
        super().__init__(items)
        self.kind = kind

    def __or__(self, other: AbstractSet[Any]) -> TaggedItems:  # type: ignore[override]
        return self._like(other, super().__or__(other))

    def __and__(self, other: AbstractSet[object]) -> TaggedItems:
        return self._like(other, super().__and__(other))

    def __sub__(self, other: AbstractSet[Any]) -> TaggedItems:
        return self._like(other, super().__sub__(other))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.kind, list(self))

    def _like(self, other: AbstractSet[Any], items: set[str]) -> TaggedItems:
        if getattr(other, "kind", self.kind) != self.kind:
            raise TypeError(f"{self.kind}s and {getattr(other, 'kind', 'other item')}s do not mix")
        return TaggedItems(self.kind, items)


def json_text(value: Any, what: str) -> str:
    """The value as JSON text; numpy numbers and arrays as plain ones.

    Raises `SessionError` for what JSON cannot say, `ValueTooBigError` for what is over `MAX_VALUE_BYTES`.
    """
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"), default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise SessionError(
            f"{what} is no JSON value", found=str(error) or type(error).__name__,
            expected="numbers (not NaN), text, lists, and mappings from text",
        ) from error  # fmt: skip
    if len(text) > MAX_VALUE_BYTES:
        raise ValueTooBigError(
            f"{what} is too big for a session", found=f"{len(text)} bytes of JSON",
            expected=f"at most {MAX_VALUE_BYTES}",
            remedy="keep large things in a run or a file and share its path",
        )  # fmt: skip
    return text


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__}")


def to_wire(change: Change) -> dict[str, Json]:
    """A change as JSON."""
    return asdict(change) | {"time": change.time.isoformat()}


def from_wire(fields: dict[str, Any]) -> Change:
    """A change from JSON."""
    return Change(**(fields | {"time": datetime.fromisoformat(fields["time"])}))
