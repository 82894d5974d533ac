"""Made-up results of frames, and runs to put them in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from sfxlab.crystal import Crystal, UnitCell
from sfxlab.frames import FrameId
from sfxlab.integration import Reflections
from sfxlab.peaks import Peaks
from sfxlab.pipeline import FrameResult
from sfxlab.recipe import Recipe
from sfxlab.store import Run, describe

MakeResult = Callable[..., FrameResult]
MakeRun = Callable[..., Run]


@pytest.fixture(scope="session")
def make_result() -> MakeResult:
    """`make_result(index, n_peaks=…, reflections=(…))`: random content, one crystal for each number of reflections."""

    def make(index: int, n_peaks: int = 12, reflections: tuple[int, ...] = (7,)) -> FrameResult:
        random = np.random.default_rng(index)

        def columns(kind: type, n: int) -> dict[str, np.ndarray]:
            types = {"panel": np.int16, "n_pixels": np.int16, "saturated": np.bool_}
            types |= dict.fromkeys("hkl", np.int32) if kind is Reflections else {}
            return {f.name: random.normal(0, 1000, n).astype(types.get(f.name, np.float32)) for f in fields(kind)}

        def crystal() -> Crystal:
            cell = UnitCell(random.uniform(70, 80), 80.0, 38.1, 90.0, 100.0, 90.0, "monoclinic", "C", "b")
            basis = cell.reciprocal_basis + random.normal(0, 1e-4, (3, 3))
            shift = (random.normal(0, 1e-4), random.normal(0, 1e-4))
            return Crystal(cell, basis, 0.0021, np.inf, shift, 11, -37.5, np.nan)

        return FrameResult(
            id=FrameId("/data/lysozyme.cxi", f"//{index}"),
            index=index,
            status="indexed" if reflections else "blank",
            reason="",
            photon_energy=9494.7,
            camera_length=0.1187,
            peaks=Peaks(**columns(Peaks, n_peaks)),
            crystals=tuple(crystal() for _ in reflections),
            reflections=tuple(Reflections(**columns(Reflections, n)) for n in reflections),
            seconds={"peaks": 0.01, "indexing": 0.02},
        )

    return make


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """`make_run(n_frames, chunk_size)`: an empty run for that many frames."""

    def make(n_frames: int = 6, chunk_size: int = 2, name: str = "run") -> Run:
        names = [FrameId("/data/lysozyme.cxi", f"//{index}") for index in range(n_frames)]
        record = describe(Recipe(), names, n_frames=n_frames, chunk_size=chunk_size, paths=[])
        return Run.create(tmp_path / name, record, names, "photon_energy = 9494.7\r\n")

    return make
