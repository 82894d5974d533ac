"""Runs of made-up frames: crystals of one structure that are measured on scales of their own, blanks and failures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from sfxlab.crystal import Crystal, UnitCell, point_group, possible_reflections, resolution_of
from sfxlab.frames import FrameId
from sfxlab.integration import Reflections
from sfxlab.peaks import Peaks
from sfxlab.pipeline import FrameResult
from sfxlab.recipe import Recipe
from sfxlab.store import Run, describe

CELL = UnitCell(40, 40, 30, lattice_type="tetragonal", unique_axis="c")
HKL = possible_reflections(CELL, point_group("4/mmm"), 0.4)
TRUTH = np.random.default_rng(5).exponential(200 * np.exp(-5 * resolution_of(CELL, HKL) ** 2))
GEOMETRY = """; two panels side by side
photon_energy = 9500 eV
clen = 0.06
res = 10000
adu_per_photon = 1
data = /entry_1/data_1/data
dim0 = %
dim1 = ss
dim2 = fs
left/min_fs = 0
left/max_fs = 255
left/min_ss = 0
left/max_ss = 511
left/corner_x = -262
left/corner_y = 256
left/fs = x
left/ss = -y
right/min_fs = 256
right/max_fs = 511
right/min_ss = 0
right/max_ss = 511
right/corner_x = 4
right/corner_y = 255
right/fs = x
right/ss = -y
"""


def frame_result(
    index: int,
    reflections: tuple[int, ...] = (7,),
    cell: UnitCell = CELL,
    noise: float = 3.0,
    status: str | None = None,
    reason: str = "",
) -> FrameResult:
    """A frame with one crystal for each number of reflections, whose cell is a little off, in point group 4/mmm."""
    rng = np.random.default_rng(index)
    n_peaks = 0 if status == "failed" else 12 if reflections else 5 + index % 7
    return FrameResult(
        id=FrameId("/data/run1.cxi", f"//{index}"), index=index,
        status=status or ("indexed" if reflections else "blank"),  # type: ignore[arg-type]
        reason=reason, photon_energy=9500.0, camera_length=0.06,
        peaks=Peaks(**_columns(Peaks, n_peaks, fs=rng.uniform(0, 500, n_peaks), ss=rng.uniform(0, 500, n_peaks))),
        crystals=tuple(_crystal(cell, rng) for _ in reflections),
        reflections=tuple(_measured(n, noise, rng) for n in reflections), seconds={"peaks": 0.01},
    )  # fmt: skip


def empty_run(path: Path, n_frames: int, chunk_size: int) -> Run:
    """A run for so many frames, none of which is processed."""
    names = [FrameId("/data/run1.cxi", f"//{index}") for index in range(n_frames)]
    record = describe(Recipe(), names, n_frames=n_frames, chunk_size=chunk_size, paths=[])
    return Run.create(path, record, names, GEOMETRY)


def write_run(path: Path, results: Iterable[FrameResult]) -> Run:
    """A run of these frames, in one chunk."""
    frames = list(results)
    run = empty_run(path, len(frames), len(frames))
    with run.writing():
        run.write_chunk(0, frames)
    return run


def _crystal(cell: UnitCell, rng: np.random.Generator) -> Crystal:
    a, c = np.array(cell.parameters)[[0, 2]] + rng.normal(0, 0.05, 2)
    mine = cell.with_parameters((a, a, c, *cell.angles))
    return Crystal(mine, mine.reciprocal_basis, 0.002, 0.4, (0.0, 0.0), 10, -30.0 + rng.normal(), 0.3)


def _measured(n: int, noise: float, rng: np.random.Generator) -> Reflections:
    chosen = rng.choice(len(HKL), n, replace=False)
    scale = np.exp(0.3 * rng.standard_normal())
    intensity = scale * (TRUTH[chosen] + rng.normal(0, noise, n))
    known = {**dict(zip("hkl", HKL[chosen].T, strict=True)), "intensity": intensity, "sigma": np.full(n, scale * noise)}
    return Reflections(**_columns(Reflections, n, saturated=np.zeros(n), **known))


def _columns(kind: type, n: int, **known: Any) -> dict[str, Any]:
    types = {"panel": np.int16, "n_pixels": np.int16, "saturated": np.bool_}
    types |= dict.fromkeys("hkl", np.int32) if kind is Reflections else {}
    filled = {f.name: np.ones(n, types.get(f.name, np.float32)) for f in fields(kind)}
    return filled | {name: np.asarray(values, filled[name].dtype) for name, values in known.items()}
