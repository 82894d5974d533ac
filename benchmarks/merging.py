"""Merged intensities against the truth, by model.

    python benchmarks/merging.py [FOLDER OF EXAMPLE DATA]

One table: `partial_lyso` (a stream of an independent program), `lyso` from its frames with default parameters, and the
reference stream of `lyso` merged by us. Seconds are CPU time of `merge` once the run is there, on one core, the least
of three; "× mean" is how often that is the time of the plain mean, because machines differ. Sets that are not there are
left out.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import sfxlab
from sfxlab.crystal import resolution_of
from sfxlab.merging.statistics import shell_edges

ROOT = Path(__file__).parents[1]
MODELS = ("none", "scaled", "partiality")
COLUMNS = (
    "data", "model", "CC to truth", "R1(I) %", "CC1/2", "Rsplit %", "compl. %", "crystals", "spread of z",
    "s", "× mean",
)  # fmt: skip

Data = tuple[str, sfxlab.Run, Path, float, str | None]
"""Name, run, true intensities, limit of resolution, polarisation."""


def main(shared: Path) -> None:
    """Print the tables."""
    console = Console(width=150)
    table = Table(title="merging: spread of z is that of (I1 − I2) / √(σ1² + σ2²), least and most of ten shells")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("data", "model") else "right")
    shells: list[tuple[str, sfxlab.Merged, sfxlab.Merged]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, run, truth, d_min, polarisation in data_sets(shared, Path(scratch)):
            plain = 0.0
            for model in MODELS:
                merged, seconds = timed(
                    lambda run=run, model=model, d_min=d_min, polarisation=polarisation: sfxlab.merge(
                        run, "4/mmm", model, d_min=d_min, d_max=30.0, polarisation=polarisation
                    )
                )
                plain = plain or seconds
                reference = sfxlab.read_merged(truth, cell=merged.cell)
                table.add_row(*figures(name, model, merged, reference), f"{seconds:.2f}", f"{seconds / plain:.1f}")
            shells.append((name, merged, reference))
    console.print(table)
    console.print(by_shell(shells))


def data_sets(shared: Path, scratch: Path) -> Iterator[Data]:
    """The sets that are there, as runs."""
    folder = shared / "partial_lyso"
    if folder.is_dir():
        run = sfxlab.import_stream(folder / "partial_lyso.stream.gz", scratch / "partial_lyso")
        yield "partial_lyso", run, folder / "truth" / "lyso_true.hkl.gz", 1.8, None
    folder = shared / "lyso"
    if folder.is_dir():
        truth = folder / "truth" / "lyso_true.hkl.gz"
        frames = sfxlab.open_frames(folder / "lyso.cxi", folder / "lyso.geom")
        recipe = sfxlab.Recipe().with_cell(sfxlab.read_cell(folder / "lyso.cell"))
        with sfxlab.connect("local") as client:
            run = sfxlab.process(frames, recipe, client, scratch / "lyso", progress=None)
        yield "lyso, frames", run, truth, 2.0, "horiz"
        stream = folder / "reference" / "xgandalf_cell.stream.gz"
        yield "lyso, reference stream", sfxlab.import_stream(stream, scratch / "reference"), truth, 2.0, "horiz"


def timed(work: Callable[[], sfxlab.Merged]) -> tuple[sfxlab.Merged, float]:
    """What comes out, and the least CPU time of three runs after one that compiles."""
    merged, seconds = work(), []
    for _ in range(3):
        start = time.process_time()
        merged = work()
        seconds.append(time.process_time() - start)
    return merged, min(seconds)


def figures(name: str, model: str, merged: sfxlab.Merged, reference: sfxlab.Merged) -> list[str]:
    """A row of the table, but for the times."""
    agreement, overall = sfxlab.compare(merged, reference).overall, merged.statistics().overall
    spread = spreads(merged)
    crystals = merged.history["crystals"]
    return [
        name, model, f"{agreement.cc:.5f}", f"{100 * agreement.r1i:.2f}", f"{overall.cc_half:.4f}",
        f"{100 * overall.rsplit:.2f}", f"{100 * overall.completeness:.1f}", f"{crystals['used']}/{crystals['given']}",
        f"{min(spread):.2f}-{max(spread):.2f}",
    ]  # fmt: skip


def spreads(merged: sfxlab.Merged) -> list[float]:
    """Standard deviation of (I1 − I2) / √(σ1² + σ2²) in ten shells, of those with at least 100 pairs."""
    z = (merged.half1.intensity - merged.half2.intensity) / np.hypot(merged.half1.sigma, merged.half2.sigma)
    resolution = resolution_of(merged.cell, merged.hkl)
    edges = shell_edges(float(resolution.min()), float(resolution.max()), 10)
    shell = np.clip(np.searchsorted(edges, resolution) - 1, 0, 9)
    parts = [z[(shell == i) & np.isfinite(z)] for i in range(10)]
    return [float(np.std(part)) for part in parts if len(part) >= 100]


def by_shell(sets: list[tuple[str, sfxlab.Merged, sfxlab.Merged]]) -> Table:
    """CC to truth and Rsplit of merging with partialities, by shell of resolution."""
    table = Table(title="partiality by shell: CC to truth, Rsplit %")
    table.add_column("set")
    for i in range(1, 11):
        table.add_column(f"shell {i}", justify="right")
    for name, merged, reference in sets:
        agreement, statistics = sfxlab.compare(merged, reference), merged.statistics()
        pairs = zip(agreement.shells, statistics.shells, strict=True)
        table.add_row(name, *(f"{a.cc:.4f}\n{100 * s.rsplit:.1f}" for a, s in pairs))
    return table


if __name__ == "__main__":
    default = os.environ.get("SFXLAB_SHARED_DATA", ROOT.parent / "shared" / "data")
    main(Path(sys.argv[1] if len(sys.argv) > 1 else default))
