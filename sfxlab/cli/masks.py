"""`mask`: bad pixels learned from frames."""

from __future__ import annotations

from pathlib import Path
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
from sfxlab.cli.workers import cluster_options, workers_of
from sfxlab.errors import InputError

if TYPE_CHECKING:
    from sfxlab.bad_pixels import LearnedMask
    from sfxlab.frames import FrameSource
    from sfxlab.geometry import Detector
    from sfxlab.recipe import BadPixelRecipe

_WORST_PANELS = 10


@click.command("mask")
@click.argument("inputs", metavar="RUN|INPUT...", nargs=-1, required=True)
@click.option("-g", "--geometry", type=PATH_OR_ADDRESS, help="CrystFEL geometry file, for frames that are in no run.")
@click.option("-o", "--output", type=PATH, required=True, help="HDF5 file for the mask.")
@click.option("--png", type=PATH, help="Draw the mask to this file.")
@click.option("--frames", "n_frames", type=click.IntRange(1, 4080), help="Most frames to learn from. [default: 256]")
@click.option("--recipe", "recipe_path", type=PATH, help="Parameters, TOML. [default: those of the run]")
@cluster_options()
@json_option
def mask_command(
    inputs: tuple[str, ...],
    geometry: Path | str | None,
    output: Path,
    png: Path | None,
    n_frames: int | None,
    recipe_path: Path | None,
    cluster: str,
    workers: int | None,
    as_json: bool,
) -> None:
    """Learn a mask of bad pixels from a run or from frames.

    Bad pixels are hot, dead, noisy or shadowed ones.
    The mask holds what the masks of the files leave out. `sfxlab process` learns by itself; this is for other programs
    and for the geometry file.

    \b
    Examples:
      sfxlab mask run1 -o mask.h5 --png mask.png
      sfxlab mask data.cxi -g data.geom -o mask.h5
    """
    from sfxlab.learning import learn_bad_pixels
    from sfxlab.pictures import mask_png
    from sfxlab.whole_files import written_whole

    for path in filter(None, (output, png)):
        check_output(path)
    source, recipe = _source(inputs, geometry, recipe_path)
    if n_frames is not None:
        recipe = recipe.model_copy(update={"frames": n_frames})
    with workers_of(cluster, workers, "learn") as client, progress_bar("learning bad pixels") as report:
        learned = learn_bad_pixels(source, recipe, client, report)
    if learned is None:
        raise InputError(
            "these are too few frames to tell bad pixels from others",
            found=f"{min(len(source), recipe.frames)} frames", expected=f"{recipe.min_frames} or more that can be read",
            remedy="take all frames of the run",
        )  # fmt: skip
    learned.save(output)
    if png is not None:
        with written_whole(png) as file:
            file.write(mask_png(learned, source.detector))
    values = _values(learned, source.detector)
    if as_json:
        print_json({"file": str(output)} | values)
        return
    _print(learned, values, len(source), output)


def _source(
    inputs: tuple[str, ...], geometry: Path | str | None, recipe_path: Path | None
) -> tuple[FrameSource, BadPixelRecipe]:
    """The frames, and how to learn from them: all kinds of bad pixels, unless a recipe file says otherwise."""
    from sfxlab.frames import open_frames
    from sfxlab.recipe import Recipe
    from sfxlab.store import Run

    recipe = Recipe.read(recipe_path).bad_pixels if recipe_path else None
    if len(inputs) == 1 and (Path(inputs[0]) / "run.json").exists():
        run = Run(inputs[0])
        source, usual = run.open_frames(learned_mask=False), run.recipe.bad_pixels
    else:
        source, usual = open_frames(inputs, geometry), Recipe().bad_pixels
    every_kind = dict.fromkeys(("hot", "dead", "noisy", "shadowed"), True)
    return source, recipe or usual.model_copy(update=every_kind)


def _values(learned: LearnedMask, detector: Detector) -> dict[str, Any]:
    panels = [
        {"panel": panel.name, "pixels": panel.rows * panel.columns, **counts}
        for panel, counts in zip(detector.panels, learned.counts_by_panel(detector), strict=True)
    ]
    return {"frames": learned.frames, **learned.counts, "panels": panels, "remarks": learned.remarks}


def _print(learned: LearnedMask, values: dict[str, Any], n_frames: int, output: Path) -> None:
    from sfxlab.bad_pixels import KINDS

    facts = {"mask": str(output), "learned from": f"{learned.frames} of {n_frames} frames", **learned.counts}
    print_facts(facts)
    ordered = sorted(values["panels"], key=lambda row: -sum(row[kind] for kind in KINDS))
    bad = [row for row in ordered if any(row[kind] for kind in KINDS)]
    if bad:
        columns = ("panel", "pixels", *KINDS)
        rows = [[row[name] for name in columns] for row in bad[:_WORST_PANELS]]
        more = f", the worst {_WORST_PANELS} of {len(bad)}" if len(bad) > _WORST_PANELS else ""
        print_table(columns, rows, f"Panels with bad pixels{more}", text=("panel",))
    for remark in learned.remarks:
        click.echo(f"Note: {remark}.")
    click.echo(
        "In a geometry file, before the first panel, with a number that no other mask has:\n"
        f"  mask7_file = {output}\n  mask7_data = /mask\n  mask7_badbits = 0x0f"
    )
