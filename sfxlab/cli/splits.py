"""What `merge` says of labelled frames, and where it writes them."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from sfxlab.cli.output import fixed, print_facts, print_json, print_table

if TYPE_CHECKING:
    from sfxlab.merging import MergedSplits

_MOST_PAIRS = 10


def path_of(output: Path, label: str) -> Path:
    """The file of a label beside the file of all: `merged-light.mtz`."""
    stem, dot, suffix = output.name.partition(".")
    return output.with_name(f"{stem}-{re.sub(r'[^0-9A-Za-z.+-]+', '_', label)}{dot}{suffix}")


def show_splits(
    splits: MergedSplits,
    output: Path,
    paths: dict[str, Path],
    d_min: float | None,
    d_max: float | None,
    as_json: bool,
) -> None:
    """Figures of merit of each label, and what each pair of them differs in."""
    statistics = {label: part.statistics(d_min=d_min, d_max=d_max) for label, part in splits.items()}
    pairs = list(combinations(splits, 2))
    # Of many time bins the first is compared with all others.
    pairs = pairs if len(pairs) <= _MOST_PAIRS else [pair for pair in pairs if pair[0] == next(iter(splits))]
    differences = {pair: splits.differences(*pair, d_min=d_min, d_max=d_max) for pair in pairs}
    if as_json:
        print_json(
            {
                "file": str(output), "history": splits.whole.history,
                "shells": splits.whole.statistics(d_min=d_min, d_max=d_max).to_rows(),
                "labels": {
                    label: {"file": str(paths[label]), "history": part.history, "shells": statistics[label].to_rows()}
                    for label, part in splits.items()
                },
                "differences": [{"labels": pair, "shells": d.to_rows()} for pair, d in differences.items()],
            }
        )  # fmt: skip
        return
    print_facts({"file": str(output), "point group": splits.whole.point_group.name, "cell": str(splits.whole.cell)})
    rows = []
    for label, part in splits.items():
        overall, crystals = statistics[label].overall, part.history["crystals"]
        rows.append(
            (
                label, str(paths[label]), f"{crystals['used']} of {crystals['given']}", overall.n_unique,
                fixed(100 * overall.completeness, 1), fixed(overall.multiplicity, 1), fixed(overall.snr, 1),
                fixed(overall.cc_half, 4), fixed(100 * overall.rsplit, 1),
            )
        )  # fmt: skip
    columns = ("label", "file", "crystals", "unique", "compl. %", "mult.", "I/σ", "CC1/2", "Rsplit %")
    print_table(columns, rows, "labels", text=("label", "file"))
    compared = [
        (
            f"{one} / {other}", d.overall.n_common, fixed(d.overall.cc, 4), fixed(100 * d.overall.r_iso, 1),
            fixed(d.overall.significance, 2), fixed(d.overall.cc_difference, 3),
        )
        for (one, other), d in differences.items()
    ]  # fmt: skip
    if compared:
        heads = ("labels", "common", "CC", "Riso(F) %", "rms ΔI/σ", "CC of ΔI halves")
        print_table(heads, compared, "differences, over all resolutions", text=("labels",))
