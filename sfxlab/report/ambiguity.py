"""The page on an indexing ambiguity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from bokeh.plotting import figure
from numpy.typing import NDArray

from sfxlab.merging.ambiguity import Ambiguity
from sfxlab.report.charts import BLUE, GREEN, ORANGE, VIOLET, chart_html, empty_figure
from sfxlab.report.page import write_page
from sfxlab.report.sections import cards, section, table

_COLOURS = (BLUE, ORANGE, GREEN, VIOLET)
_UNRESOLVED = "#7f8a99"


def write_ambiguity(
    ambiguity: Ambiguity, points: tuple[NDArray[np.int64], NDArray[np.float64]], path: str | Path
) -> None:
    """Write which way crystals are indexed, as an HTML file. Raises `RunError` where it cannot be written.

    `points` are numbers of crystals, (m,), and their coordinates, (m, 2), as `embed` gives them.
    """
    n, resolved = len(ambiguity.operator), int(ambiguity.resolved.sum())
    against = "the other half" if ambiguity.reference is None else ambiguity.reference
    head = cards(
        [
            ("resolved", f"{resolved:,}", f"of {n:,} crystals"),
            ("unresolved", f"{n - resolved:,}", "left out of merging"),
            ("agreement", f"{ambiguity.agreement:.1%}" if ambiguity.reference is None else "–", f"with {against}"),
        ]
    )
    rows = [
        (name, f"{misfit:.2%}", f"{count:,}", f"{count / max(resolved, 1):.1%}")
        for (name, count), misfit in zip(ambiguity.counts.items(), ambiguity.operators.misfit, strict=True)
    ]
    body = head + table(("h,k,l become", "change of 1/d", "crystals", "share"), rows, "numbers")
    body += "<h3>Crystals as they are indexed: angles between clusters are correlations</h3>"
    body += chart_html(clusters_chart(ambiguity, *points))
    body += "<h3>How firmly they are assigned</h3>" + chart_html(differences_chart(ambiguity))
    write_page("Indexing ambiguity", section("Ways to index", body), path)


def clusters_chart(ambiguity: Ambiguity, crystals: NDArray[np.int64], points: NDArray[np.float64]) -> figure:
    """Crystals as points (m, 2), coloured by operator; grey where that is not resolved."""
    limit = 1.08 * max(float(np.abs(points).max(initial=0.0)), 1e-3)
    chart = empty_figure("", "", height=420, x_range=(-limit, limit), y_range=(-limit, limit), match_aspect=True)
    resolved = ambiguity.resolved[crystals]
    if not resolved.all():
        x, y = points[~resolved].T
        chart.scatter(x, y, color=_UNRESOLVED, size=5, alpha=0.6, legend_label="unresolved")
    for k, name in enumerate(ambiguity.operators.names):
        mine = resolved & (ambiguity.operator[crystals] == k)
        if mine.any():
            x, y = points[mine].T
            chart.scatter(x, y, color=_COLOURS[k % len(_COLOURS)], size=5, alpha=0.6, legend_label=name)
    chart.scatter([0], [0], marker="cross", color=_UNRESOLVED, size=14)
    _style_legend(chart)
    return chart


def differences_chart(ambiguity: Ambiguity) -> figure:
    """How much better crystals correlate with the operator chosen than with the next best."""
    values = ambiguity.correlation_difference
    edges = np.linspace(min(float(values.min()), 0.0), max(float(values.max()), 0.01), 51)
    chart = empty_figure("difference of correlations", "crystals", height=220)
    bottom = np.zeros(len(edges) - 1)
    for which, colour, label in (
        (~ambiguity.resolved, _UNRESOLVED, "unresolved"), (ambiguity.resolved, BLUE, "resolved"),
    ):  # fmt: skip
        counts = np.histogram(values[which], edges)[0]
        if counts.any():
            top = bottom + counts
            chart.quad(
                left=edges[:-1], right=edges[1:], bottom=bottom, top=top, color=colour, line_color=None, alpha=0.8,
                legend_label=label,
            )  # fmt: skip
            bottom = top
    _style_legend(chart)
    return chart


def _style_legend(chart: figure) -> None:
    chart.legend.background_fill_alpha = 0
    chart.legend.border_line_color = None
    chart.legend.label_text_color = _UNRESOLVED
