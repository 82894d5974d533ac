"""The section of a report on merged data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sfxlab.merging import Shell
from sfxlab.merging.anisotropy import Direction, DirectionShell, directions
from sfxlab.merging.cutoffs import Cutoff, middles, resolution_cutoffs
from sfxlab.merging.distribution import TwinTest, twin_test, wilson_plot
from sfxlab.report.charts import chart_html, shells_chart, twin_chart, wilson_chart
from sfxlab.report.sections import cards, section, table

if TYPE_CHECKING:
    from sfxlab.merging import Merged

_HEAD = ("d / Å", "unique", "complete", "multiplicity", "I/σ", "CC1/2", "CC*", "Rsplit", "CCano")
_MEASURED = (
    "d / Å", "measured", "multiplicity, 5 %", "median", "95 %", "Rmerge", "Rmeas", "Rpim", "⟨I²⟩/⟨I⟩²",
)  # fmt: skip
_LONGEST_LIST = 8


def merging(merged: Merged) -> str:
    """Figures of merit over all, by shells as a chart, and as a table."""
    statistics = merged.statistics()
    shells, overall = statistics.shells, statistics.overall
    wilson, twins = wilson_plot(merged), twin_test(merged)
    curves = {
        "CC1/2": np.array([shell.cc_half for shell in shells]),
        "CC*": np.array([shell.cc_star for shell in shells]),
        "Rsplit": np.array([shell.rsplit for shell in shells]),
        "completeness": np.array([shell.completeness for shell in shells]),
    }
    rows = [_row(shell) for shell in (*shells, overall)]
    band = np.array([shell.cc_half_low for shell in shells]), np.array([shell.cc_half_high for shell in shells])
    body = _cards(overall) + chart_html(shells_chart(middles(shells), curves, band))
    body += "<p>The band is where CC1/2 is with a confidence of 95 %.</p>" + table(_HEAD, rows, "numbers totals")
    body += _more(shells, overall, directions(merged))
    body += "<h3>Where rules would cut the data off</h3>"
    body += table(("rule", "d / Å", ""), [_cutoff(c) for c in resolution_cutoffs(statistics)], "facts")
    body += "<h3>Wilson plot</h3>" + chart_html(wilson_chart(wilson))
    body += "<h3>Test for twins</h3>" + f"<p>{_twins(twins)}</p>"
    body += chart_html(twin_chart(twins)) if len(twins.l_values) else ""
    if merged.history:
        body += "<h3>How they were made</h3>" + table(("", ""), _facts(merged.history), "facts")
    return section("Merged data", body, f"Point group {merged.point_group.name}, cell {merged.cell}.")


def _more(shells: tuple[Shell, ...], overall: Shell, along: tuple[Direction, ...]) -> str:
    """How often reflections were measured, how observations scatter, and how far data reach along the axes."""
    body = ""
    if overall.n_measurements:
        rows = [_measurements(shell) for shell in (*shells, overall)]
        body += "<details><summary>Measurements by shell</summary>" + table(_MEASURED, rows, "numbers totals")
        body += "<p>R factors of observations mean little for stills, whose observations are partial.</p></details>"
    if along and math.isfinite(overall.cc_half):
        head = ("d / Å", *(f"CC* {d.name}" for d in along))
        columns = zip(*((*d.shells, d.overall) for d in along), strict=True)
        rows = [(_range(one[0]), *(_number(shell.cc_star, ".3f") for shell in one)) for one in columns]
        reach = "; ".join(f"{_reach(d)} along {d.name}" for d in along)
        body += "<details><summary>Along reciprocal axes</summary>" + table(head, rows, "numbers totals")
        body += f"<p>Within 30° of the axes. CC1/2 is 0.3 or more to {reach}.</p></details>"
    return body


def _measurements(shell: Shell) -> tuple[str, ...]:
    multiplicity = (_number(getattr(shell, f"multiplicity_{share}"), ".0f") for share in (5, 50, 95))
    factors = (_number(value, ".1%") for value in (shell.r_merge, shell.r_meas, shell.r_pim))
    return _range(shell), f"{shell.n_measurements:,}", *multiplicity, *factors, _number(shell.second_moment, ".2f")


def _reach(direction: Direction) -> str:
    end = " (where the data end)" if direction.limit.at_edge else ""
    return f"{_number(direction.limit.d_min, '.2f')} Å{end}"


def _range(shell: Shell | DirectionShell) -> str:
    return f"{shell.d_max:.2f} – {shell.d_min:.2f}"


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
        _range(shell),
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


def _cutoff(cutoff: Cutoff) -> tuple[str, str, str]:
    return cutoff.rule, _number(cutoff.d_min, ".2f"), "the data end there" if cutoff.at_edge else ""


def _twins(test: TwinTest) -> str:
    if not math.isfinite(test.mean_abs_l):
        return test.verdict.capitalize() + "."
    numbers = (
        f"⟨|L|⟩ is {test.mean_abs_l:.3f} (0.5 without twins, 0.375 with perfect ones), ⟨L²⟩ {test.mean_square_l:.3f}"
    )
    return f"{numbers} (0.333, 0.2), over {test.n_pairs:,} pairs to {test.d_min:.2f} Å: {test.verdict}."
