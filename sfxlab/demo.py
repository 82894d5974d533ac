"""What `make demo` does: the main job from end to end on simulated frames, against their truth."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table

from sfxlab.cluster import connect
from sfxlab.crystal import read_cell
from sfxlab.frames import open_frames
from sfxlab.merging import Comparison, Merged, compare, merge, read_merged
from sfxlab.processing import process
from sfxlab.progress import terminal_bar
from sfxlab.recipe import Recipe
from sfxlab.report import write_report
from sfxlab.simulation import Simulation, simulate
from sfxlab.store import Run

POINT_GROUP = "4/mmm"
SPACE_GROUP = "P 43 21 2"


def demo(folder: Path, frames: int = 300, console: Console | None = None) -> None:
    """Simulate, process, merge and report in `folder`; what an earlier demo left there is used again."""
    console = console or Console()
    data = folder / "data"
    if not data.exists():
        _simulate(data, frames, console)
    started = time.perf_counter()
    run = _process(data, folder / "run", console)
    seconds = time.perf_counter() - started
    merged = merge(run, POINT_GROUP, space_group=SPACE_GROUP)
    merged.to_mtz(folder / "merged.mtz", overwrite=True)
    write_report(run, folder / "report.html", merged, overwrite=True)
    truth = compare(merged, read_merged(data / "truth" / "true.hkl.gz", cell=merged.cell), d_min=2.0)
    _summary(console, run, merged, truth, seconds)
    _next_steps(console, folder)


def _simulate(data: Path, frames: int, console: Console) -> Simulation:
    console.print(f"[bold]1. Simulating[/] {frames} frames of lysozyme with known truth in {data}")
    with Bar(console=console) as bar:
        task = bar.add_task("simulating", total=frames)
        return simulate(data, frames, progress=lambda done, _: bar.update(task, completed=done))


def _process(data: Path, path: Path, console: Console) -> Run:
    console.print(f"[bold]2. Processing[/] them on a local Dask cluster into {path}")
    console.print("   (the first time, compiling takes a minute or two)")
    recipe = Recipe().with_cell(read_cell(data / "frames.cell"))
    source = open_frames(data / "frames.cxi", data / "frames.geom")
    with connect("local") as client, terminal_bar(console) as report:
        return process(
            source, recipe, client, path, resume=path.exists(), command=sys.argv, progress=report,
            inputs=[str(data / "frames.cxi")],
        )  # fmt: skip


def _summary(console: Console, run: Run, merged: Merged, truth: Comparison, seconds: float) -> None:
    counts, overall = run.counts, merged.statistics().overall
    table = Table(show_header=False, title="The demo", title_justify="left", title_style="bold")
    for name, value in (
        ("frames", f"{counts.frames} in {seconds:.0f} s"),
        ("hits", f"{counts.hits} ({counts.hit_rate:.1%} of the frames)"),
        ("lattices", f"{counts.lattices} in {counts.indexed} frames ({counts.indexing_rate:.1%} of the hits)"),
        ("reflections", f"{overall.n_unique} unique, {overall.n_measurements} measured, to {overall.d_min:.2f} Å"),
        ("CC1/2", f"{overall.cc_half:.4f}"),
        ("Rsplit", f"{100 * overall.rsplit:.1f} %"),
        ("CC to the truth", f"{truth.overall.cc:.4f} (to {truth.overall.d_min:.1f} Å)"),
    ):
        table.add_row(name, value)
    console.print(table)


def _next_steps(console: Console, folder: Path) -> None:
    sfxlab = Path(sys.executable).parent / "sfxlab"
    with suppress(ValueError):  # elsewhere: the whole path
        sfxlab = sfxlab.relative_to(Path.cwd())
    console.print("[bold]Next[/]")
    console.print(f"  look at the report:       {folder / 'report.html'}", highlight=False)
    console.print(f"  look at a frame:          {sfxlab} show {folder / 'run'} --png frame.png", highlight=False)
    console.print("  work in a notebook:       make lab, then open 01_first_look.ipynb", highlight=False)


if __name__ == "__main__":
    demo(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
