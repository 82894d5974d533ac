"""How fast reflections are predicted and integrated, and how true their intensities are.

    python benchmarks/integration.py [FRAMES]

Speed: CPU time of one core for one frame of 4.5 Mpx with about 1,000 reflections, median of many rounds. Accuracy: sets
are simulated with known photons of every spot (another detector, cell and noise each), processed as `sfxlab process`
does, and the sums, the fits and what merging takes by default are compared with the truth. Bias and error in photons;
error and pull are robust (1.4826 × median deviation).
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.spatial.transform import Rotation

import sfxlab
from sfxlab.crystal import Crystal, UnitCell
from sfxlab.diffraction import predict
from sfxlab.frames import Frame, FrameId
from sfxlab.geometry import Detector
from sfxlab.integration import integrate
from sfxlab.recipe import IntegrationRecipe
from sfxlab.simulation import writer
from sfxlab.simulation.instrument import load_preset

LARGE = UnitCell(118, 224, 331, lattice_type="orthorhombic")
SETS: dict[str, dict[str, Any]] = {
    "counting, 1 Mpx": {"seed": 21},
    "counting, panels off by 0.5 px, mosaic, double hits": {
        "seed": 22, "misalignment": 0.5, "point_spread": 0.6, "mosaicity": 1e-3,
        "kinds": {"single": 0.7, "double": 0.3},
    },
    "noise of 0.15 photons, 200 µm pixels": {"seed": 23, "detector": "agipd-like-1M", "bandwidth": 0.003},
    "large cell, 4 Mpx": {
        "seed": 24, "detector": "eiger-4M-like", "cell": LARGE, "space_group": "P 21 21 21", "photon_energy": 12000.0,
    },
}  # fmt: skip
CLASSES = (-1.0, 1.0, 5.0, 20.0, 100.0, 1e9)
"""Bounds of the classes of true photons."""


def main(frames: int) -> None:
    """Print the tables."""
    console = Console(width=150)
    profiles = None
    for name, options in SETS.items():
        with tempfile.TemporaryDirectory() as scratch:
            run, truth, detector = processed(Path(scratch), frames, {"kinds": {"single": 1.0}, **options})
            console.print(f"{name}: {run.counts.lattices} lattices; profile {run.profiles}")
            console.print(accuracy(list(compared(run, truth))))
            if detector.shape[0] * detector.shape[1] > 4e6:
                profiles = run.profiles
    console.print(speed(profiles))


def processed(folder: Path, frames: int, options: dict[str, Any]) -> tuple[sfxlab.Run, list[Any], Detector]:
    """A run over simulated frames, and the crystals of each frame with the true photons of their spots."""
    truth: list[Any] = []
    told = writer._frame_truth

    def remembered(index: int, exposure: Any) -> dict[str, Any]:
        truth.append([(c.lattice.basis, c.spots.hkl, c.spots.photons * c.scale) for c in exposure.crystals])
        return told(index, exposure)

    writer._frame_truth = remembered
    try:
        made = sfxlab.simulate(folder / "data", frames, **options)
    finally:
        writer._frame_truth = told
    source = sfxlab.open_frames(made.frames, made.geometry)
    recipe = sfxlab.Recipe().with_cell(sfxlab.read_cell(made.cell))
    return sfxlab.process(source, recipe, None, folder / "run", progress=None), truth, source.detector


def compared(run: sfxlab.Run, truth: list[Any]) -> Iterator[NDArray[np.float64]]:
    """True photons, then intensity and sigma by default, sum and fit (photons) of the reflections of right lattices."""
    for result in run.results():
        gain = run.detector().panels[0].gain(result.photon_energy)
        for crystal, found in zip(result.crystals, result.reflections, strict=True):
            for basis, hkl, photons in truth[result.index]:
                change = np.linalg.inv(basis) @ crystal.basis
                if np.abs(change - np.rint(change)).max() > 0.05 or round(abs(np.linalg.det(change))) != 1:
                    continue
                row = {tuple(index): i for i, index in enumerate(hkl.tolist())}
                rows = np.array([row.get(tuple(i), -1) for i in (found.hkl @ np.rint(change).astype(int).T).tolist()])
                columns = [
                    getattr(found, f"{x}{way}") for way in ("", "_sum", "_profile") for x in ("intensity", "sigma")
                ]
                values = np.column_stack([np.where(rows >= 0, photons[rows], 0.0), *(c / gain for c in columns)])
                yield values[~found.saturated]
                break


def accuracy(parts: list[NDArray[np.float64]]) -> Table:
    """Bias, error, and mean and width of pulls by class of true photons."""
    values = np.concatenate(parts)
    table = Table(title="bias, error; mean, width of (I − true)/σ", title_justify="left")
    for column in ("photons", "reflections", "default", "sum", "fit"):
        table.add_column(column, justify="right")
    for low, high in pairwise(CLASSES):
        mine = values[(values[:, 0] >= low) & (values[:, 0] < high)]
        cells = []
        for column in (1, 3, 5):
            known = mine[np.isfinite(mine[:, column])]
            off = known[:, column] - known[:, 0]
            pull = off / known[:, column + 1]
            cells.append(f"{off.mean():+.2f} {width(off):.2f}; {pull.mean():+.2f} {width(pull):.2f}")
        name = f"{max(low, 0):g}-{high:g}" if high < 1e9 else f"over {low:g}"
        table.add_row(name, str(len(mine)), *cells)
    return table


def width(values: NDArray[np.float64]) -> float:
    """A standard deviation that single values do not change."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def speed(profiles: Any, rounds: int = 60) -> Table:
    """CPU milliseconds to predict and to integrate."""
    detector = load_preset("eiger-4M-like", 12000.0).detector
    basis = Rotation.random(rng=np.random.default_rng(3)).as_matrix() @ LARGE.reciprocal_basis
    crystal = Crystal(LARGE, basis, 8.8e-5)
    data = np.random.default_rng(0).poisson(1.0, detector.shape).astype(np.uint16)
    bad = (detector.panel_map < 0).astype(np.uint8)
    frame = Frame(data, bad, 12000.0, detector, FrameId("made", "//0"), profiles=profiles)
    table = Table(title="one frame of 4.5 Mpx, one core, median", title_justify="left")
    for column in ("", "reflections", "predict / ms", "integrate / ms", "together / ms"):
        table.add_column(column, justify="right")
    ways = [("sums", replace(frame, profiles=None))] + ([("sums and fits", frame)] if profiles else [])
    for name, one in ways:
        times = []
        for _ in range(rounds):
            began = time.process_time()
            predicted = [predict(crystal, detector, 12000.0, bandwidth=0.0005, max_resolution=0.35)]
            between = time.process_time()
            integrate(one, predicted, IntegrationRecipe())
            times.append((between - began, time.process_time() - between))
        first, second = 1e3 * np.median(times, axis=0)
        table.add_row(name, str(len(predicted[0])), f"{first:.2f}", f"{second:.2f}", f"{first + second:.2f}")
    return table


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
