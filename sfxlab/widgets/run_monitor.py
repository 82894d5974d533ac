"""A run as it grows: rates along time, speed, workers, failures with reasons, and the virtual powder."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import traitlets

from sfxlab.errors import RunError, SfxlabError
from sfxlab.report.charts import rates_chart
from sfxlab.store import Run
from sfxlab.widgets.bound import SessionWidget
from sfxlab.widgets.following import Tasks, repeat
from sfxlab.widgets.models.run_monitor import WatchedRun
from sfxlab.widgets.sources import joined

if TYPE_CHECKING:
    from sfxlab.session import Session


class RunMonitor(SessionWidget):
    """What a run does, growing or finished, whoever started it.

    Parameters
    ----------
    run:
        The run or its path; the session's ("view.run") where left out, and the next one when that changes.
    session:
        Where the shown frame ("view.frame") and the selection are shared: a click on a rate shows a frame there, a
        click on a reason selects the frames that it is given for.
    client:
        A Dask client, whose workers are shown.
    seconds:
        How often the run is looked at.
    """

    _esm = joined("charts.js", "run_monitor.js")
    _css = joined("widgets.css", "charts.css", "run_monitor.css")

    path = traitlets.Unicode("").tag(sync=True)
    """Where the run is."""
    seen = traitlets.Dict().tag(sync=True)
    """What there is now, see `models.run_monitor.WatchedRun.look`."""
    frame = traitlets.Int(-1).tag(sync=True)
    selection = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        run: Run | str | None = None,
        session: Session | None = None,
        *,
        client: Any = None,
        seconds: float = 2.0,
    ) -> None:
        super().__init__(session)
        self.watched: WatchedRun | None = None
        self._client, self._seconds = client, seconds
        self._end = _nothing
        self._tasks = Tasks()
        self.bind("view.frame", "frame")
        self.bind("selection", "selection")
        self.on_msg(self._heard)
        if run is None:
            self.observe(self._attach, "path")
            self.bind("view.run", "path")
            if not self.path:
                self.message = "No run is shown in this session yet."
        else:
            self.path = str(run.path) if isinstance(run, Run) else run
            self._attach()
        self._unbind.append(lambda: self._end())

    def refresh(self) -> None:
        """Look at the run now. Problems are shown in the widget."""
        if self.watched is not None:
            try:
                self._show(self.watched.look())
            except SfxlabError as error:
                self._tell(error)

    def select_because(self, reason: str) -> list[int]:
        """Select the frames that failed or are not indexed for this kind of reason, for every widget of the session.

        Raises `RunError` where no run is shown.
        """
        frames = self._watched().frames_because(reason)
        self.selection = {"kind": "frame", "items": frames, "why": reason}
        return frames

    def figure(self) -> Any:
        """Hit rate and indexing rate along the run, a bokeh figure. Raises `RunError` where no run is shown."""
        return rates_chart(self._watched().run.hit_rate())

    def _watched(self) -> WatchedRun:
        if self.watched is None:
            raise RunError("no run is shown", remedy="give one, or set view.run of the session")
        return self.watched

    def _attach(self, change: Any = None) -> None:
        self._end()
        self._end = _nothing
        try:
            watched = self.watched = WatchedRun(Run(self.path), self._client)
        except SfxlabError as error:
            self.watched = None
            self._tell(error)
            return
        self.refresh()

        def look() -> dict[str, Any] | None:
            # A run that nobody writes may still be taken up again.
            return watched.look()

        self._end = repeat(self._seconds, look, self._show, self._tell)

    def _show(self, seen: dict[str, Any]) -> None:
        if seen["path"] == (self.watched and str(self.watched.run.path)):
            self.message = ""
            self.seen = seen

    def _tell(self, error: SfxlabError) -> None:
        self.message = str(error)

    async def _send_picture(self, client: Any, kind: Any) -> None:
        watched = self.watched
        if watched is None:
            return
        try:
            png = await asyncio.to_thread(watched.picture, kind)
        except SfxlabError as error:
            self._tell(error)
            return
        content = {"kind": "picture", "client": client, "of": kind, "version": watched.version, "empty": png is None}
        self.send(content, [] if png is None else [png])

    async def _select(self, reason: str) -> None:
        watched = self.watched
        if watched is not None and not self.disabled:
            frames = await asyncio.to_thread(watched.frames_because, reason)
            self.selection = {"kind": "frame", "items": frames, "why": reason}

    def _heard(self, widget: Any, content: dict[str, Any], buffers: Any) -> None:
        """Messages of a browser. Answers go to all browsers; each takes its own."""
        match content.get("kind"):
            case "picture":
                self._tasks.start(self._send_picture(content.get("client"), content.get("of")))
            case "select":
                self._tasks.start(self._select(str(content.get("reason"))))


def _nothing() -> None:
    pass
