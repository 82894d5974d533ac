"""Who writes a run: one process at a time, known to all, and noticed when it is gone.

Whoever begins to write a run makes the file with the next number in its folder `writers`. The system makes a file of a
name only once (O_EXCL, which shared file systems keep, too), so of several only one gets it. The writer is the process
of the highest number, until its file says that it has ended, or it has died. Files stay, so that there is no moment at
which two could take the place of a dead one. On its own machine a process is known by its number and start; from
others, by the time of its file, which it keeps fresh. That time is compared with one that the same file system gives,
so clocks need not agree.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
import uuid
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sfxlab.errors import RunError, RunInUseError
from sfxlab.store.counts import Counts
from sfxlab.store.progress import Progress
from sfxlab.store.record import user_name

_LOG = logging.getLogger(__name__)

HEARTBEAT = 5.0
"""Seconds between two signs of life at most."""
STALE = 120.0
"""A process of another machine is given up after so many seconds without one; file systems may stall for a minute."""

_NAME = re.compile(r"writer-(\d{6})\.json")
_SIZE = 2048
"""Bytes of a file, which is overwritten in place: on a full disk there is still room for signs of life."""


@dataclass(frozen=True)
class Writer:
    """A process that writes a run, or wrote it."""

    number: int
    """Writers of a run are numbered from 1."""
    host: str
    pid: int
    user: str
    since: datetime
    heartbeat: datetime
    """Its last sign of life, by the clock of the file system."""
    age: float
    """Seconds since then."""
    ended: bool
    """It has said that it writes no more."""
    progress: Progress | None = None
    """How far it has said that it is."""
    machine: str = field(default="", repr=False)
    """The system that numbers its processes."""
    began: str = field(default="", repr=False)
    """When its process started, in the system's own units."""

    @property
    def is_alive(self) -> bool:
        """Whether it still writes, as far as can be told from here."""
        if self.ended:
            return False
        if self.machine and self.machine == _machine():
            return _began(self.pid) == self.began
        return self.age <= STALE

    @property
    def is_this_process(self) -> bool:
        """Whether it is the process that asks."""
        return self.pid == os.getpid() and self.machine == _machine()

    def __str__(self) -> str:
        since = self.since.astimezone()
        day = "" if since.date() == datetime.now().astimezone().date() else f"{since:%Y-%m-%d} "
        return (
            f"process {self.pid} of {self.user} on {self.host}, since {day}{since:%H:%M:%S},"
            f" last heartbeat {self.age:.0f} s ago"
        )


class Writing:
    """The right of this process to write a run, until it is closed. `begin_writing` gives it."""

    def __init__(self, path: Path, number: int, descriptor: int) -> None:
        self._path, self._number, self._descriptor = path, number, descriptor
        self._content: dict[str, Any] = {
            "host": socket.gethostname(), "pid": os.getpid(), "user": user_name(), "machine": _machine(),
            "began": _began(os.getpid()), "since": datetime.now(UTC).isoformat(), "ended": False, "progress": None,
        }  # fmt: skip
        self._news = threading.Event()
        self._closing = threading.Event()
        self._write()
        self._pulse = threading.Thread(target=self._beat, name="sfxlab-heartbeat", daemon=True)
        self._pulse.start()

    def tell(self, progress: Progress) -> None:
        """Let those who are attached know how far this is. Raises `RunError` where another writer has taken over."""
        self.check()
        self._content["progress"] = asdict(progress)
        self._news.set()

    def check(self) -> None:
        """Raise `RunError` where another writer has taken over, because this one gave no sign of life."""
        successor = _file(self._path, self._number + 1)
        if successor.exists():
            raise RunError(
                "another process has taken this run over", path=self._path,
                found=f"no sign of life of this one for {STALE:.0f} s", remedy="leave it the run, or attach to it",
            )  # fmt: skip

    def close(self) -> None:
        """Say that this process writes no more."""
        self._closing.set()
        self._news.set()
        self._pulse.join()
        self._content["ended"] = True
        self._write()
        os.close(self._descriptor)

    def _beat(self) -> None:
        while not self._closing.is_set():
            self._news.wait(HEARTBEAT)
            self._news.clear()
            if not self._closing.is_set():
                self._write()
                self._closing.wait(1.0)  # what comes more often is of no use to those who watch

    def _write(self) -> None:
        try:
            os.pwrite(self._descriptor, json.dumps(self._content).encode().ljust(_SIZE), 0)
            os.fsync(self._descriptor)  # others shall see it on their machines
        except OSError:
            _LOG.warning("no sign of life can be given at %s", self._path, exc_info=True)


def begin_writing(run_path: Path) -> Writing:
    """Become the writer of a run. Raises `RunInUseError` where there is one, `RunError` where it cannot be written."""
    folder = run_path / "writers"
    try:
        folder.mkdir(exist_ok=True)
        while True:
            last = last_writer(run_path)
            if last is not None and last.is_alive:
                raise RunInUseError(
                    "this process itself is writing this run" if last.is_this_process else
                    "another process is writing this run",
                    path=run_path, found=last, remedy="wait for it, or stop it and continue with --resume",
                )  # fmt: skip
            number = last.number + 1 if last else 1
            try:
                descriptor = os.open(_file(run_path, number), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                continue  # somebody was faster
            return Writing(run_path, number, descriptor)
    except OSError as error:
        raise RunError("the run cannot be written to", path=folder, found=error.strerror) from error


def last_writer(run_path: Path) -> Writer | None:
    """The process that writes a run, or wrote it last; None where none has yet."""
    try:
        numbers = [int(match[1]) for name in os.listdir(run_path / "writers") if (match := _NAME.fullmatch(name))]
    except FileNotFoundError:
        return None
    return _read(_file(run_path, max(numbers))) if numbers else None


def _read(path: Path) -> Writer:
    with open(path, "rb") as file:
        status, text = os.fstat(file.fileno()), file.read()
    try:
        content = json.loads(text)
        content["since"] = datetime.fromisoformat(content["since"])
        if content["progress"] is not None:
            content["progress"] = Progress(**content["progress"] | {"done": Counts(**content["progress"]["done"])})
    except (ValueError, KeyError, TypeError):  # it is about to say who it is
        content = {"host": "?", "pid": 0, "user": "?", "since": datetime.fromtimestamp(status.st_ctime, UTC)}
        content["ended"] = False
    return Writer(
        number=int(path.stem.removeprefix("writer-")),
        heartbeat=datetime.fromtimestamp(status.st_mtime, UTC),
        age=max(_now(path.parent) - status.st_mtime, 0.0),
        **content,
    )


def _now(folder: Path) -> float:
    """The time by the clock of the file system; by our own where we may not write there."""
    probe = folder / f".now-{uuid.uuid4().hex}.tmp"
    try:
        with open(probe, "xb") as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return datetime.now(UTC).timestamp()
    finally:
        try:
            probe.unlink(missing_ok=True)
        except OSError:
            _LOG.debug("%s stays", probe, exc_info=True)


def _file(run_path: Path, number: int) -> Path:
    return run_path / "writers" / f"writer-{number:06d}.json"


def _machine() -> str:
    """What tells systems apart that number processes: host, its start, and the container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""  # not Linux: signs of life have to do


def _began(pid: int) -> str:
    """When a process started, in the system's own units; empty where there is none, or it has died."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()  # after the command, which may hold anything
    return "" if fields[0] in "ZX" else fields[19]
