"""What people said of frames, crystals and runs in a session: tags, comments and votes, with who and when."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from typing import Literal, get_args

from sfxlab.errors import SessionError
from sfxlab.session import Change, Judged, Opinion, Session

ItemKind = Literal["frame", "crystal", "run"]
KINDS: tuple[ItemKind, ...] = get_args(ItemKind)
What = Literal["tag", "untag", "comment", "vote"]
WHATS: tuple[What, ...] = get_args(What)

_NAMED = 3
"""Items that a sentence names; the others are counted."""


@dataclass(frozen=True)
class Entry:
    """One thing that somebody said."""

    number: int
    """Of the change in the session."""
    what: What
    on: tuple[str, ...]
    """What it is about: "frame 17"; tags may be of many at once."""
    text: str
    """The comment or the tag; of a vote `1`, `-1`, or `0` where it was taken back."""
    person: str
    time: datetime
    """UTC."""

    def __str__(self) -> str:
        names = ", ".join(self.on[:_NAMED]) + (f" and {len(self.on) - _NAMED} more" if len(self.on) > _NAMED else "")
        said = {
            "tag": f"tagged {names} “{self.text}”", "untag": f"took “{self.text}” off {names}",
            "comment": f"on {names}: {self.text}",
            "vote": {"1": f"voted for {names}", "-1": f"voted against {names}"}.get(
                self.text, f"took the vote on {names} back"
            ),
        }[self.what]  # fmt: skip
        return f"{self.time:%Y-%m-%d %H:%M} {self.person} {said}"


class Discussion:
    """All that was said in a session, and what is said from now on; safe to be called from several threads."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._lock = threading.Lock()
        self._entries: dict[int, Entry] = {}
        self._of: dict[str, list[int]] = defaultdict(list)
        # In this order nothing is missed between the two; what comes twice counts once.
        self._unsubscribe = session.subscribe(self.take)
        for change in sorted((one for what in WHATS for one in session.history(what)), key=lambda one: one.number):
            self.take(change)

    def take(self, change: Change) -> None:
        """Note a change of the session, if something was said."""
        if change.kind not in WHATS:
            return
        on: tuple[str, ...] = (change.name,)
        what, text = change.kind, str(change.value)
        if what in ("tag", "untag") and isinstance(change.value, dict):
            on = tuple(f"{change.value['kind']} {item}" for item in dict.fromkeys(change.value["items"]))
            text = change.name
        with self._lock:
            if change.number not in self._entries:
                self._entries[change.number] = Entry(change.number, what, on, text, change.person, change.time)
                for name in on:
                    self._of[name].append(change.number)

    def entries(self, about: str | None = None, wanted: str = "") -> list[Entry]:
        """What was said about "frame 17" or about anything, the latest first; all words of `wanted` occur in it."""
        with self._lock:
            numbers = self._entries if about is None else self._of.get(about, ())
            found = [self._entries[number] for number in sorted(numbers, reverse=True)]
        words = wanted.casefold().split()
        return [one for one in found if all(word in str(one).casefold() for word in words)] if words else found

    def count(self, about: str | None = None) -> int:
        """How much was said about it, or about anything."""
        with self._lock:
            return len(self._entries if about is None else self._of.get(about, ()))

    def opinions(self, about: str) -> dict[str, Opinion]:
        """What each person says of it, by the last word on each tag and the last vote; as in `Session.judged`."""
        tags: dict[str, dict[str, bool]] = defaultdict(dict)
        votes: dict[str, int] = {}
        for one in reversed(self.entries(about)):
            if one.what == "vote":
                votes[one.person] = int(one.text)
            elif one.what != "comment":
                tags[one.person][one.text] = one.what == "tag"
        found = {
            person: Opinion(
                tuple(sorted(tag for tag, given in tags[person].items() if given)),
                tuple(sorted(tag for tag, given in tags[person].items() if not given)),
                votes.get(person, 0),
            )
            for person in sorted({*tags, *votes})
        }
        return {person: one for person, one in found.items() if one != Opinion()}

    def close(self) -> None:
        """Take no more."""
        self._unsubscribe()


@dataclass(frozen=True)
class Agreement:
    """How often two people say the same of what both of them judged."""

    people: tuple[str, str]
    judged: int
    same: int

    def __str__(self) -> str:
        return f"{' and '.join(self.people)} agree on {self.same} of {self.judged}"


def differing(judged: Iterable[Judged]) -> list[Judged]:
    """Those on which people differ: what one says and another denies first, then in the order of their numbers."""
    return sorted(
        (one for one in judged if one.differs),
        key=lambda one: (not one.is_disputed, not one.item.isdecimal(), one.item.zfill(20)),
    )


def agreements(judged: Sequence[Judged]) -> list[Agreement]:
    """For each pair of people how often they agree, those who judged most together first."""
    found: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for one in judged:
        for pair in combinations(sorted(one.opinions), 2):
            mine = {person: one.opinions[person] for person in pair}
            found[pair].append(not Judged(one.kind, one.item, mine).differs)
    pairs = [Agreement(pair, len(same), sum(same)) for pair, same in found.items()]
    return sorted(pairs, key=lambda one: (-one.judged, one.people))


def item_of(about: str) -> tuple[ItemKind, str] | None:
    """The kind and the item of "frame 17"; None for a text that is about something else."""
    kind, _, item = about.partition(" ")
    return (kind, item) if kind in KINDS and item else None


def number_of(kind: ItemKind, item: str) -> int:
    """The number of a frame or a crystal. Raises `SessionError` for what is none."""
    if not item.isdecimal():
        raise SessionError(f"this is no {kind}", found=repr(item), expected="its number")
    return int(item)
