"""A real SLURM on this machine: Debian's munged, slurmctld and slurmds, started as root and taken away again."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import pytest

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sinfo", "setpriv")
_NETWORK_PROGRAMS = ("ip", "nsenter")
_BURST = Path(__file__).parents[1] / "hub_config" / "slurm"

_CONFIGURATION = """\
ClusterName={name}
SlurmctldHost={hostname}({host})
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool/%n
SlurmdLogFile={folder}/log/slurmd.%n.log
StateSaveLocation={folder}/state
"""

_POWER_SAVING = """\
ResumeProgram={folder}/burst-resume
SuspendProgram={folder}/burst-suspend
ResumeFailProgram={folder}/burst-suspend
ResumeTimeout=60
SuspendTimeout=5
SuspendTime={suspend_time}
SuspendExcNodes={local}
SlurmctldParameters=idle_on_node_suspend,power_save_interval=1
CommunicationParameters=NoAddrCache
PrivateData=cloud
"""


class SlurmSite:
    """A SLURM in a `with` statement: ordinary nodes, and cloud nodes that its power saving resumes and suspends.

    Each node offers `cpus` and `memory` MiB whatever the machine has. Without cloud nodes they listen on 127.0.0.1 at
    ports of their own; with cloud nodes each, ordinary ones too, lives in a network namespace. Cloud nodes are in the
    same partition as the others and are only taken where those are full; they go back after `suspend_time` seconds
    without work. `configuration` is added to slurm.conf as it is. `nodes_by` is a command that starts slurmd of
    ordinary nodes without a network of their own, which it gets as arguments.

    The test skips, saying why, where this cannot run.
    """

    def __init__(
        self,
        local_nodes: int = 2,
        cloud_nodes: int = 0,
        *,
        cpus: int = 2,
        memory: int = 4000,
        suspend_time: int = 10,
        configuration: str = "",
        nodes_by: Sequence[str] = (),
    ) -> None:
        self.partition = "onprem"
        self.local_nodes = tuple(f"local{number}" for number in range(1, local_nodes + 1))
        """Names of the nodes that are always there."""
        self.cloud_nodes = tuple(f"cloud{number}" for number in range(1, cloud_nodes + 1))
        """Names of the nodes that come and go."""
        self.name = f"sfx{secrets.token_hex(3)}"
        """Of the cluster and of its bridge."""
        self._cpus, self._memory = cpus, memory
        self._suspend_time, self._extra = suspend_time, configuration
        self._nodes_by = tuple(nodes_by)
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> SlurmSite:
        _skip_where_impossible(network=bool(self.cloud_nodes))
        _remove_sites_of_the_dead()
        try:
            self._start()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._cleanup.close()

    @property
    def environment(self) -> dict[str, str]:
        """What programs of SLURM have to find in their environment, beside the usual."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *command: str, timeout: float = 60) -> str:
        """Output of a program of SLURM, such as `run("squeue", "-h")`."""
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, timeout=timeout, cwd=self.folder
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def states(self) -> dict[str, str]:
        """State of each node, such as "idle", "mix", "alloc", "idle~" (in the cloud, not there now)."""
        lines = self.run("sinfo", "-h", "-N", "-o", "%N %t").splitlines()
        return dict(line.split() for line in lines)

    def wait_for(self, condition: Callable[[], bool], what: str, timeout: float = 120) -> None:
        """Wait until the condition holds; fails with the logs where it does not."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"waited {timeout:.0f} s for {what}; nodes {self.states()}\n{self.logs()}")
            time.sleep(0.1)

    def logs(self, lines: int = 20) -> str:
        """The end of each log."""
        texts = {path.name: path.read_text(errors="replace") for path in sorted((self.folder / "log").iterdir())}
        return "\n".join(f"--- {name}\n" + "\n".join(text.splitlines()[-lines:]) for name, text in texts.items())

    def _start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir="/tmp"))  # paths of sockets must be short
        self._cleanup.callback(shutil.rmtree, self.folder, ignore_errors=True)
        (self.folder / "owner").write_text(str(os.getpid()))
        self.folder.chmod(0o755)
        for name in ("log", "spool", "state"):
            (self.folder / name).mkdir()
        self._cleanup.callback(_end_processes_of, self.folder)
        self._start_munge()
        if self.cloud_nodes:
            self._start_network()
        else:
            self.host = "127.0.0.1"
            """Address at which jobs reach this machine."""
        self._write_configuration()
        self._start_process(["slurmctld", "-D", "-c"])
        self._wait_for_controller()
        self._start_nodes()
        self.wait_for(lambda: all(self.states()[node] == "idle" for node in self.local_nodes), "nodes to come up")

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        folder.mkdir(mode=0o755)
        key = folder / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        for path in (folder, key):
            shutil.chown(path, "munge", "munge")
        files = [f"--{kind}-file={folder / kind}" for kind in ("key", "log", "pid", "seed")]
        as_munge = ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups"]
        self._start_process([*as_munge, "munged", "--foreground", f"--socket={folder / 'socket'}", *files])
        deadline = time.monotonic() + 10
        while not (folder / "socket").exists():
            assert time.monotonic() < deadline, f"munged did not start: {(folder / 'log').read_text()}"
            time.sleep(0.05)

    def _start_network(self) -> None:
        network = _free_network()
        addresses = iter(network.hosts())
        nodes = {node: f"{next(addresses)}/{network.prefixlen}" for node in (*self.local_nodes, *self.cloud_nodes)}
        self.host = str(next(addresses))
        _command("ip", "link", "add", self.name, "type", "bridge")
        self._cleanup.callback(_command, "ip", "link", "delete", self.name)
        _command("ip", "address", "add", f"{self.host}/{network.prefixlen}", "dev", self.name)
        _command("ip", "link", "set", self.name, "up")
        if str(_BURST) not in sys.path:
            sys.path.insert(0, str(_BURST))
        from burst.local import LocalNodes

        self.nodes = LocalNodes(self.name, nodes, self.environment["SLURM_CONF"], str(self.folder / "log"))
        for node in nodes:
            self._cleanup.callback(self.nodes.stop, node)

    def _write_configuration(self) -> None:
        size = f"CPUs={self._cpus} RealMemory={self._memory}"
        ports = _free_ports(1 + len(self.local_nodes))
        text = _CONFIGURATION.format(
            name=self.name, hostname=socket.gethostname(), host=self.host, port=ports[0], node_port=6818,
            folder=self.folder,
        )  # fmt: skip
        for node, port in zip(self.local_nodes, ports[1:], strict=True):
            where = f"NodeAddr={self.address(node)}" if self.cloud_nodes else f"NodeAddr=127.0.0.1 Port={port}"
            text += f"NodeName={node} NodeHostname={node} {where} {size} State=UNKNOWN\n"
        for node in self.cloud_nodes:
            text += f"NodeName={node} NodeHostname={node} {size} Weight=100 Feature=cloud State=CLOUD\n"
        if self.cloud_nodes:
            local = ",".join(self.local_nodes)
            text += _POWER_SAVING.format(folder=self.folder, suspend_time=self._suspend_time, local=local)
            self.install_burst(self.local_burst())
        nodes = ",".join((*self.local_nodes, *self.cloud_nodes))
        text += f"PartitionName={self.partition} Nodes={nodes} Default=YES MaxTime=02:00:00 State=UP\n{self._extra}\n"
        (self.folder / "slurm.conf").write_text(text)

    def address(self, node: str) -> str:
        """Where a node of a site with cloud nodes is reached."""
        return str(ipaddress.ip_interface(self.nodes.addresses[node]).ip)

    def local_burst(self) -> str:
        """Settings by which power saving starts the cloud nodes on this machine."""
        addresses = "".join(f'{node} = "{self.nodes.addresses[node]}"\n' for node in self.cloud_nodes)
        return (
            f'driver = "local"\nlog = "{self.folder}/log/burst.log"\n'
            f'[local]\nbridge = "{self.name}"\nlog_folder = "{self.folder}/log"\n[local.addresses]\n{addresses}'
        )

    def install_burst(self, text: str) -> None:
        """The programs for power saving, as an administrator installs them, with the text of burst.toml."""
        settings = self.folder / "burst.toml"
        settings.write_text(text)
        _command(sys.executable, "-m", "burst", "install", settings, cwd=_BURST, environment=self.environment)

    def _wait_for_controller(self) -> None:
        deadline = time.monotonic() + 20
        while subprocess.run(["scontrol", "ping"], env=os.environ | self.environment, capture_output=True).returncode:
            if time.monotonic() > deadline:
                pytest.fail(f"slurmctld did not start\n{self.logs()}")
            time.sleep(0.1)

    def _start_nodes(self) -> None:
        for node in self.local_nodes:
            if self.cloud_nodes:
                self.nodes.start(node, boot_time=0)
            else:
                self._start_process([*self._nodes_by, "slurmd", "-D", "-b", "-N", node])
        # Once more than in `_start_network`, because a slurmd ends at once only while slurmctld answers.
        for node in (*self.local_nodes, *self.cloud_nodes) if self.cloud_nodes else ():
            self._cleanup.callback(self.nodes.stop, node)
        self._cleanup.callback(self._cancel_all_jobs)

    def _cancel_all_jobs(self) -> None:
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):  # a test may have ended slurmctld
            self.run("scancel", "--user=root", timeout=5)

    def _start_process(self, command: Sequence[str]) -> None:
        # All that belongs to the site carries its folder in the environment, by which it is found in the end.
        environment = os.environ | self.environment
        name = next(word for word in command if word in _PROGRAMS and word != "setpriv")
        with (self.folder / "log" / f"{name}.{secrets.token_hex(2)}.out").open("wb") as log:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._cleanup.callback(_end, process)


def _skip_where_impossible(network: bool) -> None:
    programs = (*_PROGRAMS, *_NETWORK_PROGRAMS) if network else _PROGRAMS
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here: a SLURM cannot be started (Debian: slurm-wlm munge iproute2)")
    if os.geteuid() != 0:
        pytest.skip("only root can start the SLURM of this test")
    if network:
        name = f"sfx{secrets.token_hex(3)}"
        added = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
        if added.returncode:
            pytest.skip(f"network namespaces are not allowed here: {added.stderr.strip()}")
        _command("ip", "netns", "delete", name)


def _free_network() -> ipaddress.IPv4Network:
    """A small private network that no interface here is in."""
    lines = _command("ip", "-4", "-o", "address").splitlines()
    taken = [ipaddress.ip_interface(line.split()[3]).network for line in lines]
    while True:
        network = ipaddress.ip_network(f"10.{secrets.randbelow(256)}.{secrets.randbelow(256)}.0/27")
        if not any(network.overlaps(other) for other in taken):
            return network


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _command(*command: str | Path, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    environment = os.environ | (environment or {})
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd, env=environment)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}"
    return done.stdout


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_processes_of(folder: Path) -> None:
    """End jobs, their steps, and daemons that have not ended by themselves."""
    mark = f"SLURM_CONF={folder / 'slurm.conf'}\0".encode()
    deadline = time.monotonic() + 10
    while (left := _processes_with(mark)) and time.monotonic() < deadline:
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM if time.monotonic() < deadline - 7 else signal.SIGKILL)
        time.sleep(0.1)


def _processes_with(mark: bytes) -> list[int]:
    """Processes, other than this one, that were started with these words in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                found.append(int(folder.name))
    return found


def _remove_sites_of_the_dead() -> None:
    """What is left of sites whose process was killed."""
    for owner in Path("/tmp").glob("sfx*-*/owner"):
        with contextlib.suppress(OSError):
            if Path("/proc", owner.read_text()).exists():
                continue
        _end_processes_of(owner.parent)
        name = owner.parent.name.partition("-")[0]
        for namespace in Path("/run/netns").glob(f"{name}-*"):
            subprocess.run(["ip", "netns", "delete", namespace.name], capture_output=True)
        if Path("/sys/class/net", name).exists():
            subprocess.run(["ip", "link", "delete", name], capture_output=True)
        shutil.rmtree(owner.parent, ignore_errors=True)
