"""Indexing by CrystFEL's indexamajig: any method that the user's own build has.

What it gets and gives are CrystFEL's published formats: a CXI peak list, a geometry and a cell file in, a stream out
(METHODS.md sections 1.2, 1.4, 1.7, 1.8; manual pages indexamajig(1) and crystfel_geometry(5)).
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import CENTRINGS, UnitCell
from sfxlab.crystal.cell_file import format_cell
from sfxlab.errors import RecipeError
from sfxlab.geometry import HC_EV_ANGSTROM
from sfxlab.indexing.indexer import Spots
from sfxlab.indexing.outside.plane import Plane, PlaneSpots, on_plane
from sfxlab.indexing.outside.program import Answers, Bases, OutsideProgram, options
from sfxlab.indexing.outside.sandbox import Ended, run, sandbox
from sfxlab.recipe import IndexingRecipe

NAME = "CrystFEL"
PEAKS, ENERGIES, PIXELS = "/entry_1/result_1", "/photon_energy", "/data"
_VERSION_LIMITS = 60.0, 8.0
"""Seconds and GB for a program to say which version it is."""


def version(recipe: IndexingRecipe) -> str:
    """What `indexamajig --version` says first. Raises `RecipeError`."""
    program = _program(recipe)
    with sandbox() as work:
        ended = run([program, "--version"], work, *_VERSION_LIMITS)
    lines = [line.strip() for line in ended.words.splitlines() if line.strip()]
    if ended.problem or ended.late or not lines:
        raise RecipeError(
            "indexamajig does not say which version it is", path=program, place="indexing.program",
            found=ended.problem or "nothing", remedy="check that 'indexamajig --version' works",
        )  # fmt: skip
    return lines[0]


def ask(frames: Sequence[Spots], cell: UnitCell | None, recipe: IndexingRecipe) -> Answers:
    """Have indexamajig index frames; those that share a plane in one call of it."""
    planes: dict[Plane, list[int]] = {}
    for number, spots in enumerate(frames):
        planes.setdefault(Plane.of(spots), []).append(number)
    found: dict[int, Bases] = {}
    ended = Ended("", False, "")
    for plane, numbers in planes.items():
        with sandbox() as work:
            seen = [on_plane(frames[number], plane) for number in numbers]
            command = write_inputs(work, seen, plane, cell, recipe)
            now = run(
                [_program(recipe), *command], work, recipe.program_time_limit * len(numbers), recipe.program_memory
            )
            found |= {numbers[place]: bases for place, bases in read_answers(work / "out.stream").items()}
        ended = now if now.problem or now.late else ended
    return Answers(found, ended)


def write_inputs(
    work: Path, frames: Sequence[PlaneSpots], plane: Plane, cell: UnitCell | None, recipe: IndexingRecipe
) -> list[str]:
    """Write what indexamajig reads into a directory; the arguments to call it with there."""
    half = math.ceil(max(spots.reach for spots in frames)) + 2
    _write_peaks(work / "peaks.cxi", frames, half)
    (work / "flat.geom").write_text(_geometry(plane, half), encoding="utf-8")
    (work / "frames.lst").write_text("".join(f"peaks.cxi //{i}\n" for i in range(len(frames))), encoding="utf-8")
    percent, degrees = 100 * recipe.length_tolerance, recipe.angle_tolerance
    arguments = [
        "-i", "frames.lst", "-g", "flat.geom", "-o", "out.stream", "-j", "1", f"--temp-dir={work}",
        f"--indexing={recipe.method.partition(':')[2]}", "--peaks=cxi", "--no-revalidate", "--no-image-data",
        "--cell-parameters-only", "--no-refls-in-stream", "--no-peaks-in-stream",
        f"--wavelength-estimate={1e-10 * frames[0].wavelength:.4e}", f"--camera-length-estimate={plane.distance:g}",
    ]  # fmt: skip
    if cell is not None:
        (work / "target.cell").write_text(format_cell(cell), encoding="utf-8")
        tolerance = ",".join([f"{percent:g}"] * 3 + [f"{degrees:g}"] * 3)
        arguments += ["-p", "target.cell", f"--tolerance={tolerance}"]
    return [*arguments, *(["--multi"] if recipe.max_lattices > 1 else []), *options(recipe)]


def _write_peaks(path: Path, frames: Sequence[PlaneSpots], half: int) -> None:
    widest = max(1, *(len(spots.x) for spots in frames))
    with h5py.File(path, "x") as file:
        # Pixels that are never written need no room; programs that insist on them find zeros.
        file.create_dataset(
            PIXELS, shape=(len(frames), 2 * half, 2 * half), dtype=np.uint8, chunks=(1, 2 * half, 2 * half)
        )
        file[ENERGIES] = np.array([HC_EV_ANGSTROM / spots.wavelength for spots in frames])
        group = file.create_group(PEAKS)
        group["nPeaks"] = np.array([len(spots.x) for spots in frames], dtype=np.int32)
        columns = {
            "peakXPosRaw": [spots.x + half - 0.5 for spots in frames],
            "peakYPosRaw": [spots.y + half - 0.5 for spots in frames],
            "peakTotalIntensity": [spots.intensity for spots in frames],
        }
        for name, rows in columns.items():
            cells = np.zeros((len(frames), widest), dtype=np.float32)
            for row, values in zip(cells, rows, strict=True):
                row[: len(values)] = values
            group[name] = cells


def _geometry(plane: Plane, half: int) -> str:
    return (
        f"photon_energy = {ENERGIES} eV\nclen = {plane.distance:g} m\nres = {1 / plane.pixel:.6f}\n"
        f"adu_per_photon = 1\ndata = {PIXELS}\ndim0 = %\ndim1 = ss\ndim2 = fs\n"
        f"peak_list = {PEAKS}\npeak_list_type = cxi\n"
        f"flat/min_fs = 0\nflat/max_fs = {2 * half - 1}\nflat/min_ss = 0\nflat/max_ss = {2 * half - 1}\n"
        f"flat/fs = +1.0x +0.0y\nflat/ss = +0.0x +1.0y\nflat/corner_x = {-half}\nflat/corner_y = {-half}\n"
    )


def read_answers(path: Path) -> dict[int, Bases]:
    """The lattices in a stream by the number in each chunk's event; chunks without an end do not count.

    A stream may end anywhere where its program was ended.
    """
    if not path.exists():
        return {}
    answers: dict[int, Bases] = {}
    event = -1
    crystals: list[dict[str, list[str]]] = []
    crystal: dict[str, list[str]] = {}
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("----- Begin chunk"):
                event, crystals = -1, []
            elif line.startswith("Event: //"):
                event = _number(line)
            elif line.startswith("--- Begin crystal"):
                crystal = {}
            elif line[:8] in ("astar = ", "bstar = ", "cstar = "):
                crystal[line[0]] = line[8:].split()[:3]
            elif line.startswith("centering = "):
                crystal["centring"] = line.split()[2:]
            elif line.startswith("--- End crystal"):
                crystals.append(crystal)
            elif line.startswith("----- End chunk") and event >= 0:
                answers[event] = [basis for basis in map(_primitive, crystals) if basis is not None]
    return answers


def _primitive(crystal: Mapping[str, Sequence[str]]) -> NDArray[np.float64] | None:
    """The primitive reciprocal basis (columns, 1/Å) of a crystal in a stream; None where it is damaged."""
    try:
        conventional = np.array([[float(x) / 10 for x in crystal[axis]] for axis in "abc"]).T
        (centring,) = crystal.get("centring", ["P"])
        if centring not in CENTRINGS:
            return None
        to_primitive = UnitCell(1, 1, 1, centring=centring).primitive_transform
        basis = np.linalg.inv(to_primitive @ np.linalg.inv(conventional))
    except (KeyError, ValueError, np.linalg.LinAlgError):
        return None
    return np.asarray(basis) if np.isfinite(basis).all() else None


def _number(line: str) -> int:
    match = re.fullmatch(r"Event: //(\d+)\s*", line)
    return int(match[1]) if match else -1


def _program(recipe: IndexingRecipe) -> str:
    wanted = recipe.program or "indexamajig"
    found = shutil.which(wanted)
    if found is None:
        raise RecipeError(
            "there is no indexamajig to index with", place="indexing.program", found=wanted,
            expected="CrystFEL's indexamajig on PATH, or its file named by indexing.program",
            remedy="install CrystFEL (https://www.desy.de/~twhite/crystfel), or load its module first",
        )  # fmt: skip
    return str(Path(found).absolute())


CRYSTFEL = OutsideProgram(NAME, version, ask)
