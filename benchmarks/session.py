"""How long a change of a session takes to reach others, what an idle subscriber costs, and what a catalogue grows to.

    python benchmarks/session.py [POSTGRESQL ADDRESS] [--writes N]

Every subscriber is a process of its own; the writer, another one, sets a value ten times a second. The delay is from
before `set` to the callback; the CPU time of a change is that of a process that hears of it. The service runs in a
process of its own too, over SQLite and, where an address is given, over PostgreSQL.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import tomli_w
from rich.console import Console
from rich.table import Table

from sfxlab.session import Session
from sfxlab.session.catalogue import Catalogue
from sfxlab.session.ledger import Entry, append, make_session

SFXLAB = str(Path(sys.executable).with_name("sfxlab"))
IDLE_SECONDS = 5.0
BETWEEN_WRITES = 0.1
VIEW_CHANGES = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("postgresql", nargs="?", help="address of an empty PostgreSQL database")
    parser.add_argument("--writes", type=int, default=100)
    options = parser.parse_args()
    columns = ("way", "subscribers", "set (ms)", "delay: median", "95 %", "max (ms)", "CPU of one: idle (%)")
    table = Table(*columns, "a change (ms)", box=None)
    with tempfile.TemporaryDirectory() as folder:
        databases = {"SQLite": f"sqlite:///{folder}/sessions.sqlite"}
        if options.postgresql:
            databases["PostgreSQL"] = options.postgresql
        for database, address in databases.items():
            for n in (1, 50):
                table.add_row(database, *measured(address, "p1/direct", n, options.writes))
            with service(address, Path(folder)) as url:
                for n in (1, 50):
                    table.add_row(f"service, {database}", *measured(url, "p1/served", n, options.writes))
        console = Console(width=120)
        console.print(table)
        console.print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        console.print(f"SQLite after {VIEW_CHANGES} changes of a view: {grown(Path(folder)) / 1e6:.2f} MB")


def measured(address: str, name: str, n: int, writes: int) -> list[str]:
    """A row of the table, of n subscribers and so many writes."""
    context = multiprocessing.get_context("fork")
    pipes, processes = [], []
    for i in range(n):
        mine, its = context.Pipe()
        processes.append(context.Process(target=subscriber, args=(address, name, f"person {i}", its, writes)))
        processes[-1].start()
        pipes.append(mine)
    idle = [pipe.recv() for pipe in pipes]
    durations = []
    with Session(name, address) as session:
        for _ in range(writes):
            begin = time.time()
            session.set("view.frame", begin)
            durations.append(time.time() - begin)
            time.sleep(BETWEEN_WRITES)
        heard = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join()
    delays = sorted(delay for own, _ in heard for delay in own)
    assert len(delays) == n * writes
    busy = 1000 * statistics.median(cpu for _, cpu in heard) / writes
    times = (statistics.median(durations), statistics.median(delays), delays[int(0.95 * len(delays))], delays[-1])
    return [str(n), *(f"{1000 * value:.1f}" for value in times), f"{100 * statistics.median(idle):.2f}", f"{busy:.2f}"]


def subscriber(address: str, name: str, person: str, parent: Connection, writes: int) -> None:
    """A process that first does nothing and says what that costs, then says when it heard of each change."""
    with Session(name, address, None if address.startswith("http") else person) as session:
        before, begin = time.process_time(), time.monotonic()
        time.sleep(IDLE_SECONDS)
        delays: list[float] = []
        idle = (time.process_time() - before) / (time.monotonic() - begin)
        session.subscribe(lambda change: delays.append(time.time() - float(str(change.value))), "view.")
        parent.send(idle)
        before = time.process_time()
        end = time.monotonic() + 600
        while len(delays) < writes and time.monotonic() < end:
            time.sleep(0.2)
        parent.send((delays, time.process_time() - before))


@contextmanager
def service(catalogue: str, folder: Path) -> Iterator[str]:
    """The address of a service over a catalogue; the token for it is in the environment."""
    token, path = secrets.token_urlsafe(), folder / "tokens.toml"
    path.touch(0o600)
    path.write_text(tomli_w.dumps({"people": [{"name": "anna", "token": token, "proposals": {"p1": "lead"}}]}))
    os.environ["SFXLAB_TOKEN"] = token
    command = [SFXLAB, "session", "serve", "--catalogue", catalogue, "--tokens", str(path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def grown(folder: Path) -> int:
    """Bytes of a catalogue in SQLite, with all that belongs to it, after many changes of a view."""
    catalogue = Catalogue(f"sqlite:///{folder}/views.sqlite", connections=1)
    with catalogue.connected("write") as connection:
        session = make_session(connection, "", "views", "anna")
    for first in range(0, VIEW_CHANGES, 50):
        with catalogue.connected("write") as connection:
            views = [Entry("value", "view.frame", str(first + i)) for i in range(50)]
            append(connection, session, "anna", views)
    catalogue.rest()
    return sum(path.stat().st_size for path in folder.glob("views.sqlite*"))


if __name__ == "__main__":
    main()
