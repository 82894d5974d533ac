"""Fair play on a Dask scheduler that several groups share."""
# Dask's own class is typed in parts only.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed import Client, Future, Semaphore

from sfxlab.cluster.profiles import AddressProfile
from sfxlab.errors import ClusterError

LIVE_PRIORITY = 100
"""Of the tasks of a live experiment; others have 0, and Dask takes higher ones first."""


class SharingClient(Client):
    """A client whose tasks keep to its proposal's share, however many clients the proposal has.

    The scheduler holds no more than `tasks_in_flight` of the proposal's tasks: `submit` waits until one of them has
    ended. Those of a client that is gone count for half a minute more. This is for people who mean to share; it keeps
    nobody out.
    """

    def __init__(self, profile: AddressProfile, **options: Any) -> None:
        self._priority = LIVE_PRIORITY if profile.live else 0
        self._share: Semaphore | None = None
        super().__init__(profile.address, **options)
        if profile.tasks_in_flight is not None:
            name = f"tasks of {profile.proposal or 'no proposal'}"
            share = Semaphore(profile.tasks_in_flight, name, scheduler_rpc=self.scheduler, loop=self.loop)
            try:
                share.register()
            except ValueError as error:
                self.close()
                raise ClusterError(
                    "others of this proposal have another limit", place=name, found=error,
                    remedy="give all of them the same tasks_in_flight",
                ) from error  # fmt: skip
            share.refresh_callback.start()
            self._share = share

    def submit(self, func: Callable[..., Any], *arguments: Any, **options: Any) -> Future[Any]:
        """`Client.submit` within the share."""
        options.setdefault("priority", self._priority)
        if self._share is None:
            return super().submit(func, *arguments, **options)
        self._share.acquire()
        try:
            task = super().submit(func, *arguments, **options)
        except BaseException:
            self._share.release()
            raise
        task.add_done_callback(self._given_back)
        return task

    def map(self, func: Callable[..., Any], *iterables: Any, key: Any = None, **options: Any) -> list[Future[Any]]:
        """`Client.map` within the share, a task at a time."""
        if self._share is None:
            return super().map(func, *iterables, key=key, **({"priority": self._priority} | options))
        rows = list(zip(*iterables, strict=False))
        names = key if isinstance(key, list) else [key and f"{key}-{number}" for number in range(len(rows))]
        return [self.submit(func, *row, key=name, **options) for row, name in zip(rows, names, strict=True)]

    def _given_back(self, task: Future[Any]) -> None:
        if self._share is not None and self.status == "running":
            self._share.release()
