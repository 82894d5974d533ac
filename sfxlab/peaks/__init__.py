"""Peak finding and hit finding."""

from sfxlab.peaks.peaks import Peaks

__all__ = ["Peaks"]
