"""Runs a program under limits: `python launcher.py ENDED SECONDS BYTES PROGRAM [ARGUMENTS]`.

A script of its own, because limits are set safely only by a process that has no threads. It leads a process group, so
that it can end whatever the program started, and it ends the program when its own parent is gone. How the program ended
is written to the file ENDED.
"""

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

POLL = 0.02
"""Seconds between looks."""


def main() -> None:
    """Run the program and say how it ended."""
    path, seconds, memory, *command = sys.argv[1:]
    parent = os.getppid()
    # Should a process leave the group, it still cannot compute for longer.
    _limit(resource.RLIMIT_CPU, math.ceil(float(seconds)) + 1)
    _limit(resource.RLIMIT_AS, int(memory))
    _limit(resource.RLIMIT_CORE, 0)
    ended: dict[str, object] = {"status": None, "late": False, "problem": ""}
    deadline = time.monotonic() + float(seconds)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        while child.poll() is None and os.getppid() == parent:
            if time.monotonic() > deadline:
                ended["late"] = True
                break
            time.sleep(POLL)
        ended["status"] = child.returncode
    except OSError as error:
        ended["problem"] = f"{error.strerror}: {error.filename}"
    if os.getppid() == parent:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(ended, file)
    else:
        # Nobody else is left to remove the sandbox.
        shutil.rmtree(os.path.dirname(path), ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


def _limit(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


if __name__ == "__main__":
    main()
