"""The notebooks as they are kept, and the files from which Binder makes a place to run them; nbval runs them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BINDER = ROOT / "binder"


def code_cells(path: Path) -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def is_ignored(cell: Any) -> bool:
    """Whether the outputs of a cell are not compared."""
    return "nbval-ignore-output" in cell.metadata.get("tags", [])


def requirements_in(path: Path) -> Iterator[str]:
    """Requirements with their hashes, those of files that are named by `-r` too, in the way that pip reads them."""
    text = re.sub(r"(^|\s)#.*", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        option, _, other = line.partition(" ")
        if option == "-r":
            yield from requirements_in(path.parent / other.strip())
        else:
            yield " ".join(line.split())


def test_there_is_a_notebook_for_each_step() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_short_and_recorded_from_its_beginning(path: Path) -> None:
    cells = code_cells(path)
    assert len(cells) <= 12
    for number, cell in enumerate(cells, 1):
        assert cell.execution_count == (None if is_ignored(cell) else number)
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_that_differ_from_run_to_run_are_not_kept(path: Path) -> None:
    for cell in code_cells(path):
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        assert "application/vnd.jupyter.widget-view+json" not in kinds
        assert not any("bokeh" in kind for kind in kinds)
        assert not (is_ignored(cell) and cell.outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_to_files(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        for target in re.findall(r"\]\(([^)#]+)\)", cell.source) if cell.cell_type == "markdown" else []:
            assert target.startswith("https://") or (path.parent / target).exists(), target


def test_binder_installs_what_the_lock_has_with_its_hashes() -> None:
    wanted = list(requirements_in(BINDER / "requirements.txt"))
    assert wanted == list(requirements_in(ROOT / "requirements.lock"))
    assert len(wanted) > 100
    assert all(" --hash=sha256:" in line for line in wanted)


def test_binder_has_a_python_that_sfxlab_and_the_lock_are_for() -> None:
    version = (BINDER / "runtime.txt").read_text().strip().removeprefix("python-")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert version in SpecifierSet(project["requires-python"])
    environment = {"python_version": version, "python_full_version": f"{version}.0", "sys_platform": "linux"}
    requirements = [Requirement(line.partition(" --hash")[0]) for line in requirements_in(BINDER / "requirements.txt")]
    there = {one.name for one in requirements if one.marker is None or one.marker.evaluate(environment)}
    assert {"hatchling", "ipykernel", "jupyterlab", "nbconvert", "numba"} <= there


def test_what_binder_does_at_last_is_a_script_that_names_things_which_are_there() -> None:
    script = BINDER / "postBuild"
    assert script.stat().st_mode & 0o111 == 0o111
    assert script.read_text().startswith("#!/bin/bash\n")
    subprocess.run(["bash", "-n", script], check=True)
    named = re.findall(r"\S+\.ipynb", script.read_text())
    assert named
    assert all(list(ROOT.glob(name)) for name in named)
    used = re.findall(r"^(?:jupyter) (\w+)", script.read_text(), re.MULTILINE)
    assert all((Path(sys.executable).parent / f"jupyter-{command}").exists() for command in used)
