"""What a hub keeps, in one directory and back: databases, secrets, and the files that say who may do what."""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import make_url

from sfxlab.hub.policy import PolicyError
from sfxlab.hub.site import Site, secret

_FILES = ("site.toml", "proposals.toml", "jupyterhub_config.py")
_PASSING = (".log", ".pid", "-wal", "-shm", "-journal")
"""Ends of names in the hub's state that nobody needs again, or that belong to a database."""
_COOKIES = "cookie_secret"
_STATE, _CONFIGURATION = "state", "configuration"


@dataclass(frozen=True)
class Kept:
    """A file of a backup, and where it is otherwise."""

    name: str
    source: str


def back_up(folder: Path, target: Path) -> list[Kept]:
    """Copy what the hub configured in `folder` keeps into the new directory `target`; the hub may run meanwhile.

    Data of proposals, home directories and secrets that lie elsewhere are the matter of the site's own backup.
    Raises `PolicyError`.
    """
    site = Site.read(folder / "site.toml")
    try:
        target.mkdir(parents=True, mode=0o700)
        (target / _STATE).mkdir(mode=0o700)
        kept = [_copied(folder / name, target / _CONFIGURATION) for name in _FILES if (folder / name).exists()]
        for path in sorted(site.hub.state.iterdir()):
            if path.is_file() and not path.name.endswith(_PASSING) and ".before-" not in path.name:
                copied = _sqlite_copied if path.suffix == ".sqlite" else _copied
                kept.append(copied(path, target / _STATE))
    except (OSError, sqlite3.Error) as error:
        raise PolicyError("the backup is not complete", path=target, found=str(error)) from error
    kept += [_dumped(path, target / f"{name}.dump") for name, path in _servers(site)]
    return kept


def restore(source: Path, folder: Path) -> list[Kept]:
    """Put a backup back, for a hub that does not run; what was there before is put beside it, as `NAME.before-TIME`.

    `folder` is where `site.toml` and the other files go; the state goes where that file says. Raises `PolicyError`.
    """
    if not (source / _CONFIGURATION / "site.toml").exists():
        raise PolicyError("this is no backup of a hub", path=source, expected=f"{_CONFIGURATION}/site.toml in it")
    stamp = f"before-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    state = Site.read(source / _CONFIGURATION / "site.toml").hub.state
    put: list[Kept] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in sorted((source / _STATE).iterdir()):
            put.append(_put(path, state, stamp))
            for rest in ("-wal", "-shm"):  # of the database that was there before
                if (left := state / f"{path.name}{rest}").exists():
                    left.rename(f"{left}.{stamp}")
        put += [_put(path, folder, stamp) for path in sorted((source / _CONFIGURATION).iterdir())]
    except OSError as error:
        raise PolicyError("not all was put back", path=error.filename, found=error.strerror) from error
    put += [_loaded(source / f"{name}.dump", path) for name, path in _servers(Site.read(folder / "site.toml"))]
    return put


def rotate(folder: Path) -> list[str]:
    """Make new secrets for a hub that does not run; what people notice of each, in a sentence.

    JupyterHub itself makes a new token for the proxy and for each service at every start.
    """
    site = Site.read(folder / "site.toml")
    done = []
    cookies = site.hub.state / _COOKIES
    _write_secret(cookies, secrets.token_hex(32))
    done.append(f"{cookies}: everybody has to log in anew; servers and kernels go on")
    if site.health.token is not None:
        _write_secret(site.health.token, secrets.token_hex(32))
        done.append(f"{site.health.token}: give it to Prometheus, which is refused until then")
    return done


def _write_secret(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _copied(path: Path, folder: Path) -> Kept:
    folder.mkdir(exist_ok=True, mode=0o700)
    shutil.copy2(path, folder)
    return Kept(f"{folder.name}/{path.name}", str(path))


def _sqlite_copied(path: Path, folder: Path) -> Kept:
    """A copy as of one moment, whoever writes meanwhile (SQLite's online backup)."""
    folder.mkdir(exist_ok=True, mode=0o700)
    target = folder / path.name
    target.touch(mode=0o600)
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as source, closing(sqlite3.connect(target)) as copy:
        source.backup(copy)
    return Kept(f"{folder.name}/{path.name}", str(path))


def _put(path: Path, folder: Path, stamp: str) -> Kept:
    there = folder / path.name
    if there.exists():
        there.rename(f"{there}.{stamp}")
    shutil.copy2(path, there)
    return Kept(path.name, str(there))


def _servers(site: Site) -> list[tuple[str, Path]]:
    """The databases that PostgreSQL keeps, with the files that hold their addresses."""
    named = (("hub", site.hub.database), ("sessions", site.sessions.catalogue))
    return [(name, path) for name, path in named if path is not None]


def _dumped(address: Path, target: Path) -> Kept:
    target.touch(mode=0o600)
    _run(["pg_dump", "--format=custom", f"--file={target}"], address)
    return Kept(target.name, f"the database in {address}")


def _loaded(dump: Path, address: Path) -> Kept:
    database = make_url(secret(address)).database or ""
    options = ("--clean", "--if-exists", "--no-owner", "--single-transaction", f"--dbname={database}")
    _run(["pg_restore", *options, str(dump)], address)
    return Kept(dump.name, f"the database in {address}")


def _run(command: list[str], address: Path) -> None:
    # The address may hold a password, and a command's arguments everybody can read; its environment they cannot.
    url = make_url(secret(address))
    wanted = {
        "PGHOST": url.host, "PGPORT": url.port, "PGUSER": url.username, "PGPASSWORD": url.password,
        "PGDATABASE": url.database, **{f"PG{key.upper()}": value for key, value in url.query.items()},
    }  # fmt: skip
    told = {key: str(value) for key, value in wanted.items() if value is not None}
    try:
        subprocess.run(command, env={**os.environ, **told}, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        remedy = "install PostgreSQL's client programs, of the server's version or newer"
        raise PolicyError(f"{command[0]} is not installed here", remedy=remedy) from error
    except subprocess.CalledProcessError as error:
        raise PolicyError(f"{command[0]} failed", path=address, found=error.stderr.strip()[:500]) from error
