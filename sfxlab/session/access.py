"""Two ways to a session behind one interface; this one goes to the catalogue directly: one person, one machine."""

from __future__ import annotations

import uuid
from typing import Any, Protocol

from sfxlab.errors import SessionError, UnknownSessionError
from sfxlab.session.catalogue import Catalogue
from sfxlab.session.changes import Person
from sfxlab.session.following import CatalogueFeed, Deliver, Feed
from sfxlab.session.ledger import last_numbers, make_session, session_id
from sfxlab.session.operations import OPERATIONS, perform
from sfxlab.session.presence import leave, sign_of_life

MAX_NAME = 100


class Access(Protocol):
    """A session that somebody has open."""

    person: Person

    def call(self, operation: str, **arguments: Any) -> Any:
        """Ask for an operation (`sfxlab.session.operations`); the answer as JSON."""

    def follow(self, deliver: Deliver) -> Feed:
        """Deliver all changes from now on, in a thread of the feed; the person counts as present meanwhile."""


def split_name(name: str) -> tuple[str, str]:
    """Proposal and name of a session that is written `proposal/name`; the proposal is empty where there is none.

    Raises `SessionError` for what is no name.
    """
    proposal, _, own = name.rpartition("/")
    if not own or len(name) > MAX_NAME or not name.isprintable() or name != name.strip() or "/" in proposal:
        raise SessionError(
            "this is no name of a session", found=repr(name),
            expected=f"'name' or 'proposal/name', at most {MAX_NAME} printable characters",
        )  # fmt: skip
    return proposal, own


def open_session(catalogue: Catalogue, name: str, person: Person, make: bool) -> int:
    """The number of a session in its catalogue; where there is none it may be made, though not by a viewer.

    Raises `UnknownSessionError`.
    """
    proposal, own = split_name(name)
    with catalogue.connected() as connection:
        found = session_id(connection, proposal, own)
    if found is not None:
        return found
    if not make or person.role == "viewer":
        raise UnknownSessionError(
            "there is no such session", path=catalogue.address, found=name,
            remedy="check the name with 'sfxlab session list', or have an analyst open it",
        )  # fmt: skip
    with catalogue.connected("record") as connection:
        return make_session(connection, proposal, own, person.name)


class DirectAccess:
    """A session in a catalogue that this process reaches itself."""

    def __init__(self, catalogue: Catalogue, name: str, person: Person, make: bool = True) -> None:
        self.person = person
        self._catalogue = catalogue
        self._session = open_session(catalogue, name, person, make)
        self._client = uuid.uuid4().hex
        self._feed: CatalogueFeed | None = None

    def call(self, operation: str, **arguments: Any) -> Any:
        answer = perform(self._catalogue, self._session, self.person, self._client, operation, arguments)
        if self._feed is not None and OPERATIONS[operation].access != "read":
            self._feed.hurry()
        return answer

    def follow(self, deliver: Deliver) -> Feed:
        with self._catalogue.connected() as connection:
            after = last_numbers(connection, [self._session])[self._session]
        self._show_up()
        self._feed = CatalogueFeed(self._catalogue, self._keep_alive, self._leave)
        self._feed.follow(self._session, after, deliver)
        return self._feed

    def _show_up(self) -> None:
        with self._catalogue.connected("write") as connection:
            sign_of_life(connection, self._session, self._client, self.person)

    def _keep_alive(self) -> None:
        self._catalogue.rest()
        self._show_up()

    def _leave(self) -> None:
        with self._catalogue.connected("write") as connection:
            leave(connection, self._session, self._client)
        self._catalogue.rest()
