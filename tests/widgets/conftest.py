"""Runs to look at."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def small_run(mockdata: Callable[[str], ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A `Run` of twelve frames: hits with one or two lattices, and blanks."""
    return mockdata("small_run").make(tmp_path_factory.mktemp("widgets"))


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """`until(condition)` waits for what other threads do."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def make_result(mockdata: Callable[[str], ModuleType]) -> Callable[..., Any]:
    """`make_result(index, reflections=(…), cell=…, noise=…)`: a made-up frame, see `mockdata/made_up_runs.py`."""
    make: Callable[..., Any] = mockdata("made_up_runs").frame_result
    return make


@pytest.fixture
def make_run(tmp_path: Path, mockdata: Callable[[str], ModuleType]) -> Callable[..., Any]:
    """`make_run(n_frames, chunk_size, name)`: an empty `Run` for that many frames."""

    def make(n_frames: int = 4, chunk_size: int = 2, name: str = "run") -> Any:
        return mockdata("made_up_runs").empty_run(tmp_path / name, n_frames, chunk_size)

    return make
