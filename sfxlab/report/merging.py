"""The section of a report on merged data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sfxlab.merging import Shell
from sfxlab.report.charts import chart_html, shells_chart
from sfxlab.report.sections import cards, section, table

if TYPE_CHECKING:
    from sfxlab.merging import Merged

_HEAD = ("d / Å", "unique", "complete", "multiplicity", "I/σ", "CC1/2", "CC*", "Rsplit", "CCano")
_LONGEST_LIST = 8


def merging(merged: Merged) -> str:
    """Figures of merit over all, by shells as a chart, and as a table."""
    statistics = merged.statistics()
    shells, overall = statistics.shells, statistics.overall
    middle = np.array([(_inverse(shell.d_max) + 1 / shell.d_min) / 2 for shell in shells])
    curves = {
        "CC1/2": np.array([shell.cc_half for shell in shells]),
        "CC*": np.array([shell.cc_star for shell in shells]),
        "Rsplit": np.array([shell.rsplit for shell in shells]),
        "completeness": np.array([shell.completeness for shell in shells]),
    }
    rows = [_row(shell) for shell in (*shells, overall)]
    body = _cards(overall) + chart_html(shells_chart(middle, curves)) + table(_HEAD, rows, "numbers totals")
    if merged.history:
        body += "<h3>How they were made</h3>" + table(("", ""), _facts(merged.history), "facts")
    return section("Merged data", body, f"Point group {merged.point_group.name}, cell {merged.cell}.")


def _cards(overall: Shell) -> str:
    return cards(
        [
            ("CC1/2", _number(overall.cc_half, ".3f"), f"CC* {_number(overall.cc_star, '.3f')}"),
            ("Rsplit", _number(overall.rsplit, ".1%"), f"{overall.n_pairs:,} pairs"),
            ("resolution", f"{overall.d_min:.2f} Å", f"from {overall.d_max:.1f} Å"),
            ("completeness", _number(overall.completeness, ".1%"), f"{overall.n_unique:,} unique reflections"),
            ("multiplicity", _number(overall.multiplicity, ".1f"), f"{overall.n_measurements:,} measurements"),
        ]
    )


def _row(shell: Shell) -> tuple[str, ...]:
    return (
        f"{shell.d_max:.2f} – {shell.d_min:.2f}",
        f"{shell.n_unique:,}",
        _number(shell.completeness, ".1%"),
        _number(shell.multiplicity, ".1f"),
        _number(shell.snr, ".1f"),
        _number(shell.cc_half, ".3f"),
        _number(shell.cc_star, ".3f"),
        _number(shell.rsplit, ".1%"),
        _number(shell.cc_ano, ".3f"),
    )


def _facts(history: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The history line by line; of long lists, such as that of crystals left out, the length alone."""
    for key, value in history.items():
        name = prefix + key.replace("_", " ")
        if isinstance(value, Mapping):
            yield from _facts(value, f"{name}, ")
        elif isinstance(value, list | tuple):
            yield name, ", ".join(map(str, value)) if 0 < len(value) <= _LONGEST_LIST else f"{len(value):,}"
        elif value is not None:
            yield name, str(value)


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "–"


def _inverse(spacing: float) -> float:
    return 1 / spacing if math.isfinite(spacing) else 0.0
