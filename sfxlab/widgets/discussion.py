"""What a group says of frames, crystals and runs: tags, comments and votes, and where people differ."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import traitlets
from IPython.display import HTML

from sfxlab.errors import SessionError, SfxlabError
from sfxlab.session import Judged, Opinion, Session
from sfxlab.store import Run
from sfxlab.widgets.bound import SessionWidget
from sfxlab.widgets.following import hear
from sfxlab.widgets.models import discussion as models
from sfxlab.widgets.sources import joined

_MOST = 200
"""Entries and differences that a page has at once."""


class Discussion(SessionWidget):
    """Tags, comments and votes on the frame that is shown, on a crystal or on the run, with who said it and when.

    What is written is kept in the session for ever, and everybody who has it open sees it; `sfxlab.tagged("ice")` are
    the frames that a merge may leave out.

    Parameters
    ----------
    session:
        Where all of it is kept; its frame ("view.frame") and its run ("view.run") are what is talked about.
    run:
        The run or its path, so that crystals are known too; the session's where left out.
    """

    _esm = joined("elements.js", "discussion.js")
    _css = joined("widgets.css", "discussion.css")

    kind: Any = traitlets.Enum(models.KINDS, "frame").tag(sync=True)
    """What is talked about: the frame, one of its crystals, or the run."""
    frame = traitlets.Int(-1).tag(sync=True)
    """Number of the frame that is shown, -1 for none."""
    crystal = traitlets.Int(-1).tag(sync=True)
    """Row in the run's table of crystals, -1 for none."""
    crystals: Any = traitlets.List([]).tag(sync=True)
    """Rows of the crystals of the frame that is shown."""
    path = traitlets.Unicode("").tag(sync=True)
    """Where the run is; it is talked about by the name of its folder."""
    scope: Any = traitlets.Enum(("item", "everything", "differences"), "item").tag(sync=True)
    """What is listed."""
    filter = traitlets.Unicode("").tag(sync=True)
    """Words that entries have to contain."""
    seen = traitlets.Dict().tag(sync=True)
    """What there is to show: tags, votes, entries, differences, and how many there are of each."""

    def __init__(self, session: Session, run: Run | str | None = None, **traits: Any) -> None:
        super().__init__(session, **traits)
        self.model = models.Discussion(session)
        self._judged: list[Judged] = []
        self._known_owners: tuple[str, Any] = ("", None)
        self._task: asyncio.Task[None] | None = None
        self._due = False
        self.bind("view.frame", "frame")
        if run is None:
            self.bind("view.run", "path")
        else:
            self.path = str(run.path) if isinstance(run, Run) else run
        self._find_crystals()
        self.observe(self._find_crystals, ["kind", "frame", "path"])
        self.observe(self._show, ["kind", "frame", "crystal", "path", "scope", "filter"])
        self.observe(self._judge, "kind")
        # After the model, which so knows of a change before it is shown.
        self._unbind += [hear(session, models.WHATS, self._said), self.model.close]
        self.on_msg(self._heard)
        self._judge()

    @property
    def about(self) -> str:
        """What is talked about, as `Session.comment` takes it: "frame 17"; empty for nothing."""
        if self.kind == "run":
            return f"run {PurePath(self.path).name}" if self.path else ""
        number = self.frame if self.kind == "frame" else self.crystal
        return f"{self.kind} {number}" if number >= 0 else ""

    def talk_about(self, about: str) -> None:
        """Turn to "frame 17" or "crystal 40"; its frame is shown, wherever one is shown in this session."""
        found = models.item_of(about)
        if found is None or found[0] == "run":
            self.kind = "run" if found else self.kind
            return
        kind, number = found[0], models.number_of(*found)
        if kind == "frame":
            self.frame = number
        else:
            owners = self._owners()
            if 0 <= number < len(owners):
                self.frame = int(owners[number])
        self.kind = kind
        if kind == "crystal":
            self.crystal = number

    def comment(self, text: str) -> None:
        """Write something about it."""
        if self.session is not None:
            self.session.comment(self._asked(), text)

    def vote(self, choice: int) -> None:
        """Vote for it (1) or against it (-1), or take the vote back (0)."""
        if self.session is not None:
            self.session.vote(self._asked(), choice)  # type: ignore[arg-type]

    def tag(self, tag: str) -> None:
        """Give it a tag."""
        if self.session is not None:
            self.session.tag(*self._item(), tag)

    def untag(self, tag: str) -> None:
        """Take a tag off it, whoever gave it."""
        if self.session is not None:
            self.session.untag(*self._item(), tag)

    def differences(self) -> list[Judged]:
        """Items of this kind on which people differ, the contradictions first."""
        return models.differing(self._judged)

    def figure(self) -> HTML:
        """All that was said, and where people differ, as a page that can be kept and printed."""
        entries = "".join(f"<li>{html.escape(str(one))}</li>" for one in self.model.entries(None, self.filter))
        differences = "".join(f"<li>{html.escape(_sentence(one))}</li>" for one in self.differences())
        agreements = "; ".join(str(one) for one in models.agreements(self._judged))
        return HTML(
            f"<h4>Said</h4><ul>{entries or '<li>nothing</li>'}</ul>"
            f"<h4>People differ on these {self.kind}s</h4><ul>{differences or '<li>none</li>'}</ul>"
            f"<p>{html.escape(agreements)}</p>"
        )

    def _asked(self) -> str:
        if not self.about:
            raise SessionError(f"no {self.kind} is shown that could be talked about")
        return self.about

    def _item(self) -> tuple[str, list[str]]:
        kind, _, item = self._asked().partition(" ")
        return kind, [item]

    def _owners(self) -> Any:
        """The frame of each crystal of the run, (n_crystals,); empty where no run is known."""
        if not self.path:
            return np.zeros(0, np.int64)
        path, owners = self._known_owners
        if path != self.path:
            run = Run(self.path)
            owners = run.table("crystals", ["frame"])["frame"].to_numpy()
            self._known_owners = (self.path if run.is_finished else "", owners)
        return owners

    def _find_crystals(self, change: Any = None) -> None:
        rows: list[int] = []
        if self.kind == "crystal":
            try:
                rows = np.flatnonzero(self._owners() == self.frame).tolist()
            except SfxlabError as error:
                self.message = str(error)
        self.crystals = rows[:_MOST]
        if self.crystal not in rows:
            self.crystal = rows[0] if rows else -1

    def _said(self) -> None:
        self._show()
        self._judge()

    def _judge(self, change: Any = None) -> None:
        """Ask who differs: in the background, once more where something was said meanwhile; else at once."""
        self._due = True
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._due = False
            try:
                self._show_judged(self._read_judged())
            except SfxlabError as error:
                self.message = str(error)
            return
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._work())

    async def _work(self) -> None:
        while self._due:
            self._due = False
            try:
                judged = await asyncio.to_thread(self._read_judged)
            except SfxlabError as error:
                self.message = str(error)
            else:
                self._show_judged(judged)

    def _read_judged(self) -> list[Judged]:
        return [] if self.session is None else self.session.judged(self.kind)

    def _show_judged(self, judged: list[Judged]) -> None:
        self._judged = judged
        self._show()

    def _show(self, change: Any = None) -> None:
        listed = self.model.entries(self.about if self.scope == "item" else None, self.filter)
        differences = self.differences()
        self.seen = {
            "about": self.about, "person": "" if self.session is None else self.session.person.name,
            **_opinions(self.model.opinions(self.about) if self.about else {}),
            "entries": [_entry(one) for one in listed[:_MOST]], "n_listed": len(listed),
            "n_here": self.model.count(self.about), "n_entries": self.model.count(),
            "differences": [_difference(one) for one in differences[:_MOST]], "n_differences": len(differences),
            "agreements": [str(one) for one in models.agreements(self._judged)[:10]],
        }  # fmt: skip

    def _heard(self, widget: Any, content: Mapping[str, Any], buffers: Any) -> None:
        """Messages of a browser."""
        self.message = ""
        try:
            match content.get("kind"):
                case "comment":
                    self.comment(str(content.get("text", "")))
                case "vote":
                    self.vote(int(content.get("choice", 0)))
                case "tag":
                    (self.tag if content.get("on") else self.untag)(str(content.get("tag", "")))
                case "about":
                    self.talk_about(str(content.get("about", "")))
        except SfxlabError as error:
            self.message = str(error)


def _opinions(opinions: Mapping[str, Opinion]) -> dict[str, Any]:
    names = sorted({tag for one in opinions.values() for tag in (*one.tags, *one.refused)})
    tags = [
        {
            "tag": tag, "given": [person for person, one in opinions.items() if tag in one.tags],
            "refused": [person for person, one in opinions.items() if tag in one.refused],
        }
        for tag in names
    ]  # fmt: skip
    return {"tags": tags, "votes": {person: one.vote for person, one in opinions.items() if one.vote}}


def _entry(one: models.Entry) -> dict[str, Any]:
    return {
        "number": one.number, "what": one.what, "on": list(one.on[:3]), "n_on": len(one.on), "text": one.text,
        "person": one.person, "time": one.time.isoformat(),
    }  # fmt: skip


def _difference(one: Judged) -> dict[str, Any]:
    said = {
        person: {"tags": list(opinion.tags), "refused": list(opinion.refused), "vote": opinion.vote}
        for person, opinion in one.opinions.items()
    }
    return {"about": f"{one.kind} {one.item}", "disputed": one.is_disputed, "said": said}


def _sentence(one: Judged) -> str:
    def words(opinion: Opinion) -> str:
        votes = {1: ["for it"], -1: ["against it"]}.get(opinion.vote, [])
        return ", ".join([*opinion.tags, *(f"not {tag}" for tag in opinion.refused), *votes])

    return f"{one.kind} {one.item}: " + "; ".join(f"{person}: {words(said)}" for person, said in one.opinions.items())
