"""What of an onlooker's messages is put together anew for the kernel; test_access.py shows the same on a real one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import sfxlab.widgets
from sfxlab.hub.onlookers import READING, Heard, Onlooker

HEADER = {"msg_id": "m1", "msg_type": "comm_msg", "session": "anna's", "username": "anna", "subshell_id": "hers"}


def _hear(onlooker: Onlooker, content: Any, kind: str = "comm_msg", **metadata: Any) -> Heard:
    parts = [{**HEADER, "msg_type": kind}, {"msg_id": "parent"}, metadata, content]
    return onlooker.hear("shell", [*(json.dumps(part).encode() for part in parts), b"buffer"])


def test_what_passes_says_who_asks_and_holds_nothing_that_was_not_looked_at() -> None:
    carol = Onlooker("carol")
    data = {"method": "request_state", "content": {"kind": "page"}, "state": {"value": 1}}
    heard = _hear(carol, {"comm_id": "c", "data": data, "more": 1}, version="2.1.0", cellId="x")
    assert heard.passed is not None
    header, parent, metadata, content = (json.loads(part) for part in heard.passed)
    assert header.pop("date")
    assert header == {
        "msg_id": f"{carol.name}m1", "msg_type": "comm_msg", "session": f"{carol.name}anna's", "username": "carol",
        "version": "5.3",
    }  # fmt: skip
    assert (parent, metadata) == ({}, {"version": "2.1.0"})
    assert content == {"comm_id": "c", "data": {"method": "request_state"}}
    assert (heard.answers, heard.refused) == ([], "")


def test_messages_of_widgets_keep_no_field_by_which_others_act() -> None:
    carol = Onlooker("carol")
    said = {"kind": "picture", "client": "mine", "frame": 3, "event": "click", "size": [400, 300]}
    heard = _hear(carol, {"comm_id": "button", "data": {"method": "custom", "content": said}})
    assert heard.passed is not None
    content = json.loads(heard.passed[3])["data"]["content"]
    assert content == {"kind": "picture", "client": f"{carol.name}mine", "frame": 3, "size": [400, 300]}


def test_pages_are_called_by_the_names_that_they_know_and_buffers_stay_as_they_are() -> None:
    carol, dan = Onlooker("carol"), Onlooker("dan")
    parts = [json.dumps({"a": f"{carol.name}m1", "b": f"{dan.name}m1"}).encode()] * 4 + [carol.name.encode()]
    back = carol.name_back(parts)
    assert json.loads(back[3]) == {"a": "m1", "b": f"{dan.name}m1"}
    assert back[4] == parts[4]


@pytest.mark.parametrize(
    "content",
    [
        *(None, 1, [], "x", {}, {"comm_id": 1, "data": {"method": "request_state"}}),
        *({"comm_id": "c", "data": []}, {"comm_id": "c", "data": {"method": "update"}}),
    ],
)
def test_contents_of_other_shapes_do_no_harm(content: Any) -> None:
    heard = _hear(Onlooker("carol"), content)
    assert heard.refused
    assert heard.passed is None or json.loads(heard.passed[3])["data"] == {"method": "request_state"}


@pytest.mark.parametrize("parts", [[], [b"{}"] * 4, [b"x"] * 4, [b"[]"] * 4, [b"[" * 100_000] * 4, [b"\xff"] * 5])
def test_messages_that_are_none_are_refused(parts: list[bytes]) -> None:
    heard = Onlooker("carol").hear("shell", parts)
    assert (heard.passed, heard.answers, heard.refused) == (None, [], "a message that is none")


def test_what_is_let_through_to_widgets_is_what_they_ask_for_their_own_page() -> None:
    """Each message of sfxlab's widgets is either among those or changes something, which somebody looked at."""
    acting = {
        "about", "apply", "brush", "cancel", "comment", "find", "follow", "group", "page", "propose", "save", "select",
        "show", "step", "table", "tag", "vote",
    }  # fmt: skip
    folder = Path(sfxlab.widgets.__file__).parent / "static"
    text = "".join(path.read_text() for path in folder.glob("*.js"))
    sent = set(re.findall(r"(?:send|tell)\(\{\s*kind: \"(\w+)\"", text))
    assert sent - acting == set(READING)
    assert acting <= sent
    fields = {name for names in READING.values() for name in names}
    assert all(re.search(rf"\b{name}\b", text) for name in fields)
