"""One connection to Dask, wherever it runs."""
# Dask's own class is typed in parts only.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import logging
import os
from concurrent.futures import CancelledError
from typing import Any

from distributed import Client, Future, Security

from sfxlab.cluster.dashboard import prepare
from sfxlab.cluster.local import connect_local
from sfxlab.cluster.mpi import connect_mpi
from sfxlab.cluster.owner import owner_of
from sfxlab.cluster.profiles import AddressProfile, LocalProfile, MpiProfile, SlurmProfile, StepName
from sfxlab.cluster.shares import SharingClient
from sfxlab.cluster.site import SiteProfile, site_profile
from sfxlab.errors import ClusterError

DEATHS_TOLERATED = 2
"""A task that was with this many workers when they died is tried once more and then given up."""


def connect(
    profile: str = "local",
    workers: int | None = None,
    *,
    step: StepName | None = None,
    memory_limit: str | float | None = None,
    dashboard: bool = True,
    timeout: float = 5.0,
) -> Client:
    """A Dask client; use it in a `with` statement, which also ends what was started here.

    `profile` says where workers run:

    - "local": processes on this machine, one for each core unless `workers` says how many, one thread each,
      `memory_limit` each in bytes or as "4 GiB".
    - "slurm": jobs of SLURM, at least as many as hold `workers` workers. Jobs that end are replaced.
    - "mpi": the ranks of the `mpirun` that started this program: one of them goes on from here, the others work.
    - the address of a scheduler that is already running, such as "tcp://node7:8786", waited for `timeout` seconds.
    - the name of a profile in a site file (`sfxlab doctor` shows them), with what it changes for `step`.

    Workers of SLURM come when it lets them: `wait_for_workers(client)` waits for them and says why there are none, and
    `process` does so by itself.

    A scheduler's port is as good as a login: what is started here ("local", "slurm", "mpi") knows its workers and its
    client by certificates that are made for this connection, so that nobody else gets in. A scheduler that is running
    already says itself whom it lets in; addresses with "tls://" take the certificates of a profile. The dashboard,
    `client.dashboard_link`, listens on 127.0.0.1 only, at a free port; whoever works on this very machine can read it.
    It has a page `frames` with the rates of frames, hits and workers. On a hub the link leads through the hub.

    A script that calls this for "local" keeps it below `if __name__ == "__main__":`, because worker processes
    import the script. Compiled kernels are kept where `NUMBA_CACHE_DIR` says, and any number of workers may start
    at once on them.

    Raises `ClusterError`.
    """
    memory = f"{memory_limit}" if isinstance(memory_limit, int | float) else memory_limit
    return connect_to(site_profile(profile, step, workers=workers, memory=memory), dashboard=dashboard, timeout=timeout)


def connect_to(site: SiteProfile, *, dashboard: bool = True, timeout: float = 5.0) -> Client:
    """The same for a profile that has been read."""
    prepare(panels=dashboard and isinstance(site.profile, LocalProfile | SlurmProfile))
    match site.profile:
        case LocalProfile() as profile:
            return connect_local(profile, dashboard, DEATHS_TOLERATED)
        case SlurmProfile() as profile:
            return _connect_slurm(profile, dashboard)
        case MpiProfile() as profile:
            return connect_mpi(profile, dashboard, DEATHS_TOLERATED)
        case AddressProfile() as profile:
            return _existing(profile, timeout)


def _connect_slurm(profile: SlurmProfile, dashboard: bool) -> Client:
    try:
        from sfxlab.cluster.slurm import start_jobs
    except ImportError as error:
        raise ClusterError(
            "SLURM cannot be used here", found=error, expected="dask-jobqueue", remedy="pip install 'sfxlab[slurm]'"
        ) from error
    return owner_of(start_jobs(profile, dashboard, DEATHS_TOLERATED))


def _existing(profile: AddressProfile, timeout: float) -> Client:
    # A scheduler that is lost later is a ClusterError of the task at work; a traceback beside it would only confuse.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    options: dict[str, Any] = {"timeout": timeout, "security": _certificates(profile)}
    encrypted = profile.address.startswith("tls://")
    try:
        return SharingClient(profile, **options)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise ClusterError(
            "no scheduler answers at this address",
            place=profile.address,
            found=error,
            expected="a running `dask scheduler`" + (", and certificates that it trusts" if encrypted else ""),
            remedy="describe it in a site file with tls_ca, tls_cert and tls_key"
            if encrypted and not profile.tls_ca
            else "check the address, and that this machine reaches it",
        ) from error


def _certificates(profile: AddressProfile) -> Security | None:
    """What the profile says; None leaves it to Dask's own settings."""
    files = {"tls_ca": profile.tls_ca, "tls_cert": profile.tls_cert, "tls_key": profile.tls_key}
    if not any(files.values()):
        return None
    for key, path in files.items():
        if path is None or not os.access(path, os.R_OK):
            problem = "this certificate is missing" if path is None else "this certificate cannot be read"
            raise ClusterError(problem, path=path, place=key, expected=f"all of {', '.join(files)}")
    return Security(
        tls_ca_file=profile.tls_ca, tls_client_cert=profile.tls_cert, tls_client_key=profile.tls_key,
        require_encryption=True,
    )  # fmt: skip


def task_result(task: Future[Any], timeout: float | None = None) -> Any:
    """What a task returned. Raises what it raised, and `ClusterError` where the cluster failed it.

    A task that has ended is done anew where its worker is gone; `TimeoutError` where that takes more than `timeout` s.
    """
    try:
        return task.result(timeout)
    except CancelledError as error:
        verdict = getattr(task.client.cluster, "verdict", None)
        raise verdict or connection_lost(error) from error
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
