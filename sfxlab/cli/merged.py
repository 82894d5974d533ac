"""`merge`: observations of runs and streams into merged intensities."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

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
from sfxlab.cli.workers import cluster_option, done_elsewhere
from sfxlab.errors import InputError, MergeError

if TYPE_CHECKING:
    from sfxlab.merging import Comparison, Merged, MergedSplits, ShellStatistics
    from sfxlab.merging.models import Model
    from sfxlab.store import Run

_MOST_REJECTED = 5

Column = tuple[str, str, float, int]
"""Heading, name in a shell, factor, digits."""
RANGE: tuple[Column, ...] = (("d max", "d_max", 1, 2), ("d min", "d_min", 1, 2))
MERIT: tuple[Column, ...] = (
    *RANGE, ("unique", "n_unique", 1, 0), ("compl. %", "completeness", 100, 1), ("mult.", "multiplicity", 1, 1),
    ("I/σ", "snr", 1, 1), ("CC1/2", "cc_half", 1, 4), ("from", "cc_half_low", 1, 4), ("to", "cc_half_high", 1, 4),
    ("CC*", "cc_star", 1, 4), ("Rsplit %", "rsplit", 100, 1),
)  # fmt: skip


def limits(command: Any) -> Any:
    """The options --highres and --lowres."""
    above_zero = click.FloatRange(0, min_open=True)
    command = click.option("--lowres", type=above_zero, metavar="D_MAX", help="Limit at low resolution, Å.")(command)
    return click.option("--highres", type=above_zero, metavar="D_MIN", help="Limit at high resolution, Å.")(command)


@click.command("merge")
@click.argument("inputs", metavar="RUN|STREAM...", nargs=-1, required=True, type=PATH)
@click.option("-y", "--symmetry", required=True, help="Point group: 4/mmm merges Friedel mates, 422 keeps them apart.")
@click.option(
    "--model", type=click.Choice(["none", "scaled", "partiality"]), default="scaled", show_default=True,
    help="Plain means; a scale and a B factor for each crystal; or partialities with post-refinement.",
)  # fmt: skip
@click.option(
    "-o", "--output", type=PATH, default=Path("merged.mtz"), show_default=True,
    help="MTZ or .hkl file.",
)  # fmt: skip
@click.option("-p", "--cell", "cell_path", type=PATH_OR_ADDRESS, help="Cell. [default: median of crystals]")
@click.option(
    "--tolerance", type=(click.FloatRange(0, min_open=True), click.FloatRange(0, min_open=True)), default=(5.0, 3.0),
    show_default=True, metavar="% DEGREES", help="By which cells of crystals may differ from it.",
)  # fmt: skip
@limits
@click.option(
    "--min-observations", default=2, show_default=True, type=click.IntRange(1), help="Of a reflection, to keep it."
)
@click.option("--polarisation", default="horiz", show_default=True, help="horiz, vert, none or <angle>deg<percent>.")
@click.option("--space-group", help="Written into the MTZ file. [default: the lowest of the point group]")
@click.option("--resolve-ambiguity", is_flag=True, help="Of indexing, by comparing crystals with each other.")
@click.option("--reference", type=PATH, help="Resolve it by MTZ, .hkl, PDB or mmCIF file.")
@click.option("--split", "labels_path", type=PATH, help="CSV file with columns path, event, label: one file a label.")
@click.option("--split-by", "column", metavar="COLUMN", help="Column of the table of frames: one file for each value.")
@click.option(
    "--memory", default=1024, show_default=True, type=click.IntRange(1), metavar="MiB",
    help="For observations; those of more go into scratch files in $TMPDIR.",
)  # fmt: skip
@cluster_option("Where to merge: ", None, " [default: in this process]")
@json_option
def merge_command(
    inputs: tuple[Path, ...],
    symmetry: str,
    model: str,
    output: Path,
    cell_path: Path | str | None,
    tolerance: tuple[float, float],
    highres: float | None,
    lowres: float | None,
    min_observations: int,
    polarisation: str,
    space_group: str | None,
    resolve_ambiguity: bool,
    reference: Path | None,
    labels_path: Path | None,
    column: str | None,
    memory: int,
    cluster: str | None,
    as_json: bool,
) -> None:
    """Merge runs or CrystFEL streams.

    All reflections of the runs and streams become one set of structure factors.

    The file is MTZ or, with the suffix .hkl, a CrystFEL reflection list. With --split or --split-by, all are scaled
    together, and there is a file for each label besides: merged-light.mtz. With --cluster, one worker with the
    resources of the profile's steps.merge does it.

    \b
    Examples:
      sfxlab merge run1 run2 -y 4/mmm -o merged.mtz
      sfxlab merge old.stream -y 422 --model none -o merged.hkl
      sfxlab merge run1 -y 422 --split light_and_dark.csv -o merged.mtz
      sfxlab merge run1 run2 -y 4/mmm -o merged.mtz --cluster maxwell
    """
    from sfxlab.cli.splits import path_of, show_splits
    from sfxlab.crystal import read_cell
    from sfxlab.merging import Merged, read_labels

    _check_output(output)
    if labels_path is not None and column is not None:
        raise click.UsageError("Give one of --split and --split-by.")
    labels = read_labels(labels_path) if labels_path else column
    options = {
        "cell": read_cell(cell_path) if cell_path else None, "d_min": highres, "d_max": lowres,
        "min_observations": min_observations, "polarisation": polarisation, "space_group": space_group,
        "length_tolerance": tolerance[0] / 100, "angle_tolerance": tolerance[1], "memory_limit": memory << 20,
        "labels": labels,
        "ambiguity": (reference and reference.absolute()) or ("auto" if resolve_ambiguity else None),
    }  # fmt: skip
    paths_there = [path.absolute() for path in inputs]
    if cluster is None:
        merged = _merged(paths_there, symmetry, model, options)
    else:
        merged = done_elsewhere(cluster, "merge", "merge", _merged, paths_there, symmetry, model, options)
    # Of a stream, the run that was made of it is gone.
    names = {"runs": [str(path.absolute()) for path in inputs]}
    if isinstance(merged, Merged):
        merged = replace(merged, history={**merged.history, **names})
        _write(merged, output)
        _show(merged, output, highres, lowres, as_json)
        return
    whole, paths = merged.whole, {label: path_of(output, label) for label in merged}
    for path in paths.values():
        _check_output(path)
    _write(replace(whole, history={**whole.history, **names}), output)
    for label, path in paths.items():
        _write(replace(merged[label], history={**merged[label].history, **names}), path)
    show_splits(merged, output, paths, highres, lowres, as_json)


def _merged(inputs: Sequence[Path], symmetry: str, model: str, options: dict[str, Any]) -> Merged | MergedSplits:
    """Here or on a worker."""
    from sfxlab.merging import merge

    with ExitStack() as stack:
        runs = [open_run_or_stream(path, stack) for path in inputs]
        merged: Merged | MergedSplits = merge(runs, symmetry, cast("Model", model), **options)
        return merged


def _write(merged: Merged, output: Path) -> None:
    (merged.to_mtz if output.suffix == ".mtz" else merged.to_hkl)(output)


def _check_output(output: Path) -> None:
    if not output.name.endswith((".mtz", ".hkl", ".hkl.gz")):
        raise MergeError(
            "unknown kind of output", path=output, found=output.suffix or "no suffix", expected=".mtz, .hkl or .hkl.gz"
        )
    check_output(output)


def open_run_or_stream(path: Path, stack: ExitStack) -> Run:
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
    if "indexing_ambiguity" in merged.history:
        facts["indexing ambiguity"] = _ambiguity(merged.history["indexing_ambiguity"])
    print_facts(facts)
    rejected = [(item["crystal"], item["reason"]) for item in crystals.get("rejected", ())]
    if rejected:
        columns = ("crystal", "why left out")
        more = [(f"… {len(rejected) - _MOST_REJECTED} more", "(all with --json)")]
        print_table(columns, rejected[:_MOST_REJECTED] + more * (len(rejected) > _MOST_REJECTED), text=columns)
    print_shells(statistics, MERIT, "figures of merit")


def _ambiguity(history: Any) -> str:
    if isinstance(history, str):
        return history + (" (see sfxlab ambiguity)" if history.startswith("left") else "")
    shares = ", ".join(f"{n} {name}" for name, n in history["operators"].items())
    return f"{shares}; {history['unresolved']} unresolved and left out"


def print_shells(table: ShellStatistics | Comparison, columns: Sequence[Column], title: str) -> None:
    """Figures of merit, one line a shell."""
    rows = [
        [fixed(factor * getattr(shell, name), digits) for _, name, factor, digits in columns]
        for shell in (*table.shells, table.overall)
    ]
    print_table([heading for heading, *_ in columns], rows, f"{title} by shell, all in the last line")
