"""Widgets for notebooks. Each is a view of a `Session`, and works alone, too."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfxlab.widgets.cell_explorer import CellExplorer
    from sfxlab.widgets.compare import Compare
    from sfxlab.widgets.discussion import Discussion
    from sfxlab.widgets.frame_table import FrameTable
    from sfxlab.widgets.frame_viewer import FrameViewer
    from sfxlab.widgets.live_parameters import LiveParameters
    from sfxlab.widgets.merging_board import MergingBoard
    from sfxlab.widgets.run_monitor import RunMonitor

_HOMES = {
    "CellExplorer": "cell_explorer",
    "Compare": "compare",
    "Discussion": "discussion",
    "FrameTable": "frame_table",
    "FrameViewer": "frame_viewer",
    "LiveParameters": "live_parameters",
    "MergingBoard": "merging_board",
    "RunMonitor": "run_monitor",
}
"""Where each widget lives; it is loaded when it is first used."""

__all__ = [
    "CellExplorer",
    "Compare",
    "Discussion",
    "FrameTable",
    "FrameViewer",
    "LiveParameters",
    "MergingBoard",
    "RunMonitor",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sfxlab.widgets' has no attribute '{name}'")
    return getattr(importlib.import_module(f"sfxlab.widgets.{_HOMES[name]}"), name)
