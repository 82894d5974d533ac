"""Servers that nobody uses are stopped, but not below a run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sfxlab.hub.keep_alive import writes_a_run

PROPOSALS = """
[proposals.one@]
title = "One"
members = { anna@ = "lead", bob@ = "analyst" }
"""

SITE = """
[servers]
idle = 10
"""

# Keeps open what a run's writer does, with no kernel and no page.
RUN = "mkdir -p run/writers; exec 9> run/writers/writer-000001.json; echo writing; exec sleep 600"


def test_a_process_that_writes_a_run_is_noticed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from sfxlab.store.writer import begin_writing;"
        "writing = begin_writing(Path(sys.argv[1])); print('writing', flush=True); sys.stdin.read(); writing.close()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        assert writes_a_run(os.getuid())
        assert not writes_a_run(os.getuid() + 12345)
    assert process.returncode == 0


def test_idle_servers_are_stopped_but_not_while_a_run_goes_on(
    tmp_path_factory: pytest.TempPathFactory, start_hub: Callable[..., Any]
) -> None:
    folder = tmp_path_factory.mktemp("culling")
    with start_hub(folder, PROPOSALS, ["anna", "bob"], ["proposal-one"], SITE) as hub:
        anna = hub.name("anna")
        run = subprocess.Popen(
            ["sh", "-c", RUN], user=anna, group=anna, extra_groups=[], cwd=Path(f"~{anna}").expanduser(),
            stdout=subprocess.PIPE,
        )  # fmt: skip
        with run:
            assert run.stdout is not None
            assert run.stdout.readline() == b"writing\n"
            for person in ("anna", "bob"):
                assert hub.start_server(person, hub.name(person)).ok

            def wait_until_down(person: str) -> None:
                deadline = time.monotonic() + 150
                while hub.ask(person, "GET", f"/hub/api/users/{hub.name(person)}").json()["servers"]:
                    assert time.monotonic() < deadline
                    time.sleep(0.5)

            wait_until_down("bob")
            assert hub.ask("anna", "GET", f"/hub/api/users/{hub.name('anna')}").json()["servers"]
            run.kill()
            wait_until_down("anna")
