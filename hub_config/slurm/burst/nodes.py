"""Start nodes and give them back: what SLURM asks for, done by a driver, told to SLURM and to the log."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from .settings import BurstError, BurstSettings

AT_ONCE = 16
"""Nodes that are started or ended at the same time."""

log = logging.getLogger("burst")


class Driver(Protocol):
    """How nodes come to be. Both functions may be called for a node that is there, half there or gone already."""

    def start(self, node: str) -> str:
        """Make the node and wait until it has an address, which is returned.

        SLURM only takes a node that boots after it has asked for it; one that runs already is started anew.
        """

    def stop(self, node: str) -> None:
        """Take the node away, and wait until it is gone."""


def driver_of(settings: BurstSettings) -> Driver:
    """The driver that the settings name."""
    if settings.openstack is not None and settings.driver == "openstack":
        from .openstack_servers import OpenStackServers

        return OpenStackServers(settings.openstack, cluster_name())
    from .local import LocalNodes

    local = settings.local
    assert local is not None
    return LocalNodes(local.bridge, local.addresses, os.environ["SLURM_CONF"], str(local.log_folder))


def resume(nodes: Sequence[str], driver: Driver) -> bool:
    """Start nodes and tell SLURM their addresses; False where one failed.

    A node that cannot be started is set DOWN with the reason, so that SLURM gives its jobs to others at once, and what
    was made of it is taken away.
    """

    def start(node: str) -> None:
        try:
            address = driver.start(node)
            _scontrol("update", f"NodeName={node}", f"NodeAddr={address}", f"NodeHostname={node}")
        except Exception:
            try:
                driver.stop(node)
            except Exception:
                log.exception("%s was started in parts, which may still be there", node)
            raise
        log.info("%s started at %s", node, address)

    return _all_nodes(nodes, start, "not started")


def suspend(nodes: Sequence[str], driver: Driver) -> bool:
    """Give nodes back; False where one failed. That one is set DOWN with the reason, because it may still cost."""

    def stop(node: str) -> None:
        driver.stop(node)
        log.info("%s given back", node)

    return _all_nodes(nodes, stop, "not given back")


def _all_nodes(nodes: Sequence[str], action: Callable[[str], None], failure: str) -> bool:
    def attempt(node: str) -> bool:
        try:
            action(node)
        except Exception as error:  # noqa: BLE001 - whatever it was, SLURM and the administrator have to know
            set_down(node, failure, error)
            return False
        return True

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return all(list(pool.map(attempt, nodes)))


def set_down(node: str, failure: str, error: Exception) -> None:
    """Take a node out of service, with the reason that `sinfo -R` then shows."""
    reason = " ".join(str(error).split()) or type(error).__name__
    foreseen = isinstance(error, BurstError | OSError)
    log.error("%s %s: %s", node, failure, reason, exc_info=None if foreseen else error)
    _scontrol("update", f"NodeName={node}", "State=DOWN", f"Reason=burst: {failure}: {reason[:200]}")


def expanded(names: str) -> list[str]:
    """SLURM's short form of names, such as "cloud[1-3,7]", as a list."""
    return _scontrol("show", "hostnames", names).split()


def cluster_name() -> str:
    """The name that slurm.conf gives to this cluster."""
    for line in _scontrol("show", "config").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "ClusterName":
            return value.strip()
    raise BurstError("SLURM does not say the name of its cluster")


def _scontrol(*arguments: str) -> str:
    try:
        done = subprocess.run(["scontrol", *arguments], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BurstError("scontrol does not answer", place=" ".join(arguments), found=error) from error
    if done.returncode:
        raise BurstError("scontrol refuses", place=" ".join(arguments), found=done.stderr.strip() or done.stdout)
    return done.stdout
