"""`ambiguity`: which way crystals have to be indexed."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sfxlab.cli.merged import open_run_or_stream
from sfxlab.cli.output import (
    PATH,
    PATH_OR_ADDRESS,
    check_output,
    json_option,
    print_facts,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from sfxlab.merging.ambiguity import Ambiguity
    from sfxlab.store import Run


@click.command("ambiguity")
@click.argument("inputs", metavar="RUN|STREAM...", nargs=-1, required=True, type=PATH)
@click.option("-y", "--symmetry", required=True, help="Point group, as for merge.")
@click.option("--reference", type=PATH, help="What says which way is right: MTZ, .hkl, PDB or mmCIF.")
@click.option("-p", "--cell", "cell_path", type=PATH_OR_ADDRESS, help="Cell. [default: median of crystals]")
@click.option("--highres", type=click.FloatRange(0, min_open=True), metavar="D_MIN", help="Limit of resolution, Å.")
@click.option("--polarisation", default="horiz", show_default=True, help="As for merge.")
@click.option(
    "--max-obliquity", default=2.0, show_default=True, type=click.FloatRange(0, 10),
    help="Degrees by which an axis of the lattice's symmetry may miss.",
)  # fmt: skip
@click.option("--html", "html_path", type=PATH, help="Page with a picture of the clusters.")
@click.option("--stream", "stream_path", type=PATH, help="Write the crystals as they should be indexed, of one run.")
@json_option
def ambiguity_command(
    inputs: tuple[Path, ...],
    symmetry: str,
    reference: Path | None,
    cell_path: Path | str | None,
    highres: float | None,
    polarisation: str,
    max_obliquity: float,
    html_path: Path | None,
    stream_path: Path | None,
    as_json: bool,
) -> None:
    """Find which way each crystal has to be indexed.

    Where a lattice has more symmetry than the crystal, spots fit in several ways, and intensities decide. Crystals are
    compared with each other, each half of the data by itself, or with a reference. 'sfxlab merge
    --resolve-ambiguity' does the same before it merges.

    \b
    Examples:
      sfxlab ambiguity run1 -y 6/m --html ambiguity.html
      sfxlab ambiguity run1 run2 -y 6/m --reference model.pdb
      sfxlab ambiguity run1 -y 6/m --stream resolved.stream
    """
    from sfxlab.crystal import point_group, read_cell
    from sfxlab.merging.ambiguity import INDICES, resolve
    from sfxlab.merging.ambiguity_embedding import embed
    from sfxlab.merging.observations import gather
    from sfxlab.merging.polarisation import parse_polarisation

    if html_path is not None:
        check_output(html_path)
    if stream_path is not None:
        check_output(stream_path)
        if len(inputs) > 1:
            raise click.UsageError("--stream is of one run: export each by itself.")
    with ExitStack() as stack:
        runs = [open_run_or_stream(path, stack) for path in inputs]
        observations = gather(
            runs, point_group(symmetry), cell=read_cell(cell_path) if cell_path else None, d_min=highres,
            polarisation=parse_polarisation(polarisation), extra=INDICES,
        )  # fmt: skip
        found = resolve(observations, reference, max_obliquity)
        if html_path is not None:
            from sfxlab.report.ambiguity import write_ambiguity

            write_ambiguity(found, embed(observations, found), html_path)
        if stream_path is not None:
            _write_stream(runs[0], found, stream_path)
    if as_json:
        print_json(_values(found))
        return
    _show(found, html_path)


def _write_stream(run: Run, found: Ambiguity, path: Path) -> None:
    from sfxlab.interop.stream_writer import write_stream
    from sfxlab.merging.reindexed import reindexed

    write_stream(
        path, reindexed(run.results(), found), run.detector(), geometry_text=run.geometry_text, cell=run.recipe.cell,
        command=" ".join(run.record.command),
    )  # fmt: skip


def _values(found: Ambiguity) -> dict[str, Any]:
    """All that is known, for a program."""
    names = found.operators.names
    crystals = [
        {
            "crystal": str(crystal), "operator": names[found.operator[i]], "resolved": found.resolved[i],
            "probability": found.probability[i], "log_odds": found.log_odds[i],
            "standard_error": found.standard_error[i], "correlation": found.correlation[i],
            "reason": found.reasons[i],
        }
        for i, crystal in enumerate(found.crystals)
    ]  # fmt: skip
    operators = [
        {"operator": name, "change_of_1_d": misfit, "crystals": count}
        for (name, count), misfit in zip(found.counts.items(), found.operators.misfit, strict=True)
    ]
    return {"operators": operators, "agreement": found.agreement, "reference": found.reference, "crystals": crystals}


def _show(found: Ambiguity, html_path: Path | None) -> None:
    if not found.operators.is_ambiguous:
        print_facts({"indexing ambiguity": f"none: {found.operators.laue_group.name} has the symmetry of the lattice"})
        return
    resolved = int(found.resolved.sum())
    facts: dict[str, object] = {"resolved": f"{resolved} of {len(found.operator)} crystals"}
    if found.reference is None:
        facts["agreement of the halves"] = f"{100 * found.agreement:.1f} % of crystals"
    else:
        facts["reference"] = found.reference
    if html_path is not None:
        facts["picture"] = str(html_path)
    print_facts(facts)
    rows = [
        (name, f"{100 * misfit:.2f}", count, f"{100 * count / max(resolved, 1):.1f}",
         _median(found.correlation[found.resolved & (found.operator == k), k]))
        for k, ((name, count), misfit) in enumerate(zip(found.counts.items(), found.operators.misfit, strict=True))
    ]  # fmt: skip
    head = ("h,k,l become", "change of 1/d, %", "crystals", "share, %", "median correlation")
    print_table(head, rows, text=("h,k,l become",))
    if resolved and len(found.counts) > 1:
        print_facts({"median difference of correlations": _median(found.correlation_difference[found.resolved])})


def _median(values: Any) -> str:
    import numpy as np

    return f"{np.median(values):.2f}" if len(values) else "-"
