"""The commands of docs/operating.md, run as they stand there but for paths, names and ports."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from sfxlab.hub.backup import back_up, restore
from sfxlab.hub.policy import PolicyError

ROOT = Path(__file__).parents[2]


def _blocks(text: str) -> str:
    return "\n".join(re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))


def _moved(script: str, folder: Path, suffix: str, ports: list[int]) -> str:
    """The same commands for a hub below `folder`, with people and ports of its own."""
    replaced = {
        "/etc/sfxlab-hub": f"{folder}/etc", "/var/lib/sfxlab-hub": f"{folder}/state", "/backup/": f"{folder}/backup/",
        "/data": f"{folder}/data", "p1234": f"p{suffix}", "anna": f"anna{suffix}", "bob": f"bob{suffix}",
        "olga": f"olga{suffix}",
        "http://127.0.0.1:8000": f"http://127.0.0.1:{ports[0]}",
        f'state = "{folder}/state"': f'state = "{folder}/state"\ninside = "http://127.0.0.1:{ports[1]}"',
        "[health]\n": f"[sessions]\nport = {ports[2]}\n[places]\nport = {ports[3]}\n[health]\nport = {ports[4]}\n",
        "hub_config/": f"{folder}/hub_config/",
    }  # fmt: skip
    for before, after in replaced.items():
        script = script.replace(before, after)
    return script


@pytest.mark.timeout(600)
def test_the_commands_of_the_operating_page_do_what_it_says(
    tmp_path: Path, free_ports: Callable[[int], list[int]], start_hub: Any, kill: Callable[[int], None]
) -> None:
    suffix, ports = secrets.token_hex(3), free_ports(6)
    (tmp_path / "hub_config").mkdir()
    configuration = (ROOT / "hub_config" / "jupyterhub_config.py").read_text()
    own_port = f'\nc.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{ports[5]}"\n'
    (tmp_path / "hub_config" / "jupyterhub_config.py").write_text(configuration + own_port)
    script = _moved(_blocks((ROOT / "docs" / "operating.md").read_text()), tmp_path, suffix, ports)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "NODE_PATH": "/usr/share/nodejs"}
    try:
        done = subprocess.run(
            ["bash", "-e", "-x", "-c", script], env=environment, capture_output=True, text=True, timeout=560
        )
        log = tmp_path / "state" / "hub.log"
        assert done.returncode == 0, done.stderr[-2000:] + (log.read_text()[-2000:] if log.exists() else "")
    finally:
        with suppress(FileNotFoundError):
            kill(int((tmp_path / "state" / "hub.pid").read_text()))
        for name in (f"anna{suffix}", f"bob{suffix}", f"olga{suffix}", f"proposal-p{suffix}"):
            subprocess.run(["userdel", "--remove", "--force", name], check=False, capture_output=True)
    assert '"status": "well"' in done.stdout
    assert 'sfxlab_up{part="session service"} 1.0' in done.stdout
    assert "jupyterhub_running_servers" in done.stdout
    assert "everybody has to log in anew" in done.stdout
    kept, now = tmp_path / "backup" / "hub-before" / "state", tmp_path / "state"
    (rotated,) = now.glob("cookie_secret.before-*")
    assert (kept / "cookie_secret").read_text() == (now / "cookie_secret").read_text() != rotated.read_text()
    assert (kept / "cookie_secret").stat().st_mode & 0o077 == 0
    assert kept.parent.stat().st_mode & 0o077 == 0


def test_a_backup_of_what_somebody_writes_to_is_whole_and_comes_back(tmp_path: Path) -> None:
    """Rows that are committed are in it, whether they lie in the write-ahead log or not; later ones are not."""
    state, folder = tmp_path / "state", tmp_path / "etc"
    for made in (state, folder):
        made.mkdir()
    (folder / "site.toml").write_text(f'[hub]\nstate = "{state}"\n')
    with closing(sqlite3.connect(state / "sessions.sqlite")) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("CREATE TABLE changes (number INTEGER)")
        writer.execute("INSERT INTO changes VALUES (1)")
        writer.commit()
        writer.execute("INSERT INTO changes VALUES (2)")
        back_up(folder, tmp_path / "backup")
        writer.commit()
    shutil.rmtree(folder)
    restore(tmp_path / "backup", folder)
    with closing(sqlite3.connect(state / "sessions.sqlite")) as reader:
        assert reader.execute("SELECT number FROM changes").fetchall() == [(1,)]
    assert len(list(state.glob("sessions.sqlite.before-*"))) == 1
    assert (folder / "site.toml").exists()


def test_a_backup_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "site.toml").write_text(f'[hub]\nstate = "{tmp_path}/state"\n')
    back_up(tmp_path, tmp_path / "backup")
    with pytest.raises(PolicyError, match="not complete"):
        back_up(tmp_path, tmp_path / "backup")
