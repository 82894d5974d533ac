"""The chart of a forecast."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from bokeh.models import NumeralTickFormatter
from bokeh.plotting import figure

from sfxlab.report.charts import BLUE, GREEN, ORANGE, empty_figure

if TYPE_CHECKING:
    from sfxlab.merging import Forecast

_LABELS = {"cc_half": "CC1/2", "rsplit": "Rsplit", "snr": "I/σ"}


def forecast_chart(forecast: Forecast) -> figure:
    """What random parts of the data gave, how it will go on with its limits, and what is wanted."""
    label = _LABELS[forecast.figure]
    per_crystal = forecast.n_frames / max(forecast.n_crystals, 1)
    chart = empty_figure("frames", label, height=340, x_axis_type="log")
    chart.xaxis.formatter = NumeralTickFormatter(format="0,0")
    points = [p for p in forecast.trend if math.isfinite(p.value)]
    limit = forecast.crystals[2] if math.isfinite(forecast.crystals[2]) else forecast.n_crystals
    last = min(max(1.5 * limit, 2.0 * forecast.n_crystals), 100.0 * forecast.n_crystals)
    n = np.geomspace(points[0].n_crystals if points else 1.0, max(last, 2.0), 100)
    middle, low, high = np.array([forecast.at(x) for x in n]).T
    if np.isfinite(middle).all():
        chart.varea(n * per_crystal, low, high, color=BLUE, alpha=0.22)
        chart.line(
            n * per_crystal, middle, color=BLUE, line_width=2, legend_label=f"forecast, {forecast.confidence:.0%}"
        )
    x, y, spread = (np.array([getattr(p, name) for p in points]) for name in ("n_crystals", "value", "spread"))
    chart.segment(x * per_crystal, y - spread, x * per_crystal, y + spread, color=GREEN, line_width=2)
    chart.scatter(x * per_crystal, y, color=GREEN, size=8, legend_label="parts of the data")
    ends = np.array([n[0], n[-1]]) * per_crystal
    chart.line(ends, [forecast.target] * 2, color=ORANGE, line_dash="dashed", line_width=2, legend_label="wanted")
    chart.legend.location = "bottom_right" if forecast.figure != "rsplit" else "top_right"
    chart.legend.background_fill_alpha = 0
    chart.legend.border_line_color = None
    return chart
