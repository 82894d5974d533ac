"""The queue of SLURM as `squeue` tells it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

QUEUE_COMMAND = ("squeue", "--noheader", "--me", "--states=all", "--format=%i|%T|%r|%S")
"""One line for each job: number, state, reason, start. Jobs that ended a few minutes ago are among them."""

_ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "REVOKED", "TIMEOUT",
}  # fmt: skip
_NEVER = {
    "AccountNotAllowed", "AssocMaxWallDurationPerJobLimit", "BadConstraints", "InvalidAccount", "InvalidQOS",
    "JobHeldAdmin", "JobHeldUser", "PartitionConfig", "PartitionDown", "PartitionInactive", "PartitionNodeLimit",
    "PartitionTimeLimit", "QOSMaxWallDurationPerJobLimit", "QOSNotAllowed",
}  # fmt: skip
"""Reasons that waiting does not mend."""


@dataclass(frozen=True)
class QueuedJob:
    """A job in SLURM's words."""

    number: str
    state: str
    reason: str
    start: datetime | None
    """When it started, or is expected to."""

    @property
    def has_ended(self) -> bool:
        """Whether SLURM has nothing more to do with it."""
        return self.state in _ENDED

    @property
    def end(self) -> str:
        """How it ended."""
        return self.state if self.reason in ("None", "") else f"{self.state} ({self.reason})"


def read_queue(text: str) -> dict[str, QueuedJob]:
    """Jobs by number from what `QUEUE_COMMAND` prints."""
    jobs = {}
    for line in text.splitlines():
        number, state, reason, start = line.strip().split("|")
        when = None
        with suppress(ValueError):  # N/A where it is not known
            when = datetime.fromisoformat(start)
        jobs[number] = QueuedJob(number, state, reason, when)
    return jobs


def waiting_text(
    there: int, wanted: int, jobs: Collection[QueuedJob], unknown: int, failures: Sequence[str], silence: str
) -> str:
    """Why workers are missing, such as "0 of 20 workers: PENDING (Priority), expected 14:20".

    `jobs` are those whose workers have not come, `unknown` is the number of those that SLURM does not know yet,
    `failures` say why earlier ones ended, `silence` why SLURM does not answer.
    """
    groups = Counter((job.state, job.reason) for job in jobs)
    parts = []
    for (state, reason), count in groups.most_common():
        starts = [job.start for job in jobs if (job.state, job.reason) == (state, reason) and job.start]
        number = f"{count} job{'s' * (count > 1)} " if len(groups) > 1 or unknown > 0 else ""
        parts.append(f"{number}{_state(state, reason)}{_expected(min(starts, default=None), state)}")
    if unknown > 0:
        parts.append(f"{unknown} job{'s' if unknown > 1 else ''} being submitted")
    parts += [f"SLURM does not answer: {silence}"] if silence else []
    parts += [f"the last one failed: {failure.splitlines()[0]}" for failure in failures]
    return f"{there} of {wanted} workers: {'; '.join(parts) or 'the others are starting'}"


def _state(state: str, reason: str) -> str:
    if state == "PENDING":
        never = ", which does not pass by waiting" if reason in _NEVER else ""
        return "PENDING" if reason in ("None", "") else f"PENDING ({reason}){never}"
    return {
        "RUNNING": "RUNNING, workers are starting",
        "CONFIGURING": "CONFIGURING, a node is being started",
    }.get(state, state)


def _expected(start: datetime | None, state: str) -> str:
    if state != "PENDING" or start is None:
        return ""
    today = start.date() == datetime.now().date()
    return f", expected {start:%H:%M}" if today else f", expected {start:%Y-%m-%d %H:%M}"
