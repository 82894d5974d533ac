"""Frames that are made up where they are read, some of which do harm, and what two runs of them have in common."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from sfxlab.frames import Frame, FrameId, FrameSource
from sfxlab.geometry import Detector, Panel
from sfxlab.recipe import Recipe
from sfxlab.store import Run

MakeFrames = Callable[..., FrameSource]
Start = Callable[..., subprocess.Popen[str]]

_SCRIPT = """
import sys
from contextlib import nullcontext
from pathlib import Path
import cloudpickle
from sfxlab.cluster import connect
from sfxlab.processing import process
from sfxlab.recipe import Recipe
{first}
if __name__ == "__main__":
    frames, recipe, options = cloudpickle.loads(Path(sys.argv[1]).read_bytes())
    address = options.pop("address", None)
    with connect(address, dashboard=False) if address else nullcontext() as client:
        run = process(frames, recipe, client, progress=lambda progress: print(progress, flush=True), **options)
    print(run.record.status, flush=True)
"""


@pytest.fixture
def make_frames(tmp_path: Path) -> MakeFrames:
    """`make_frames(n, hanging=…, hungry=…, seconds=…)`: spots on every other frame.

    On workers, some frames hang with Python's lock held, or take all memory.
    """
    file = tmp_path / "frames.raw"
    file.write_bytes(b"made up")
    panel = Panel("p0", 0, 0, 128, 128, (-0.0064, -0.0064, 0.1), (1e-4, 0.0, 0.0), (0.0, 1e-4, 0.0))

    # A class inside a function travels to workers by value, so that they need not import this file.
    class MadeUpFrames:
        def __init__(self, numbers: range, hanging: set[int], hungry: set[int], seconds: float, home: int) -> None:
            self.numbers, self.hanging, self.hungry, self.seconds, self.home = numbers, hanging, hungry, seconds, home
            self.paths, self.geometry_text = (str(file),), "photon_energy = 9000\n"
            self.files = self.paths

        def __len__(self) -> int:
            return len(self.numbers)

        def __iter__(self) -> Iterator[Frame]:
            return (self[position] for position in range(len(self)))

        @property
        def detector(self) -> Detector:
            return Detector((panel,), (128, 128), 0.1)

        def identity(self, index: int) -> FrameId:
            return FrameId(str(file), f"//{self.numbers[index]}")

        def __getitem__(self, item: Any) -> Any:
            if isinstance(item, slice):
                return MadeUpFrames(self.numbers[item], self.hanging, self.hungry, self.seconds, self.home)
            number = self.numbers[item]
            time.sleep(self.seconds)
            if number in self.hanging and os.getpid() != self.home:
                ctypes.PyDLL(None).sleep(600)  # unlike CDLL, keeps Python's lock
            if number in self.hungry and os.getpid() != self.home:
                eaten = [np.ones(2**25) for _ in range(8)]  # 2 GiB
                time.sleep(60 + len(eaten))
            random = np.random.default_rng(number)
            data = random.poisson(10, (128, 128)).astype(np.int32)
            for row, column in random.integers(8, 120, (20 if number % 2 else 0, 2)):
                data[row : row + 2, column : column + 2] += 900
            return Frame(data, np.zeros(data.shape, np.uint8), 9000.0, self.detector, self.identity(item))

    def make(
        n: int, hanging: set[int] = frozenset(), hungry: set[int] = frozenset(), seconds: float = 0.0
    ) -> FrameSource:
        return MadeUpFrames(range(n), hanging, hungry, seconds, os.getpid())

    return make


@pytest.fixture
def recipe() -> Recipe:
    """Finds hits and learns nothing, so that runs are short."""
    changes: dict[str, dict[str, Any]] = {"bad_pixels": {"learn": False}, "profiles": {"learn": False}}
    return Recipe().changed(**changes).without_indexing()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(frames, recipe, output=…, resume=…, address=…)`: `process` in a process of its own that prints its
    progress; `first` is Python that it does first.
    """
    started: list[subprocess.Popen[str]] = []

    def begin(frames: FrameSource, recipe: Recipe, first: str = "", **options: Any) -> subprocess.Popen[str]:
        script, values = tmp_path / f"script{len(started)}.py", tmp_path / f"values{len(started)}.pickle"
        script.write_text(_SCRIPT.format(first=first))
        values.write_bytes(cloudpickle.dumps((frames, recipe, options)))
        pipe = subprocess.PIPE
        started.append(subprocess.Popen([sys.executable, script, values], stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.send_signal(signal.SIGKILL)
        process.communicate()


@pytest.fixture
def content() -> Callable[[Run], dict[str, Any]]:
    """All that two runs of one recipe have in common: everything but the timings."""

    def of(run: Run) -> dict[str, Any]:
        mask, maximum = run.bad_pixels, run.maximum_projection()
        return {
            **{name: repr(run.table(name).to_pylist()) for name in ("frames", "peaks", "crystals", "reflections")},
            "bad pixels": None if mask is None else (mask.frames, mask.kinds.tobytes()),
            "maximum": None if maximum is None else maximum.tobytes(),
            "radial average": repr(run.radial_average().mean.tolist()),
        }

    return of


@pytest.fixture
def wait_for() -> Callable[[Callable[[], object], str], None]:
    """`wait_for(condition, what)` until it is true."""

    def wait(condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline, f"no {what}"
            time.sleep(0.02)

    return wait
