"""One small data set for all commands, and ways to call them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sfxlab.cli import main

Sfxlab = Callable[..., Result]


@pytest.fixture(scope="session")
def sfxlab() -> Sfxlab:
    """`sfxlab("show", path)`: a command in this process; what would be a traceback is raised."""

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)

    return call


@pytest.fixture(scope="session")
def refused(sfxlab: Sfxlab) -> Callable[..., str]:
    """`refused("show", path)`: what a command that has to fail says."""

    def call(*arguments: object, exit_code: int = 1) -> str:
        result = sfxlab(*arguments)
        assert (result.exit_code, result.stdout) == (exit_code, "")
        assert "Error: " in result.stderr
        assert "Traceback" not in result.stderr
        return result.stderr

    return call


@pytest.fixture(scope="session")
def told(sfxlab: Sfxlab) -> Callable[..., Any]:
    """`told("stats", path)`: what the command says with `--json`, which is all of its standard output."""

    def call(*arguments: object) -> Any:
        result = sfxlab(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return call


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory, sfxlab: Sfxlab) -> Path:
    """Folder of frames.cxi, frames.geom, frames.cell, truth/, run/, merged.mtz and run.stream, not to be changed."""
    folder = tmp_path_factory.mktemp("example") / "data"
    run, merged = folder / "run", folder / "merged.mtz"
    frames = (folder / "frames.cxi", "-g", folder / "frames.geom", "-p", folder / "frames.cell")
    for command in (
        ("simulate", folder, "--frames", 16, "--seed", 3),
        ("process", *frames, "-o", run, "--workers", 0),
        ("merge", run, "-y", "4/mmm", "-o", merged),
        ("export", run, "--to", "stream", folder / "run.stream"),
    ):
        result = sfxlab(*command)
        assert result.exit_code == 0, result.output
    return folder
