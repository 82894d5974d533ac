"""Whose view the widgets of a kernel show: everybody's, that of somebody who is followed, or one's own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sfxlab.errors import SessionError
from sfxlab.session.changes import Change, Json
from sfxlab.session.subscribers import Subscribers

if TYPE_CHECKING:
    from sfxlab.session.session import Session

VIEW = "view."
"""Values whose names begin so are a view: frame, contrast, part seen, layers."""
EVERYBODY = ""
CHOSEN = -1
"""Number of a change that is none of the session's: another view is shown now."""


class Viewing:
    """The values `view.…` of one kernel.

    At first they are the session's, so that all see the same. Who looks alone has values of his or her own; who follows
    somebody sees what that one sees, until he or she moves. The others learn of it by `Session.look_at`, which changes
    nothing in the session, so that viewers look around, too.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.RLock()
        self._subscribers, self._listeners = Subscribers(), Subscribers()
        self._own: dict[str, Json] = {}
        self._looking: dict[str, Json] = {}
        self.following: str | None = EVERYBODY
        """The name of who is followed; `EVERYBODY`; None for one's own view."""
        session.subscribe(self._heard)
        self._look_round()

    @property
    def person(self) -> Any:
        """Who looks."""
        return self._session.person

    def may_change(self) -> bool:
        """Whether the view can be moved: everybody's by analysts and leads, one's own by everybody."""
        return self.following != EVERYBODY or self._session.may_change()

    def get(self, name: str, default: Json = None) -> Json:
        """The present value of this name."""
        with self._lock:
            if self.following != EVERYBODY:
                return self._own.get(name, default)
        return self._session.get(name, default)

    def set(self, name: str, value: Json) -> None:
        """Move: everybody's view, or one's own, which is what follows where somebody was followed.

        Raises what `Session.set` does.
        """
        with self._lock:
            if self.following != EVERYBODY:
                self._turn_to(None, self._own | {name: value})
                self._subscribers.deliver(self._change(name, value, 0))
                return
        self._session.set(name, value)

    def subscribe(self, callback: Callable[[Change], None], prefix: str = VIEW) -> Callable[[], None]:
        """Call a function with every change of what is shown; one with the number `CHOSEN` is another view."""
        return self._subscribers.add(callback, prefix)

    def listen(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        """Call a function when somebody else is followed; the value of the change is who."""
        return self._listeners.add(callback, "")

    def look_with(self, whom: str | None) -> None:
        """Show everybody's view (`EVERYBODY`), that of a person by name, or go on alone (None) from what is shown now.

        Raises `SessionError` for somebody who is not there, or follows oneself.
        """
        with self._lock:
            self._look_round()
            if whom is None:
                self._turn_to(None, self._shown())
            else:
                self._turn_to(whom, self._view_of(whom, self._here()) if whom else self._session.values(VIEW))

    def _look_round(self) -> None:
        self._looking = {person.name: person.looking_at for person in self._session.present()}

    def _turn_to(self, whom: str | None, view: dict[str, Json]) -> None:
        """Follow somebody else, or move; tell of it, and show what is new."""
        before = self._shown()
        self._session.look_at({"follows": whom} | ({"view": view} if whom is None else {}))
        self._own = dict(view)
        if whom != self.following:
            self.following = whom
            self._listeners.deliver(self._change("following", whom, CHOSEN))
        if whom is not None:
            self._show(before)

    def _show(self, before: dict[str, Json]) -> None:
        for name in sorted(before.keys() | self._own.keys()):
            if before.get(name) != (value := self._own.get(name)):
                self._subscribers.deliver(self._change(name, value, CHOSEN))

    def _shown(self) -> dict[str, Json]:
        return self._session.values(VIEW) if self.following == EVERYBODY else dict(self._own)

    def _here(self) -> frozenset[str]:
        """All who see what is shown here."""
        return frozenset({self._session.person.name} | self._session.pages.names())

    def _view_of(self, name: str, asked: frozenset[str]) -> dict[str, Json]:
        """What somebody sees, or who that one follows."""
        if name in asked:
            raise SessionError("this one sees what you see", found=name, remedy="move, and you are followed")
        if name not in self._looking:
            raise SessionError("nobody of this name is here", found=name, expected=", ".join(sorted(self._looking)))
        whom, view = followed(self._looking[name])
        if whom:
            return self._view_of(whom, asked | {name})
        return view if whom is None else self._session.values(VIEW)

    def _change(self, name: str, value: Json, number: int) -> Change:
        return Change(number, "value", name, value, self._session.person.name, datetime.now(UTC))

    def _heard(self, change: Change) -> None:
        with self._lock:
            if change.kind == "presence":
                told: Any = change.value
                if told["here"]:
                    self._looking[change.name] = told["looking_at"]
                else:
                    self._looking.pop(change.name, None)
                if self.following:
                    self._follow_on()
            elif change.kind == "value" and change.name.startswith(VIEW):
                if self.following == EVERYBODY:
                    self._subscribers.deliver(change)
                elif self.following:
                    self._follow_on()

    def _follow_on(self) -> None:
        before = dict(self._own)
        try:
            self._own = self._view_of(str(self.following), self._here())
        except SessionError:
            self._turn_to(None, before)  # whoever it was is gone: one stays where one is
        self._show(before)


def followed(looking_at: Json) -> tuple[str | None, dict[str, Json]]:
    """Whom somebody follows, who looks there, and the view of who follows nobody."""
    if not isinstance(looking_at, dict):
        return EVERYBODY, {}
    whom, view = looking_at.get("follows", EVERYBODY), looking_at.get("view", {})
    return (whom if whom is None else str(whom)), (view if isinstance(view, dict) else {})
