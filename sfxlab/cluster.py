"""One connection to Dask, wherever it runs."""

from __future__ import annotations

import logging
import signal
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial
from multiprocessing import resource_tracker
from typing import Any

import dask
from dask.system import CPU_COUNT
from distributed import Client, Future

from sfxlab.errors import ClusterError

DEATHS_TOLERATED = 2
"""A task that was with this many workers when they died is tried once more and then given up."""

_DEAD_WORKERS_RETURN = {"distributed.deploy.lost-worker-timeout": "1 day"}


def connect(
    where: str = "local",
    workers: int | None = None,
    *,
    memory_limit: str | float = "auto",
    dashboard: bool = True,
    timeout: float = 5.0,
) -> Client:
    """A Dask client; use it in a `with` statement, which also ends what was started here.

    `where` is "local" for processes on this machine (one for each core unless `workers` says how many, one thread
    each, `memory_limit` each in bytes or as "4 GiB"), or the address of a scheduler that is already running, such
    as "tcp://node7:8786", waited for `timeout` seconds. The dashboard listens on 127.0.0.1 at a free port; its
    address is `client.dashboard_link`.

    A script that calls this for "local" keeps it below `if __name__ == "__main__":`, because worker processes
    import the script. Compiled kernels are kept where `NUMBA_CACHE_DIR` says, and any number of workers may start
    at once on them.

    Raises `ClusterError`.
    """
    if where in ("slurm", "mpi"):
        raise ClusterError(
            f"'{where}' is not available in this version",
            remedy="start `dask scheduler` and `dask worker` there and give the scheduler's address (tcp://…)",
        )
    if where == "local":
        return _local(workers, memory_limit, dashboard)
    if "://" not in where:
        raise ClusterError("unknown kind of cluster", found=where, expected="local or tcp://HOST:PORT")
    if workers is not None:
        raise ClusterError(
            "the number of workers is up to the scheduler that is already running",
            found=f"{workers} workers",
            remedy="start or stop `dask worker` there",
        )
    return _existing(where, timeout)


def _local(workers: int | None, memory_limit: str | float, dashboard: bool) -> Client:
    if workers is not None and workers < 1:
        raise ClusterError("a cluster needs workers", found=workers, expected="1 or more")
    options: dict[str, Any] = {
        "n_workers": CPU_COUNT if workers is None else workers,
        "threads_per_worker": 1,
        "processes": True,
        "memory_limit": memory_limit,
        "dashboard_address": "127.0.0.1:0",
        "scheduler_kwargs": {"dashboard": dashboard},
        "silence_logs": logging.CRITICAL,
    }
    # Dask looks a while after a worker's death whether it is there, and gives it up for good if it has just died again:
    # tasks that kill workers would leave none. It reads this at each death, hence set for good.
    dask.config.set(_DEAD_WORKERS_RETURN)
    try:
        with dask.config.set({"distributed.scheduler.allowed-failures": DEATHS_TOLERATED}):
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
        starting = pool.submit(Client, **options)
        try:
            return starting.result()
        except KeyboardInterrupt:
            starting.result().close()
            raise


def _existing(address: str, timeout: float) -> Client:
    # A scheduler that is lost later is a ClusterError of the task at work; a traceback beside it would only confuse.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    try:
        return Client(address, timeout=timeout)
    except (OSError, ValueError) as error:
        raise ClusterError(
            "no scheduler answers at this address",
            place=address,
            found=error,
            expected="a running `dask scheduler`",
            remedy="check the address, and that this machine reaches it",
        ) from error


def task_result(task: Future[Any]) -> Any:
    """What a task returned. Raises what it raised, and `ClusterError` where the cluster failed it."""
    try:
        return task.result()
    except CancelledError as error:
        raise connection_lost(error) from error
    except RuntimeError as error:
        if "deserialization" not in str(error):
            raise
        raise ClusterError(
            "the workers cannot run this task", found=error.__cause__, expected="the same sfxlab there and here"
        ) from error


def connection_lost(error: Exception) -> ClusterError:
    """What to say of a cluster that is gone."""
    return ClusterError(
        "the cluster dropped the tasks of this run",
        found=str(error).partition("\n")[0],
        remedy="connect anew and continue with --resume",
    )
