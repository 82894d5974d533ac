"""Workers in jobs of SLURM, by dask-jobqueue, and what SLURM says of them."""
# Dask's own classes are typed in parts only.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import dask
import platformdirs
from dask.utils import parse_timedelta
from dask_jobqueue.slurm import SLURMCluster, SLURMJob
from distributed import Scheduler, SchedulerPlugin, Security
from distributed.deploy.spec import ProcessInterface

from sfxlab.cluster.containers import python_in_container
from sfxlab.cluster.profiles import SlurmProfile
from sfxlab.cluster.queue import QUEUE_COMMAND, QueuedJob, read_queue, waiting_text
from sfxlab.cluster.whole_jobs import JobsAsNeeded, job_of
from sfxlab.errors import ClusterError

_LOG = logging.getLogger(__name__)

_FAILURES_TOLERATED = 3
"""After so many jobs in a row that ended before their workers came, no more are submitted."""
_PAUSE_AFTER_FAILURE = 10.0
"""Seconds for each failure so far, before the next job is tried."""
_TAIL = 12
"""Lines of a log to show."""


class _Job(SLURMJob):
    """A job; where SLURM refuses it, it says so here and does not end the client."""

    refusal: str = ""

    async def start(self) -> None:
        try:
            await super().start()
        except (RuntimeError, ValueError, OSError) as error:
            self.refusal = _words_of_slurm(str(error))
            await ProcessInterface.start(self)

    async def close(self) -> None:
        await super().close()
        await ProcessInterface.close(self)


class _Arrivals(SchedulerPlugin):
    """Calls a function with the name of each worker that comes."""

    def __init__(self, arrived: Callable[[str], None]) -> None:
        self.arrived = arrived

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        self.arrived(str(scheduler.workers[worker].name))


class SlurmJobs(SLURMCluster):
    """A scheduler in this process and workers in jobs of SLURM.

    A floor of jobs is kept: one that ended, for whatever reason, is submitted anew, which Dask by itself does not do
    for jobs of several workers, or that never started. More jobs come while there is much to do. Several jobs in a row
    that end before their workers come are a reason to give up: then `verdict` says why.
    """

    job_cls = _Job
    scheduler: Any
    _adaptive: Any
    workers: dict[str, _Job]
    worker_spec: dict[str, Any]
    job_name: str

    def __init__(self, profile: SlurmProfile, dashboard: bool = True) -> None:
        self.profile = profile
        self.workers_per_job = profile.cores
        self.verdict: ClusterError | None = None
        self.queue: dict[str, QueuedJob] = {}
        self.silence = ""
        """What kept SLURM from answering when it was asked last."""
        self._arrived: set[str] = set()
        self._failures: list[str] = []
        self._retry_at: dict[str, float] = {}
        self._watch_task: asyncio.Task[None] | None = None
        name = f"sfxlab-{secrets.token_hex(4)}"
        parent = Path(profile.job_folder or platformdirs.user_state_path("sfxlab") / "jobs").expanduser().absolute()
        self.folder = parent / name
        try:
            self.folder.mkdir(parents=True, mode=0o700)
        except OSError as error:
            raise ClusterError(
                "there is no folder for the jobs' logs and keys", path=self.folder, found=error.strerror,
                remedy="set job_folder in the profile to one that all machines see",
            ) from error  # fmt: skip
        options = job_options(profile, self.folder) | _scheduler_options(profile, self.folder, dashboard)
        try:
            super().__init__(name=name, job_name=name, **options)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self.scheduler.add_plugin(_Arrivals(self._worker_arrived), name="arrivals")
        self.scale(jobs=profile.jobs)
        idle = max(round(parse_timedelta(profile.idle)), 1)
        self.adapt(
            Adaptive=JobsAsNeeded, minimum=profile.jobs, maximum=profile.most_jobs, interval="1 s", wait_count=idle,
            target_duration="30 s",
        )  # fmt: skip

    def jobs_of(self, workers: Iterable[str]) -> set[str]:
        """The names of the jobs that these workers run in."""
        return {job_of(str(name), self.workers_per_job) for name in workers}

    def waiting(self) -> str:
        """Why there are fewer workers than wanted, in SLURM's words; empty where there are enough."""
        wanted = max(self.profile.workers, len(self.worker_spec) * self.workers_per_job - self.workers_per_job + 1)
        there = len(self.scheduler.workers)
        if there >= wanted:
            return ""
        arrived = self.jobs_of(ws.name for ws in self.scheduler.workers.values())
        jobs = {name: job for name, job in dict(self.workers).items() if name not in arrived}
        known = [self.queue[job.job_id] for job in jobs.values() if job.job_id in self.queue]
        unknown = len(self.worker_spec) - len(arrived) - len(known)
        return waiting_text(there, wanted, known, unknown, self._failures[-1:], self.silence)

    async def _start(self) -> None:
        await super()._start()
        self._watch_task = asyncio.create_task(self._watch())

    async def _close(self) -> None:
        if self._watch_task is not None:
            self._watch_task.cancel()
        await super()._close()
        if not self._failures:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _worker_arrived(self, worker: str) -> None:
        self._arrived |= self.jobs_of([worker])
        self._failures.clear()

    async def _watch(self) -> None:
        """Ask SLURM about the jobs: soon after something was submitted, and then less and less often."""
        usual = max(parse_timedelta(self.profile.look), 0.2)
        pause, before = 0.5, set(self.workers)
        while self.verdict is None:
            await asyncio.sleep(min(pause, usual))
            pause = pause * 1.5 if before == set(self.workers) else 0.5
            before = set(self.workers)
            await self._look()

    async def _look(self) -> None:
        jobs = dict(self.workers)
        try:
            text = await _Job._call([*QUEUE_COMMAND, "-n", self.job_name], start_new_session=True)
            self.silence, self.queue = "", read_queue(text)
        except (RuntimeError, OSError) as error:
            self.silence = _words_of_slurm(str(error))
        for name, job in jobs.items():
            seen = self.queue.get(job.job_id or "")
            wanted = name in self.worker_spec and self.workers.get(name) is job
            if wanted and (job.refusal or (not self.silence and (seen is None or seen.has_ended))):
                self._job_ended(name, job, seen)
        there = len(self.scheduler.workers)
        if len(self._failures) >= min(_FAILURES_TOLERATED, self.profile.jobs) and not there:
            self._give_up()

    def _job_ended(self, name: str, job: _Job, seen: QueuedJob | None) -> None:
        """Forget a job, so that adaptive scaling asks for another; after a failure only some time later."""
        now = asyncio.get_running_loop().time()
        if name not in self._arrived and name not in self._retry_at:
            self._failures.append(job.refusal or f"job {job.job_id}: {seen.end if seen else 'gone'}{self._log(job)}")
            _LOG.info("no workers from %s", self._failures[-1])
            self._retry_at[name] = now + (len(self._failures) - 1) * _PAUSE_AFTER_FAILURE
        if now >= self._retry_at.get(name, now):
            self._retry_at.pop(name, None)
            self._arrived.discard(name)
            self.worker_spec.pop(name, None)
            del self.workers[name]
            self._futures.add(asyncio.ensure_future(job.close()))  # SLURM may be about to queue it again
            self._i += 1  # names of workers are not used again: one of the old ones may not be gone yet

    def _log(self, job: _Job) -> str:
        """The end of what the job wrote."""
        files = sorted(self.folder.glob(f"{self.job_name}-{job.job_id}*"))
        lines = [line for file in files for line in file.read_text(errors="replace").splitlines() if line.strip()]
        return "".join(f"\n            {line}" for line in lines[-_TAIL:])

    def _give_up(self) -> None:
        """No jobs any more. Tasks of a run that waits for workers are dropped, which ends it with the verdict."""
        refused = self._failures[-1].startswith("sbatch")
        self.verdict = ClusterError(
            "SLURM refuses the jobs" if refused else "the jobs end before their workers come",
            path=None if refused else self.folder, found=self._failures[-1],
            remedy="mend queue, account or size of jobs" if refused else "mend prologue, python or container",
        )  # fmt: skip
        self._adaptive.stop()
        for name, client in list(self.scheduler.clients.items()):
            keys = [task.key for task in client.wants_what]
            self.scheduler.stimulus_cancel(keys, name, force=True, reason="no workers", msg=self.verdict.problem)


def job_options(profile: SlurmProfile, folder: Path) -> dict[str, Any]:
    """What dask-jobqueue calls the profile's values; logs go to `folder`."""
    lifetime, stagger = profile.lifetime
    return {
        "cores": profile.cores,
        "processes": profile.cores,
        "memory": profile.memory,
        "walltime": profile.walltime,
        "queue": profile.queue,
        "account": profile.account,
        "job_extra_directives": [*([f"--qos={profile.qos}"] if profile.qos else []), *profile.sbatch],
        "job_script_prologue": prologue(profile),
        "python": f"exec {python_of_workers(profile, folder)}",
        "worker_extra_args": ["--no-dashboard", "--lifetime", f"{lifetime}s", "--lifetime-stagger", f"{stagger}s"],
        "local_directory": f'"{profile.scratch}"' if profile.scratch else None,
        "log_directory": str(folder),
        "interface": profile.interface,
    }


def _scheduler_options(profile: SlurmProfile, folder: Path, dashboard: bool) -> dict[str, Any]:
    where = {"host": profile.host} if profile.host else {}
    return {
        "scheduler_options": {**where, "dashboard": dashboard, "dashboard_address": "127.0.0.1:0"},
        "security": _security(folder) if profile.tls else None,
        "silence_logs": "critical",
    }


def _security(folder: Path) -> Security:
    """Keys and certificates for this scheduler only, in files that the jobs read."""
    made = Security.temporary()
    files = {}
    for name in ("ca_file", "cert", "key"):
        files[name] = folder / f"{name.removesuffix('_file')}.pem"
        files[name].touch(0o600)
        files[name].write_text(made.get_tls_config_for_role("worker")[name])
    roles = [f"tls_{role}" for role in ("scheduler", "worker", "client")]
    pairs = {f"{role}_{name}": str(files[name]) for role in roles for name in ("cert", "key")}
    return Security(tls_ca_file=str(files["ca_file"]), require_encryption=True, **pairs)


def prologue(profile: SlurmProfile) -> list[str]:
    """Lines of a job's script before its workers start."""
    lines = list(profile.prologue)
    if profile.numba_cache:
        lines.append(f'export NUMBA_CACHE_DIR="{profile.numba_cache}"')
    if profile.scratch:
        lines += [f'mkdir -p "{profile.scratch}"', f'export SFXLAB_CACHE="{profile.scratch}/sfxlab-cache"']
    if profile.numba_cache and profile.container:
        lines.append('mkdir -p "$NUMBA_CACHE_DIR"')
    return lines


def python_of_workers(profile: SlurmProfile, folder: Path) -> str:
    """What runs Python in a job."""
    if profile.container is None:
        return profile.python or sys.executable
    folders = (str(folder), profile.scratch, profile.numba_cache)
    return python_in_container(profile.container, filter(None, folders))


def start_jobs(profile: SlurmProfile, dashboard: bool, allowed_failures: int) -> SlurmJobs:
    """Submit the jobs. Raises `ClusterError`."""
    if shutil.which("sbatch") is None:
        raise ClusterError(
            "there is no SLURM on this machine", found="no sbatch", remedy="use a login node, or the 'local' profile"
        )
    settings = {
        "distributed.scheduler.allowed-failures": allowed_failures,
        # Nothing is known of the first chunks, and they take minutes: without this they would ask for no workers.
        "distributed.scheduler.unknown-task-duration": "1 minute",
    }
    # A dead worker comes back in its job, and the queue tells of jobs that ended. Dask reads this at each death.
    dask.config.set({"distributed.deploy.lost-worker-timeout": "1 day"})
    try:
        with dask.config.set(settings):
            return SlurmJobs(profile, dashboard)
    except (OSError, RuntimeError, ValueError) as error:
        raise ClusterError("the scheduler did not start", found=error, remedy="check host and interface") from error


def _words_of_slurm(message: str) -> str:
    """What a command of SLURM said, without what dask-jobqueue says around it."""
    words = message.rpartition("stderr:\n")[2].strip() or message.strip()
    return "\n            ".join(line.strip() for line in words.splitlines())
