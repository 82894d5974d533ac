"""Observations of many crystals into one set of structure factors."""

from sfxlab.merging.files import read_merged
from sfxlab.merging.intensities import Intensities
from sfxlab.merging.merge import merge
from sfxlab.merging.merged import Merged
from sfxlab.merging.statistics import Comparison, ComparisonShell, Shell, ShellStatistics, compare

__all__ = [
    "Comparison",
    "ComparisonShell",
    "Intensities",
    "Merged",
    "Shell",
    "ShellStatistics",
    "compare",
    "merge",
    "read_merged",
]
