"""What a group says of frames, crystals and runs, without a browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sfxlab.errors import SessionError
from sfxlab.session import Judged, Opinion, Person, Session
from sfxlab.store import Run
from sfxlab.widgets import Discussion
from sfxlab.widgets.models import discussion as models

VIEWER = Person("vera", "Vera V.", "viewer")


@pytest.fixture
def people(tmp_path: Path) -> Iterator[tuple[Session, Session]]:
    """Anna and Ben in one session."""
    catalogue = f"sqlite:///{tmp_path / 'sessions.sqlite'}"
    with Session("lyso", catalogue, "anna") as anna, Session("lyso", catalogue, "ben") as ben:
        yield anna, ben


@pytest.fixture
def run(make_run: Callable[..., Run], make_result: Callable[..., Any]) -> Run:
    """Four frames with 2, 0, 1 and 1 crystals."""
    made = make_run()
    with made.writing():
        made.write_chunk(0, [make_result(0, (5, 5)), make_result(1, ())])
        made.write_chunk(1, [make_result(2), make_result(3)])
    return made


def test_what_was_said_before_and_what_is_said_now_is_there_once_and_in_order(
    people: tuple[Session, Session], until: Callable[[Callable[[], bool]], None]
) -> None:
    anna, ben = people
    anna.tag("frame", ["3", "4", "4"], "ice")
    anna.comment("frame 3", "rings at 3.9 Å")
    model = models.Discussion(anna)
    ben.vote("frame 3", -1)
    ben.untag("frame", ["4"], "ice")
    anna.record("cell", {"a": 79})
    until(lambda: model.count() == 4)
    assert [(one.what, one.on, one.text, one.person) for one in model.entries()] == [
        ("untag", ("frame 4",), "ice", "ben"), ("vote", ("frame 3",), "-1", "ben"),
        ("comment", ("frame 3",), "rings at 3.9 Å", "anna"), ("tag", ("frame 3", "frame 4"), "ice", "anna"),
    ]  # fmt: skip
    assert [one.what for one in model.entries("frame 3")] == ["vote", "comment", "tag"]
    assert [one.person for one in model.entries(None, "BEN ice")] == ["ben"]
    assert model.entries("frame 5") == model.entries(None, "salt") == []
    assert model.opinions("frame 4") == {"anna": Opinion(("ice",)), "ben": Opinion((), ("ice",))}
    for change in anna.history("tag"):
        model.take(change)  # told twice
    assert model.count() == 4
    model.close()


def test_opinions_are_those_that_the_session_knows(people: tuple[Session, Session]) -> None:
    anna, ben = people
    for one, tags, vote in ((anna, ("ice", "weak"), 1), (ben, ("weak",), -1)):
        for tag in tags:
            one.tag("crystal", ["7"], tag)
        one.untag("crystal", ["7"], "good")
        one.vote("crystal 7", -vote)
        one.vote("crystal 7", vote)
    model = models.Discussion(anna)
    [judged] = anna.judged("crystal")
    assert model.opinions("crystal 7") == dict(judged.opinions)
    assert judged.is_disputed
    model.close()


def judged(item: str, **opinions: Opinion) -> Judged:
    return Judged("frame", item, opinions)


def test_contradictions_come_first_and_agreement_is_counted_by_pairs() -> None:
    ice, salt, no_ice = Opinion(("ice",)), Opinion(("salt",)), Opinion((), ("ice",))
    found = [
        judged("12", anna=ice, ben=salt), judged("9", anna=ice, ben=ice), judged("10", anna=Opinion(vote=1), ben=ice),
        judged("30", anna=ice, ben=no_ice, carol=ice), judged("4", anna=salt, ben=no_ice),
        judged("2", anna=Opinion(vote=1), ben=Opinion(vote=-1)),
    ]  # fmt: skip
    assert [one.item for one in models.differing(found)] == ["2", "30", "12"]
    assert [str(one) for one in models.agreements(found)] == [
        "anna and ben agree on 3 of 6", "anna and carol agree on 1 of 1", "ben and carol agree on 0 of 1",
    ]  # fmt: skip


def test_a_sentence_tells_who_said_what_of_what(people: tuple[Session, Session]) -> None:
    anna, _ = people
    anna.tag("frame", [str(i) for i in range(9)], "ice")
    anna.untag("frame", ["1"], "ice")
    for choice in (1, -1, 0):
        anna.vote("run lyso", choice)  # type: ignore[arg-type]
    anna.comment("run lyso", "done")
    model = models.Discussion(anna)
    sentences = [str(one)[len("2000-01-01 00:00 ") :] for one in model.entries()]
    assert sentences == [
        "anna on run lyso: done", "anna took the vote on run lyso back", "anna voted against run lyso",
        "anna voted for run lyso", "anna took “ice” off frame 1",
        "anna tagged frame 0, frame 1, frame 2 and 6 more “ice”",
    ]  # fmt: skip
    model.close()


def test_what_one_person_says_another_one_sees(
    people: tuple[Session, Session], run: Run, until: Callable[[Callable[[], bool]], None]
) -> None:
    anna, ben = people
    mine, other = Discussion(anna, run), Discussion(ben, run)
    mine.talk_about("frame 3")
    mine.tag("ice")
    mine.comment("rings")
    mine.vote(-1)
    until(lambda: other.frame == 3 and len(other.seen["entries"]) == 3)
    assert [(one["what"], one["text"], one["person"]) for one in other.seen["entries"]] == [
        ("vote", "-1", "anna"), ("comment", "rings", "anna"), ("tag", "ice", "anna"),
    ]  # fmt: skip
    assert other.seen["tags"] == [{"tag": "ice", "given": ["anna"], "refused": []}]
    assert other.seen["votes"] == {"anna": -1}
    other.untag("ice")
    other.vote(1)
    said = {"tags": [], "refused": ["ice"], "vote": 1}
    until(lambda: any(one["said"]["ben"] == said for one in mine.seen["differences"]))
    [found] = mine.differences()
    assert (found.item, found.is_disputed) == ("3", True)
    assert mine.seen["agreements"] == ["anna and ben agree on 0 of 1"]
    mine.scope, mine.filter = "everything", "ben voted"
    assert (mine.seen["n_listed"], mine.seen["n_entries"], mine.seen["n_here"]) == (1, 5, 5)
    page = mine.figure().data
    assert "frame 3: anna: ice, against it; ben: not ice, for it" in page
    assert "rings" not in page  # the filter
    assert json.loads(json.dumps(mine.seen, allow_nan=False)) == mine.seen
    for one in (mine, other):
        one.close()


def test_a_crystal_shows_its_frame_and_a_frame_its_crystals(people: tuple[Session, Session], run: Run) -> None:
    anna, _ = people
    discussion = Discussion(anna, str(run.path))
    discussion.talk_about("crystal 2")
    assert (discussion.kind, discussion.frame, discussion.about) == ("crystal", 2, "crystal 2")
    discussion.tag("good")
    assert anna.tagged("crystal", "good") == {"2"}
    discussion.frame = 0
    assert (discussion.crystals, discussion.about) == ([0, 1], "crystal 0")
    discussion.frame = 1
    assert (discussion.crystals, discussion.about) == ([], "")
    with pytest.raises(SessionError, match="no crystal is shown"):
        discussion.comment("lost")
    discussion.kind = "run"
    discussion.comment("good beam")
    assert [(one.on, one.text) for one in anna.comments()] == [(f"run {run.path.name}", "good beam")]
    with pytest.raises(SessionError, match="no frame"):
        discussion.talk_about("frame x")
    discussion.close()


def test_the_run_of_the_session_is_talked_about_and_one_that_is_gone_is_a_sentence(
    people: tuple[Session, Session], run: Run, until: Callable[[Callable[[], bool]], None]
) -> None:
    anna, ben = people
    anna.set("view.run", str(run.path))
    discussion = Discussion(ben, kind="run")
    assert discussion.message == ""
    assert discussion.seen["about"] == f"run {run.path.name}"
    anna.set("view.run", str(run.path) + "2")
    until(lambda: discussion.seen["about"] == f"run {run.path.name}2")
    discussion.kind = "crystal"
    assert "this is not a run" in discussion.message
    discussion.close()


def test_a_viewer_reads_and_is_refused_where_it_is_written(people: tuple[Session, Session], tmp_path: Path) -> None:
    anna, _ = people
    anna.set("view.frame", 2)
    anna.tag("frame", ["2"], "ice")
    with Session("lyso", f"sqlite:///{tmp_path / 'sessions.sqlite'}", VIEWER) as vera:
        discussion = Discussion(vera)
        assert discussion.disabled
        assert discussion.seen["tags"][0]["given"] == ["anna"]
        for refused in (lambda: discussion.comment("x"), lambda: discussion.tag("x"), lambda: discussion.vote(1)):
            with pytest.raises(SessionError, match="vera, viewer"):
                refused()
        discussion._heard(None, {"kind": "comment", "text": "from the page"}, [])
        assert "vera, viewer" in discussion.message
        assert anna.comments() == []
        discussion.close()


def test_what_the_session_refuses_is_shown_as_a_sentence(people: tuple[Session, Session]) -> None:
    anna, ben = people
    anna.set("view.frame", 2)
    discussion = Discussion(ben)
    discussion._heard(None, {"kind": "tag", "tag": "x" * 300, "on": True}, [])
    assert "tag cannot be asked like this" in discussion.message
    discussion._heard(None, {"kind": "tag", "tag": "ice", "on": True}, [])
    assert discussion.message == ""
    assert anna.tagged("frame", "ice") == {"2"}
    discussion.close()
