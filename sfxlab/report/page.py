"""The page of a report: one HTML file that needs nothing else, and no network."""

from __future__ import annotations

import html
from datetime import datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from bokeh.resources import Resources

from sfxlab.errors import OutputExistsError, RunError, SfxlabError
from sfxlab.frames import FrameSource
from sfxlab.report import sections
from sfxlab.report.bad_pixels import bad_pixels
from sfxlab.report.charts import chart_html
from sfxlab.report.decoys import decoys
from sfxlab.report.forecast import forecast_chart
from sfxlab.report.hits import hits
from sfxlab.report.merging import merging
from sfxlab.store import Run, RunMonitor
from sfxlab.whole_files import written_whole

if TYPE_CHECKING:
    from sfxlab.merging import Forecast, Merged


def write_report(run: Run | None, path: str | Path, merged: Merged | None = None, *, overwrite: bool = False) -> Path:
    """Write the report of a run, finished or growing, of merged data, or of both, and return its path.

    The report is one HTML file. Frames are read again from the inputs for its pictures; where these are gone, it says
    so instead.

    Raises `OutputExistsError` where the file exists and `overwrite` is false, `RunError` where the run is damaged or
    the file cannot be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise OutputExistsError("this report exists", path=path, remedy="choose another name or remove it")
    if run is None and merged is None:
        raise RunError("there is nothing to report", expected="a run or merged data")
    title = f"Run {run.path.name}" if run is not None else "Merged data"
    page = _page(title, _sections(run, merged))
    with written_whole(path) as file:
        file.write(page.encode("utf-8"))
    return path


def _sections(run: Run | None, merged: Merged | None) -> str:
    of_merged = "" if merged is None else merging(merged)
    if run is None:
        return of_merged
    columns = run.table("frames", ["frame", "status", "reason"])
    frames = {
        "frame": columns["frame"].to_numpy(),
        "status": columns["status"].to_pylist(),
        "reason": columns["reason"].to_pylist(),
    }
    crystals = run.table("crystals", ["lattice_type", "centring", "a", "b", "c", "alpha", "beta", "gamma"]).to_pydict()
    source, problem = _source(run)
    monitor = RunMonitor(run)
    monitor.update()
    return "".join(
        [
            sections.headline(run, monitor.counts),
            of_merged,
            hits(monitor, source),
            sections.reasons(frames),
            decoys(run),
            sections.cells(crystals),
            sections.detector(run, source, frames, problem),
            bad_pixels(run, source),
            sections.examples(run, source, frames, problem),
            sections.timings(run),
            sections.recipe(run),
            sections.provenance(run),
        ]
    )


def _source(run: Run) -> tuple[FrameSource | None, str]:
    """The frames of the run, or why they cannot be had."""
    try:
        source = run.open_frames()
        source.detector  # noqa: B018  opens a file, so that inputs which are gone show here
    except SfxlabError as error:
        return None, f"The frames cannot be read again.\n{error}"
    return source, ""


def write_live_page(monitor: RunMonitor, path: str | Path, seconds: float) -> None:
    """Write what a growing run shows as an HTML file, in place of what was there; browsers load it anew at times.

    `seconds` is the time between. Raises `RunError` where the file cannot be written.
    """
    run = monitor.run
    body = sections.headline(run, monitor.counts) + hits(monitor)
    refresh = "" if run.is_finished else f'<meta http-equiv="refresh" content="{max(round(seconds), 1)}">'
    with written_whole(Path(path)) as file:
        file.write(_page(f"Run {run.path.name}", body, refresh).encode("utf-8"))


def write_forecast(forecast: Forecast, path: str | Path) -> None:
    """Write how a figure of merit has grown and will grow, as an HTML file. Raises `RunError` where it cannot be."""
    head = ("crystals", "frames", forecast.figure, "spread")
    per_crystal = forecast.n_frames / max(forecast.n_crystals, 1)
    rows = [
        (f"{p.n_crystals:,.0f}", f"{p.n_crystals * per_crystal:,.0f}", f"{p.value:.3f}", f"{p.spread:.3f}")
        for p in forecast.trend
    ]
    body = chart_html(forecast_chart(forecast)) + sections.table(head, rows, "numbers")
    with written_whole(Path(path)) as file:
        file.write(_page("Forecast", sections.section(str(forecast), body)).encode("utf-8"))


def write_page(title: str, body: str, path: str | Path) -> None:
    """Write sections as an HTML file that needs nothing else. Raises `RunError` where it cannot be written."""
    with written_whole(Path(path)) as file:
        file.write(_page(title, body).encode("utf-8"))


def _page(title: str, body: str, head: str = "") -> str:
    style = files("sfxlab.report").joinpath("style.css").read_text(encoding="utf-8")
    scripts = Resources(mode="inline", components=["bokeh"]).render()
    made = f"Written by sfxlab {version('sfxlab')}, {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}."
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{head}<title>{html.escape(title)}</title>
<style>
{style}</style>
{scripts}
</head>
<body>
<main>
<header><h1>{html.escape(title)}</h1><p>{made}</p></header>
{body}</main>
</body>
</html>
"""
