"""`watch`: a run while it grows."""

from __future__ import annotations

import math
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sfxlab.cli.output import PATH, check_output, json_option, print_json
from sfxlab.errors import RunError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sfxlab.store import RunMonitor

_BARS = " ▁▂▃▄▅▆▇█"
_WINDOWS = 60
_REASONS = 4


@click.command("watch")
@click.argument("run_path", metavar="RUN", type=PATH)
@click.option("--interval", type=click.FloatRange(0.1), default=5.0, show_default=True, help="Seconds between looks.")
@click.option("--once", is_flag=True, help="Look once and end.")
@click.option("--png", "png_path", type=PATH, help="Picture to keep: virtual powder and maximum projection.")
@click.option("--html", "html_path", type=PATH, help="Page to keep: rates, pictures and radial average.")
@click.option("--overwrite", is_flag=True, help="Replace these files where they exist.")
@json_option
def watch_command(
    run_path: Path,
    interval: float,
    once: bool,
    png_path: Path | None,
    html_path: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Show a run while it grows.

    Frames done, hit rate with its band, the last minutes, ice and salt, and why hits are not indexed. It ends when the
    run is finished or interrupted. Any number of people may watch. The picture and the page are written anew whenever
    there is something new; a browser that shows the page follows by itself.

    \b
    Examples:
      sfxlab watch run1
      sfxlab watch run1 --once --png now.png
      sfxlab watch run1 --html now.html
    """
    from rich.console import Console
    from rich.live import Live

    from sfxlab.store import Run, RunMonitor

    for path in (png_path, html_path):
        if path is not None:
            check_output(path, overwrite=overwrite)
    monitor = RunMonitor(Run(run_path))
    if once or as_json:
        monitor.update()
        _write(monitor, png_path, html_path, interval)
        print_json(_values(monitor)) if as_json else Console(highlight=False).print(_view(monitor))
        return
    with Live(_view(monitor), console=Console(highlight=False), auto_refresh=False) as live:
        shown = False
        while True:
            ended, problem = monitor.run.record.status != "running", ""
            try:
                fresh = monitor.update()
            except RunError as error:  # a part that is being replaced; at the next look it is there
                if ended:
                    raise
                fresh, problem = False, error.problem
            if fresh or ended or not shown:
                _write(monitor, png_path, html_path, interval)
                shown = True
            live.update(_view(monitor, problem), refresh=True)
            if ended:
                return
            time.sleep(interval)


def _write(monitor: RunMonitor, png_path: Path | None, html_path: Path | None, interval: float) -> None:
    if png_path is None and html_path is None:
        return
    from sfxlab.report.hits import hits_png
    from sfxlab.report.page import write_live_page
    from sfxlab.whole_files import written_whole

    picture = hits_png(monitor) if png_path is not None else None
    if png_path is not None and picture is not None:
        with written_whole(png_path) as file:
            file.write(picture)
    if html_path is not None:
        write_live_page(monitor, html_path, interval)


def _values(monitor: RunMonitor) -> dict[str, Any]:
    """What is shown, for a program."""
    from dataclasses import asdict

    record, rates, recent = monitor.run.record, monitor.rates(_WINDOWS), monitor.recent()
    ice, salt = monitor.ice_and_salt
    low, high = rates.band
    return {
        "run": str(monitor.run.path), "status": record.status, "n_frames": record.n_frames, **asdict(monitor.counts),
        "ice": ice, "salt": salt, "last_minutes": asdict(recent), "reasons": dict(monitor.reasons),
        "hit_rate": {
            "first": rates.first, "last": rates.last, "frames": rates.frames, "hits": rates.hits,
            "rate": rates.rate, "low": low, "high": high, "confidence": rates.confidence,
        },
    }  # fmt: skip


def _view(monitor: RunMonitor, problem: str = "") -> RenderableType:
    """The same for people."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    record, counts, rates, recent = monitor.run.record, monitor.counts, monitor.rates(_WINDOWS), monitor.recent()
    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_column(style="dim")
    facts.add_column()

    def row(name: str, value: str) -> None:
        facts.add_row(name, Text(value))

    left = record.n_frames - counts.frames
    speed = f", {recent.frames_per_second:.1f} frames/s" if recent.frames_per_second else ""
    remaining = timedelta(seconds=round(left / recent.frames_per_second)) if recent.frames_per_second else None
    running = record.status == "running"
    facts.add_row("done", ProgressBar(total=record.n_frames, completed=counts.frames, width=_WINDOWS))
    row("frames", f"{counts.frames:,} of {record.n_frames:,}{speed if running else ''}")
    if running and remaining is not None:
        row("left", f"{remaining}; the newest frames came {timedelta(seconds=round(recent.ago))} ago")
    row("hits", f"{counts.hits:,}, {_rate(counts.hits, counts.frames)}")
    if running and counts.frames:
        minutes = max(math.ceil(recent.seconds / 60), 1)
        row(f"last {minutes} min", f"{recent.hits:,} of {recent.frames:,}, {_rate(recent.hits, recent.frames)}")
    row("indexed", f"{counts.indexed:,}, {_rate(counts.indexed, counts.hits)} of hits; {counts.lattices:,} lattices")
    ice, salt = monitor.ice_and_salt
    for name, n in (("failed", counts.failed), ("ice", ice), ("salt", salt)):
        if n:
            row(name, f"{n:,}, {_rate(n, counts.frames)}")
    if len(rates.frames):
        row("hit rate", f"{_sparkline(rates.rate.tolist())}  0 to {max(rates.rate):.0%} along the run")
    for i, (reason, n) in enumerate(monitor.reasons[:_REASONS]):
        row("why not" if i == 0 else "", f"{n:,}  {reason}")
    if problem:
        row("", problem)
    title = Text(f"{monitor.run.path}: {record.status}", style="bold")
    return Group(title, facts)


def _rate(successes: int, trials: int) -> str:
    """A rate with its band of 95 %."""
    import numpy as np

    from sfxlab.store.rates import wilson_interval

    if not trials:
        return "-"
    low, high = wilson_interval(np.array([successes]), np.array([trials]), 0.95)
    return f"{successes / trials:.1%} ({100 * low[0]:.1f} to {100 * high[0]:.1f})"


def _sparkline(values: list[float]) -> str:
    """Values as bars of text, from 0 to the highest."""
    top = max(values) or 1.0
    return "".join(_BARS[math.ceil(value / top * (len(_BARS) - 1))] for value in values)
