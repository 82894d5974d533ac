"""A trial on one machine: one command makes what is missing and starts the hub, another takes it away."""

from __future__ import annotations

import os
import pwd
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner

from sfxlab.cli import main
from sfxlab.hub.site import Site
from sfxlab.hub.trial import read

SITE = """
[hub]
address = "http://127.0.0.1:{0}"
inside = "http://127.0.0.1:{1}"
state = "{folder}/state"
[authentication]
kind = "pam"
[sessions]
port = {2}
[health]
port = {3}
[places]
port = {4}
"""

PROPOSALS = """
[proposals.{name}]
title = "A trial"
members = {{ t{name} = "lead" }}
data = ["{folder}/data/mine", "{folder}/data/kept"]
"""

CONFIGURATION = """
from sfxlab.hub.configuration import configure
configure(c, "{folder}/site.toml", "{folder}/proposals.toml")
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{5}"
"""


@pytest.fixture
def folder(tmp_path: Path, start_hub: Callable[..., Any]) -> Iterator[Path]:
    """A policy for which nothing is there; `start_hub` skips where no hub can run."""
    name, ports = f"x{secrets.token_hex(3)}", _free_ports(6)
    for file, text in (("site.toml", SITE), ("proposals.toml", PROPOSALS), ("jupyterhub_config.py", CONFIGURATION)):
        (tmp_path / file).write_text(text.format(*ports, name=name, folder=tmp_path))
    yield tmp_path
    for account in (f"t{name}", f"proposal-{name}"):
        subprocess.run(["userdel", "--remove", "--force", account], capture_output=True)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _accounts() -> set[str]:
    return {each.pw_name for each in pwd.getpwall()}


def test_a_trial_begins_with_one_command_and_leaves_nothing_but_data(folder: Path, kill: Callable[[int], None]) -> None:
    command = [sys.executable, "-m", "sfxlab", "hub", "up", "--config", str(folder), "--trial"]
    environment = {**os.environ, "NODE_PATH": "/usr/share/nodejs"}
    with (folder / "log").open("wb") as log:
        hub = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder)
        try:
            person, answer = _log_in(folder, hub)
        finally:
            kill(hub.pid)
            hub.wait()
    assert (answer.status_code, answer.headers["Location"]) == (302, "/hub/home"), (folder / "log").read_text()
    made = {person, f"proposal-{person[1:]}"}
    assert made <= _accounts()
    (mine, kept) = (folder / "data" / "mine", folder / "data" / "kept")
    assert mine.stat().st_gid == pwd.getpwnam(f"proposal-{person[1:]}").pw_gid
    assert mine.stat().st_mode & 0o7777 == 0o2770
    assert (folder / "state" / "trial.json").stat().st_mode & 0o077 == 0
    (kept / "run.h5").touch()
    ended = CliRunner().invoke(main, ["hub", "down", "--config", str(folder), "--trial", "--yes"])
    assert ended.exit_code == 0, ended.output
    assert str(kept) in ended.output
    assert not made & _accounts()
    assert kept.is_dir()
    assert not mine.exists()
    again = CliRunner().invoke(main, ["hub", "down", "--config", str(folder), "--trial", "--yes"])
    assert "no trial goes on here" in again.output


def _log_in(folder: Path, hub: subprocess.Popen[bytes]) -> tuple[str, requests.Response]:
    """Log in with the password that was printed."""
    site = Site.read(folder / "site.toml")
    deadline = time.monotonic() + 120
    with requests.Session() as session:
        while hub.poll() is None and time.monotonic() < deadline:
            try:
                if session.get(f"{site.hub.address}/hub/login", timeout=10).ok:
                    break
            except requests.ConnectionError:
                pass
            time.sleep(0.3)
        trial = read(site)
        assert trial is not None, (folder / "log").read_text()
        assert trial.password in (folder / "log").read_text()
        form = {"username": trial.people[0], "password": trial.password, "_xsrf": session.cookies["_xsrf"]}
        address = f"{site.hub.address}/hub/login?next=/hub/home"
        return trial.people[0], session.post(address, data=form, allow_redirects=False, timeout=60)
