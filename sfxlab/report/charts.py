"""Charts of a report, as bokeh figures that suit a light page, a dark page and paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from bokeh.embed import components
from bokeh.models import BasicTicker, FixedTicker
from bokeh.plotting import figure
from numpy.typing import NDArray

from sfxlab.merging.distribution import TwinTest, WilsonPlot
from sfxlab.peaks.ice import ICE_SPACINGS
from sfxlab.store.rates import HitRates

BLUE, GREEN, ORANGE, VIOLET = "#3b82c4", "#2a9d6f", "#d55e00", "#a06cb0"
# Readable on white and on black, because a figure cannot know which page it is on.
_INK = "#7f8a99"
_SHELL_SPACINGS = (10, 5, 4, 3, 2.5, 2.2, 2, 1.8, 1.6, 1.5, 1.4, 1.3, 1.2, 1.1, 1)
_SPACINGS = (30, 10, 6, 4, 3, 2.5, 2, 1.7, 1.5, 1.3, 1.2, 1.1, 1)


def chart_html(chart: figure) -> str:
    """A figure as HTML; the page has to bring bokeh's script."""
    script, division = components(chart)
    return division + script


def empty_figure(x_label: str, y_label: str, height: int = 260, **options: Any) -> figure:
    """A figure in the report's manner."""
    chart = figure(
        height=height, sizing_mode="stretch_width", toolbar_location=None, tools="",
        x_axis_label=x_label, y_axis_label=y_label, **options,
    )  # fmt: skip
    chart.background_fill_color = None
    chart.border_fill_color = None
    chart.outline_line_color = None
    chart.grid.grid_line_color = _INK
    chart.grid.grid_line_alpha = 0.2
    for axis in chart.axis:
        axis.axis_line_color = axis.major_tick_line_color = _INK
        axis.minor_tick_line_color = None
        axis.major_label_text_color = axis.axis_label_text_color = _INK
        axis.axis_label_text_font_style = "normal"
    return chart


def rates_chart(rates: HitRates) -> figure:
    """Hit rate and indexing rate along a run, with their bands."""
    chart = empty_figure("frame", "%", y_range=(0, 102))
    edges = np.append(rates.first, rates.last[-1:] + 1)
    for label, colour, rate, band in (
        ("hits / frames", BLUE, rates.rate, rates.band),
        ("indexed / hits", GREEN, rates.indexing_rate, rates.indexing_band),
    ):
        x = np.repeat(edges, 2)[1:-1].astype(np.float64)
        middle, low, high = (np.repeat(100 * y, 2) for y in (rate, *band))
        chart.varea(x, low, high, color=colour, alpha=0.22)
        chart.line(x, middle, color=colour, line_width=2, legend_label=label)
    _legend_above(chart)
    return chart


def histogram_chart(values: NDArray[np.floating], label: str) -> figure:
    """How values are distributed, (n,), within 5 robust standard deviations of the median."""
    median = float(np.median(values))
    spread = robust_deviation(values)
    near = values[np.abs(values - median) <= 5 * spread]
    counts, edges = np.histogram(near, bins=int(np.clip(2 * len(near) ** 0.5, 8, 60)))
    chart = empty_figure(label, "crystals", height=190, y_range=(0, 1.08 * counts.max()))
    chart.quad(left=edges[:-1], right=edges[1:], bottom=0, top=counts, color=GREEN, line_color=None, alpha=0.8)
    chart.line([median, median], [0, 1.08 * counts.max()], color=ORANGE, line_width=2, line_dash="dashed")
    chart.xaxis.ticker = BasicTicker(desired_num_ticks=4)
    return chart


def robust_deviation(values: NDArray[np.floating]) -> float:
    """Standard deviation from the median of absolute deviations, for a normal distribution the same."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def radial_average_chart(averages: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> figure:
    """Means of pixels by 1/d: (1/d, mean), (n,) each, under their names, with the rings of hexagonal ice."""
    limit = max(float(x[-1]) for x, _ in averages.values())
    top = max(float(np.percentile(y, 99.5)) for _, y in averages.values())
    bottom = min(0.0, *(float(np.percentile(y, 0.5)) for _, y in averages.values()))
    chart = empty_figure("d / Å", "ADU", y_range=(bottom, 1.08 * top if top > bottom else bottom + 1))
    rings = [1 / spacing for spacing in ICE_SPACINGS if 1 / spacing < limit]
    chart.vspan(rings, line_color=VIOLET, line_alpha=0.5)
    for colour, (name, (x, y)) in zip((BLUE, ORANGE), averages.items(), strict=False):
        chart.line(x, y, color=colour, line_width=2, legend_label=name)
    _label_as_spacings(chart, _SPACINGS, limit, power=1)
    _legend_above(chart)
    return chart


def radial_chart(counts: NDArray[np.integer], step: float) -> figure:
    """Number of peaks by 1/d, (n,), in bins of `step` 1/Å from 0."""
    last = int(np.flatnonzero(counts)[-1]) + 1
    group = max(1, last // 120)
    last = -(-last // group) * group
    grouped = counts[:last].reshape(-1, group).sum(axis=1)
    edges = np.arange(len(grouped) + 1) * step * group
    chart = empty_figure("d / Å", "peaks", y_range=(0, 1.05 * grouped.max()))
    chart.quad(left=edges[:-1], right=edges[1:], bottom=0, top=grouped, color=BLUE, line_color=None, alpha=0.85)
    _label_as_spacings(chart, _SPACINGS, edges[-1], power=1)
    return chart


def shells_chart(
    resolution: NDArray[np.floating],
    values: dict[str, NDArray[np.floating]],
    band: tuple[NDArray[np.floating], NDArray[np.floating]],
) -> figure:
    """Statistics by resolution, (n,) each: `resolution` is 1/d of the middle of each shell, 1/Å; drawn over 1/d².

    `band` is where the first one is with a confidence of 95 %.
    """
    chart = empty_figure("d / Å", "", y_range=(-0.05, 1.05))
    x = resolution**2
    chart.varea(x, *band, color=BLUE, alpha=0.22)
    for colour, (label, y) in zip((BLUE, GREEN, ORANGE, VIOLET), values.items(), strict=False):
        chart.line(x, y, color=colour, line_width=2, legend_label=label)
        chart.scatter(x, y, color=colour, size=5)
    _label_as_spacings(chart, _SHELL_SPACINGS, x.max() ** 0.5, power=2)
    _legend_above(chart)
    return chart


def wilson_chart(plot: WilsonPlot) -> figure:
    """ln(⟨I⟩/Σf²) over 1/d², and the straight line that gives B."""
    chart = empty_figure("d / Å", "ln(⟨I⟩ / Σf²)", height=230)
    x = 4 * plot.s2
    chart.scatter(x, plot.log_ratio, color=BLUE, size=5, legend_label="data")
    if np.isfinite(plot.b_factor):
        line = plot.log_scale - 2 * plot.b_factor * plot.s2
        chart.line(x, line, color=ORANGE, line_width=2, legend_label=f"B = {plot.b_factor:.1f} Å²")
    _label_as_spacings(chart, _SHELL_SPACINGS, float(x.max()) ** 0.5, power=2)
    _legend_above(chart)
    return chart


def twin_chart(test: TwinTest) -> figure:
    """Share of pairs with a smaller |L|, and what it is with and without twins (Padilla & Yeates 2003)."""
    chart = empty_figure("|L|", "share of pairs below", height=230, x_range=(0, 1), y_range=(0, 1.02))
    x = np.linspace(0, 1, 101)
    chart.line(x, x, color=GREEN, line_width=2, line_dash="dashed", legend_label="no twins")
    twins = x * (3 - x**2) / 2
    chart.line(x, twins, color=ORANGE, line_width=2, line_dash="dashed", legend_label="perfect twins")
    share = np.searchsorted(test.l_values, x, side="right") / max(len(test.l_values), 1)
    chart.line(x, share, color=BLUE, line_width=2, legend_label="data")
    _legend_above(chart)
    return chart


def _legend_above(chart: figure) -> None:
    legend = chart.legend[0]
    legend.orientation = "horizontal"
    legend.background_fill_alpha = 0
    legend.border_line_color = None
    legend.label_text_color = _INK
    chart.add_layout(legend, "above")


def _label_as_spacings(chart: figure, spacings: tuple[float, ...], limit: float, power: int) -> None:
    """Ticks at round spacings d (Å) on an axis of d to the power of −1 or −2, as far apart as their labels need."""
    ticks: dict[float, str] = {}
    for spacing in spacings:
        place = spacing**-power
        if place <= 1.02 * limit**power and all(place - other > 0.07 * limit**power for other in ticks):
            ticks[place] = f"{spacing:g}"
    chart.xaxis.ticker = FixedTicker(ticks=list(ticks))
    chart.xaxis.major_label_overrides = {place: label for place, label in ticks.items()}  # noqa: C416  a dict of another type
