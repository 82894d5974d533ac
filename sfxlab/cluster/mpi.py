"""The ranks of `mpirun` as workers, by dask-mpi."""

from __future__ import annotations

import atexit
import logging
import sys
from contextlib import suppress
from typing import Any

import dask
from distributed import Client, Security

from sfxlab.cluster.dashboard import prepare
from sfxlab.cluster.profiles import MpiProfile
from sfxlab.errors import ClusterError

_RANKS = 3
"""The least: one is the scheduler, one the client, one a worker."""


def connect_mpi(profile: MpiProfile, dashboard: bool, allowed_failures: int) -> Client:
    """A client on the rank that goes on; see `join_ranks`."""
    return Client(join_ranks(profile, dashboard, allowed_failures))


def join_ranks(profile: MpiProfile, dashboard: bool = True, allowed_failures: int = 0) -> str:
    """Give each rank of `mpirun` its part; only one of them, the client, returns, with the scheduler's address.

    The others run until the client's program has ended, and exit. To be called by all ranks, before any of them has
    done what should be done once. Raises `ClusterError`.
    """
    known = dask.config.get("scheduler-address", None)
    if known is not None:
        return str(known)
    try:
        import dask_mpi
        from mpi4py import MPI
    except ImportError as error:
        raise ClusterError(
            "MPI cannot be used here", found=error, expected="dask-mpi, mpi4py and an MPI library",
            remedy="pip install 'sfxlab[mpi]'",
        ) from error  # fmt: skip
    ranks = MPI.COMM_WORLD.Get_size()
    if ranks < _RANKS:
        _one_says(MPI.COMM_WORLD.Get_rank(), ranks)
    if profile.tls:
        _share_keys(MPI.COMM_WORLD)
    prepare(panels=dashboard and MPI.COMM_WORLD.Get_rank() == 0)
    # Ranks end one after the other; what they say of lost connections then is of no use.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with dask.config.set({"distributed.scheduler.allowed-failures": allowed_failures}):
        is_client = dask_mpi.initialize(
            interface=profile.interface, protocol="tls://" if profile.tls else None, memory_limit=profile.memory,
            local_directory=profile.scratch,
            dashboard=dashboard, dashboard_address="127.0.0.1:0", exit=False,
        )  # fmt: skip
    if not is_client:
        sys.exit(0)
    address = str(dask.config.get("scheduler-address"))
    atexit.register(_end_ranks, address)
    return address


def _share_keys(ranks: Any) -> None:
    """Certificates for this connection only; ranks have them from the first one by MPI, and no file holds them.

    Dask looks for them in its settings.
    """
    settings: dict[str, Any] = {}
    if ranks.Get_rank() == 0:
        made = Security.temporary()
        settings = {"distributed.comm.require-encryption": True, "distributed.comm.tls.ca-file": made.tls_ca_file}
        for role in ("scheduler", "worker", "client"):
            own = made.get_tls_config_for_role(role)
            settings |= {f"distributed.comm.tls.{role}.{part}": own[part] for part in ("cert", "key")}
    dask.config.set(ranks.bcast(settings, root=0))


def _one_says(rank: int, ranks: int) -> None:
    if rank > 0:
        sys.exit(1)
    raise ClusterError(
        "these are too few ranks of MPI", found=ranks, expected=f"{_RANKS} or more: scheduler, client and workers",
        remedy=f"start it with mpirun -n {_RANKS} or more",
    )  # fmt: skip


def _end_ranks(address: str) -> None:
    options: dict[str, Any] = {"timeout": 5, "set_as_default": False}
    with suppress(OSError), Client(address, **options) as client:
        client.shutdown()
