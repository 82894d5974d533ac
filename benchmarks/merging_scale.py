"""Time and memory of merging against the number of crystals, and of a running merge against a whole one.

    python benchmarks/merging_scale.py [LARGEST NUMBER OF CRYSTALS]

Runs are written to a temporary folder (TMPDIR says where) as tables of crystals with 300 observations each, 7 kB a
crystal. Each is merged in a fresh process that may keep 64 MiB of observations in memory; the rest goes through
scratch files.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from sfxlab.crystal import UnitCell, point_group, possible_reflections, resolution_of
from sfxlab.frames import FrameId
from sfxlab.merging import RunningMerge, merge
from sfxlab.recipe import Recipe
from sfxlab.store import Run
from sfxlab.store.record import describe
from sfxlab.store.tables import SCHEMAS

CELL = UnitCell(79.0, 79.0, 38.0, lattice_type="tetragonal", unique_axis="c")
D_MIN = 2.0
N_OBSERVED = 300
CRYSTALS_PER_PART = 2000
MEMORY_LIMIT = 64 << 20


def make_run(folder: Path, n_crystals: int) -> Run:
    """A run of crystals with scales, B factors and partialities, written part by part."""
    record = describe(
        Recipe(), [FrameId("data.cxi", "//0")], n_frames=n_crystals, chunk_size=CRYSTALS_PER_PART, paths=()
    )
    run = Run.create(folder, record, [])
    hkl = possible_reflections(CELL, point_group("4/mmm"), 1 / D_MIN)
    s2 = resolution_of(CELL, hkl) ** 2 / 4
    truth = np.random.default_rng(5).exponential(1000 * np.exp(-40 * s2))
    for part, first in enumerate(range(0, n_crystals, CRYSTALS_PER_PART)):
        numbers = np.arange(first, min(first + CRYSTALS_PER_PART, n_crystals))
        for name, table in make_part(np.random.default_rng([1, part]), numbers, hkl, s2, truth).items():
            pq.write_table(table, folder / name / f"part-{part:06d}.parquet", compression="zstd")
    return run


def make_part(rng, numbers, hkl, s2, truth) -> dict[str, pa.Table]:  # type: ignore[no-untyped-def]
    """Tables of some crystals, one a frame."""
    n = len(numbers)
    chosen = rng.integers(len(hkl), size=(n, N_OBSERVED))
    scale, b_factor = np.exp(0.5 * rng.standard_normal((n, 1))), 8 * rng.standard_normal((n, 1))
    mean = scale * np.exp(-b_factor * s2[chosen]) * truth[chosen]
    intensity = mean * rng.exponential(1.0, chosen.shape) + 20 * rng.standard_normal(chosen.shape)
    basis = CELL.reciprocal_basis
    of_crystals = {
        "frame": numbers, **dict(zip(("a", "b", "c", "alpha", "beta", "gamma"), CELL.parameters, strict=True)),
        **{f"{axis}star_{x}": basis[j, i] for i, axis in enumerate("abc") for j, x in enumerate("xyz")},
        "lattice_type": "tetragonal", "centring": "P", "unique_axis": "c", "n_reflections": N_OBSERVED,
    }  # fmt: skip
    of_reflections = {
        "frame": np.repeat(numbers, N_OBSERVED), **dict(zip("hkl", hkl[chosen.ravel()].T, strict=True)),
        "intensity": intensity.ravel(), "sigma": 20.0, "saturated": False,
    }  # fmt: skip
    of_frames = {
        "frame": numbers, "path": "data.cxi", "event": [f"//{i}" for i in numbers], "status": "indexed",
        "photon_energy": 9500.0, "n_crystals": 1,
    }  # fmt: skip
    return {
        "frames": filled("frames", of_frames, n),
        "crystals": filled("crystals", of_crystals, n),
        "reflections": filled("reflections", of_reflections, n * N_OBSERVED),
    }


def filled(name: str, columns: dict[str, object], n: int) -> pa.Table:
    """A table of a run; what is not given is the same for all."""
    arrays = []
    for column in SCHEMAS[name]:  # type: ignore[index]
        values = columns.get(column.name, "" if column.type == pa.string() else 0)
        values = values if isinstance(values, list | np.ndarray) else np.full(n, values)
        arrays.append(pa.array(values, column.type))
    return pa.Table.from_arrays(arrays, schema=SCHEMAS[name])  # type: ignore[index]


def measure(folder: Path) -> dict[str, float]:
    """Merge a run in this process: wall-clock and CPU seconds, peak memory, and what came out."""
    warm_up = make_run(folder.with_name("warm-up"), 50)
    merge(warm_up, "4/mmm", polarisation=None)  # compiles the kernels
    before, wall, cpu = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter(), time.process_time()
    merged = merge(Run(folder), "4/mmm", memory_limit=MEMORY_LIMIT)
    return {
        "seconds": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "before": before / 1024,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "cycles": merged.history["scaling"]["cycles"],
        "cc_half": merged.statistics().overall.cc_half,
    }


def scaling_law(console: Console, sizes: list[int]) -> None:
    """Print time and memory of each size."""
    table = Table(
        "crystals", "observations", "s", "CPU s", "cycles", "CPU µs / obs. / cycle", "MiB before", "MiB peak", "CC1/2"
    )
    for size in sizes:
        with tempfile.TemporaryDirectory() as scratch:
            make_run(Path(scratch) / "run", size)
            found = subprocess.run(
                [sys.executable, __file__, "--measure", str(Path(scratch) / "run")],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
        m = json.loads(found.stdout.splitlines()[-1])
        n = size * N_OBSERVED
        table.add_row(
            f"{size:,}", f"{n:,}", f"{m['seconds']:.1f}", f"{m['cpu']:.1f}", f"{m['cycles']}",
            f"{1e6 * m['cpu'] / n / m['cycles']:.3f}", f"{m['before']:.0f}", f"{m['peak']:.0f}", f"{m['cc_half']:.4f}",
        )  # fmt: skip
    console.print("merging, at most 64 MiB of observations in memory")
    console.print(table)


def running_merge(console: Console) -> None:
    """Print what a running merge of 2,000 crystals takes for each event, against a whole merge."""
    with tempfile.TemporaryDirectory() as scratch:
        run = make_run(Path(scratch) / "run", 2000)
        more = make_run(Path(scratch) / "more", 50)
        frames = more.frames.set_column(1, "path", pa.array(["more.cxi"] * 50))
        elsewhere = SimpleNamespace(frames=frames, crystals=more.crystals, reflections=more.reflections)
        merge(run, "4/mmm").statistics()
        seconds: dict[str, float] = {}

        def timed(name: str, function) -> object:  # type: ignore[no-untyped-def]
            start = time.process_time()
            result = function()
            seconds[name] = time.process_time() - start
            return result

        timed("whole merge and shells", lambda: merge(run, "4/mmm").statistics())
        running = RunningMerge(run, "4/mmm")
        running.merged().statistics()
        limit = float(np.quantile(running.crystals["correlation"].to_numpy(), 0.3))
        timed("cut on correlation, shells", lambda: (running.cut(correlation=(limit, None)), running.statistics()))
        timed("cut taken back, shells", lambda: (running.cut(), running.statistics()))
        timed("50 crystals removed, shells", lambda: (running.remove(range(50)), running.statistics()))
        timed("50 crystals added, shells", lambda: (running.add(elsewhere), running.statistics()))
        timed("scales fitted again, shells", lambda: (running.refit(), running.statistics()))
    table = Table("running merge of 2,000 crystals", "CPU s", "whole merge / this")
    for name, value in seconds.items():
        table.add_row(name, f"{value:.3f}", f"{seconds['whole merge and shells'] / value:.1f}")
    console.print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Path(sys.argv[2]))))
    else:
        largest = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
        out = Console(width=140)
        running_merge(out)
        scaling_law(out, [size for size in (1_000, 10_000, 100_000, 1_000_000) if size <= largest])
