"""Functions that want to know of changes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from sfxlab.session.changes import Change

_LOG = logging.getLogger(__name__)


class Subscribers:
    """Functions that want to know; one that fails is reported and does not keep the others from knowing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: dict[int, tuple[str, Callable[[Change], None]]] = {}
        self._count = 0

    def add(self, callback: Callable[[Change], None], prefix: str) -> Callable[[], None]:
        """Call it with changes whose name begins so; returns what ends it."""
        with self._lock:
            self._count += 1
            key = self._count
            self._callbacks[key] = (prefix, callback)
        return lambda: self._remove(key)

    def _remove(self, key: int) -> None:
        with self._lock:
            self._callbacks.pop(key, None)

    def deliver(self, change: Change) -> None:
        """Tell those who want to know."""
        with self._lock:
            wanted = [callback for prefix, callback in self._callbacks.values() if change.name.startswith(prefix)]
        for callback in wanted:
            try:
                callback(change)
            except Exception:  # noqa: BLE001
                _LOG.exception("a subscriber of a session failed on change %d, %s", change.number, change.name)
