"""What a group looks at together."""

from __future__ import annotations

import atexit
import json
import os
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import cached_property, partial
from typing import Any, Literal

from sfxlab.errors import NotAllowedError, SessionError
from sfxlab.session.access import Access, DirectAccess
from sfxlab.session.catalogue import Catalogue
from sfxlab.session.changes import (
    RECORDS,
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
    TaggedItems,
    from_wire,
    json_text,
)
from sfxlab.session.identity import this_person
from sfxlab.session.pages import Pages
from sfxlab.session.subscribers import Subscribers
from sfxlab.session.viewing import Viewing

DEFAULT_CATALOGUE = "sqlite:///sfxlab-sessions.sqlite"
ITEMS_AT_ONCE = 4000
"""More items than these are tagged in several changes."""


class Session:
    """View, selection, tags, comments and presence of a group, as named values with a feed of changes.

    They live in a catalogue outside every kernel: what one person sets reaches everybody who has the session open,
    who comes late sees the present state, and a kernel that restarts loses nothing. The last writer of a value wins;
    tags, comments, votes and records are only added to, with who and when.

    Parameters
    ----------
    name:
        `lyso-beamtime`, or `proposal/lyso-beamtime` where somebody takes part in several proposals. A session that
        does not exist is made, unless by a viewer.
    catalogue:
        `sqlite:///FILE`, `postgresql://USER@HOST/DATABASE`, or `http://…` of a session service (`sfxlab session
        serve`), whose token is in `$SFXLAB_TOKEN` or `$JUPYTERHUB_API_TOKEN`. Where left out, `$SFXLAB_CATALOGUE`, or
        the file `sfxlab-sessions.sqlite` in the working directory.
    person:
        Who writes, where there is no service that knows: the user of the Jupyter server or of this machine where left
        out, and a lead unless it is a `Person` with another role.

    Raises `CatalogueError`, `UnknownSessionError`, `NotAllowedError`; so may every method.
    """

    def __init__(self, name: str, catalogue: str | None = None, person: Person | str | None = None) -> None:
        self.name = name
        self._address = catalogue or os.environ.get("SFXLAB_CATALOGUE") or DEFAULT_CATALOGUE
        self._access = _open_access(name, self._address, person)
        self.person = self._access.person
        self.pages = Pages(self._access, self.person)
        self._subscribers = Subscribers()
        self._feed = self._access.follow(self._subscribers.deliver)
        # Who forgets to close is seen to leave all the same. Where the session is no longer known to anybody, nothing
        # may be waited for: that can happen in the middle of anything.
        weakref.finalize(self, self._feed.end).atexit = False
        self._at_exit = partial(_close, weakref.ref(self))
        atexit.register(self._at_exit)
        _OPEN.add(self)

    def may_change(self) -> bool:
        """Whether the person's role allows changes: analysts and leads."""
        return self.person.role != "viewer"

    @property
    def trouble(self) -> str | None:
        """Why no changes arrive at the moment, or None; the feed goes on by itself when it can."""
        return None if self._feed.trouble is None else str(self._feed.trouble)

    def get(self, name: str, default: Json = None) -> Json:
        """The present value of this name."""
        found: dict[str, Json] = self._access.call("get", name=name)
        return found.get(name, default)

    def set(self, name: str, value: Json) -> None:
        """Give this name a value; the last writer wins.

        Raises `NotAllowedError` for a viewer, `ValueTooBigError` beyond 1 MiB of JSON.
        """
        self._write("set", name=name, value=_checked(value, f"the value of {name!r}"))

    def values(self, prefix: str = "") -> dict[str, Json]:
        """All present values whose names begin so."""
        found: dict[str, Json] = self._access.call("values", prefix=prefix)
        return found

    def subscribe(self, callback: Callable[[Change], None], prefix: str = "") -> Callable[[], None]:
        """Call a function with every change whose name begins so, one's own too; returns what ends it.

        Calls come from one thread of the session, in the order of the changes. Subscribe first and then read the
        present values, so that no change falls between.
        """
        return self._subscribers.add(callback, prefix)

    def tag(self, kind: str, items: Iterable[str], tag: str) -> None:
        """Give items (`frame`, `crystal`, `run`) a tag."""
        self._tell("tag", kind, items, tag)

    def untag(self, kind: str, items: Iterable[str], tag: str) -> None:
        """Take a tag away again; that both happened stays on record."""
        self._tell("untag", kind, items, tag)

    def tagged(self, kind: str, tag: str) -> TaggedItems:
        """Items that have the tag. The last word counts, whoever said it.

        `merge(run, "4/mmm", exclude=session.tagged("frame", "ice"))` leaves them out.
        """
        return TaggedItems(kind, self._access.call("tagged", kind=kind, tag=tag))

    def tags(self, kind: str, item: str | None = None) -> dict[str, int]:
        """Tags and how many items have them; those of one item, and how many people gave them."""
        found: dict[str, int] = self._access.call("tags", kind=kind, item=item)
        return found

    def disagreements(self, kind: str) -> list[Disagreement]:
        """Tags of items that one person gave and another took away."""
        found = []
        for one in self.judged(kind):
            for tag in sorted({tag for opinion in one.opinions.values() for tag in opinion.refused}):
                given = tuple(person for person, opinion in one.opinions.items() if tag in opinion.tags)
                taken = tuple(person for person, opinion in one.opinions.items() if tag in opinion.refused)
                found += [Disagreement(one.item, tag, given, taken)] if given else []
        return found

    def judged(self, kind: str) -> list[Judged]:
        """Items that several people tagged or voted on, with what each of them says; see `Judged.differs`."""
        words: dict[str, dict[str, tuple[list[str], list[str], list[int]]]] = defaultdict(dict)
        for item, person, tag, value in self._access.call("last_words", kind=kind):
            tags, refused, votes = words[item].setdefault(person, ([], [], []))
            if tag:
                (tags if value else refused).append(tag)
            elif value:
                votes.append(value)
        found = []
        for item, people in words.items():
            opinions = {
                person: Opinion(tuple(tags), tuple(refused), *votes)
                for person, (tags, refused, votes) in people.items()
                if tags or refused or votes  # a vote that was taken back says nothing
            }
            found += [Judged(kind, item, opinions)] if len(opinions) > 1 else []
        return found

    def comment(self, on: str, text: str) -> None:
        """Write something about a frame, a crystal, a run: `comment("frame 17", "ice")`."""
        self._write("comment", on=on, text=text)

    def comments(self, on: str | None = None) -> list[Comment]:
        """What was written about it, or about anything, in the order of writing."""
        found = self.history("comment", on)
        return [Comment(one.number, one.name, str(one.value), one.person, one.time) for one in found]

    def vote(self, on: str, choice: Literal[-1, 0, 1]) -> None:
        """Vote for (1) or against (-1) a frame, a crystal, a run, or take a vote back (0)."""
        self._write("vote", on=on, choice=choice)

    def votes(self, on: str) -> dict[str, int]:
        """The last vote of everybody who has one, by person."""
        last = {change.person: int(str(change.value)) for change in self.history("vote", on)}
        return {person: choice for person, choice in last.items() if choice}

    def record(self, name: str, value: Json) -> None:
        """Keep a cell, a recipe, a merge: `record("cell", {...})`. All records of a name are kept."""
        self._write("record", name=name, value=_checked(value, f"the record {name!r}"))

    def records(self, name: str | None = None) -> list[Record]:
        """Records of this name, or all, in the order of writing."""
        found = self.history("record", name)
        return [Record(one.number, one.name, one.value, one.person, one.time) for one in found]

    def history(self, kind: Kind, name: str | None = None) -> list[Change]:
        """All changes of a kind that is kept for ever: tag, untag, comment, vote, record."""
        if kind not in RECORDS:
            raise ValueError(f"the history of {kind} is not kept")
        return [from_wire(change) for change in self._access.call("records", kind=kind, name=name)]

    @cached_property
    def viewing(self) -> Viewing:
        """Whose view is shown here: everybody's, somebody's who is followed, or one's own."""
        return Viewing(self)

    def follow(self, whom: str | None) -> None:
        """Let the widgets show what this person looks at, until you move; what everybody sees for `""`, and for None
        go on alone from there.

        Raises `SessionError` for somebody who is not here, or follows you.
        """
        self.viewing.look_with(whom)

    def look_at(self, what: Json) -> None:
        """Tell the others where you look: a viewer may, since it changes nothing."""
        self._access.call("look_at", what=_checked(what, "where you look"))

    def present(self) -> list[PersonHere]:
        """Who has the session open, with where they look, by name."""
        found: list[dict[str, Any]] = self._access.call("present")
        return [PersonHere(**(one | {"seen": datetime.fromisoformat(one["seen"])})) for one in found]

    def close(self) -> None:
        """Leave the session; what is in it stays."""
        _OPEN.discard(self)
        atexit.unregister(self._at_exit)
        self._feed.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Session {self.name!r}: {self.person.name}, {self.person.role}>"

    def _write(self, operation: str, **arguments: Any) -> None:
        self._access.call(operation, **arguments, **self.pages.claim())

    def _tell(self, operation: str, kind: str, items: Iterable[str], tag: str) -> None:
        given = [str(item) for item in items]
        for start in range(0, len(given), ITEMS_AT_ONCE):
            self._write(operation, kind=kind, items=given[start : start + ITEMS_AT_ONCE], tag=tag)


_OPEN: weakref.WeakSet[Session] = weakref.WeakSet()
"""What this program has open; only for `tagged`, so that nobody has to say what there is one of."""


def tagged(tag: str, kind: str = "frame", session: Session | None = None) -> TaggedItems:
    """Items with a tag, of the session that is open: `merge(run, "4/mmm", exclude=tagged("ice"))`.

    Raises `SessionError` where no session is open or several are, so that `session` has to say which.
    """
    if session is None:
        known = {(one.name, one._address): one for one in _OPEN}
        if len(known) != 1:
            raise SessionError(
                "it is not clear in which session to look for tags", expected="one open session",
                found=", ".join(sorted(name for name, _ in known)) or "none",
                remedy=f"write session.tagged({kind!r}, {tag!r})",
            )  # fmt: skip
        (session,) = known.values()
    return session.tagged(kind, tag)


def _close(session: weakref.ref[Session]) -> None:
    known = session()
    if known is not None:
        known.close()


def _open_access(name: str, catalogue: str, person: Person | str | None) -> Access:
    if not catalogue.startswith(("http://", "https://")):
        return DirectAccess(Catalogue(catalogue), name, this_person(person))
    from sfxlab.session.client import ServiceAccess  # tornado and its event loop, for those who need it

    access = ServiceAccess(catalogue, name)
    claimed = person.name if isinstance(person, Person) else person
    if claimed not in (None, access.person.name):
        raise NotAllowedError(
            "the session service knows you as somebody else", path=catalogue, found=access.person.name,
            expected=claimed, remedy="leave the person out, or use that person's token",
        )  # fmt: skip
    return access


def _checked(value: Json, what: str) -> Json:
    return json.loads(json_text(value, what))  # type: ignore[no-any-return]
