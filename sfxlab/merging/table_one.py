"""Table 1 of a paper: how data were measured and how good they are, over all and in the outer shell."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfxlab.geometry import HC_EV_ANGSTROM
from sfxlab.merging.distribution import wilson_plot

if TYPE_CHECKING:
    from sfxlab.merging.merged import Merged
    from sfxlab.store import Run

MISSING = "–"

_OF_OBSERVATIONS = tuple(
    (f"{label} (%), means little for stills", name, 100, ".1f")
    for label, name in (("Rmerge", "r_merge"), ("Rmeas", "r_meas"), ("Rpim", "r_pim"))
)


@dataclass(frozen=True)
class RunFacts:
    """What the records of runs say of the measurement."""

    names: tuple[str, ...]
    """Of the runs."""
    frames: int
    hits: int
    indexed: int
    """Frames with a lattice."""
    lattices: int
    software: Mapping[str, str]
    """Programs that found the lattices, with their versions."""


@dataclass(frozen=True)
class TableOne:
    """Lines of a label, the value over all and that of the outer shell, which is empty where there is none."""

    lines: tuple[tuple[str, str, str], ...]

    def to_text(self) -> str:
        """As text, the outer shell in parentheses."""
        width = max(len(label) for label, *_ in self.lines)
        return "\n".join(
            f"{label:{width}}  {value}" + (f" ({outer})" if outer else "") for label, value, outer in self.lines
        )

    def to_csv(self) -> str:
        """As CSV with the columns item, overall, outer shell."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(("item", "overall", "outer shell"))
        writer.writerows(self.lines)
        return out.getvalue()


def facts_of(runs: Sequence[Run]) -> RunFacts:
    """The sums over some runs."""
    counts = [run.counts for run in runs]
    records = [run.record for run in runs]
    software = {name: version for record in records for name, version in record.indexed_by.items()}
    own = [record.versions["sfxlab"] for record in records if "sfxlab" in record.versions]
    software |= {"sfxlab": ", ".join(sorted(set(own)))} if own else {}
    return RunFacts(
        names=tuple(run.path.name for run in runs),
        frames=sum(c.frames for c in counts),
        hits=sum(c.hits for c in counts),
        indexed=sum(c.indexed for c in counts),
        lattices=sum(c.lattices for c in counts),
        software=software,
    )


def merged_lattices(merged: Merged) -> int | None:
    """Crystals that were merged; None where the history does not say."""
    crystals = merged.history.get("crystals")
    if isinstance(crystals, Mapping) and "used" in crystals:
        return int(crystals["used"])
    # Of a file, the history is its lines.
    lines = " ".join(line.strip() for kind in ("mtz", "hkl") for line in merged.history.get(kind, ()))
    found = re.search(r'\bcrystals: \{[^}]*"used": (\d+)', lines)
    return int(found[1]) if found else None


def table_one(
    merged: Merged, facts: RunFacts | None = None, d_min: float | None = None, d_max: float | None = None
) -> TableOne:
    """Table 1 of merged data between `d_min` and `d_max` (Å); the outer shell is the last of ten."""
    statistics = merged.statistics(10, d_min, d_max)
    whole, outer = statistics.overall, statistics.shells[-1]
    cell = merged.cell
    energy = HC_EV_ANGSTROM / merged.wavelength / 1000 if merged.wavelength > 0 else math.nan
    lines: list[tuple[str, str, str]] = [
        ("Space group", merged.space_group or f"point group {merged.point_group.name}", ""),
        ("a, b, c (Å)", ", ".join(f"{x:.2f}" for x in cell.lengths), ""),
        ("α, β, γ (°)", ", ".join(f"{x:.2f}" for x in cell.angles), ""),
        ("Wavelength (Å)", _number(merged.wavelength, ".4f"), ""),
        ("Photon energy (keV)", _number(energy, ".3f"), ""),
    ]
    if facts is not None:
        lines += [
            ("Frames", f"{facts.frames}", ""),
            ("Hits", f"{facts.hits}", ""),
            ("Indexed frames", f"{facts.indexed}", ""),
            ("Indexed lattices", f"{facts.lattices}", ""),
        ]
    used = merged_lattices(merged)
    if used is not None:
        lines.append(("Merged lattices", f"{used}", ""))
    lines.append(("Resolution (Å)", f"{whole.d_max:.2f}–{whole.d_min:.2f}", f"{outer.d_max:.2f}–{outer.d_min:.2f}"))
    for label, name, factor, form in (
        ("Measurements", "n_measurements", 1, ".0f"),
        ("Unique reflections", "n_unique", 1, ".0f"),
        ("Completeness (%)", "completeness", 100, ".1f"),
        ("Multiplicity", "multiplicity", 1, ".1f"),
        ("Mean I/σ(I)", "snr", 1, ".1f"),
        ("Rsplit (%)", "rsplit", 100, ".1f"),
        ("CC1/2", "cc_half", 1, ".3f"),
        ("CC*", "cc_star", 1, ".3f"),
        *((("CCano", "cc_ano", 1, ".3f"),) if not merged.point_group.centrosymmetric else ()),
        *(_OF_OBSERVATIONS if math.isfinite(whole.r_meas) else ()),
    ):
        lines.append((label, *(_number(factor * getattr(shell, name), form) for shell in (whole, outer))))
    lines.append(("Wilson B (Å²)", _number(wilson_plot(merged, d_min, d_max).b_factor, ".1f"), ""))
    return TableOne(tuple(lines))


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else MISSING
