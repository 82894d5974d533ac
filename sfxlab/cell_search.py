"""The cell of a run that was indexed without one, with what speaks for it."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from distributed import Client
from numpy.typing import NDArray

from sfxlab.crystal import UnitCell
from sfxlab.crystal.cell_clusters import CellCluster, SymmetryEvidence, cell_clusters
from sfxlab.errors import CellError
from sfxlab.frames import FrameSource
from sfxlab.indexing import index, target_of
from sfxlab.processing import process
from sfxlab.progress import Report
from sfxlab.recipe import Recipe
from sfxlab.store import Run

LEAST_LATTICES = 3
"""Fewer lattices that are alike propose no cell, where others do."""
MOST_LATTICES = 1000
"""From so many lattices, those least likely by chance, cells are found."""
TESTED_HITS = 100
SAMPLE_FRAMES = 500
SAMPLE_LATTICES = 100


@dataclass(frozen=True)
class CellProposal:
    """A conventional cell that lattices of a run share."""

    cell: UnitCell
    n_lattices: int
    """Lattices of the run, found without a cell, that have it."""
    share: float
    """Their share of all lattices looked at."""
    deviation: NDArray[np.float64]
    """Robust standard deviation of a, b, c (Å), α, β, γ (degrees) of single lattices, (6,)."""
    symmetries: tuple[SymmetryEvidence, ...]
    """Symmetries that the mean cell nearly has, from triclinic upwards; the last accepted one is that of `cell`."""
    n_tested: int
    """Hits, spread over the run, that were indexed again with this cell."""
    n_explained: int
    """How many of these it explains."""

    def __str__(self) -> str:
        return (
            f"{self.cell}: {self.n_lattices} lattices ({self.share:.0%}), "
            f"explains {self.n_explained} of {self.n_tested} hits"
        )


def find_cell(run: Run) -> tuple[CellProposal, ...]:
    """The cells that the crystals of a run share, the most frequent first, METHODS.md sections 4.5, 4.9 and 9.4.

    The reduced cells are clustered and averaged; the symmetry of the mean is the highest that single cells do not
    speak against; and hits of the run are indexed again with the conventional cell. Raises `CellError` where there
    are no crystals.
    """
    crystals = run.table("crystals", [*_BASIS, *_KIND, "log10_p"]).to_pydict()
    if not crystals["log10_p"]:
        raise CellError("no crystal in this run", path=run.path, remedy="see why: sfxlab report RUN -o report.html")
    order = np.argsort(crystals["log10_p"], kind="stable")[:MOST_LATTICES]
    bases = np.array([_primitive_basis({name: values[row] for name, values in crystals.items()}) for row in order])
    clusters = cell_clusters(bases)
    tested = _tested_hits(run)
    return tuple(
        _proposal(cluster, len(bases), tested, run.recipe)
        for number, cluster in enumerate(clusters)
        if number == 0 or len(cluster.members) >= max(LEAST_LATTICES, 0.02 * len(bases))
    )


def find_cell_of_frames(
    frames: FrameSource,
    recipe: Recipe,
    client: Client | None = None,
    folder: str | os.PathLike[str] | None = None,
    *,
    progress: Report | Literal["auto"] | None = "auto",
) -> tuple[CellProposal, ...]:
    """The cells of a sample of frames, evenly spread: more and more of them until there are a hundred lattices.

    The sample is processed in a temporary run in `folder`, where workers can write. The result does not depend on
    them. Raises `CellError` where not even all frames have three lattices that are alike.
    """
    recipe = recipe.model_copy(update={"indexing": recipe.indexing.model_copy(update={"cell": None, "enabled": True})})
    step = max(1, len(frames) // SAMPLE_FRAMES)
    while True:
        with tempfile.TemporaryDirectory(prefix=".cell-search-", dir=folder) as scratch:
            run = process(frames[::step], recipe, client, Path(scratch, "run"), progress=progress)
            if run.counts.lattices >= SAMPLE_LATTICES or step == 1:
                proposals = find_cell(run) if run.counts.lattices else ()
                counts, reasons = run.counts, run.reasons()
                break
        step = max(1, step // 4)
    if not proposals or proposals[0].n_lattices < LEAST_LATTICES:
        raise CellError(
            "no cell is found in these frames",
            found=f"{proposals[0].n_lattices if proposals else 0} lattices that are alike in {counts.frames} frames, "
            f"{counts.hits} hits" + (f"; {next(iter(reasons))}" if reasons else ""),
            expected=f"at least {LEAST_LATTICES} lattices that are alike",
            remedy="look at the peaks with sfxlab show, check the geometry, or give the cell with -p",
        )
    return proposals


_BASIS = tuple(f"{axis}star_{component}" for axis in "abc" for component in "xyz")
_KIND = ("a", "b", "c", "alpha", "beta", "gamma", "lattice_type", "centring", "unique_axis")


def _primitive_basis(row: dict[str, float]) -> NDArray[np.float64]:
    """Real axes of the primitive cell of a crystal, rows in Å."""
    cell = UnitCell(**{name: row[name] for name in _KIND})  # type: ignore[arg-type]
    basis = np.array([row[name] for name in _BASIS]).reshape(3, 3).T
    return np.asarray(cell.primitive_transform @ np.linalg.inv(basis))


def _tested_hits(run: Run) -> list[NDArray[np.float64]]:
    """Scattering vectors of the peaks, (n, 3), of hits evenly spread over the run."""
    frames = run.table("frames", ["frame", "status", "photon_energy"]).to_pylist()
    hits = [row for row in frames if row["status"] in ("hit", "indexed")]
    if not run.geometry_text:  # a stream that came without its geometry
        return []
    wanted = {row["frame"]: row for row in hits[:: max(1, -(-len(hits) // TESTED_HITS))]}
    detector = run.detector()
    tested = []
    for part in run.parts("peaks", ["frame", "panel", "fs", "ss"]):
        of_frame = part["frame"].to_numpy()
        for frame in np.unique(of_frame):
            if frame in wanted:
                rows = of_frame == frame
                panel, fs, ss = (part[name].to_numpy()[rows] for name in ("panel", "fs", "ss"))
                tested.append(detector.q(panel, fs, ss, wanted[frame]["photon_energy"]))
    return tested


def _proposal(cluster: CellCluster, n: int, tested: list[NDArray[np.float64]], recipe: Recipe) -> CellProposal:
    target = target_of(cluster.cell)
    explained = sum(bool(index(q, target, recipe.indexing).lattices) for q in tested)
    return CellProposal(
        cluster.cell, len(cluster.members), len(cluster.members) / n, cluster.deviation, cluster.symmetries,
        len(tested), explained,
    )  # fmt: skip
