"""What a hub on one machine does with a whole group at once: log in, look at the shared server, follow a session.

    python benchmarks/hub_load.py [--users N] [--rounds N]

As root: it makes an account for each user and for one proposal and takes them away again. Each user logs in as a
browser does, gets a token, asks the proposal's shared server for its state, files and JupyterLab's page, and follows a
session through the service, all at the same time. The delay of a session is from before a change is sent to when a
follower has it. Memory is the proportional set size (shared pages divided by their users) of the processes that users
share, before the first has come and with all of them there.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from sfxlab.session.changes import Change
from sfxlab.session.client import ServiceAccess

CHANGES = 50
BETWEEN_CHANGES = 0.1


class Load:
    """What was measured: seconds of each kind of request, and what went wrong."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.errors: list[str] = []

    def timed(self, kind: str, work: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        try:
            answer = work()
            status = getattr(answer, "status_code", 200)
            if status >= 400:
                self.errors.append(f"{kind}: status {status}")
        except Exception as error:  # noqa: BLE001 - whatever a user would see counts as an error
            self.errors.append(f"{kind}: {error!r}")
            return None
        self.seconds[kind].append(time.perf_counter() - begin)
        return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5, help="how often each asks the shared server")
    options = parser.parse_args()
    tests = hub_of_tests()
    if missing := tests.what_is_missing():
        sys.exit(f"no hub can be started here; {missing}")
    users = [f"user{number:02}" for number in range(options.users)]
    members = ", ".join(f'{user}@ = "{"lead" if user == users[0] else "analyst"}"' for user in users)
    proposals = f'[proposals.one@]\ntitle = "One"\nmembers = {{ {members} }}\n'
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        with tests.real_hub(path, proposals, users, ["proposal-one"]) as hub:
            load, before, after = run(hub, users, options.rounds)
    report(load, before, after, len(users))
    if load.errors:
        sys.exit(f"{len(load.errors)} errors, such as {load.errors[0]}")


def hub_of_tests() -> ModuleType:
    """`tests/hub/conftest.py`, which starts a real hub with accounts of its own."""
    path = Path(__file__).parents[1] / "tests" / "hub" / "conftest.py"
    spec = importlib.util.spec_from_file_location("hub_of_tests", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["hub_of_tests"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(hub: Any, users: list[str], rounds: int) -> tuple[Load, dict[str, float], dict[str, float]]:
    """Everybody comes, looks and follows; the load, and memory in MB before and with all there."""
    load, shared = Load(), hub.name("proposal-one")
    hub.start_server(users[0], shared)
    before = memory(hub)
    with ThreadPoolExecutor(len(users)) as pool:
        list(pool.map(lambda user: load.timed("log in", lambda: hub.log_in(user)), users))
        list(pool.map(lambda user: load.timed("get a token", lambda: hub.token(user)), users))
        list(pool.map(lambda user: look(load, hub, user, shared, rounds), users))
        follow(load, hub, users, pool)
        after = memory(hub)
    return load, before, after


def look(load: Load, hub: Any, user: str, shared: str, rounds: int) -> None:
    """Ask the shared server as JupyterLab does when somebody opens it."""
    for _ in range(rounds):
        for kind, path in (("server's state", "api/status"), ("files", "api/contents"), ("JupyterLab's page", "lab")):
            load.timed(kind, lambda path=path: hub.ask(user, "GET", f"/user/{shared}/{path}"))


def follow(load: Load, hub: Any, users: list[str], pool: ThreadPoolExecutor) -> None:
    """All follow one session, in which the first user changes a value ten times a second."""
    address, name = f"{hub.address}/services/sessions", f"one{hub.suffix}/beamtime"
    arrived = threading.Semaphore(0)
    lock = threading.Lock()

    def deliver(change: Change) -> None:
        if change.name == "sent" and isinstance(change.value, float):
            with lock:
                load.seconds["change of a session"].append(time.time() - change.value)
            arrived.release()

    def join(user: str) -> Any:
        return ServiceAccess(address, name, hub.token(user))

    lines = list(pool.map(lambda user: load.timed("open a session", lambda: join(user)), users))
    feeds = [line.follow(deliver) for line in lines if line is not None]
    time.sleep(2)  # feeds connect by themselves
    for _ in range(CHANGES):
        load.timed("change a session", lambda: lines[0].call("set", name="sent", value=time.time()))
        time.sleep(BETWEEN_CHANGES)
    for _ in range(CHANGES * len(feeds)):
        if not arrived.acquire(timeout=30):
            load.errors.append("a change did not reach everybody")
            break
    for feed in feeds:
        feed.close()


def memory(hub: Any) -> dict[str, float]:
    """Proportional set size of what all users share, MB."""
    state, found = str(hub.folder), {}
    for process in psutil.process_iter(["cmdline", "username"]):
        words = process.info["cmdline"] or []
        line = " ".join(words)
        kind = ""
        if process.info["username"] == hub.name("proposal-one") and "jupyterhub.singleuser" in line:
            kind = "shared server"
        elif state in line and "session serve" in line:
            kind = "session service"
        elif state in line and "-m jupyterhub " in line and "unshare" not in words:
            kind = "hub"
        elif hub.address.rpartition(":")[2] in words and "configurable-http-proxy" in line:
            kind = "proxy"
        if kind:
            found[kind] = found.get(kind, 0.0) + process.memory_full_info().pss / 1e6
    return found


def report(load: Load, before: dict[str, float], after: dict[str, float], n: int) -> None:
    console = Console(width=110)
    table = Table("what", "times", "median (ms)", "95 % (ms)", "max (ms)", box=None)
    for kind, seconds in load.seconds.items():
        ordered = sorted(1000 * each for each in seconds)
        highest = ordered[min(int(0.95 * len(ordered)), len(ordered) - 1)]
        figures = (statistics.median(ordered), highest, ordered[-1])
        table.add_row(kind, str(len(ordered)), *(f"{figure:.0f}" for figure in figures))
    console.print(table)
    table = Table("memory (MB)", "nobody there", f"{n} users", "each", box=None)
    for kind in before:
        more = (after.get(kind, 0.0) - before[kind]) / n
        table.add_row(kind, f"{before[kind]:.0f}", f"{after.get(kind, 0.0):.0f}", f"{more:.2f}")
    console.print(table)
    console.print(f"errors: {len(load.errors)}")
    console.print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
