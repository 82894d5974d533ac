"""Indexing by DIALS (BSD-3; Winter et al. 2018, Acta Cryst. D74, 85), in the Python that it is installed in."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sfxlab.crystal import UnitCell, parameters_of
from sfxlab.errors import RecipeError
from sfxlab.indexing.indexer import Spots
from sfxlab.indexing.outside.plane import Plane, on_plane
from sfxlab.indexing.outside.program import Answers, Bases, OutsideProgram, options
from sfxlab.indexing.outside.sandbox import run, sandbox
from sfxlab.indexing.target import target_of
from sfxlab.recipe import IndexingRecipe

NAME = "DIALS"
METHODS, METHODS_WITHOUT_CELL = ("fft1d", "real_space_grid_search"), ("fft3d",)
"""Tried in turn where the recipe names none: those of dials.ssx_index; without a cell the one that needs none least."""
ONLY_INDEXING = ("indexing.stills.refine_all_candidates=False", "indexing.refinement_protocol.mode=None")
"""Lattices are refined here, and some builds of DIALS lack what they refine stills with."""
_SCRIPT = Path(__file__).with_name("dials_script.py")
_VERSION_LIMITS = 120.0, 8.0
"""Seconds and GB for DIALS to say which version it is."""


def version(recipe: IndexingRecipe) -> str:
    """What DIALS says its version is. Raises `RecipeError`."""
    python = _python(recipe)
    with sandbox() as work:
        ended = run([python, _script(work), "--version"], work, *_VERSION_LIMITS)
    if ended.problem or ended.late or "DIALS" not in ended.words:
        raise RecipeError(
            "there is no DIALS in this Python", path=python, place="indexing.program",
            found=ended.problem or ended.words.strip() or "no answer",
            remedy="name by indexing.program the Python that DIALS is installed in, for example dials.python",
        )  # fmt: skip
    return ended.words.strip().splitlines()[-1]


def ask(frames: Sequence[Spots], cell: UnitCell | None, recipe: IndexingRecipe) -> Answers:
    """Have DIALS index frames, in one call of its Python."""
    named = recipe.method.partition(":")[2]
    methods = named.split(",") if named else METHODS if cell is not None else METHODS_WITHOUT_CELL
    task = {"parameters": _parameters(cell, recipe), "methods": methods, "frames": [_described(s) for s in frames]}
    found: dict[int, Bases] = {}
    refused: dict[int, str] = {}
    with sandbox() as work:
        (work / "task.json").write_text(json.dumps(task), encoding="utf-8")
        command = [_python(recipe), _script(work), "task.json", "answers.jsonl"]
        ended = run(command, work, recipe.program_time_limit * len(frames), recipe.program_memory)
        for answer in _answers(work / "answers.jsonl"):
            if "problem" in answer:
                refused[answer["frame"]] = answer["problem"]
            else:
                found[answer["frame"]] = [np.array(basis).reshape(3, 3) for basis in answer["bases"]]
    return Answers(found, ended, refused)


def _parameters(cell: UnitCell | None, recipe: IndexingRecipe) -> list[str]:
    """The cell goes as its reduced one, which stands for every lattice type, centring and unique axis."""
    wanted = [*ONLY_INDEXING, f"indexing.multiple_lattice_search.max_lattices={recipe.max_lattices}"]
    if cell is not None:
        reduced = ",".join(f"{value:.5f}" for value in parameters_of(target_of(cell).basis))
        wanted += [f"indexing.known_symmetry.unit_cell={reduced}", "indexing.known_symmetry.space_group=P1"]
        wanted.append(f"indexing.known_symmetry.relative_length_tolerance={max(recipe.length_tolerance, 0.1):g}")
    # Without a cell DIALS estimates the longest axis: more than is needed would coarsen the grid of its transform.
    return [*wanted, *options(recipe)]


def _described(spots: Spots) -> dict[str, Any]:
    plane = Plane.of(spots)
    seen = on_plane(spots, plane)
    half = math.ceil(seen.reach) + 2
    return {
        "wavelength": seen.wavelength, "distance": 1e3 * plane.distance, "pixel": 1e3 * plane.pixel, "half": half,
        "x": (seen.x + half).tolist(), "y": (seen.y + half).tolist(),
        "intensity": seen.intensity.tolist(), "sigma": seen.sigma.tolist(),
    }  # fmt: skip


def _script(work: Path) -> str:
    """A copy of the script: Python would look for modules beside the script itself, and find this one."""
    return str(shutil.copy(_SCRIPT, work))


def _answers(path: Path) -> list[dict[str, Any]]:
    """Whole lines only: the last one may have been cut."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _python(recipe: IndexingRecipe) -> str:
    """The interpreter that has DIALS: the one named, `dials.python`, or that of the command `dials.index`."""
    named = shutil.which(recipe.program) if recipe.program else shutil.which("dials.python")
    if named is None and not recipe.program:
        command = shutil.which("dials.index")
        named = None if command is None else _interpreter(Path(command))
    if named is None:
        raise RecipeError(
            "there is no DIALS to index with", place="indexing.program",
            found=recipe.program or "neither dials.python nor dials.index on PATH",
            expected="the Python that DIALS is installed in",
            remedy="install DIALS (https://dials.github.io; Debian: python3-dials), or name its Python",
        )  # fmt: skip
    return str(Path(named).absolute())


def _interpreter(script: Path) -> str | None:
    """The Python in the first line of a script."""
    with open(script, "rb") as file:
        first = file.readline(500).decode("utf-8", errors="replace")
    words = first.removeprefix("#!").split()
    if not first.startswith("#!") or not words:
        return None
    return shutil.which(words[1] if words[0].endswith("/env") and len(words) > 1 else words[0])


DIALS = OutsideProgram(NAME, version, ask)
