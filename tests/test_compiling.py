"""Kernels compiled ahead of time."""

from __future__ import annotations

import subprocess
import sys

from sfxlab.compiling import PARTS, compile_kernels

_PROCESS_AND_COUNT = """
import gc, sys, tempfile
from numba.core.registry import CPUDispatcher
from sfxlab.crystal import read_cell
from sfxlab.frames import open_frames
from sfxlab.merging import merge
from sfxlab.processing import process
from sfxlab.recipe import Recipe
from sfxlab.simulation import simulate

with tempfile.TemporaryDirectory() as folder:
    made = simulate(folder + "/data", 18, seed=7, kinds={"single": 1.0})
    recipe = Recipe().with_cell(read_cell(made.cell))
    run = process(open_frames(made.frames, made.geometry), recipe, None, folder + "/run", progress=None)
    merge(run, "4/mmm")
kernels = [thing for thing in gc.get_objects() if isinstance(thing, CPUDispatcher)]
ours = [kernel for kernel in kernels if kernel.py_func.__module__.startswith("sfxlab.")]
print(sum(sum(kernel.stats.cache_hits.values()) for kernel in ours))
print(sorted(kernel.py_func.__qualname__ for kernel in ours if sum(kernel.stats.cache_misses.values())))
"""


def test_a_first_run_finds_its_kernels_compiled() -> None:
    assert sorted(compile_kernels()) == sorted(PARTS)
    done = subprocess.run([sys.executable, "-c", _PROCESS_AND_COUNT], capture_output=True, text=True, check=True)
    loaded, compiled = done.stdout.splitlines()
    assert int(loaded) > 20
    assert compiled == "[]"
