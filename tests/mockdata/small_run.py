"""A small run of simulated frames."""

from __future__ import annotations

from pathlib import Path

from sfxlab.crystal import read_cell
from sfxlab.frames import open_frames
from sfxlab.processing import process
from sfxlab.recipe import Recipe
from sfxlab.simulation import simulate
from sfxlab.store import Run

GEOMETRY = """; two panels side by side, the second turned by half a degree
photon_energy = 9500 eV
clen = 0.06
res = 10000
adu_per_photon = 1
data = /entry_1/data_1/data
dim0 = %
dim1 = ss
dim2 = fs
left/min_fs = 0
left/max_fs = 255
left/min_ss = 0
left/max_ss = 511
left/corner_x = -262
left/corner_y = 256
left/fs = x
left/ss = -y
right/min_fs = 256
right/max_fs = 511
right/min_ss = 0
right/max_ss = 511
right/corner_x = 4
right/corner_y = 255
right/fs = +0.999962x +0.008727y
right/ss = +0.008727x -0.999962y
"""


def make(folder: Path, frames: int = 12) -> Run:
    """Frames of 512 × 512 pixels: hits with one or two lattices, and blanks."""
    (folder / "two.geom").write_text(GEOMETRY, encoding="utf-8")
    data = simulate(
        folder / "data",
        frames=frames,
        detector=folder / "two.geom",
        kinds={"single": 0.5, "double": 0.25, "blank": 0.25},
    )
    recipe = Recipe().with_cell(read_cell(data.cell))
    return process(open_frames(data.frames, data.geometry), recipe, output=folder / "run", progress=None)
