"""Lattices, peaks and merged intensities against truth and reference solutions, with default parameters.

    python benchmarks/accuracy.py [FOLDER OF EXAMPLE DATA]

Data sets that are not there are left out, and a set is simulated besides. Every figure comes from the command line's
own path: `process` into a run, `merge` of the run.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.spatial import cKDTree

import sfxlab
from sfxlab.crystal import UnitCell

ROOT = Path(__file__).parents[1]


def main(shared: Path) -> None:
    """Print the tables."""
    console = Console()
    with tempfile.TemporaryDirectory() as scratch:
        made = sfxlab.simulate(Path(scratch) / "data", 200, seed=11)
        with sfxlab.connect("local") as client:
            with_truth(console, "simulated here", made.frames, made.geometry, made.cell, made.truth, client, "4/mmm")
            for name, file, group in (("lyso", "lyso.cxi", "4/mmm"), ("psii", "psii.h5", "mmm")):
                folder = shared / name
                if folder.is_dir():
                    files = (folder / file, folder / f"{name}.geom", folder / f"{name}.cell", folder / "truth")
                    with_truth(console, name, *files, client, group)
            if (shared / "real" / "thermolysin_cspad").is_dir():
                thermolysin(console, shared / "real" / "thermolysin_cspad")


def with_truth(
    console: Console, name: str, data: Path, geometry: Path, cell_path: Path, truth: Path, client: object, group: str
) -> None:
    """Scores of a data set with a truth folder."""
    cell = sfxlab.read_cell(cell_path)
    frames = sfxlab.open_frames(data, geometry)
    recipe = sfxlab.Recipe().with_cell(cell)
    with tempfile.TemporaryDirectory() as scratch:
        run = sfxlab.process(frames, recipe, client, Path(scratch) / "run", progress=None)
        facts = json.loads((truth / "truth.json").read_text())["frames"]
        console.print(lattice_table(name, list(run.results()), facts, cell))
        console.print(peak_table(name, list(run.results()), facts, truth))
        console.print(bad_pixels(name, run, truth))
        print_merged(console, name, run, truth, group)
        recipe = recipe.changed(bad_pixels={"learn": False})
        run = sfxlab.process(frames, recipe, client, Path(scratch) / "without", progress=None)
        print_merged(console, f"{name} without learned bad pixels", run, truth, group)


def bad_pixels(name: str, run: sfxlab.Run, truth: Path) -> str:
    """How many of the hot pixels that are in no mask were learned, and how many good pixels with them."""
    learned = run.bad_pixels
    if learned is None:
        return f"{name}: no bad pixels learned"
    with h5py.File(truth / "full_mask.h5") as file:
        good = file["mask"][...] == 0
    hot = np.loadtxt(truth / "unmasked_hot_pixels.csv", delimiter=",", skiprows=1, ndmin=2).astype(int)
    found = np.count_nonzero(learned.bad[hot[:, 1], hot[:, 0]])
    return (
        f"{name}: {found} of {len(hot)} hot pixels learned, {np.count_nonzero(learned.bad[good])} good ones with them"
    )


def print_merged(console: Console, name: str, run: sfxlab.Run, truth: Path, group: str) -> None:
    """Merged intensities against the true ones."""
    for model in ("none", "scaled"):
        merged = sfxlab.merge(run, group, model, d_min=2.7 if name.startswith("psii") else 2.0)
        reference = sfxlab.read_merged(next(truth.glob("*true.hkl.gz")), cell=merged.cell)
        agreement, overall = sfxlab.compare(merged, reference).overall, merged.statistics().overall
        console.print(
            f"{name}, {model}: CC to truth {agreement.cc:.4f}, R1(I) {100 * agreement.r1i:.1f} %, "
            f"CC1/2 {overall.cc_half:.4f}, Rsplit {100 * overall.rsplit:.1f} %, "
            f"completeness {100 * overall.completeness:.1f} %"
        )


def lattice_table(name: str, results: list[sfxlab.FrameResult], facts: list[dict], cell: UnitCell) -> Table:
    """Lattices found within 1° of a true one, by kind of frame."""
    counts: dict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros(4, dtype=np.int64))
    angles = []
    for result, fact in zip(results, facts, strict=True):
        true = [np.array([c["astar"], c["bstar"], c["cstar"]]).T / 10 for c in fact["crystals"]]
        right = 0
        for crystal in result.crystals:
            found = [rotation_between(crystal.basis, basis, cell) for basis in true]
            if found and min(found) < 1:
                right += 1
                angles.append(min(found))
                true.pop(int(np.argmin(found)))
        counts[fact["kind"]] += [1, len(fact["crystals"]), right, len(result.crystals) - right]
    median = np.median(angles) if angles else np.nan
    table = Table(title=f"{name}: lattices, median angle to the truth {median:.3f}°", title_justify="left")
    for column in ("kind", "frames", "true lattices", "right", "false"):
        table.add_column(column, justify="right")
    for kind, row in counts.items():
        table.add_row(kind, *(str(n) for n in row))
    table.add_row("all", *(str(n) for n in sum(counts.values())))
    return table


def rotation_between(found: NDArray[np.float64], true: NDArray[np.float64], cell: UnitCell) -> float:
    """Degrees between two bases of one lattice; 180 where they are not the same lattice."""
    primitive = np.linalg.inv(cell.primitive_transform)
    found, true = found @ primitive, true @ primitive
    change = np.rint(np.linalg.inv(true) @ found)
    if round(np.linalg.det(change)) != 1:
        return 180.0
    u, _, vt = np.linalg.svd(found @ np.linalg.inv(true @ change))
    return float(np.degrees(np.arccos(np.clip((np.trace(u @ vt) - 1) / 2, -1, 1))))


def peak_table(name: str, results: list[sfxlab.FrameResult], facts: list[dict], truth: Path) -> Table:
    """Recall of true peaks by their photons, false peaks, and errors of position."""
    edges = (8, 15, 25, 40, 80, np.inf)
    with gzip.open(truth / "true_peaks.csv.gz", "rt") as file:
        rows = [[float(row[k]) for k in ("frame", "fs", "ss", "photons_5x5", "masked")] for row in csv.DictReader(file)]
    true_peaks = np.array([row for row in rows if row[4] == 0])
    seen, there = np.zeros(5), np.zeros(5)
    false_in_hits, false_in_blanks, errors = [], [], []
    hits = sum(r.status in ("hit", "indexed") and f["is_hit"] for r, f in zip(results, facts, strict=True))
    false_hits = sum(r.status in ("hit", "indexed") and not f["is_hit"] for r, f in zip(results, facts, strict=True))
    for result, fact in zip(results, facts, strict=True):
        found = np.column_stack([result.peaks.fs, result.peaks.ss])
        if not fact["is_hit"]:
            false_in_blanks.append(len(found))
            continue
        true = true_peaks[true_peaks[:, 0] == fact["frame"]]
        distance = cKDTree(found).query(true[:, 1:3])[0] if len(found) else np.full(len(true), np.inf)
        for i, (low, high) in enumerate(pairwise(edges)):
            inside = (true[:, 3] >= low) & (true[:, 3] < high)
            there[i] += inside.sum()
            seen[i] += (distance[inside] < 2).sum()
        nearest = cKDTree(true[:, 1:3]).query(found)[0] if len(found) and len(true) else np.zeros(0)
        false_in_hits.append(np.count_nonzero(nearest > 3))
        errors += list(nearest[nearest < 2])
    title = f"{name}: {hits} of {sum(f['is_hit'] for f in facts)} hits, {false_hits} blanks taken for hits"
    table = Table(title=title, title_justify="left")
    for low, high in pairwise(edges):
        table.add_column(f"recall {low:g}-{high:g} photons", justify="right")
    for column in ("false a hit", "false a blank", "median error / px"):
        table.add_column(column, justify="right")
    recall = [f"{s / max(t, 1):.3f}" for s, t in zip(seen, there, strict=True)]
    false = [f"{np.mean(x):.2f}" if x else "-" for x in (false_in_hits, false_in_blanks)]
    table.add_row(*recall, *false, f"{np.median(errors):.3f}")
    return table


def thermolysin(console: Console, folder: Path) -> None:
    """Measured CSPAD frames against the orientations of DIALS."""
    cell = sfxlab.read_cell(folder / "thermolysin.cell")
    recipe = sfxlab.Recipe().with_cell(cell)
    frames = sfxlab.open_frames(folder / "thermolysin_cspad.cxi", folder / "thermolysin_cspad.geom")
    with h5py.File(folder / "thermolysin_reference.h5") as file:
        reference = file["frames/A"][...]
    table = Table(title="thermolysin, CSPAD: angles to the reference (first lattice)", title_justify="left")
    for column in ("event", "peaks", "lattices", "peaks explained", "angle / °", "r.m.s. / px", "reflections"):
        table.add_column(column, justify="right")
    for frame, basis in zip(frames, reference, strict=True):
        result = sfxlab.process_frame(frame, recipe)
        angles = (f"{least_rotation(crystal.basis, basis):.3f}" for crystal in result.crystals)
        table.add_row(
            frame.id.event, str(len(result.peaks)), str(len(result.crystals)),
            ", ".join(str(crystal.n_peaks) for crystal in result.crystals), ", ".join(angles),
            ", ".join(f"{crystal.rms_residual:.2f}" for crystal in result.crystals),
            ", ".join(str(len(reflections)) for reflections in result.reflections),
        )  # fmt: skip
    console.print(table)


def least_rotation(found: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Degrees between two hexagonal bases, modulo the twelve rotations of the lattice."""
    angles = []
    for operation in hexagonal_rotations():
        u, _, vt = np.linalg.svd(found @ operation @ np.linalg.inv(reference))
        angles.append(np.degrees(np.arccos(np.clip((np.trace(u @ vt) - 1) / 2, -1, 1))))
    return float(min(angles))


def hexagonal_rotations() -> Iterator[NDArray[np.float64]]:
    """Changes of the reciprocal basis by the rotations of point group 622."""
    six, two = np.array([[1.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, -1]])
    turned = np.eye(3)
    for _ in range(6):
        turned = turned @ six
        for operation in (turned, turned @ two):
            yield np.linalg.inv(operation).T


if __name__ == "__main__":
    default = os.environ.get("SFXLAB_SHARED_DATA", ROOT.parent / "shared" / "data")
    main(Path(sys.argv[1] if len(sys.argv) > 1 else default))
