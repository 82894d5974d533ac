"""Catalogues and services to test sessions with: SQLite files, a real PostgreSQL, a real service."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SERVER_OPTIONS = "-c listen_addresses= -c fsync=off -c max_connections=120"


@dataclass(frozen=True)
class Postgresql:
    """A server of its own in a temporary folder, reached by a socket in it."""

    programs: Path
    folder: Path

    def control(self, *arguments: str) -> None:
        """`pg_ctl …` as a user that PostgreSQL accepts, which root is not."""
        user = "postgres" if os.geteuid() == 0 else None
        subprocess.run(
            [self.programs / "pg_ctl", "-D", self.folder / "data", "-l", self.folder / "log", "-w", *arguments],
            check=True, user=user, group=user, extra_groups=None if user is None else [], cwd="/",
            stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self) -> None:
        self.control("start", "-o", f"{SERVER_OPTIONS} -c unix_socket_directories={self.folder}")

    def stop(self, how: str = "immediate") -> None:
        self.control("stop", "-m", how)

    def new_catalogue(self) -> str:
        """The address of a schema without tables; much quicker made than a database."""
        import psycopg

        name = f"sfxlab_{uuid.uuid4().hex}"
        with psycopg.connect(f"host={self.folder} user=postgres dbname=postgres", autocommit=True) as connection:
            connection.execute(f'CREATE SCHEMA "{name}"')
        return f"postgresql://postgres@/postgres?host={self.folder}&options=-csearch_path%3D{name}"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgresql]:
    """A PostgreSQL server; without its programs these tests are skipped."""
    pytest.importorskip("psycopg")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "/")]
    if not found[-1].is_file():
        pytest.skip("no PostgreSQL server is installed (initdb)")
    if os.geteuid() == 0 and "postgres" not in {user.pw_name for user in pwd.getpwall()}:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    server = Postgresql(found[-1].resolve().parent, Path(tempfile.mkdtemp(prefix="sfxlab-pg-", dir="/tmp")))
    try:
        if os.geteuid() == 0:
            shutil.chown(server.folder, "postgres")
        server.control("initdb", "-o", "-U postgres -A trust --no-sync --no-locale -E UTF8")
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(server.folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty catalogue, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/sessions.sqlite"
    server: Postgresql = request.getfixturevalue("postgresql")
    return server.new_catalogue()


@pytest.fixture(scope="session")
def eventually() -> Callable[..., bool]:
    """`eventually(condition)`: whether it becomes true in a time that is long even on a busy machine."""

    def wait(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    return wait
