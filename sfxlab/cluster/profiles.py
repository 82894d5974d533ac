"""What a site is like: profiles that say where workers run and what each of their jobs asks for.

A site file is TOML with one table for each profile:

    [maxwell]
    kind = "slurm"
    workers = 64
    cores = 16
    memory = "64 GiB"
    prologue = ["module load sfx"]

    [maxwell.steps.merge]
    memory = "256 GiB"

`local`, `slurm` and `mpi` are there without any file, and a file may change their values.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from dask.utils import parse_bytes, parse_timedelta
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

_WALLTIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


def seconds_of_walltime(text: str) -> int:
    """Seconds of a time as SLURM writes it: minutes, M:S, H:M:S, D-H, D-H:M or D-H:M:S. Raises `ValueError`."""
    match = _WALLTIME.fullmatch(text.strip())
    if match is None:
        raise ValueError("a time such as 04:00:00 or 2-12:00:00")
    days, *rest = (None if part is None else int(part) for part in match.groups())
    first, second, third = (part or 0 for part in rest)
    if days is not None:
        return ((days * 24 + first) * 60 + second) * 60 + third
    if rest[2] is not None:
        return (first * 60 + second) * 60 + third
    return first * 60 + second


def _walltime(text: str) -> str:
    if seconds_of_walltime(text) < 60:
        raise ValueError("a time of a minute or more")
    return text


def _bytes(text: str) -> str:
    if parse_bytes(text) <= 0:
        raise ValueError("a size such as 16 GiB")
    return text


def _memory_of_workers(text: str) -> str:
    return text if text == "auto" else _bytes(text)


def _duration(text: str) -> str:
    try:
        if parse_timedelta(text, default=False) >= 0:
            return text
    except (KeyError, TypeError):
        pass
    raise ValueError("a duration such as 10 minutes")


Count = Annotated[int, Field(ge=1)]
Bytes = Annotated[str, AfterValidator(_bytes)]
Duration = Annotated[str, AfterValidator(_duration)]
Walltime = Annotated[str, AfterValidator(_walltime)]
StepName = Literal["index", "learn", "tune", "geometry", "merge", "export"]
"""What workers are wanted for: `process`, `mask`, `peaks --tune`, `geometry`, `merge` and `export`."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LocalProfile(_Table):
    """Processes on this machine."""

    kind: Literal["local"] = "local"
    workers: Count | None = Field(None, description="Processes of one thread each; without: one for each core")
    memory: Annotated[str, AfterValidator(_memory_of_workers)] = Field("auto", description="Memory of each worker")
    tls: bool = Field(True, description="Scheduler and workers talk encrypted and know each other by certificates")


class MpiProfile(_Table):
    """The ranks of `mpirun`: one is the scheduler, one the client, the others are workers."""

    kind: Literal["mpi"] = "mpi"
    memory: Annotated[str, AfterValidator(_memory_of_workers)] = Field("auto", description="Memory of each worker")
    interface: str | None = Field(None, description="Network interface that the ranks talk over, such as ib0")
    scratch: str | None = Field(None, description="Folder for scratch files on each machine")
    tls: bool = Field(True, description="Scheduler and workers talk encrypted and know each other by certificates")


class AddressProfile(_Table):
    """A Dask scheduler that is already running, often shared by several groups."""

    kind: Literal["tcp"] = "tcp"
    address: str = Field("", description="Address of the scheduler, such as tcp://node7:8786")
    proposal: str | None = Field(None, description="Who works: tasks of a proposal count together")
    tasks_in_flight: Count | None = Field(None, description="Most tasks of the proposal that the scheduler holds")
    live: bool = Field(False, description="A live experiment: its tasks go before all others")
    tls_ca: str | None = Field(None, description="File of the authority's certificate, for tls:// addresses")
    tls_cert: str | None = Field(None, description="File of the client's certificate")
    tls_key: str | None = Field(None, description="File of the client's key")


class Container(_Table):
    """The image that workers run in."""

    runtime: Literal["podman", "docker", "apptainer", "ch-run"]
    image: str = Field(min_length=1, description="Name, file or folder of the image, as the runtime takes it")
    binds: tuple[str, ...] = Field((), description="Further folders that workers see, at the same place")
    options: tuple[str, ...] = Field((), description="Further options of the runtime")
    python: str = Field("python", description="Python in the image")


class StepJobs(_Table):
    """What differs for one step; what is not named is as in the profile."""

    workers: Count | None = None
    most_workers: Count | None = None
    cores: Count | None = None
    memory: Bytes | None = None
    walltime: Walltime | None = None
    queue: str | None = None
    sbatch: tuple[str, ...] | None = None


class SingleJob(StepJobs):
    """Of a step that is one task: one worker, which has all memory of its job."""

    workers: Count | None = 1
    most_workers: Count | None = 1
    cores: Count | None = 1


class Steps(_Table):
    """Resources by step."""

    index: StepJobs = StepJobs()
    learn: StepJobs = StepJobs()
    tune: StepJobs = StepJobs()
    geometry: StepJobs = StepJobs()
    merge: SingleJob = SingleJob()
    export: StepJobs = StepJobs()


class SlurmProfile(_Table):
    """Jobs of SLURM, with one worker process of one thread for each of their cores."""

    kind: Literal["slurm"] = "slurm"
    workers: Count = Field(4, description="Workers that there always are, SLURM willing")
    most_workers: Count | None = Field(None, description="Workers where there is much to do; without: no more")
    idle: Duration = Field("1 minute", description="Workers above the least go back when idle for so long")
    cores: Count = Field(1, description="Cores, and workers, of a job")
    memory: Bytes = Field("4 GiB", description="Memory of a job")
    walltime: Walltime = Field("01:00:00", description="Longest duration of a job")
    margin: Duration | None = Field(
        None, description="Workers end so long before the walltime; without: 10 % of it, at least 10 s"
    )
    queue: str | None = Field(None, description="Partition")
    account: str | None = Field(None, description="Account that jobs are charged to")
    qos: str | None = Field(None, description="Quality of service")
    sbatch: tuple[str, ...] = Field((), description="Further options of sbatch, such as --constraint=avx2")
    prologue: tuple[str, ...] = Field((), description="Lines of shell that set a job's environment up")
    python: str | None = Field(None, description="Python of the workers; without: the one that runs here")
    container: Container | None = Field(None, description="Image that workers run in")
    scratch: str | None = Field(None, description="Fast folder on each machine, may name variables of jobs: $TMPDIR")
    numba_cache: str | None = Field(None, description="NUMBA_CACHE_DIR of the workers; compiled kernels are kept there")
    job_folder: str | None = Field(None, description="Folder that all machines see, for logs and keys of the jobs")
    interface: str | None = Field(None, description="Network interface of scheduler and workers, such as ib0")
    host: str | None = Field(None, description="Address of this machine for the workers, instead of the interface's")
    tls: bool = Field(True, description="Scheduler and workers talk encrypted and know each other by certificates")
    look: Duration = Field("10 s", description="SLURM is asked about the jobs this often, at first more often")
    steps: Steps = Field(Steps(), description="What differs by step")

    @property
    def jobs(self) -> int:
        """Jobs that hold the least number of workers."""
        return -(-self.workers // self.cores)

    @property
    def most_jobs(self) -> int:
        """Jobs that hold the largest number of workers."""
        return max(self.jobs, -(-(self.most_workers or 0) // self.cores))

    @property
    def lifetime(self) -> tuple[int, int]:
        """After how many seconds a worker ends, and how much earlier or later, so that not all end at once.

        The latest of them ends a margin before the walltime, so that no task is cut off by it.
        """
        walltime = seconds_of_walltime(self.walltime)
        margin = max(0.1 * walltime, 10) if self.margin is None else parse_timedelta(self.margin)
        stagger = max(min(0.05 * walltime, 600), 1)
        return max(round(walltime - margin - stagger), 1), round(stagger)

    def for_step(self, step: StepName | None) -> SlurmProfile:
        """The profile with what the step changes."""
        if step is None:
            return self
        jobs: StepJobs = getattr(self.steps, step)
        return self.model_copy(update=jobs.model_dump(exclude_none=True))


Profile = LocalProfile | SlurmProfile | MpiProfile | AddressProfile

KINDS: dict[str, type[Profile]] = {
    "local": LocalProfile, "slurm": SlurmProfile, "mpi": MpiProfile, "tcp": AddressProfile,
}  # fmt: skip


def fields_of(profile: Profile) -> dict[str, Any]:
    """Each key of a profile and its value, in the order of the documentation."""
    return {name: getattr(profile, name) for name in type(profile).model_fields}
