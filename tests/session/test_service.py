"""Sessions behind the service: the same for everybody who may, nothing for everybody else."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from sfxlab.session import (
    CatalogueError,
    Change,
    NotAllowedError,
    Person,
    Session,
    SessionError,
    UnknownSessionError,
    ValueTooBigError,
)
from sfxlab.session.asking import HubGroups, TokenFile
from sfxlab.session.catalogue import Catalogue
from sfxlab.session.client import ask
from sfxlab.session.ledger import changes_after, session_id
from sfxlab.session.service import THREADS, SessionService

ROLES = {
    "anna": {"p1": "lead", "p2": "viewer"},
    "bob": {"p1": "analyst"},
    "carol": {"p1": "viewer"},
    "dora": {"p3": "lead"},
}


def token_of(name: str) -> str:
    return f"token-of-{name}-for-these-tests"


@dataclass
class RunningService:
    """A service in a thread of this process, over a real catalogue."""

    catalogue: str
    tokens: Path
    port: int = 0
    _stops: list[Callable[[], object]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def let_in(self, roles: dict[str, dict[str, str]]) -> None:
        """Write the file of tokens."""
        people = [
            {"name": name, "display_name": name.title(), "token": token_of(name), "proposals": proposals}
            for name, proposals in roles.items()
        ]
        aside = self.tokens.with_suffix(".new")
        aside.touch(0o600)
        aside.write_text(tomli_w.dumps({"people": people}))
        aside.rename(self.tokens)

    def start(self) -> None:
        ready = threading.Event()

        async def serve() -> None:
            catalogue, stopped = Catalogue(self.catalogue, THREADS), asyncio.Event()
            service = SessionService(catalogue, TokenFile(self.tokens))
            self.port = service.listen(port=self.port)
            loop = asyncio.get_running_loop()
            self._stops = [lambda: loop.call_soon_threadsafe(stopped.set)]
            ready.set()
            await stopped.wait()
            await service.stop()

        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        assert ready.wait(60)
        self._stops.append(thread.join)

    def stop(self) -> None:
        for stop in self._stops:
            stop()


@pytest.fixture
def service(address: str, tmp_path: Path) -> Iterator[RunningService]:
    running = RunningService(address, tmp_path / "tokens.toml")
    running.let_in(ROLES)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def opened(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Session]]:
    """`opened("anna", "p1/lyso")`: a session as somebody has it through the service; closed afterwards."""
    sessions: list[Session] = []

    def open_as(name: str, session: str = "p1/lyso", token: str | None = None) -> Session:
        monkeypatch.setenv("SFXLAB_TOKEN", token or token_of(name))
        sessions.append(Session(session, service.address))
        return sessions[-1]

    yield open_as
    for session in sessions:
        session.close()


READING: dict[str, Callable[[Session], Any]] = {
    "get": lambda s: s.get("x"),
    "values": lambda s: s.values(),
    "tagged": lambda s: s.tagged("frame", "ice"),
    "tags": lambda s: s.tags("frame"),
    "disagreements": lambda s: s.disagreements("frame"),
    "judged": lambda s: s.judged("frame"),
    "comments": lambda s: s.comments(),
    "votes": lambda s: s.votes("frame 1"),
    "records": lambda s: s.records(),
    "present": lambda s: s.present(),
    "look_at": lambda s: s.look_at({"frame": 1}),
}
CHANGING: dict[str, Callable[[Session], Any]] = {
    "set": lambda s: s.set("x", 1),
    "tag": lambda s: s.tag("frame", ["1"], "ice"),
    "untag": lambda s: s.untag("frame", ["1"], "ice"),
    "comment": lambda s: s.comment("frame 1", "rings"),
    "vote": lambda s: s.vote("frame 1", 1),
    "record": lambda s: s.record("cell", {"a": 79}),
}
LEADING: dict[str, Callable[[Session], Any]] = {"freeze": lambda s: s.set("session.frozen", True)}
WHO_MAY = {"viewer": READING, "analyst": READING | CHANGING, "lead": READING | CHANGING | LEADING}
PEOPLE = {"viewer": "carol", "analyst": "bob", "lead": "anna"}


@pytest.mark.parametrize("way", ["direct", "service"])
@pytest.mark.parametrize("role", list(WHO_MAY))
def test_every_role_may_do_what_is_its_own_and_nothing_else_whichever_way_it_comes(
    role: Any, way: str, service: RunningService, opened: Callable[..., Session]
) -> None:
    Session("p1/lyso", service.catalogue, "owner").close()
    catalogue, person = Catalogue(service.catalogue), Person(PEOPLE[role], PEOPLE[role].title(), role)

    def what_was_changed() -> list[Change]:
        with catalogue.connected() as connection:
            found = changes_after(connection, session_id(connection, "p1", "lyso") or 0, 0)
        return [change for change in found if change.kind != "presence"]

    session = opened(person.name) if way == "service" else Session("p1/lyso", service.catalogue, person)
    with session:
        assert session.person == person
        assert session.may_change() == (role != "viewer")
        for name, operation in (READING | CHANGING | LEADING).items():
            before = what_was_changed()
            if name in WHO_MAY[role]:
                operation(session)
                assert len(what_was_changed()) == len(before) + (name not in READING), name
            else:
                with pytest.raises(NotAllowedError, match=f"{person.name}, {role}"):
                    operation(session)
                assert what_was_changed() == before, name


def test_people_in_one_session_see_what_each_other_do(
    opened: Callable[..., Session], eventually: Callable[..., bool]
) -> None:
    anna, bob, carol = opened("anna"), opened("bob", "lyso"), opened("carol")
    seen: list[Change] = []
    carol.subscribe(seen.append)
    for i in range(50):
        (anna, bob)[i % 2].set("view.frame", i)
    expected = [(i, ("anna", "bob")[i % 2]) for i in range(50)]
    assert eventually(lambda: [(c.value, c.person) for c in seen if c.kind == "value"] == expected)
    numbers = [change.number for change in seen]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    carol.look_at({"frame": 3})
    assert [(p.name, p.role, p.looking_at) for p in anna.present()] == [
        ("anna", "lead", None), ("bob", "analyst", None), ("carol", "viewer", {"frame": 3}),
    ]  # fmt: skip
    bob.close()
    assert eventually(lambda: [p.name for p in anna.present()] == ["anna", "carol"])


def test_kernels_at_the_catalogue_and_at_the_service_see_the_same(
    service: RunningService, opened: Callable[..., Session], eventually: Callable[..., bool]
) -> None:
    anna = opened("anna")
    with Session("p1/lyso", service.catalogue, "owner") as owner:
        seen: list[list[Any]] = [[], []]
        anna.subscribe(lambda change: seen[0].append(change), "view.")
        owner.subscribe(lambda change: seen[1].append(change), "view.")
        owner.set("view.frame", 1)
        anna.set("view.frame", 2)
        assert eventually(lambda: [len(one) for one in seen] == [2, 2])
        assert seen[0] == seen[1]


def test_everybody_hears_of_the_own_session_only(
    opened: Callable[..., Session], eventually: Callable[..., bool]
) -> None:
    sessions = [opened("bob", f"p1/{name}") for name in ("one", "two", "three")]
    seen: list[list[Any]] = [[], [], []]
    for session, own in zip(sessions, seen, strict=True):
        session.subscribe(lambda change, own=own: own.append(change.value), "view.")
    for i in range(30):
        sessions[i % 3].set("view.frame", i)
    assert eventually(lambda: seen == [list(range(n, 30, 3)) for n in range(3)])


def test_nobody_learns_of_the_sessions_of_other_proposals(
    service: RunningService, opened: Callable[..., Session]
) -> None:
    opened("anna").set("x", 1)
    for name, session in (("dora", "p1/lyso"), ("dora", "p1/none"), ("bob", "p3/lyso"), ("bob", "p2/lyso")):
        with pytest.raises(UnknownSessionError, match="no such session for you") as refused:
            opened(name, session)
        assert "anna" not in str(refused.value)
    listed = {name: ask(service.address, "api/sessions", token_of(name))["sessions"] for name in ("carol", "dora")}
    assert [(one["proposal"], one["name"], one["role"]) for one in listed["carol"]] == [("p1", "lyso", "viewer")]
    assert listed["dora"] == []


def test_a_session_without_a_proposal_is_of_the_only_one_that_the_person_has(opened: Callable[..., Session]) -> None:
    opened("bob", "lyso").set("x", 1)
    assert opened("anna", "p1/lyso").get("x") == 1
    with pytest.raises(UnknownSessionError, match="proposal/name"):
        opened("anna", "lyso")


def test_a_viewer_makes_no_session_through_the_service(service: RunningService, opened: Callable[..., Session]) -> None:
    with pytest.raises(UnknownSessionError):
        opened("carol", "p1/new")
    assert ask(service.address, "api/sessions", token_of("carol"))["sessions"] == []


def test_without_a_valid_token_nothing_is_answered(service: RunningService) -> None:
    asked = {
        "api/open": {"session": "p1/lyso", "make": True},
        "api/call": {"session": "p1/lyso", "client": "c", "operation": "get", "arguments": {"name": "x"}},
        "api/sessions": None,
        "api/feed?session=p1/lyso&client=c&after=0": None,
    }
    for path, body in asked.items():
        for token in ("", "x", "token-of-nobody-for-these-tests"):
            with pytest.raises(NotAllowedError, match="does not know who you are"):
                ask(service.address, path, token, body)


def test_a_request_that_makes_no_sense_is_a_sentence(service: RunningService, opened: Callable[..., Session]) -> None:
    opened("bob")
    for body in (
        {"operation": "erase", "arguments": {}},
        {"operation": "get", "arguments": {}},
        {"operation": "get", "arguments": {"name": "x", "at": 1}},
        {"operation": "get", "arguments": []},
        {"operation": ["get"], "arguments": {}},
        {"operation": "set", "arguments": {"name": "x"}},
        {"operation": "tag", "arguments": {"kind": "frame", "items": "1", "tag": "ice"}},
        {"operation": "tag", "arguments": {"kind": "frame", "items": [], "tag": "ice"}},
        {"operation": "vote", "arguments": {"on": "frame 1", "choice": 99}},
        {"operation": "comment", "arguments": {"on": "frame 1", "text": {"a": 1}}},
        {"operation": "records", "arguments": {"kind": "value"}},
        {"operation": "changes", "arguments": {"after": "x"}},
        {},
    ):
        with pytest.raises(SessionError) as refused:
            ask(service.address, "api/call", token_of("bob"), {"session": "lyso", "client": "c"} | body)
        assert type(refused.value) is SessionError, body
        assert "Traceback" not in str(refused.value)


def test_the_service_checks_sizes_itself(service: RunningService, opened: Callable[..., Session]) -> None:
    opened("bob")
    asked = {"session": "lyso", "client": "c", "operation": "set", "arguments": {"name": "x", "value": "x" * 1_100_000}}
    with pytest.raises(ValueTooBigError, match="1100002 bytes"):
        ask(service.address, "api/call", token_of("bob"), asked)


def test_a_service_that_restarts_costs_no_change(
    service: RunningService, opened: Callable[..., Session], eventually: Callable[..., bool]
) -> None:
    anna, bob = opened("anna"), opened("bob")
    seen: list[Any] = []
    bob.subscribe(lambda change: seen.append(change.value), "view.")
    anna.set("view.frame", 1)
    assert eventually(lambda: seen == [1])
    service.stop()
    with pytest.raises(CatalogueError, match="does not answer"):
        anna.set("view.frame", 2)
    assert eventually(lambda: bob.trouble is not None)
    with Session("p1/lyso", service.catalogue, "owner") as owner:  # while nobody at the service hears of it
        for i in range(3, 60):
            owner.set("view.frame", i)
    service.start()
    assert eventually(lambda: seen == [1, *range(3, 60)])
    assert eventually(lambda: [person.name for person in anna.present()] == ["anna", "bob"])


def test_who_is_struck_off_loses_access_while_connected(
    service: RunningService, opened: Callable[..., Session], eventually: Callable[..., bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("sfxlab.session.service._ASKED_AGAIN", 0.2)
    anna, bob = opened("anna"), opened("bob")
    anna.set("x", 1)
    service.let_in({name: roles for name, roles in ROLES.items() if name != "bob"})
    with pytest.raises(NotAllowedError):
        bob.get("x")
    assert eventually(lambda: [person.name for person in anna.present()] == ["anna"])
    assert eventually(lambda: "does not know who you are" in str(bob.trouble))
    service.let_in(ROLES | {"bob": {"p1": "viewer"}})
    with pytest.raises(NotAllowedError, match="bob, viewer"):
        bob.set("x", 2)


def test_a_subscriber_that_takes_its_time_misses_nothing_and_holds_up_nobody(
    opened: Callable[..., Session], eventually: Callable[..., bool]
) -> None:
    quick, slow = opened("bob"), opened("carol")
    go, seen = threading.Event(), ([], [])  # type: ignore[var-annotated]
    slow.subscribe(lambda change: (go.wait(60), seen[0].append(change.number)), "view.")
    quick.subscribe(lambda change: seen[1].append(change.number), "view.")
    for i in range(30):
        quick.set("view.frame", i)
    assert eventually(lambda: len(seen[1]) == 30)
    assert seen[0] == []
    go.set()
    assert eventually(lambda: seen[0] == seen[1])


def test_the_service_knows_better_who_somebody_is(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFXLAB_TOKEN", token_of("bob"))
    with pytest.raises(NotAllowedError, match="somebody else"):
        Session("p1/lyso", service.address, "anna")
    with Session("p1/lyso", service.address, "bob") as session:
        assert session.person.role == "analyst"
    for name in ("SFXLAB_TOKEN", "JUPYTERHUB_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NotAllowedError, match="SFXLAB_TOKEN"):
        Session("p1/lyso", service.address)


@pytest.mark.parametrize("address", ["postgresql"], indirect=True)
def test_a_service_whose_database_is_gone_says_so(
    service: RunningService, opened: Callable[..., Session], request: pytest.FixtureRequest
) -> None:
    opened("bob")
    server = request.getfixturevalue("postgresql")
    server.stop()
    try:
        with pytest.raises(CatalogueError, match="cannot be reached"):
            ask(service.address, "api/health", "")
    finally:
        server.start()
    assert ask(service.address, "api/health", "")["status"] == "well"


HOLDER = {"name": "anna", "token": "t" * 20, "proposals": {"p1": "lead"}}


class TestFilesOfTokens:
    def file(self, folder: Path, mode: int = 0o600, **changes: Any) -> Path:
        path = folder / "tokens.toml"
        path.write_text(tomli_w.dumps({"people": [HOLDER | changes]}))
        path.chmod(mode)
        return path

    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
    def test_one_that_others_may_open_is_refused(self, tmp_path: Path, mode: int) -> None:
        with pytest.raises(SessionError, match=rf"open to others[\s\S]*{mode:04o}[\s\S]*chmod 600"):
            TokenFile(self.file(tmp_path, mode))

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"token": "short"}, "token"), ({"proposals": {"p1": "boss"}}, "boss"), ({"nickname": "a"}, "unknown key"),
            ({"name": " "}, "name"),
        ],
    )  # fmt: skip
    def test_one_with_mistakes_says_which(self, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
        with pytest.raises(SessionError, match=words):
            TokenFile(self.file(tmp_path, **changes))

    def test_one_that_is_missing_or_gives_two_people_one_token_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SessionError, match="cannot be read"):
            TokenFile(tmp_path / "none.toml")
        path = self.file(tmp_path)
        path.write_text(tomli_w.dumps({"people": [HOLDER, HOLDER | {"name": "bob"}]}))
        with pytest.raises(SessionError, match="same token"):
            TokenFile(path)

    def test_one_that_becomes_open_to_others_lets_nobody_in_any_more(self, tmp_path: Path) -> None:
        path = self.file(tmp_path)
        who_asks = TokenFile(path)
        asker = asyncio.run(who_asks("t" * 20))
        assert asker is not None
        assert asker.in_proposal("p1") == Person("anna", "anna", "lead")
        assert asyncio.run(who_asks("t" * 21)) is None
        path.chmod(0o644)
        with pytest.raises(SessionError, match="open to others"):
            asyncio.run(who_asks("t" * 20))


def test_groups_of_a_hub_give_the_highest_role_in_each_proposal() -> None:
    groups = ["p1", "p1-viewer", "p1-lead", "p2-analyst", "staff", "-lead", "p-3-viewer"]
    assert HubGroups().roles(groups) == {"p1": "lead", "p2": "analyst", "p-3": "viewer"}
    assert HubGroups(lead="pi:{proposal}", viewer="{proposal}").roles(["pi:p1", "p2"]) == {
        "pi:p1": "viewer", "p1": "lead", "p2": "viewer",
    }  # fmt: skip


def test_errors_travel_with_their_parts() -> None:
    from sfxlab.session.wire import error_from_wire, error_to_wire

    status, told = error_to_wire(NotAllowedError("no", found=3, expected="yes", remedy="ask", path="/secret"))
    again = error_from_wire(json.loads(json.dumps(told)), "http://host")
    assert status == 403
    assert type(again) is NotAllowedError
    assert (again.problem, again.found, again.expected, again.remedy) == ("no", 3, "yes", "ask")
    assert "secret" not in str(again)
    for nonsense in (None, "<html>", {}, {"error": {"kind": "Exit"}}):
        assert type(error_from_wire(nonsense, "http://host")) is CatalogueError
