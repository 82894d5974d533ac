"""How long a run would take here, and with machines that are added to it, before it is started."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """What there is to do."""

    frames: int
    seconds_per_frame: float
    """Of one worker, s."""
    bytes_per_frame: float
    """As the frames lie in their files."""


@dataclass(frozen=True)
class Machines:
    """Workers that become free together."""

    workers: int
    wait: float
    """Until they begin, s: the queue, or the start of machines."""
    bytes_per_second: float = math.inf
    """Of data that has to be brought to all of them together; infinite where it is there already."""

    def frames_per_second(self, work: Work) -> float:
        """A worker fetches a frame, then works on it; all share the line."""
        transfer = work.bytes_per_frame / self.bytes_per_second
        return 1 / (work.seconds_per_frame / self.workers + transfer) if self.workers else 0.0


@dataclass(frozen=True)
class Estimate:
    """How long a run takes, in seconds from now."""

    here: float
    """With the machines that there always are; infinite where there are none."""
    queued: float
    """What of it is waiting for them."""
    with_burst: float | None
    """With the added machines, too; None where there are none to add."""
    transfer: float
    """For how long data then flows to the added machines, s."""
    burst_frames: float
    """Frames that the added machines take over."""

    def __str__(self) -> str:
        here = f"here {in_words(self.here)}" + (" (queued)" if self.queued >= 1 else "")
        if self.with_burst is None:
            return here
        transfer = f" incl. {in_words(self.transfer)} transfer" if self.transfer >= 1 else ""
        return f"{here}, with burst {in_words(self.with_burst)}{transfer}"


def estimate(work: Work, here: Machines, burst: Machines | None = None) -> Estimate:
    """The time until all frames are done.

    Chunks go to whoever is free, so all finish together: frames = Σ rate · (time - wait), over those that have begun by
    then. What one chunk more or less makes is left out.
    """
    alone = _all_done(work, [here])
    if burst is None:
        return Estimate(alone, here.wait, None, 0.0, 0.0)
    together = _all_done(work, [here, burst])
    moved = burst.frames_per_second(work) * max(together - burst.wait, 0.0) if math.isfinite(together) else 0.0
    return Estimate(alone, here.wait, together, moved * work.bytes_per_frame / burst.bytes_per_second, moved)


def _all_done(work: Work, machines: list[Machines]) -> float:
    """The earliest time by which machines, each from its wait on, have done all frames."""
    done, rate, offset = math.inf, 0.0, 0.0
    for each in sorted(machines, key=lambda each: each.wait):
        if done <= each.wait:
            break
        own = each.frames_per_second(work)
        rate, offset = rate + own, offset + own * each.wait
        done = (work.frames + offset) / rate if rate else math.inf
    return done


def in_words(seconds: float) -> str:
    """A duration as people say it: "3 h 10", "52 min", "40 s", "2 d 5 h"."""
    if not math.isfinite(seconds):
        return "never"
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours = round(minutes / 60)
    return f"{minutes // 60} h {minutes % 60:02}" if hours < 48 else f"{hours // 24} d {hours % 24} h"
