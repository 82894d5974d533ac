"""Which pages show a widget, and who sits there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sfxlab.errors import SfxlabError

if TYPE_CHECKING:
    from sfxlab.session import Session

_LOG = logging.getLogger(__name__)

ASKED_EVERY = 10.0
"""Seconds between questions to pages whether they are still there."""
_PATIENCE = 3
"""So many questions a page leaves unanswered before it counts as gone: its computer sleeps, or has lost its net."""


class Attendance:
    """The pages of one widget: they say so when they come and go, and are asked now and then.

    Asked, because timers rest in pages that nobody sees; and by the kernel's event loop, so that nobody goes while a
    cell runs.
    """

    def __init__(self, session: Session, send: Callable[[Mapping[str, Any]], None]) -> None:
        self._session, self._send = session, send
        self._unanswered: dict[tuple[str, str], int] = {}
        self._task: asyncio.Task[None] | None = None

    def said(self, page: str, content: Mapping[str, Any]) -> None:
        """A page says that it is there, or goes."""
        view = page, str(content.get("view"))
        try:
            if content.get("gone"):
                self._unanswered.pop(view, None)
                self._session.pages.gone(*view)
                return
            if view not in self._unanswered:
                self._session.pages.here(*view, content.get("identity"))
                self._ask_on()
            self._unanswered[view] = 0
        except SfxlabError as error:
            _LOG.warning("who sits at a page could not be told: %s", error)
        self._send({"kind": "you", "view": view[1], "name": self._session.pages.name(page)})

    def ask(self) -> None:
        """Ask all pages; those that did not answer for long are gone."""
        for view, unanswered in list(self._unanswered.items()):
            self._unanswered[view] = unanswered + 1
            if unanswered >= _PATIENCE:
                self.said(view[0], {"view": view[1], "gone": True})
        self._send({"kind": "who is there"})

    def end(self) -> None:
        """Ask no more."""
        if self._task is not None:
            loop = self._task.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._task.cancel)
            self._task = None

    def _ask_on(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # a script
        if self._task is None:
            self._task = loop.create_task(self._ask_for_ever())

    async def _ask_for_ever(self) -> None:
        while True:
            await asyncio.sleep(ASKED_EVERY)
            try:
                self.ask()
                await asyncio.to_thread(self._session.pages.still_here)
            except SfxlabError as error:
                _LOG.warning("who sits at a page could not be told: %s", error)
