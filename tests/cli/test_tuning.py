from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest
from click.testing import Result

from sfxlab.recipe import Recipe


@pytest.fixture
def tune(example: Path, sfxlab: Callable[..., Result]) -> Callable[..., Result]:
    """`sfxlab peaks … --tune` of the example, with a recipe that is bad on purpose, in this process."""
    bad = example.parent / "bad.toml"
    bad.write_text("[peaks]\nmin_snr = 60.0\n")
    fixed = ("-g", example / "frames.geom", "-p", example / "frames.cell", "--recipe", bad, "--tune", "--workers", "0")

    def call(*options: object) -> Result:
        return sfxlab("peaks", example / "frames.cxi", *fixed, "--vary", "min_snr=5,8", *options)

    return call


def test_tuning_proposes_a_recipe_and_says_what_it_gains(tune: Callable[..., Result], tmp_path: Path) -> None:
    recipe, png, table = tmp_path / "tuned.toml", tmp_path / "map.png", tmp_path / "table.parquet"
    result = tune("-o", recipe, "--png", png, "--table", table)
    assert result.exit_code == 0
    assert "min_snr 60 → 5" in result.stdout
    assert f"{recipe} holds the proposed recipe." in result.stdout
    assert Recipe.read(recipe) == Recipe()
    assert png.read_bytes().startswith(b"\x89PNG")
    assert pyarrow.parquet.read_table(table)["min_snr"].to_pylist() == [5.0, 8.0, 60.0]


def test_the_same_as_json(tune: Callable[..., Result]) -> None:
    values = json.loads(tune("--json").stdout)
    assert values["is_better"]
    assert values["changes"] == {"min_snr": 5.0}
    assert (values["frames"], values["failed"], values["start"]) == (16, {}, 2)
    assert values["lattices"]["low"] < values["lattices"]["gain"] < values["lattices"]["high"]
    assert [row["min_snr"] for row in values["settings"]] == [5.0, 8.0, 60.0]


def test_a_recipe_that_is_good_stays_as_it_was(example: Path, sfxlab: Callable[..., Result], tmp_path: Path) -> None:
    output = tmp_path / "tuned.toml"
    result = sfxlab(
        "peaks", example / "frames.cxi", "-g", example / "frames.geom", "-p", example / "frames.cell", "--tune",
        "--workers", 0, "--vary", "max_peaks=1500,2500", "-o", output,
    )  # fmt: skip
    assert "The recipe is as good as any of 2 other settings" in result.stdout
    assert f"{output} holds the recipe as it was." in result.stdout
    assert Recipe.read(output) == Recipe()


def test_options_of_tuning_need_it_and_outputs_are_checked_first(
    example: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    frames = (example / "frames.cxi", "-g", example / "frames.geom")
    assert "--png goes with --tune" in refused("peaks", *frames, "--png", tmp_path / "a.png", exit_code=2)
    assert "--save and --tune" in refused("peaks", *frames, "--save", tmp_path / "a.cxi", "--tune", exit_code=2)
    (tmp_path / "there.toml").touch()
    assert "already there" in refused("peaks", *frames, "--tune", "-o", tmp_path / "there.toml")
    tune = ("peaks", *frames, "-p", example / "frames.cell", "--tune", "--workers", "0")
    assert "did you mean 'min_snr'" in refused(*tune, "--vary", "min_sn=5,6")
    assert "no values to try" in refused(*tune, "--vary", "min_snr")
