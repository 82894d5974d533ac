"""Nodes on this machine: each a slurmd in a network namespace of its own. Needs root; for trying things out."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

STOP_TIMEOUT = 10.0
"""Seconds that processes of a node get to end by themselves."""

BOOT_TIME = 2.0
"""Seconds before a node starts. SLURM counts in whole ones and takes a node that comes at once for one that has never
been away: it then waits until ResumeTimeout for another."""


@dataclass(frozen=True)
class LocalNodes:
    """Nodes by name on a bridge that exists already."""

    bridge: str
    """Network interface that connects the nodes; its name is also the prefix of their namespaces."""
    addresses: Mapping[str, str]
    """Each node's address in the bridge's network, with the length of the prefix: "10.0.0.3/24"."""
    slurm_conf: str
    log_folder: str

    def start(self, node: str, boot_time: float = BOOT_TIME) -> str:
        """Start the node, anew where it is there already: SLURM waits for one that boots now. Its address."""
        with self._alone(node):
            self._stop(node)
            time.sleep(boot_time)
            return self._start(node)

    def stop(self, node: str) -> None:
        """End all that runs on the node, and take it away. Nothing happens where it is not there."""
        with self._alone(node):
            self._stop(node)

    @contextlib.contextmanager
    def _alone(self, node: str) -> Iterator[None]:
        """SLURM may want a node back that is still being ended."""
        with Path(self.log_folder, f"burst.{node}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _start(self, node: str) -> str:
        interface = ipaddress.ip_interface(self.addresses[node])
        namespace = self._namespace(node)
        _ip("netns", "add", namespace)
        # Names of interfaces have at most 15 letters.
        outside = f"{self.bridge[:10]}n{int(interface.ip) & 0xFFF:x}"
        _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("link", "set", outside, "master", self.bridge, "up")
        _ip("-n", namespace, "address", "add", str(interface), "dev", "eth0")
        for name in ("lo", "eth0"):
            _ip("-n", namespace, "link", "set", name, "up")
        # Nothing is reached by it, but programs find their own address by the way to elsewhere.
        _ip("-n", namespace, "route", "add", "default", "dev", "eth0")
        # `ip netns exec` would hide the cgroups that slurmd looks for.
        slurmd = ["setsid", "--fork", "nsenter", f"--net=/run/netns/{namespace}", "slurmd", "-D", "-b", "-N", node]
        with Path(self.log_folder, f"slurmd.{node}.out").open("ab") as log, _all_signals_unblocked():
            subprocess.run(
                slurmd, env=os.environ | {"SLURM_CONF": self.slurm_conf}, check=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        return str(interface.ip)

    def _stop(self, node: str) -> None:
        if self._namespace(node) not in _namespaces():
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + STOP_TIMEOUT
            while (running := self.processes(node)) and time.monotonic() < deadline:
                for process in running:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, number)
                time.sleep(0.1)
        _ip("netns", "delete", self._namespace(node))

    def processes(self, node: str) -> list[int]:
        """What runs on the node."""
        if self._namespace(node) not in _namespaces():
            return []
        return [int(process) for process in _ip("netns", "pids", self._namespace(node)).split()]

    def _namespace(self, node: str) -> str:
        return f"{self.bridge}-{node}"


def _namespaces() -> set[str]:
    return {line.split()[0] for line in _ip("netns", "list").splitlines() if line}


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


@contextlib.contextmanager
def _all_signals_unblocked() -> Iterator[None]:
    """slurmctld blocks signals in its programs, and a slurmd that inherits that hangs and cannot be ended."""
    before = signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
