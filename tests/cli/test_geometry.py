"""`geometry`: a refined geometry of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfxlab.detector_refinement.bodies import centres_of, moved
from sfxlab.geometry import read_geometry, write_geometry
from sfxlab.store import Run

Told = Callable[..., Any]
Refused = Callable[..., str]


def test_a_new_geometry_is_written_with_a_page_of_pictures(
    sfxlab: Callable[..., Any], example: Path, tmp_path: Path
) -> None:
    output, page = tmp_path / "new.geom", tmp_path / "page.html"
    result = sfxlab("geometry", example / "run", "-o", output, "--html", page, "--workers", 0)
    assert result.exit_code == 0, result.output
    for text in ("crystals used", "hits indexed", "median residual", "distance", str(output)):
        assert text in result.stdout
    before, after = Run(example / "run").detector(), read_geometry(output)
    placed = after.detector(float(after.camera_length.value))
    # The simulated panels are a fraction of a pixel from where the geometry has them.
    assert np.abs(centres_of(placed) - centres_of(before))[:, :2].max() < 0.3 * before.panels[0].pixel_size
    assert "Observed − predicted, before" in page.read_text()
    assert "Observed − predicted, after" in page.read_text()


def test_frames_of_displaced_panels_are_indexed_again_with_the_refined_geometry(
    told: Told, example: Path, tmp_path: Path
) -> None:
    true, rng = Run(example / "run"), np.random.default_rng(1)
    detector, moves = true.detector(), np.zeros((len(true.detector().panels), 6))
    moves[:, :2] = rng.uniform(-3, 3, moves[:, :2].shape) * detector.panels[0].pixel_size
    moves[:, 2] = 0.005 * detector.camera_length
    moves[:, 5] = np.radians(rng.uniform(-0.5, 0.5, len(moves)))
    wrong, refined = tmp_path / "wrong.geom", tmp_path / "refined.geom"
    geometry = read_geometry(example / "frames.geom")
    write_geometry(geometry.with_detector(moved(detector, moves), float(geometry.camera_length.value)), wrong)

    def indexed(name: str, geometry: Path) -> int:
        told(
            "process", example / "frames.cxi", "-g", geometry, "-p", example / "frames.cell", "-o", tmp_path / name,
            "--workers", 0,
        )  # fmt: skip
        return Run(tmp_path / name).counts.indexed

    before = indexed("wrong", wrong)
    values = told("geometry", tmp_path / "wrong", "-o", refined, "--workers", 0)
    after = indexed("refined", refined)
    assert before < after <= true.counts.indexed
    assert after >= true.counts.indexed - 1
    assert values["median_after"] < 0.5 * values["median_before"]


def test_nothing_is_overwritten(refused: Refused, example: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.geom"
    there.write_text("mine")
    assert "already there" in refused("geometry", example / "run", "-o", there)
    assert "already there" in refused("geometry", example / "run", "-o", tmp_path / "new.geom", "--html", there)
    assert there.read_text() == "mine"
    assert not (tmp_path / "new.geom").exists()


def test_programs_learn_every_shift_with_its_error(told: Told, example: Path, tmp_path: Path) -> None:
    values = told(
        "geometry", example / "run", "-o", tmp_path / "new.geom", "--level", "detector", "--cycles", 1, "--workers", 0
    )  # fmt: skip
    assert values["settled"]
    assert len(values["panels"]) == len(Run(example / "run").detector().panels)
    assert all(error > 0 for error in values["shift_error"])
    assert values["indexed"] == [Run(example / "run").counts.indexed]


@pytest.mark.parametrize(
    ("options", "problem"), [(("--level", "groups"), "no groups"), (("--cell-deviation", "-1"), "-1")]
)
def test_what_cannot_be_refined_is_said(
    refused: Refused, example: Path, tmp_path: Path, options: tuple[str, ...], problem: str
) -> None:
    code = 2 if problem == "-1" else 1
    said = refused(
        "geometry", example / "run", "-o", tmp_path / "new.geom", "--workers", 0, *options, exit_code=code
    )  # fmt: skip
    assert problem in said


def test_a_run_without_crystals_is_refused(told: Told, refused: Refused, example: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "hits.toml"
    recipe.write_text("[indexing]\nenabled = false\n")
    told(
        "process", example / "frames.cxi", "-g", example / "frames.geom", "--recipe", recipe, "-o", tmp_path / "run",
        "--workers", 0,
    )  # fmt: skip
    assert "no crystals" in refused("geometry", tmp_path / "run", "-o", tmp_path / "new.geom", "--workers", 0)
