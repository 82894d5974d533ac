"""Observations of many crystals into one set of structure factors."""

from sfxlab.merging.comparison import Comparison, ComparisonShell, compare
from sfxlab.merging.files import read_merged
from sfxlab.merging.forecast import Forecast, forecast
from sfxlab.merging.intensities import Intensities
from sfxlab.merging.merge import merge
from sfxlab.merging.merged import Merged
from sfxlab.merging.running import RunningMerge
from sfxlab.merging.splits import MergedSplits, bins, read_labels
from sfxlab.merging.statistics import Shell, ShellStatistics

__all__ = [
    "Comparison",
    "ComparisonShell",
    "Forecast",
    "Intensities",
    "Merged",
    "MergedSplits",
    "RunningMerge",
    "Shell",
    "ShellStatistics",
    "bins",
    "compare",
    "forecast",
    "merge",
    "read_labels",
    "read_merged",
]
