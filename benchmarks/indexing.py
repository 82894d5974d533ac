"""Indexing with a known cell and without: lattices, time and cells, against truth.

    python benchmarks/indexing.py [FOLDER OF EXAMPLE DATA]

A lattice is right where it is an integer change of basis of a true lattice not yet taken and turned by less than 1°
(0.5° for measured data). Data sets that are not there are left out.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from known_cell import LATTICES, generated, known_cell_table, random_cell
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import sfxlab
from sfxlab.crystal.cell_clusters import cell_clusters
from sfxlab.indexing import index_without_cell
from sfxlab.peaks import find_peaks, is_hit

ROOT = Path(__file__).parents[1]
Stills = Iterator[tuple[NDArray[np.float64], list[NDArray[np.float64]]]]
"""Scattering vectors (n, 3), 1/Å, and the true reciprocal bases (columns, 1/Å) of each frame."""


def main(shared: Path) -> None:
    """Print the tables."""
    Console(width=150).print(known_cell_table(shared))
    table = Table(title="without a known cell", title_justify="left")
    for column in ("data", "lattices", "right", "false", "ms a hit (median)", "angle / ° (median)", "cell found"):
        table.add_column(column, justify="right")
    for name, file in (("lyso", "lyso.cxi"), ("psii", "psii.h5")):
        if (shared / name).is_dir():
            table.add_row(name, *scores(simulated(shared / name, file), 1.0))
    real = shared / "real"
    for name, spots in (("cunir_ssx", "spots"), ("lysozyme_cspad_100", "indexed"), ("thermolysin_cspad_10", "indexed")):
        if (real / name).is_dir():
            table.add_row(name, *scores(measured(real / name / f"{name}.h5", spots), 0.5))
    lists = real / "spot_lists_tetragonal"
    for finder in ("local", "peakfinder8", "radial"):
        if lists.is_dir():
            table.add_row(f"spot lists, {finder}", *scores(spot_lists(lists / "spots.h5", finder), 0.5))
    for axes in ((25, 60), (60, 120), (120, 200), (200, 300)):
        *numbers, _ = scores(random_cells(axes, 4), 1.0)
        table.add_row(f"14 lattices, axes of {axes[0]}-{axes[1]} Å", *numbers, "")
    Console(width=150).print(table)
    Console(width=150).print(conventional_cells_table(3, 40))


def conventional_cells_table(n_cells: int, n_frames: int) -> Table:
    """How many of some random cells of each Bravais lattice are found, with their symmetry, from some frames each."""
    table = Table(title=f"cells found from {n_frames} frames each", title_justify="left")
    for column in ("lattice", "right", "wrong"):
        table.add_column(column)
    rng, recipe = np.random.default_rng(1), sfxlab.Recipe().indexing
    for kind, centring in LATTICES:
        right, wrong = 0, ""
        for _ in range(n_cells):
            cell = random_cell(rng, kind, centring, (30, 250))
            found = [
                lattice
                for _ in range(n_frames)
                for lattice in index_without_cell(
                    generated(rng, kind, centring, (15, 200), cell=cell)[0], recipe
                ).lattices
            ]
            found.sort(key=lambda lattice: lattice.log10_p)
            best = cell_clusters(np.array([np.linalg.inv(lattice.basis) for lattice in found]))[0].cell
            same_kind = (best.lattice_type, best.centring) == (kind, centring)
            if same_kind and abs(best.volume / cell.volume - 1) < 0.02:
                right += 1
            else:
                wrong += f"{cell} as {best} "
        table.add_row(f"{kind} {centring}", f"{right} of {n_cells}", wrong)
    return table


def random_cells(axes: tuple[float, float], n_frames: int) -> Stills:
    """Stills of 15 to 300 spots, each of a random cell, some of each of the 14 Bravais lattices."""
    rng = np.random.default_rng(round(axes[0]))
    for kind in LATTICES * n_frames:
        q, true, cell, _ = generated(rng, *kind, (15, 300), axes=axes)
        yield q, [basis @ np.linalg.inv(cell.primitive_transform) for basis in true]


def scores(stills: Stills, largest_angle: float) -> tuple[str, ...]:
    """Numbers of lattices, true, right and false; milliseconds; median angle; the cell they share."""
    recipe = sfxlab.Recipe().indexing
    n_true, false, seconds, angles, bases, chances = 0, 0, [], [], [], []
    for number, (q, true) in enumerate(stills):
        if number == 0:
            index_without_cell(q, recipe)  # compiled at first use
        start = time.process_time()
        found = index_without_cell(q, recipe).lattices
        seconds.append(time.process_time() - start)
        n_true += len(true)
        for lattice in found:
            bases.append(np.linalg.inv(lattice.basis))
            chances.append(lattice.log10_p)
            turned = [rotation_between(lattice.basis, basis) for basis in true]
            if turned and min(turned) < largest_angle:
                angles.append(min(turned))
                true.pop(int(np.argmin(turned)))
            else:
                false += 1
    best = cell_clusters(np.array(bases)[np.argsort(chances)])[0]
    return (
        str(n_true), str(len(angles)), str(false), f"{1e3 * np.median(seconds):.0f}", f"{np.median(angles):.3f}",
        str(best.cell),
    )  # fmt: skip


def simulated(folder: Path, file: str) -> Stills:
    """Hits of a simulated data set, their peaks found with default parameters."""
    recipe = sfxlab.Recipe()
    facts = json.loads((folder / "truth" / "truth.json").read_text())["frames"]
    frames = sfxlab.open_frames(folder / file, folder / f"{folder.name}.geom")
    for frame, fact in zip(frames, facts, strict=True):
        peaks = find_peaks(frame, recipe)
        if is_hit(peaks, recipe):
            true = [np.array([c["astar"], c["bstar"], c["cstar"]]).T / 10 for c in fact["crystals"]]
            yield frame.detector.q(peaks.panel, peaks.fs, peaks.ss, frame.photon_energy), true


def measured(path: Path, spots: str) -> Stills:
    """Frames of a table of spots with one reference solution each, as its primitive basis."""
    with h5py.File(path) as file:
        q, of_frame, bases = file[f"{spots}/q"][...], file[f"{spots}/frame"][...], file["frames/A"][...]
    for number, basis in enumerate(bases):
        yield q[of_frame == number], [basis]


def spot_lists(path: Path, finder: str) -> Stills:
    """Images of the lists of one spot finder."""
    with h5py.File(path) as file:
        q, image, bases = file[f"{finder}/q"][...], file[f"{finder}/image"][...], file["refined_solution"][...]
    for number, basis in enumerate(bases):
        yield q[image == number], [np.linalg.inv(basis)]


def rotation_between(found: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """Degrees between two primitive bases of one lattice; 180 where they are not the same lattice."""
    change = np.rint(np.linalg.inv(true) @ found)
    if round(np.linalg.det(change)) != 1:
        return 180.0
    u, _, vt = np.linalg.svd(found @ np.linalg.inv(true @ change))
    return float(np.degrees(np.arccos(np.clip((np.trace(u @ vt) - 1) / 2, -1, 1))))


if __name__ == "__main__":
    default = os.environ.get("SFXLAB_SHARED_DATA", ROOT.parent / "shared" / "data")
    main(Path(sys.argv[1] if len(sys.argv) > 1 else default))
