"""A new geometry from what a run has indexed, here or over Dask."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from distributed import Client, Future, KilledWorker

from sfxlab.cluster import connection_lost, task_result
from sfxlab.crystal import UnitCell
from sfxlab.detector_refinement.bodies import Level, groups_of
from sfxlab.detector_refinement.refine import DetectorRefinement, Gather, here, joined, refine_detector
from sfxlab.detector_refinement.stills import Chunk, Part, reindexed
from sfxlab.errors import CellError, ClusterError, GeometryError, RunError
from sfxlab.geometry import Geometry, parse_geometry
from sfxlab.store import Run

T = TypeVar("T")


@dataclass(frozen=True)
class RefinedGeometry:
    """A refined geometry, and how it came about."""

    geometry: Geometry
    refinement: DetectorRefinement
    n_hits: int
    indexed: tuple[int, ...]
    """Hits with crystals that each cycle began with: those of the run, then those found with the refined geometry."""


def refine_geometry(
    run: Run,
    *,
    level: Level = "panels",
    out_of_plane: bool = False,
    cell: UnitCell | None = None,
    cell_deviation: float = 0.01,
    cycles: int = 2,
    client: Client | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> RefinedGeometry:
    """Refine the geometry of a run against its crystals (`refine_detector`), index its peaks again, and so on.

    `cell` is that of the run's recipe unless it is given. The result does not depend on the workers of `client`.
    `progress` is called with the numbers of the cycle and of the pass, and the pixels that panels moved at most.

    Raises `RunError` where the run has no geometry or no crystals, `GeometryError` where groups are to be refined and
    there are none, `CellError` where a cell is to be kept and none is known, `ClusterError`.
    """
    detector, recipe = run.detector(), run.recipe
    geometry = parse_geometry(run.geometry_text, run.record.geometry_path)
    cell = cell or recipe.cell
    if cell_deviation == 0 and cell is None:
        raise CellError("no cell is known that could be kept", path=run.path, remedy="give one with -p")
    groups = groups_of(geometry)
    if level == "groups" and not groups:
        raise GeometryError(
            "the geometry has no groups of panels", path=run.path / "geometry.geom",
            expected="lines such as group_q0 = p0,p1", remedy="refine the panels, or the detector as a whole",
        )  # fmt: skip
    statuses = run.table("frames", ["status"])["status"].to_pylist()
    indexed, n_hits = [statuses.count("indexed")], statuses.count("indexed") + statuses.count("hit")
    if not indexed[0]:
        raise RunError("the run has no crystals", path=run.path, remedy="index it first, with a cell if one is known")
    present = set(range(run.record.n_chunks)) - set(run.missing_chunks())
    chunks: list[Part] = [Chunk(run.path, number, detector.camera_length) for number in sorted(present)]
    gather, parts = here if client is None else on_workers(client), chunks
    recipe = recipe if cell is None else recipe.with_cell(cell)
    refined: DetectorRefinement | None = None
    for cycle in range(1, cycles + 1):
        if refined is not None:
            found = list(gather(reindexed, chunks, refined.detector, recipe))
            indexed.append(sum(bool(crystals) for part in found for crystals in part.crystals))
            parts = list(found)
        again = refine_detector(
            parts, detector if refined is None else refined.detector, groups, level=level, out_of_plane=out_of_plane,
            cell=cell, cell_deviation=cell_deviation, gather=gather, progress=_reporting(progress, cycle),
        )  # fmt: skip
        refined = again if refined is None else joined(refined, again)
    assert refined is not None
    offset = sum(source.panel.corner[2] for source in geometry.panels) / len(geometry.panels)
    placed = geometry.with_detector(refined.detector, detector.camera_length - offset)
    return RefinedGeometry(placed, refined, n_hits, tuple(indexed))


def _reporting(progress: Callable[[int, int, float], None] | None, cycle: int) -> Callable[[int, float], None] | None:
    if progress is None:
        return None
    return lambda number, moved: progress(cycle, number, moved)


def on_workers(client: Client) -> Gather:
    """The `Gather` of Dask workers."""

    def gather(function: Callable[..., T], parts: Sequence[Part], *arguments: Any) -> Iterator[T]:
        token = uuid.uuid4().hex[:8]  # a scheduler that others use too takes tasks of one name for one task
        names = [f"refine-detector-{number:06d}-{token}" for number in range(len(parts))]
        same: Iterable[list[Any]] = ([argument] * len(parts) for argument in arguments)
        tasks: list[Future[T]] = []
        try:
            tasks = client.map(function, parts, *same, key=names, pure=False)
            while tasks:
                # What is let go of need not be kept by its worker.
                yield task_result(tasks.pop(0))
        except KilledWorker as error:
            raise ClusterError(
                "workers died again and again", found=error, remedy="give them more memory, or use --workers 0"
            ) from error
        except OSError as error:
            raise connection_lost(error) from error
        finally:
            if client.status == "running":
                client.cancel(tasks)

    return gather
