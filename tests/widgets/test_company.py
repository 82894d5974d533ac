"""Who else looks, in words and colours, and who sits at which page of a widget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import traitlets

from sfxlab.session import Change, Person, PersonHere, Session
from sfxlab.widgets.attendance import Attendance
from sfxlab.widgets.bound import SessionWidget
from sfxlab.widgets.company import COLOURS, Watcher, colours, looks, words

NOW = datetime(2026, 11, 21, tzinfo=UTC)


class Counter(SessionWidget):
    """The smallest widget of a session."""

    _esm = "export default { render() {} }"
    n = traitlets.Int(0).tag(sync=True)

    def __init__(self, session: Session | None) -> None:
        super().__init__(session)
        self.bind("counter.n", "n")


@pytest.fixture
def join(tmp_path: Path) -> Iterator[Callable[[str], Session]]:
    """Somebody in the session: `join("anna")`."""
    sessions: list[Session] = []

    def joined(name: str) -> Session:
        sessions.append(Session("lyso", f"sqlite:///{tmp_path}/s.sqlite", Person(name, name.title(), "lead")))
        return sessions[-1]

    yield joined
    for session in sessions:
        session.close()


def message(page: str, data: dict[str, Any]) -> dict[str, Any]:
    """As Jupyter hands it to a widget."""
    return {"header": {"session": page}, "content": {"data": data}, "buffers": []}


def test_people_have_colours_of_their_own_as_far_as_there_are_enough() -> None:
    names = [f"person {i}" for i in range(len(COLOURS))]
    found = colours(names)
    assert set(found.values()) == set(COLOURS)
    assert colours(reversed(names)) == found
    assert len(colours([*names, "one more"])) == len(names) + 1


@pytest.mark.parametrize(
    ("kind", "name", "value", "said"),
    [
        ("value", "view.frame", 17, "went to frame 17"),
        ("value", "view.contrast", {}, "changed the contrast"),
        ("value", "selection", {"kind": "crystal", "items": [1, 2]}, "selected 2 crystals"),
        ("value", "selection", {"kind": "frame", "items": [1]}, "selected 1 frame"),
        ("value", "selection", {}, "selected nothing"),
        ("value", "something.else", 1, ""),
        ("tag", "ice", {"kind": "frame", "items": ["17"]}, "tagged frame 17: ice"),
        ("untag", "ice", {"kind": "frame", "items": ["17", "18"]}, "took ice off 2 frames"),
        ("comment", "frame 17", "rings", "wrote on frame 17: rings"),
        ("record", "cell", {}, "kept a cell"),
    ],
)
def test_what_somebody_did_is_said_in_words(kind: Any, name: str, value: Any, said: str) -> None:
    assert words(Change(1, kind, name, value, "anna", NOW)) == said


@pytest.mark.parametrize(
    ("looking_at", "said"),
    [
        (None, ""),
        ({"frame": 3}, ""),
        ({"follows": ""}, ""),
        ({"follows": "anna"}, "follows Anna"),
        ({"follows": "dora"}, "follows dora"),
        ({"follows": None, "view": {"view.frame": 8}}, "frame 8"),
        ({"follows": None, "view": {}}, "alone"),
    ],
)
def test_where_somebody_looks_is_said_in_words(looking_at: Any, said: str) -> None:
    anna = PersonHere("anna", "Anna", "lead", None, NOW)
    assert looks(PersonHere("ben", "Ben", "lead", looking_at, NOW), {"anna": anna}) == said


def test_a_watcher_tells_who_comes_and_goes_and_what_they_do(
    join: Callable[[str], Session], until: Callable[[Callable[[], bool]], None]
) -> None:
    people: list[list[str]] = []
    news: list[Any] = []
    anna = join("anna")
    watcher = Watcher(anna, lambda now: people.append([one["who"] for one in now]), news.append)
    ben = join("ben")
    until(lambda: people[-1] == ["Anna", "Ben"])
    ben.set("view.frame", 17)
    until(lambda: news != [])
    assert {name: news[-1][name] for name in ("person", "who", "text")} == {
        "person": "ben", "who": "Ben", "text": "went to frame 17",
    }  # fmt: skip
    anna.follow(None)
    ben.set("view.frame", 18)  # which Anna does not look at
    ben.comment("frame 18", "rings")
    until(lambda: news[-1]["text"] == "wrote on frame 18: rings")
    assert len(news) == 2
    ben.close()
    until(lambda: people[-1] == ["Anna"])
    watcher.end()


def test_pages_that_do_not_answer_are_gone_after_a_while(join: Callable[[str], Session]) -> None:
    session, sent = join("anna"), []
    attendance = Attendance(session, sent.append)
    for page, name in (("p1", "ben"), ("p2", "carl")):
        attendance.said(page, {"view": "v", "identity": {"username": name}})
    assert [(one["kind"], one["name"]) for one in sent] == [("you", "ben via anna"), ("you", "carl via anna")]
    for _ in range(4):
        attendance.ask()
        attendance.said("p2", {"view": "v", "identity": {"username": "carl"}})
    assert [person.name for person in session.present()] == ["carl via anna"]
    attendance.said("p2", {"view": "v", "gone": True})
    assert session.present() == []


def test_a_change_from_a_page_has_the_name_of_who_sits_there(
    join: Callable[[str], Session], until: Callable[[Callable[[], bool]], None]
) -> None:
    session, seen = join("anna"), []
    session.subscribe(lambda change: seen.append((change.value, change.person)), "counter.")
    counter = Counter(session)
    counter._handle_msg(
        message("p2", {"method": "custom", "content": {"kind": "page", "view": "v", "identity": {"username": "ben"}}})
    )
    counter._handle_msg(message("p2", {"method": "update", "state": {"n": 1}}))
    counter._handle_msg(message("unknown", {"method": "update", "state": {"n": 2}}))
    until(lambda: seen == [(1, "ben via anna"), (2, "anna")])
    assert counter.n == 2
    counter.close()
    alone = Counter(None)
    alone._handle_msg(message("p2", {"method": "custom", "content": {"kind": "page", "view": "v", "identity": None}}))
    alone._handle_msg(message("p2", {"method": "update", "state": {"n": 3}}))
    assert alone.n == 3
