"""Who else looks, where, and what they did last."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sfxlab.errors import SfxlabError

if TYPE_CHECKING:
    from sfxlab.session import Change, PersonHere, Session

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9", "#7f3c8d", "#6a9a1f")
"""Of people; readable on light and dark."""


class Watcher:
    """Tells a widget of a session's people (`people`) and of what others do (`news`), in words.

    Both functions are called from the thread of the session's feed, `people` at first from this one.
    """

    def __init__(
        self,
        session: Session,
        people: Callable[[list[dict[str, Any]]], None],
        news: Callable[[dict[str, Any]], None],
    ) -> None:
        self._session, self._people, self._news = session, people, news
        self._here: dict[str, PersonHere] = {}
        self.end = session.subscribe(self._heard)
        self._look()

    def _heard(self, change: Change) -> None:
        if change.kind == "presence":
            told: Any = change.value
            if told["here"] and change.name in self._here:
                self._here[change.name] = replace(self._here[change.name], looking_at=told["looking_at"])
                self._tell()
            else:
                self._look()
        elif (text := words(change)) and not (
            change.name.startswith("view.") and self._session.viewing.following != ""
        ):
            known = self._here.get(change.person)
            who = change.person if known is None else known.display_name
            self._news({"person": change.person, "who": who, "text": text, "number": change.number})

    def _is_seen(self, change: Change) -> bool:
        """What everybody looks at is no news for who looks elsewhere."""
        return change.kind != "value" or not change.name.startswith("view.") or self._session.viewing.following == ""

    def _look(self) -> None:
        try:
            self._here = {person.name: person for person in self._session.present()}
        except SfxlabError:
            return  # the feed says what is wrong, and comes back
        self._tell()

    def _tell(self) -> None:
        same_kernel = self._session.pages.names() | {self._session.person.name}
        colour = colours(self._here)
        self._people(
            [
                {
                    "name": one.name, "who": one.display_name, "role": one.role, "colour": colour[one.name],
                    "looks": looks(one, self._here), "same": one.name in same_kernel,
                }
                for one in self._here.values()
            ]
        )  # fmt: skip


def looks(person: PersonHere, here: dict[str, PersonHere]) -> str:
    """Where somebody looks, in words; nothing for who looks where everybody does."""
    from sfxlab.session.viewing import followed

    whom, view = followed(person.looking_at)
    if whom:
        return f"follows {here[whom].display_name if whom in here else whom}"
    if whom is None:
        return f"frame {view['view.frame']}" if "view.frame" in view else "alone"
    return ""


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each name: the same everywhere, and another one for each as far as there are enough."""
    found: dict[str, str] = {}
    for name in sorted(names):
        first = zlib.crc32(name.encode()) % len(COLOURS)
        in_turn = [COLOURS[(first + i) % len(COLOURS)] for i in range(len(COLOURS))]
        found[name] = next((colour for colour in in_turn if colour not in found.values()), in_turn[0])
    return found


def words(change: Change) -> str:
    """What somebody did, for others to read; empty for what is not worth a word."""
    value: Any = change.value
    if change.kind in ("tag", "untag"):
        items = value["items"]
        which = f"{value['kind']} {items[0]}" if len(items) == 1 else f"{len(items):,} {value['kind']}s"
        return f"tagged {which}: {change.name}" if change.kind == "tag" else f"took {change.name} off {which}"
    if change.kind == "comment":
        return f"wrote on {change.name}: {value}"[:200]
    if change.kind == "vote":
        return f"voted on {change.name}"
    if change.kind == "record":
        return f"kept a {change.name}"
    if change.kind == "value" and change.name == "view.frame":
        return f"went to frame {value}"
    if change.kind == "value" and change.name == "selection" and isinstance(value, dict):
        n = len(value.get("items", ()))
        return f"selected {n:,} {value.get('kind', 'item')}{'' if n == 1 else 's'}" if n else "selected nothing"
    return _WORDS.get(change.name, "") if change.kind == "value" else ""


_WORDS = {
    "view.contrast": "changed the contrast", "view.zoom": "moved the picture", "view.centre": "moved the picture",
    "view.layers": "changed what is drawn", "view.run": "went to another run", "recipe": "changed the recipe",
    "merge.cuts": "changed the cuts", "session.frozen": "froze or thawed the session",
}  # fmt: skip
