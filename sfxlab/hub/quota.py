"""How much of its quota a proposal has used: measured now and then, kept in the hub's state, read at each start."""

from __future__ import annotations

import json
import os
import pwd
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sfxlab.hub.policy import Proposal, Proposals, account_of

_KEPT = "usage.json"
_BLOCK = 512
_DECIMAL = 1000


@dataclass(frozen=True)
class Usage:
    """What a proposal has stored, in bytes, and when that was measured, in seconds since 1970."""

    used: int
    quota: int | None
    time: float

    @property
    def is_full(self) -> bool:
        """Whether nothing more should come."""
        return self.quota is not None and self.used >= self.quota


def told(usage: Usage) -> str:
    """Such as `"1.9 TB of 2.0 TB"`."""
    return size_told(usage.used) + (f" of {size_told(usage.quota)}" if usage.quota is not None else "")


def size_told(size: float) -> str:
    """A number of bytes with a unit, such as `"1.9 TB"`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < _DECIMAL:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= _DECIMAL
    return f"{size:.1f} PB"


def measure(state: Path, proposals: Proposals) -> dict[str, Usage]:
    """Measure what all proposals have stored, and keep it in the hub's state."""
    now = time.time()
    used = {
        name: sum(_size(path, each) for path in written_by(name, each)) for name, each in proposals.proposals.items()
    }
    aside = state / f".{_KEPT}.{os.getpid()}"
    aside.write_text(json.dumps({name: {"used": size, "time": now} for name, size in used.items()}), encoding="utf-8")
    aside.replace(state / _KEPT)
    return read_usage(state, proposals)


def read_usage(state: Path, proposals: Proposals) -> dict[str, Usage]:
    """What was measured last, with the quotas as they are now; without proposals that were never measured."""
    try:
        kept = json.loads((state / _KEPT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {
        name: Usage(kept[name]["used"], each.quota, kept[name]["time"])
        for name, each in proposals.proposals.items()
        if name in kept
    }


def written_by(name: str, proposal: Proposal) -> list[Path]:
    """The data directories that a proposal may write into, by their modes; all of them where it has no account."""
    try:
        account = pwd.getpwnam(account_of(name))
    except KeyError:
        return [path for path in proposal.data if path.is_dir()]
    return [path for path in proposal.data if _may_write(path, account)]


def _may_write(path: Path, account: pwd.struct_passwd) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False  # `sfxlab hub check` says so
    if status.st_uid == account.pw_uid:
        return bool(status.st_mode & stat.S_IWUSR)
    return bool(status.st_mode & (stat.S_IWGRP if status.st_gid == account.pw_gid else stat.S_IWOTH))


def is_enforced(path: Path, quota: int) -> bool:
    """Whether the file system holds this directory to the quota.

    XFS and ext4 tell of a directory with a project quota that this is all the space there is (statfs).
    """
    space = os.statvfs(path)
    return space.f_blocks * space.f_frsize <= quota


def _size(path: Path, proposal: Proposal) -> int:
    """Bytes on disk below a directory."""
    if proposal.quota is not None and is_enforced(path, proposal.quota):
        space = os.statvfs(path)
        return (space.f_blocks - space.f_bfree) * space.f_frsize
    return sum(_sizes(path, set()))


def _sizes(folder: str | Path, linked: set[tuple[int, int]]) -> Iterator[int]:
    """Sizes of all that is in a folder; a file with several names once, and no links followed."""
    for entry in _entries(folder):
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # removed meanwhile
        if status.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
            file = (status.st_dev, status.st_ino)
            if file in linked:
                continue
            linked.add(file)
        yield status.st_blocks * _BLOCK
        if entry.is_dir(follow_symlinks=False):
            yield from _sizes(entry.path, linked)


def _entries(folder: str | Path) -> Iterable[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []  # removed meanwhile


def command_to_enforce(name: str, path: Path, quota: int, mounts: str = "/proc/mounts") -> str:
    """What an administrator types to have the file system hold a directory to a quota; empty where it cannot."""
    where, kind = _file_system(path.resolve(), mounts)
    try:
        project = pwd.getpwnam(account_of(name)).pw_gid
    except KeyError:
        return ""
    if kind == "xfs":
        return (
            f"xfs_quota -x -c 'project -s -p {path} {project}' -c 'limit -p bhard={quota // 1024}k {project}' {where}"
        )
    if kind == "ext4":
        return f"chattr -R -p {project} +P {path} && setquota -P {project} 0 {quota // 1024} 0 0 {where}"
    return ""


def _file_system(path: Path, mounts: str) -> tuple[str, str]:
    """Where the file system of a path is mounted, and its kind."""
    found = ("/", "")
    for line in Path(mounts).read_text(encoding="utf-8").splitlines():
        _, where, kind, *_ = line.split()
        if path.is_relative_to(where) and len(where) >= len(found[0]):
            found = (where, kind)
    return found
