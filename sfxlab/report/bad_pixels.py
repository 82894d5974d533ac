"""The section of a report on bad pixels that were learned from the run."""

from __future__ import annotations

import html

from sfxlab.bad_pixels import KINDS
from sfxlab.frames import FrameSource
from sfxlab.pictures import mask_png
from sfxlab.report import pictures
from sfxlab.report.sections import no_picture, picture, section, table
from sfxlab.store import Run

_WORST_PANELS = 10


def bad_pixels(run: Run, source: FrameSource | None) -> str:
    """How many there are, on which panels, with a picture; nothing where none were looked for."""
    learned = run.bad_pixels
    if learned is None:
        return ""
    lead = (
        f"Learned from {learned.frames} frames, evenly spread over the run, and left out of peaks and integration. "
        "Pixels that the masks of the files call bad do not count."
    )
    detector = pictures.detector_of(run, source)
    names = tuple(KINDS)
    rows: list[tuple[object, ...]] = [("whole detector", *(f"{learned.counts[name]:,}" for name in names))]
    body = no_picture("The run does not say what its detector was.", "Learned bad pixels")
    if detector is not None:
        body = picture(mask_png(learned, detector, 640), "Learned bad pixels; dots are larger than pixels")
        panels = zip(detector.panels, learned.counts_by_panel(detector), strict=True)
        worst = sorted(panels, key=lambda entry: -sum(entry[1].values()))[:_WORST_PANELS]
        rows += [(p.name, *(f"{n[name]:,}" for name in names)) for p, n in worst if sum(n.values())]
    remarks = "".join(f"<p>{html.escape(remark)}.</p>" for remark in learned.remarks)
    return section(
        "Bad pixels", f"{table(('', *names), rows, 'numbers')}{remarks}<div class=pictures>{body}</div>", lead
    )
