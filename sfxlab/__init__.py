"""From detector frames to structure factors: serial femtosecond crystallography.

frames = sfxlab.open_frames("data.cxi", "data.geom")
run = sfxlab.process(frames, sfxlab.Recipe().with_cell(sfxlab.read_cell("my.cell")), output="run1")
merged = sfxlab.merge(run, "4/mmm")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfxlab.cell_search import CellProposal, find_cell
    from sfxlab.cluster import connect
    from sfxlab.comparison import RunComparison, compare, compare_recipes
    from sfxlab.crystal import Crystal, UnitCell, read_cell
    from sfxlab.frames import Frame, open_frames
    from sfxlab.interop.indexamajig import recipe_from_indexamajig
    from sfxlab.learning import learn_bad_pixels
    from sfxlab.merging import Merged, RunningMerge, forecast, merge, read_labels, read_merged
    from sfxlab.peaks import Peaks, find_peaks
    from sfxlab.pipeline import FrameResult, process_frame
    from sfxlab.processing import process, rerun
    from sfxlab.recipe import Recipe
    from sfxlab.report import write_report
    from sfxlab.session import Session, tagged
    from sfxlab.simulation import simulate
    from sfxlab.store import Run, import_stream

_HOMES = {
    "CellProposal": "cell_search",
    "Crystal": "crystal",
    "Frame": "frames",
    "FrameResult": "pipeline",
    "Merged": "merging",
    "Peaks": "peaks",
    "Recipe": "recipe",
    "Run": "store",
    "RunComparison": "comparison",
    "RunningMerge": "merging",
    "Session": "session",
    "UnitCell": "crystal",
    "compare": "comparison",
    "compare_recipes": "comparison",
    "connect": "cluster",
    "find_cell": "cell_search",
    "find_peaks": "peaks",
    "forecast": "merging",
    "import_stream": "store",
    "learn_bad_pixels": "learning",
    "merge": "merging",
    "open_frames": "frames",
    "process": "processing",
    "process_frame": "pipeline",
    "read_cell": "crystal",
    "read_labels": "merging",
    "read_merged": "merging",
    "recipe_from_indexamajig": "interop.indexamajig",
    "rerun": "processing",
    "simulate": "simulation",
    "tagged": "session",
    "write_report": "report",
}
"""Where each public name lives; it is loaded when it is first used, so that the command line answers at once."""

__all__ = [
    "CellProposal",
    "Crystal",
    "Frame",
    "FrameResult",
    "Merged",
    "Peaks",
    "Recipe",
    "Run",
    "RunComparison",
    "RunningMerge",
    "Session",
    "UnitCell",
    "compare",
    "compare_recipes",
    "connect",
    "find_cell",
    "find_peaks",
    "forecast",
    "import_stream",
    "learn_bad_pixels",
    "merge",
    "open_frames",
    "process",
    "process_frame",
    "read_cell",
    "read_labels",
    "read_merged",
    "recipe_from_indexamajig",
    "rerun",
    "simulate",
    "tagged",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sfxlab' has no attribute '{name}'")
    return getattr(importlib.import_module(f"sfxlab.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
