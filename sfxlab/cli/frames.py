"""`simulate`, `show` and `peaks`: frames before they are processed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sfxlab.cli.output import json_option, print_facts, print_json, print_table
from sfxlab.errors import InputError, OutputExistsError

if TYPE_CHECKING:
    from sfxlab.frames import FrameSource
    from sfxlab.pipeline import FrameResult
    from sfxlab.recipe import Recipe
    from sfxlab.store import Run


@click.command("simulate")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--frames", default=300, show_default=True, type=click.IntRange(1), help="Number of frames.")
@click.option("--cell", type=click.Path(path_type=Path), help="A .cell, PDB or MTZ file. [default: lysozyme]")
@click.option("--space-group", help="For example 'P 43 21 2'. [default: the simplest that suits the cell]")
@click.option("--detector", default="multipanel-1M", show_default=True, help="A preset or a .geom file.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="Of all random numbers.")
@json_option
def simulate_command(
    out: Path, frames: int, cell: Path | None, space_group: str | None, detector: str, seed: int, as_json: bool
) -> None:
    """Make frames with known truth in the folder OUT.

    \b
    Example:
      sfxlab simulate try --frames 100 --seed 7
    """
    from rich.console import Console
    from rich.progress import Progress

    from sfxlab.simulation import simulate

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("simulating", total=frames)
        made = simulate(
            out, frames, cell, detector, seed, lambda done, _: bar.update(task, completed=done), space_group=space_group
        )
    facts = {
        "frames": str(made.frames), "geometry": str(made.geometry), "cell": str(made.cell), "truth": str(made.truth),
        "point group": made.point_group, "kinds": dict(made.counts),
    }  # fmt: skip
    if as_json:
        print_json(facts)
    else:
        print_facts(facts | {"kinds": ", ".join(f"{n} {kind}" for kind, n in made.counts.items())})


@click.command("show")
@click.argument("what", metavar="FILE|RUN", nargs=-1, required=True)
@click.option("-g", "--geometry", type=click.Path(path_type=Path), help="CrystFEL geometry file.")
@click.option("--frame", help="A frame by its number from 0 or its event id. [default: the first, or the first hit]")
@click.option("--png", type=click.Path(path_type=Path), help="Write a picture of the frame.")
@json_option
def show_command(
    what: tuple[str, ...], geometry: Path | None, frame: str | None, png: Path | None, as_json: bool
) -> None:
    """Say what is in files of frames or in a run; draw a frame.

    \b
    Examples:
      sfxlab show data.cxi -g data.geom
      sfxlab show run1 --frame 17 --png frame.png
    """
    from sfxlab.frames import open_frames
    from sfxlab.store import Run

    run = Run(what[0]) if len(what) == 1 and (Path(what[0]) / "run.json").exists() else None
    source = None
    facts: dict[str, object]
    if run is None:
        source = open_frames(what, geometry)
        facts = _frame_facts(source)
    else:
        facts = dict(run.summary())
    if frame is not None or png is not None:
        source = source or (run.open_frames() if run is not None else None)
        assert source is not None
        number = _frame_number(source, frame, run)
        facts |= _draw(source, number, run, png)
    if as_json:
        print_json(facts)
    else:
        print_facts(facts)


def _frame_facts(source: FrameSource) -> dict[str, object]:
    from sfxlab.frames import Hdf5Frames

    if not isinstance(source, Hdf5Frames):
        return {"frames": len(source), "files": len(source.paths)}
    summary = source.describe()
    low, high = summary.photon_energy
    return {
        "files": summary.files,
        "frames": summary.frames,
        "pixels": f"{summary.shape[0]} × {summary.shape[1]} {summary.dtype}, {summary.compression}",
        "panels": summary.panels,
        "photon energy": f"{low:.1f} eV" if low == high else f"{low:.1f} to {high:.1f} eV",
        "camera length": f"{1e3 * summary.camera_length:.3f} mm",
        "masked": f"{summary.masked_fraction:.2%} of the panels",
        "first frame": str(source.identity(0)),
    }


def _frame_number(source: FrameSource, frame: str | None, run: Run | None) -> int:
    if frame is None:
        if run is None:
            return 0
        status = run.frames["status"].to_pylist()
        return next((i for i, value in enumerate(status) if value in ("indexed", "hit")), 0)
    if frame.isdigit():
        if int(frame) < len(source):
            return int(frame)
    else:
        for number in range(len(source)):
            if source.identity(number).event == frame:
                return number
    raise InputError(
        "there is no such frame", path=source.paths[0], found=frame,
        expected=f"a number from 0 to {len(source) - 1}, or an event id such as {source.identity(0).event}",
    )  # fmt: skip


def _draw(source: FrameSource, number: int, run: Run | None, png: Path | None) -> dict[str, object]:
    """Search the frame as the run did, draw it, and say what is in it."""
    from sfxlab.pictures import frame_png
    from sfxlab.pipeline import process_frame
    from sfxlab.recipe import Recipe

    if png is not None and png.exists():
        raise OutputExistsError("the picture exists", path=png, remedy="remove it or choose another name")
    frame = source[number]
    result = process_frame(frame, Recipe() if run is None else run.recipe)
    if png is not None:
        png.write_bytes(frame_png(frame, result.peaks, result.reflections))
    facts: dict[str, object] = {
        "frame": f"{number}, {frame.id}",
        "result": f"{result.status}, {len(result.peaks)} peaks" + (f": {result.reason}" if result.reason else ""),
    }
    for i, (crystal, reflections) in enumerate(zip(result.crystals, result.reflections, strict=True)):
        facts[f"crystal {i}"] = f"{crystal.cell}, {crystal.n_peaks} peaks, {len(reflections)} reflections"
    return facts


@click.command("peaks")
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option("-g", "--geometry", type=click.Path(path_type=Path), help="CrystFEL geometry file.")
@click.option("--recipe", "recipe_path", type=click.Path(path_type=Path), help="Parameters, TOML.")
@click.option("--save", type=click.Path(path_type=Path), help="Write the peaks to a CXI file.")
@json_option
def peaks_command(
    inputs: tuple[str, ...], geometry: Path | None, recipe_path: Path | None, save: Path | None, as_json: bool
) -> None:
    """Find peaks and hits only.

    \b
    Example:
      sfxlab peaks data.cxi -g data.geom --save peaks.cxi
    """
    from sfxlab.frames import open_frames
    from sfxlab.interop.cxi_peaks import write_peaks
    from sfxlab.recipe import Recipe

    recipe = Recipe.read(recipe_path) if recipe_path else Recipe()
    if save is not None and save.exists():
        raise OutputExistsError("the peak file exists", path=save, remedy="remove it or choose another name")
    source = open_frames(inputs, geometry)
    results = _search(source, recipe.without_cell())
    if save is not None:
        write_peaks(save, results, source.detector)
    rows = [(result.index, result.id.event, result.status, len(result.peaks), result.reason) for result in results]
    hits = sum(result.status == "hit" for result in results)
    failed = sum(result.status == "failed" for result in results)
    if as_json:
        columns = ("frame", "event", "status", "peaks")
        print_json({
            "frames": len(rows), "hits": hits, "failed": failed,
            "results": [dict(zip(columns, row, strict=False)) for row in rows],
        })  # fmt: skip
        return
    print_table(("frame", "event", "status", "peaks"), [row[:4] for row in rows])
    print_facts({"frames": len(rows), "hits": f"{hits} ({hits / len(rows):.1%})", "failed": failed})


def _search(source: FrameSource, recipe: Recipe) -> list[FrameResult]:
    """Results of all frames, in this process, with a bar."""
    from rich.console import Console
    from rich.progress import track

    from sfxlab.processing import process_one

    numbers = track(range(len(source)), description="peaks", console=Console(stderr=True))
    return [process_one(source, number, number, recipe) for number in numbers]
