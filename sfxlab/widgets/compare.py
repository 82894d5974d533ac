"""Two runs of the same frames: what was gained, lost and moved; a click shows both frames side by side."""

from __future__ import annotations

import html
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import traitlets
from IPython.display import HTML
from ipywidgets import HBox, Layout, VBox
from PIL import Image

from sfxlab.comparison import RunComparison, compare_runs
from sfxlab.errors import RunError, SfxlabError
from sfxlab.store import Run
from sfxlab.widgets.bound import SessionWidget
from sfxlab.widgets.following import repeat
from sfxlab.widgets.frame_table import FrameTable
from sfxlab.widgets.frame_viewer import FrameViewer
from sfxlab.widgets.models.compare import ComparedRuns
from sfxlab.widgets.sources import joined

if TYPE_CHECKING:
    from sfxlab.session import Session

_SEEN = ("centre", "zoom", "contrast", "layers")
_WORST = "frames that lost lattices, then those whose lattices moved, then those that gained some"


class Compare(VBox):
    """Frames of two runs, the worst first, with the shown one in both runs side by side, panned and zoomed together.

    Parameters
    ----------
    before, after:
        The runs or their paths, of two recipes or of two versions; or, in place of the first and without the second,
        a comparison that there is already (`sfxlab.compare`, `sfxlab.compare_recipes`).
    session:
        Where the frame that is shown and how it is seen ("view.…"), and tags are shared.
    seconds:
        How often runs that grow are compared anew.
    height:
        Of the two pictures, in pixels of the page.

    Raises `RunError` for what is no run.
    """

    def __init__(
        self,
        before: Run | str | PathLike[str] | RunComparison,
        after: Run | str | PathLike[str] | None = None,
        session: Session | None = None,
        *,
        seconds: float = 10.0,
        height: int = 420,
    ) -> None:
        comparison = before if isinstance(before, RunComparison) else compare_runs(_run(before), _run(after))
        self.session = session
        self.model = ComparedRuns(comparison)
        self.head = ComparisonHead(session)
        self.table = _Rows(self.model.table, session, presets=[], worst_means=_WORST, height=260)
        self.viewers: tuple[FrameViewer, ...] = ()
        self._ends: list[Callable[[], None]] = []
        try:
            self.viewers = (
                FrameViewer(comparison.before, session=session, height=height),
                _Beside(comparison.after, session=session, height=height),
            )
        except SfxlabError as error:
            # Pixels may be elsewhere; runs can be compared without.
            self.head.message = f"pictures cannot be shown: {error}"
        super().__init__(children=[self.head, self.table, *self._side_by_side()])
        self._link()
        self._show_counts()
        runs = (comparison.before, comparison.after)
        if not all(run.is_finished for run in runs):
            self._ends.append(repeat(seconds, lambda: compare_runs(*runs), self.take, self._tell))

    @property
    def comparison(self) -> RunComparison:
        """What is shown."""
        return self.model.comparison

    @property
    def frame(self) -> int:
        """Number of the frame that is shown, in the first run."""
        return int(self.table.frame)

    @frame.setter
    def frame(self, number: int) -> None:
        self.table.frame = number

    def take(self, comparison: RunComparison) -> None:
        """Show another comparison of the same runs, as of runs that have grown."""
        self.model = ComparedRuns(comparison)
        self.table.take(self.model.table)
        self._show_counts()

    def only(self, state: str = "") -> None:
        """List frames in one state only: lost, moved, gained, same; all of them for an empty one."""
        self.head.state = state

    def picture(self, number: int | None = None, **choices: Any) -> Image.Image:
        """A frame, or the one that is shown, in both runs side by side; choices are those of `PaperPicture`.

        Raises `RunError` where the frame is not in both runs, or its pixels cannot be read.
        """
        shown = self.frame if number is None else number
        other = self.model.number_after(shown)
        if other is None or not self.viewers:
            raise RunError(self.model.sentence(shown) if self.viewers else self.head.message)
        images = [viewer.figure(n, **choices) for viewer, n in zip(self.viewers, (shown, other), strict=True)]
        gap = max(image.width for image in images) // 100
        size = sum(image.width for image in images) + gap, max(image.height for image in images)
        whole = Image.new("RGB", size, (255, 255, 255))
        whole.paste(images[0])
        whole.paste(images[1], (images[0].width + gap, 0))
        return whole

    def figure(self, rows: int = 50) -> HTML:
        """What differs, and the first frames as they are listed, as a page that can be kept and printed."""
        lines = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>"
            for line in self.model.differences()
        )
        head = "<tr><th></th><th>what</th><th>before</th><th>after</th></tr>"
        return HTML(
            f"<h4>{html.escape(self.model.title())}</h4><p>{html.escape(str(self.comparison))}</p>"
            f"<table>{head}{lines}</table>{self.table.figure(rows).data}"
        )

    def close(self) -> None:
        """Take everything off all pages, and off the session."""
        ends = getattr(self, "_ends", [])
        while ends:
            ends.pop()()
        for one in (*getattr(self, "viewers", ()), *(getattr(self, name, None) for name in ("table", "head"))):
            if one is not None:
                one.close()
        super().close()

    def _side_by_side(self) -> list[HBox]:
        for viewer in self.viewers:
            viewer.layout = Layout(flex="1 1 0", min_width="0")
        return [HBox(list(self.viewers))] if self.viewers else []

    def _link(self) -> None:
        """Let the frame, its view and the filter be the same everywhere; the first viewer shares them."""
        shown: Any = self.viewers[0] if self.viewers else self.table
        worst = self.model.worst()
        if self.session is None and worst is not None:
            shown.frame = worst
        self.table.observe(self._told, "frame")
        self.table.observe(self._filtered, "filter")
        self.head.observe(self._filter, "state")
        self.head.on_msg(self._step)
        if self.viewers:
            left, right = self.viewers
            self._ends += [traitlets.link((left, name), (right, name)).unlink for name in _SEEN]
            self._ends.append(traitlets.link((left, "frame"), (self.table, "frame")).unlink)
            right.observe(self._moved_beside, "frame")
        else:
            SessionWidget.bind(self.table, "view.frame", "frame")
        self._told()

    def _told(self, change: Any = None) -> None:
        self.head.about = self.model.sentence(self.frame) if self.frame >= 0 else ""
        other = self.model.number_after(self.frame)
        if self.viewers and other is not None:
            self.viewers[1].frame = other

    def _moved_beside(self, change: Any) -> None:
        number = self.model.number_before(change.new)
        if number is not None:
            self.table.frame = number

    def _filter(self, change: Any) -> None:
        self.table.filter = f"state = {change.new}" if change.new else ""

    def _filtered(self, change: Any) -> None:
        states = {f"state = {state}": state for state in self.model.counts()}
        if change.new in states or not change.new:
            self.head.state = states.get(change.new, "")

    def _step(self, widget: Any, content: dict[str, Any], buffers: Any) -> None:
        """To the next frame of those that are listed, or to the one before."""
        if content.get("kind") == "step" and not self.head.disabled:
            place = self.table.place + (1 if content.get("on") else -1)
            found = self.table.table.frames(place, place) if place >= 0 else []
            if found:
                self.frame = found[0]

    def _show_counts(self) -> None:
        model, head = self.model, self.head
        with head.hold_trait_notifications():
            head.title, head.counts = model.title(), {str(state): n for state, n in model.counts().items()}
            head.only, head.differences = model.only(), [list(line) for line in model.differences()]
        self._told()

    def _tell(self, error: SfxlabError) -> None:
        self.head.message = str(error)


class ComparisonHead(SessionWidget):
    """Counts that choose what is listed, what was done otherwise, and what became of the frame that is shown."""

    _esm = joined("elements.js", "compare.js")
    _css = joined("widgets.css", "compare.css")

    title = traitlets.Unicode("").tag(sync=True)
    counts = traitlets.Dict().tag(sync=True)
    """Frames in each state."""
    state = traitlets.Unicode("").tag(sync=True)
    """What is listed; empty for everything."""
    only: Any = traitlets.List([]).tag(sync=True)
    """Which frames only one of the runs has, in words."""
    differences: Any = traitlets.List([]).tag(sync=True)
    """Kind, name, before and after of what was done otherwise."""
    about = traitlets.Unicode("").tag(sync=True)
    """What became of the frame that is shown."""


class _Beside(FrameViewer):
    """The second viewer: it follows the first one, which shares what is seen."""

    def bind(self, name: str, trait: str, *, default: Any = None) -> None:
        pass


class _Rows(FrameTable):
    """The table: its frame is that of the first viewer."""

    def bind(self, name: str, trait: str, *, default: Any = None) -> None:
        if trait != "frame":
            super().bind(name, trait, default=default)


def _run(given: Run | str | PathLike[str] | None) -> Run:
    if given is None:
        raise RunError("two runs are compared, and one is given", remedy="give the other one, too")
    return given if isinstance(given, Run) else Run(Path(given))
