"""Compiles the kernels ahead of time, by doing the main job once on a few simulated frames.

numba compiles a kernel for the types that it meets, and keeps what it compiled beside the source, or where
NUMBA_CACHE_DIR says. Processes that start together each compile for themselves; so this is done once, after installing.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from sfxlab.cell_search import find_cell
from sfxlab.crystal import read_cell
from sfxlab.detector_refinement import refine_geometry
from sfxlab.frames import open_frames
from sfxlab.merging import merge
from sfxlab.merging.ambiguity import resolve_ambiguity
from sfxlab.peaks import find_peaks
from sfxlab.processing import process
from sfxlab.recipe import Recipe
from sfxlab.simulation import simulate
from sfxlab.store import Run

_FRAMES = 20
"""Enough to learn bad pixels from."""
_OTHER_PIXELS = (np.int32, np.uint32)
"""Besides the photons of 16 bits and the floats of the simulated detectors."""


def compile_kernels() -> Iterator[str]:
    """Compile what processing and merging frames of the usual types of pixels needs; yields each part that is done.

    The parts are done at the same time, in processes of their own; what is compiled already costs nothing again.
    """
    with ProcessPoolExecutor(len(PARTS), mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = {pool.submit(_in_a_folder, part): name for name, part in PARTS.items()}
        for done in as_completed(parts):
            done.result()
            yield parts[done]


def _with_a_cell(folder: Path) -> None:
    """Photon counts, a known cell, and everything that becomes of a run."""
    run = _run(folder, "multipanel-1M", cell_is_known=True)
    run.powder()
    for model in ("none", "scaled", "partiality"):
        merge(run, "4/mmm", model=model)
    resolve_ambiguity(run, "4/m")
    refine_geometry(run, cycles=1)


def _without_a_cell(folder: Path) -> None:
    """Pixels of all usual types, and lattices of an unknown cell."""
    run = _run(folder, "agipd-like-1M", cell_is_known=False)
    find_cell(run)
    frame = run.open_frames()[0]
    for kind in _OTHER_PIXELS:
        find_peaks(replace(frame, data=frame.data.astype(kind)))


def _run(folder: Path, detector: str, *, cell_is_known: bool) -> Run:
    made = simulate(folder / "data", _FRAMES, detector=detector, kinds={"single": 0.8, "double": 0.2})
    recipe = Recipe().with_cell(read_cell(made.cell)) if cell_is_known else Recipe()
    return process(open_frames(made.frames, made.geometry), recipe, None, folder / "run", progress=None)


def _in_a_folder(part: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory(prefix="sfxlab-compile-") as folder:
        part(Path(folder))


PARTS: Mapping[str, Callable[[Path], None]] = MappingProxyType(
    {
        "peaks, indexing with a cell, integration and merging": _with_a_cell,
        "other pixels, indexing without a cell": _without_a_cell,
    }
)
