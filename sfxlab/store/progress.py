"""How far a run is, on a terminal, in a notebook or to a function."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as TerminalProgress

from sfxlab.store.counts import Counts


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    done: Counts
    """All frames done, those of earlier sessions too."""
    total: int
    """Frames of the whole run."""
    fresh: int
    """Frames done in this session."""
    seconds: float
    """Duration of this session so far."""
    stage: str = ""
    """What is done before frames are processed, or why there are no workers to do it; else empty."""

    @property
    def frames_per_second(self) -> float:
        """Speed of this session, 0 at its beginning."""
        return self.fresh / self.seconds if self.seconds > 0 else 0.0

    def __str__(self) -> str:
        if self.stage:
            return self.stage
        text = (
            f"{self.frames_per_second:.1f} frames/s, hits {self.done.hit_rate:.1%},"
            f" indexed {self.done.indexing_rate:.1%}"
        )
        return f"{text}, failed {self.done.failed}" if self.done.failed else text


Report = Callable[[Progress], None]


@contextmanager
def reported(progress: Report | Literal["auto"] | None) -> Iterator[Report]:
    """What to call with each new `Progress`.

    "auto" shows a bar on a terminal or in a notebook and nothing elsewhere.
    """
    if callable(progress):
        yield progress
    elif progress is None:
        yield _nothing
    elif _in_notebook():
        with _notebook_bar() as report:
            yield report
    else:
        console = Console(stderr=True)
        if console.is_terminal:
            with terminal_bar(console) as report:
                yield report
        else:
            yield _nothing


@contextmanager
def terminal_bar(console: Console) -> Iterator[Report]:
    """A bar on a terminal."""
    columns = (
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with TerminalProgress(*columns, console=console) as bar:
        task = bar.add_task("starting", total=None)

        def report(progress: Progress) -> None:
            bar.update(task, total=progress.total, completed=progress.done.frames, description=str(progress))

        yield report


@contextmanager
def _notebook_bar() -> Iterator[Report]:
    from IPython.display import display
    from ipywidgets import HTML, HBox, IntProgress

    bar, label = IntProgress(max=1, bar_style="info"), HTML()
    display(HBox([bar, label]))

    def report(progress: Progress) -> None:
        bar.max, bar.value = progress.total, progress.done.frames
        label.value = f"{progress.done.frames} of {progress.total} frames, {progress}"
        bar.bar_style = "success" if progress.done.frames == progress.total else "info"

    yield report


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    if type(get_ipython()).__name__ != "ZMQInteractiveShell":
        return False
    try:
        import ipywidgets  # noqa: F401
    except ImportError:
        return False
    return True


def _nothing(progress: Progress) -> None:
    pass
