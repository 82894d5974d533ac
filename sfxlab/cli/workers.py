"""What commands that use workers share: where these are, how many, and waiting for them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from sfxlab.errors import SfxlabWarning

if TYPE_CHECKING:
    from distributed import Client

    from sfxlab.cluster.profiles import Profile, StepName

T = TypeVar("T")

_WHERE = "local, slurm, mpi, tcp://HOST:PORT of a Dask scheduler, or a profile of the site."


def cluster_options(prefix: str = "", default: str | None = "local") -> Callable[[Callable[..., Any]], Any]:
    """`--cluster` and `--workers`, which the command hands to `workers_of`; their help begins with `prefix`."""
    place = cluster_option(prefix, default, "" if default else " [default: local]")
    number = click.option(
        "--workers", type=click.IntRange(0),
        help=f"{prefix}Worker processes; 0: this process only. [default: cores, or as the profile says]",
    )  # fmt: skip
    return lambda command: place(number(command))


def cluster_option(prefix: str, default: str | None, otherwise: str) -> Callable[[Callable[..., Any]], Any]:
    """`--cluster` alone; `otherwise` is the end of its help."""
    return click.option(
        "--cluster", default=default, show_default=default is not None, is_eager=True, callback=_part_of_rank,
        help=f"{prefix}{_WHERE}{otherwise}",
    )  # fmt: skip


@contextmanager
def workers_of(
    cluster: str | None, workers: int | None, step: StepName, *, wait: bool = True
) -> Iterator[Client | None]:
    """A client, or None for this process only. Unless told not to, waits for the first worker and shows what for."""
    if workers == 0 and cluster in (None, "local"):
        yield None
        return
    from sfxlab.cluster import connect, wait_for_workers
    from sfxlab.cluster.dashboard import page_of

    with connect(cluster or "local", workers, step=step) as client:
        if sys.stderr.isatty():
            click.echo(f"dashboard: {page_of(client)}", err=True)
        if wait:
            wait_for_workers(client)
        yield client


def done_elsewhere(cluster: str, step: StepName, name: str, function: Callable[..., T], *arguments: Any) -> T:
    """What a function returns on one worker, with the resources of the step; a worker that dies is replaced.

    Ctrl-C gives the task up, and ends what was started for it. Warnings of the function are given here.
    """
    from uuid import uuid4

    from sfxlab.cluster import connect, settled, task_result, wait_for_workers, waiting_line
    from sfxlab.cluster.profiles import LocalProfile
    from sfxlab.cluster.site import site_profile

    workers = 1 if isinstance(site_profile(cluster).profile, LocalProfile) else None
    with connect(cluster, workers, step=step, dashboard=False) as client:
        wait_for_workers(client)
        task = client.submit(_with_warnings, function, *arguments, key=f"{name}-{uuid4().hex[:8]}", pure=False)
        with waiting_line() as say:
            try:
                say(f"{name} on {cluster}")
                settled(client, task, lambda why: say(why or f"{name} on {cluster}"))
                found, told = task_result(task)
            finally:
                client.cancel(task)
    for category, message in told:
        warnings.warn(message, category, stacklevel=2)
    return cast("T", found)


def _with_warnings(function: Callable[..., T], *arguments: Any) -> tuple[T, list[tuple[type[Warning], str]]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default", SfxlabWarning)
        found = function(*arguments)
    ours = [one for one in caught if issubclass(one.category, SfxlabWarning)]
    return found, [(one.category, str(one.message)) for one in ours]


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
