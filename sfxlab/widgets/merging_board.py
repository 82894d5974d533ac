"""A merge whose curves follow while cuts on the crystals move, for everybody; another one beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets
from bokeh.layouts import row

from sfxlab.errors import SfxlabError
from sfxlab.merging import Merged
from sfxlab.merging.distribution import wilson_plot
from sfxlab.report.charts import shells_chart, wilson_chart
from sfxlab.store import Run
from sfxlab.widgets.bound import SessionWidget
from sfxlab.widgets.following import hear, repeat
from sfxlab.widgets.models import merging_board as models
from sfxlab.widgets.sources import joined

if TYPE_CHECKING:
    from sfxlab.session import Session


class MergingBoard(SessionWidget):
    """Figures of a merge by shells, its Wilson plot and its crystals, with cuts as sliders.

    Parameters
    ----------
    run, point_group:
        What to merge: a run or its path, and the symmetry.
    session:
        Where cuts ("merge.cuts"), settings ("merge.settings"), the selection and tags are shared.
    beside:
        Another merge to compare with, as of another run or a file.
    seconds:
        How often a growing run is looked at.
    options:
        As of `sfxlab.RunningMerge`: `cell`, `d_min`, `space_group` and others.
    """

    _esm = joined("charts.js", "merging_board.js")
    _css = joined("widgets.css", "charts.css", "merging_board.css")

    cuts = traitlets.Dict().tag(sync=True)
    """See `models.merging_board.Cuts`."""
    settings = traitlets.Dict().tag(sync=True)
    """See `models.merging_board.Settings`."""
    selection = traitlets.Dict().tag(sync=True)
    limits = traitlets.Dict().tag(sync=True)
    """Least and greatest value, and step, of each slider."""
    tags: Any = traitlets.List().tag(sync=True)
    """Tags of frames and crystals that there are."""
    figures = traitlets.Dict().tag(sync=True)
    table_one: Any = traitlets.List().tag(sync=True)
    """Lines of a label, the value over all and that of the outer shell."""
    busy = traitlets.Bool(False).tag(sync=True)
    saved = traitlets.Unicode("").tag(sync=True)
    """The file that was written last."""

    def __init__(
        self,
        run: Run | str,
        point_group: str,
        session: Session | None = None,
        *,
        beside: Merged | None = None,
        seconds: float = 10.0,
        **options: Any,
    ) -> None:
        super().__init__(session)
        self.model = models.MergingBoard(
            Run(run) if isinstance(run, str) else run, point_group, beside=beside, **options
        )
        self._task: asyncio.Task[None] | None = None
        self._due = False
        self._problem = ""
        self.limits = self.model.limits()
        for name, trait in (("merge.cuts", "cuts"), ("merge.settings", "settings"), ("selection", "selection")):
            self.bind(name, trait)
        self._unbind.append(hear(session, ("tag", "untag"), self._tags_changed))
        self._tags_changed()
        self._compute()
        self.observe(self._renew, ["cuts", "settings"])
        self.observe(self._selected_anew, "selection")
        self.on_msg(self._heard)
        if not self.model.run.is_finished:
            self._unbind.append(repeat(seconds, lambda: self.model.update() or None, self._grown, self._tell))

    def cut(self, **cuts: Any) -> None:
        """Set cuts, for every board of the session; those that are not named are taken away."""
        self.cuts = models.read_cuts(cuts).model_dump(mode="json", exclude_defaults=True)

    def merged(self) -> Merged:
        """What is merged now. Raises `MergeError`."""
        cuts, settings = models.read_cuts(self.cuts), models.read_settings(self.settings)
        return self.model.merged(cuts, settings, self._tagged(), self.selection_rows)

    def refit(self) -> None:
        """Fit the scales again on the crystals that pass now, for every board of the session."""
        self.settings = {**self.settings, "scaled_on": dict(self.cuts) or None}

    def put_beside(self) -> None:
        """Keep the present cuts beside, to compare others with."""
        self.settings = {**self.settings, "beside": dict(self.cuts)}

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write what is merged now as MTZ. Raises as `Merged.to_mtz` does."""
        path = Path(path).expanduser()
        path = path if path.suffix else path.with_suffix(".mtz")
        self.merged().to_mtz(path, overwrite=overwrite)
        self.saved = str(path.absolute())
        if self.session is not None:
            self.session.record("merge", {"path": self.saved, "cuts": self.cuts, "settings": self.settings})
        return path.absolute()

    def figure(self) -> Any:
        """Figures by shells and the Wilson plot of what is merged now, a bokeh layout. Raises `MergeError`."""
        merged, settings = self.merged(), models.read_settings(self.settings)
        shells = merged.statistics(settings.n_shells, settings.d_min, settings.d_max).shells
        columns = {
            name: np.array([getattr(shell, name) for shell in shells])
            for name in ("cc_half", "cc_half_low", "cc_half_high", "rsplit", "completeness")
        }
        inner = np.array([0.0 if np.isinf(shell.d_max) else 1 / shell.d_max for shell in shells])
        middle = np.sqrt((inner**2 + np.array([1 / shell.d_min for shell in shells]) ** 2) / 2)
        lines = {"CC1/2": columns["cc_half"], "Rsplit": columns["rsplit"], "completeness": columns["completeness"]}
        chart = shells_chart(middle, lines, (columns["cc_half_low"], columns["cc_half_high"]))
        return row(chart, wilson_chart(wilson_plot(merged)), sizing_mode="stretch_width")

    @property
    def selection_rows(self) -> list[int]:
        """Rows of `Run.crystals` that the session has selected."""
        items = [int(item) for item in self.selection.get("items") or []]
        if self.selection.get("kind") == "crystal" or not items:
            return items
        frames = self.model.run.table("crystals", ["frame"])["frame"].to_numpy()
        return list(np.flatnonzero(np.isin(frames, items)).tolist())

    def _tagged(self) -> models.Tagged | None:
        return None if self.session is None else self.session.tagged

    def _renew(self, change: Any = None) -> None:
        """Compute in the background, once more where something changed meanwhile; at once where no event loop runs."""
        self._due = True
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._due = False
            self._compute()
            return
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._work())

    async def _work(self) -> None:
        while self._due:
            self._due, self.busy = False, True
            try:
                figures = await asyncio.to_thread(self._figures)
            except SfxlabError as error:
                self._tell(error)
            else:
                self._show(figures)
            finally:
                self.busy = False

    def _figures(self) -> dict[str, Any]:
        cuts, settings = models.read_cuts(self.cuts), models.read_settings(self.settings)
        return self.model.figures(cuts, settings, self._tagged(), self.selection_rows)

    def _compute(self) -> None:
        try:
            self._show(self._figures())
        except SfxlabError as error:
            self._tell(error)

    def _show(self, figures: dict[str, Any]) -> None:
        with self.hold_trait_notifications():
            if self.message == self._problem:  # and not what the session refused
                self.message = ""
            self.figures = figures
            self.table_one = []

    def _selected_anew(self, change: Any) -> None:
        if self.cuts.get("only_selected"):
            self._renew()

    def _tags_changed(self) -> None:
        if self.session is not None:
            try:
                found = {tag for kind in ("frame", "crystal") for tag in self.session.tags(kind)}
            except SfxlabError as error:
                self._tell(error)
                return
            self.tags = sorted(found)
            if self.figures and self.cuts.get("without"):
                self._renew()

    def _grown(self, n: int) -> None:
        self.limits = self.model.limits()
        self._renew()

    def _tell(self, error: SfxlabError) -> None:
        self.message = self._problem = str(error)

    def _heard(self, widget: Any, content: Mapping[str, Any], buffers: Any) -> None:
        try:
            match content.get("kind"):
                case "table":
                    settings = models.read_settings(self.settings)
                    self.table_one = [list(line) for line in self.model.table_one(self.merged(), settings).lines]
                case "save" if not self.disabled:
                    self.save(str(content.get("path") or "merged.mtz"))
                    self.message = ""
        except SfxlabError as error:
            self._tell(error)
