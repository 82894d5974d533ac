"""The page on a refined geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from bokeh.plotting import figure
from numpy.typing import NDArray

from sfxlab.detector_refinement import DetectorRefinement, RefinedGeometry
from sfxlab.detector_refinement.bodies import centres_of, panel_corners
from sfxlab.detector_refinement.sums import CELLS, Sums
from sfxlab.geometry import Detector
from sfxlab.report.charts import BLUE, GREEN, ORANGE, chart_html, empty_figure
from sfxlab.report.page import write_page
from sfxlab.report.sections import cards, section, table

_OUTLINE = "#7f8a99"
_LEAST_PAIRS = 5
"""Peaks that an arrow stands for at least."""
_LONG = 0.07
"""Length of a long arrow, of the detector's width."""


def write_refined_geometry(refined: RefinedGeometry, path: str | Path) -> None:
    """Write what a refinement did, as an HTML file. Raises `RunError` where it cannot be written."""
    r = refined.refinement
    head = cards(
        [
            (
                "median residual",
                f"{r.sums_after.median_distance:.2f} px",
                f"{r.sums_before.median_distance:.2f} before",
            ),
            ("crystals", f"{r.n_crystals:,}", f"{r.sums_after.n_crystals[1]:,} left out"),
            ("beam centre", f"{r.shift[0]:+.2f} {r.shift[1]:+.2f}", "pixels along x, y"),
            ("distance", f"{100 * r.distance_change:+.3f} %", f"± {100 * r.distance_error:.3f} %"),
        ]
    )
    before, after = residual_vectors(r.before, r.sums_before), residual_vectors(r.detector, r.sums_after)
    scale = _scale(r.before, before[1])
    body = head
    for title, detector, (places, vectors), colour in (
        ("before", r.before, before, ORANGE), ("after", r.detector, after, GREEN),
    ):  # fmt: skip
        body += f"<h3>Observed − predicted, {title}, drawn {scale:.3g} times as long</h3>"
        body += chart_html(vectors_chart(detector, places, vectors * scale, colour))
    body += "<h3>Median distance between peaks and predictions, by panel</h3>" + chart_html(medians_chart(r))
    shifts = np.array([move.shift[:2] for move in r.panels])
    scale = _scale(r.before, shifts)
    body += f"<h3>How panels were shifted, drawn {scale:.3g} times as long</h3>"
    body += chart_html(vectors_chart(r.before, centres_of(r.before)[:, :2] / _pixel(r.before), shifts * scale, BLUE))
    lead = "x to the right, y up, in pixel widths from the beam."
    write_page("Geometry", section("Refined geometry", body, lead) + section("Panels", _table(r)), path)


def residual_vectors(detector: Detector, sums: Sums) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean of observed − predicted in parts of panels: where, and how much along x and y, (m, 2) each, pixels."""
    panel, row, column = np.nonzero(sums.residuals[..., 2] >= _LEAST_PAIRS)
    a, found = detector.arrays, sums.residuals[panel, row, column]
    mean = -found[:, :2] / found[:, 2:]
    size = (a.bounds[panel][:, [3, 1]] - a.bounds[panel][:, [2, 0]]) / CELLS
    f, s = (column + 0.5) * size[:, 0], (row + 0.5) * size[:, 1]
    places = a.corner[panel] + f[:, None] * a.fs[panel] + s[:, None] * a.ss[panel]
    vectors = mean[:, :1] * a.fs[panel] + mean[:, 1:] * a.ss[panel]
    return places[:, :2] / _pixel(detector), vectors[:, :2] / _pixel(detector)


def vectors_chart(detector: Detector, places: NDArray[np.float64], vectors: NDArray[np.float64], colour: str) -> figure:
    """Panels, and vectors that begin at places, (m, 2) each, in pixel widths."""
    chart = empty_figure("x / pixel", "y / pixel", height=560, match_aspect=True)
    corners = panel_corners(detector)[:, [0, 1, 2, 3, 0]] / _pixel(detector)
    chart.multi_line(list(corners[..., 0]), list(corners[..., 1]), color=_OUTLINE, line_alpha=0.5)
    ends = places + vectors
    chart.segment(places[:, 0], places[:, 1], ends[:, 0], ends[:, 1], color=colour, line_width=1.5)
    chart.scatter(places[:, 0], places[:, 1], size=2.5, color=colour)
    chart.scatter([0], [0], marker="cross", size=12, color=_OUTLINE)
    return chart


def medians_chart(refinement: DetectorRefinement) -> figure:
    """Median residual of each panel before and after."""
    panels = refinement.panels
    x = np.arange(len(panels), dtype=np.float64)
    before, after = (np.array([getattr(p, f"median_{when}") for p in panels]) for when in ("before", "after"))
    top = 1.1 * float(np.nanmax(np.concatenate([before, after, [0.1]])))
    chart = empty_figure("panel", "pixels", height=240, y_range=(0, top))
    seen = np.isfinite(before) & np.isfinite(after)
    chart.segment(x[seen], before[seen], x[seen], after[seen], color=_OUTLINE, line_alpha=0.5)
    chart.scatter(x, before, size=6, color=ORANGE, legend_label="before")
    chart.scatter(x, after, size=6, color=GREEN, legend_label="after")
    chart.legend.background_fill_alpha = 0
    chart.legend.border_line_color = None
    chart.legend.label_text_color = _OUTLINE
    return chart


def _table(refinement: DetectorRefinement) -> str:
    head = ("panel", "x, px", "y, px", "z, px", "about x, °", "about y, °", "about z, °", "peaks", "median before, px",
            "after")  # fmt: skip
    rows = [
        (
            f"{p.name}, not determined" if p.name in refinement.held else p.name,
            *(f"{v:+.3f} ± {e:.3f}" for v, e in zip(p.shift, p.shift_error, strict=True)),
            *(f"{v:+.3f} ± {e:.3f}" for v, e in zip(p.rotation, p.rotation_error, strict=True)), f"{p.n_peaks:,}",
            f"{p.median_before:.2f}", f"{p.median_after:.2f}",
        )
        for p in refinement.panels
    ]  # fmt: skip
    return table(head, rows, "numbers")


def _pixel(detector: Detector) -> float:
    return detector.panels[0].pixel_size


def _scale(detector: Detector, vectors: NDArray[np.float64]) -> float:
    """A round factor that makes the longer ones of these vectors well visible."""
    if not len(vectors):
        return 1.0
    width = float(np.ptp(centres_of(detector)[:, :2], axis=0).max()) / _pixel(detector) or 1000.0
    long = max(float(np.percentile(np.linalg.norm(vectors, axis=1), 90)), 1e-3)
    exact = _LONG * width / long
    power = 10.0 ** np.floor(np.log10(exact))
    return float(power * max(step for step in (1, 2, 5) if step * power <= exact * 1.0000001))
