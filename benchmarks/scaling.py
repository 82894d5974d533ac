"""How the speed grows with the number of workers: real frames on this machine, and sleeping workers by the hundred.

    python benchmarks/scaling.py [--frames N] [--input FILE GEOMETRY CELL] [--workers 1 2] [--sleeping 16 64 256]

*Strong scaling*: the same frames, simulated ones unless others are given, are processed by one worker and by more on
this machine, three times each in turn; the best of each counts, from the first chunk to the last. It tells something
only where the machine has as many cores free.

*Weak scaling*: simulated workers (as in scheduling.py: real ones of Dask, many in a process) sleep ten seconds for a
chunk, and each has as many chunks to do. Perfect scaling takes as long whatever their number.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path

from distributed import Client
from rich.console import Console
from rich.table import Table
from scheduling import cluster, frames_without_pixels, simulated_chunk

import sfxlab
from sfxlab.cluster import connect
from sfxlab.frames import FrameSource
from sfxlab.processing import process
from sfxlab.processing.begin import begun
from sfxlab.processing.scheduling import chunks_of, done_on_workers
from sfxlab.progress import Progress
from sfxlab.recipe import Recipe

ROUNDS = 3
CHUNK = 10
CHUNKS_EACH = 4
SECONDS = 10.0
"""Of a chunk that sleeps; a hundred frames take a worker about three times as long."""


def frames_per_second(client: Client, frames: FrameSource, recipe: Recipe, output: Path) -> float:
    """Of the whole way of frames, once what the run learns about itself is learned."""
    told: list[Progress] = []
    process(frames, recipe, client, output, chunk_size=CHUNK, progress=told.append)
    return told[-1].frames_per_second


def strong(frames: FrameSource, recipe: Recipe, workers: list[int], folder: Path) -> dict[int, float]:
    """The best frames per second of each number of workers."""
    best = dict.fromkeys(workers, 0.0)
    for turn in range(ROUNDS):
        for count in workers:
            with connect("local", workers=count, dashboard=False) as client:
                some = frames[: 2 * CHUNK * count]
                process(some, recipe, client, folder / f"warm-{turn}-{count}", chunk_size=CHUNK, progress=None)
                speed = frames_per_second(client, frames, recipe, folder / f"run-{turn}-{count}")
            best[count] = max(best[count], speed)
    return best


def weak(count: int, folder: Path) -> float:
    """Seconds that so many sleeping workers take for their chunks."""
    folder.mkdir()
    with cluster(folder, count) as (client, _):
        frames = frames_without_pixels(folder, count * CHUNKS_EACH * CHUNK)
        run = begun(frames, Recipe(), folder / "run", False, CHUNK, None, ())
        chunks = chunks_of(frames, run.record, run.missing_chunks(), ())
        began = time.perf_counter()
        for _ in done_on_workers(client, chunks, partial(simulated_chunk, SECONDS), Recipe(), run.path):
            pass
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--input", nargs=3, metavar=("FILE", "GEOMETRY", "CELL"))
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--sleeping", type=int, nargs="*", default=[16, 64, 256])
    given = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # the scheduler has to find scheduling.py, too
    table = Table("workers", "doing", "took or did", "scaling")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if given.workers:
            if given.input:
                file, geometry, cell = given.input
            else:
                made = sfxlab.simulate(folder / "data", frames=given.frames)
                file, geometry, cell = made.frames, made.geometry, made.cell
            frames = sfxlab.open_frames(file, geometry)[: given.frames]
            speeds = strong(frames, Recipe().with_cell(sfxlab.read_cell(cell)), given.workers, folder)
            first = speeds[given.workers[0]] / given.workers[0]
            for count, speed in speeds.items():
                table.add_row(f"{count}", f"{len(frames)} frames", f"{speed:.2f} frames/s", f"{speed / first:.2f} ×")
        for count in given.sleeping:
            took = weak(count, folder / f"weak-{count}")
            doing = f"{CHUNKS_EACH} chunks each, {SECONDS:.0f} s a chunk"
            table.add_row(f"{count}", doing, f"{took:.1f} s", f"{CHUNKS_EACH * SECONDS / took:.1%} of perfect")
    Console().print(table)


if __name__ == "__main__":
    main()
