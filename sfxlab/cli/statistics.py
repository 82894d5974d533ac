"""`stats`: how good merged intensities are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sfxlab.cli.merged import MERIT, RANGE, Column, limits, print_shells
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
from sfxlab.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sfxlab.crystal import UnitCell
    from sfxlab.merging import Merged
    from sfxlab.merging.anisotropy import Direction
    from sfxlab.merging.cutoffs import Cutoff
    from sfxlab.merging.distribution import TwinTest, WilsonPlot
    from sfxlab.merging.table_one import RunFacts

_AGREEMENT: tuple[Column, ...] = (
    *RANGE, ("common", "n_common", 1, 0), ("CC", "cc", 1, 4), ("R1(I) %", "r1i", 100, 1), ("R1(F) %", "r1f", 100, 1),
    ("R2 %", "r2", 100, 1),
)  # fmt: skip
_MEASUREMENTS: tuple[Column, ...] = (
    *RANGE, ("measured", "n_measurements", 1, 0), ("mult. 5 %", "multiplicity_5", 1, 0),
    ("median", "multiplicity_50", 1, 0), ("95 %", "multiplicity_95", 1, 0), ("Rmerge %", "r_merge", 100, 1),
    ("Rmeas %", "r_meas", 100, 1), ("Rpim %", "r_pim", 100, 1), ("⟨I²⟩/⟨I⟩²", "second_moment", 1, 2),
)  # fmt: skip
_ERRORS: tuple[Column, ...] = (
    *RANGE, ("pairs", "n_pairs", 1, 0), ("CC1/2 σ-τ", "cc_half_sigma_tau", 1, 4), ("within 1σ %", "d1sig", 100, 1),
    ("within 2σ %", "d2sig", 100, 1), ("Δ/σ", "error_ratio", 1, 2),
)  # fmt: skip
_ANOMALOUS: tuple[Column, ...] = (
    *RANGE, ("CCano", "cc_ano", 1, 4), ("CRDano", "crd_ano", 1, 3), ("Rano %", "r_ano", 100, 1),
    ("Rano/Rsplit", "r_ano_over_rsplit", 1, 2),
)  # fmt: skip


@click.command("stats")
@click.argument("merged_path", metavar="MERGED", type=PATH)
@click.option("--reference", type=PATH, help="Compare with these: MTZ, .hkl, or a model as PDB or mmCIF.")
@click.option("-p", "--cell", "cell_path", type=PATH_OR_ADDRESS, help="Cell, for .hkl files.")
@click.option("--shells", default=10, show_default=True, type=click.IntRange(1), help="Number of shells.")
@limits
@click.option("--run", "run_paths", type=PATH, multiple=True, help="Run that was merged, for --table; repeatable.")
@click.option("--table", "table_path", type=PATH, help="Write Table 1: .txt, .csv or .cif.")
@json_option
def stats_command(
    merged_path: Path,
    reference: Path | None,
    cell_path: Path | str | None,
    shells: int,
    highres: float | None,
    lowres: float | None,
    run_paths: tuple[Path, ...],
    table_path: Path | None,
    as_json: bool,
) -> None:
    """Figures of merit by resolution, and agreement with a reference.

    Besides: how often reflections were measured, how well the errors suit the differences of half data sets, how far
    the data reach along each axis, anomalous differences where Friedel mates are apart, the Wilson B factor, a test for
    twins, and where the usual rules would cut the data off.

    \b
    Examples:
      sfxlab stats merged.mtz --reference other.mtz
      sfxlab stats merged.mtz --run run1 --run run2 --table table1.csv
    """
    from sfxlab.crystal import read_cell
    from sfxlab.merging import compare, read_merged
    from sfxlab.merging.anisotropy import directions
    from sfxlab.merging.comparison import read_comparable
    from sfxlab.merging.cutoffs import resolution_cutoffs, to_rows
    from sfxlab.merging.distribution import twin_test, wilson_plot

    if table_path is not None:
        _check_table(table_path)
    cell: UnitCell | None = read_cell(cell_path) if cell_path else None
    merged = read_merged(merged_path, cell=cell)
    statistics = merged.statistics(shells, highres, lowres)
    comparison = None
    if reference is not None:
        other = read_comparable(reference, merged)
        comparison = compare(merged, other, shells, highres, lowres)
    wilson, twins = wilson_plot(merged, highres, lowres), twin_test(merged, highres, lowres)
    cutoffs, along = resolution_cutoffs(statistics), directions(merged, shells, highres, lowres)
    if table_path is not None:
        _write_table(merged, table_path, facts_of_runs(run_paths), highres, lowres)
    if as_json:
        rows = {"shells": statistics.to_rows(), "comparison": comparison.to_rows() if comparison else None}
        by_direction = {d.name: {"limit": d.limit.d_min, "shells": d.to_rows()} for d in along}
        more = {"wilson": _wilson(wilson), "twins": _twins(twins), "cutoffs": to_rows(cutoffs)}
        print_json({**rows, "directions": by_direction, **more})
        return
    print_shells(statistics, MERIT, "figures of merit")
    if statistics.overall.n_measurements:
        print_shells(statistics, _MEASUREMENTS, "measurements (R factors mean little for stills)")
    if math.isfinite(statistics.overall.cc_half):
        print_shells(statistics, _ERRORS, "errors against differences of halves")
        _print_directions(along)
    if math.isfinite(statistics.overall.cc_ano):
        print_shells(statistics, _ANOMALOUS, "anomalous differences")
    if comparison is not None:
        print_shells(comparison, _AGREEMENT, f"agreement with {reference}")
    _print_cutoffs(cutoffs)
    print_facts(
        {
            "Wilson B": f"{fixed(wilson.b_factor, 1)} Å² (beyond 3.2 Å)",
            "L-test": f"⟨|L|⟩ {fixed(twins.mean_abs_l, 3)}, ⟨L²⟩ {fixed(twins.mean_square_l, 3)}, "
            f"⟨I²⟩/⟨I⟩² {fixed(twins.second_moment, 2)}: {twins.verdict}",
        }
    )


def facts_of_runs(paths: Sequence[Path]) -> RunFacts | None:
    """What the records of runs say; None without runs."""
    from sfxlab.merging.table_one import facts_of
    from sfxlab.store import Run

    return facts_of([Run(path) for path in paths]) if paths else None


def _check_table(path: Path) -> None:
    if path.suffix not in (".txt", ".csv", ".cif"):
        raise InputError("unknown kind of table", path=path, found=path.suffix, expected=".txt, .csv or .cif")
    check_output(path)


def _write_table(merged: Merged, path: Path, facts: RunFacts | None, d_min: float | None, d_max: float | None) -> None:
    from sfxlab.merging.deposition import statistics_text
    from sfxlab.whole_files import written_whole

    if path.suffix == ".cif":
        text = statistics_text(merged, facts, d_min, d_max)
    else:
        table = merged.table_one(facts, d_min, d_max)
        text = table.to_csv() if path.suffix == ".csv" else table.to_text() + "\n"
    with written_whole(path) as file:
        file.write(text.encode())


def _print_cutoffs(cutoffs: Sequence[Cutoff]) -> None:
    rows = [(c.rule, fixed(c.d_min, 2), "the data end there" if c.at_edge else "") for c in cutoffs]
    print_table(("rule", "d min", ""), rows, "where rules would cut the data off", text=("rule", ""))


def _print_directions(along: Sequence[Direction]) -> None:
    if not along:
        return
    headings = ["d max", "d min", *(f"{what} {d.name}" for d in along for what in ("CC*", "I/σ"))]
    shells = zip(*((*d.shells, d.overall) for d in along), strict=True)
    rows = [
        [fixed(one[0].d_max, 2), fixed(one[0].d_min, 2),
         *(text for shell in one for text in (fixed(shell.cc_star, 4), fixed(shell.snr, 1)))]
        for one in shells
    ]  # fmt: skip
    rows.append(["CC1/2 ≥ 0.3 to", "", *(text for d in along for text in (_limit(d), ""))])
    print_table(headings, rows, "within 30° of reciprocal axes", text=("d max",))


def _limit(direction: Direction) -> str:
    return fixed(direction.limit.d_min, 2) + (" (end)" if direction.limit.at_edge else "")


def _wilson(plot: WilsonPlot) -> dict[str, Any]:
    return {"b_factor": plot.b_factor, "s2": plot.s2, "log_ratio": plot.log_ratio}


def _twins(test: TwinTest) -> dict[str, Any]:
    names = ("n_pairs", "d_max", "d_min", "mean_abs_l", "mean_square_l", "second_moment", "twin_fraction", "verdict")
    return {name: getattr(test, name) for name in names}
