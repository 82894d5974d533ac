"""Reflections that other programs can merge."""

from __future__ import annotations

import numpy as np

from sfxlab.integration import Reflections


def usable_reflections(reflections: Reflections) -> Reflections:
    """Without those that are saturated, or have no finite intensity or no positive sigma."""
    good = np.isfinite(reflections.intensity) & np.isfinite(reflections.sigma) & (reflections.sigma > 0)
    return reflections[good & ~reflections.saturated]
