"""What SLURM has for the jobs of a profile: nodes that are always there, nodes of a cloud, and the wait for them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from dask.utils import parse_bytes

from sfxlab.cluster.estimate import Machines
from sfxlab.cluster.profiles import SlurmProfile
from sfxlab.errors import ClusterError

_OUT_OF_SERVICE = {"DOWN", "DRAIN", "FAIL", "FAILING", "NOT_RESPONDING"}
_TIMEOUT = 30.0


@dataclass(frozen=True)
class Capacity:
    """Machines for a profile's jobs."""

    here: Machines
    """Nodes that there always are, with the wait that SLURM expects."""
    burst: Machines | None
    """Nodes that SLURM's power saving starts, with the time that it gives them for that at most."""


def capacity(profile: SlurmProfile, bytes_per_second: float) -> Capacity:
    """Ask SLURM; nothing is submitted. `bytes_per_second` is how fast data reaches the nodes of the cloud.

    Raises `ClusterError`.
    """
    partition = profile.queue or _default_partition()
    nodes = [node for node in _nodes() if _serves(node, partition)]
    cloud = [node for node in nodes if "CLOUD" in _states(node)]
    always = [node for node in nodes if "CLOUD" not in _states(node)]
    wanted = profile.most_jobs
    jobs = min(wanted, sum(_jobs_on(node, profile) for node in always))
    more = min(wanted - jobs, sum(_jobs_on(node, profile) for node in cloud))
    if not jobs + more:
        raise ClusterError(
            "no node holds a job of this profile", place=f"partition {partition}",
            found=f"{len(nodes)} nodes in service, {profile.cores} cores and {profile.memory} for a job",
            remedy="choose another queue, or smaller jobs",
        )  # fmt: skip
    here = Machines(jobs * profile.cores, _expected_wait(profile, jobs, cloud))
    if not more:
        return Capacity(here, None)
    start = _expected_wait(profile, more, always) + _resume_timeout()
    return Capacity(here, Machines(more * profile.cores, start, bytes_per_second))


def _nodes() -> list[dict[str, str]]:
    lines = _slurm("scontrol", "--all", "--oneliner", "show", "nodes").splitlines()
    return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines if line.startswith("NodeName=")]


def _states(node: Mapping[str, str]) -> set[str]:
    return set(node["State"].rstrip("*").split("+"))


def _serves(node: Mapping[str, str], partition: str) -> bool:
    return not _states(node) & _OUT_OF_SERVICE and partition in node.get("Partitions", "").split(",")


def _jobs_on(node: Mapping[str, str], profile: SlurmProfile) -> int:
    memory = int(node["RealMemory"]) * 2**20
    return min(int(node["CPUTot"]) // profile.cores, memory // parse_bytes(profile.memory))


def _expected_wait(profile: SlurmProfile, jobs: int, without: Sequence[Mapping[str, str]]) -> float:
    """Seconds until SLURM expects to have room for all jobs at once."""
    if not jobs:
        return 0.0
    options = {
        "partition": profile.queue, "account": profile.account, "qos": profile.qos, "time": profile.walltime,
        "ntasks": jobs, "cpus-per-task": profile.cores, "exclude": ",".join(node["NodeName"] for node in without),
        "mem-per-cpu": f"{max(parse_bytes(profile.memory) // profile.cores >> 20, 1)}M",
    }  # fmt: skip
    given = [f"--{name}={value}" for name, value in options.items() if value]
    said = _slurm("sbatch", "--test-only", *given, *profile.sbatch, "--wrap=true")
    match = re.search(r"to start at (\S+)", said)
    if match is None:
        raise ClusterError("SLURM does not say when jobs would start", found=said.strip())
    return max((datetime.fromisoformat(match[1]) - datetime.now()).total_seconds(), 0.0)


def _resume_timeout() -> float:
    match = re.search(r"^ResumeTimeout\s*=\s*(\d+)", _slurm("scontrol", "show", "config"), re.MULTILINE)
    return float(match[1]) if match else 0.0


def _default_partition() -> str:
    lines = _slurm("scontrol", "--oneliner", "show", "partitions").splitlines()
    names = [re.match(r"PartitionName=(\S+)", line) for line in lines if " Default=YES " in line]
    return names[0][1] if names and names[0] else ""


def _slurm(*command: str) -> str:
    """What a command says, on whichever of its outputs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError("SLURM does not answer", place=command[0], found=error) from error
    if done.returncode:
        raise ClusterError("SLURM refuses", place=" ".join(command), found=(done.stderr or done.stdout).strip())
    return done.stdout + done.stderr
