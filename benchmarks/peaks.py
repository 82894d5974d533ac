"""Speed and quality of the peak search, with default parameters.

    python benchmarks/peaks.py [--quick] [FOLDER OF EXAMPLE DATA]

Speed: everything from the file to the decision whether a frame is a hit, against reading the same frame with plain
h5py. Both take turns on one core, from the system's file cache, and the best turn of each counts. Quality: peaks
against the truth of simulated frames, and of example data where they are there; with CrystFEL's peaks on
these for comparison. `plain` is the same idea in a few lines of numpy and scipy.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from scipy.spatial import cKDTree

import sfxlab
from sfxlab.frames import Frame
from sfxlab.geometry import Detector, parse_geometry
from sfxlab.interop.stream_reader import read_stream

MODULES = {1: (2, 1), 4: (4, 2), 16: (8, 4)}
"""Rows and columns of modules of 514 × 1030 pixels, by megapixels."""
GAP = (37, 10)
EDGES = (8, 15, 25, 40, 80, np.inf)
FEWEST_SPOTS = 15
"""Spots over 25 photons that a frame needs to be indexed."""

Found = Sequence[tuple[bool, NDArray[np.float64], NDArray[np.float64]]]
"""Whether each frame is a hit, its peaks' fs and ss (n, 2), and their signal-to-noise ratios (n,)."""


def main(shared: Path, quick: bool) -> None:
    """Print the table of speed and the tables of quality."""
    console = Console(width=185)
    load = f"load before {os.getloadavg()[0]:.2f}"
    console.print(speed_table((1, 4) if quick else (1, 4, 16), 4 if quick else 12))
    console.print(f"{os.cpu_count()} cores, {load}, after {os.getloadavg()[0]:.2f}")
    console.print(quality_table(shared, quick))
    console.print(parity_table(shared))
    console.print(robustness_table(24 if quick else 120))


def speed_table(megapixels: Sequence[int], repetitions: int) -> Table:
    """Milliseconds per frame, of blanks and of hits."""
    table = Table(title="File to hit decision, ms a frame on one core", title_justify="left")
    names = ("plain h5py", "our reading", "reading and search", "/ h5py", "search, ns/pixel", "plain search", "peaks")
    for column in ("frames", *names):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        for size in megapixels:
            for dtype in ("uint16", "int32", "float32"):
                for spots in (0, 300):
                    path = Path(folder) / f"{size}-{dtype}-{spots}.h5"
                    geometry = write_frames(path, size, dtype, spots)
                    table.add_row(
                        f"{size} Mpx {dtype} {'hits' if spots else 'blanks'}", *speed(path, geometry, repetitions)
                    )
    return table


def speed(path: Path, geometry: str, repetitions: int) -> list[str]:
    """The figures of a row of the speed table."""
    frames = sfxlab.open_frames(path, parse_geometry(geometry))
    n, found = len(frames), []
    with h5py.File(path) as file:
        dataset = file["data"]
        buffer = np.empty(dataset.shape[1:], dtype=dataset.dtype)
        ways: list[Callable[[int], object]] = [
            lambda i: dataset.read_direct(buffer, np.s_[i]),
            lambda i: frames[i],
            lambda i: found.append(sfxlab.find_peaks(frames[i])),
        ]
        times = np.full((len(ways), repetitions + 1), np.inf)
        for turn in range(repetitions + 1):
            for k, way in enumerate(ways):
                started = time.perf_counter()
                for i in range(n):
                    way(i)
                times[k, turn] = (time.perf_counter() - started) / n * 1e3
    h5py_alone, reading, all_of_it = times.min(axis=1)
    frame = frames[0]
    started = time.perf_counter()
    plain_peaks(frame)
    plain = (time.perf_counter() - started) * 1e3
    return [
        f"{h5py_alone:.2f}", f"{reading:.2f}", f"{all_of_it:.2f}", f"{all_of_it / h5py_alone:.2f}",
        f"{1e6 * (all_of_it - reading) / frame.data.size:.2f}", f"{plain:.0f}",
        f"{np.mean([len(peaks) for peaks in found]):.0f}",
    ]  # fmt: skip


def write_frames(path: Path, megapixels: int, dtype: str, spots: int, frames: int = 4) -> str:
    """Frames with a diffuse background, a ring, masked pixels and spots; returns the geometry."""
    random = np.random.default_rng(1)
    text, detector = modules(megapixels)
    mask = (detector.panel_map < 0) | (random.random(detector.shape) < 1e-3)
    radius = detector.radius.astype(np.float64)
    expected = 0.3 + 4 * np.exp(-((radius / 250) ** 2)) + 0.7 * np.exp(-(((radius - 500) / 50) ** 2))
    y, x = np.mgrid[-4:5, -4:5]
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "data", (frames, *detector.shape), dtype, chunks=(1, *detector.shape), **hdf5plugin.Bitshuffle(cname="lz4")
        )
        for i in range(frames):
            mean = expected.copy()
            for _ in range(spots):
                row, column = random.integers(5, detector.shape[0] - 5), random.integers(5, detector.shape[1] - 5)
                spot = np.exp(-((x - random.uniform(-0.5, 0.5)) ** 2 + (y - random.uniform(-0.5, 0.5)) ** 2) / 1.3)
                mean[row - 4 : row + 5, column - 4 : column + 5] += spot / spot.sum() * random.exponential(150)
            frame = random.poisson(mean).astype(dtype)
            if dtype == "float32":
                # Calibrated pixels: noise in all digits that a correction leaves.
                frame = (8 * frame + random.normal(0, 2, frame.shape)).astype(dtype)
            frame[mask] = 65535 if dtype == "uint16" else -1
            data[i] = frame
        file["mask"] = mask.astype(np.uint32)
    return text.replace("adu_per_photon = 1", f"adu_per_photon = {8 if dtype == 'float32' else 1}")


def modules(megapixels: int) -> tuple[str, Detector]:
    """A geometry of modules with gaps between them, and its detector."""
    rows, columns = MODULES[megapixels]
    high, wide = rows * (514 + GAP[0]) - GAP[0], columns * (1030 + GAP[1]) - GAP[1]
    lines = [
        "photon_energy = 9000 eV", "clen = 0.1 m", "res = 13333.3", "data = /data", "dim0 = %", "dim1 = ss",
        "dim2 = fs", "mask0_data = /mask", "mask0_badbits = 0xffffffff", "adu_per_photon = 1",
    ]  # fmt: skip
    for row in range(rows):
        for column in range(columns):
            r, c, name = row * (514 + GAP[0]), column * (1030 + GAP[1]), f"m{row}x{column}"
            lines += [
                f"{name}/min_fs = {c}", f"{name}/max_fs = {c + 1029}", f"{name}/min_ss = {r}",
                f"{name}/max_ss = {r + 513}", f"{name}/corner_x = {c - wide / 2}", f"{name}/corner_y = {r - high / 2}",
                f"{name}/fs = x", f"{name}/ss = y",
            ]  # fmt: skip
    text = "\n".join(lines)
    geometry = parse_geometry(text)
    return text, geometry.detector(0.1, (0.0, 0.0))


def plain_peaks(frame: Frame, snr: float = 3.5) -> NDArray[np.float64]:
    """Centroids fs, ss (n, 2) of at least two connected pixels far above the mean of their radius."""
    radius = np.where(frame.bad == 0, frame.detector.radius, 65535).ravel()
    value = np.where(frame.bad == 0, frame.data, 0).astype(np.float64).ravel()
    inside = radius < 65535
    for _ in range(5):
        n = np.maximum(np.bincount(radius[inside], minlength=65536), 1)
        mean = np.bincount(radius[inside], value[inside], minlength=65536) / n
        variance = np.bincount(radius[inside], value[inside] ** 2, minlength=65536) / n - mean**2
        threshold = mean + snr * np.sqrt(np.maximum(variance, mean + 0.01))
        inside = (radius < 65535) & (value <= threshold[radius])
    above = ((radius < 65535) & (value > threshold[radius])).reshape(frame.data.shape)
    labels, count = ndimage.label(above, np.ones((3, 3)))
    large = np.flatnonzero(np.bincount(labels.ravel(), minlength=count + 1)[1:] >= 2) + 1
    excess = (value - mean[radius]).reshape(frame.data.shape)
    centres = ndimage.center_of_mass(np.maximum(excess, 0), labels, large) if len(large) else []
    return np.array(centres).reshape(-1, 2)[:, ::-1] + 0.5


def quality_table(shared: Path, quick: bool) -> Table:
    """Peaks of the example data against their truth: ours, CrystFEL's and those of `plain_peaks`."""
    table = score_columns("Peaks against the truth")
    for name, file in (("lyso", "lyso.cxi"), ("psii", "psii.h5")):
        folder = shared / name
        if not folder.is_dir():
            continue
        frames = sfxlab.open_frames(folder / file, folder / f"{name}.geom")
        facts, true = read_truth(folder / "truth")
        ours = [as_found(sfxlab.find_peaks(frame)) for frame in frames]
        table.add_row(name, *score(ours, facts, true))
        if not quick:
            centres = [plain_peaks(frame) for frame in frames]
            plain = [(len(c) >= 10, c, np.full(len(c), np.inf)) for c in centres]
            table.add_row(f"{name}, plain", *score(plain, facts, true))
        reference = crystfel_peaks(folder / "reference" / "peaks.stream.gz", frames)
        table.add_row(f"{name}, CrystFEL", *score(reference, facts, true))
    return table


def crystfel_peaks(path: Path, frames: sfxlab.frames.FrameSource) -> Found:
    """The peaks of a stream, in the slab."""
    events = {frames.identity(i).event: i for i in range(len(frames))}
    found: list[tuple[bool, NDArray[np.float64], NDArray[np.float64]]] = [
        (False, np.zeros((0, 2)), np.zeros(0)) for _ in events
    ]
    for result in read_stream(path).results():
        found[events[result.id.event]] = as_found(result.peaks)
    return found


def parity_table(shared: Path) -> Table:
    """The method `peakfinder8` with the parameters of CrystFEL's command, against CrystFEL's peaks."""
    table = Table("frames", "CrystFEL's peaks", "ours", "found / %", "ours in CrystFEL's / %", title="peakfinder8")
    for name, file in (("lyso", "lyso.cxi"), ("psii", "psii.h5")):
        folder = shared / name
        if not folder.is_dir():
            continue
        frames = sfxlab.open_frames(folder / file, folder / f"{name}.geom")
        path = folder / "reference" / "peaks.stream.gz"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sfxlab.errors.SfxlabWarning)  # its indexing options are not ours
            recipe = sfxlab.recipe_from_indexamajig(read_stream(path).command)
        theirs = [centres for _, centres, _ in crystfel_peaks(path, frames)]
        ours = [as_found(sfxlab.find_peaks(frame, recipe))[1] for frame in frames]
        n_theirs, n_ours = sum(map(len, theirs)), sum(map(len, ours))
        found = sum(map(common, theirs, ours)) / n_theirs
        in_theirs = sum(map(common, ours, theirs)) / n_ours
        table.add_row(name, str(n_theirs), str(n_ours), f"{found:.2%}", f"{in_theirs:.2%}")
    return table


def common(peaks: NDArray[np.float64], others: NDArray[np.float64]) -> int:
    """How many peaks have another within half a pixel."""
    if len(peaks) == 0 or len(others) == 0:
        return 0
    return int((cKDTree(others).query(peaks)[0] <= 0.5).sum())


def robustness_table(frames: int) -> Table:
    """Simulated frames, as they are and as other detectors and samples would have them."""
    table = score_columns("The same simulated frames on other detectors")
    with tempfile.TemporaryDirectory() as folder:
        made = sfxlab.simulate(Path(folder) / "made", frames, seed=5, kinds={
            "single": 0.25, "weak": 0.15, "double": 0.1, "blank": 0.2, "blank_strong_background": 0.15,
            "blank_ice_rings": 0.15,
        })  # fmt: skip
        facts, true = read_truth(made.truth)
        for name, change in CHANGES.items():
            source = sfxlab.open_frames(made.frames, made.geometry)
            random = np.random.default_rng(3)
            found = [as_found(sfxlab.find_peaks(changed)) for frame in source for changed in [change(frame, random)]]
            table.add_row(name, *score(found, facts, true))
    return table


def amplified(frame: Frame, random: np.random.Generator, gain: float, noise: float, told: bool = True) -> Frame:
    """The frame of an integrating detector; `noise` in photons."""
    data = gain * (frame.data + random.normal(0, noise, frame.data.shape))
    panels = tuple(replace(p, adu_per_photon=gain if told else None, max_adu=np.inf) for p in frame.detector.panels)
    return replace(frame, data=data.astype(np.float32), detector=detector_with(frame.detector, panels))


_DETECTORS: dict[object, Detector] = {}


def detector_with(detector: Detector, panels: tuple[sfxlab.geometry.Panel, ...]) -> Detector:
    """Equal panels give the same detector, because its maps are costly."""
    return _DETECTORS.setdefault(panels, replace(detector, panels=panels))


def with_pedestals(frame: Frame, random: np.random.Generator) -> Frame:
    """Offsets of panels that a calibration left, up to ten photons."""
    made = amplified(frame, random, 30, 0.3)
    offsets = np.random.default_rng(1).uniform(-300, 300, len(frame.detector.panels) + 1)
    return replace(made, data=made.data + offsets[frame.detector.panel_map].astype(np.float32))


def shadowed(frame: Frame, random: np.random.Generator) -> Frame:
    """Something with a sharp slanting edge lets 30 % through."""
    y, x = np.mgrid[: frame.data.shape[0], : frame.data.shape[1]]
    behind = (x + y // 3) % 700 < 200
    return replace(frame, data=np.where(behind, random.binomial(frame.data, 0.3), frame.data).astype(np.uint16))


def damaged(frame: Frame, random: np.random.Generator) -> Frame:
    """Single-precision numbers with NaN, infinite and very negative values that no mask names."""
    made = amplified(frame, random, 10, 0.2)
    made.data.flat[random.integers(0, made.data.size, 300)] = np.nan
    made.data.flat[random.integers(0, made.data.size, 100)] = -1e9
    made.data.flat[random.integers(0, made.data.size, 100)] = np.inf
    return made


CHANGES: dict[str, Callable[[Frame, np.random.Generator], Frame]] = {
    "as simulated": lambda frame, random: frame,
    "int32": lambda frame, random: replace(frame, data=frame.data.astype(np.int32)),
    "gain 5, noise 0.3": lambda frame, random: amplified(frame, random, 5, 0.3),
    "gain 30, noise 0.3, not told": lambda frame, random: amplified(frame, random, 30, 0.3, told=False),
    "gain 100, noise 0.1": lambda frame, random: amplified(frame, random, 100, 0.1),
    "gain 100, noise 1": lambda frame, random: amplified(frame, random, 100, 1.0),
    "pedestals of panels": with_pedestals,
    "shadows": shadowed,
    "NaN, infinite, negative": damaged,
    "a tenth of the photons": lambda frame, random: replace(
        frame, data=random.binomial(frame.data, 0.1).astype(np.uint16)
    ),
}
"""What other detectors make of a frame of whole photons."""


def as_found(peaks: sfxlab.Peaks) -> tuple[bool, NDArray[np.float64], NDArray[np.float64]]:
    """What `score` wants of our peaks."""
    return len(peaks) >= 10, np.column_stack([peaks.fs, peaks.ss]).astype(np.float64), peaks.snr.astype(np.float64)


def read_truth(folder: Path) -> tuple[list[dict], NDArray[np.float64]]:
    """Facts of each frame, and all true peaks: frame, fs, ss, photons, whether masked."""
    with gzip.open(folder / "true_peaks.csv.gz", "rt") as file:
        rows = [[float(row[k]) for k in ("frame", "fs", "ss", "photons_5x5", "masked")] for row in csv.DictReader(file)]
    return json.loads((folder / "truth.json").read_text())["frames"], np.array(rows)


def score_columns(title: str) -> Table:
    """A table for rows that `score` makes."""
    table = Table(title=title, title_justify="left")
    columns = [f"{low:g}-{high:g} photons" for low, high in pairwise(EDGES)]
    first = ("frames", "hits kept", "blanks taken", "most in a blank")
    for column in (*first, *columns, "false a hit", "false a blank", "error / px"):
        table.add_column(column, justify="right")
    return table


def score(found: Found, facts: list[dict], true_peaks: NDArray[np.float64]) -> Iterator[str]:
    """Hits kept of those that can be indexed; blanks taken for hits; recall of true peaks by their photons; peaks
    without a true one within 3 pixels; median error of the position of peaks with a signal-to-noise ratio above 10.
    """
    seen, there = np.zeros(len(EDGES) - 1), np.zeros(len(EDGES) - 1)
    in_hits, in_blanks, errors, kept, hits, taken = [], [], [], 0, 0, 0
    for (is_hit, position, snr), fact in zip(found, facts, strict=True):
        if not fact["is_hit"]:
            in_blanks.append(len(position))
            taken += is_hit
            continue
        true = true_peaks[true_peaks[:, 0] == fact["frame"]]
        usable = true[true[:, 4] == 0]
        if np.count_nonzero(usable[:, 3] > 25) >= FEWEST_SPOTS:
            hits += 1
            kept += is_hit
        if not len(position) or not len(usable):
            in_hits.append(len(position))
            there += np.histogram(usable[:, 3], EDGES)[0]
            continue
        distance = cKDTree(position).query(usable[:, 1:3])[0]
        there += np.histogram(usable[:, 3], EDGES)[0]
        seen += np.histogram(usable[distance < 2, 3], EDGES)[0]
        nearest = cKDTree(true[:, 1:3]).query(position)[0]
        in_hits.append(np.count_nonzero(nearest > 3))
        errors += list(nearest[(nearest < 2) & (snr > 10)])
    yield f"{kept} of {hits}"
    yield f"{taken} of {len(in_blanks)}"
    yield f"{max(in_blanks, default=0)}"
    yield from (f"{s / max(t, 1):.3f}" for s, t in zip(seen, there, strict=True))
    yield from (f"{np.mean(x):.2f}" if x else "-" for x in (in_hits, in_blanks))
    yield f"{np.median(errors):.3f}" if errors else "-"


if __name__ == "__main__":
    arguments = [a for a in sys.argv[1:] if a != "--quick"]
    default = os.environ.get("SFXLAB_SHARED_DATA", Path(__file__).parents[1].parent / "shared" / "data")
    main(Path(arguments[0] if arguments else default), "--quick" in sys.argv)
