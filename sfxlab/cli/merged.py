"""`merge` and `stats`: merged intensities."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sfxlab.cli.output import (
    PATH,
    PATH_OR_ADDRESS,
    check_output,
    fixed,
    json_option,
    print_facts,
    print_json,
    print_table,
)
from sfxlab.errors import InputError, MergeError

if TYPE_CHECKING:
    from sfxlab.crystal import UnitCell
    from sfxlab.merging import Comparison, Merged, ShellStatistics
    from sfxlab.store import Run

_MOST_REJECTED = 5

_Column = tuple[str, str, float, int]
"""Heading, name in a shell, factor, digits."""
_RANGE: tuple[_Column, ...] = (("d max", "d_max", 1, 2), ("d min", "d_min", 1, 2))
_MERIT: tuple[_Column, ...] = (
    *_RANGE, ("unique", "n_unique", 1, 0), ("compl. %", "completeness", 100, 1), ("mult.", "multiplicity", 1, 1),
    ("I/σ", "snr", 1, 1), ("CC1/2", "cc_half", 1, 4), ("CC*", "cc_star", 1, 4), ("Rsplit %", "rsplit", 100, 1),
)  # fmt: skip
_AGREEMENT: tuple[_Column, ...] = (
    *_RANGE, ("common", "n_common", 1, 0), ("CC", "cc", 1, 4), ("R1(I) %", "r1i", 100, 1), ("R1(F) %", "r1f", 100, 1),
)  # fmt: skip


def _limits(command: Any) -> Any:
    above_zero = click.FloatRange(0, min_open=True)
    command = click.option("--lowres", type=above_zero, metavar="D_MAX", help="Limit at low resolution, Å.")(command)
    return click.option("--highres", type=above_zero, metavar="D_MIN", help="Limit at high resolution, Å.")(command)


@click.command("merge")
@click.argument("inputs", metavar="RUN|STREAM...", nargs=-1, required=True, type=PATH)
@click.option("-y", "--symmetry", required=True, help="Point group: 4/mmm merges Friedel mates, 422 keeps them apart.")
@click.option(
    "--model", type=click.Choice(["none", "scaled"]), default="scaled", show_default=True,
    help="Plain means, or a scale and a B factor for each crystal.",
)  # fmt: skip
@click.option(
    "-o", "--output", type=PATH, default=Path("merged.mtz"), show_default=True,
    help="MTZ or .hkl file.",
)  # fmt: skip
@click.option("-p", "--cell", "cell_path", type=PATH_OR_ADDRESS, help="Cell. [default: median of crystals]")
@_limits
@click.option(
    "--min-observations", default=2, show_default=True, type=click.IntRange(1), help="Of a reflection, to keep it."
)
@click.option("--polarisation", default="horiz", show_default=True, help="horiz, vert, none or <angle>deg<percent>.")
@click.option("--space-group", help="Written into the MTZ file. [default: the lowest of the point group]")
@json_option
def merge_command(
    inputs: tuple[Path, ...],
    symmetry: str,
    model: str,
    output: Path,
    cell_path: Path | str | None,
    highres: float | None,
    lowres: float | None,
    min_observations: int,
    polarisation: str,
    space_group: str | None,
    as_json: bool,
) -> None:
    """Merge runs or CrystFEL streams.

    All reflections of the runs and streams become one set of structure factors.

    The file is MTZ or, with the suffix .hkl, a CrystFEL reflection list.

    \b
    Examples:
      sfxlab merge run1 run2 -y 4/mmm -o merged.mtz
      sfxlab merge old.stream -y 422 --model none -o merged.hkl
    """
    from sfxlab.crystal import read_cell
    from sfxlab.merging import merge

    _check_output(output)
    with ExitStack() as stack:
        runs = [_open(path, stack) for path in inputs]
        merged = merge(
            runs, symmetry, model,  # type: ignore[arg-type]
            cell=read_cell(cell_path) if cell_path else None, d_min=highres, d_max=lowres,
            min_observations=min_observations, polarisation=polarisation, space_group=space_group,
        )  # fmt: skip
    # Of a stream, the run that was made of it is gone.
    merged = replace(merged, history={**merged.history, "runs": [str(path.absolute()) for path in inputs]})
    (merged.to_mtz if output.suffix == ".mtz" else merged.to_hkl)(output)
    _show(merged, output, highres, lowres, as_json)


def _check_output(output: Path) -> None:
    if not output.name.endswith((".mtz", ".hkl", ".hkl.gz")):
        raise MergeError(
            "unknown kind of output", path=output, found=output.suffix or "no suffix", expected=".mtz, .hkl or .hkl.gz"
        )
    check_output(output)


def _open(path: Path, stack: ExitStack) -> Run:
    """A run, or a stream as a run that is forgotten afterwards."""
    from sfxlab.store import Run, import_stream

    if path.is_dir():
        return Run(path)
    if not path.exists():
        raise InputError("there is no such run or stream", path=path, remedy="check the path")
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sfxlab-merge-"))
    return import_stream(path, Path(folder) / "run", sys.argv)


def _show(merged: Merged, path: Path, highres: float | None, lowres: float | None, as_json: bool) -> None:
    statistics = merged.statistics(d_min=highres, d_max=lowres)
    crystals = merged.history.get("crystals", {})
    if as_json:
        print_json({"file": str(path), "history": merged.history, "shells": statistics.to_rows()})
        return
    facts: dict[str, object] = {"file": str(path), "point group": merged.point_group.name, "cell": str(merged.cell)}
    if crystals:
        facts["crystals"] = f"{crystals['used']} of {crystals['given']}"
    print_facts(facts)
    rejected = [(item["crystal"], item["reason"]) for item in crystals.get("rejected", ())]
    if rejected:
        columns = ("crystal", "why left out")
        more = [(f"… {len(rejected) - _MOST_REJECTED} more", "(all with --json)")]
        print_table(columns, rejected[:_MOST_REJECTED] + more * (len(rejected) > _MOST_REJECTED), text=columns)
    print_shells(statistics, _MERIT, "figures of merit")


def print_shells(table: ShellStatistics | Comparison, columns: Sequence[_Column], title: str) -> None:
    """Figures of merit, one line a shell."""
    rows = [
        [fixed(factor * getattr(shell, name), digits) for _, name, factor, digits in columns]
        for shell in (*table.shells, table.overall)
    ]
    print_table([heading for heading, *_ in columns], rows, f"{title} by shell, all in the last line")


@click.command("stats")
@click.argument("merged_path", metavar="MERGED", type=PATH)
@click.option("--reference", type=PATH, help="Compare with these, .mtz or .hkl.")
@click.option("-p", "--cell", "cell_path", type=PATH_OR_ADDRESS, help="Cell, for .hkl files.")
@click.option("--shells", default=10, show_default=True, type=click.IntRange(1), help="Number of shells.")
@_limits
@json_option
def stats_command(
    merged_path: Path,
    reference: Path | None,
    cell_path: Path | str | None,
    shells: int,
    highres: float | None,
    lowres: float | None,
    as_json: bool,
) -> None:
    """Figures of merit by resolution, and agreement with a reference.

    \b
    Example:
      sfxlab stats merged.mtz --reference other.mtz
    """
    from sfxlab.crystal import read_cell
    from sfxlab.merging import compare, read_merged

    cell: UnitCell | None = read_cell(cell_path) if cell_path else None
    merged = read_merged(merged_path, cell=cell)
    statistics = merged.statistics(shells, highres, lowres)
    comparison = None
    if reference is not None:
        other = read_merged(reference, cell=cell or merged.cell)
        comparison = compare(merged, other, shells, highres, lowres)
    if as_json:
        print_json({"shells": statistics.to_rows(), "comparison": comparison.to_rows() if comparison else None})
        return
    print_shells(statistics, _MERIT, "figures of merit")
    if comparison is not None:
        print_shells(comparison, _AGREEMENT, f"agreement with {reference}")
