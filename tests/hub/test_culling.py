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
idle = 30
"""

# A run that goes on in a process of its own, with no kernel that is busy and no page open.
RUN = """
import subprocess, sys
script = "import os, time; from pathlib import Path; from sfxlab.store.writer import begin_writing;"
script += "os.makedirs('run', exist_ok=True); begin_writing(Path('run')); time.sleep(600)"
print(subprocess.Popen([sys.executable, "-c", script], start_new_session=True).pid)
"""


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
        anna, bob = hub.name("anna"), hub.name("bob")
        hub.start_server("anna", anna)
        hub.start_server("bob", bob)
        pid = int(hub.run("anna", anna, RUN))

        def is_up(person: str) -> bool:
            return bool(hub.ask(person, "GET", f"/hub/api/users/{hub.name(person)}").json()["servers"])

        def wait_until_down(person: str) -> bool:
            deadline = time.monotonic() + 150
            while is_up(person) and time.monotonic() < deadline:
                time.sleep(1)
            return not is_up(person)

        assert wait_until_down("bob")
        time.sleep(5)
        assert is_up("anna")
        os.kill(pid, 9)
        assert wait_until_down("anna")
