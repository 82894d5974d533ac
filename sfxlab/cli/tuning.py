"""`peaks --tune`: parameters of the peak search, tried on a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import Progress

from sfxlab.cli.output import PATH, PATH_OR_ADDRESS, check_output, fixed, print_facts, print_json, print_table
from sfxlab.cli.workers import cluster_options, workers_of
from sfxlab.errors import RecipeError

if TYPE_CHECKING:
    from sfxlab.frames import FrameSource
    from sfxlab.recipe import Recipe
    from sfxlab.tuning import Proposal

_ROWS_SHOWN = 12
_COLUMNS = (
    ("hits %", "hits", 100, 1), ("false hits %", "false_hits", 100, 1), ("indexed hits %", "indexed_hits", 100, 1),
    ("lattices/100", "lattices", 100, 1), ("log10 p", "log10_p", 1, 0), ("on lattices", "explained", 1, 0),
    ("off", "unexplained", 1, 1), ("ms", "milliseconds", 1, 1),
)  # fmt: skip
"""Heading, name in the table of a sweep, factor, digits."""

_OPTIONS = (
    click.option("--tune", is_flag=True, help="Try parameters on a sample and propose a recipe."),
    click.option("-p", "--cell", "cell_path", type=PATH_OR_ADDRESS, help="With --tune: cell to judge by."),
    click.option("-o", "--output", type=PATH, help="With --tune: write the proposed recipe, TOML."),
    click.option(
        "--vary", multiple=True, metavar="NAME=VALUE,…",
        help="With --tune: a parameter and values to try; may be repeated. [default: those that matter most]",
    ),
    click.option("--sample", "n_hits", type=click.IntRange(1), help="With --tune: hits to try on. [default: 100]"),
    click.option("--png", type=PATH, help="With --tune: draw a heat map of the first two parameters."),
    click.option("--table", type=PATH, help="With --tune: write all results, .csv or .parquet."),
    cluster_options("With --tune: ", default=None),
)  # fmt: skip
_NAMES = {
    "cell_path": "-p", "output": "-o", "vary": "--vary", "n_hits": "--sample", "png": "--png", "table": "--table",
    "cluster": "--cluster", "workers": "--workers",
}  # fmt: skip


def tuning_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of `--tune`; the command hands them to `tune_peaks`, or to `refuse_without_tune`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def refuse_without_tune(options: dict[str, Any]) -> None:
    """These options mean nothing without `--tune`."""
    for name, option in _NAMES.items():
        if options[name] not in (None, ()):
            raise click.UsageError(f"{option} goes with --tune")


def tune_peaks(
    source: FrameSource,
    recipe: Recipe,
    *,
    cell_path: Path | str | None,
    output: Path | None,
    vary: tuple[str, ...],
    n_hits: int | None,
    png: Path | None,
    table: Path | None,
    cluster: str | None,
    workers: int | None,
    as_json: bool,
) -> None:
    """Try parameters on a sample of frames, print what they do, and write what was asked for."""
    from sfxlab.crystal import read_cell
    from sfxlab.tuning import heat_map, propose, sweep
    from sfxlab.whole_files import written_whole

    for path in filter(None, (output, png, table)):
        check_output(path)
    judge = recipe.with_cell(read_cell(cell_path)) if cell_path else recipe
    grid = _grid(vary) or None
    with workers_of(cluster, workers, "tune") as client, _bar() as report:
        result = sweep(source, judge, grid, client, hits=n_hits or 100, progress=report)
    proposal = propose(result)
    if output is not None:
        # The cell stays out unless the recipe came with one: the next sample may have another.
        proposed = proposal.recipe.model_copy(update={"indexing": recipe.indexing})
        with written_whole(output) as file:
            file.write(proposed.to_toml().encode())
    if png is not None:
        with written_whole(png) as file:
            file.write(heat_map(result, proposal=proposal))
    if table is not None:
        result.save(table)
    print_json(_values(proposal)) if as_json else _print(proposal, output)


def _grid(texts: tuple[str, ...]) -> dict[str, tuple[Any, ...]]:
    """A grid from texts such as `min_snr=5,6.5,8`. Raises `RecipeError`."""
    grid: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        name = name.strip()
        if not (name and values) or name in grid:
            raise RecipeError("these are no values to try", found=text, expected="NAME=VALUE,VALUE,… once for a name")
        grid[name] = tuple(_value(value.strip()) for value in values.split(","))
    return grid


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def _values(proposal: Proposal) -> dict[str, Any]:
    result, gain = proposal.sweep, proposal.lattices
    return {
        "frames": len(result.sample.numbers), "looked_at": result.sample.looked_at, "failed": result.failed,
        "is_better": proposal.is_better, "changes": {name: after for name, (_, after) in proposal.changes.items()},
        "lattices": {"before": gain.before, "gain": gain.value, "low": gain.low, "high": gain.high},
        "settings": result.table.to_pylist(), "start": result.start, "proposed": proposal.setting,
    }  # fmt: skip


def _print(proposal: Proposal, output: Path | None) -> None:
    from sfxlab.tuning import ranking

    result = proposal.sweep
    rows = result.table.to_pylist()
    marks = {result.start: "recipe", proposal.setting: "proposed" if proposal.is_better else "recipe"}
    order = ranking(result)
    shown = [*order[:_ROWS_SHOWN], *(i for i in order[_ROWS_SHOWN:] if i in marks)]
    print_table(
        ("", *result.grid, *(heading for heading, *_ in _COLUMNS)),
        [(marks.get(i, ""), *_row(rows[i], result.grid)) for i in shown],
        f"The best of {len(rows)} settings" if len(shown) < len(rows) else "Settings, the best first",
        text=("",),
    )
    if result.failed:
        print_table(("frame", "why it failed"), result.failed.items(), text=("why it failed",))
    sample = f"{len(result.sample.numbers)} of {result.sample.looked_at} frames looked at"
    facts = {"sample": sample, "failed": len(result.failed)}
    print_facts(facts | (proposal.facts() if proposal.is_better else {}))
    if not proposal.is_better:
        click.echo(str(proposal))
    if output is not None:
        click.echo(f"{output} holds the {'proposed recipe' if proposal.is_better else 'recipe as it was'}.")


def _row(row: dict[str, Any], names: Iterable[str]) -> list[object]:
    values = [f"{row[name]:g}" if isinstance(row[name], float) else row[name] for name in names]
    return [*values, *(fixed(factor * row[name], digits) for _, name, factor, digits in _COLUMNS)]


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error, where that is a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", visible=False)
        yield lambda stage, done, total: bar.update(
            task, description=stage, completed=done, total=total, visible=True
        )  # fmt: skip
