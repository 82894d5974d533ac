"""Kernels' websockets of those who may only look: their pages show widgets, and nothing they send acts.

A page asks a kernel for the state of its widgets, and hears what changes. What an onlooker's page sends is put together
anew where it asks for state, under names of messages, comms and pages that no other connection has, so that nobody
speaks in another one's name; the rest is refused, and answered so that the page does not wait. What the kernel says
goes to the page as it is. Messages are those of Jupyter's protocol (jupyter-client.readthedocs.io, "Messaging"),
widgets and their control channel those of ipywidgets ("Widget messaging protocol").
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jupyter_client.session import DELIM
from jupyter_server.services.kernels.connection.base import deserialize_msg_from_ws_v1, serialize_msg_to_ws_v1
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

from sfxlab.hub.roles import RUN, covers

PROTOCOL = "v1.kernel.websocket.jupyter.org"
"""The only one that onlookers may speak; JupyterLab does."""
_PICTURE = ("client", "request", "frame", "region", "size", "bits", "show_bad", "marks", "direction", "of")
READING = {
    "hello": ("client",),
    "picture": _PICTURE,
    "pointer": ("client", "request", "frame", "x", "y"),
    "rows": ("client", "first", "count"),
}
"""Messages of sfxlab's own widgets that are answered to the page that asks and change nothing: their fields by `kind`.

Others are left out, since widgets of other makers take messages by other fields: a button is pressed by `event`.
"""

_CONTROL = "jupyter.widget.control"
_REFUSAL = "you may look here; to run or change something, ask a lead to make you analyst"
_MOST_KINDS = 50
"""Of refused messages that the log tells apart."""


@dataclass(frozen=True)
class Heard:
    """What becomes of a message of an onlooker's page."""

    passed: list[bytes] | None
    """For the kernel: header, parent header, metadata and content, JSON; None for nothing."""
    answers: list[tuple[str, list[bytes]]]
    """For the page, from here: channel and message."""
    refused: str
    """What was refused, in words; empty for nothing."""


class Onlooker:
    """One page of somebody who may look."""

    def __init__(self, person: str) -> None:
        self.person, self.name = person, f"{secrets.token_hex(16)}-"

    def hear(self, channel: str, parts: list[bytes]) -> Heard:
        """Take apart what the page sends: header, parent header, metadata, content, and buffers, which go nowhere."""
        try:
            header, _, metadata, content = (json.loads(part) for part in parts[:4])
            kind, identity, page = str(header["msg_type"]), str(header["msg_id"]), str(header.get("session", ""))
            version = str(metadata.get("version", ""))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return Heard(None, [], "a message that is none")
        asked = self._question(kind, content) if channel == "shell" else None
        changed = kind == "comm_msg" and _method(content) == "update"
        passed = None
        if asked is not None:
            told = _header(kind, self.name + identity, self.name + page, self.person)
            passed = [_json(told), b"{}", _json({"version": version} if version else {}), _json(asked)]
        answers = []
        if changed:
            # The page waits for the echo of its change, and takes in no other's until then.
            state = {"method": "echo_update", "state": content["data"].get("state", {}), "buffer_paths": []}
            answers.append(("iopub", _message("comm_msg", parts[0], {"comm_id": content["comm_id"], "data": state})))
        elif asked is None:
            answers += self._no(kind, channel, parts[0])
        return Heard(passed, answers, _words(channel, kind, content) if asked is None or changed else "")

    def _question(self, kind: str, content: Any) -> dict[str, Any] | None:
        """The content of a message that asks for state, made anew; None for any other."""
        match kind, content:
            case "kernel_info_request", _:
                return {}
            case "comm_info_request", {"target_name": str(target)}:
                return {"target_name": target}
            case "comm_info_request", _:
                return {}
            case "comm_open", {"comm_id": str(comm), "target_name": "jupyter.widget.control"}:
                return {"comm_id": self.name + comm, "target_name": _CONTROL, "data": {}}
            case "comm_close", {"comm_id": str(comm)}:
                return {"comm_id": self.name + comm, "data": {}}
            case "comm_msg", {"comm_id": str(comm), "data": {"method": "request_states"}}:
                return {"comm_id": self.name + comm, "data": {"method": "request_states"}}
            case "comm_msg", {"comm_id": str(comm), "data": {"method": "request_state" | "update"}}:
                # Whoever tries to change something is shown again what it is.
                return {"comm_id": comm, "data": {"method": "request_state"}}
            case "comm_msg", {"comm_id": str(comm), "data": {"method": "custom", "content": dict(said)}}:
                if (read := self._reading(said)) is not None:
                    return {"comm_id": comm, "data": {"method": "custom", "content": read}}
        return None

    def _reading(self, said: dict[str, Any]) -> dict[str, Any] | None:
        """A message of a widget that only reads; answers come to the page by its name, which is made its own."""
        kind, client = said.get("kind"), said.get("client")
        if not isinstance(kind, str) or kind not in READING or not isinstance(client, str):
            return None
        fields = {name: said[name] for name in READING[kind] if name in said}
        return {**fields, "kind": kind, "client": self.name + client}

    def _no(self, kind: str, channel: str, parent: bytes) -> list[tuple[str, list[bytes]]]:
        idle = ("iopub", _message("status", parent, {"execution_state": "idle"}))
        if not kind.endswith("_request"):
            return [idle]
        content = {"status": "error", "ename": "NotAllowedError", "evalue": _REFUSAL, "traceback": []}
        return [(channel, _message(kind.removesuffix("request") + "reply", parent, content)), idle]

    def name_back(self, parts: list[bytes]) -> list[bytes]:
        """A message of the kernel with the names that the page knows."""
        mine = self.name.encode()
        return [part.replace(mine, b"") if i < 4 else part for i, part in enumerate(parts)]


class KernelConnection(ZMQChannelsWebsocketConnection):
    """Jupyter Server's connection of a page and a kernel, which onlookers have, too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        user = self.websocket_handler.current_user
        self._onlooker = None if covers(set(user.hub_user["scopes"]), RUN) else Onlooker(user.username)
        self._refused: Counter[str] = Counter()

    async def prepare(self) -> None:
        if self._onlooker is not None:
            # Instead of the name that the page gives, which could be another page's.
            self.session.session = self._onlooker.name
        await super().prepare()  # type: ignore[no-untyped-call]

    def connect(self) -> Any:
        """Connect; what is kept for a page whose connection broke goes on to be kept when an onlooker comes."""
        if self._onlooker is None:
            return super().connect()
        kernels, kernel = self.multi_kernel_manager, self.kernel_id
        kept = kernels._kernel_buffers.pop(kernel, None)
        try:
            connected = super().connect()
        finally:
            if kept is not None:
                kernels._kernel_buffers[kernel] = kept
            kernels.notify_disconnect(kernel)
        return connected

    def disconnect(self) -> None:  # type: ignore[override]
        """Disconnect; onlookers are not counted, since nothing is kept for them."""
        if self._onlooker is None:
            super().disconnect()  # type: ignore[no-untyped-call]
            return
        for what, times in self._refused.items():
            self.log.info("refused to %s, who may look, %d times: %s", self._onlooker.person, times, what)
        self._refused.clear()
        kernels, kernel = self.multi_kernel_manager, self.kernel_id
        kernels.notify_connect(kernel)
        kernels.notify_connect(kernel)
        super().disconnect()  # type: ignore[no-untyped-call]
        kernels.notify_disconnect(kernel)

    def handle_incoming_message(self, incoming_msg: Any) -> None:
        if self._onlooker is None:
            super().handle_incoming_message(incoming_msg)
            return
        heard = self._onlooker.hear(*(_taken_apart(incoming_msg) if self.subprotocol == PROTOCOL else ("", [])))
        if heard.refused:
            self._record(heard.refused)
        for channel, parts in heard.answers:
            self.write_message(_put_together(parts, channel), binary=True)
        if heard.passed is not None:
            super().handle_incoming_message(_put_together(heard.passed, "shell"))

    def handle_outgoing_message(self, stream: Any, outgoing_msg: list[Any]) -> None:
        if self._onlooker is not None and self.subprotocol == PROTOCOL:
            first = outgoing_msg.index(DELIM) + 2
            outgoing_msg = [*outgoing_msg[:first], *self._onlooker.name_back(outgoing_msg[first:])]
        super().handle_outgoing_message(stream, outgoing_msg)

    def _record(self, what: str) -> None:
        if what not in self._refused and len(self._refused) < _MOST_KINDS:
            person = self.websocket_handler.current_user.username
            self.log.warning("%s may look at kernel %s, and no more: refused %s", person, self.kernel_id, what)
        if what in self._refused or len(self._refused) < _MOST_KINDS:
            self._refused[what] += 1


def _taken_apart(message: Any) -> tuple[str, list[bytes]]:
    """Channel and parts of a message of the websocket, which begins with their number and places; else nothing."""
    n = int.from_bytes(message[:8], "little") if isinstance(message, bytes) else 0
    if not 6 <= n <= 100 or len(message) < 8 * (n + 1):
        return "", []
    try:
        channel, parts = deserialize_msg_from_ws_v1(message)  # type: ignore[no-untyped-call]
    except UnicodeDecodeError:
        return "", []
    return channel, parts


def _put_together(parts: list[bytes], channel: str) -> Any:
    return serialize_msg_to_ws_v1(parts, channel)  # type: ignore[no-untyped-call]


def _method(content: Any) -> str:
    match content:
        case {"comm_id": str(), "data": {"method": str(method)}}:
            return method
    return ""


def _words(channel: str, kind: str, content: Any) -> str:
    what = [kind, channel] if channel != "shell" else [kind]
    match content:
        case {"data": {"method": str(method), **data}}:
            said = data.get("content")
            what += [method, *([str(said["kind"])] if isinstance(said, dict) and "kind" in said else [])]
        case {"target_name": str(target)}:
            what.append(target)
    return repr(" ".join(what))[1:-1][:80]


def _header(kind: str, identity: str, page: str, person: str) -> dict[str, str]:
    now = datetime.now(UTC).isoformat()
    return {"msg_id": identity, "msg_type": kind, "session": page, "username": person, "date": now, "version": "5.3"}


def _message(kind: str, parent: bytes, content: dict[str, Any]) -> list[bytes]:
    return [_json(_header(kind, secrets.token_hex(16), "", "")), parent, b"{}", _json(content)]


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()
