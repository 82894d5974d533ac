"""The section of a report on hits, and a page of its own that shows it while a run goes on."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from sfxlab.frames import FrameSource
from sfxlab.geometry import Detector
from sfxlab.pictures import png_bytes, slab_png
from sfxlab.report import sections
from sfxlab.report.charts import chart_html, radial_average_chart, rates_chart
from sfxlab.report.pictures import powder_png
from sfxlab.store import RunMonitor

_WIDTH = 640
_FEWEST_PIXELS = 20
"""Of a bin of the radial average that is drawn."""


def hits(monitor: RunMonitor, source: FrameSource | None = None) -> str:
    """Hit rate along the run, virtual powder, maximum projection and radial average; nothing without frames."""
    counts = monitor.counts
    if not counts.frames:
        return ""
    ice, salt = monitor.ice_and_salt
    found = [f"{name} in {n:,} frames ({n / counts.frames:.1%})" for name, n in (("Ice", ice), ("salt", salt)) if n]
    lead = f"{'; '.join(found) or 'No ice and no salt'}. The bands hold the true rates with a probability of 95 %. "
    lead += "Pictures are seen from the detector towards the source."
    body = chart_html(rates_chart(monitor.rates()))
    powder, maximum = _pictures(monitor, monitor.detector if source is None else source.detector)
    shown = ""
    if powder is not None:
        shown += sections.picture(powder, "Virtual powder: the sum of the peaks of all hits")
    if maximum is not None:
        shown += sections.picture(maximum, "Maximum projection: the largest value of each pixel in all hits")
    body += f"<div class=pictures>{shown}</div>"
    averages = {
        f"{kind}s": (sums.resolution[some], sums.mean[some])
        for kind, sums in monitor.radial.items()
        if (some := sums.n_pixels >= _FEWEST_PIXELS).any()
    }
    if averages:
        body += "<h3>Radial average</h3>" + chart_html(radial_average_chart(averages))
        body += "<p class=lead>Upright lines are the rings of hexagonal ice.</p>"
    return sections.section("Hits", body, lead)


def hits_png(monitor: RunMonitor) -> bytes | None:
    """Virtual powder and maximum projection side by side as PNG; None where there is nothing to show yet."""
    found = [Image.open(io.BytesIO(png)) for png in _pictures(monitor, monitor.detector) if png is not None]
    if not found:
        return None
    gap = _WIDTH // 40
    width = sum(image.width for image in found) + gap * (len(found) - 1)
    both = Image.new("RGB", (width, max(image.height for image in found)), (255, 255, 255))
    x = 0
    for image in found:
        both.paste(image, (x, 0))
        x += image.width + gap
    return png_bytes(both)


def _pictures(monitor: RunMonitor, detector: Detector | None) -> tuple[bytes | None, bytes | None]:
    """Virtual powder and maximum projection as PNG, as far as they can be had."""
    if detector is None:
        return None, None
    powder = None if monitor.powder is None else powder_png(monitor.powder, detector, _WIDTH)
    values = monitor.run.maximum_projection()
    if values is None or values.shape != detector.shape or not np.isfinite(values).any():
        return powder, None
    return powder, slab_png(values, None, detector, photon_energy=monitor.photon_energy, width=_WIDTH)
