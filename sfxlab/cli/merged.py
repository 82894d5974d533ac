"""`merge` and `stats`: merged intensities."""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sfxlab.cli.output import json_option, print_facts, print_json, print_table
from sfxlab.errors import MergeError, OutputExistsError

if TYPE_CHECKING:
    from sfxlab.crystal import UnitCell
    from sfxlab.merging import Merged
    from sfxlab.store import Run

_resolution_options = [
    click.option("--highres", type=click.FloatRange(0, min_open=True), help="Limit of resolution, Å."),
    click.option("--lowres", type=click.FloatRange(0, min_open=True), help="Limit at low resolution, Å."),
]


def _limits(command: Any) -> Any:
    for option in reversed(_resolution_options):
        command = option(command)
    return command


@click.command("merge")
@click.argument("inputs", metavar="RUN|STREAM...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-y", "--symmetry", required=True, help="Point group: 4/mmm merges Friedel mates, 422 keeps them apart.")
@click.option("--model", type=click.Choice(["none", "scaled"]), default="scaled", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("merged.mtz"), show_default=True)
@click.option("-p", "--cell", "cell_path", type=click.Path(path_type=Path), help="Cell. [default: median of crystals]")
@_limits
@click.option("--min-observations", default=2, show_default=True, type=click.IntRange(1))
@click.option("--polarisation", default="horiz", show_default=True, help="horiz, vert, none or <angle>deg<percent>.")
@click.option("--space-group", help="Written into the MTZ file. [default: the lowest of the point group]")
@json_option
def merge_command(
    inputs: tuple[Path, ...],
    symmetry: str,
    model: str,
    output: Path,
    cell_path: Path | None,
    highres: float | None,
    lowres: float | None,
    min_observations: int,
    polarisation: str,
    space_group: str | None,
    as_json: bool,
) -> None:
    """Merge the reflections of runs or CrystFEL streams into one set of structure factors.

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
    (merged.to_hkl if output.suffix == ".hkl" else merged.to_mtz)(output)
    _show(merged, output, highres, lowres, as_json)


def _check_output(output: Path) -> None:
    if output.suffix not in (".mtz", ".hkl"):
        raise MergeError(
            "unknown kind of output", path=output, found=output.suffix or "no suffix", expected=".mtz or .hkl"
        )
    if output.exists():
        raise OutputExistsError("the output is already there", path=output, remedy="remove it or give another -o")


def _open(path: Path, stack: ExitStack) -> Run:
    """A run, or a stream as a run that is forgotten afterwards."""
    from sfxlab.store import Run, import_stream

    if path.is_dir():
        return Run(path)
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
    for rejected in crystals.get("rejected", ())[:5]:
        facts[f"left out: {rejected['crystal']}"] = rejected["reason"]
    if len(crystals.get("rejected", ())) > 5:
        facts["left out: others"] = f"{len(crystals['rejected']) - 5} (all with --json)"
    print_facts(facts)
    print_shells(statistics)


def print_shells(statistics: Any) -> None:
    """The table of figures of merit."""
    columns = ("d max", "d min", "unique", "compl. %", "mult.", "I/σ", "CC1/2", "CC*", "Rsplit %")
    rows = [
        (
            shell.d_max, shell.d_min, shell.n_unique, f"{100 * shell.completeness:.1f}", f"{shell.multiplicity:.1f}",
            f"{shell.snr:.1f}", f"{shell.cc_half:.4f}", f"{shell.cc_star:.4f}", f"{100 * shell.rsplit:.1f}",
        )
        for shell in (*statistics.shells, statistics.overall)
    ]  # fmt: skip
    print_table(columns, rows, "figures of merit by shell, all in the last line")


@click.command("stats")
@click.argument("merged_path", metavar="MERGED", type=click.Path(path_type=Path))
@click.option("--reference", type=click.Path(path_type=Path), help="Compare with these, .mtz or .hkl.")
@click.option("-p", "--cell", "cell_path", type=click.Path(path_type=Path), help="Cell, for .hkl files.")
@click.option("--shells", default=10, show_default=True, type=click.IntRange(1), help="Number of shells.")
@_limits
@json_option
def stats_command(
    merged_path: Path,
    reference: Path | None,
    cell_path: Path | None,
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
    print_shells(statistics)
    if comparison is not None:
        columns = ("d max", "d min", "common", "CC", "R1(I) %", "R1(F) %")
        print_table(
            columns,
            [
                (s.d_max, s.d_min, s.n_common, f"{s.cc:.4f}", f"{100 * s.r1i:.1f}", f"{100 * s.r1f:.1f}")
                for s in (*comparison.shells, comparison.overall)
            ],
            f"agreement with {reference}, all in the last line",
        )
