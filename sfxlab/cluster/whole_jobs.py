"""Dask's adaptive scaling, counted in jobs."""
# Dask's own class is typed in parts only.
# mypy: disable-error-code="no-untyped-call, override"

from __future__ import annotations

import pickle
from collections.abc import Collection
from functools import partial
from typing import Any

from distributed import Adaptive


def job_of(worker: str, workers_per_job: int) -> str:
    """The name of the job that a worker runs in: dask-jobqueue adds numbers where there are several."""
    return worker.rpartition("-")[0] if workers_per_job > 1 else worker


def _job_of_state(worker: Any, workers_per_job: int) -> str:
    return job_of(str(worker.name), workers_per_job)


class JobsAsNeeded(Adaptive):
    """Dask counts workers; counted so, a job of many is cancelled to be rid of one of them, and submitted anew."""

    cluster: Any

    @property
    def plan(self) -> set[str]:
        """Jobs that there should be."""
        return set(self.cluster.worker_spec)

    @property
    def requested(self) -> set[str]:
        """Jobs that were submitted."""
        return set(self.cluster.workers) & self.plan

    @property
    def observed(self) -> set[str]:
        """Jobs with workers."""
        return self._jobs_of(self.cluster.observed)

    async def target(self) -> int:
        """Jobs that the work asks for."""
        workers: int = await super().target()
        return -(-workers // int(self.cluster.workers_per_job))

    async def workers_to_close(self, target: int) -> list[str]:
        """Jobs whose workers are all idle."""
        per_job = self.cluster.workers_per_job
        names = await self.scheduler.workers_to_close(
            target=target * per_job, key=pickle.dumps(partial(_job_of_state, workers_per_job=per_job)), attribute="name"
        )
        return sorted(self._jobs_of(names))

    async def scale_down(self, workers: Collection[str]) -> None:
        """End these jobs, their workers first."""
        names = [name for name in self.cluster.observed if self._jobs_of([name]) <= set(workers)]
        if names:
            await self.scheduler.retire_workers(names=names, remove=True, close_workers=True)
        await self.cluster.scale_down(workers)

    async def scale_up(self, n: int) -> None:
        """Submit jobs until there are so many."""
        self.cluster.scale(jobs=n)

    def _jobs_of(self, workers: Collection[str]) -> set[str]:
        return {job_of(str(name), self.cluster.workers_per_job) for name in workers}
