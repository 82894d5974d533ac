"""Indexing with a known cell: the table that `benchmarks/indexing.py` prints besides its own.

Peaks are fixed lists (reference programs' and published ones) or generated, so that the peak search does not count.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from scipy.spatial.transform import Rotation

import sfxlab
from sfxlab.crystal import UnitCell
from sfxlab.indexing import index, target_of
from sfxlab.indexing.decoys import DecoyCount, scrambled
from sfxlab.interop.stream_reader import read_stream

Still = tuple[NDArray[np.float64], list[NDArray[np.float64]], UnitCell, UnitCell]
"""Peaks (n, 3), 1/Å, true reciprocal bases, the true cell and the one that is given."""

LATTICES = (
    ("triclinic", "P"), ("monoclinic", "P"), ("monoclinic", "C"), ("orthorhombic", "P"), ("orthorhombic", "C"),
    ("orthorhombic", "I"), ("orthorhombic", "F"), ("tetragonal", "P"), ("tetragonal", "I"), ("hexagonal", "P"),
    ("rhombohedral", "H"), ("cubic", "P"), ("cubic", "I"), ("cubic", "F"),
)  # fmt: skip
PIXEL, HALF_WIDTH = 75e-6, 1000


def known_cell_table(shared: Path, share: float = 1.0) -> Table:
    """Lattices found, false ones, and CPU time, also of decoys; a `share` of the generated frames."""
    table = Table(title="with a known cell", title_justify="left")
    times = "median, 95 %, max"
    for column in ("data", "lattices", "right", "false", "decoys indexed", f"ms a hit: {times}", f"a decoy: {times}"):
        table.add_column(column, justify="right")
    for name in ("lyso", "psii"):
        if (shared / name).is_dir():
            table.add_row(name, *scores(simulated(shared / name)))
            table.add_row(f"{name}, with noise to 5,000 peaks", *scores(crowded(simulated(shared / name))))
    real = shared / "real"
    cells = {
        "lysozyme_cspad_100": UnitCell(79.1, 79.1, 38.1, lattice_type="tetragonal", unique_axis="c"),
        "cunir_ssx": UnitCell(96.4, 96.4, 96.4, lattice_type="cubic"),
    }
    for name, spots in (("lysozyme_cspad_100", "indexed"), ("cunir_ssx", "spots")):
        if (real / name).is_dir():
            table.add_row(f"{name}, 0.5°", *scores(measured(real / name / f"{name}.h5", spots, cells[name]), 0.5))
    for finder in ("local", "radial", "peakfinder8"):
        if (real / "spot_lists_tetragonal").is_dir():
            table.add_row(f"spot lists, {finder}", *scores(spot_lists(real / "spot_lists_tetragonal", finder)))
    kinds: dict[str, tuple[int, Callable[[np.random.Generator, str, str], Still]]] = {
        "14 lattices, 15-300 spots": (100, lambda rng, *kind: generated(rng, *kind, (15, 300))),
        "the same, cell 3 % and 1.5° off": (10, lambda rng, *kind: generated(rng, *kind, (30, 200), wrong=0.03)),
        "8-14 spots": (80, lambda rng, *kind: generated(rng, *kind, (8, 14))),
        "three crystals, 40-80 spots each": (10, lambda rng, *kind: generated(rng, *kind, (40, 80), crystals=3)),
        "five crystals, 40-80 spots each": (3, lambda rng, *kind: generated(rng, *kind, (40, 80), crystals=5)),
        "ten crystals, 40-80 spots each": (2, lambda rng, *kind: generated(rng, *kind, (40, 80), crystals=10)),
        "axes of 200-400 Å": (10, lambda rng, *kind: generated(rng, *kind, (60, 300), axes=(200, 400))),
        "5,000 peaks, 95 % outliers": (
            10,
            lambda rng, *kind: generated(rng, *kind, (5000, 5000), axes=(40, 80), outliers=0.95),
        ),
        "axes of 5-12 Å, 8-14 spots": (25, lambda rng, *kind: small_cell(rng, *kind, (8, 14))),
        "axes of 5-12 Å, 15-24 spots": (25, lambda rng, *kind: small_cell(rng, *kind, (15, 24))),
        "axes of 5-12 Å, 25-40 spots": (25, lambda rng, *kind: small_cell(rng, *kind, (25, 40))),
    }
    for number, (name, (frames, make)) in enumerate(kinds.items()):
        rng = np.random.default_rng(number)
        n = max(1, round(share * frames))
        table.add_row(name, *scores(make(rng, *kind) for _ in range(n) for kind in LATTICES))
    return table


def scores(stills: Iterator[Still], largest_angle: float = 180.0) -> tuple[str, ...]:
    """Numbers of lattices, true, right and false; of decoys, with a limit at 95 % confidence; milliseconds.

    A right lattice is turned by less than `largest_angle`, degrees, from the true one.
    """
    recipe = sfxlab.Recipe().indexing
    n_true, right, false, decoys, accepted, seconds, in_vain = 0, 0, 0, 0, 0, [], []
    for number, (q, true, cell, given) in enumerate(stills):
        target = target_of(given)
        _ = target.nodes, target.settings, target.like_axes, target.coincidences  # made once for a run
        if number == 0:
            index(q, target, recipe)  # compiled at first use
        start = time.thread_time()
        found = index(q, target, recipe).lattices
        seconds.append(time.thread_time() - start)
        start = time.thread_time()
        decoy = index(scrambled(q, number), target, recipe).lattices
        in_vain.append(time.thread_time() - start)
        decoys, accepted = decoys + 1, accepted + (len(decoy) > 0)
        n_true += len(true)
        for lattice in found:
            same = [i for i, basis in enumerate(true) if is_same(lattice.basis, basis, cell, largest_angle)]
            right, false = right + bool(same), false + (not same)
            if same:
                true.pop(same[0])
    times = ["  ".join(f"{1e3 * t:.1f}" for t in (*np.percentile(s, [50, 95]), max(s))) for s in (seconds, in_vain)]
    of_decoys = f"{accepted} of {decoys} (below {DecoyCount(decoys, accepted).limit:.1%})"
    return str(n_true), f"{right} ({right / n_true:.1%})", str(false), of_decoys, *times


def is_same(
    found: NDArray[np.float64], true: NDArray[np.float64], cell: UnitCell, largest_angle: float = 180.0
) -> bool:
    """Whether the change between primitive bases is of whole numbers, but for 0.12, with determinant 1; hardly turned.

    `largest_angle` is in degrees.
    """
    primitive = np.linalg.inv(cell.primitive_transform)
    change = np.linalg.inv(found @ primitive) @ (true @ primitive)
    whole = np.rint(change)
    if np.abs(change - whole).max() > 0.12 or round(np.linalg.det(whole)) != 1:
        return False
    u, _, vt = np.linalg.svd(found @ primitive @ whole @ np.linalg.inv(true @ primitive))
    return bool(np.degrees(np.arccos(np.clip((np.trace(u @ vt) - 1) / 2, -1, 1))) < largest_angle)


def crowded(stills: Iterator[Still], n_peaks: int = 5000) -> Iterator[Still]:
    """The same frames with more peaks, anywhere on the detector within the resolution of the others."""
    for number, (q, true, cell, given) in enumerate(stills):
        k = -(q**2).sum() / (2 * q[:, 2].sum())
        rng = np.random.default_rng(number)
        turn = rng.uniform(0, 2 * np.pi, n_peaks - len(q))
        far = np.hypot(q[:, 0], q[:, 1]).max() * np.sqrt(rng.random(n_peaks - len(q)))
        noise = np.column_stack([far * np.cos(turn), far * np.sin(turn), np.sqrt(k**2 - far**2) - k])
        yield np.concatenate([q, noise]), true, cell, given


def simulated(folder: Path) -> Iterator[Still]:
    """Hits of a simulated data set with the peaks that CrystFEL's peakfinder8 found."""
    cell = sfxlab.read_cell(folder / f"{folder.name}.cell")
    facts = json.loads((folder / "truth" / "truth.json").read_text())["frames"]
    stream = read_stream(folder / "reference" / "peaks.stream.gz")
    assert stream.detector is not None
    for result in stream.results():
        fact, peaks = facts[int(result.id.event.strip("/"))], result.peaks
        if fact["is_hit"]:
            true = [np.array([c["astar"], c["bstar"], c["cstar"]]).T / 10 for c in fact["crystals"]]
            yield stream.detector.q(peaks.panel, peaks.fs, peaks.ss, result.photon_energy), true, cell, cell


def measured(path: Path, spots: str, cell: UnitCell) -> Iterator[Still]:
    """Frames of a table of spots; each has one reference solution, further crystals count as false here."""
    with h5py.File(path) as file:
        q, of_frame, bases = file[f"{spots}/q"][...], file[f"{spots}/frame"][...], file["frames/A"][...]
    for number, basis in enumerate(bases):
        yield q[of_frame == number], [basis], cell, cell


def spot_lists(folder: Path, finder: str) -> Iterator[Still]:
    """Images of the lists of one spot finder, with the published cell."""
    cell = UnitCell(78.95, 78.95, 36.9, lattice_type="tetragonal", unique_axis="c")
    with h5py.File(folder / "spots.h5") as file:
        q, image, bases = file[f"{finder}/q"][...], file[f"{finder}/image"][...], file["refined_solution"][...]
    for number, basis in enumerate(bases):
        yield q[image == number], [np.linalg.inv(basis)], cell, cell


def random_cell(rng: np.random.Generator, kind: str, centring: str, axes: tuple[float, float]) -> UnitCell:
    """A cell of a lattice with axes, log-uniform, in Å."""
    a, b, c = np.exp(rng.uniform(*np.log(axes), 3))
    while max(a, b, c) > 5 * min(a, b, c):
        a, b, c = np.exp(rng.uniform(*np.log(axes), 3))
    parameters = {
        "triclinic": (a, b, c, *rng.uniform(75, 105, 3)), "monoclinic": (a, b, c, 90, rng.uniform(91, 115), 90),
        "orthorhombic": (a, b, c), "tetragonal": (a, a, c), "cubic": (a, a, a),
    }.get(kind, (a, a, c, 90, 90, 120))  # fmt: skip
    axis = {"monoclinic": "b", "tetragonal": "c", "hexagonal": "c", "rhombohedral": "c"}.get(kind)
    return UnitCell(*parameters, lattice_type=kind, centring=centring, unique_axis=axis)


def generated(
    rng: np.random.Generator,
    kind: str,
    centring: str,
    spots: tuple[int, int],
    *,
    axes: tuple[float, float] = (25, 250),
    crystals: int = 1,
    outliers: float = 0.2,
    wrong: float = 0.0,
    cell: UnitCell | None = None,
    wavelength: float = 1.3,
    bandwidth: float = 0.0,
    max_reach: float = 0.6,
) -> Still:
    """Spots of crystals on a detector of 2000 x 2000 pixels, with 0.3 pixels of noise and a share of outliers.

    The detector stands where neighbouring nodes of the longest axis are 10 pixels apart or more. Nodes have a radius of
    0.002 1/Å, or 0.12 of the distance to the next one where that is less; the relative `bandwidth` lets more of them
    shine, a little moved.
    """
    cell, k = cell or random_cell(rng, kind, centring, axes), 1 / wavelength
    total = int(rng.integers(spots[0], spots[1] + 1))
    n = max(3, round(total * (1 - outliers)))
    distance = max(0.08, 10 * PIXEL * k * max(cell.lengths))
    radius = min(0.002, 0.12 / max(cell.lengths))
    volume = cell.volume * abs(np.linalg.det(cell.primitive_transform))
    farthest = 2 * k * np.sin(0.5 * np.arctan(HALF_WIDTH * PIXEL / distance))
    wanted = np.sqrt(n * rng.uniform(3, 10) / (2.5 * np.pi * radius * volume))
    reach = min(farthest, max_reach, max(wanted, 4 / max(cell.lengths)))
    hkl = np.stack(np.meshgrid(*(np.arange(-m, m + 1) for m in (reach * np.array(cell.lengths)).astype(int) + 1)), -1)
    hkl = hkl.reshape(-1, 3)
    hkl = hkl[cell.allows(hkl) & np.any(hkl != 0, axis=1)]
    true, places = [], []
    for _ in range(crystals):
        basis = Rotation.random(rng=rng).as_matrix() @ cell.reciprocal_basis * (1 + 0.001 * rng.normal())
        nodes = hkl @ basis.T
        nodes = nodes[np.linalg.norm(nodes, axis=1) < reach]
        square = (nodes**2).sum(axis=1)
        excitation = np.linalg.norm(nodes + [0, 0, k], axis=1) - k
        variance, by_colour = radius**2, (bandwidth * square / (2 * k)) ** 2
        shines = rng.random(len(nodes)) < np.exp(-0.5 * excitation**2 / (variance + by_colour))
        colour = excitation * 2 * k**2 / square * by_colour / (variance + by_colour)
        rays = (nodes + np.outer(k + colour, [0, 0, 1]))[shines]
        rays = rays[rng.permutation(len(rays))[:n]]
        places.append(distance * rays[:, :2] / rays[:, 2:])
        true.append(basis)
    return _still(rng, true, places, distance, k, outliers, cell, wrong, total)


def small_cell(rng: np.random.Generator, kind: str, centring: str, spots: tuple[int, int]) -> Still:
    """Spots of a crystal of small molecules at 15 to 31 keV, drawn again until there are enough."""
    while True:
        q, *others = generated(
            rng, kind, centring, spots, axes=(5, 12), wavelength=rng.uniform(0.4, 0.8), bandwidth=0.002, max_reach=1.4
        )
        if spots[0] <= len(q) <= spots[1]:
            return q, *others


def _still(
    rng: np.random.Generator,
    true: list[NDArray[np.float64]],
    places: list[NDArray[np.float64]],
    distance: float,
    k: float,
    outliers: float,
    cell: UnitCell,
    wrong: float,
    total: int,
) -> Still:
    spots = np.concatenate(places)
    n_wrong = round(len(spots) * outliers / (1 - outliers)) if total < 5000 else total - len(spots)
    turn, far = rng.uniform(0, 2 * np.pi, n_wrong), np.abs(spots).max(initial=0) * np.sqrt(rng.random(n_wrong))
    spots = spots + rng.normal(0, 0.3 * PIXEL, spots.shape)
    spots = np.concatenate([spots, np.column_stack([far * np.cos(turn), far * np.sin(turn)])])
    rays = np.column_stack([spots, np.full(len(spots), distance)])
    q = k * rays / np.linalg.norm(rays, axis=1)[:, None] - [0, 0, k]
    off = np.array(cell.parameters)
    off[:3] *= 1 + wrong * rng.uniform(-1, 1, 3)
    off[3:] += 50 * wrong * rng.uniform(-1, 1, 3)
    return q, true, cell, cell.with_parameters(sfxlab.crystal.symmetrise(off, cell))
