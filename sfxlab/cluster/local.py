"""Workers on this machine."""

# Dask's own class is typed in parts only.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import logging
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import resource_tracker
from typing import Any

import dask
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, Security, Status

from sfxlab.cluster.owner import owner_of
from sfxlab.cluster.profiles import LocalProfile
from sfxlab.errors import ClusterError

_STARTING = (Status.init, Status.starting, Status.running)
_DEAD_WORKERS_RETURN = {"distributed.deploy.lost-worker-timeout": "1 day"}


class LocalWorkers(LocalCluster):
    """A scheduler and workers on this machine."""

    scheduler: Any
    workers: dict[Any, Any]

    def __init__(self, **options: Any) -> None:
        self.wanted = int(options["n_workers"])
        super().__init__(**options)

    def waiting(self) -> str:
        """Why there are no workers; empty where there are some."""
        if self.scheduler.workers:
            return ""
        starting = any(
            nanny.status in _STARTING and getattr(nanny.process, "status", None) is not Status.failed
            for nanny in self.workers.values()
        )
        why = "their processes are starting" if starting else "their processes have ended, and none is started again"
        return f"0 of {self.wanted} workers: {why}"


def connect_local(profile: LocalProfile, dashboard: bool, allowed_failures: int) -> Client:
    """Start worker processes here. Raises `ClusterError`.

    Whoever reaches a scheduler's port has its owner's rights, and on a machine of several people all of them do. So
    scheduler, workers and client know each other by certificates that are made for this connection and never written.
    """
    options: dict[str, Any] = {
        "n_workers": CPU_COUNT if profile.workers is None else profile.workers,
        "threads_per_worker": 1,
        "processes": True,
        "security": Security.temporary() if profile.tls else None,
        "memory_limit": profile.memory,
        "dashboard_address": "127.0.0.1:0",
        "scheduler_kwargs": {"dashboard": dashboard},
        "silence_logs": logging.CRITICAL,
    }
    # Dask looks a while after a worker's death whether it is there, and gives it up for good if it has just died again:
    # tasks that kill workers would leave none. It reads this at each death, hence set for good.
    dask.config.set(_DEAD_WORKERS_RETURN)
    try:
        with dask.config.set({"distributed.scheduler.allowed-failures": allowed_failures}):
            return _deaf_to_interrupts(options)
    except (OSError, RuntimeError) as error:
        raise ClusterError(
            "the workers on this machine did not start", found=error, remedy="ask for fewer workers, or for none"
        ) from error


def _deaf_to_interrupts(options: dict[str, Any]) -> Client:
    """Start workers that Ctrl-C on a terminal, which reaches all its processes, does not end: the client does.

    Threads and processes take over which signals are blocked from the thread that starts them, so that this holds from
    a worker's first moment on, and for those that take the place of dead ones.
    """
    # Otherwise it starts with the first worker and unblocks the signal in the thread that starts workers.
    resource_tracker.ensure_running()
    block = partial(signal.pthread_sigmask, signal.SIG_BLOCK, {signal.SIGINT})
    with ThreadPoolExecutor(1, initializer=block) as pool:
        starting = pool.submit(lambda: owner_of(LocalWorkers(**options)))
        try:
            return starting.result()
        except KeyboardInterrupt:
            starting.result().close()
            raise
