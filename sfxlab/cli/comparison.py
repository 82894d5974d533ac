"""`rerun` and `compare`: a run made anew, and two runs side by side."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sfxlab.cli.output import PATH, check_output, json_option, print_facts, print_json, print_table
from sfxlab.cli.workers import cluster_options, workers_of

if TYPE_CHECKING:
    from sfxlab.comparison import RunComparison

_SHOWN = 20
"""Frames of each state, unless all are asked for."""
_WIDEST = 60
"""Letters of a value."""


@click.command("rerun")
@click.argument("before", metavar="RUN", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the new run.")
@click.option("--input", "inputs", multiple=True, help="Where the frames are now, if they were moved. May be repeated.")
@cluster_options()
@click.option("--resume", is_flag=True, help="Do what is missing of a new run that is there already.")
@json_option
def rerun_command(
    before: Path,
    output: Path,
    inputs: tuple[str, ...],
    cluster: str,
    workers: int | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Process a run anew, as its run.json says.

    The same frames with the same recipe and geometry give the same tables. Where files have changed it says which, and
    does nothing; where versions of programs have, it says so and goes on.

    \b
    Examples:
      sfxlab rerun run1 -o again
      sfxlab rerun run1/run.json -o again --input '/new/disk/*.cxi'
    """
    from sfxlab.cli.runs import left, print_run, run_values
    from sfxlab.processing import rerun
    from sfxlab.store import Run

    run = Run(before.parent if before.name == "run.json" else before)
    if not resume:
        Run.require_startable(output)
    try:
        with workers_of(cluster, workers, "index", wait=False) as client:
            new = rerun(run, output, client, inputs=inputs or None, resume=resume, command=sys.argv)
    except KeyboardInterrupt:
        if not output.exists():
            raise
        raise click.ClickException(left(Run(output))) from None
    print_json(run_values(new)) if as_json else print_run(new)


@click.command("compare")
@click.argument("before", metavar="RUN_A", type=PATH)
@click.argument("after", metavar="RUN_B", type=PATH)
@click.option(
    "--rotation", default=0.1, show_default=True, type=click.FloatRange(0), metavar="DEGREES",
    help="A lattice that is turned by more has moved.",
)  # fmt: skip
@click.option(
    "--strain", default=0.5, show_default=True, type=click.FloatRange(0), metavar="%",
    help="So has one whose cell changed by more along any direction.",
)  # fmt: skip
@click.option("--all", "every", is_flag=True, help=f"List all frames that changed, not only {_SHOWN} of a kind.")
@click.option("--table", "csv", type=PATH, help="CSV file for all frames.")
@json_option
def compare_command(
    before: Path, after: Path, rotation: float, strain: float, every: bool, csv: Path | None, as_json: bool
) -> None:
    """Compare two runs frame by frame.

    A frame has gained where RUN_B has more lattices in it, or makes more of it, and lost the other way round; it has
    moved where it has as many lattices in other orientations. What differs in recipe, input and versions comes first.

    \b
    Examples:
      sfxlab compare run1 run2
      sfxlab compare run1 run2 --all --table changed.csv
    """
    from sfxlab.comparison import compare_runs
    from sfxlab.store import Run

    if csv is not None:
        check_output(csv)
    found = compare_runs(Run(before), Run(after), rotation=rotation, strain=strain / 100)
    if csv is not None:
        _write_csv(found, csv)
    if as_json:
        print_json(_values(found))
    else:
        _show(found, every)


def _show(found: RunComparison, every: bool) -> None:
    a, b = found.before, found.after
    for name, table in (("recipe", found.recipe_differences), ("versions", found.version_differences)):
        if table:
            rows = [(key, _short(was), _short(now)) for key, (was, now) in table.items()]
            columns = ("parameter" if name == "recipe" else "program", a.path.name, b.path.name)
            print_table(columns, rows, f"Other {name}", text=columns)
    if found.input_differences:
        print_table(("input",), [(line,) for line in found.input_differences], "Other input", text=("input",))
    print_table(("", a.path.name, b.path.name), _totals(found), "All frames", text=("",))
    differing = found.differing_columns
    print_facts({"frames": found, "tables": _columns(differing) if differing else "the same to the last bit"})
    for state in ("gained", "lost", "moved"):
        _show_frames(found, state, every)


def _totals(found: RunComparison) -> Iterator[tuple[object, ...]]:
    counts = found.before.counts, found.after.counts
    for name in ("frames", "hits", "indexed", "lattices", "failed"):
        yield name, *(f"{getattr(one, name):,}" for one in counts)


def _columns(columns: Iterable[str]) -> str:
    tables: dict[str, list[str]] = {}
    for name in columns:
        table, _, column = name.partition(".")
        tables.setdefault(table, []).append(column)
    # The first column is the number of the frame.
    parts = (f"{table} ({'other rows' if 'frame' in names else ', '.join(names)})" for table, names in tables.items())
    return f"they differ in {', '.join(parts)}"


def _show_frames(found: RunComparison, state: Any, every: bool) -> None:
    frames = found.of_state(state)
    rows = frames.to_pylist() if every else frames.slice(0, _SHOWN).to_pylist()
    if not rows:
        return
    columns = ("frame", "name", "before", "after", "turned °", "strain %", "why")
    lines: list[tuple[object, ...]] = [
        (
            row["frame"], f"{Path(row['path']).name} {row['event']}".rstrip(),
            _became(row, "before"), _became(row, "after"), _number(row["rotation"], 3), _number(row["strain"] * 100, 2),
            (row["reason_after"] if state == "lost" else row["reason_before"]).split("\n")[0],
        )
        for row in rows
    ]  # fmt: skip
    if len(frames) > len(rows):
        lines.append(("…", f"{len(frames) - len(rows):,} more", "", "", "", "", "(--all, --table or --json)"))
    print_table(columns, lines, f"{state.capitalize()}: {len(frames):,}", text=("name", "before", "after", "why"))


def _became(row: dict[str, Any], when: str) -> str:
    status, lattices = row[f"status_{when}"], row[f"lattices_{when}"]
    several = max(row["lattices_before"], row["lattices_after"]) > 1
    return f"{status}, {lattices} lattice{'s' * (lattices != 1)}" if several and lattices else str(status)


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if value == value else ""


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= _WIDEST else f"{text[:_WIDEST]}…"


def _values(found: RunComparison) -> dict[str, Any]:
    changed = [row for state in ("gained", "lost", "moved") for row in found.of_state(state).to_pylist()]
    return {
        "before": str(found.before.path), "after": str(found.after.path), "counts": found.counts,
        "recipe_differences": found.recipe_differences, "input_differences": found.input_differences,
        "version_differences": found.version_differences, "identical": found.is_identical,
        "differing_columns": found.differing_columns, "changed": changed,
        "only_before": found.only_before.to_pylist(), "only_after": found.only_after.to_pylist(),
    }  # fmt: skip


def _write_csv(found: RunComparison, path: Path) -> None:
    import pyarrow.csv as arrow_csv

    from sfxlab.whole_files import written_whole

    with written_whole(path) as file:
        arrow_csv.write_csv(found.frames, file)
