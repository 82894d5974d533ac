"""The database that keeps sessions: SQLite by default, PostgreSQL by its address."""

from __future__ import annotations

import sqlite3
import time
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import URL, Connection, Engine, create_engine, event, insert, inspect, make_url, select, text
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as NoConnectionError
from sqlalchemy.pool import NullPool, QueuePool

from sfxlab.errors import CatalogueError, SfxlabWarning
from sfxlab.session.tables import CATALOGUE, LAYOUT, METADATA

_LOCK_OF_TABLES = 7_365_786_152
"""Number of the advisory lock under which tables are made."""

_PATIENCE = 15
"""Seconds to wait for another writer, or for a server."""

_NETWORK_FILE_SYSTEMS = {
    "9p", "afs", "beegfs", "ceph", "cifs", "davfs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "orangefs", "smb3",
    "sshfs",
}  # fmt: skip

_DRIVERS = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg"}
_CONNECTING: dict[str, dict[str, Any]] = {
    "sqlite": {"timeout": _PATIENCE},
    "postgresql": {
        "connect_timeout": _PATIENCE, "application_name": "sfxlab",
        # A server that vanishes without a word is noticed within half a minute.
        "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 25_000,
        "options": f"-c lock_timeout={_PATIENCE}s -c timezone=UTC",
    },
}  # fmt: skip

Access = Literal["read", "write", "record"]
"""A record is on the disk when it is written; a value is with the system, which survives all but a power cut."""


class Catalogue:
    """Connections to the database of an SQLAlchemy address; the tables are made where there are none.

    `connections` is how many are kept for the next use; who is idle gives them back with `rest`, so that many kernels
    do not use up a server.

    Raises `CatalogueError` for an address that is none, a database that cannot be reached, or one of another layout.
    """

    def __init__(self, address: str, connections: int = 1) -> None:
        url = _url(address)
        self.dialect = url.drivername
        self.address = url.render_as_string(hide_password=True)
        """Without the password."""
        pooling = {"poolclass": QueuePool, "pool_size": connections, "max_overflow": 4, "pool_pre_ping": True}
        self._engine, self._lines = _engine(url, pooling), _engine(url, {"poolclass": NullPool})
        weakref.finalize(self, self._engine.dispose)
        self._require_tables()

    @contextmanager
    def connected(self, access: Access = "read") -> Iterator[Connection]:
        """A transaction, which counts as a whole or, where it fails, not at all."""
        with self._translated(), self._engine.connect() as connection:
            connection = connection.execution_options(access=access)
            with connection.begin():
                yield connection

    @contextmanager
    def listening(self) -> Iterator[Connection]:
        """A connection to keep, outside transactions."""
        with self._translated(), self._lines.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    def rest(self) -> None:
        """Give back the connections that are kept for the next use."""
        pool = self._engine.pool
        if isinstance(pool, QueuePool) and pool.checkedout() == 0:
            pool.dispose()

    def _require_tables(self) -> None:
        with self.connected() as connection:
            found = _layout(connection)
        if found is None:
            with self.connected("record") as connection:
                found = _make_tables(connection)
        if found != LAYOUT:
            raise CatalogueError(
                "the catalogue is of another release of sfxlab", path=self.address, found=f"layout {found}",
                expected=f"layout {LAYOUT}", remedy="use that release, or another catalogue",
            )  # fmt: skip

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, NoConnectionError) as error:
            raise _in_words(error, self.address) from error


def _url(address: str) -> URL:
    remedy = "give sqlite:///FILE, postgresql://USER@HOST/DATABASE, or http://… of a session service"
    try:
        url = make_url(address)
        dialect = url.get_backend_name()
    except (ArgumentError, NoSuchModuleError) as error:
        without_password = address.rpartition("@")[2]
        raise CatalogueError("this is no address of a catalogue", found=without_password, remedy=remedy) from error
    if dialect not in _DRIVERS:
        raise CatalogueError("sessions are kept in SQLite or PostgreSQL", found=url.drivername, remedy=remedy)
    if dialect == "sqlite" and url.database in (None, "", ":memory:"):
        raise CatalogueError("a catalogue in memory is nothing to share", found=address, remedy=remedy)
    if dialect == "sqlite" and (kind := network_file_system(Path(url.database or "").absolute())) is not None:
        warnings.warn(
            f"{url.database} is on a network file system ({kind}), where SQLite serves one machine only; for several "
            "use PostgreSQL or a session service",
            SfxlabWarning, stacklevel=2,
        )  # fmt: skip
    return url.set(drivername=dialect)


def _engine(url: URL, pooling: dict[str, Any]) -> Engine:
    dialect = url.drivername
    if dialect == "sqlite":
        # Connections are made when they are needed, wherever the program has gone by then.
        url = url.set(database=str(Path(url.database or "").absolute()))
    connecting = {key: value for key, value in _CONNECTING[dialect].items() if key not in url.query}
    try:
        engine = create_engine(url.set(drivername=_DRIVERS[dialect]), connect_args=connecting, **pooling)
    except ModuleNotFoundError as error:
        raise CatalogueError(
            f"the library for {dialect} is missing", found=str(error), remedy="pip install 'sfxlab[postgresql]'"
        ) from error
    if dialect == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def network_file_system(path: Path, mounts: Path = Path("/proc/mounts")) -> str | None:
    """The kind of network file system that a file is on, as Linux names it; None for a local or an unknown one."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return None  # not Linux
    kinds = {Path(place.replace("\\040", " ")): kind for _, place, kind, *_ in map(str.split, lines)}
    kind = next((kinds[parent] for parent in path.resolve().parents if parent in kinds), "")
    return kind if kind.removeprefix("fuse.") in _NETWORK_FILE_SYSTEMS else None


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions begin where `_begin_sqlite` says
    connection.execute("PRAGMA journal_size_limit=16777216")
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            # Two who make a file at once may find it locked, for which SQLite does not wait as it does elsewhere.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("isolation_level") == "AUTOCOMMIT":
        return
    access: Access = options.get("access", "read")
    connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if access == 'record' else 'NORMAL'}")
    # A writer that began as a reader would fail where another writes between, instead of waiting.
    connection.exec_driver_sql("BEGIN" if access == "read" else "BEGIN IMMEDIATE")


def _layout(connection: Connection) -> int | None:
    return connection.scalar(select(CATALOGUE.c.layout)) if inspect(connection).has_table(CATALOGUE.name) else None


def _make_tables(connection: Connection) -> int | None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_OF_TABLES})
    if (found := _layout(connection)) is not None:
        return found  # somebody else was quicker
    METADATA.create_all(connection)
    connection.execute(insert(CATALOGUE).values(layout=LAYOUT))
    return LAYOUT


def _in_words(error: SQLAlchemyError, address: str) -> CatalogueError:
    found = str(getattr(error, "orig", None) or error).strip().split("\n")[0]
    if "locked" in found or "lock timeout" in found:
        return CatalogueError(
            "the catalogue is locked by another writer", path=address, found=found,
            remedy="try again; if it stays, look for a program that holds it open, or use a PostgreSQL catalogue",
        )  # fmt: skip
    if address.startswith("sqlite"):
        return CatalogueError(
            "the catalogue cannot be used", path=address, found=found,
            remedy="check that the folder exists and can be written to, and that the file is a catalogue of sfxlab",
        )  # fmt: skip
    if not isinstance(error, OperationalError):
        return CatalogueError(
            "the database refuses", path=address, found=found,
            remedy="check what this user may do in it; the first one to use a catalogue makes its tables",
        )  # fmt: skip
    return CatalogueError(
        "the catalogue cannot be reached", path=address, found=found,
        remedy="check that the database server runs, and its host, database, user and password in the address",
    )  # fmt: skip
