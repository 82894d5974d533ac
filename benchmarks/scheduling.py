"""What scheduling costs: memory, time before the first task, and tasks a second, for millions of frames.

    python benchmarks/scheduling.py [FRAMES] [WORKERS] [SECONDS]

A real scheduler runs in a process of its own. Workers are simulated: real workers of Dask, many in one process, whose
tasks sleep instead of working (SECONDS, 0 by default: as fast as they can be scheduled). Frames are those of real HDF5
files with no pixels in them, named by a geometry of 128 panels; tasks carry what they carry in `process`, and its own
loop hands them out. Nothing is computed and nothing written but the run's own record.

What is shown is the peak of the memory of client and scheduler that is theirs alone (USS), before and at the end, and
the processor time of both for each task. The share of scheduling in the work follows from it: a task is a hundred
frames. Workers are busy as long as fewer tasks end in a second than can be scheduled in one.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import psutil
from distributed import Client
from rich.console import Console
from rich.table import Table

import sfxlab
from sfxlab.cluster.dashboard import tell_chunk
from sfxlab.frames import FrameSource
from sfxlab.processing.begin import begun
from sfxlab.processing.scheduling import Chunk, chunks_of, done_on_workers, packed
from sfxlab.recipe import Recipe
from sfxlab.store import Counts

FRAMES_IN_FILE = 10_000
SECONDS_A_FRAME = 0.3
"""Of work, for the share that scheduling takes of it: finding hits, indexing and integrating a few megapixels."""
MIB = 2**20


def geometry_text() -> str:
    """128 panels of 512 × 128 pixels."""
    lines = ["photon_energy = 9000", "clen = 0.1", "res = 13333", "data = /data", "dim0 = %", "dim1 = ss", "dim2 = fs"]
    for number in range(128):
        at = f"p{number}"
        lines += [f"{at}/min_fs = 0", f"{at}/max_fs = 127", f"{at}/min_ss = {512 * number}"]
        lines += [f"{at}/max_ss = {512 * number + 511}", f"{at}/corner_x = {137.25 * (number % 16) - 1100}"]
        lines += [f"{at}/corner_y = {517.5 * (number // 16) - 2100}", f"{at}/fs = +0.99998x +0.00612y"]
        lines += [f"{at}/ss = -0.00612x +0.99998y", f"{at}/coffset = {1e-6 * number}"]
    return "\n".join(lines) + "\n"


def frames_without_pixels(folder: Path, count: int) -> FrameSource:
    """That many frames, whose arrays take no room on the disk."""
    (folder / "detector.geom").write_text(geometry_text())
    for first in range(0, count, FRAMES_IN_FILE):
        with h5py.File(folder / f"frames-{first // FRAMES_IN_FILE:04d}.h5", "w") as file:
            shape = (min(FRAMES_IN_FILE, count - first), 128 * 512, 128)
            file.create_dataset("data", shape, np.uint16, chunks=(1, 512, 128))
    return sfxlab.open_frames(folder / "frames-*.h5", folder / "detector.geom")


def simulated_chunk(seconds: float, chunk: Chunk, recipe: Recipe, run_path: Path) -> Counts:
    """What `process` has workers do, without doing it."""
    time.sleep(seconds)
    frames = len(chunk.frames)
    tell_chunk(frames, frames // 10, frames // 20, seconds)
    return Counts(frames, frames // 10, frames // 20, 0, frames // 20)


def simulate_workers(address: str, count: int) -> None:
    """So many workers in this process, until it is ended."""
    import asyncio
    import logging

    import dask
    from distributed import Worker

    # Each worker would look at its own stack and clock up to a hundred times a second: too much for hundreds of them on
    # few cores.
    looks = {"worker.profile.enabled": False, "admin.tick.interval": "1h", "admin.system-monitor.interval": "1h"}
    dask.config.set({f"distributed.{name}": value for name, value in looks.items()})
    logging.getLogger("distributed").setLevel(logging.ERROR)

    async def work() -> None:
        options = {"nthreads": 1, "memory_limit": 0, "dashboard": False, "local_directory": tempfile.gettempdir()}
        workers = [await Worker(address, **options) for _ in range(count)]
        await asyncio.gather(*(worker.finished() for worker in workers))

    asyncio.run(work())


@contextmanager
def cluster(folder: Path, n_workers: int) -> Iterator[tuple[Client, psutil.Process]]:
    """A client of a real scheduler with simulated workers, and the scheduler's process."""
    where = folder / "scheduler.json"
    command = [sys.executable, "-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    scheduler = subprocess.Popen([*command, "--scheduler-file", where], stderr=subprocess.DEVNULL)
    spawn = multiprocessing.get_context("spawn")
    workers: list[multiprocessing.process.BaseProcess] = []
    try:
        while not where.exists():
            time.sleep(0.1)
        with Client(scheduler_file=where) as client:
            address = client.scheduler.address
            shares = [n_workers // 4 + (i < n_workers % 4) for i in range(4)]
            workers += [spawn.Process(target=simulate_workers, args=(address, n), daemon=True) for n in shares if n]
            for worker in workers:
                worker.start()
            client.wait_for_workers(n_workers, timeout=600)
            yield client, psutil.Process(scheduler.pid)
    finally:
        for worker in workers:
            worker.kill()
        scheduler.kill()
        scheduler.wait()


class Usage:
    """Memory and processor time of a process; the peak of the memory is looked for every half second."""

    def __init__(self, process: psutil.Process) -> None:
        self._process, self._ended = process, threading.Event()
        self.first = self.peak = process.memory_full_info().uss
        self._began = sum(process.cpu_times()[:2])
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        with suppress(psutil.NoSuchProcess):
            while not self._ended.wait(0.5):
                self.peak = max(self.peak, self._process.memory_full_info().uss)

    def end(self) -> float:
        """Processor time so far, seconds."""
        self._ended.set()
        self.peak = max(self.peak, self._process.memory_full_info().uss)
        return sum(self._process.cpu_times()[:2]) - self._began


def main(n_frames: int, n_workers: int, seconds: float) -> None:
    console, here = Console(), psutil.Process(os.getpid())
    bare = here.memory_full_info().uss
    with tempfile.TemporaryDirectory() as scratch, cluster(Path(scratch), n_workers) as (client, there):
        folder = Path(scratch)
        frames = frames_without_pixels(folder, n_frames)
        usage, scheduler = Usage(here), Usage(there)
        started = time.perf_counter()
        run = begun(frames, Recipe(), folder / "run", False, None, None, ())
        chunks = chunks_of(frames, run.record, run.missing_chunks(), ())
        carried = len(packed(next(chunks_of(frames, run.record, [0], ())), Recipe(), run.path))
        prepared = time.perf_counter() - started
        of_preparing = usage.end()

        usage = Usage(here)
        started = time.perf_counter()
        done = Counts()
        for counts in done_on_workers(client, chunks, partial(simulated_chunk, seconds), Recipe(), run.path):
            done += counts
            if done.frames * 10 // n_frames > (done.frames - counts.frames) * 10 // n_frames:
                together = (usage.peak + scheduler.peak) / MIB
                console.print(
                    f"{done.frames / n_frames:.0%} after {time.perf_counter() - started:.0f} s: {together:.0f} MiB"
                )
        lasted = time.perf_counter() - started
        client_cpu, scheduler_cpu = usage.end(), scheduler.end()
        assert done.frames == n_frames
        tasks = run.record.n_chunks

    table = Table(title=f"{n_frames:,} frames in {tasks:,} tasks, {n_workers} simulated workers", show_header=False)
    for name, value in (
        ("before the first task", f"{prepared:.1f} s, {of_preparing:.1f} s of processor time"),
        ("a task carries", f"{carried / 1024:.1f} KiB"),
        ("all tasks", f"{lasted:.1f} s, {tasks / lasted:.0f} tasks/s"),
        ("memory of the client", f"{bare / MIB:.0f} MiB bare, {usage.peak / MIB:.0f} MiB at most"),
        ("memory of the scheduler", f"{scheduler.first / MIB:.0f} MiB bare, {scheduler.peak / MIB:.0f} MiB at most"),
        ("both together", f"{(usage.peak + scheduler.peak) / MIB:.0f} MiB at most"),
        (
            "processor time of a task",
            f"client {client_cpu / tasks * 1e3:.2f} ms, scheduler {scheduler_cpu / tasks * 1e3:.2f} ms",
        ),
    ):
        table.add_row(name, value)
    work = n_frames / tasks * SECONDS_A_FRAME
    share = (client_cpu + scheduler_cpu) / tasks / work
    table.add_row(f"of a core-second of work, {SECONDS_A_FRAME} s a frame", f"{share:.3%}")
    slowest = max(client_cpu, scheduler_cpu) / tasks
    busy = 1000 / work * slowest
    table.add_row("1,000 workers end", f"{1000 / work:.0f} tasks/s, which keep the busier of both busy for {busy:.1%}")
    table.add_row("workers that it can keep busy", f"{work / slowest:,.0f}")
    console.print(table)


if __name__ == "__main__":
    given = [float(value) for value in sys.argv[1:4]]
    frames, workers, sleep = (*given, *(3_000_000, 256, 0.0)[len(given) :])
    main(int(frames), int(workers), sleep)
