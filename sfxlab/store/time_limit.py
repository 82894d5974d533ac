"""A limit of time for what a worker does, which holds even in C libraries.

Code that hangs in a C library may keep Python's lock for ever, so no Python thread can be relied on to notice it. The
watchdog of `faulthandler` is a thread in C that needs no lock: it writes where every thread was and ends the process,
whose nanny then starts another. There is one such watchdog in a process; it is set for whichever of its threads is due
first.
"""

from __future__ import annotations

import faulthandler
import math
import threading
import time

TIMED_OUT = b"Timeout ("
"""How what the watchdog writes begins."""

_SLACK = 0.25
"""Of the limit: setting the watchdog starts a thread, which shall not happen for each frame."""

_FIRST = 10
"""So many times the limit may pass the first time in a process, which loads or compiles kernels then."""

_LOCK = threading.Lock()
_BEGUN = threading.Event()
"""Something has been begun in this process."""
_DUE: dict[int, tuple[float, int]] = {}
"""For each thread at work when it is to end, by `time.monotonic`, and the file to write to then."""


class TimeLimit:
    """Ends this process where the calling thread does not `begin` something else, or `stop`, within some seconds.

    A quarter more may pass, and ten times as much at the first `begin` of a process, because kernels are compiled
    then; infinity is no limit. `file` is the descriptor of an open file that gets the traceback of every thread at
    the end.
    """

    def __init__(self, seconds: float, file: int) -> None:
        self._seconds, self._file = seconds, file

    def begin(self) -> None:
        """The seconds count from now on."""
        if self._seconds == math.inf:
            return
        now, thread = time.monotonic(), threading.get_ident()
        with _LOCK:
            if not _BEGUN.is_set():
                _BEGUN.set()
                _DUE[thread] = (now + _FIRST * self._seconds, self._file)
                _set()
                return
            due, file = _DUE.get(thread, (0.0, -1))
            if not self._seconds <= due - now <= (1 + _SLACK) * self._seconds or file != self._file:
                _DUE[thread] = (now + (1 + _SLACK) * self._seconds, self._file)
                _set()

    def stop(self) -> None:
        """There is no limit until something is begun."""
        with _LOCK:
            if _DUE.pop(threading.get_ident(), None) is not None:
                _set()


def _set() -> None:
    if not _DUE:
        faulthandler.cancel_dump_traceback_later()
        return
    due, file = min(_DUE.values())
    faulthandler.dump_traceback_later(max(due - time.monotonic(), 1e-3), exit=True, file=file)
