"""The feed of changes: every one, once, in order, for everybody, and over restarts."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from sfxlab.errors import SfxlabError
from sfxlab.session import Change, Person, Session
from sfxlab.session.catalogue import Catalogue
from sfxlab.session.ledger import KEPT_CHANGES, Entry, append, changes_after, last_numbers, make_session
from sfxlab.session.tables import CHANGES, PRESENCE, now

WRITE = """
import sys
from sfxlab.session import Session
address, person, n = sys.argv[1:]
with Session("lyso", address, person) as session:
    for i in range(int(n)):
        session.set("view.frame", i)
        if i % 5 == 0:
            session.tag("frame", [str(i)], person)
"""


def written_elsewhere(address: str, person: str, n: int) -> subprocess.Popen[bytes]:
    """Another process that sets a value n times, and tags every fifth time."""
    return subprocess.Popen([sys.executable, "-c", WRITE, address, person, str(n)])


def test_changes_of_other_processes_arrive_in_order_without_gaps(address: str, eventually: Callable[..., bool]) -> None:
    with Session("lyso", address, "anna") as session:
        seen: list[Change] = []
        session.subscribe(seen.append)
        writers = [written_elsewhere(address, f"person {i}", 30) for i in range(3)]
        assert [writer.wait() for writer in writers] == [0, 0, 0]
        # 30 values and 6 tags of each, who also comes and goes.
        assert eventually(lambda: len([c for c in seen if c.kind != "presence"]) == 3 * 36)
        assert eventually(lambda: len(seen) == 3 * 38 + 1)
        numbers = [change.number for change in seen]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        for i in range(3):
            mine = [c.value for c in seen if c.kind == "value" and c.person == f"person {i}"]
            assert mine == list(range(30))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    plans=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=8), min_size=2, max_size=4),
    pause=st.sampled_from([0.0, 0.002]),
)
def test_no_reader_ever_sees_a_number_before_a_smaller_one(address: str, plans: list[list[int]], pause: float) -> None:
    # Writers append blocks of changes, each in a transaction; a reader that only ever asks for what comes after the
    # last number it saw must meet every number exactly once.
    catalogue = Catalogue(address)
    with catalogue.connected("write") as connection:
        session = make_session(connection, "", f"{plans}{pause}{now()}", "anna")
    done, errors, seen = threading.Event(), [], []

    def write(person: str, blocks: list[int]) -> None:
        try:
            for block, size in enumerate(blocks):
                with catalogue.connected("write") as connection:
                    append(connection, session, person, [Entry("value", person, f"{block}")] * size)
                    time.sleep(pause)
        except SfxlabError as error:
            errors.append(error)

    def read() -> None:
        last = False
        while not last:
            last = done.is_set()
            with catalogue.connected() as connection:
                seen.extend(changes_after(connection, session, seen[-1].number if seen else 0, limit=3))
                last = last and last_numbers(connection, [session])[session] == len(seen)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(str(i), plan)) for i, plan in enumerate(plans)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join(60)
    assert errors == []
    assert [change.number for change in seen] == list(range(1, sum(map(sum, plans)) + 1))
    for i, plan in enumerate(plans):
        mine = [change.value for change in seen if change.person == str(i)]
        assert mine == [block for block, size in enumerate(plan) for _ in range(size)]


def test_fifty_subscribers_see_every_change(address: str, eventually: Callable[..., bool]) -> None:
    seen: list[list[Any]] = [[] for _ in range(50)]
    sessions = [Session("lyso", address, f"person {i}") for i in range(len(seen))]
    try:
        for session, own in zip(sessions, seen, strict=True):
            session.subscribe(lambda change, own=own: own.append(change.value), "view.")
        for i in range(20):
            sessions[i].set("view.frame", i)
        assert eventually(lambda: all(own == list(range(20)) for own in seen))
        assert len(sessions[0].present()) == len(seen)
    finally:
        for session in sessions:
            session.close()


def test_who_joins_late_sees_the_present_state_and_then_what_changes(
    address: str, eventually: Callable[..., bool]
) -> None:
    with Session("lyso", address, "anna") as anna:
        anna.set("view.frame", 17)
        with Session("lyso", address, "bob") as bob:
            seen: list[Change] = []
            bob.subscribe(seen.append, "view.")
            assert bob.get("view.frame") == 17
            anna.set("view.frame", 18)
            assert eventually(lambda: [(c.value, c.person) for c in seen] == [(18, "anna")])


def test_only_names_with_the_prefix_are_told_until_the_subscription_ends(
    address: str, eventually: Callable[..., bool]
) -> None:
    with Session("lyso", address, "anna") as session:
        views: list[str] = []
        everything: list[str] = []
        end = session.subscribe(lambda change: views.append(change.name), "view.")
        session.subscribe(lambda change: everything.append(change.name))
        session.set("view.frame", 1)
        session.set("selection", {})
        assert eventually(lambda: everything[-2:] == ["view.frame", "selection"])
        end()
        end()
        session.set("view.zoom", 2)
        assert eventually(lambda: everything[-1:] == ["view.zoom"])
        assert views == ["view.frame"]


def test_a_subscriber_may_use_the_session_and_its_failure_is_its_own(
    address: str, eventually: Callable[..., bool], caplog: pytest.LogCaptureFixture
) -> None:
    with Session("lyso", address, "anna") as session:

        def fail(change: Change) -> None:
            raise RuntimeError("a widget's own fault")

        def answer(change: Change) -> None:
            if change.name == "question":
                session.set("answer", session.get("question"))

        session.subscribe(fail, "question")
        session.subscribe(answer)
        session.set("question", 42)
        assert eventually(lambda: session.get("answer") == 42)
        assert "a widget's own fault" in caplog.text


def test_a_session_may_be_closed_by_its_own_subscriber(address: str, eventually: Callable[..., bool]) -> None:
    session = Session("lyso", address, "anna")
    session.subscribe(lambda change: session.close(), "end")
    session.set("end", True)
    with Session("lyso", address, "bob") as bob:
        assert eventually(lambda: [person.name for person in bob.present()] == ["bob"])


def test_old_views_are_thinned_out_and_records_never(address: str) -> None:
    catalogue = Catalogue(address)
    with catalogue.connected("write") as connection:
        session = make_session(connection, "", "lyso", "anna")
        append(connection, session, "anna", [Entry("value", "selection", "[1]"), Entry("comment", "frame 1", '"ice"')])
        views = [Entry("value", "view.frame", str(i)) for i in range(5 * KEPT_CHANGES)]
        append(connection, session, "anna", views)
    with catalogue.connected() as connection:
        kept = connection.scalar(select(func.count()).select_from(CHANGES))
        first = changes_after(connection, session, 0)
    assert kept <= 2 * KEPT_CHANGES
    # What is still true is told to whoever comes from far behind, and so are the records.
    assert [(change.name, change.value) for change in first[:2]] == [("selection", [1]), ("frame 1", "ice")]
    numbers = [change.number for change in first[2:]]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    with Session("lyso", address, "anna") as again:
        assert again.get("view.frame") == 5 * KEPT_CHANGES - 1
        assert [comment.text for comment in again.comments()] == ["ice"]


def test_large_values_do_not_pile_up(address: str) -> None:
    with Session("lyso", address, "anna") as session:
        for i in range(60):
            session.set("selection", {"items": [i] * 10_000})
        assert session.get("selection") == {"items": [59] * 10_000}
    catalogue = Catalogue(address)
    with catalogue.connected() as connection:
        assert connection.scalar(select(func.count()).where(CHANGES.c.name == "selection")) <= 20


def test_a_kernel_that_died_is_gone_for_the_others_after_a_while(address: str, eventually: Callable[..., bool]) -> None:
    with Session("lyso", address, "anna") as anna:
        seen: list[Change] = []
        anna.subscribe(seen.append, "bob")
        dead = Session("lyso", address, "bob")
        dead._feed._gone = lambda: None  # as a process that is killed
        dead.close()
        with Catalogue(address).connected("write") as connection:
            connection.execute(PRESENCE.update().where(PRESENCE.c.person == "bob").values(seen=now() - 60_000_000))
        assert [person.name for person in anna.present()] == ["anna"]
        with Session("lyso", address, Person("carol", "Carol", "viewer")):
            assert eventually(lambda: [c.value["here"] for c in seen] == [True, False])


def test_a_postgresql_server_that_restarts_costs_no_change(
    postgresql: Any, eventually: Callable[..., bool], caplog: pytest.LogCaptureFixture
) -> None:
    address = postgresql.new_catalogue()
    with Session("lyso", address, "anna") as anna, Session("lyso", address, "bob") as bob:
        seen: list[Any] = []
        bob.subscribe(lambda change: seen.append(change.value), "view.")
        anna.set("view.frame", 1)
        assert eventually(lambda: seen == [1])
        postgresql.stop()
        with pytest.raises(SfxlabError, match="cannot be reached"):
            anna.set("view.frame", 2)
        assert eventually(lambda: "cannot be reached" in str(bob.trouble))
        postgresql.start()
        # At once, while the feed of the other may still be waiting to try again.
        anna.set("view.frame", 3)
        anna.set("view.frame", 4)
        assert eventually(lambda: seen == [1, 3, 4])
        assert bob.trouble is None
    assert "the feed of a session waits" in caplog.text


def test_a_session_left_open_at_the_end_of_a_program_is_left_quietly(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/sessions.sqlite"
    program = f"from sfxlab.session import Session\nsession = Session('lyso', {address!r}, 'bob')\nsession.set('x', 1)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    with Session("lyso", address, "anna") as anna:
        assert anna.get("x") == 1
        assert [person.name for person in anna.present()] == ["anna"]
