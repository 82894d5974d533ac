"""`process`: runs."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sfxlab.cli.output import (
    PATH,
    PATH_OR_ADDRESS,
    json_option,
    print_facts,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from distributed import Client

    from sfxlab.crystal import UnitCell
    from sfxlab.frames import FrameSource
    from sfxlab.recipe import Recipe
    from sfxlab.store import Run


@click.command("process")
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option("-g", "--geometry", type=PATH_OR_ADDRESS, help="CrystFEL geometry file.")
@click.option("-p", "--cell", "cell_path", type=PATH_OR_ADDRESS, help="Unit cell: .cell, PDB or MTZ.")
@click.option("--find-cell", is_flag=True, help="Find the unit cell first, from a sample of the frames.")
@click.option("--recipe", "recipe_path", type=PATH, help="Parameters, TOML.")
@click.option(
    "--indexing", "method", help="sfxlab, crystfel:METHOD, dials, or a plug-in. [default: what the recipe says]"
)
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the run.")
@click.option("--cluster", default="local", show_default=True, help="local, or tcp://HOST:PORT of a Dask scheduler.")
@click.option("--workers", type=click.IntRange(0), help="Processes on this machine; 0: this one only. [default: cores]")
@click.option("--resume", is_flag=True, help="Do what is missing of a run that is there already.")
@click.option("--chunk-size", type=click.IntRange(1), help="Frames in a task. [default: by the number of frames]")
@json_option
def process_command(
    inputs: tuple[str, ...],
    geometry: Path | str | None,
    cell_path: Path | str | None,
    find_cell: bool,
    recipe_path: Path | None,
    method: str | None,
    output: Path,
    cluster: str,
    workers: int | None,
    resume: bool,
    chunk_size: int | None,
    as_json: bool,
) -> None:
    """Find hits, index and integrate them, and write a run.

    INPUT is a file, a glob, a directory or a .lst list of frames. Without a unit cell each lattice is indexed by
    itself, in its reduced cell; 'sfxlab cells' says which cell they share.

    \b
    Examples:
      sfxlab process data.cxi -g data.geom -p lysozyme.cell -o run1
      sfxlab process data.cxi -g data.geom --find-cell -o run1
      sfxlab process 'r0042/*.h5' -g jf.geom -p my.cell -o run2 --workers 8
      sfxlab process data.cxi -g data.geom -p my.cell -o run3 --indexing crystfel:xgandalf
    """
    from sfxlab.cluster import connect
    from sfxlab.frames import open_frames
    from sfxlab.processing import process
    from sfxlab.store import Run

    recipe = _recipe(recipe_path, cell_path)
    if method:
        recipe = recipe.changed(indexing={"method": method})
    if find_cell and recipe.cell is not None:
        raise click.UsageError("--find-cell is for frames without a unit cell; one is given already.")
    if not resume:
        Run.require_absent(output)
    frames = open_frames(inputs, geometry)
    options: dict[str, Any] = {
        "resume": resume, "chunk_size": chunk_size, "inputs": inputs, "command": sys.argv,
    }  # fmt: skip
    try:
        with nullcontext() if cluster == "local" and workers == 0 else connect(cluster, workers) as client:
            if find_cell:
                recipe = recipe.with_cell(_found_cell(frames, recipe, client, output))
            run = process(frames, recipe, client, output, **options)
    except KeyboardInterrupt:
        if not output.exists():
            raise
        raise click.ClickException(
            f"interrupted; what is done is in {output}: go on with the same command and --resume"
        ) from None
    print_json(run_values(run)) if as_json else print_run(run)


def _found_cell(frames: FrameSource, recipe: Recipe, client: Client | None, output: Path) -> UnitCell:
    """The cell that a sample of the frames shares; for a run that is there already, the one found then."""
    from sfxlab.cell_search import find_cell_of_frames
    from sfxlab.store import Run

    if output.exists():
        known = Run(output).recipe.cell
        if known is not None:
            return known
    best = find_cell_of_frames(frames, recipe, client, output.absolute().parent)[0]
    click.echo(f"cell found: {best}", err=True)
    return best.cell


def _recipe(recipe_path: Path | None, cell_path: Path | str | None) -> Recipe:
    from sfxlab.crystal import read_cell
    from sfxlab.recipe import Recipe

    recipe = Recipe.read(recipe_path) if recipe_path else Recipe()
    return recipe.with_cell(read_cell(cell_path)) if cell_path else recipe


def run_values(run: Run) -> dict[str, Any]:
    """What became of the frames of a run, for a program."""
    record = run.record
    return {
        "run": str(run.path), "status": record.status, "n_frames": record.n_frames, **asdict(run.counts),
        "reasons": run.reasons(),
    }  # fmt: skip


def print_run(run: Run) -> None:
    """The same for people."""
    print_facts({"run": str(run.path)} | run.summary())
    reasons = run.reasons()
    if reasons:
        print_table(("frames", "why not"), [(n, reason) for reason, n in reasons.items()], text=("why not",))
