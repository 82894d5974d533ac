"""Notes of which frame is under way, which outlive the worker that wrote them.

A worker that dies takes no leave, and whatever waits on it dies with it. So before each frame of a chunk its worker
writes the frame's number into a file in the run; whoever tries the chunk next reads there how the tries before ended.
A frame is blamed only if it was under way, and nothing else in its process, every time that a worker died: frames with
a death are tried first, and with no others beside them.
"""

from __future__ import annotations

import os
import re
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sfxlab.errors import RunError
from sfxlab.store.time_limit import TIMED_OUT, TimeLimit

DEATHS = 3
"""So many deaths of its workers are a frame's own doing."""
TIMEOUTS = 2
"""So many times too long are, too: once may be the file system's."""

DIED, TOO_LONG = "KilledWorker", "TimeLimit"
"""How the reasons begin of frames that were given up."""

_LINE = re.compile(rb"(\w+) (alone|beside|end) ?(\d*)")


class UnderWay:
    """The notes of one task, such as a chunk, for one try at it; a `with` statement ends them when the task is done.

    `seconds` is the time that a frame may take. `alone` says that this process has no other thread at work.
    """

    def __init__(self, run_path: Path, task: str, seconds: float, *, alone: bool) -> None:
        self._path = _folder(run_path) / task
        self._seconds, self._alone = seconds, alone
        self._try = uuid.uuid4().hex[:12].encode()
        self._deaths: Counter[int] = Counter()
        """Of workers that had nothing else under way."""
        self._timeouts: Counter[int] = Counter()
        self._has_given_up = False
        self.suspects: tuple[int, ...] = ()
        """Frames that were under way when workers died; to be tried first."""

    def __enter__(self) -> UnderWay:
        try:
            self._path.parent.mkdir(exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            with open(self._path, "rb") as before:
                self._read(before.read())
        except OSError as error:
            raise _cannot_write(self._path, error) from error
        self._limit = TimeLimit(self._seconds, self._file)
        return self

    def __exit__(self, *_: object) -> None:
        self._limit.stop()
        os.close(self._file)
        if not self._has_given_up:  # else another try, should there be one, shall find the same
            self._path.unlink(missing_ok=True)

    def _read(self, notes: bytes) -> None:
        """Count how the tries before ended."""
        last: dict[bytes, tuple[bytes, int]] = {}
        suspects: list[int] = []
        for line in notes.splitlines():
            if line.startswith(TIMED_OUT):
                # Written by the process that has just put its frame down; no other line of it follows.
                tries = [key for key, (how, _) in last.items() if how != b"end"]
                if tries:
                    frame = last.pop(tries[-1])[1]
                    self._timeouts[frame] += 1
                    suspects.append(frame)
            elif match := _LINE.fullmatch(line):
                last.pop(match[1], None)
                last[match[1]] = match[2], int(match[3] or -1)
        for how, frame in last.values():
            if how != b"end":
                self._deaths[frame] += how == b"alone"
                suspects.append(frame)
        self.suspects = tuple(dict.fromkeys(suspects))

    def verdict(self, frame: int) -> str | None:
        """Why a frame is not to be tried again; None where it is."""
        reason = self._reason(frame)
        self._has_given_up |= reason is not None
        return reason

    def _reason(self, frame: int) -> str | None:
        if self._timeouts[frame] >= TIMEOUTS:
            return f"{TOO_LONG}: it took more than {self._seconds:g} s, {self._timeouts[frame]} times"
        if (deaths := self._deaths[frame] + self._timeouts[frame]) >= DEATHS:
            return f"{DIED}: the worker process died {deaths} times on this frame"
        return None

    @contextmanager
    def at(self, frame: int) -> Iterator[None]:
        """A frame is under way."""
        alone = frame in self.suspects
        # Waiting for the room is nobody's hang.
        with _ROOM.alone(self._limit.stop) if alone else _ROOM.shared(self._limit.stop):
            self._limit.begin()
            self._note(b"alone" if alone or self._alone else b"beside", frame)
            yield
            if alone:  # otherwise the next frame's note says so
                self._note(b"end")

    def end(self) -> None:
        """No frame is under way any more."""
        self._limit.stop()
        self._note(b"end")

    def _note(self, how: bytes, frame: int | None = None) -> None:
        try:
            os.write(self._file, b"%b %b %b\n" % (self._try, how, b"" if frame is None else b"%d" % frame))
        except OSError as error:
            raise _cannot_write(self._path, error) from error


def forget_notes(run_path: Path) -> None:
    """Remove the notes of a session that was ended from outside. Only whoever holds the run's lock may call this."""
    for path in _folder(run_path).glob("*"):
        path.unlink(missing_ok=True)


def _folder(run_path: Path) -> Path:
    return run_path / "under_way"


def _cannot_write(path: Path, error: OSError) -> RunError:
    return RunError(
        "the run cannot be written to", path=path, found=error.strerror, remedy="free space or check permissions"
    )


class _Room:
    """Many threads may be in it, or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._taken = False

    @contextmanager
    def shared(self, before_waiting: Callable[[], None]) -> Iterator[None]:
        with self._changed:
            if self._taken:
                before_waiting()
                self._changed.wait_for(lambda: not self._taken)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self, before_waiting: Callable[[], None]) -> Iterator[None]:
        with self._changed:
            before_waiting()
            self._changed.wait_for(lambda: not self._taken)
            self._taken = True
            self._changed.wait_for(lambda: not self._inside)
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                self._changed.notify_all()


_ROOM = _Room()
"""Of the frames that are under way in this process."""
