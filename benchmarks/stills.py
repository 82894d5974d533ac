"""Peaks of stills with truth, for `benchmarks/indexing.py`: of the example data, and generated for any cell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

import sfxlab
from sfxlab.crystal import UnitCell, symmetrise
from sfxlab.interop.stream_reader import read_stream
from sfxlab.peaks import find_peaks, is_hit

LATTICES = (
    ("triclinic", "P"), ("monoclinic", "P"), ("monoclinic", "C"), ("orthorhombic", "P"), ("orthorhombic", "C"),
    ("orthorhombic", "I"), ("orthorhombic", "F"), ("tetragonal", "P"), ("tetragonal", "I"), ("hexagonal", "P"),
    ("rhombohedral", "H"), ("cubic", "P"), ("cubic", "I"), ("cubic", "F"),
)  # fmt: skip
PIXEL, HALF_WIDTH = 75e-6, 1000


@dataclass(frozen=True)
class Still:
    """The peaks of a frame, and what is true of it."""

    q: NDArray[np.float64]
    """Scattering vectors, (n, 3), 1/Å."""
    true: tuple[NDArray[np.float64], ...]
    """Reciprocal bases of the true lattices, columns a*, b*, c* of the conventional cell, 1/Å."""
    cell: UnitCell
    """Their cell."""
    given: UnitCell
    """The cell that is looked for."""
    kind: str = ""


def simulated(folder: Path, *, reference_peaks: bool = False) -> list[Still]:
    """Hits of a simulated data set, their peaks found with default parameters or by CrystFEL's peakfinder8."""
    cell, recipe = sfxlab.read_cell(folder / f"{folder.name}.cell"), sfxlab.Recipe()
    facts = json.loads((folder / "truth" / "truth.json").read_text())["frames"]
    hits: list[tuple[int, NDArray[np.float64]]] = []
    if reference_peaks:
        stream = read_stream(folder / "reference" / "peaks.stream.gz")
        assert stream.detector is not None
        for result in stream.results():
            number, peaks = int(result.id.event.strip("/")), result.peaks
            if facts[number]["is_hit"]:
                hits.append((number, stream.detector.q(peaks.panel, peaks.fs, peaks.ss, result.photon_energy)))
    else:
        (data,) = (path for path in folder.iterdir() if path.suffix in (".cxi", ".h5") and path.stem == folder.name)
        for number, frame in enumerate(sfxlab.open_frames(data, folder / f"{folder.name}.geom")):
            peaks = find_peaks(frame, recipe)
            if is_hit(peaks, recipe):
                hits.append((number, frame.detector.q(peaks.panel, peaks.fs, peaks.ss, frame.photon_energy)))
    return [
        Still(
            q, tuple(np.array([c["astar"], c["bstar"], c["cstar"]]).T / 10 for c in facts[number]["crystals"]), cell,
            cell, facts[number]["kind"],
        )
        for number, q in hits
    ]  # fmt: skip


def thermolysin(folder: Path) -> list[Still]:
    """Measured frames with the orientations of DIALS; event 1 has further crystals, which count as false here."""
    cell, recipe = sfxlab.read_cell(folder / "thermolysin.cell"), sfxlab.Recipe()
    frames = sfxlab.open_frames(folder / "thermolysin_cspad.cxi", folder / "thermolysin_cspad.geom")
    with h5py.File(folder / "thermolysin_reference.h5") as file:
        bases = file["frames/A"][...]
    stills = []
    for frame, basis in zip(frames, bases, strict=True):
        peaks = find_peaks(frame, recipe)
        q = frame.detector.q(peaks.panel, peaks.fs, peaks.ss, frame.photon_energy)
        stills.append(Still(q, (basis,), cell, cell))
    return stills


def measured(path: Path, spots: str, cell: UnitCell) -> list[Still]:
    """Frames of a table of spots; each has one reference solution, further crystals count as false here."""
    with h5py.File(path) as file:
        q, of_frame, bases = file[f"{spots}/q"][...], file[f"{spots}/frame"][...], file["frames/A"][...]
    return [Still(q[of_frame == number], (basis,), cell, cell) for number, basis in enumerate(bases)]


def spot_lists(folder: Path, finder: str) -> list[Still]:
    """Images of the lists of one spot finder, with the published cell."""
    cell = UnitCell(78.95, 78.95, 36.9, lattice_type="tetragonal", unique_axis="c")
    with h5py.File(folder / "spots.h5") as file:
        q, image, bases = file[f"{finder}/q"][...], file[f"{finder}/image"][...], file["refined_solution"][...]
    return [Still(q[image == number], (np.linalg.inv(basis),), cell, cell) for number, basis in enumerate(bases)]


def with_noise(still: Still, seed: int, n_peaks: int = 5000, share: float = 1.0) -> Still:
    """A `share` of the peaks of a frame, and so many of no crystal that there are `n_peaks`.

    They are anywhere on the detector within the resolution of the others. With a share of 0 the frame holds nothing
    else, and nothing that is found in it is true.
    """
    q, rng = still.q, np.random.default_rng(seed)
    k = -(q**2).sum() / (2 * q[:, 2].sum())
    kept = q if share == 1 else q[rng.random(len(q)) < share]
    turn = rng.uniform(0, 2 * np.pi, n_peaks - len(kept))
    far = np.hypot(q[:, 0], q[:, 1]).max() * np.sqrt(rng.random(n_peaks - len(kept)))
    noise = np.column_stack([far * np.cos(turn), far * np.sin(turn), np.sqrt(k**2 - far**2) - k])
    return replace(still, q=np.concatenate([kept, noise]), true=still.true if share else ())


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
    shine, a little moved. The cell that is given is off by up to `wrong` in its lengths, and by 50° times that.
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
    spots_found = np.concatenate(places)
    n_wrong = round(len(spots_found) * outliers / (1 - outliers)) if total < 5000 else total - len(spots_found)
    q = _on_detector(rng, spots_found, n_wrong, distance, k)
    off = np.array(cell.parameters)
    off[:3] *= 1 + wrong * rng.uniform(-1, 1, 3)
    off[3:] += 50 * wrong * rng.uniform(-1, 1, 3)
    return Still(q, tuple(true), cell, cell.with_parameters(symmetrise(off, cell)))


def small_cell(
    rng: np.random.Generator, kind: str, centring: str, spots: tuple[int, int], axes: tuple[float, float] = (5, 12)
) -> Still:
    """Spots of a crystal of small molecules at 15 to 31 keV, drawn again, of larger cells, until there are enough."""
    while True:
        still = generated(
            rng, kind, centring, spots, axes=axes, wavelength=rng.uniform(0.4, 0.8), bandwidth=0.002, max_reach=1.4
        )
        if spots[0] <= len(still.q) <= spots[1]:
            return still
        axes = min(1.03 * axes[0], 0.95 * axes[1]), axes[1]


def of_all_lattices(seed: int, n: int) -> Iterator[tuple[np.random.Generator, str, str]]:
    """`n` frames of each of the 14 Bravais lattices; each has random numbers of its own."""
    for number in range(n):
        for place, kind in enumerate(LATTICES):
            yield np.random.default_rng((seed, number, place)), *kind


def _on_detector(
    rng: np.random.Generator, spots: NDArray[np.float64], n_wrong: int, distance: float, k: float
) -> NDArray[np.float64]:
    turn, far = rng.uniform(0, 2 * np.pi, n_wrong), np.abs(spots).max(initial=0) * np.sqrt(rng.random(n_wrong))
    spots = spots + rng.normal(0, 0.3 * PIXEL, spots.shape)
    spots = np.concatenate([spots, np.column_stack([far * np.cos(turn), far * np.sin(turn)])])
    rays = np.column_stack([spots, np.full(len(spots), distance)])
    return np.asarray(k * rays / np.linalg.norm(rays, axis=1)[:, None] - [0, 0, k])
