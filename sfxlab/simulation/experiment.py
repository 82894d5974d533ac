"""A whole simulated experiment: many frames with known truth, in one folder."""

from __future__ import annotations

import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gemmi
import numpy as np

from sfxlab.crystal import UnitCell, read_cell, write_cell
from sfxlab.errors import OutputExistsError, RecipeError, RunError
from sfxlab.geometry import write_geometry
from sfxlab.simulation.background import build_background
from sfxlab.simulation.instrument import Instrument, build_instrument, load_preset, misaligned
from sfxlab.simulation.scene import USUAL_MIX, Exposure, Kind, Sample, expose
from sfxlab.simulation.spots import Beam
from sfxlab.simulation.structure_factors import (
    find_space_group,
    lowest_space_group,
    model_intensities,
)
from sfxlab.simulation.writer import geometry_of, write_frames, write_truth

LYSOZYME = UnitCell(79.3, 79.3, 37.8, lattice_type="tetragonal", centring="P", unique_axis="c")
"""The cell of tetragonal lysozyme, space group P 43 21 2."""

_LEAST_SPOT_SEPARATION = 8.0
"""Pixels between neighbouring spots along the longest axis, where the camera length is free."""
_MOST_WORKERS = 8
"""Frames in memory at a time are a few for each worker."""


@dataclass(frozen=True)
class Simulation:
    """A simulated data set on disk."""

    folder: Path
    point_group: str
    """Laue class of the intensities as CrystFEL writes it, to merge with."""
    counts: Mapping[Kind, int]
    """Frames of each kind."""

    @property
    def frames(self) -> Path:
        """The CXI file."""
        return self.folder / "frames.cxi"

    @property
    def geometry(self) -> Path:
        """The CrystFEL geometry file."""
        return self.folder / "frames.geom"

    @property
    def cell(self) -> Path:
        """The CrystFEL cell file."""
        return self.folder / "frames.cell"

    @property
    def truth(self) -> Path:
        """The folder with what the frames were made from."""
        return self.folder / "truth"

    @property
    def hits(self) -> int:
        """Frames with a crystal."""
        return sum(n for kind, n in self.counts.items() if not kind.startswith("blank"))


def simulate(
    out: str | Path,
    frames: int = 300,
    cell: UnitCell | str | Path | None = None,
    detector: str | Path = "multipanel-1M",
    seed: int = 1,
    progress: Callable[[int, int], None] | None = None,
    *,
    space_group: str | None = None,
    photon_energy: float = 9500.0,
    bandwidth: float = 0.001,
    camera_length: float | None = None,
    kinds: Mapping[Kind, float] = USUAL_MIX,
    cell_spread: float = 0.001,
    mosaicity: float = 2e-4,
    wilson_b: float = 20.0,
    point_spread: float = 0.4,
    misalignment: float = 0.0,
    workers: int | None = None,
) -> Simulation:
    """Simulate a serial crystallography experiment with known truth.

    Writes `frames.cxi`, `frames.geom`, `frames.cell` and `truth/` into the folder `out`. The same arguments give the
    same numbers, whatever the number of workers.

    Parameters
    ----------
    out:
        A folder that is empty or does not exist yet.
    frames:
        How many.
    cell:
        A unit cell or a file with one; lysozyme, P 43 21 2, where none is given.
    detector:
        One of `DETECTORS`, or a CrystFEL geometry file (`.geom`).
    seed:
        Of all random numbers, at least 0.
    progress:
        Called with the number of frames written and the number of all frames.
    space_group:
        Hermann–Mauguin symbol; the symmorphic Sohncke group of lowest number that suits the cell where not given.
    photon_energy, bandwidth:
        Mean in eV; standard deviation of each shot's spectrum, relative.
    camera_length:
        Metres; as usual for the detector, or as far as a long axis needs, where not given.
    kinds:
        Shares of the kinds of frames.
    cell_spread, mosaicity:
        Relative standard deviation of the axes from crystal to crystal; growth of the node radius with |q|.
    wilson_b:
        Mean B factor of the atoms, Å².
    point_spread:
        Standard deviation of the detector's point spread, pixels.
    misalignment:
        Standard deviation of the errors of panel positions in `frames.geom`, pixels; `truth/true.geom` has none.
    workers:
        Threads; one for each processor, 8 at most, where not given.

    Raises
    ------
    OutputExistsError
        `out` is not empty.
    CellError, GeometryError, RecipeError
        An argument is wrong.
    """
    _check(frames, seed, kinds, photon_energy, bandwidth, camera_length, point_spread)
    folder = _free(Path(out))
    model_seed, instrument_seed, order_seed, *frame_seeds = np.random.SeedSequence(seed).spawn(3 + frames)
    cell, group = _crystal_form(cell, space_group)
    beam = Beam(photon_energy, bandwidth)
    instrument = _instrument(detector, cell, beam, camera_length, misalignment, np.random.default_rng(instrument_seed))
    d_min = 1 / float(np.nanmax(instrument.detector.resolution_map(photon_energy)))
    intensities = model_intensities(cell, group, d_min, wilson_b, np.random.default_rng(model_seed))
    sample = Sample(cell, intensities, cell_spread, mosaicity)
    background = build_background(instrument, photon_energy)
    order = _allot(frames, kinds, np.random.default_rng(order_seed))

    def expose_frame(index: int) -> Exposure:
        rng = np.random.default_rng(frame_seeds[index])
        return expose(order[index], sample, instrument, background, beam, point_spread, rng)

    with _appearing(folder) as partial:
        exposures = _in_order(expose_frame, frames, workers)
        truths, peaks = write_frames(partial / "frames.cxi", exposures, frames, instrument, progress)
        write_geometry(geometry_of(instrument.nominal, bandwidth), partial / "frames.geom")
        write_cell(cell, partial / "frames.cell")
        (partial / "truth").mkdir()
        header = _header(sample, bandwidth, seed)
        write_truth(partial / "truth", header, truths, peaks, intensities, instrument, bandwidth)
    return Simulation(folder, intensities.point_group, dict(Counter(order)))


def _check(
    frames: int,
    seed: int,
    kinds: Mapping[Kind, float],
    photon_energy: float,
    bandwidth: float,
    camera_length: float | None,
    point_spread: float,
) -> None:
    unknown = set(kinds) - set(USUAL_MIX)
    if unknown:
        raise RecipeError("unknown kinds of frames", found=sorted(unknown), expected=", ".join(USUAL_MIX))
    limits: list[tuple[str, float, bool, str]] = [
        ("frames", frames, frames >= 1, "at least 1"),
        ("seed", seed, seed >= 0, "at least 0"),
        ("kinds", sum(kinds.values()), min(kinds.values(), default=0) >= 0 < sum(kinds.values()), "shares"),
        ("photon_energy", photon_energy, photon_energy > 0, "eV, above 0"),
        ("bandwidth", bandwidth, 0 <= bandwidth < 0.1, "0 to 0.1, relative"),
        ("camera_length", camera_length or 0, camera_length is None or camera_length > 0, "metres, above 0"),
        ("point_spread", point_spread, point_spread >= 0.2, "pixels, at least 0.2"),
    ]
    for name, value, good, expected in limits:
        if not good:
            raise RecipeError(f"'{name}' is out of range", found=value, expected=expected)


def _crystal_form(cell: UnitCell | str | Path | None, space_group: str | None) -> tuple[UnitCell, gemmi.SpaceGroup]:
    if cell is None:
        cell, space_group = LYSOZYME, space_group or "P 43 21 2"
    elif not isinstance(cell, UnitCell):
        cell = read_cell(cell)
    return cell, find_space_group(space_group, cell) if space_group else lowest_space_group(cell)


def _instrument(
    name: str | Path,
    cell: UnitCell,
    beam: Beam,
    camera_length: float | None,
    misalignment: float,
    rng: np.random.Generator,
) -> Instrument:
    preset = load_preset(name, beam.photon_energy)
    detector = preset.detector
    if camera_length is None:
        spacing = 1 / (max(cell.lengths) * beam.k)  # angle between neighbouring spots, radians
        far_enough = _LEAST_SPOT_SEPARATION * detector.panels[0].pixel_size / spacing
        camera_length = max(detector.camera_length, far_enough)
    nominal = detector.moved(z=camera_length - detector.camera_length)
    true = misaligned(nominal, misalignment, rng) if misalignment else nominal
    return build_instrument(true, nominal, preset, beam.photon_energy, rng)


def _allot(frames: int, kinds: Mapping[Kind, float], rng: np.random.Generator) -> list[Kind]:
    """The kind of each frame: shares by largest remainder, in random order."""
    names = list(kinds)
    ideal = np.array([kinds[name] for name in names]) / sum(kinds.values()) * frames
    counts = np.floor(ideal).astype(int)
    counts[np.argsort(counts - ideal, kind="stable")[: frames - counts.sum()]] += 1
    order = np.repeat(np.arange(len(names)), counts)
    return [names[i] for i in rng.permutation(order)]


def _in_order(expose_frame: Callable[[int], Exposure], frames: int, workers: int | None) -> Iterator[Exposure]:
    """Expose frames 0, 1, … on threads, a few ahead of the reader; kernels and random numbers release the GIL."""
    workers = workers or min(os.cpu_count() or 1, _MOST_WORKERS)
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Exposure]] = deque()
        for index in range(frames):
            waiting.append(pool.submit(expose_frame, index))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _header(sample: Sample, bandwidth: float, seed: int) -> dict[str, Any]:
    cell, group = sample.cell, sample.intensities.space_group
    return {
        "dataset": "frames",
        "units": "reciprocal vectors in 1/nm, CrystFEL laboratory frame "
        "(z along the beam, y up, x completing a right-handed set)",
        "symmetry": sample.intensities.point_group,
        "space_group": group.hm,
        # A rhombohedral lattice on its own axes is not centred on them.
        "centering": "P" if cell.centring == "R" else cell.centring,
        "cell_A_deg": list(cell.parameters),
        "d_min_A": sample.intensities.d_min,
        "bandwidth_sigma_fraction": bandwidth,
        "seed": seed,
    }


def _free(out: Path) -> Path:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputExistsError("the output is already there", path=out, remedy="name a new folder, or remove this one")
    return out


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A folder to write into that becomes `folder` at the end, or vanishes where writing fails."""
    folder = folder.absolute()
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            folder.rmdir()  # it was empty
        partial.replace(folder)
    except OSError as error:
        raise RunError(
            "the simulated data set cannot be written", path=folder, found=str(error),
            remedy="check permissions and free space",
        ) from error  # fmt: skip
    finally:
        shutil.rmtree(partial, ignore_errors=True)
