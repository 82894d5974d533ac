"""The frames of a run as a table: worst first, sorted and filtered by any column; a click shows the frame."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import traitlets
from IPython.display import HTML

from sfxlab.errors import SfxlabError
from sfxlab.store import Run
from sfxlab.widgets.bound import SessionWidget
from sfxlab.widgets.following import hear, repeat
from sfxlab.widgets.models import frame_table as models
from sfxlab.widgets.sources import joined

if TYPE_CHECKING:
    from sfxlab.session import Session

_MOST_ROWS = 500
"""That a page may have."""
_MOST_SELECTED = 100_000
_WORST = "failed, then hits that are not indexed, then indexed frames that explain least, then blanks"
_PRESETS = (
    ("all", ""), ("failed", "status = failed"), ("not indexed", "status = hit"), ("indexed", "status = indexed"),
    ("blank", "status = blank"),
)  # fmt: skip


class FrameTable(SessionWidget):
    """Millions of frames; only the rows that are looked at go to the browser.

    Parameters
    ----------
    run:
        A run, growing or finished, its path, or a table of `models.frame_table`.
    session:
        Where the frame that is shown ("view.frame"), the selection and the tags are shared.
    seconds:
        How often a growing run is looked at.
    """

    _esm = joined("frame_table.js")
    _css = joined("widgets.css", "frame_table.css")

    columns: Any = traitlets.List().tag(sync=True)
    """Name, label, unit and kind ("number" or "text") of each."""
    n_frames = traitlets.Int(0).tag(sync=True)
    n_shown = traitlets.Int(0).tag(sync=True)
    version = traitlets.Int(0).tag(sync=True)
    """Counts up whenever rows may be others than before."""
    sort = traitlets.Unicode(models.WORST).tag(sync=True)
    descending = traitlets.Bool(True).tag(sync=True)
    filter = traitlets.Unicode("").tag(sync=True)
    """See `sfxlab.widgets.models.filters`."""
    presets: Any = traitlets.List([list(preset) for preset in _PRESETS]).tag(sync=True)
    """Filters with a button: what it says, and the filter."""
    worst_means = traitlets.Unicode(_WORST).tag(sync=True)
    """What comes first when the worst does."""
    only_selected = traitlets.Bool(False).tag(sync=True)
    frame = traitlets.Int(-1).tag(sync=True)
    """Number of the frame that is shown, -1 for none."""
    place = traitlets.Int(-1).tag(sync=True)
    """Where it is in what is shown."""
    selection = traitlets.Dict().tag(sync=True)
    """`kind`, `items` and `why`, as sessions keep it."""
    n_selected = traitlets.Int(0).tag(sync=True)
    """Frames that the selection means."""
    can_tag = traitlets.Bool(False).tag(sync=True)
    height = traitlets.Int(460).tag(sync=True)
    """In pixels of the page."""

    def __init__(
        self,
        run: Run | str | models.FrameTable,
        session: Session | None = None,
        *,
        seconds: float = 3.0,
        **traits: Any,
    ) -> None:
        super().__init__(session, **traits)
        self._frames = (
            None if isinstance(run, models.FrameTable) else models.RunFrames(Run(run) if isinstance(run, str) else run)
        )
        self.table = run if isinstance(run, models.FrameTable) else _empty()
        self.can_tag = session is not None
        self.columns = [
            {"name": name, "label": label, "unit": unit, "kind": "text" if self.table.is_text(name) else "number"}
            for name, (label, unit) in self.table.labels.items()
        ]
        self.bind("view.frame", "frame")
        self.bind("selection", "selection")
        self.observe(self._arrange, ["sort", "descending", "filter", "only_selected", "selection"])
        self.observe(self._find, "frame")
        self.on_msg(self._heard)
        self._unbind.append(hear(session, ("tag", "untag"), self._tags_changed))
        if self._frames is None:
            self.take(self.table)
        else:
            self.refresh()
            if not self._frames.run.is_finished:
                self._unbind.append(repeat(seconds, self._frames.read, self.take, self._tell))

    def refresh(self) -> None:
        """Read what has come since. Problems are shown in the widget."""
        if self._frames is not None:
            try:
                table = self._frames.read()
            except SfxlabError as error:
                self._tell(error)
                return
            self.take(self.table if table is None else table)

    def show_frame(self, frame: int) -> None:
        """Show a frame, wherever one is shown in this session."""
        self.frame = frame

    def select(self, frames: list[int], why: str = "chosen in the table") -> None:
        """Select frames, for every widget of the session."""
        self.selection = {"kind": "frame", "items": frames[:_MOST_SELECTED], "why": why if frames else ""}

    def tag(self, frames: list[int], tag: str) -> None:
        """Give frames a tag. Without a session there are none; problems are shown in the widget."""
        if self.session is not None:
            try:
                self.session.tag("frame", [str(frame) for frame in frames], tag)
                self._tags_changed()
            except SfxlabError as error:
                self._tell(error)

    def figure(self, rows: int = 50) -> HTML:
        """The first rows as they are shown, as a table that can be kept and printed."""
        page, labels = self.table.page(0, rows), self.table.labels
        head = "".join(f"<th>{label}{f' / {unit}' if unit else ''}</th>" for label, unit in labels.values())
        lines = zip(*(page[name] for name in labels), strict=True)
        body = "".join(
            "<tr>" + "".join(f"<td>{'' if cell is None else html.escape(str(cell))}</td>" for cell in line) + "</tr>"
            for line in lines
        )
        return HTML(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")

    def take(self, table: models.FrameTable) -> None:
        """Show another table with the same columns, as one that has grown."""
        self.table = table
        self.n_frames = table.n
        self._tags_changed()

    def _tags_changed(self) -> None:
        if self.session is not None:
            try:
                names = self.session.tags("frame")
                self.table.set_tags({name: self.session.tagged("frame", name) for name in names})
            except SfxlabError as error:
                self._tell(error)
        self._arrange()

    def _arrange(self, change: Any = None) -> None:
        if change is not None and change.new != getattr(self, change.name):
            return  # the session has refused it since, and said why
        selected = self._selected()
        self.n_selected = 0 if selected is None else len(selected)
        if change is not None and change.name == "selection" and not self.only_selected:
            return
        only = selected if self.only_selected else None
        try:
            n_shown = self.table.arrange(self.sort, self.descending, self.filter, only)
        except SfxlabError as error:
            self._tell(error)
            return
        with self.hold_trait_notifications():
            self.message = ""
            self.n_shown = n_shown
            self.version += 1
        self._find()

    def _selected(self) -> list[int] | None:
        if self._frames is not None:
            return self._frames.frames_of(self.selection)
        items = self.selection.get("items") if self.selection.get("kind") == "frame" else None
        return [int(item) for item in items] if items else None

    def _find(self, change: Any = None) -> None:
        self.place = self.table.place(self.frame)

    def _tell(self, error: SfxlabError) -> None:
        self.message = str(error)

    def _heard(self, widget: Any, content: dict[str, Any], buffers: Any) -> None:
        """Messages of a browser: rows that it wants, and what is done to a stretch of rows."""
        first, count = int(content.get("first", 0)), min(int(content.get("count", 0)), _MOST_ROWS)
        match content.get("kind"):
            case "rows":
                # Answers go to all browsers; each takes its own.
                self.send({
                    "kind": "rows", "client": content.get("client"), "version": self.version, "first": first,
                    "columns": self.table.page(first, count),
                })  # fmt: skip
            case "select":
                self.select(self.table.frames(first, int(content.get("last", first))))
            case "tag":
                self.tag(self.table.frames(first, int(content.get("last", first))), str(content.get("tag", "")))


def _empty() -> models.FrameTable:
    return models.FrameTable(models.columns_of(models.NO_FRAMES, models.NO_CRYSTALS))
