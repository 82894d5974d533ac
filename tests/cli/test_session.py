"""`sfxlab session`: sessions listed, shown and served."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w
from click.testing import Result

from sfxlab.session import NotAllowedError, Session

SFXLAB = str(Path(sys.executable).with_name("sfxlab"))
Sfxlab = Callable[..., Result]


@pytest.fixture
def catalogue(tmp_path: Path) -> str:
    """A catalogue with two sessions, of which one is told much."""
    address = f"sqlite:///{tmp_path}/sessions.sqlite"
    with Session("lyso", address, "anna") as session:
        session.set("view.frame", 17)
        session.tag("frame", ["17", "18"], "ice")
        session.comment("frame 17", "rings at 3.9 Å")
        session.record("cell", {"a": 79.1})
    Session("p1/photosystem", address, "bob").close()
    return address


def test_sessions_are_listed_with_what_happened_last(sfxlab: Sfxlab, catalogue: str) -> None:
    listed = json.loads(sfxlab("session", "list", "--catalogue", catalogue, "--json").stdout)
    assert [(one["proposal"], one["name"], one["person"]) for one in listed] == [
        ("p1", "photosystem", "bob"), ("", "lyso", "anna"),
    ]  # fmt: skip
    text = sfxlab("session", "list", "--catalogue", catalogue).stdout
    assert "p1/photosystem" in text
    assert "lyso" in text


def test_a_session_is_shown_with_all_that_is_in_it(sfxlab: Sfxlab, catalogue: str) -> None:
    shown = json.loads(sfxlab("session", "show", "lyso", "--catalogue", catalogue, "--json").stdout)
    assert shown["values"] == {"view.frame": 17}
    assert shown["tags"]["frame"] == {"ice": 2}
    assert [(one["name"], one["value"]) for one in shown["records"]] == [("cell", {"a": 79.1})]
    text = sfxlab("session", "show", "lyso", "--catalogue", catalogue).stdout
    for words in ("nobody", "view.frame", "17", "ice 2", "rings at 3.9 Å", "anna"):
        assert words in text


def test_looking_leaves_nothing_behind(sfxlab: Sfxlab, refused: Callable[..., str], catalogue: str) -> None:
    before = sfxlab("session", "list", "--catalogue", catalogue, "--json").stdout
    assert "no such session" in refused("session", "show", "lysozyme", "--catalogue", catalogue)
    sfxlab("session", "show", "lyso", "--catalogue", catalogue)
    assert sfxlab("session", "list", "--catalogue", catalogue, "--json").stdout == before


def test_where_there_is_no_catalogue_none_is_made(refused: Callable[..., str], tmp_path: Path) -> None:
    for command in (("list",), ("show", "lyso")):
        message = refused("session", *command, "--catalogue", f"sqlite:///{tmp_path}/none.sqlite")
        assert "no catalogue" in message
    assert list(tmp_path.iterdir()) == []


def test_a_served_session_is_reached_with_a_token_and_the_service_ends_when_told(
    catalogue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sfxlab: Sfxlab, refused: Callable[..., str]
) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.touch(0o600)
    people = [{"name": "carol", "token": "carols-token-for-this-test", "proposals": {"p1": "viewer"}}]
    tokens.write_text(tomli_w.dumps({"people": people}))
    command = [SFXLAB, "session", "serve", "--catalogue", catalogue, "--tokens", str(tokens), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[-1]
            monkeypatch.setenv("SFXLAB_TOKEN", "carols-token-for-this-test")
            with Session("photosystem", address) as session:
                assert session.person.role == "viewer"
                with pytest.raises(NotAllowedError):
                    session.set("view.frame", 1)
                listed = json.loads(sfxlab("session", "list", "--catalogue", address, "--json").stdout)
                assert [one["name"] for one in listed] == ["photosystem"]
                show = ("session", "show", "photosystem", "--catalogue", address, "--json")
                deadline = time.monotonic() + 60
                while '"carol"' not in sfxlab(*show).stdout:  # who is there is told beside what is done
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            monkeypatch.setenv("SFXLAB_TOKEN", "nobodys-token-for-this-test")
            assert "does not know who you are" in refused("session", "list", "--catalogue", address)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("arguments", "words", "exit_code"),
    [
        ((), "Who may come in", 2),
        (("--tokens", "none.toml"), "cannot be read", 1),
        (("--hub", "none.toml"), "cannot be read", 1),
        (("--tokens", "a", "--catalogue", "http://host"), "database", 2),
    ],
)
def test_a_service_that_cannot_start_says_why(
    refused: Callable[..., str], tmp_path: Path, arguments: tuple[str, ...], words: str, exit_code: int
) -> None:
    catalogue = () if "--catalogue" in arguments else ("--catalogue", f"sqlite:///{tmp_path}/sessions.sqlite")
    assert words in refused("session", "serve", *catalogue, *arguments, exit_code=exit_code)
