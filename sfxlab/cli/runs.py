"""`process` and `cells`: runs."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sfxlab.cli.output import PATH, check_output, fixed, json_option, print_facts, print_json, print_table
from sfxlab.errors import CellError

if TYPE_CHECKING:
    from sfxlab.crystal.distribution import CellDistribution
    from sfxlab.recipe import Recipe
    from sfxlab.store import Run


@click.command("process")
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option("-g", "--geometry", type=PATH, help="CrystFEL geometry file.")
@click.option("-p", "--cell", "cell_path", type=PATH, help="Unit cell: .cell, PDB or MTZ.")
@click.option("--recipe", "recipe_path", type=PATH, help="Parameters, TOML.")
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the run.")
@click.option("--cluster", default="local", show_default=True, help="local, or tcp://HOST:PORT of a Dask scheduler.")
@click.option("--workers", type=click.IntRange(0), help="Processes on this machine; 0: this one only. [default: cores]")
@click.option("--resume", is_flag=True, help="Do what is missing of a run that is there already.")
@click.option("--chunk-size", type=click.IntRange(1), help="Frames in a task. [default: by the number of frames]")
@json_option
def process_command(
    inputs: tuple[str, ...],
    geometry: Path | None,
    cell_path: Path | None,
    recipe_path: Path | None,
    output: Path,
    cluster: str,
    workers: int | None,
    resume: bool,
    chunk_size: int | None,
    as_json: bool,
) -> None:
    """Find hits, index and integrate them, and write a run.

    INPUT is a file, a glob, a directory or a .lst list of frames.

    \b
    Examples:
      sfxlab process data.cxi -g data.geom -p lysozyme.cell -o run1
      sfxlab process 'r0042/*.h5' -g jf.geom -p my.cell -o run2 --workers 8
    """
    from sfxlab.cluster import connect
    from sfxlab.frames import open_frames
    from sfxlab.processing import process
    from sfxlab.store import Run

    recipe = _recipe(recipe_path, cell_path)
    if not resume:
        Run.require_absent(output)
    frames = open_frames(inputs, geometry)
    options: dict[str, Any] = {
        "resume": resume, "chunk_size": chunk_size, "inputs": inputs, "command": sys.argv,
    }  # fmt: skip
    try:
        if cluster == "local" and workers == 0:
            run = process(frames, recipe, None, output, **options)
        else:
            with connect(cluster, workers) as client:
                run = process(frames, recipe, client, output, **options)
    except KeyboardInterrupt:
        if not output.exists():
            raise
        raise click.ClickException(
            f"interrupted; what is done is in {output}: go on with the same command and --resume"
        ) from None
    print_json(run_values(run)) if as_json else print_run(run)


def _recipe(recipe_path: Path | None, cell_path: Path | None) -> Recipe:
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


@click.command("cells")
@click.argument("run_path", metavar="RUN", type=PATH)
@click.option("-o", "--output", type=PATH, help="Write the mean cell as a .cell file.")
@json_option
def cells_command(run_path: Path, output: Path | None, as_json: bool) -> None:
    """Statistics of the unit cells of a run.

    \b
    Example:
      sfxlab cells run1 -o better.cell
    """
    from sfxlab.crystal import write_cell
    from sfxlab.crystal.distribution import PARAMETERS
    from sfxlab.store import Run

    if output is not None:
        check_output(output)
    groups = _cell_groups(Run(run_path))
    if output is not None:
        write_cell(groups[0].cell, output)
    if as_json:
        print_json([
            {
                "lattice_type": group.cell.lattice_type, "centring": group.cell.centring, "crystals": group.n_crystals,
                "typical": group.n_typical, "mean": group.cell.parameters, "median": group.median,
                "deviation": group.deviation,
            }
            for group in groups
        ])  # fmt: skip
        return
    for group in groups:
        kind = f"{group.cell.lattice_type} {group.cell.centring}"
        title = f"{kind}: {group.n_crystals} crystals, {group.n_typical} of them typical"
        rows = [
            (name, *(fixed(value, 3) for value in values))
            for name, *values in zip(PARAMETERS, group.cell.parameters, group.median, group.deviation, strict=True)
        ]
        print_table(("", "mean", "median", "deviation"), rows, title)


def _cell_groups(run: Run) -> list[CellDistribution]:
    """Distributions of the cells by lattice type, centring and unique axis, the most frequent first."""
    import numpy as np

    from sfxlab.crystal import UnitCell
    from sfxlab.crystal.distribution import PARAMETERS, cell_distribution

    crystals = run.crystals.to_pydict()
    kinds = list(zip(crystals["lattice_type"], crystals["centring"], crystals["unique_axis"], strict=True))
    if not kinds:
        raise CellError("no crystal in this run", path=run.path, remedy="see why: sfxlab report RUN -o report.html")
    parameters = np.array([crystals[name] for name in PARAMETERS]).T
    groups = []
    for kind, _ in Counter(kinds).most_common():
        of_kind = parameters[[other == kind for other in kinds]]
        a, b, c, alpha, beta, gamma = of_kind[0].tolist()
        groups.append(cell_distribution(of_kind, UnitCell(a, b, c, alpha, beta, gamma, *kind)))
    return groups
