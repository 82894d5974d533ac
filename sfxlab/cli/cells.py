"""`cells`: the unit cells of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sfxlab.cli.output import PATH, check_output, fixed, json_option, print_json, print_table
from sfxlab.errors import CellError

if TYPE_CHECKING:
    from sfxlab.cell_search import CellProposal
    from sfxlab.crystal.distribution import CellDistribution
    from sfxlab.store import Run


@click.command("cells")
@click.argument("run_path", metavar="RUN", type=PATH)
@click.option("-o", "--output", type=PATH, help="Write the mean cell as a .cell file; of several, the most frequent.")
@json_option
def cells_command(run_path: Path, output: Path | None, as_json: bool) -> None:
    """Statistics of the unit cells of a run, or proposals.

    Where a run was made without a cell, the cells that its lattices share are proposed: the mean of lattices that are
    alike, in the conventional cell of the highest symmetry that single lattices do not speak against, with the share
    of hits that it explains when they are indexed with it.

    \b
    Example:
      sfxlab cells run1 -o better.cell
    """
    from sfxlab.cell_search import find_cell
    from sfxlab.crystal import write_cell
    from sfxlab.store import Run

    if output is not None:
        check_output(output)
    run = Run(run_path)
    proposals = find_cell(run) if _without_cell(run) else ()
    groups = [] if proposals else _cell_groups(run)
    if output is not None:
        write_cell(proposals[0].cell if proposals else groups[0].cell, output)
    if as_json:
        print_json([_proposal_values(p) for p in proposals] or [_group_values(group) for group in groups])
        return
    for proposal in proposals:
        _print_proposal(proposal)
    for group in groups:
        kind = f"{group.cell.lattice_type} {group.cell.centring}"
        title = f"{kind}: {group.n_crystals} crystals, {group.n_typical} of them typical"
        _print_parameters(
            title, ("mean", "median", "deviation"), (group.cell.parameters, group.median, group.deviation)
        )


def _without_cell(run: Run) -> bool:
    """Whether the lattices were found without a cell."""
    kinds = run.table("crystals", ["lattice_type", "centring"]).to_pylist()
    return run.recipe.cell is None and all(kind == {"lattice_type": "triclinic", "centring": "P"} for kind in kinds)


def _print_proposal(proposal: CellProposal) -> None:
    title = (
        f"{proposal.cell}: {proposal.n_lattices} lattices ({proposal.share:.0%}), "
        f"explains {proposal.n_explained} of {proposal.n_tested} hits"
    )
    _print_parameters(title, ("mean", "deviation"), (proposal.cell.parameters, proposal.deviation))
    rows = [
        (
            f"{e.symmetry.cell.lattice_type} {e.symmetry.cell.centring}", "yes" if e.accepted else "no",
            fixed(e.symmetry.obliquity, 2), fixed(100 * e.strain, 2), fixed(100 * e.scatter, 2),
            fixed(e.chance, 3),
            *(fixed(x, 2) for x in e.symmetry.cell.parameters),
        )
        for e in proposal.symmetries
    ]  # fmt: skip
    columns = ("symmetry", "taken", "obliquity / °", "strain / %", "scatter / %", "chance", *"abcαβγ")
    print_table(columns, rows, text=("symmetry", "taken"))


def _print_parameters(title: str, columns: Sequence[str], values: Sequence[Iterable[float]]) -> None:
    from sfxlab.crystal.distribution import PARAMETERS

    rows = [(name, *(fixed(x, 3) for x in row)) for name, *row in zip(PARAMETERS, *values, strict=True)]
    print_table(("", *columns), rows, title)


def _proposal_values(proposal: CellProposal) -> dict[str, Any]:
    cell = proposal.cell
    return {
        "lattice_type": cell.lattice_type, "centring": cell.centring, "unique_axis": cell.unique_axis,
        "crystals": proposal.n_lattices, "share": proposal.share, "mean": cell.parameters,
        "deviation": proposal.deviation, "tested_hits": proposal.n_tested, "explained_hits": proposal.n_explained,
        "symmetries": [
            {
                "lattice_type": e.symmetry.cell.lattice_type, "centring": e.symmetry.cell.centring,
                "cell": e.symmetry.cell.parameters, "obliquity": e.symmetry.obliquity, "strain": e.strain,
                "scatter": e.scatter, "chance": e.chance, "accepted": e.accepted,
            }
            for e in proposal.symmetries
        ],
    }  # fmt: skip


def _group_values(group: CellDistribution) -> dict[str, Any]:
    return {
        "lattice_type": group.cell.lattice_type, "centring": group.cell.centring, "crystals": group.n_crystals,
        "typical": group.n_typical, "mean": group.cell.parameters, "median": group.median,
        "deviation": group.deviation,
    }  # fmt: skip


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
