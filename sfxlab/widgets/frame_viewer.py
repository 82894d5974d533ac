"""Frames in a notebook, with peaks and predictions on them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets
from PIL import Image

from sfxlab.errors import SfxlabError
from sfxlab.frames import FrameSource
from sfxlab.pipeline import FrameResult
from sfxlab.recipe import Recipe
from sfxlab.store import Run
from sfxlab.widgets.bound import SessionWidget
from sfxlab.widgets.company import Watcher
from sfxlab.widgets.models.assembling import Region
from sfxlab.widgets.models.colour_maps import COLOUR_MAPS, INVERTED_GREY, LATTICE_COLOURS, MARK_COLOURS
from sfxlab.widgets.models.frame_viewer import FrameViewerModel, Marks, header
from sfxlab.widgets.models.paper_picture import PaperPicture, png_of
from sfxlab.widgets.models.viewed_frames import PlainFrames, RunFrames, find_next, viewed
from sfxlab.widgets.sources import joined

if TYPE_CHECKING:
    from sfxlab.session import Change, Session

_LOG = logging.getLogger(__name__)
FLAG = "flag"
"""The tag that the key F gives and takes."""

LAYERS = {"peaks": True, "predictions": True, "rings": True, "panels": False, "mask": False, "beam": True}
"""What is drawn on the pixels at first."""

Reply = Callable[[Mapping[str, Any], Iterable[Any]], None]


class FrameViewer(SessionWidget):
    """The frames of a run or of any source: pan, zoom, contrast, peaks, predictions, what is under the pointer.

    `source` is a `Run` (its own peaks and lattices are shown) or frames from `open_frames` (each is processed with
    `recipe` when it is looked at). In a session, frame, contrast, part seen and layers are those of everybody, of
    somebody who is followed, or one's own (`Session.follow`), and tags are kept there. `figure()` is the picture for a
    paper.
    """

    _esm = joined("elements.js", "frame_painting.js", "frame_contrast.js", "frame_people.js", "frame_viewer.js")
    _css = joined("widgets.css", "frame_viewer.css")

    frame = traitlets.Int(0).tag(sync=True)
    """Number of the frame that is shown."""
    n_frames = traitlets.Int(0).tag(sync=True)
    centre: Any = traitlets.List([]).tag(sync=True)
    """What is in the middle, x and y in pixels of the picture; empty for the middle of the picture."""
    zoom = traitlets.Float(0.0).tag(sync=True)
    """Screen pixels to a pixel of the picture; 0 where the whole picture fits."""
    contrast = traitlets.Dict({"low": None, "high": None, "gamma": 1.0, "map": INVERTED_GREY}).tag(sync=True)
    """Values in ADU of the first and the last colour (None: automatic for each frame), gamma and colour map."""
    layers = traitlets.Dict(LAYERS).tag(sync=True)
    """What is drawn on the pixels."""
    tags: Any = traitlets.List([]).tag(sync=True)
    """Tags of the frame that is shown."""
    may_tag = traitlets.Bool(True).tag(sync=True)
    """Whether the person may change more than the own view."""
    people: Any = traitlets.List([]).tag(sync=True)
    """Who is there: `name`, `who` in words, `role`, `colour`, where he or she `looks`, whether at the `same` kernel."""
    following: Any = traitlets.Unicode("", allow_none=True).tag(sync=True)
    """Whose view is shown: a person's, everybody's where empty, one's own where None. `Session.follow` changes it."""
    news = traitlets.Dict().tag(sync=True)
    """What somebody did last: `person`, `who`, `text` and the change's `number`."""
    bits = traitlets.Enum([8, 16], 8).tag(sync=True)
    """Bits to a pixel on the way to the browser."""
    height = traitlets.Int(600).tag(sync=True)
    """Of the part with the picture, in pixels of the page."""

    def __init__(
        self,
        source: Run | FrameSource | RunFrames | PlainFrames,
        recipe: Recipe | None = None,
        *,
        session: Session | None = None,
        **traits: Any,
    ) -> None:
        self.model = FrameViewerModel(viewed(source, recipe))
        super().__init__(session, n_frames=len(self.model), **traits)
        self._loop = _running_loop()
        # Pictures do not wait for frames that are read ahead, nor for those that are processed first.
        self._threads = {name: ThreadPoolExecutor(1, f"frame-viewer-{name}") for name in ("picture", "ahead", "result")}
        self._results: Callable[[int], FrameResult | None] = self.model.source.result
        self._local_tags: dict[int, set[str]] = {}
        self._searching = self._redraws = 0
        self._closed = False
        self._wanted: dict[str, int] = {}
        self._marked: tuple[int, FrameResult | None] = (-1, None)
        for name in ("frame", "contrast", "centre", "zoom", "layers"):
            self.bind(f"view.{name}", name)
        if session is not None:
            self._join(session)
        self.observe(self._moved, "frame")
        self.on_msg(self._asked)
        self._show_tags()
        self._submit("ahead", self._read_ahead, self.frame, True)

    def _join(self, session: Session) -> None:
        self.may_tag, self.following = session.may_change(), session.viewing.following

        def turned(change: Change) -> None:
            self.following, self.disabled = change.value, not session.viewing.may_change()

        watcher = Watcher(session, self._later("people"), self._later("news"))
        self._unbind += [
            session.subscribe(self._heard),
            session.viewing.listen(lambda change: self.in_loop(partial(turned, change))),
            watcher.end,
        ]

    def _later(self, trait: str) -> Callable[[Any], None]:
        return lambda value: self.in_loop(lambda: self.set_trait(trait, value))

    @property
    def frames(self) -> FrameSource:
        """The frames that are looked at."""
        return self.model.source.frames

    def show(self, results: Callable[[int], FrameResult | None] | None) -> None:
        """Draw what this function says became of a frame; None for what the source says."""
        self._results = self.model.source.result if results is None else results
        self.redraw()

    def redraw(self) -> None:
        """Draw the marks of the frame anew, on all pages."""
        self._redraws += 1
        self._submit("result", self._send_marks, None, self.frame, self._redraws)

    def result(self, number: int | None = None) -> FrameResult | None:
        """What became of a frame, or of the one that is shown."""
        return self._results(self.frame if number is None else number)

    def figure(self, number: int | None = None, **choices: Any) -> Image.Image:
        """The picture for a paper: choices are those of `PaperPicture`, the rest is as on the screen."""
        shown = self.frame if number is None else number
        wanted = PaperPicture(contrast=dict(self.contrast), **{"layers": dict(self.layers), **choices})
        return wanted.draw(self.model, shown, self._results(shown))

    def close(self) -> None:
        """Take the viewer off all pages."""
        for pool in getattr(self, "_threads", {}).values():
            pool.shutdown(wait=False, cancel_futures=True)
        self._closed = True
        super().close()

    def _asked(self, _: Any, content: dict[str, Any], __: Any) -> None:
        """A message from a page; whatever is wrong with it is told there."""
        answer = {
            "hello": self._hello, "picture": self._picture, "pointer": self._pointer, "find": self._find,
            "tag": self._tag, "save": self._save, "follow": self._follow,
        }[content["kind"]]  # fmt: skip
        pool = {"find": "result", "save": "result"}.get(content["kind"], "picture")
        if content["kind"] == "find":
            self._searching += 1
        if content["kind"] == "picture":
            self._wanted[content["client"]] = content["frame"]
        if content["kind"] in ("tag", "hello", "follow"):
            self._guarded(answer, content)
        else:
            self._submit(pool, self._guarded, answer, content)

    def _guarded(self, answer: Callable[[dict[str, Any]], None], content: dict[str, Any]) -> None:
        try:
            answer(content)
        except SfxlabError as error:
            self._reply(content, {"kind": "failed", "text": str(error)})
        except Exception as error:  # a bug of ours shall not leave a viewer that says nothing
            _LOG.exception("a message of a viewer could not be answered: %s", content)
            self._reply(content, {"kind": "failed", "text": f"{type(error).__name__}: {error}"})
            raise

    def _reply(self, content: Mapping[str, Any], answer: Mapping[str, Any], buffers: Iterable[Any] = ()) -> None:
        # Messages go to all pages; each takes those for itself.
        told = {"client": content.get("client"), "request": content.get("request"), "frame": content.get("frame")}
        self.in_loop(lambda: self.send({**told, **answer}, list(buffers)))

    def _submit(self, pool: str, call: Callable[..., None], *arguments: Any) -> None:
        if not self._closed:
            # With what is known of who asks.
            self._threads[pool].submit(copy_context().run, call, *arguments)

    def in_loop(self, call: Callable[[], None]) -> None:
        """Call this in the kernel's event loop, or at once where there is none."""
        if self._loop is None or self._loop.is_closed() or _running_loop() is self._loop:
            call()
        else:
            self._loop.call_soon_threadsafe(call)

    def _hello(self, content: dict[str, Any]) -> None:
        colours = {"lattices": LATTICE_COLOURS, **MARK_COLOURS}
        answer = {"kind": "hello", "maps": list(COLOUR_MAPS), "colours": colours, "flag": FLAG}
        self._reply(content, answer, [np.stack(list(COLOUR_MAPS.values())).tobytes()])

    def _picture(self, content: dict[str, Any]) -> None:
        number = int(content["frame"])
        scene = self.model.scene(number)
        region = content["region"]
        wanted = self.model.fitting(number, *content["size"]) if region is None else Region(**region)
        picture = self.model.picture(number, wanted, content["bits"], show_bad=content["show_bad"])
        answer = {"kind": "picture", "facts": self.model.facts(number), "scene": scene, **header(picture)}
        self._reply(content, answer, [picture.codes.tobytes(), picture.values.tobytes()])
        if content["marks"]:
            self._submit("result", self._send_marks, content, number)
            self._submit("ahead", self._read_ahead, number + content["direction"])

    def _send_marks(self, content: Mapping[str, Any] | None, number: int, redraw: int | None = None) -> None:
        # Only the last of several that wait counts. A page's request may overtake its change of `frame`.
        wanted = self.frame if content is None else self._wanted.get(content["client"])
        if number != wanted or redraw not in (None, self._redraws):
            return
        asked = content or {"client": None, "frame": number}
        try:
            self._marked = number, self._results(number)
            marks = self.model.marks(*self._marked)
        except SfxlabError as error:
            self._reply(asked, {"kind": "failed", "text": str(error)})
            return
        self._reply(asked, {"kind": "marks", **_described(marks)}, _buffers(marks))

    def _pointer(self, content: dict[str, Any]) -> None:
        number = int(content["frame"])
        marked, result = self._marked
        pixel = self.model.under(number, content["x"], content["y"], result if marked == number else None)
        self._reply(content, {"kind": "pointer", "text": "" if pixel is None else str(pixel)})

    def _find(self, content: dict[str, Any]) -> None:
        search, step, wanted = self._searching, content["step"], content["wanted"]
        found = find_next(self.model.source, content["frame"], wanted, step, lambda: self._searching != search)
        if found is not None:
            self.in_loop(lambda: self.set_trait("frame", found))
        elif self._searching == search:
            words = {"hit": "hit", "unindexed": "hit without a lattice"}[wanted]
            self._reply(content, {"kind": "note", "text": f"no {'further' if step > 0 else 'earlier'} {words}"})

    def _follow(self, content: dict[str, Any]) -> None:
        if self.session is not None:
            self.session.follow(content["whom"])

    def _tag(self, content: dict[str, Any]) -> None:
        change = self.tag if content["on"] else self.untag
        change(content["tag"], content["frame"])

    def tag(self, tag: str, number: int | None = None) -> None:
        """Tag a frame, or the one that is shown. Raises `NotAllowedError` for those who may only look."""
        shown = self.frame if number is None else number
        if self.session is None:
            self._local_tags.setdefault(shown, set()).add(tag)
        else:
            self.session.tag("frame", [str(shown)], tag)
        self._show_tags()

    def untag(self, tag: str, number: int | None = None) -> None:
        """Take a tag off a frame, or off the one that is shown."""
        shown = self.frame if number is None else number
        if self.session is None:
            self._local_tags.get(shown, set()).discard(tag)
        else:
            self.session.untag("frame", [str(shown)], tag)
        self._show_tags()

    def _save(self, content: dict[str, Any]) -> None:
        number = int(content["frame"])
        picture = self.figure(number, **content["choices"])
        name = f"{PurePath(self.frames.identity(number).path).stem}-{number}.png"
        self._reply(content, {"kind": "saved", "name": name}, [png_of(picture)])

    def _moved(self, _: Any) -> None:
        self._searching += 1
        self._show_tags()

    def _heard(self, change: Change) -> None:
        if change.kind in ("tag", "untag"):
            self.in_loop(self._show_tags)

    def _show_tags(self) -> None:
        if self.session is None:
            self.tags = sorted(self._local_tags.get(self.frame, ()))
        else:
            self.tags = sorted(self.session.tags("frame", str(self.frame)))

    def _read_ahead(self, number: int, draw: bool = False) -> None:
        """Read a frame that will be looked at; with `draw`, also load the compiled code that draws it."""
        if not 0 <= number < len(self.model):
            return
        try:
            self.model.scene(number)
            if draw:
                self.model.picture(number, self.model.fitting(number, 400, 400))
        except SfxlabError:
            _LOG.debug("frame %d cannot be read ahead", number, exc_info=True)  # said when it is looked at


def _described(marks: Marks) -> dict[str, Any]:
    sizes = [len(marks.owners), *map(len, marks.predictions)]
    return {"status": marks.status, "sentence": marks.sentence, "cells": marks.cells, "sizes": sizes}


def _buffers(marks: Marks) -> list[bytes]:
    return [marks.peaks.tobytes(), marks.owners.tobytes(), *(places.tobytes() for places in marks.predictions)]


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
