"""Time to read a frame, against plain h5py; and time for the pixel maps of a large detector.

    python benchmarks/reading.py [REPETITIONS]

Writes frames to a temporary folder (TMPDIR says where) and reads them from the system's file cache. The ways of
reading take turns, and the best turn of each counts, because other programs run on the same machine. How many times
as fast as one thread two threads are that only compute, in turns of their own, says how much of two cores there was;
that number beside each row bounds what any way of reading could reach.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from rich.console import Console
from rich.table import Table

import sfxlab
from sfxlab.frames import Hdf5Frames
from sfxlab.geometry import Detector, parse_geometry

FRAMES = 16
MEGAPIXELS = {4: (2167, 2070), 16: (4362, 4148)}
GEOMETRY = """
photon_energy = /energy eV
clen = 0.1 m
res = 13333.3
data = /data
dim0 = %
dim1 = ss
dim2 = fs
mask0_data = /mask
mask0_badbits = 0xffffffff
p0/min_fs = 0
p0/min_ss = 0
p0/max_fs = {columns}
p0/max_ss = {rows}
p0/corner_x = -1000
p0/corner_y = -1000
p0/fs = x
p0/ss = y
"""
"""What every frame comes with: a mask and a photon energy of its own."""


@dataclass(frozen=True)
class Format:
    """How frames are written."""

    megapixels: int
    dtype: str
    what: str
    flags: str = ""
    """Further lines of the geometry file."""
    frames_in_chunk: int = 1
    creation: dict[str, Any] = field(default_factory=lambda: dict(hdf5plugin.Bitshuffle(cname="lz4")))


GZIP = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
FORMATS = (
    *(Format(size, dtype, "") for size in MEGAPIXELS for dtype in ("uint16", "uint32", "int32", "float32")),
    Format(4, "uint16", "flag_morethan", "flag_morethan = 60000"),
    Format(4, "uint32", "flag_morethan", "flag_morethan = 60000"),
    Format(4, "uint16", "flag_equal of some pixels", "flag_equal = 7"),
    Format(4, "uint16", "4 frames a chunk", frames_in_chunk=4),
    Format(16, "uint32", "4 frames a chunk", frames_in_chunk=4),
    Format(4, "uint16", "LZ4", creation=dict(hdf5plugin.LZ4())),
    Format(4, "uint16", "shuffle + gzip", creation=GZIP),
    Format(4, "uint16", "shuffle + gzip + checksum", creation={**GZIP, "fletcher32": True}),
)
"""Bitshuffle-LZ4 with one frame a chunk, but for what they say."""


def main(repetitions: int) -> None:
    """Print the tables."""
    console = Console(width=140)
    load = f"load before {os.getloadavg()[0]:.2f}"
    with tempfile.TemporaryDirectory() as folder:
        table = reading_table(Path(folder), repetitions)
    console.print(table)
    console.print(f"{os.cpu_count()} cores, {load}, after {os.getloadavg()[0]:.2f}")
    console.print(map_table(repetitions))


def reading_table(folder: Path, repetitions: int) -> Table:
    """Milliseconds per frame of every way of reading, for every format."""
    ways = ("h5py", "1 thread", "2 threads", "2 threads, 2 sources", "2 processes", "1 computes", "2 compute")
    table = Table(title="Reading, ms a frame (in brackets how many times as fast as one thread)")
    table.add_column("frames")
    for way in (*ways[:5], "1 thread / h5py", "2 compute"):
        table.add_column(way, justify="right")
    for number, chosen in enumerate(FORMATS):
        times = dict(zip(ways, measure(write(folder / f"{number}.h5", chosen), chosen, repetitions), strict=True))
        one = times["1 thread"]
        table.add_row(
            f"{chosen.megapixels} Mpx {chosen.dtype}{', ' if chosen.what else ''}{chosen.what}",
            f"{times['h5py']:.2f}", f"{one:.2f}", *(f"{times[way]:.2f} ({one / times[way]:.2f})" for way in ways[2:5]),
            f"{one / times['h5py']:.2f}", f"({times['1 computes'] / times['2 compute']:.2f})",
        )  # fmt: skip
    return table


def write(path: Path, chosen: Format) -> Path:
    """Frames of about one photon a pixel and 200 spots."""
    random = np.random.default_rng(1)
    shape = MEGAPIXELS[chosen.megapixels]
    background = random.poisson(1.0, shape).astype(chosen.dtype)
    if chosen.dtype == "float32":
        # Calibrated pixels: noise in all digits that a correction leaves.
        background = background * 7.9 + random.normal(0, 1, shape).astype(np.float32)
    with h5py.File(path, "w") as file:
        chunks = (chosen.frames_in_chunk, *shape)
        cache = int(np.prod(chunks)) * 4 + 1  # so that a chunk is written once
        data = file.create_dataset(
            "data", (FRAMES, *shape), chosen.dtype, chunks=chunks, rdcc_nbytes=cache, **chosen.creation
        )
        for i in range(FRAMES):
            frame = np.roll(background, 1001 * i)
            rows, columns = random.integers(0, shape[0] - 3, 200), random.integers(0, shape[1] - 3, 200)
            for row, column in zip(rows, columns, strict=True):
                frame[row : row + 3, column : column + 3] += 300
            data[i] = frame.astype(chosen.dtype)
        file["mask"] = (random.random(shape) < 0.01).astype(np.uint32)
        file["energy"] = np.linspace(8990, 9010, FRAMES)
    return path


def measure(path: Path, chosen: Format, repetitions: int) -> list[float]:
    """Milliseconds per frame: h5py, one thread, two with one source, two with a source each, two processes; and of
    one thread and two that only compute.
    """
    rows, columns = MEGAPIXELS[chosen.megapixels]
    geometry = parse_geometry(chosen.flags + GEOMETRY.format(rows=rows - 1, columns=columns - 1))
    frames = sfxlab.open_frames(path, geometry)
    assert isinstance(frames, Hdf5Frames)
    again = sfxlab.open_frames(path, geometry)
    middle = FRAMES // 2
    halves = [frames[:middle], frames[middle:]], [frames[:middle], again[middle:]]
    with h5py.File(path) as file, workers(frames) as (threads, processes):
        dataset = file["data"]
        ways: list[Callable[[], object]] = [
            lambda: [dataset[i] is None for i in range(FRAMES)],
            lambda: read(frames),
            lambda: list(threads.map(read, halves[0])),
            lambda: list(threads.map(read, halves[1])),
            lambda: list(processes.map(read_part, (0, middle))),
            lambda: [compute(half) for half in (0, 1)],
            lambda: list(threads.map(compute, (0, 1))),
        ]
        best = [float("inf")] * len(ways)
        for _ in range(repetitions + 1):
            for i, way in enumerate(ways):
                started = time.perf_counter()
                way()
                best[i] = min(best[i], (time.perf_counter() - started) / FRAMES * 1e3)
    return best


@contextmanager
def workers(frames: Hdf5Frames) -> Iterator[tuple[Executor, Executor]]:
    """Two threads, and two processes that have the source."""
    spawn = multiprocessing.get_context("spawn")
    with (
        ThreadPoolExecutor(2) as threads,
        ProcessPoolExecutor(2, spawn, initializer=_keep, initargs=(frames,)) as processes,
    ):
        yield threads, processes


_SOURCES: list[Hdf5Frames] = []
"""The source of a worker process, which stays open."""


def _keep(frames: Hdf5Frames) -> None:
    _SOURCES.append(frames)


def read_part(first: int) -> None:
    """Half of the frames of the worker's source."""
    for i in range(first, first + FRAMES // 2):
        _SOURCES[0][i]


def read(frames: Hdf5Frames) -> None:
    """All frames, one after the other, each let go at once."""
    for i in range(len(frames)):
        frames[i]


def compute(half: int) -> None:
    """Some work on little memory, without Python's lock."""
    text = bytes(2**20)
    for _ in range(FRAMES):
        hashlib.sha256(text)


def map_table(repetitions: int) -> Table:
    """Milliseconds for each map of a new detector of 16 Mpx, 32 panels."""
    table = Table(title="Pixel maps of 16 Mpx")
    maps: dict[str, Callable[[Detector], object]] = {
        "panel_map": lambda detector: detector.panel_map,
        "radius": lambda detector: detector.radius,
        "xy": lambda detector: detector.xy,
        "resolution_map": lambda detector: detector.resolution_map(9000.0),
    }
    best = dict.fromkeys((*maps, "resolution_map at another energy", "radius again"), float("inf"))
    for _ in range(repetitions + 1):
        detector = tiled_detector()
        later = {
            "resolution_map at another energy": lambda detector: detector.resolution_map(9100.0),
            "radius again": maps["radius"],
        }
        for name, make in (maps | later).items():
            started = time.perf_counter()
            make(detector)
            best[name] = min(best[name], (time.perf_counter() - started) * 1e3)
    table.add_column("map")
    table.add_column("ms", justify="right")
    for name, took in best.items():
        table.add_row(name, f"{took:.2f}")
    table.add_row("all four", f"{sum(best[name] for name in maps):.0f}")
    return table


def tiled_detector() -> Detector:
    """8 × 4 panels of 514 × 1030 pixels of 75 µm, each turned a little."""
    random = np.random.default_rng(2)
    panels = []
    for row in range(8):
        for column in range(4):
            angle = random.normal(0, 0.002)
            x, y = (column * 1037 - 2074) * 75e-6, (row * 545 - 2181) * 75e-6
            along, across = 75e-6 * np.cos(angle), 75e-6 * np.sin(angle)
            panels.append(
                sfxlab.geometry.Panel(
                    f"p{row}{column}", row * 545, column * 1037, 514, 1030, (x, y, 0.1),
                    (along, across, 0.0), (-across, along, 0.0),
                )
            )  # fmt: skip
    return Detector(tuple(panels), MEGAPIXELS[16], 0.1)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8)
