"""`simulate`, `show` and `peaks`: frames before they are processed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from sfxlab.cli.output import (
    PATH,
    PATH_OR_ADDRESS,
    check_output,
    json_option,
    print_facts,
    print_json,
    print_table,
    progress_bar,
)
from sfxlab.cli.runs import print_run, run_values
from sfxlab.cli.tuning import refuse_without_tune, tune_peaks, tuning_options
from sfxlab.errors import InputError

if TYPE_CHECKING:
    from sfxlab.frames import FrameId, FrameSource
    from sfxlab.pipeline import FrameResult
    from sfxlab.recipe import Recipe
    from sfxlab.store import Run

_NO_FRAMES = {".mtz": "sfxlab stats", ".hkl": "sfxlab stats", ".stream": "sfxlab import"}
"""What to do with files that are no frames."""


@click.command("simulate")
@click.argument("out", type=PATH)
@click.option("--frames", default=300, show_default=True, type=click.IntRange(1), help="Number of frames.")
@click.option("--cell", type=PATH_OR_ADDRESS, help="A .cell, PDB or MTZ file. [default: lysozyme]")
@click.option("--space-group", help="For example 'P 43 21 2'. [default: the simplest that suits the cell]")
@click.option("--detector", default="multipanel-1M", show_default=True, help="A preset or a .geom file.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="Of all random numbers.")
@json_option
def simulate_command(
    out: Path, frames: int, cell: Path | str | None, space_group: str | None, detector: str, seed: int, as_json: bool
) -> None:
    """Make frames with known truth in the folder OUT.

    \b
    Example:
      sfxlab simulate try --frames 100 --seed 7
    """
    from sfxlab.simulation import simulate

    with progress_bar("simulating") as report:
        made = simulate(out, frames, cell, detector, seed, report, space_group=space_group)
    values = {
        "frames": str(made.frames), "geometry": str(made.geometry), "cell": str(made.cell), "truth": str(made.truth),
        "point_group": made.point_group, "kinds": dict(made.counts),
    }  # fmt: skip
    if as_json:
        print_json(values)
        return
    kinds = ", ".join(f"{n} {kind}" for kind, n in made.counts.items())
    print_facts({name.replace("_", " "): value for name, value in (values | {"kinds": kinds}).items()})


@click.command("show")
@click.argument("what", metavar="FILE...|RUN", nargs=-1, required=True)
@click.option("-g", "--geometry", type=PATH_OR_ADDRESS, help="CrystFEL geometry file.")
@click.option("--frame", help="A frame by its number from 0 or its event id. [default: the first, or the first hit]")
@click.option("--png", type=PATH, help="Write a picture of the frame.")
@json_option
def show_command(
    what: tuple[str, ...], geometry: Path | str | None, frame: str | None, png: Path | None, as_json: bool
) -> None:
    """Say what is in files of frames or in a run; draw a frame.

    Peaks and crystals of a frame are those in the run, or for files those of a search with default parameters.

    \b
    Examples:
      sfxlab show data.cxi -g data.geom
      sfxlab show run1 --frame 17 --png frame.png
    """
    from sfxlab.store import Run

    if png is not None:
        check_output(png)
    if len(what) == 1 and (Path(what[0]) / "run.json").exists():
        run = Run(what[0])
        values = run_values(run)
        result = _result_in_run(run, frame) if frame is not None or png is not None else None
        source = run.open_frames() if png is not None else None
    else:
        source = _open(what, geometry)
        values = _source_values(source)
        result = _result_of_search(source, frame) if frame is not None or png is not None else None
        run = None
    if result is not None:
        values |= {"frame": _frame_values(result), "picture": None if png is None else str(png)}
        if png is not None and source is not None:
            _draw(source, result, png)
    if as_json:
        print_json(values)
        return
    print_run(run) if run is not None else print_facts(_source_facts(values))
    if result is not None:
        print_facts(_frame_facts(result))


def _open(inputs: tuple[str, ...], geometry: Path | str | None) -> FrameSource:
    from sfxlab.frames import open_frames

    for path in map(Path, inputs):
        if path.suffix in _NO_FRAMES and path.is_file():
            remedy = f"look at it with {_NO_FRAMES[path.suffix]}"
            raise InputError("this is no file of frames", path=path, remedy=remedy)
    return open_frames(inputs, geometry)


def _source_values(source: FrameSource) -> dict[str, Any]:
    from sfxlab.frames import FrameSequence

    if not isinstance(source, FrameSequence):
        return {"files": len(source.paths), "frames": len(source)}
    return asdict(source.describe()) | {"first_frame": str(source.identity(0))}


def _source_facts(values: dict[str, Any]) -> dict[str, object]:
    facts = {"files": values["files"], "frames": values["frames"]}
    if "shape" not in values:
        return facts
    (rows, columns), (low, high) = values["shape"], values["photon_energy"]
    return facts | {
        "pixels": f"{rows} × {columns} {values['dtype']}, {values['compression']}",
        "panels": values["panels"],
        "geometry": values["geometry"] or "given as text",
        "photon energy": f"{low:.1f} eV" if low == high else f"{low:.1f} to {high:.1f} eV",
        "camera length": f"{1e3 * values['camera_length']:.3f} mm",
        "masked": f"{values['masked_fraction']:.2%} of the panels",
        **_saturation_fact(values["saturation"], values["saturation_map"]),
        "first frame": values["first_frame"],
        **{f"doubt {number}": doubt for number, doubt in enumerate(values["doubts"], start=1)},
    }


def _saturation_fact(values: tuple[float, float], saturation_map: str | None) -> dict[str, str]:
    """From which values on pixels are saturated, where that is known."""
    low, high = values
    if math.isinf(low):
        extent = "never"
    elif math.isinf(high):
        extent = f"from {low:.10g} ADU on, of some pixels never"
    else:
        extent = f"from {low:.10g} ADU on" if low == high else f"from {low:.10g} to {high:.10g} ADU on"
    if saturation_map is not None:
        return {"saturation": f"{extent} ({saturation_map})"}
    return {} if math.isinf(low) else {"saturation": extent}


def _result_in_run(run: Run, frame: str | None) -> FrameResult:
    from sfxlab.frames import FrameId

    table = run.table("frames", ["frame", "path", "event", "status"])
    if frame is None:
        hits = (row["frame"] for row in table.to_pylist() if row["status"] in ("indexed", "hit"))
        return run.result(next(hits, 0))
    names = ((row["frame"], FrameId(row["path"], row["event"])) for row in table.to_pylist())
    return run.result(_frame_number(frame, run.record.n_frames, names, str(run.path)))


def _result_of_search(source: FrameSource, frame: str | None) -> FrameResult:
    from sfxlab.pipeline import process_frame
    from sfxlab.recipe import Recipe

    names = ((number, source.identity(number)) for number in range(len(source)))
    number = 0 if frame is None else _frame_number(frame, len(source), names, source.paths[0])
    return process_frame(source[number], Recipe())


def _frame_number(frame: str, n_frames: int, names: Iterable[tuple[int, FrameId]], path: str) -> int:
    if frame.isdigit() and int(frame) < n_frames:
        return int(frame)
    for number, name in names:
        if frame in (name.event, str(name)):
            return number
    raise InputError(
        "there is no such frame", path=path, found=frame,
        expected=f"a number from 0 to {n_frames - 1}, or an event id such as //0",
    )  # fmt: skip


def _frame_values(result: FrameResult) -> dict[str, Any]:
    crystals = [
        {"cell": crystal.cell.parameters, "peaks": crystal.n_peaks, "reflections": len(reflections)}
        for crystal, reflections in zip(result.crystals, result.reflections, strict=True)
    ]
    return {
        "number": result.index, "path": result.id.path, "event": result.id.event, "status": result.status,
        "reason": result.reason, "peaks": len(result.peaks), "crystals": crystals,
    }  # fmt: skip


def _frame_facts(result: FrameResult) -> dict[str, str]:
    found = f"{result.status}, {len(result.peaks)} peaks" + (f": {result.reason}" if result.reason else "")
    crystals = {
        f"crystal {number}": f"{crystal.cell}, {crystal.n_peaks} peaks, {len(reflections)} reflections"
        for number, (crystal, reflections) in enumerate(zip(result.crystals, result.reflections, strict=True))
    }
    return {"frame": f"{result.index}, {result.id}", "result": found} | crystals


def _draw(source: FrameSource, result: FrameResult, png: Path) -> None:
    from sfxlab.pictures import frame_png
    from sfxlab.whole_files import written_whole

    picture = frame_png(source[result.index], result.peaks, result.reflections)
    with written_whole(png) as file:
        file.write(picture)


@click.command("peaks")
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option("-g", "--geometry", type=PATH_OR_ADDRESS, help="CrystFEL geometry file.")
@click.option("--recipe", "recipe_path", type=PATH, help="Parameters, TOML.")
@click.option("--save", type=PATH, help="Write the peaks to a CXI file.")
@tuning_options
@json_option
def peaks_command(
    inputs: tuple[str, ...],
    geometry: Path | str | None,
    recipe_path: Path | None,
    save: Path | None,
    tune: bool,
    as_json: bool,
    **tuning: Any,
) -> None:
    """Find peaks and hits only; or tune the search.

    INPUT is a file, a glob, a directory or a .lst list of frames.

    \b
    Examples:
      sfxlab peaks data.cxi -g data.geom --save peaks.cxi
      sfxlab peaks data.cxi -g data.geom -p my.cell --tune -o tuned.toml --png map.png
    """
    from sfxlab.interop.cxi_peaks import write_peaks
    from sfxlab.recipe import Recipe

    recipe = Recipe.read(recipe_path) if recipe_path else Recipe()
    if tune:
        if save is not None:
            raise click.UsageError("--save and --tune exclude each other")
        tune_peaks(_open(inputs, geometry), recipe, as_json=as_json, **tuning)
        return
    refuse_without_tune(tuning)
    if save is not None:
        check_output(save)
    source = _open(inputs, geometry)
    results = _search(source, recipe.without_indexing())
    if save is not None:
        write_peaks(save, results, source.detector)
    hits = sum(result.status == "hit" for result in results)
    failed = {result.index: result.reason for result in results if result.status == "failed"}
    columns = ("frame", "event", "status", "peaks")
    rows = [(result.index, result.id.event, result.status, len(result.peaks)) for result in results]
    if as_json:
        print_json({
            "frames": len(rows), "hits": hits, "failed": len(failed),
            "results": [
                dict(zip(columns, row, strict=True)) | {"reason": failed.get(row[0], "")} for row in rows
            ],
        })  # fmt: skip
        return
    print_table(columns, rows, text=("status",))
    if failed:
        print_table(("frame", "why it failed"), failed.items(), text=("why it failed",))
    print_facts({"frames": len(rows), "hits": f"{hits} ({hits / len(rows):.1%})", "failed": len(failed)})


def _search(source: FrameSource, recipe: Recipe) -> list[FrameResult]:
    """Results of all frames, in this process, with a bar; bad pixels are learned first, as in a run."""
    from sfxlab.bad_pixels import learned_before, with_learned_mask
    from sfxlab.learning import learn_bad_pixels
    from sfxlab.processing import process_one

    results = []
    with TemporaryDirectory() as folder:
        if recipe.bad_pixels.learn and not learned_before(source):
            with progress_bar("learning bad pixels") as report:
                learned = learn_bad_pixels(source, recipe.bad_pixels, progress=report)
            if learned is not None:
                learned.save(Path(folder, "mask.h5"))
        frames = with_learned_mask(source, Path(folder, "mask.h5"))
        with progress_bar("peaks") as report:
            for number in range(len(source)):
                results.append(process_one(frames, number, number, recipe))
                report(number + 1, len(source))
    return results
