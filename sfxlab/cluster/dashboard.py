"""Dask's dashboard: where it is found, and panels of frames beside its own.

Pages are `frames`, and for each panel `individual-…`, as Dask's own are called.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask
import numpy as np
from distributed import Client
from numpy.typing import NDArray

from sfxlab.cluster.shares import SharingClient

TOPIC = "sfxlab-frames"
"""Of the events that workers tell the scheduler, one for each chunk that is done."""
PAGE = "frames"
_LINK = "distributed.dashboard.link"
_PLAIN = "{scheme}://{host}:{port}/status"
_BEHIND_HUB = "{JUPYTERHUB_SERVICE_PREFIX}proxy/{port}/status"
_WINDOW, _BINS = 300.0, 60
_COLOURS = ("#0072b2", "#d55e00")

Event = tuple[float, Mapping[str, Any]]


@dataclass(frozen=True)
class Rates:
    """What workers did along the last minutes."""

    seconds: NDArray[np.float64]
    """Middle of each interval, s from now; NaN rates where nothing ended."""
    frames_per_second: NDArray[np.float64]
    hit_rate: NDArray[np.float64]
    indexing_rate: NDArray[np.float64]
    of_workers: dict[str, float]
    """Frames a second of each worker while it had some, by its address."""


def rates(events: Iterable[Event], now: float, window: float = _WINDOW, bins: int = _BINS) -> Rates:
    """Rates by time, and by worker, of the chunks that ended in the last `window` seconds."""
    recent = [(when - now, told) for when, told in events if now - when <= window]
    edges = np.linspace(-window, 0, bins + 1)
    place = np.clip(np.searchsorted(edges, [when for when, _ in recent], side="right") - 1, 0, bins - 1)
    frames, hits, indexed = (
        np.bincount(place, [told[name] for _, told in recent], bins) for name in ("frames", "hits", "indexed")
    )
    workers: dict[str, list[float]] = {}
    for _, told in recent:
        sums = workers.setdefault(told["worker"], [0.0, 0.0])
        sums[0] += told["frames"]
        sums[1] += told["seconds"]
    with np.errstate(invalid="ignore", divide="ignore"):
        return Rates(
            (edges[1:] + edges[:-1]) / 2, frames * bins / window, hits / frames, indexed / hits,
            {worker: done / busy if busy else 0.0 for worker, (done, busy) in sorted(workers.items())},
        )  # fmt: skip


def tell_chunk(frames: int, hits: int, indexed: int, seconds: float) -> None:
    """Tell the scheduler of a chunk that is done. To be called on a worker."""
    from distributed import get_worker

    event = {"frames": frames, "hits": hits, "indexed": indexed, "seconds": seconds}
    get_worker().log_event(TOPIC, event)


def prepare(panels: bool) -> None:
    """What has to be set before a scheduler starts: its panels, and how links to it look behind a hub."""
    if os.environ.get("JUPYTERHUB_SERVICE_PREFIX") and dask.config.get(_LINK, _PLAIN) == _PLAIN:
        dask.config.set({_LINK: _BEHIND_HUB})
    if panels:
        from distributed.dashboard import scheduler as dashboard

        dashboard.applications.update(_applications())


def page_of(client: Client) -> str:
    """The link to the page of frames; that to Dask's own first page, where others started the scheduler."""
    link = str(client.dashboard_link)
    return link if isinstance(client, SharingClient) else link.removesuffix("status") + PAGE


def _applications() -> Mapping[str, Callable[..., None]]:
    panels = {f"/individual-{name}": partial(_document, [panel]) for name, panel in _PANELS.items()}
    return {f"/{PAGE}": partial(_document, list(_PANELS.values()))} | panels


def _document(
    panels: list[Callable[[], tuple[Any, Callable[[Rates], None]]]], scheduler: Any, extra: Any, doc: Any
) -> None:
    from bokeh.layouts import column

    made = [panel() for panel in panels]

    def update() -> None:
        found = rates(scheduler.get_events(TOPIC), time.time())
        for _, show in made:
            show(found)

    update()
    doc.title = "Frames"
    doc.add_root(column([figure for figure, _ in made], sizing_mode="stretch_both"))
    doc.add_periodic_callback(update, 1000)


def _figure(title: str, axis: str, **options: Any) -> Any:
    from bokeh.plotting import figure

    made = figure(title=title, tools="", sizing_mode="stretch_both", min_height=120, **options)
    made.toolbar.logo = None
    made.yaxis.axis_label = axis
    return made


def _frames_per_second() -> tuple[Any, Callable[[Rates], None]]:
    from bokeh.models import ColumnDataSource

    source = ColumnDataSource({"seconds": [], "rate": []})
    made = _figure("Frames a second", "frames/s", x_range=(-_WINDOW, 0))
    made.y_range.start = 0
    made.vbar(x="seconds", top="rate", width=0.9 * _WINDOW / _BINS, color=_COLOURS[0], source=source)
    made.xaxis.axis_label = "seconds from now"

    def show(found: Rates) -> None:
        source.data = {"seconds": found.seconds, "rate": found.frames_per_second}

    return made, show


def _hits_and_indexed() -> tuple[Any, Callable[[Rates], None]]:
    from bokeh.models import ColumnDataSource

    source = ColumnDataSource({"seconds": [], "hits": [], "indexed": []})
    made = _figure("Hit rate, and indexing rate of the hits", "fraction", x_range=(-_WINDOW, 0), y_range=(0, 1.02))
    for name, colour in zip(("hits", "indexed"), _COLOURS, strict=True):
        made.scatter("seconds", name, color=colour, legend_label=name, source=source)
        made.line("seconds", name, color=colour, source=source)
    made.xaxis.axis_label = "seconds from now"
    made.legend.location = "top_left"

    def show(found: Rates) -> None:
        source.data = {"seconds": found.seconds, "hits": found.hit_rate, "indexed": found.indexing_rate}

    return made, show


def _of_workers() -> tuple[Any, Callable[[Rates], None]]:
    from bokeh.models import ColumnDataSource, FactorRange

    source = ColumnDataSource({"worker": [], "rate": []})
    made = _figure("Frames a second of each worker, while it has some", "", y_range=FactorRange())
    made.x_range.start = 0
    made.hbar(y="worker", right="rate", height=0.8, color=_COLOURS[0], source=source)
    made.xaxis.axis_label = "frames/s"

    def show(found: Rates) -> None:
        names = list(found.of_workers)
        if made.y_range.factors != names:
            made.y_range.factors = names
        source.data = {"worker": names, "rate": list(found.of_workers.values())}

    return made, show


_PANELS = {
    "frames-per-second": _frames_per_second,
    "hits-and-indexed": _hits_and_indexed,
    "frames-of-workers": _of_workers,
}
