"""Runs with known intensities, scales and B factors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from sfxlab.crystal import UnitCell, point_group, possible_reflections, resolution_of

CELL = UnitCell(40, 40, 30, lattice_type="tetragonal", unique_axis="c")
R_MAX = 0.4


@dataclass(frozen=True)
class SyntheticRun:
    """Tables of a run, and the truth behind them."""

    frames: pa.Table
    crystals: pa.Table
    reflections: pa.Table
    hkl: NDArray[np.int32]
    """The possible reflections in 4/mmm."""
    truth: NDArray[np.float64]
    """Their intensities."""
    scale: NDArray[np.float64]
    b_factor: NDArray[np.float64]
    outlier: NDArray[np.bool_]
    """Which rows of `reflections` were made wild."""

    def shuffled(self, seed: int) -> SyntheticRun:
        """The same with all rows in another order."""
        rng = np.random.default_rng(seed)
        tables = {
            name: getattr(self, name).take(rng.permutation(getattr(self, name).num_rows))
            for name in ("frames", "crystals", "reflections")
        }
        return replace(self, **tables)


@dataclass(frozen=True)
class Recipe:
    """How a synthetic run is made."""

    n_crystals: int = 60
    n_observed: int = 250
    crystals_per_frame: int = 1
    noise: float = 3.0
    """Standard deviation of every observation; the mean intensity is about 100."""
    relative_scatter: float = 0.0
    log_scale_spread: float = 0.5
    b_spread: float = 8.0
    outliers: float = 0.0
    """Share of observations that a hot pixel makes wild."""
    scrambled: tuple[int, ...] = ()
    """Crystals whose intensities belong to other reflections."""
    friedel_difference: float = 0.0
    path: str = "data/run1.cxi"
    seed: int = 1
    truth_seed: int = 5
    cell: UnitCell = field(default=CELL)


def make_run(recipe: Recipe) -> SyntheticRun:
    """A run of crystals in random settings of 4/mmm, without polarisation."""
    rng = np.random.default_rng(recipe.seed)
    group = point_group("4/mmm")
    hkl = possible_reflections(recipe.cell, group, R_MAX)
    s2 = resolution_of(recipe.cell, hkl) ** 2 / 4
    truth = np.random.default_rng(recipe.truth_seed).exponential(200 * np.exp(-20 * s2))
    n, m = recipe.n_crystals, min(recipe.n_observed, len(hkl))
    scale = np.exp(recipe.log_scale_spread * rng.standard_normal(n))
    b_factor = recipe.b_spread * rng.standard_normal(n)
    rows = []
    for i in range(n):
        chosen = rng.choice(len(hkl), m, replace=False)
        setting = group.operations[rng.integers(len(group.operations), size=m)]
        measured = np.einsum("nij,nj->ni", setting, hkl[chosen])
        full = truth[chosen] if i not in recipe.scrambled else rng.permutation(truth)[chosen]
        sign = np.where(np.all(point_group("422").asu(measured) == hkl[chosen], axis=1), 1, -1)
        full = full * (1 + recipe.friedel_difference * sign)
        value = scale[i] * np.exp(-b_factor[i] * s2[chosen]) * full
        value = value * np.maximum(1 + recipe.relative_scatter * rng.standard_normal(m), 0)
        rows.append(np.column_stack([np.full(m, i), measured, value + recipe.noise * rng.standard_normal(m)]))
    table = np.concatenate(rows)
    outlier = rng.random(len(table)) < recipe.outliers
    table[outlier, 4] += 5000
    number = table[:, 0].astype(np.int64)
    return SyntheticRun(
        frames=_frames(n // recipe.crystals_per_frame, recipe.path),
        crystals=_crystals(n, recipe),
        reflections=_reflections(number, table, recipe),
        hkl=hkl, truth=truth, scale=scale, b_factor=b_factor, outlier=outlier,
    )  # fmt: skip


def _frames(n: int, path: str) -> pa.Table:
    columns = {"frame": np.arange(n), "path": [path] * n, "event": [f"//{i}" for i in range(n)]}
    return pa.table({**columns, "photon_energy": np.full(n, 9500.0)})


def _crystals(n: int, recipe: Recipe) -> pa.Table:
    number = np.arange(n)
    columns = {"frame": number // recipe.crystals_per_frame, "crystal": number % recipe.crystals_per_frame}
    columns |= {k: np.full(n, v) for k, v in zip(("a", "b", "c"), recipe.cell.lengths, strict=True)}
    columns |= {k: np.full(n, v) for k, v in zip(("alpha", "beta", "gamma"), recipe.cell.angles, strict=True)}
    lattice = {"lattice_type": recipe.cell.lattice_type, "centring": recipe.cell.centring}
    strings = {k: [v] * n for k, v in {**lattice, "unique_axis": recipe.cell.unique_axis or ""}.items()}
    basis = recipe.cell.reciprocal_basis
    bases = {f"{a}star_{x}": np.full(n, basis[j, i]) for i, a in enumerate("abc") for j, x in enumerate("xyz")}
    return pa.table({**columns, **strings, **bases})


def _reflections(number: NDArray[np.int64], table: NDArray[np.float64], recipe: Recipe) -> pa.Table:
    return pa.table(
        {
            "frame": number // recipe.crystals_per_frame,
            "crystal": (number % recipe.crystals_per_frame).astype(np.int16),
            **{name: table[:, i].astype(np.int32) for i, name in enumerate("hkl", start=1)},
            "intensity": table[:, 4].astype(np.float32),
            "sigma": np.full(len(table), recipe.noise, dtype=np.float32),
            "saturated": np.zeros(len(table), dtype=bool),
        }
    )


@pytest.fixture(scope="session")
def synthetic_run() -> Callable[..., SyntheticRun]:
    """Makes a run from the fields of `Recipe`."""
    return lambda **changes: make_run(Recipe(**changes))
