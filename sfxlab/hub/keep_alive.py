"""A server is in use while one of its account's processes writes a run, though nobody looks and no kernel is busy.

Loaded into each server as an extension of Jupyter Server, so that servers with a run going on are not culled.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tornado.ioloop import PeriodicCallback

_WRITER = re.compile(r"/writers/writer-\d{6}\.json$")
"""What the process that writes a run keeps open (`sfxlab.store.writer`)."""
_SECONDS = 5.0
"""Between two looks at most; more often where the hub hears of a server's use more often."""


def writes_a_run(user: int) -> bool:
    """Whether a process of this user on this machine writes a run."""
    return any(_holds_writer(process) for process in Path("/proc").glob("[0-9]*") if _is_of(process, user))


def _is_of(process: Path, user: int) -> bool:
    try:
        return process.stat().st_uid == user
    except OSError:
        return False  # it has just ended


def _holds_writer(process: Path) -> bool:
    try:
        return any(_WRITER.search(os.readlink(file)) for file in (process / "fd").iterdir())
    except OSError:
        return False  # it has just ended


def _load_jupyter_server_extension(server: Any) -> None:
    """What Jupyter Server calls when it starts."""
    times = server.web_app.settings["last_activity_times"]

    def look() -> None:
        if writes_a_run(os.getuid()):
            times["sfxlab"] = datetime.now(UTC)

    seconds = min(_SECONDS, float(os.environ.get("JUPYTERHUB_ACTIVITY_INTERVAL") or _SECONDS))
    server.sfxlab_keep_alive = PeriodicCallback(look, seconds * 1000)
    server.sfxlab_keep_alive.start()
