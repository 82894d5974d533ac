"""A simulated experiment to tune with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sfxlab.crystal import read_cell
from sfxlab.frames import FrameSource, open_frames
from sfxlab.recipe import Recipe
from sfxlab.simulation import simulate
from sfxlab.simulation.experiment import Simulation


@pytest.fixture(scope="session")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    """40 frames, more than half of them hits."""
    kinds: Any = {"single": 0.45, "weak": 0.15, "blank": 0.3, "blank_strong_background": 0.1}
    return simulate(tmp_path_factory.mktemp("tuning") / "data", 40, seed=21, kinds=kinds)


@pytest.fixture(scope="session")
def truth(experiment: Simulation) -> list[dict[str, Any]]:
    """Of each frame `is_hit`, `n_crystals` and more."""
    frames: list[dict[str, Any]] = json.loads((experiment.truth / "truth.json").read_text())["frames"]
    return frames


@pytest.fixture(scope="session")
def frames(experiment: Simulation) -> FrameSource:
    return open_frames(experiment.frames, experiment.geometry)


@pytest.fixture(scope="session")
def recipe(experiment: Simulation) -> Recipe:
    return Recipe().with_cell(read_cell(experiment.cell))


@pytest.fixture
def folder(experiment: Simulation) -> Path:
    return experiment.folder
