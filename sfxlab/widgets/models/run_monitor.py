"""A run as it is watched while it grows: rates, speed, workers, failures, and its virtual powder."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc

from sfxlab.errors import RunError
from sfxlab.pictures import slab_png
from sfxlab.report.pictures import powder_png
from sfxlab.store import Run, kind_of_reason
from sfxlab.store.monitor import RunMonitor
from sfxlab.widgets.models.numbers import number, numbers

Picture = Literal["peaks", "maximum"]
"""The sum of the peaks of all hits, or the largest value of each pixel in any hit."""

_WINDOWS = 80
_PICTURE_WIDTH = 700
_MOST_FRAMES = 100_000


class WatchedRun:
    """What can be seen of a run on disk, whoever writes it and wherever; safe to be called from several threads."""

    def __init__(self, run: Run, client: Any = None) -> None:
        self.run = run
        self._client = client
        self._monitor = RunMonitor(run)
        self._lock = threading.Lock()
        self.version = 0
        """Counts up whenever there are new frames."""
        self._pictures: dict[Picture, tuple[int, bytes | None]] = {}

    def look(self) -> dict[str, Any]:
        """What there is now, as JSON carries it; only what is new is read. Raises `RunError`."""
        with self._lock:
            self.version += self._monitor.update()
            return self._seen()

    def picture(self, kind: Picture) -> bytes | None:
        """The virtual powder, a PNG; None where there is nothing to show yet. Raises `RunError`."""
        with self._lock:
            if kind not in self._pictures or self._pictures[kind][0] != self.version:
                self._pictures[kind] = self.version, self._drawn(kind)
            return self._pictures[kind][1]

    def frames_because(self, reason: str) -> list[int]:
        """Numbers of the frames that failed or are not indexed for this kind of reason."""
        table = self.run.table("frames", ["frame", "reason"])
        words = pc.unique(table["reason"])
        wanted = words.filter(np.array([kind_of_reason(word) == reason for word in words.to_pylist()], dtype=bool))
        frames: list[int] = table["frame"].filter(pc.is_in(table["reason"], wanted)).to_pylist()
        return frames[:_MOST_FRAMES]

    def _seen(self) -> dict[str, Any]:
        monitor, record = self._monitor, self.run.record
        counts, recent, throughput = monitor.counts, monitor.recent(), monitor.throughput(_WINDOWS)
        writer = self.run.writer
        speed = writer.progress.frames_per_second if writer and writer.progress else recent.frames_per_second
        ice, salt = monitor.ice_and_salt
        left = record.n_frames - counts.frames
        return {
            "path": str(self.run.path), "status": _status(record.status, writer is not None),
            "n_frames": record.n_frames,
            "counts": asdict(counts), "hit_rate": counts.hit_rate, "indexing_rate": counts.indexing_rate,
            "speed": number(speed, 3), "seconds_left": number(left / speed, 3) if speed > 0 and writer else None,
            "recent": {
                "frames": recent.frames, "hits": recent.hits, "band": numbers(recent.band), "ago": number(recent.ago)
            },
            "reasons": [[reason, n] for reason, n in monitor.reasons[:30]], "ice": ice, "salt": salt,
            "writer": str(writer) if writer else "",
            "stage": writer.progress.stage if writer and writer.progress else "",
            "workers": self._workers(), "rates": self._rates(),
            "throughput": {
                "edges": numbers(throughput.edges - throughput.edges[0], 7), "from": float(throughput.edges[0]),
                "frames_per_second": numbers(throughput.frames_per_second, 4),
            },
            "time": time.time(), "version": self.version,
        }  # fmt: skip

    def _rates(self) -> dict[str, Any]:
        rates = self._monitor.rates(_WINDOWS)
        low, high = rates.band
        indexed_low, indexed_high = rates.indexing_band
        return {
            "frame": numbers((rates.first + rates.last) / 2, 8),
            "first": rates.first.tolist(), "last": rates.last.tolist(),
            "hit": numbers(rates.rate), "hit_low": numbers(low), "hit_high": numbers(high),
            "indexed": numbers(rates.indexing_rate), "indexed_low": numbers(indexed_low),
            "indexed_high": numbers(indexed_high),
        }  # fmt: skip

    def _workers(self) -> list[dict[str, Any]]:
        """Workers of the Dask client that was given."""
        if self._client is None:
            return []
        found = self._client.scheduler_info(n_workers=-1)["workers"]
        return [
            {
                "name": str(one.get("name") or address), "host": str(one.get("host", "")), "threads": one["nthreads"],
                "processing": one["metrics"].get("executing", 0), "cpu": number(one["metrics"].get("cpu", 0.0), 3),
                "memory": number(one["metrics"].get("memory", 0) / 2**20, 4),
                "limit": number(one.get("memory_limit", 0) / 2**20, 4),
            }
            for address, one in sorted(found.items())
        ]  # fmt: skip

    def _drawn(self, kind: Picture) -> bytes | None:
        if kind not in ("peaks", "maximum"):
            raise RunError("there is no such picture", found=kind, expected="peaks, maximum")
        detector = self._monitor.detector
        if detector is None:
            return None
        if kind == "peaks":
            powder = self._monitor.powder
            return None if powder is None else powder_png(powder, detector, _PICTURE_WIDTH)
        projection = self.run.maximum_projection()
        if projection is None:
            return None
        return slab_png(projection, None, detector, photon_energy=self._monitor.photon_energy, width=_PICTURE_WIDTH)


def _status(status: str, written: bool) -> str:
    if status == "running" and not written:
        return "interrupted"  # whoever wrote it had no time to say so
    return status
