"""`decoys`: what scrambled peaks of a run's hits are indexed as."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sfxlab.store import Run

Told = Callable[..., Any]


def test_no_decoy_of_a_good_run_is_indexed(sfxlab: Callable[..., Any], told: Told, example: Path) -> None:
    hits = Run(example / "run").counts.hits
    count = told("decoys", example / "run")
    assert (count["tried"], count["accepted"], count["rate"]) == (hits, 0, 0.0)
    assert 0 < count["limit"] < 0.5
    assert f"decoys indexed  0 of {hits} (0.0%; below" in sfxlab("decoys", example / "run").stdout


def test_fewer_hits_can_be_tried(told: Told, example: Path) -> None:
    assert told("decoys", example / "run", "--sample", 3)["tried"] == 3


def test_decoys_of_a_careless_recipe_are_indexed(told: Told, example: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "careless.toml"
    recipe.write_text("[indexing]\nmax_log10_p = 0\nmin_close = 0\nmin_peaks = 4\n")
    files = example / "frames.cxi", "-g", example / "frames.geom", "-p", example / "frames.cell"
    told("process", *files, "--recipe", recipe, "-o", tmp_path / "run", "--workers", 0)
    assert told("decoys", tmp_path / "run")["accepted"] > 0


def test_a_run_that_only_looked_for_hits_has_no_decoys(told: Told, example: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "hits.toml"
    recipe.write_text("[indexing]\nenabled = false\n")
    told(
        "process", example / "frames.cxi", "-g", example / "frames.geom", "--recipe", recipe,
        "-o", tmp_path / "run", "--workers", 0,
    )  # fmt: skip
    assert told("decoys", tmp_path / "run")["tried"] == 0
