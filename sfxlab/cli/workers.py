"""What commands that use workers share: where these are, how many, and waiting for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from distributed import Client

    from sfxlab.cluster.profiles import Profile, StepName

_WHERE = "local, slurm, mpi, tcp://HOST:PORT of a Dask scheduler, or a profile of the site."


def cluster_options(prefix: str = "", default: str | None = "local") -> Callable[[Callable[..., Any]], Any]:
    """`--cluster` and `--workers`, which the command hands to `workers_of`; their help begins with `prefix`."""
    place = click.option(
        "--cluster", default=default, show_default=default is not None, is_eager=True, callback=_part_of_rank,
        help=f"{prefix}{_WHERE}{'' if default else ' [default: local]'}",
    )  # fmt: skip
    number = click.option(
        "--workers", type=click.IntRange(0),
        help=f"{prefix}Worker processes; 0: this process only. [default: cores, or as the profile says]",
    )  # fmt: skip
    return lambda command: place(number(command))


@contextmanager
def workers_of(
    cluster: str | None, workers: int | None, step: StepName, *, wait: bool = True
) -> Iterator[Client | None]:
    """A client, or None for this process only. Unless told not to, waits for the first worker and shows what for."""
    if workers == 0 and cluster in (None, "local"):
        yield None
        return
    from sfxlab.cluster import connect, wait_for_workers

    with connect(cluster or "local", workers, step=step) as client:
        if wait:
            wait_for_workers(client)
        yield client


def _part_of_rank(context: click.Context, option: click.Parameter, cluster: str | None) -> str | None:
    """Under `mpirun` all ranks come here; only the client's goes on, before anything is read or written."""
    if cluster not in (None, "local", "slurm") and "://" not in cluster and not context.resilient_parsing:
        from sfxlab.cluster.site import site_profile

        join_mpi(site_profile(cluster).profile)
    return cluster


def join_mpi(profile: Profile) -> None:
    """Give ranks of MPI their parts; does nothing for other profiles."""
    from sfxlab.cluster.profiles import MpiProfile

    if isinstance(profile, MpiProfile):
        from sfxlab.cluster.connect import DEATHS_TOLERATED
        from sfxlab.cluster.mpi import join_ranks

        join_ranks(profile, allowed_failures=DEATHS_TOLERATED)
