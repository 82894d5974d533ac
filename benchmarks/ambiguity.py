"""The indexing ambiguity of simulated partial stills: how many crystals are assigned rightly, and in what time.

    python benchmarks/ambiguity.py [--large]

Intensities are those of the simulator's random-atom model; every crystal is a still in a random orientation, with the
simulator's partialities, its own scale and B factor, and noise. `right` is the share of all crystals, `of resolved`
that of those that are not flagged; seconds are of one core, without and with the gathering of observations.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.spatial.transform import Rotation

from sfxlab.crystal import UnitCell, point_group, resolution_of
from sfxlab.geometry import Detector, Panel
from sfxlab.merging.ambiguity import INDICES, resolve
from sfxlab.merging.observations import gather
from sfxlab.merging.reindexing import ambiguity_operators
from sfxlab.simulation.spots import Beam, Lattice, diffracted_spots
from sfxlab.simulation.structure_factors import find_space_group, model_intensities

SMALL, MIDDLE = (UnitCell(a, a, c, 90, 90, 120, "hexagonal", "P", "c") for a, c in ((60, 80), (100, 130)))
CUBE = UnitCell(60, 60, 60.4, lattice_type="tetragonal", unique_axis="c")
_PIXEL, _PIXELS, _DISTANCE = 1e-4, 3000, 0.1


@dataclass(frozen=True)
class Stills:
    """Tables of a run, and the operator that puts each crystal right."""

    frames: pa.Table
    crystals: pa.Table
    reflections: pa.Table
    operator: NDArray[np.int64]


def main(large: bool) -> None:
    """Print the table."""
    cases: list[tuple[str, dict[str, Any]]] = [
        ("P 63, 27 observations per reflection", {}),
        ("the same, noise 0.5", {"noise": 0.5}),
        ("the same, noise 1.5", {"noise": 1.5}),
        ("the same, 5 observations, noise 0.5", {"noise": 0.5, "multiplicity": 5}),
        ("small cell", {"cell": SMALL, "d_min": 2.5}),
        ("small cell, noise 0.5", {"cell": SMALL, "d_min": 2.5, "noise": 0.5}),
        ("small cell, 5 observations", {"cell": SMALL, "d_min": 2.5, "multiplicity": 5}),
        ("small cell, 200 crystals", {"cell": SMALL, "d_min": 2.5, "n": 200}),
        ("P 3, four ways", {"cell": SMALL, "d_min": 2.5, "space_group": "P 3"}),
        ("P 4, nearly cubic, six ways", {"cell": CUBE, "d_min": 2.5, "space_group": "P 4"}),
        ("P 6 2 2, no ambiguity", {"cell": SMALL, "d_min": 2.5, "space_group": "P 6 2 2"}),
        ("half of the crystals twins of equal parts", {"cell": SMALL, "d_min": 2.5, "twins": 500}),
        ("noise only", {"cell": SMALL, "d_min": 2.5, "nonsense": True}),
    ]
    if large:
        cases.append(("10,000 crystals", {"n": 10_000}))
        cases.append(("10,000 crystals, more observations", {"n": 10_000, "multiplicity": 100}))
    names = ("", "crystals", "observations", "right", "flagged", "right of resolved", "agreement", "s", "s with gather")
    table = Table(title="indexing ambiguity", title_justify="left")
    for name in names:
        table.add_column(name, justify="left" if not name else "right")
    score(*stills(n=50, cell=SMALL, d_min=3.0))  # kernels are compiled
    for name, options in cases:
        table.add_row(name, *score(*stills(**options)))
    Console(width=150).print(table)


def score(run: Stills, group: str) -> tuple[str, ...]:
    """A row of the table."""
    begin = time.process_time()
    o = gather([run], point_group(group), extra=INDICES)
    middle = time.process_time()
    found = resolve(o)
    end = time.process_time()
    wanted = run.operator[o.facts.frame]
    right = max((change[found.operator] == wanted for change in found.operators.common_changes), key=np.sum)
    resolved = f"{right[found.resolved].mean():.2%}" if found.resolved.any() else "-"
    shares = (f"{right.mean():.2%}", f"{1 - found.resolved.mean():.2%}", resolved, f"{found.agreement:.1%}")
    return f"{len(right):,}", f"{len(o):,}", *shares, f"{end - middle:.2f}", f"{end - begin:.2f}"


def stills(
    n: int = 1000,
    multiplicity: float = 27.0,
    noise: float = 0.1,
    cell: UnitCell = MIDDLE,
    d_min: float = 3.0,
    space_group: str = "P 63",
    twins: int = 0,
    nonsense: bool = False,
    seed: int = 1,
) -> tuple[Stills, str]:
    """Partial stills and their point group; `noise` is in units of the mean full intensity."""
    rng = np.random.default_rng(seed)
    model = model_intensities(cell, find_space_group(space_group, cell), d_min, 20.0, np.random.default_rng(3))
    operators = ambiguity_operators(cell, point_group(model.point_group))
    operator = rng.integers(0, len(operators), n)
    corner = _PIXEL * _PIXELS / 2
    panel = Panel("p", 0, 0, _PIXELS, _PIXELS, (-corner, -corner, _DISTANCE), (_PIXEL, 0, 0), (0, _PIXEL, 0), 0, 0, 1.0)
    detector = Detector((panel,), (_PIXELS, _PIXELS), _DISTANCE)
    mean, per_crystal = model.intensity.mean(), round(len(model.hkl) * multiplicity / n)
    bases, rows = [], []
    for i in range(n):
        basis = Rotation.random(None, rng).as_matrix() @ cell.reciprocal_basis
        spots = diffracted_spots(Lattice(basis, 4e-4, 2e-4), model, Beam(9500.0, 1e-3), detector, 0.5)
        seen = np.flatnonzero(spots.partiality > 0.1 * spots.partiality.max())
        seen = rng.choice(seen, min(per_crystal, len(seen)), replace=False)
        hkl, photons = spots.hkl[seen], spots.photons[seen]
        if i < twins:
            photons = 0.5 * photons * (1 + model.of(operators.reindexed(hkl, 1)) / model.of(hkl))
        if nonsense:
            photons = rng.exponential(mean, len(seen))
        s2 = resolution_of(cell, hkl) ** 2 / 4
        value = np.exp(0.5 * rng.standard_normal() - 5 * rng.standard_normal() * s2) * photons
        value += noise * mean * rng.standard_normal(len(value))
        matrix = operators.matrices[operator[i]]
        bases.append(basis @ matrix)
        rows.append(np.column_stack([np.full(len(seen), i), hkl @ np.linalg.inv(matrix).T, value]))
    return _tables(np.concatenate(rows), np.array(bases), cell, noise * mean, operator), model.point_group


def _tables(
    rows: NDArray[np.float64], bases: NDArray[np.float64], cell: UnitCell, sigma: float, operator: NDArray[np.int64]
) -> Stills:
    n = len(bases)
    number = np.arange(n)
    lattice = {"lattice_type": cell.lattice_type, "centring": cell.centring, "unique_axis": cell.unique_axis or ""}
    parameters = dict(zip(("a", "b", "c", "alpha", "beta", "gamma"), cell.parameters, strict=True))
    indices = {name: np.rint(rows[:, i]).astype(np.int32) for i, name in enumerate("hkl", start=1)}
    return Stills(
        frames=pa.table({
            "frame": number, "path": ["stills.cxi"] * n, "event": [f"//{i}" for i in number],
            "photon_energy": np.full(n, 9500.0),
        }),
        crystals=pa.table({
            "frame": number, "crystal": np.zeros(n, dtype=np.int64),
            **{name: np.full(n, value) for name, value in parameters.items()},
            **{name: [value] * n for name, value in lattice.items()},
            **{f"{a}star_{x}": bases[:, j, i] for i, a in enumerate("abc") for j, x in enumerate("xyz")},
        }),
        reflections=pa.table({
            "frame": rows[:, 0].astype(np.int64), "crystal": np.zeros(len(rows), dtype=np.int16), **indices,
            "intensity": rows[:, 4].astype(np.float32), "sigma": np.full(len(rows), sigma, dtype=np.float32),
            "saturated": np.zeros(len(rows), dtype=bool),
        }),
        operator=operator,
    )  # fmt: skip


if __name__ == "__main__":
    main("--large" in sys.argv[1:])
