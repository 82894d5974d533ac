"""`process`: runs."""

from __future__ import annotations

import sys
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
from sfxlab.cli.workers import cluster_options, workers_of
from sfxlab.errors import RunError

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
@cluster_options()
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
    from sfxlab.frames import open_frames
    from sfxlab.processing import process
    from sfxlab.store import Run

    recipe = _recipe(recipe_path, cell_path)
    if method:
        recipe = recipe.changed(indexing={"method": method})
    if find_cell and recipe.cell is not None:
        raise click.UsageError("--find-cell is for frames without a unit cell; one is given already.")
    if not resume:
        Run.require_startable(output)
    elif output.exists() and (Run(output).missing_chunks() or Run(output).frames_to_try_again()):
        click.echo(f"{output}: {Run(output).missing()}", err=True)
    frames = open_frames(inputs, geometry)
    options: dict[str, Any] = {
        "resume": resume, "chunk_size": chunk_size, "inputs": inputs, "command": sys.argv,
    }  # fmt: skip
    try:
        run = None if find_cell else _attached(frames, recipe, output, options)
        if run is None:
            with workers_of(cluster, workers, "index", wait=False) as client:
                if find_cell:
                    recipe = recipe.with_cell(_found_cell(frames, recipe, client, output))
                run = process(frames, recipe, client, output, **options)
    except KeyboardInterrupt:
        if not output.exists():
            raise
        raise click.ClickException(left(Run(output))) from None
    print_json(run_values(run)) if as_json else print_run(run)


def _attached(frames: FrameSource, recipe: Recipe, output: Path, options: dict[str, Any]) -> Run | None:
    """The run once the process that writes it has ended; None where there is something left to do for workers."""
    from sfxlab.processing import process
    from sfxlab.store import Run

    if not output.exists() or Run(output).writer is None:
        return None
    try:
        return process(frames, recipe, None, output, **options | {"resume": False})
    except RunError:
        if not options["resume"]:
            raise
    return None


def left(run: Run) -> str:
    """What to say to whoever ended the command."""
    if run.writer is not None:
        return f"left; {run.path} goes on being written by {run.writer}"
    return f"interrupted; {run.missing()} in {run.path}: go on with the same command and --resume"


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
