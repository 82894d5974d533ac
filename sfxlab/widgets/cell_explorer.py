"""The cells of crystals: linked histograms; a range that is dragged selects crystals everywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets
from bokeh.layouts import gridplot
from numpy.typing import NDArray

from sfxlab.crystal.cell_file import format_cell
from sfxlab.crystal.distribution import PARAMETERS
from sfxlab.errors import CellError, SfxlabError
from sfxlab.report.charts import histogram_chart
from sfxlab.store import Run
from sfxlab.widgets.bound import SessionWidget
from sfxlab.widgets.following import Tasks, repeat
from sfxlab.widgets.models import cell_explorer as models
from sfxlab.widgets.models.numbers import numbers
from sfxlab.widgets.sources import joined

if TYPE_CHECKING:
    from sfxlab.session import Session

MOST_SELECTED = 100_000
"""Crystals that a selection of a session may hold."""


class CellExplorer(SessionWidget):
    """Histograms of a, b, c, α, β, γ by lattice or by cluster, with a fit of what is selected, and cells to save.

    Parameters
    ----------
    run:
        A run, growing or finished, its path, or cells of `models.cell_explorer`.
    session:
        Where ranges ("cells.ranges"), the selection, and the cell that was saved last ("cells.chosen") are shared.
    seconds:
        How often a growing run is looked at.
    """

    _esm = joined("charts.js", "cell_explorer.js")
    _css = joined("widgets.css", "charts.css", "cell_explorer.css")

    ranges = traitlets.Dict().tag(sync=True)
    """Least and greatest value of some parameters, Å and degrees."""
    group_by: Any = traitlets.Enum(("centring", "cluster"), "centring").tag(sync=True)
    zoomed = traitlets.Bool(False).tag(sync=True)
    """Whether the histograms show the selected crystals only."""
    selection = traitlets.Dict().tag(sync=True)
    figures = traitlets.Dict().tag(sync=True)
    """Histograms and fit, see `models.cell_explorer.drawn`."""
    n_crystals = traitlets.Int(0).tag(sync=True)
    n_selected = traitlets.Int(0).tag(sync=True)
    proposals: Any = traitlets.List().tag(sync=True)
    busy = traitlets.Unicode("").tag(sync=True)
    """What is being worked on."""
    chosen = traitlets.Dict().tag(sync=True)
    """The cell that was saved last: `cell`, the text of its file, and `path`."""

    def __init__(
        self,
        run: Run | str | models.CrystalCells,
        session: Session | None = None,
        *,
        seconds: float = 5.0,
        **traits: Any,
    ) -> None:
        super().__init__(session, **traits)
        self._run = run if isinstance(run, Run) else Run(run) if isinstance(run, str) else None
        self.cells = run if isinstance(run, models.CrystalCells) else models.CrystalCells.of_run(self._run)  # type: ignore[arg-type]
        self._proposals: list[models.Proposal] = []
        self._tasks = Tasks()
        for name, trait in (("cells.ranges", "ranges"), ("selection", "selection"), ("cells.chosen", "chosen")):
            self.bind(name, trait)
        self.observe(self._draw, ["ranges", "group_by", "zoomed", "selection"])
        self.on_msg(self._heard)
        self._draw()
        if self._run is not None and not self._run.is_finished:
            self._unbind.append(repeat(seconds, self._read, self._take, self._tell))

    @property
    def selected(self) -> NDArray[np.bool_]:
        """Which crystals are selected, (n,): those within the ranges, or what others selected."""
        among = self._among()
        inside = self.cells.passing(self.ranges)
        return inside if among is None else inside & among

    def brush(self, ranges: Mapping[str, Any]) -> None:
        """Select the crystals within these ranges, for every widget of the session.

        Raises `CellError` where they are more than a session can hold.
        """
        rows = np.flatnonzero(self.cells.passing(ranges)).tolist() if ranges else []
        if len(rows) > MOST_SELECTED:
            raise CellError(
                "so many crystals cannot be selected", found=len(rows), expected=f"at most {MOST_SELECTED}",
                remedy="make a range narrower",
            )  # fmt: skip
        with self.hold_trait_notifications():
            self.ranges = {name: [float(low), float(high)] for name, (low, high) in ranges.items()}
            self.selection = {"kind": "crystal", "items": rows, "why": models.why_of(self.ranges)}

    def propose(self) -> list[models.Proposal]:
        """Cells for the selected crystals, the first being their mean. Raises `CellError`."""
        self._propose(self.cells.propose(self.selected))
        return self._proposals

    def save(self, path: str | Path, which: int = 0, *, overwrite: bool = False) -> Path:
        """Write one of the proposed cells to a file, and tell the session.

        Raises `CellError` where nothing is selected, `OutputExistsError`, or `RunError` where it cannot be written.
        """
        if not self._proposals:
            self.propose()
        cell = self._proposals[which].cell
        written = models.save(cell, path, overwrite=overwrite)
        self.chosen = {"cell": format_cell(cell), "path": str(written)}
        if self.session is not None:
            self.session.record("cell", {**self.chosen, "of": self.selection.get("why") or "all crystals"})
        return written

    def figure(self) -> Any:
        """The six histograms of the selected crystals, a bokeh layout. Raises `CellError` where nothing is selected."""
        if not self.selected.any():
            raise CellError("no crystal is selected", remedy="make the ranges wider")
        units = ("Å", "Å", "Å", "°", "°", "°")
        chosen = self.cells.parameters[self.selected]
        charts = [
            histogram_chart(chosen[:, i], f"{name} / {unit}")
            for i, (name, unit) in enumerate(zip("abcαβγ", units, strict=True))
        ]
        return gridplot(charts, ncols=3, toolbar_location=None, sizing_mode="stretch_width")  # type: ignore[call-overload]

    def _among(self) -> NDArray[np.bool_] | None:
        """The crystals that others selected; None where the ranges say which."""
        items = self.selection.get("items") or []
        if not items or self.selection.get("why") == models.why_of(self.ranges):
            return None
        numbers_of = np.array([int(item) for item in items], dtype=np.int64)
        if self.selection.get("kind") == "crystal":
            among = np.zeros(len(self.cells), dtype=bool)
            among[numbers_of[(numbers_of >= 0) & (numbers_of < len(among))]] = True
            return among
        return np.isin(self.cells.table["frame"].to_numpy(), numbers_of)

    def _draw(self, change: Any = None) -> None:
        if change is not None and change.new != getattr(self, change.name):
            return  # the session has refused it since, and said why
        if change is not None and change.name in ("ranges", "selection"):
            self._propose([])  # they were for others
        try:
            among, chosen = self._among(), self.selected
            found = models.histograms(self.cells, self.ranges, self.group_by, among, chosen if self.zoomed else None)
            fit = self.cells.fit(chosen) if chosen.any() else None
        except SfxlabError as error:
            self._tell(error)
            return
        with self.hold_trait_notifications():
            self.message = ""
            self.n_crystals, self.n_selected = len(self.cells), int(chosen.sum())
            self.figures = models.drawn(found, fit)

    def _read(self) -> models.CrystalCells | None:
        if self._run is None:
            return None
        cells = models.CrystalCells.of_run(self._run)
        return cells if len(cells) != len(self.cells) else None

    def _take(self, cells: models.CrystalCells) -> None:
        self.cells = cells
        self._draw()

    def _propose(self, proposals: list[models.Proposal]) -> None:
        self._proposals = proposals
        self.proposals = [
            {
                "cell": numbers(np.array(p.cell.parameters), 7), "deviation": numbers(p.deviation, 2),
                "lattice": f"{p.cell.lattice_type} {p.cell.centring}", "n": p.n_crystals, "why": p.why,
            }
            for p in proposals
        ]  # fmt: skip

    async def _proposed(self) -> None:
        self.busy = "looking for cells …"
        try:
            self._propose(await asyncio.to_thread(self.cells.propose, self.selected))
            self.message = ""
        except SfxlabError as error:
            self._tell(error)
        finally:
            self.busy = ""

    async def _grouped(self, by: str) -> None:
        if by == "cluster":
            self.busy = "sorting crystals by their cells …"
            await asyncio.to_thread(lambda: self.cells.clusters)
            self.busy = ""
        self.group_by = by

    def _tell(self, error: SfxlabError) -> None:
        self.message = str(error)

    def _heard(self, widget: Any, content: dict[str, Any], buffers: Any) -> None:
        match content.get("kind"):
            case "brush" if not self.disabled:
                self._attempt(
                    self.brush, {name: content["ranges"][name] for name in PARAMETERS if name in content["ranges"]}
                )
            case "group":
                self._tasks.start(self._grouped(str(content.get("by"))))
            case "propose":
                self._tasks.start(self._proposed())
            case "save" if not self.disabled:
                path = str(content.get("path") or "selected.cell")
                self._attempt(self.save, path, int(content.get("which", 0)))

    def _attempt(self, what: Callable[..., Any], *arguments: Any) -> None:
        try:
            what(*arguments)
            self.message = ""
        except SfxlabError as error:
            self._tell(error)
