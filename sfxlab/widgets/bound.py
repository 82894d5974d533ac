"""What widgets have in common: where their JavaScript is, and values that they share with a session."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from sfxlab.errors import SfxlabError
from sfxlab.widgets.attendance import Attendance

if TYPE_CHECKING:
    from sfxlab.session import Change, Session
    from sfxlab.session.viewing import Viewing

_STATIC = Path(__file__).with_name("static")
_ECHO_SECONDS = 5.0
"""An own change that has not come back through the feed by then is no longer waited for."""


def static(name: str) -> Path:
    """A file that goes to the browser."""
    return _STATIC / name


class SessionWidget(anywidget.AnyWidget):
    """A widget that works alone or as a view of a session.

    Subclasses name their JavaScript, `_esm = static("name.js")`, and call `bind` for each trait that is shared. The
    style sheet is the same for all, with JupyterLab's colours, so that dark themes are followed.
    """

    _css: Path | str = static("widgets.css")

    disabled = traitlets.Bool(False).tag(sync=True)
    """Whether the person may only look."""
    message = traitlets.Unicode("").tag(sync=True)
    """What went wrong last, as a sentence to show; empty where nothing did."""

    def __init__(self, session: Session | None = None, **traits: Any) -> None:
        super().__init__(**traits)
        self.session = session
        self._unbind: list[Callable[[], None]] = []
        self._attendance = None if session is None else Attendance(session, self.send)
        if self._attendance is not None:
            self._unbind.append(self._attendance.end)
        self.disabled = session is not None and not session.may_change()

    def bind(self, name: str, trait: str, *, default: Any = None) -> None:
        """Keep a trait equal to a value of the session, until the widget is closed."""
        self._unbind.append(bind(self.session, name, self, trait, default=default))

    def _handle_msg(self, msg: dict[str, Any]) -> None:
        # Whatever comes from a page, by the front end's protocol: what is written then is written by who sits there.
        attendance: Attendance | None = getattr(self, "_attendance", None)
        if attendance is None or self.session is None:
            super()._handle_msg(msg)
            return
        page, content = str(msg.get("header", {}).get("session", "")), msg["content"]["data"].get("content")
        with self.session.pages.speaking(page):
            if isinstance(content, dict) and content.get("kind") == "page":
                attendance.said(page, content)
            else:
                super()._handle_msg(msg)

    def close(self) -> None:
        """Take the widget off all pages, and off its session."""
        # Also called for one that was never finished.
        unbind = getattr(self, "_unbind", [])
        while unbind:
            unbind.pop()()
        super().close()


def bind(
    session: Session | None, name: str, widget: traitlets.HasTraits, trait: str, *, default: Any = None
) -> Callable[[], None]:
    """Keep a trait of a widget and a value of a session equal, in both directions.

    What the session has goes to the trait at once; where it has nothing yet, `default` does unless that is None.
    Values named `view.…` are those of the view that is shown here (`Session.viewing`).
    Changes of others arrive in the event loop that runs when this is called (that of the kernel), or in the thread of
    the session's feed where there is none. A change that the session refuses is taken back, and its reason is put
    into the trait `message`. The trait `disabled` becomes True for those who may only look. Returns the
    function that ends it; without a session there is nothing to do.
    """
    if session is None:
        return _nothing
    from sfxlab.session.viewing import VIEW  # a database library, for those who have a session

    return _Binding(session.viewing if name.startswith(VIEW) else session, name, widget, trait, default).end


class _Binding:
    """One trait, one value. What a person sets comes back through the feed and must not undo what was set since."""

    def __init__(
        self, session: Session | Viewing, name: str, widget: traitlets.HasTraits, trait: str, default: Any
    ) -> None:
        self._session, self._name, self._widget, self._trait = session, name, widget, trait
        self._loop, self._at_first = _running_loop(), getattr(widget, trait)
        self._awaited: deque[tuple[str, float]] = deque()
        self._taking: int | None = None
        """The thread that takes over a value of the session; what another thread sets meanwhile is somebody's own."""
        self._said = ""
        if widget.has_trait("disabled") and not session.may_change():
            widget.set_trait("disabled", True)
        # In this order nothing is missed between the two.
        self._unsubscribe = session.subscribe(self._heard, name)
        self._take(session.get(name, default))
        widget.observe(self._set, trait)

    def end(self) -> None:
        self._unsubscribe()
        self._widget.unobserve(self._set, self._trait)

    def _set(self, change: traitlets.Bunch) -> None:
        if self._taking == threading.get_ident():
            return
        # The feed may be faster than `set`.
        self._awaited.append((_text(change.new), time.monotonic() + _ECHO_SECONDS))
        try:
            self._session.set(self._name, change.new)
        except SfxlabError as error:
            self._awaited.pop()
            self._take(self._session.get(self._name, change.old))
            self._say(str(error))
        else:
            self._say("")

    def _heard(self, change: Change) -> None:
        if change.name != self._name or change.kind != "value":
            return
        if self._loop is None or self._loop.is_closed():
            self._follow(change)
        else:
            self._loop.call_soon_threadsafe(self._follow, change)

    def _follow(self, change: Change) -> None:
        if change.is_another_view:
            self._awaited.clear()
            self._take(self._at_first if change.value is None else change.value)
            return
        now, text = time.monotonic(), _text(change.value)
        own = [value for value, _ in self._awaited]
        if self._session.person.wrote(change) and text in own:
            for _ in range(own.index(text) + 1):
                self._awaited.popleft()
        elif not any(until > now for _, until in self._awaited):
            self._awaited.clear()
            if self._said:
                self._say("")
            self._take(change.value)
        # Otherwise an own change is still to come in the feed: it was later than this one and stays.

    def _take(self, value: Any) -> None:
        if value is None or _text(value) == _text(getattr(self._widget, self._trait)):
            return
        self._taking = threading.get_ident()
        try:
            self._widget.set_trait(self._trait, value)
        except traitlets.TraitError as error:
            self._say(f"{self._name} of the session cannot be shown: {error}")
        finally:
            self._taking = None

    def _say(self, sentence: str) -> None:
        self._said = sentence
        if self._widget.has_trait("message"):
            self._widget.set_trait("message", sentence)


def _text(value: Any) -> str:
    """A value as the session keeps it, so that tuples equal lists."""
    return json.dumps(value, sort_keys=True)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _nothing() -> None:
    pass
