"""Peak finding and hit finding."""

from sfxlab.peaks.find import find_peaks
from sfxlab.peaks.hits import is_hit
from sfxlab.peaks.peaks import Peaks

__all__ = ["Peaks", "find_peaks", "is_hit"]
