"""Runs of partial observations whose crystals, node profiles and intensities are known, as Arrow tables."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from sfxlab.crystal import UnitCell, point_group, possible_reflections, resolution_of

CELL = UnitCell(48, 48, 36, lattice_type="tetragonal", unique_axis="c")
ENERGY, HC = 9500.0, 12398.419843320026
R_MAX = 0.4


@dataclass(frozen=True)
class PartialRun:
    """Tables of a run, and the truth behind them."""

    frames: pa.Table
    crystals: pa.Table
    reflections: pa.Table
    hkl: NDArray[np.int32]
    """The possible reflections in 4/mmm."""
    truth: NDArray[np.float64]
    """Their intensities."""
    basis: NDArray[np.float64]
    """True reciprocal axes, columns, of each crystal."""
    scale: NDArray[np.float64]
    radius: NDArray[np.float64]

    def with_intensities(self, values: NDArray[np.float64]) -> PartialRun:
        """The same crystals with other intensities."""
        place = self.reflections.schema.get_field_index("intensity")
        column = pa.array(values.astype(np.float32))
        return replace(self, reflections=self.reflections.set_column(place, "intensity", column))


def make_run(
    n_crystals: int = 150,
    *,
    node: str = "sphere",
    radius: float = 8e-4,
    radius_spread: float = 0.0,
    bandwidth: float = 1e-3,
    rotation_error: float = 4e-4,
    strain_spread: float = 0.0,
    noise: float = 3.0,
    log_scale_spread: float = 0.4,
    b_spread: float = 4.0,
    wild: float = 0.0,
    lost: tuple[int, ...] = (),
    seed: int = 1,
) -> PartialRun:
    """Crystals in random orientations; mean intensities are about 100.

    `rotation_error` (radians, about each axis) is how far the orientations in the tables are from the true ones,
    `wild` the share of observations that a hot pixel spoils, `lost` the crystals whose orientation is all wrong.
    """
    rng = np.random.default_rng(seed)
    group = point_group("4/mmm")
    hkl = possible_reflections(CELL, group, R_MAX)
    truth = np.random.default_rng(5).exponential(200 * np.exp(-20 * resolution_of(CELL, hkl) ** 2 / 4))
    intensity_of = {tuple(h): i for h, i in zip(hkl.tolist(), truth, strict=True)}
    lattice = _lattice_points()
    full = np.array([intensity_of[tuple(h)] for h in group.asu(lattice).tolist()])
    scale = np.exp(log_scale_spread * rng.standard_normal(n_crystals))
    radii = radius * np.exp(radius_spread * rng.standard_normal(n_crystals))
    bases, told, rows = [], [], []
    for i in range(n_crystals):
        a, c = 1 + strain_spread * rng.standard_normal(2)
        own = np.diag([a, a, c]) @ CELL.reciprocal_basis
        basis = Rotation.random(random_state=int(rng.integers(1 << 30))).as_matrix() @ own
        error = rng.standard_normal(3) * (0.05 if i in lost else rotation_error)
        bases.append(basis)
        told.append(Rotation.from_rotvec(error).as_matrix() @ basis)
        q = lattice @ basis.T
        ray = q + [0, 0, ENERGY / HC]
        near = np.abs(ENERGY / HC - np.linalg.norm(ray, axis=1)) < 1.5 * radius + 0.002 * (q**2).sum(axis=1)
        p = _partiality(q[near], radii[i], bandwidth, node)
        s2 = (q[near] ** 2).sum(axis=1) / 4
        value = scale[i] * np.exp(-b_spread * rng.standard_normal() * s2) * p * full[near]
        value += noise * rng.standard_normal(len(value))
        value += 3000 * (rng.random(len(value)) < wild)
        rows.append(np.column_stack([np.full(len(value), i), lattice[near], value]))
    table = np.concatenate(rows)
    return PartialRun(
        frames=_frames(n_crystals), crystals=_crystals(np.array(told)), reflections=_reflections(table, noise),
        hkl=hkl, truth=truth, basis=np.array(bases), scale=scale, radius=radii,
    )  # fmt: skip


def _partiality(q: NDArray[np.float64], radius: float, bandwidth: float, node: str) -> NDArray[np.float64]:
    """Sum over the wavelengths of the beam of what each of them shows of a node, 1 for a node on the sphere."""
    steps = np.linspace(-4, 4, 81)
    weights = np.exp(-(steps**2) / 2)
    k = ENERGY / HC
    length = np.linalg.norm(q, axis=1)
    # The same reflection when it fulfils Bragg's law: q_z = −|q|²/2k.
    along = -(length**2) / (2 * k)
    exact = np.stack([np.sqrt(length**2 - along**2), np.zeros(len(q)), along], axis=1)
    shown = []
    for vectors in (q, exact):
        waves = k * (1 + bandwidth * steps)[:, None]
        distance = waves - np.sqrt((vectors[:, :2] ** 2).sum(axis=1) + (vectors[:, 2] + waves) ** 2)
        inside = (
            np.maximum(1 - (distance / radius) ** 2, 0) if node == "sphere" else np.exp(-((distance / radius) ** 2) / 2)
        )
        shown.append(weights @ inside)
    return np.asarray(shown[0] / shown[1])


def _lattice_points() -> NDArray[np.int32]:
    limits = [int(length * R_MAX) for length in CELL.lengths]
    grid = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in limits], indexing="ij"), axis=-1).reshape(-1, 3)
    resolution = resolution_of(CELL, grid.astype(np.int32))
    return grid[(resolution > 0.02) & (resolution < 0.995 * R_MAX)].astype(np.int32)


def _frames(n: int) -> pa.Table:
    columns = {"frame": np.arange(n), "path": ["data/partial.cxi"] * n, "event": [f"//{i}" for i in range(n)]}
    return pa.table({**columns, "photon_energy": np.full(n, ENERGY)})


def _crystals(bases: NDArray[np.float64]) -> pa.Table:
    n = len(bases)
    columns: dict[str, object] = {"frame": np.arange(n), "crystal": np.zeros(n, dtype=np.int64)}
    real = np.linalg.inv(bases)
    lengths = np.linalg.norm(real, axis=2)
    columns |= {name: lengths[:, i] for i, name in enumerate("abc")}
    columns |= {name: np.full(n, 90.0) for name in ("alpha", "beta", "gamma")}
    columns |= {"lattice_type": ["tetragonal"] * n, "centring": ["P"] * n, "unique_axis": ["c"] * n}
    columns |= {f"{a}star_{x}": bases[:, j, i] for i, a in enumerate("abc") for j, x in enumerate("xyz")}
    return pa.table(columns)


def _reflections(table: NDArray[np.float64], noise: float) -> pa.Table:
    return pa.table(
        {
            "frame": table[:, 0].astype(np.int64),
            "crystal": np.zeros(len(table), dtype=np.int16),
            **{name: table[:, i].astype(np.int32) for i, name in enumerate("hkl", start=1)},
            "intensity": table[:, 4].astype(np.float32),
            "sigma": np.full(len(table), noise, dtype=np.float32),
            "saturated": np.zeros(len(table), dtype=bool),
        }
    )
