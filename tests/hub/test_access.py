"""Who gets where, asked of a real JupyterHub with servers under real accounts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from jupyter_server.services.kernels.connection.base import deserialize_msg_from_ws_v1, serialize_msg_to_ws_v1
from pycrdt import Doc, Text, YMessageType, create_sync_message, create_update_message, handle_sync_message
from websocket import (
    ABNF,
    WebSocket,
    WebSocketBadStatusException,
    WebSocketTimeoutException,
)

from sfxlab.hub.onlookers import PROTOCOL, READING

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
    shared = hub.name("proposal-one")
    return f"/user/{shared}/api/kernels/{hub.start_kernel(person, shared)}/channels"


def test_kernels_of_a_proposal_are_closed_to_others(hub: Any) -> None:
    kernel = _kernel(hub, "bob")
    for person in ("anna", "bob", "carol"):
        hub.connect(person, kernel).close()
    with pytest.raises(WebSocketBadStatusException, match="403"):
        hub.connect("dan", kernel)


WIDGETS = """
import ipywidgets
number, button = ipywidgets.IntText(42), ipywidgets.Button()
heard = []
number.on_msg(lambda widget, content, buffers: heard.append(content["kind"]))
button.on_click(lambda widget: heard.append("click"))
print(number.model_id, button.model_id)
"""
"""Widgets of which `heard` says what reaches them."""


class Page:
    """What a browser's page has of a kernel: messages in Jupyter's protocol over its websocket."""

    def __init__(self, hub: Any, person: str, kernel: str, name: str = "page") -> None:
        path = f"/user/{hub.name('proposal-one')}/api/kernels/{kernel}/channels?session_id={name}"
        self.socket, self.name, self.sent = hub.connect(person, path, subprotocols=[PROTOCOL]), name, 0

    def send(self, kind: str, content: dict[str, Any], channel: str = "shell") -> str:
        """Send a message; its name."""
        self.sent += 1
        header = {
            "msg_id": f"{self.name}-{self.sent}", "msg_type": kind, "session": self.name, "username": "", "date": "",
            "version": "5.3",
        }  # fmt: skip
        parts = [json.dumps(part).encode() for part in (header, {}, {"version": "1.0.0"}, content)]
        self.socket.send_binary(serialize_msg_to_ws_v1(parts, channel))
        return header["msg_id"]

    def hear(self, until: Callable[[Any, Any, Any], bool]) -> Any:
        """The content of the first message with these header, parent header and content."""
        while True:
            _, parts = deserialize_msg_from_ws_v1(self.socket.recv())
            header, parent, _, content = (json.loads(part) for part in parts[:4])
            if until(header, parent, content):
                return content

    def answers(self, name: str) -> None:
        """Wait until a message of this page is done with."""
        self.hear(lambda _, parent, content: (
            parent.get("msg_id") == name and content.get("execution_state") == "idle"
        ))  # fmt: skip

    def reply(self, kind: str, **content: str) -> Any:
        """What the kernel replies to a request."""
        asked = self.send(kind, content)
        return self.hear(lambda header, parent, _: (
            header["msg_type"].endswith("_reply") and parent["msg_id"] == asked
        ))  # fmt: skip

    def states(self) -> Any:
        """The state of all widgets, as JupyterLab asks for it."""
        control = f"control-{self.sent}"
        self.send("comm_open", {"comm_id": control, "target_name": "jupyter.widget.control", "data": {}})
        self.send("comm_msg", {"comm_id": control, "data": {"method": "request_states"}})
        told = self.hear(lambda header, _, content: (
            header["msg_type"] == "comm_msg" and content["comm_id"] == control
        ))  # fmt: skip
        self.send("comm_close", {"comm_id": control, "data": {}})
        return {name: one["state"] for name, one in told["data"]["states"].items()}


@pytest.fixture
def page(hub: Any) -> Iterator[Callable[..., Page]]:
    """`page(person, kernel)`, closed at the end."""
    with ExitStack() as opened:

        def open_page(person: str, kernel: str, name: str = "page") -> Page:
            made = Page(hub, person, kernel, name)
            opened.callback(made.socket.close)
            return made

        yield open_page


@pytest.fixture(scope="module")
def widgets(hub: Any) -> tuple[str, str, str]:
    """A kernel of the shared server, and a number and a button in it."""
    shared = hub.name("proposal-one")
    kernel = hub.start_kernel("bob", shared)
    number, button = hub.run("bob", shared, WIDGETS, kernel).split()
    return kernel, number, button


def test_viewers_see_the_state_of_widgets_and_change_none(
    hub: Any, page: Callable[..., Page], widgets: tuple[str, str, str]
) -> None:
    (kernel, number, button), shared = widgets, hub.name("proposal-one")
    carol = page("carol", kernel)
    custom = {"method": "custom", "content": {"kind": "tag", "client": "mine"}}
    new = {"state": {"_model_module": "@jupyter-widgets/base", "_model_name": "LayoutModel"}, "buffer_paths": []}
    refused = [
        ("execute_request", {"code": "number.value = 1", "silent": False}, "shell"),
        ("execute_request", {"code": "number.value = 2", "silent": False}, "control"),
        ("complete_request", {"code": "number.", "cursor_pos": 7}, "shell"),
        ("inspect_request", {"code": "number", "cursor_pos": 6, "detail_level": 0}, "shell"),
        ("history_request", {"hist_access_type": "tail", "n": 9, "raw": True, "output": False}, "shell"),
        ("input_reply", {"value": "number.value = 3"}, "stdin"),
        ("shutdown_request", {"restart": False}, "control"),
        ("shutdown_request", {"restart": False}, "shell"),
        ("interrupt_request", {}, "control"),
        ("debug_request", {"type": "request", "command": "debugInfo", "seq": 1, "arguments": {}}, "control"),
        ("create_subshell_request", {}, "control"),
        ("comm_open", {"comm_id": "new", "target_name": "jupyter.widget", "data": new}, "shell"),
        ("comm_msg", {"comm_id": number, "data": {"method": "update", "state": {"value": 4}}}, "shell"),
        ("comm_msg", {"comm_id": number, "data": custom}, "shell"),
        ("comm_msg", {"comm_id": number, "data": {**custom, "content": {"kind": "picture"}}}, "shell"),
        ("comm_msg", {"comm_id": button, "data": {**custom, "content": {"event": "click"}}}, "shell"),
    ]  # fmt: skip
    for kind, content, channel in refused:
        carol.answers(carol.send(kind, content, channel))
    click = {"kind": "picture", "client": "mine", "event": "click"}
    carol.answers(carol.send("comm_msg", {"comm_id": button, "data": {"method": "custom", "content": click}}))
    carol.socket.send("not of this protocol")
    carol.send("comm_open", {"comm_id": number, "target_name": "jupyter.widget.control", "data": {}})
    carol.answers(carol.send("comm_close", {"comm_id": number, "data": {}}))
    assert carol.reply("kernel_info_request")["status"] == "ok"
    assert number in carol.reply("comm_info_request", target_name="jupyter.widget")["comms"]
    assert carol.states()[number]["value"] == 42
    assert hub.run("bob", shared, "print(number.value, heard)", kernel).strip() == "42 []"
    log = (hub.folder / "hub.log").read_text()
    for kind, _, _ in refused:
        assert f"refused {kind}" in log, kind


def test_what_a_viewer_set_on_the_own_page_is_set_right_there(
    hub: Any, page: Callable[..., Page], widgets: tuple[str, str, str]
) -> None:
    """Pages wait for an echo of what they change; with it comes the value that holds, for this one as for all."""
    kernel, number, _ = widgets
    carol = page("carol", kernel)
    asked = carol.send("comm_msg", {"comm_id": number, "data": {"method": "update", "state": {"value": 7}}})
    echo = carol.hear(lambda header, parent, _: header["msg_type"] == "comm_msg" and parent["msg_id"] == asked)
    assert echo["data"] == {"method": "echo_update", "state": {"value": 7}, "buffer_paths": []}
    truth = carol.hear(lambda header, parent, _: header["msg_type"] == "comm_msg" and parent["msg_id"] == asked)
    assert (truth["data"]["method"], truth["data"]["state"]["value"]) == ("update", 42)


def test_viewers_get_pictures_and_rows_that_they_ask_for(
    hub: Any, page: Callable[..., Page], widgets: tuple[str, str, str]
) -> None:
    kernel, number, _ = widgets
    shared = hub.name("proposal-one")
    carol = page("carol", kernel)
    for kind in READING:
        content = {"kind": kind, "client": "mine", "frame": 3}
        carol.answers(carol.send("comm_msg", {"comm_id": number, "data": {"method": "custom", "content": content}}))
    assert hub.run("bob", shared, "print(*heard)", kernel).split() == list(READING)


def test_viewers_take_no_other_pages_place(hub: Any, page: Callable[..., Page], widgets: tuple[str, str, str]) -> None:
    """Neither its name, nor the messages that are kept for it while its connection is broken."""
    kernel, number, _ = widgets
    bob = page("bob", kernel, "bobs")
    assert page("carol", kernel, "bobs").states()[number]["value"] == 42
    running = bob.send("execute_request", {"code": "import time; time.sleep(1); print('kept')", "silent": False})
    bob.hear(lambda header, parent, _: header["msg_type"] == "execute_input" and parent["msg_id"] == running)
    bob.socket.close()
    model = f"/user/{hub.name('proposal-one')}/api/kernels/{kernel}"
    _wait_for(lambda: hub.ask("bob", "GET", model).json()["connections"] == 0)
    page("carol", kernel).socket.close()
    page("carol", kernel)
    _wait_for(lambda: hub.ask("bob", "GET", model).json()["execution_state"] == "idle")
    back = page("bob", kernel, "bobs")
    kept = back.hear(lambda header, parent, _: header["msg_type"] == "stream" and parent["msg_id"] == running)
    assert kept["text"] == "kept\n"


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


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
