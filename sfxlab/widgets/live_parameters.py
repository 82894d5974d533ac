"""Parameters as sliders beside a frame that is searched and indexed anew while they move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from os import PathLike
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import traitlets
from distributed import Client
from ipywidgets import HBox, Layout

from sfxlab.errors import SfxlabError
from sfxlab.frames import FrameSource
from sfxlab.pipeline import FrameResult
from sfxlab.progress import Progress
from sfxlab.recipe import Recipe
from sfxlab.store import Run
from sfxlab.widgets.bound import SessionWidget
from sfxlab.widgets.frame_viewer import FrameViewer
from sfxlab.widgets.models.live_parameters import Comparison, LiveParametersModel, Stopped, controls
from sfxlab.widgets.sources import joined

if TYPE_CHECKING:
    from sfxlab.session import Session

_NOTHING_APPLIED: dict[str, Any] = {"state": "", "text": "", "share": 0.0}


class LiveParameters(SessionWidget):
    """Sliders for every parameter of the recipe, tried on the frame that a viewer shows.

    `viewer` is a `FrameViewer`, or what one is made of: a run, or frames with their recipe. Changes are tried on 200
    frames or on all of them, on the workers of `client` where there is one, into new runs in `folder`; these are
    compared with what was before. `beside()` puts viewer and sliders side by side. In a session, changes are those of
    everybody.
    """

    _esm = joined("elements.js", "live_parameters.js")
    _css = joined("widgets.css", "live_parameters.css")

    controls: Any = traitlets.List([]).tag(sync=True)
    """What there is to change, see `sfxlab.widgets.models.live_parameters.Control`."""
    changes = traitlets.Dict({}).tag(sync=True)
    """What differs from the recipe before, by dotted names."""
    outcome = traitlets.Dict({}).tag(sync=True)
    """What became of the frame now, and before."""
    applying = traitlets.Dict(_NOTHING_APPLIED).tag(sync=True)
    """How far the changes are applied."""
    comparison = traitlets.Dict({}).tag(sync=True)
    """What came of it."""

    def __init__(
        self,
        viewer: FrameViewer | Run | FrameSource,
        recipe: Recipe | None = None,
        *,
        session: Session | None = None,
        client: Client | None = None,
        folder: str | PathLike[str] = "sfxlab-runs",
        **traits: Any,
    ) -> None:
        if isinstance(viewer, FrameViewer):
            session = viewer.session if session is None else session
        else:
            viewer = FrameViewer(viewer, recipe, session=session)
        self.viewer, self.client, self.folder = viewer, client, Path(folder)
        self.model = LiveParametersModel(viewer.model)
        self.run: Run | None = None
        """The run that changes were applied in last."""
        self._stop = Event()
        self._thread: Thread | None = None
        super().__init__(session, controls=[asdict(control) for control in controls(self.model.before)], **traits)
        self.bind("recipe", "changes")
        self.observe(self._changed, "changes")
        self.on_msg(self._asked)
        viewer.show(self._result)

    @property
    def recipe(self) -> Recipe:
        """The recipe with the changes. Raises `RecipeError`."""
        return self.model.recipe(self.changes)

    def beside(self) -> HBox:
        """The viewer and the sliders side by side."""
        self.viewer.layout = Layout(flex="3 1 0", min_width="0")
        self.layout = Layout(flex="2 1 0", min_width="320px")
        return HBox([self.viewer, self])

    def apply(self, some: bool = True) -> None:
        """Apply the changes to 200 frames or to all, in a thread; `applying` and `comparison` tell what comes of it."""
        if self._thread is not None and self._thread.is_alive():
            self.message = "changes are being applied already"
            return
        self._stop.clear()
        self.comparison = {}
        changes, numbers = dict(self.changes), self.model.numbers(some)
        self._thread = Thread(target=self._apply, args=(changes, numbers), name="live-parameters", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Stop applying; what is done stays in the run, which can be resumed."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until changes are applied."""
        if self._thread is not None:
            self._thread.join(timeout)

    def close(self) -> None:
        """Take the sliders off all pages; the viewer shows again what was before."""
        if hasattr(self, "_stop"):
            self._stop.set()
            self.viewer.show(None)
        super().close()

    def _changed(self, _: Any) -> None:
        self.viewer.redraw()

    def _asked(self, _: Any, content: dict[str, Any], __: Any) -> None:
        if self.disabled:
            return
        if content["kind"] == "apply":
            self.apply(content["some"])
        elif content["kind"] == "cancel":
            self.cancel()
        elif content["kind"] == "show":
            self.viewer.frame = content["frame"]

    def _result(self, number: int) -> FrameResult | None:
        """What the viewer draws: the frame with the changes. Called in the viewer's thread."""
        message = ""
        before = self.viewer.model.source.result(number)
        try:
            result = self.model.trial(number, dict(self.changes))
        except SfxlabError as error:
            message, result = str(error), before
        self._later(lambda: self._tell(number, before, result, message))
        return result

    def _tell(self, number: int, before: FrameResult | None, now: FrameResult | None, message: str) -> None:
        marks = [self.viewer.model.marks(number, result) for result in (before, now)]
        self.outcome = {
            "frame": number,
            "before": marks[0].sentence,
            "now": marks[1].sentence,
            "status": marks[1].status or "",
            "reason": "" if now is None else now.reason,
            "cells": list(marks[1].cells),
            "seconds": {} if now is None else dict(now.seconds),
        }
        self.message = message

    def _apply(self, changes: dict[str, Any], numbers: range) -> None:
        def report(progress: Progress) -> None:
            share = progress.done.frames / max(progress.total, 1)
            self._show(
                state="running", text=f"{progress.done.frames} of {progress.total} frames, {progress}", share=share
            )

        output = self.folder / f"{datetime.now():%Y-%m-%dT%H-%M-%S-%f}"
        self._show(state="running", text="starting", share=0.0)
        try:
            run, comparison = self.model.apply(changes, numbers, output, self.client, report, self._stop)
        except Stopped:
            self._show(state="stopped", text=f"stopped; what is done is in {output}", share=0.0)
        except SfxlabError as error:
            self._show(state="failed", text=str(error), share=0.0)
        except Exception as error:  # a thread that dies silently would look as if it ran for ever
            self._show(state="failed", text=f"{type(error).__name__}: {error}", share=0.0)
            raise
        else:
            self.run = run
            self._later(lambda: self._compared(comparison, run))

    def _compared(self, comparison: Comparison, run: Run) -> None:
        self.comparison = {
            "text": str(comparison), "run": str(run.path), "gained": list(comparison.gained),
            "lost": list(comparison.lost), "hits": list(comparison.hits), "indexed": list(comparison.indexed),
        }  # fmt: skip
        self.applying = {"state": "done", "text": f"in {run.path}", "share": 1.0}

    def _show(self, **applying: Any) -> None:
        self._later(lambda: self.set_trait("applying", applying))

    def _later(self, call: Callable[[], None]) -> None:
        self.viewer.in_loop(call)
