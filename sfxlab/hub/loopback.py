"""Whose a loopback connection is: on one machine, every account reaches every port of 127.0.0.1.

Dask loads this file into schedulers, nannies and workers (`DASK_SETTINGS`), whatever environment they run in; so it
imports nothing but the standard library. They then talk to processes of their own account only.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASK_SETTINGS = {
    f"DASK_DISTRIBUTED__{part}__PRELOAD": repr([str(Path(__file__).resolve())])
    for part in ("SCHEDULER", "WORKER", "NANNY")
}
"""Environment of a server whose Dask clusters shall keep other accounts out."""

_LISTENS = "0A"


@dataclass(frozen=True)
class Socket:
    """A TCP socket of this machine, as the kernel lists it."""

    port: int
    listens: bool
    user: int
    inode: int


def sockets() -> Iterator[Socket]:
    """All TCP sockets of this network namespace."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except FileNotFoundError:
            continue  # a machine without IPv6
        for line in lines:
            fields = line.split()
            port = int(fields[1].rpartition(":")[2], 16)
            yield Socket(port, fields[3] == _LISTENS, int(fields[7]), int(fields[9]))


def listener(port: int) -> Socket | None:
    """Who listens at a port; None for nobody, or for several accounts at several addresses."""
    found = [each for each in sockets() if each.listens and each.port == port]
    return found[0] if len({each.user for each in found}) == 1 else None


def is_of_this_account(connection: socket.socket) -> bool:
    """Whether the other end is a process of this account or of root; true for what comes from another machine."""
    try:
        here, there = connection.getsockname(), connection.getpeername()
    except OSError:
        return False  # it has gone
    if here[0] != there[0] and not ipaddress.ip_address(there[0].partition("%")[0]).is_loopback:
        return True
    users = {each.user for each in sockets() if each.port == there[1] and not each.listens}
    # Other connections may have the same port at other addresses; sockets that have just been closed belong to root.
    return bool(users) and users <= {0, os.geteuid()}


def dask_setup(server: Any) -> None:
    """What Dask calls when a scheduler, a nanny or a worker has started to listen."""
    listeners = [each.tcp_server for each in server.listeners if getattr(each, "tcp_server", None) is not None]
    if getattr(server, "http_server", None) is not None:
        listeners.append(server.http_server)
    for each in listeners:
        each.handle_stream = _guarded(each.handle_stream)


def _guarded(take: Callable[..., Any]) -> Callable[..., Any]:
    def handle(stream: Any, address: Any) -> Any:
        if is_of_this_account(stream.socket):
            return take(stream, address)
        stream.close()
        return None

    return handle
