"""The corpus, made once and read once, in processes that may die."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, Queue
from random import Random
from threading import Thread
from types import ModuleType
from typing import Any

import pytest

SEED = 20260
_HERE = Path(__file__).parent
_SECONDS = 20.0
"""An input that takes longer hangs."""


def _module(name: str) -> ModuleType:
    qualified = f"corpus_{name}"
    if qualified not in sys.modules:
        spec = importlib.util.spec_from_file_location(qualified, _HERE / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[qualified] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[qualified])
    return sys.modules[qualified]


def _corpus() -> list[Any]:
    inputs, sound, random = _module("damaged_inputs"), _module("sound_inputs"), Random(SEED)
    return [
        *_module("damaged_texts").damaged_texts(inputs, sound, random),
        *_module("damaged_hdf5").damaged_hdf5(inputs, sound, random),
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each input of the corpus."""
    if "damaged" in metafunc.fixturenames:
        corpus = _corpus()
        metafunc.parametrize("damaged", corpus, ids=[damaged.name.encode("unicode_escape") for damaged in corpus])


@pytest.fixture(scope="session")
def sound() -> ModuleType:
    """The module `sound_inputs`."""
    return _module("sound_inputs")


@pytest.fixture(scope="session")
def corpus() -> list[Any]:
    """Every `DamagedInput`, the same in each run."""
    return _corpus()


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory, sound: ModuleType) -> Callable[[Any], Path]:
    """Where the sound inputs are written with one of them damaged, or with none."""
    base = tmp_path_factory.mktemp("corpus")
    sound.write_frames(base / "frames.cxi")
    frames = (base / "frames.cxi").read_bytes()
    made: dict[str | None, Path] = {}

    def make(damaged: Any) -> Path:
        name = None if damaged is None else damaged.name
        if name not in made:
            folder = base / f"{len(made):04d}"
            folder.mkdir()
            (folder / "frames.cxi").write_bytes(frames)
            (folder / "detector.geom").write_text(sound.GEOMETRY)
            (folder / "protein.cell").write_text(sound.CELL)
            (folder / "recipe.toml").write_text(sound.RECIPE)
            (folder / "run.stream").write_text(sound.STREAM)
            if damaged is not None:
                damaged.damage(folder / damaged.file)
            made[name] = folder
        return made[name]

    return make


@pytest.fixture(scope="session")
def outcomes(corpus: list[Any], folder_of: Callable[[Any], Path]) -> Mapping[str, dict[str, Any]]:
    """What came of reading each damaged input, and of the sound ones under the name of their kind."""
    jobs = [
        {"name": kind, "kind": kind, "folder": str(folder_of(None)), "files": files}
        for kind, files in (
            ("frames", ["frames.cxi", "detector.geom"]),
            ("cell", ["protein.cell"]),
            ("recipe", ["recipe.toml"]),
            ("stream", ["run.stream"]),
        )
    ]
    jobs += [
        {"name": damaged.name, "kind": damaged.kind, "folder": str(folder_of(damaged)), "files": damaged.inputs}
        for damaged in corpus
    ]
    with ThreadPoolExecutor(2) as threads:
        halves = threads.map(_read_all, (jobs[::2], jobs[1::2]))
        return {outcome["name"]: outcome for half in halves for outcome in half}


def _read_all(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Outcomes of some inputs; after one that kills or stops the process, the next is read in a new one."""
    outcomes: list[dict[str, Any]] = []
    while len(outcomes) < len(jobs):
        reader = _Reader()
        for job in jobs[len(outcomes) :]:
            outcomes.append(reader.read(job))
            if outcomes[-1].get("died"):
                break
        reader.stop()
    return outcomes


class _Reader:
    """A process that reads inputs."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, _HERE / "read_inputs.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._lines: Queue[str] = Queue()
        self._thread = Thread(target=self._listen, daemon=True)
        self._thread.start()
        self._limit = 6 * _SECONDS  # it has to start first

    def read(self, job: dict[str, Any]) -> dict[str, Any]:
        """The outcome of an input, with `died` where there is none."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        try:
            line = self._lines.get(timeout=self._limit)
        except Empty:
            return job | {"died": f"no answer within {self._limit} s"}
        self._limit = _SECONDS
        if not line:
            return job | {"died": f"exit status {self._process.wait()}"}
        outcome: dict[str, Any] = json.loads(line)
        return outcome

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")
