"""The way to a unit cell that nobody has given."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from sfxlab.cell_search import find_cell
from sfxlab.crystal import read_cell
from sfxlab.store import Run


@pytest.fixture
def told(sfxlab: Callable[..., Result]) -> Callable[..., Any]:
    """What a command says with `--json`."""
    return lambda *arguments: json.loads(sfxlab(*arguments, "--json").stdout)


@pytest.fixture(scope="module")
def without_cell(sfxlab: Callable[..., Result], example: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the example's frames without a cell."""
    run = tmp_path_factory.mktemp("without cell") / "run"
    frames = (example / "frames.cxi", "-g", example / "frames.geom")
    assert sfxlab("process", *frames, "-o", run, "--workers", 0).exit_code == 0
    return run


def test_a_run_without_a_cell_is_the_same_with_workers_and_without(
    sfxlab: Callable[..., Result], without_cell: Path, example: Path, tmp_path: Path
) -> None:
    frames = (example / "frames.cxi", "-g", example / "frames.geom")
    assert sfxlab("process", *frames, "-o", tmp_path / "run", "--workers", 2, "--chunk-size", 5).exit_code == 0
    here, there = Run(without_cell), Run(tmp_path / "run")
    assert here.counts.lattices > 5
    for name in ("frames", "peaks", "crystals", "reflections"):
        assert repr(here.table(name).to_pylist()) == repr(there.table(name).to_pylist())


def test_cells_proposes_the_conventional_cell(
    told: Callable[..., Any], without_cell: Path, example: Path, tmp_path: Path
) -> None:
    best, *_ = told("cells", without_cell, "-o", tmp_path / "found.cell")
    found, true = read_cell(tmp_path / "found.cell"), read_cell(example / "frames.cell")
    assert (found.lattice_type, found.centring, found.unique_axis) == ("tetragonal", "P", "c")
    assert found.parameters == pytest.approx(true.parameters, rel=0.01)
    assert best["explained_hits"] >= 0.8 * best["tested_hits"] > 0
    assert best["symmetries"][0]["lattice_type"] == "triclinic"
    assert best["symmetries"][-1]["accepted"]


def test_cells_says_what_speaks_for_a_proposal(sfxlab: Callable[..., Result], without_cell: Path) -> None:
    text = sfxlab("cells", without_cell).stdout
    (best, *_) = find_cell(Run(without_cell))
    assert text.startswith(str(best))
    assert "obliquity / °" in text
    assert "tetragonal P" in text


def test_one_command_finds_the_cell_and_indexes_with_it(
    told: Callable[..., Any], example: Path, tmp_path: Path
) -> None:
    command = (
        "process", example / "frames.cxi", "-g", example / "frames.geom", "--find-cell", "-o", tmp_path / "run",
        "--workers", 0,
    )  # fmt: skip
    values = told(*command)
    run, with_true_cell = Run(tmp_path / "run"), Run(example / "run").counts
    assert values["indexed"] >= with_true_cell.indexed - 1
    assert run.recipe.cell is not None
    assert run.recipe.cell.lattice_type == "tetragonal"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert told(*command, "--resume")["status"] == "finished"


def test_a_cell_is_not_looked_for_where_one_is_given(
    refused: Callable[..., str], example: Path, tmp_path: Path
) -> None:
    said = refused(
        "process", example / "frames.cxi", "-g", example / "frames.geom", "-p", example / "frames.cell",
        "--find-cell", "-o", tmp_path / "run", exit_code=2,
    )  # fmt: skip
    assert "one is given already" in said


def test_frames_without_lattices_have_no_cell(refused: Callable[..., str], example: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "strict.toml"
    recipe.write_text("[hits]\nmin_peaks = 2000\n")
    said = refused(
        "process", example / "frames.cxi", "-g", example / "frames.geom", "--find-cell", "--recipe", recipe,
        "-o", tmp_path / "run", "--workers", 0,
    )  # fmt: skip
    assert "no cell is found in these frames" in said
    assert not (tmp_path / "run").exists()
