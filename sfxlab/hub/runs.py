"""Runs of proposals and their last signs of life, read under the proposals' own accounts.

    python -m sfxlab.hub.runs

answers each line of its input, a JSON list of places, with a line of JSON. It is a process of its own with one thread,
because it changes its account for each proposal: what members put into their directories, links to others' files not
least, is read with their rights.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

_DEPTH = 4
_DIRECTORIES = 5000
"""So many are looked at below one place at most: a health page is no search engine."""


@dataclass(frozen=True)
class Place:
    """Where runs of a proposal lie, and the account with whose rights they are read."""

    proposal: str
    account: str
    folder: str


@dataclass(frozen=True)
class RunSeen:
    """A run and the last sign of life of who writes or wrote it."""

    proposal: str
    path: str
    state: Literal["going on", "silent", "ended"]
    """silent: its writer has neither said that it has ended nor given a sign of life for two minutes."""
    age: float
    """Seconds since the last sign of life."""
    user: str
    host: str
    done: int
    total: int
    frames_per_second: float


def places_of(proposal: str, account: str, data: tuple[Path, ...]) -> list[Place]:
    """The data directories of a proposal and the home directory of its account."""
    folders = [str(path) for path in data]
    try:
        folders.append(pwd.getpwnam(account).pw_dir)
    except KeyError:
        return []  # without the account nothing can be read with its rights
    return [Place(proposal, account, folder) for folder in folders]


def runs_at(place: Place) -> list[RunSeen]:
    """The runs below a place that somebody has begun to write, read with the rights of this process."""
    return [seen for path in _run_folders(Path(place.folder)) if (seen := _seen(place.proposal, path))]


def _run_folders(top: Path) -> Iterator[Path]:
    level, looked_at = [top], 0
    for _ in range(_DEPTH + 1):
        below: list[Path] = []
        for folder in level:
            looked_at += 1
            if looked_at > _DIRECTORIES:
                return
            names = _subfolders(folder)
            if "writers" in names:
                yield folder
            else:
                below += [folder / name for name in names if not name.startswith(".")]
        level = below


def _subfolders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []  # gone, or closed even to the proposal


def _seen(proposal: str, path: Path) -> RunSeen | None:
    from sfxlab.store.writer import last_writer

    try:
        writer = last_writer(path)
    except OSError:
        return None
    if writer is None:
        return None
    state: Literal["going on", "silent", "ended"]
    state = "ended" if writer.ended else "going on" if writer.is_alive else "silent"
    progress = writer.progress
    return RunSeen(
        proposal, str(path), state, round(writer.age, 1), writer.user, writer.host,
        progress.done.frames if progress else 0, progress.total if progress else 0,
        round(progress.frames_per_second, 3) if progress and state == "going on" else 0.0,
    )  # fmt: skip


@contextmanager
def rights_of(account: str) -> Iterator[None]:
    """Act with the rights of this account; only root can, others act with their own."""
    if os.geteuid() != 0:
        yield
        return
    entry = pwd.getpwnam(account)
    mine = os.getgroups()
    os.setgroups([entry.pw_gid, *(group.gr_gid for group in grp.getgrall() if account in group.gr_mem)])
    os.setegid(entry.pw_gid)
    os.seteuid(entry.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(mine)


def main() -> None:
    """Answer each line of the input."""
    # Before any change of the account; not above, since the health service would load all that processes frames.
    import sfxlab.store.writer  # noqa: F401

    for line in sys.stdin:
        found: list[RunSeen] = []
        for each in json.loads(line):
            place = Place(**each)
            with rights_of(place.account):
                found += runs_at(place)
        print(json.dumps([asdict(each) for each in found]), flush=True)


if __name__ == "__main__":
    main()
