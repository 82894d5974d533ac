"""Who sits at the browser pages of a kernel: in one shared notebook, several people at one kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pydantic import BaseModel, ValidationError

from sfxlab.session.access import Access
from sfxlab.session.changes import Person

_ANONYMOUS = re.compile(r"[0-9a-f]{32}")


class Identity(BaseModel):
    """Somebody as the Jupyter server's own `/api/me` names him or her; told by the page, so it is a claim."""

    username: str
    name: str = ""

    @property
    def is_anonymous(self) -> bool:
        """A name that Jupyter made up, where all have one token."""
        return bool(_ANONYMOUS.fullmatch(self.username))


class Pages:
    """Pages that show widgets of a session, with who sits there.

    What is written while a message of a page is dealt with (`speaking`) has that person's name beside the one that is
    known, `ben via anna`; roles are those of the kernel's person whoever it is. Where everybody has the same token,
    Jupyter's made-up names count only while there are several.
    """

    def __init__(self, access: Access, person: Person) -> None:
        self._access, self._person = access, person
        self._known: dict[str, Identity | None] = {}
        self._views: dict[str, set[str]] = {}
        self._speaking: ContextVar[str | None] = ContextVar("page", default=None)

    def here(self, page: str, view: str, identity: Any) -> None:
        """Note that a page shows a view of a widget, and who says to sit there. Raises `SessionError`."""
        try:
            told = None if identity is None else Identity.model_validate(identity)
        except ValidationError:
            told = None  # a server of another kind
        self._known[page] = told
        self._views.setdefault(page, set()).add(view)
        self._access.call("attend", page=page, **self._claim(page))

    def gone(self, page: str, view: str) -> None:
        """Note that a view is gone, and its page with the last one. Raises `SessionError`."""
        views = self._views.get(page, set())
        views.discard(view)
        if not views and self._views.pop(page, None) is not None:
            self._known.pop(page, None)
            self._access.call("part", page=page)

    def still_here(self) -> None:
        """Note all pages again, which a service that was restarted has forgotten. Raises `SessionError`."""
        for page in list(self._known):
            self._access.call("attend", page=page, **self._claim(page))

    def name(self, page: str | None) -> str:
        """The name under which somebody at a page is known in the session."""
        claimed = self._claim(page).get("claimed")
        return self._person.name if claimed is None else self._person.with_claim(claimed).name

    def names(self) -> set[str]:
        """Of all who sit at pages of this kernel."""
        return {self.name(page) for page in list(self._known)}

    @contextmanager
    def speaking(self, page: str | None) -> Iterator[None]:
        """Whatever is written inside is written by who sits at this page."""
        before = self._speaking.set(page)
        try:
            yield
        finally:
            self._speaking.reset(before)

    def claim(self) -> dict[str, str]:
        """What goes with that which is written now: `claimed`, or nothing where it is the kernel's person."""
        return self._claim(self._speaking.get())

    def _claim(self, page: str | None) -> dict[str, str]:
        who = None if page is None else self._known.get(page)
        if who is None or who.username == self._person.name:
            return {}
        if not who.is_anonymous:
            return {"claimed": who.username}
        several = len({other.username for other in list(self._known.values()) if other is not None}) > 1
        return {"claimed": who.name} if several else {}
