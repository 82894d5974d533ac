"""Traits of widgets and values of sessions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import traitlets

from sfxlab.session import Person, Session
from sfxlab.widgets.bound import bind


class Shown(traitlets.HasTraits):
    """What a widget may have."""

    frame = traitlets.Int(0)
    centre = traitlets.List([])
    disabled = traitlets.Bool(False)
    message = traitlets.Unicode("")


@pytest.fixture
def join(tmp_path: Path) -> Any:
    """Somebody in the session: `join("anna")`."""
    sessions: list[Session] = []

    def joined(name: str, role: Any = "lead") -> Session:
        sessions.append(Session("test", f"sqlite:///{tmp_path / 'sessions.sqlite'}", Person(name, name.title(), role)))
        return sessions[-1]

    yield joined
    for session in sessions:
        session.close()


def soon(true: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether this becomes true."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


def test_what_one_person_sets_another_sees(join: Any) -> None:
    anna, ben = Shown(), Shown()
    bind(join("anna"), "view.frame", anna, "frame")
    bind(join("ben"), "view.frame", ben, "frame")
    anna.frame = 17
    assert soon(lambda: ben.frame == 17)
    ben.frame = 3
    assert soon(lambda: anna.frame == 3)


def test_who_comes_late_sees_the_present_state_and_otherwise_the_default(join: Any) -> None:
    session = join("anna")
    session.set("view.centre", [10.5, 20.0])
    late = Shown()
    bind(join("ben"), "view.centre", late, "centre")
    bind(session, "view.frame", late, "frame", default=5)
    assert late.centre == [10.5, 20.0]
    assert late.frame == 5
    assert session.get("view.frame") is None


def test_own_changes_that_come_back_do_not_undo_later_ones(join: Any) -> None:
    session, shown = join("anna"), Shown()
    bind(session, "view.frame", shown, "frame")
    seen: list[int] = []
    shown.observe(lambda change: seen.append(change.new), "frame")
    for number in range(1, 40):
        shown.frame = number
    last = []
    session.subscribe(lambda change: last.append(change.value), "view.frame")
    session.set("view.other", 0)
    time.sleep(0.5)
    assert seen == list(range(1, 40))
    assert session.get("view.frame") == 39


def test_two_people_who_drag_at_once_end_with_the_same(join: Any) -> None:
    anna, ben = Shown(), Shown()
    session = join("anna")
    bind(session, "view.frame", anna, "frame")
    bind(join("ben"), "view.frame", ben, "frame")
    for number in range(1, 30):
        anna.frame, ben.frame = number, 1000 + number
    assert soon(lambda: anna.frame == ben.frame == session.get("view.frame"))


def test_a_viewers_change_is_taken_back_with_the_reason(join: Any) -> None:
    join("anna").set("view.frame", 8)
    shown = Shown()
    bind(join("vera", "viewer"), "view.frame", shown, "frame")
    assert shown.disabled
    assert shown.frame == 8
    shown.frame = 9
    assert shown.frame == 8
    assert "viewer" in shown.message


def test_a_value_that_the_trait_cannot_take_is_said_and_does_no_harm(join: Any) -> None:
    session, shown = join("anna"), Shown()
    bind(join("ben"), "view.frame", shown, "frame")
    session.set("view.frame", "seventeen")
    assert soon(lambda: "view.frame" in shown.message)
    assert shown.frame == 0


def test_changes_arrive_in_the_event_loop(join: Any) -> None:
    import threading

    threads: list[threading.Thread] = []

    async def kernel() -> None:
        shown = Shown()
        bind(join("ben"), "view.frame", shown, "frame")
        shown.observe(lambda _: threads.append(threading.current_thread()), "frame")
        join("anna").set("view.frame", 4)
        for _ in range(500):
            if threads:
                break
            await asyncio.sleep(0.02)

    asyncio.run(kernel())
    assert threads == [threading.current_thread()]


def test_nothing_moves_any_more_after_the_end_and_nothing_does_without_a_session(join: Any) -> None:
    session, shown = join("anna"), Shown()
    end = bind(session, "view.frame", shown, "frame")
    end()
    shown.frame = 3
    assert session.get("view.frame") is None
    bind(None, "view.frame", shown, "frame")()
    shown.frame = 4
    assert shown.frame == 4
