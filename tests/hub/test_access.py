"""Who gets where, asked of a real JupyterHub with servers under real accounts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from pycrdt import Doc, Text, YMessageType, create_sync_message, create_update_message, handle_sync_message
from websocket import (
    ABNF,
    WebSocket,
    WebSocketBadStatusException,
    WebSocketTimeoutException,
)

PROPOSALS = """
[proposals.one@]
title = "One"
members = { anna@ = "lead", bob@ = "analyst", carol@ = "viewer", fred@ = "analyst", gina@ = "analyst" }

[proposals.two@]
title = "Two"
members = { dan@ = "lead" }

[proposals.past@]
title = "Past"
members = { eve@ = "lead" }
ends = 2020-01-01
"""

ALL, RUNNERS = {"anna", "bob", "carol"}, {"anna", "bob"}

# Routes of the proposal's shared server, and who gets through; everybody else must not.
ROUTES: dict[tuple[str, str], tuple[dict[str, str], set[str]]] = {
    ("GET", "api/status"): ({}, ALL),
    ("GET", "api/contents"): ({}, ALL),
    ("GET", "api/contents/seen.txt"): ({}, ALL),
    ("GET", "files/seen.txt"): ({}, ALL),
    ("GET", "lab"): ({}, ALL),
    ("GET", "api/kernels"): ({}, ALL),
    ("GET", "api/sessions"): ({}, ALL),
    ("POST", "api/kernels"): ({}, RUNNERS),
    ("POST", "api/terminals"): ({}, RUNNERS),
    ("PUT", "api/contents/PERSON.txt"): ({"type": "file", "format": "text", "content": "x"}, RUNNERS),
    ("PATCH", "api/contents/seen.txt"): ({"path": "seen.txt"}, RUNNERS),
    ("DELETE", "api/contents/PERSON.txt"): ({}, RUNNERS),
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, start_hub: Callable[..., Any]) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("hub")
    people = ["anna", "bob", "carol", "dan", "eve", "fred", "gina"]
    accounts = ["proposal-one", "proposal-two", "proposal-past"]
    with start_hub(folder, PROPOSALS, people, accounts) as running:
        Path(f"~{running.name('proposal-one')}/seen.txt").expanduser().write_text("all members see this")
        assert running.start_server("bob", running.name("proposal-one")).status_code in (201, 202)
        yield running


@pytest.mark.parametrize("person", ["anna", "bob", "carol", "dan", "nobody"])
@pytest.mark.parametrize("route", list(ROUTES), ids=" ".join)
def test_each_route_lets_in_whom_it_should(hub: Any, person: str, route: tuple[str, str]) -> None:
    (method, path), (body, let_in) = route, ROUTES[route]
    if method == "DELETE":
        Path(f"~{hub.name('proposal-one')}/{person}.txt").expanduser().touch()
    url = f"/user/{hub.name('proposal-one')}/{path.replace('PERSON', person)}"
    answer = hub.ask(person, method, url, json=body) if method != "GET" else hub.ask(person, method, url)
    if person in let_in:
        assert answer.status_code < 300
    else:
        assert answer.status_code in (302, 403, 404)
        assert "all members see this" not in answer.text


def test_members_of_proposals_that_have_ended_cannot_log_in(hub: Any) -> None:
    assert hub.log_in("eve").status_code == 403


def test_only_analysts_and_leads_start_and_stop_the_shared_server(hub: Any) -> None:
    other = hub.name("proposal-two")
    for person in ("anna", "bob", "carol"):
        assert hub.ask(person, "POST", f"/hub/api/users/{other}/server").status_code in (403, 404)
    shared = hub.name("proposal-one")
    for person in ("carol", "dan"):
        assert hub.ask(person, "DELETE", f"/hub/api/users/{shared}/server").status_code in (403, 404)


def test_nobody_sees_who_is_in_other_proposals(hub: Any) -> None:
    for person in ("anna", "bob", "carol"):
        assert hub.ask(person, "GET", f"/hub/api/users/{hub.name('dan')}").status_code in (403, 404)
        assert hub.ask(person, "GET", f"/hub/api/groups/two{hub.suffix}").status_code in (403, 404)
        users = hub.ask(person, "GET", "/hub/api/users")
        assert hub.name("dan") not in users.text


def test_only_leads_invite(hub: Any) -> None:
    path = f"/hub/api/share-codes/{hub.name('proposal-one')}/"
    server = f"server={hub.name('proposal-one')}/"
    wanted = {"scopes": [f"access:servers!{server}", f"custom:sfxlab:look!{server}"], "expires_in": 3600}
    assert hub.ask("anna", "POST", path, json=wanted).json()["expires_at"]
    for person in ("bob", "carol", "dan"):
        assert hub.ask(person, "POST", path, json=wanted).status_code in (403, 404)


def test_files_outside_the_servers_directory_are_out_of_reach(hub: Any) -> None:
    """By `..` and by links: a server runs under the proposal's own account, whose files only it may read."""
    other = Path(f"~{hub.name('proposal-two')}").expanduser()
    (other / "secret.txt").write_text("theirs")
    mine = Path(f"~{hub.name('proposal-one')}").expanduser()
    (mine / "link").symlink_to(other)
    base = f"/user/{hub.name('proposal-one')}"
    for path in (
        f"api/contents/../{other.name}/secret.txt", f"api/contents/%2e%2e/{other.name}/secret.txt",
        f"files/%2e%2e/{other.name}/secret.txt", "api/contents/link/secret.txt", "files/link/secret.txt",
    ):  # fmt: skip
        answer = hub.ask("anna", "GET", f"{base}/{path}")
        assert answer.status_code >= 400
        assert "theirs" not in answer.text


def test_who_is_taken_out_is_out_with_every_token(hub: Any) -> None:
    shared = f"/user/{hub.name('proposal-one')}/api/contents"
    assert hub.ask("fred", "GET", shared).status_code == 200
    before = hub.proposals.read_text()
    hub.proposals.write_text(before.replace(f', fred{hub.suffix} = "analyst"', ""))
    deadline = time.monotonic() + 30
    while hub.ask("fred", "GET", shared).status_code == 200 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert hub.ask("fred", "GET", shared).status_code == 403
    assert hub.ask("fred", "GET", "/hub/api/user").status_code == 403
    assert hub.log_in("fred").status_code == 403
    assert hub.ask("bob", "GET", shared).status_code == 200


def _kernel(hub: Any, person: str) -> str:
    shared = f"/user/{hub.name('proposal-one')}"
    return f"{shared}/api/kernels/{hub.ask(person, 'POST', f'{shared}/api/kernels', json={}).json()['id']}/channels"


def test_websockets_of_kernels_are_for_those_who_run_code(hub: Any) -> None:
    kernel = _kernel(hub, "bob")
    for person in ("anna", "bob"):
        hub.connect(person, kernel).close()
    for person in ("carol", "dan"):
        with pytest.raises(WebSocketBadStatusException, match="403"):
            hub.connect(person, kernel)


def test_viewers_follow_a_shared_text_and_change_nothing(hub: Any) -> None:
    shared = f"/user/{hub.name('proposal-one')}"
    (Path(f"~{hub.name('proposal-one')}").expanduser() / "together.txt").write_text("before")
    kind = {"format": "text", "type": "file"}
    room = hub.ask("bob", "PUT", f"{shared}/api/collaboration/session/together.txt", json=kind).json()
    path = f"{shared}/api/collaboration/room/text:file:{room['fileId']}?sessionId={room['sessionId']}"

    def write(person: str) -> str:
        """What this person reads before trying to add to it."""
        with closing(hub.connect(person, path)) as socket:
            document = Doc()
            document["source"] = source = Text()
            socket.send_binary(create_sync_message(document))
            _take_in(socket, document)
            seen = str(source)
            source += ", after"
            socket.send_binary(create_update_message(document.get_update()))
            _take_in(socket, document)
        return seen

    assert write("carol") == "before"
    assert write("bob") == "before"
    assert write("carol") == "before, after"


def _take_in(socket: WebSocket, document: Any) -> None:
    """Take in what comes until nothing comes for a second."""
    socket.settimeout(1)
    with suppress(WebSocketTimeoutException):
        while message := socket.recv():
            if message[0] == YMessageType.SYNC and (reply := handle_sync_message(message[1:], document)):
                socket.send_binary(reply)


def test_open_websockets_of_who_is_taken_out_are_closed(hub: Any) -> None:
    kernel = _kernel(hub, "gina")
    with closing(hub.connect("gina", kernel)) as theirs, closing(hub.connect("bob", kernel)) as another:
        before = hub.proposals.read_text()
        hub.proposals.write_text(before.replace(f', gina{hub.suffix} = "analyst"', ""))
        while (frame := theirs.recv_frame()).opcode != ABNF.OPCODE_CLOSE:
            pass
        assert int.from_bytes(frame.data[:2], "big") == 1008
        another.ping()
