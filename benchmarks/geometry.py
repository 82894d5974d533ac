"""Detector refinement against truth: panels displaced at random, crystals indexed and refined again and again.

    python benchmarks/geometry.py [--crystals N] [--cycles N]

Peaks of crystals on the true detector, with 0.3 pixels of noise and a fifth of them anywhere, are indexed with a
detector whose panels are displaced by up to 3 pixels and 0.5° in their plane and whose distance is wrong by 0.5 %. What
cannot be known, a rotation of everything about the beam, is taken out before positions are compared. "error/claimed" is
the root mean square error over the one that the refinement claims: 1 where it is honest.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.spatial.transform import Rotation

from sfxlab.crystal import Crystal, UnitCell
from sfxlab.detector_refinement import DetectorRefinement, Still, refine_detector
from sfxlab.detector_refinement.bodies import centres_of, moved
from sfxlab.detector_refinement.refine import moves_between
from sfxlab.detector_refinement.stills import Given, reindexed
from sfxlab.diffraction import predict
from sfxlab.geometry import Detector, Panel
from sfxlab.peaks import Peaks
from sfxlab.recipe import Recipe

ENERGY, PIXEL = 9500.0, 75e-6
LYSOZYME = UnitCell(79.1, 79.1, 38.2, lattice_type="tetragonal", unique_axis="c")
MONOCLINIC = UnitCell(61, 73, 52, 90, 105, 90, "monoclinic", "P", "b")


def mosaic(columns: int, rows: int, size: int = 240, gap: int = 12, distance: float = 0.1) -> Detector:
    """Square panels side by side, with gaps, around the beam."""
    pitch = size + gap
    panels = [
        Panel(
            f"p{row * columns + column}", row * size, column * size, size, size,
            (PIXEL * (column - columns / 2) * pitch, PIXEL * (row - rows / 2) * pitch, distance),
            (PIXEL, 0.0, 0.0), (0.0, PIXEL, 0.0),
        )
        for row in range(rows) for column in range(columns)
    ]  # fmt: skip
    return Detector(tuple(panels), (rows * size, columns * size), distance)


def displaced(detector: Detector, rng: np.random.Generator, pixels: float, degrees: float, distance: float) -> Detector:
    """Panels moved in their plane by up to so many pixels and degrees; all of them away by a share of the distance."""
    n = len(detector.panels)
    moves = np.zeros((n, 6))
    moves[:, :2] = rng.uniform(-pixels, pixels, (n, 2)) / np.sqrt(2) * PIXEL
    moves[:, 5] = np.radians(rng.uniform(-degrees, degrees, n))
    moves[:, 2] = distance * detector.camera_length
    return moved(detector, moves)


def stills_on(
    detector: Detector, cell: UnitCell, n: int, rng: np.random.Generator, noise: float = 0.3, outliers: float = 0.2
) -> list[Still]:
    """Peaks of crystals whose cells vary by 0.1 %."""
    stills = []
    for _ in range(n):
        own = cell.reciprocal_basis * (1 + 0.001 * rng.normal())
        crystal = Crystal(cell, Rotation.random(rng=rng).as_matrix() @ own, rng.uniform(0.0004, 0.0012))
        spots = predict(crystal, detector, ENERGY, bandwidth=0.0005)
        shines = rng.random(len(spots)) < 0.8 * spots.partiality * np.exp(-8 * spots.resolution**2)
        spots = spots[shines]
        wrong = round(outliers * len(spots) / (1 - outliers))
        panel = np.concatenate([spots.panel, rng.integers(0, len(detector.panels), wrong)])
        bounds = detector.arrays.bounds[panel[len(spots) :]]
        fs = np.concatenate([spots.fs + rng.normal(0, noise, len(spots)), rng.uniform(bounds[:, 2], bounds[:, 3])])
        ss = np.concatenate([spots.ss + rng.normal(0, noise, len(spots)), rng.uniform(bounds[:, 0], bounds[:, 1])])
        q = np.linalg.norm(detector.q(panel, fs, ss, ENERGY), axis=1)
        one = np.ones(len(fs), np.float32)
        fs, ss, q = (v.astype(np.float32) for v in (fs, ss, q))
        stills.append(Still(Peaks(panel.astype(np.int16), fs, ss, one, one, one, q, one, one.astype(np.int16)), ENERGY))
    return stills


def errors(detector: Detector, true: Detector) -> np.ndarray:
    """Shifts (pixels) and rotations (degrees) of panels from where they are, (n, 6), but for one about the beam."""
    moves, centres = moves_between(true, detector), centres_of(true) / PIXEL
    around = np.stack([-centres[:, 1], centres[:, 0]], axis=1)
    turn = float((around * moves[:, :2]).sum() / (around**2).sum())
    moves[:, :2] -= turn * around
    moves[:, 5] -= np.degrees(turn)
    return moves


def rows_of(name: str, detector: Detector, true: Detector, rate: str, refined: DetectorRefinement | None) -> list[str]:
    """A row of the table."""
    wrong = errors(detector, true)
    pixels, degrees = np.hypot(wrong[:, 0], wrong[:, 1]), np.abs(wrong[:, 5])
    z = centres_of(detector)[:, 2].mean() / centres_of(true)[:, 2].mean() - 1
    row = [name, rate, f"{np.median(pixels):.3f}", f"{pixels.max():.3f}", f"{np.median(degrees):.4f}",
           f"{degrees.max():.4f}", f"{100 * z:+.4f}"]  # fmt: skip
    if refined is None:
        return [*row, "", "", "", ""]
    claimed = np.array([move.shift_error[:2] for move in refined.panels])
    turned = np.array([move.rotation_error[2] for move in refined.panels])
    return [
        *row, f"{np.sqrt(np.mean(wrong[:, :2] ** 2) / np.mean(claimed**2)):.2f}",
        f"{np.sqrt(np.mean(wrong[:, 5] ** 2) / np.mean(turned**2)):.2f}", f"{100 * refined.distance_error:.4f}",
        f"{refined.sums_before.median_distance:.2f} → {refined.sums_after.median_distance:.2f}",
    ]  # fmt: skip


def recovered(
    title: str, true: Detector, cell: UnitCell, n: int, seed: int, cycles: int = 3, start: Detector | None = None,
    groups: Sequence[Sequence[int]] = (), **options: object,
) -> Table:  # fmt: skip
    """How a displaced detector comes back."""
    rng = np.random.default_rng(seed)
    detector = start or displaced(true, rng, 3.0, 0.5, 0.005)
    stills = stills_on(true, cell, n, rng)
    recipe = Recipe().with_cell(cell)
    table = Table(title=f"{title}, {np.median([len(s.peaks) for s in stills]):.0f} peaks each", title_justify="left")
    for column in ("", "indexed", "px median", "px max", "° median", "° max", "distance %", "px error/claimed",
                   "° error/claimed", "claimed %", "median residual, px"):  # fmt: skip
        table.add_column(column, justify="right")
    name, refined, part = "displaced", None, Given(tuple(stills))
    clock = time.process_time()
    for cycle in range(cycles + 1):
        found = reindexed(part, detector, recipe)
        rate = f"{100 * np.mean([len(c) > 0 for c in found.crystals]):.1f} %"
        table.add_row(*rows_of(name, detector, true, rate, refined))
        if cycle < cycles:
            refined = refine_detector([found], detector, groups, cell=cell, **options)  # type: ignore[arg-type]
            detector, name = refined.detector, f"refined {cycle + 1} times, {refined.n_passes} passes"
    table.caption = f"{time.process_time() - clock:.0f} s of CPU, indexing included"
    found = reindexed(part, true, recipe)
    table.add_row(*rows_of("true", true, true, f"{100 * np.mean([len(c) > 0 for c in found.crystals]):.1f} %", None))
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crystals", type=int, default=300)
    parser.add_argument("--cycles", type=int, default=2)
    arguments = parser.parse_args()
    n, console = arguments.crystals, Console(width=190)
    for seed, (title, true, cell, deviation) in enumerate(
        (
            ("tetragonal, 16 panels", mosaic(4, 4), LYSOZYME, 0.01),
            ("monoclinic, 64 small panels", mosaic(8, 8, 128), MONOCLINIC, 0.01),
            ("tetragonal, 16 panels, cells known to 0.1 %", mosaic(4, 4), LYSOZYME, 0.001),
        )
    ):
        console.print(
            recovered(f"{title}, {n} crystals", true, cell, n, seed, arguments.cycles, cell_deviation=deviation)
        )


if __name__ == "__main__":
    main()
