"""Frames that are quickly processed, so that tests are of the cluster and not of the kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from sfxlab.cli import main
from sfxlab.store import Run

_GEOMETRY = """\
photon_energy = 9000
clen = 0.1 m
res = 10000
data = /entry_1/data_1/data
dim0 = %
dim1 = ss
dim2 = fs
p0/min_fs = 0
p0/max_fs = 127
p0/min_ss = 0
p0/max_ss = 127
p0/corner_x = -64
p0/corner_y = -64
p0/fs = x
p0/ss = y
"""


@dataclass(frozen=True)
class QuickFrames:
    """Files of frames, every other one with spots, and a recipe that only finds these."""

    frames: Path
    geometry: Path
    recipe: Path

    def command(self, run: Path, *more: object) -> list[str]:
        """Arguments of `sfxlab` that process the frames into a run."""
        given = ("process", self.frames, "-g", self.geometry, "--recipe", self.recipe, "--chunk-size", 4, "-o", run)
        return [str(word) for word in (*given, *more)]


@pytest.fixture
def quick_frames(tmp_path: Path, make_hdf5: Callable[..., Path]) -> QuickFrames:
    """24 frames in files of this test."""
    random = np.random.default_rng(7)
    frames = random.poisson(10, (24, 128, 128)).astype(np.int32)
    for frame in frames[1::2]:
        for row, column in random.integers(8, 120, (20, 2)):
            frame[row : row + 2, column : column + 2] += 900
    (tmp_path / "frames.geom").write_text(_GEOMETRY)
    (tmp_path / "peaks.toml").write_text("[indexing]\nenabled = false\n[bad_pixels]\nlearn = false\n")
    path = make_hdf5("frames.cxi", {"/entry_1/data_1/data": frames})
    return QuickFrames(path, tmp_path / "frames.geom", tmp_path / "peaks.toml")


@pytest.fixture(scope="session")
def content() -> Callable[[Path], dict[str, str]]:
    """All that two runs of the same frames and recipe have in common: everything but the timings."""
    return lambda path: {name: repr(Run(path).table(name).to_pylist()) for name in ("frames", "peaks")}


@pytest.fixture(scope="session")
def sfxlab_here() -> Callable[..., str]:
    """`sfxlab_here("process", …)`: a command in this process, which has to go well; what it prints."""

    def call(*arguments: object) -> str:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    return call
