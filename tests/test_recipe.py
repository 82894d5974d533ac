"""Recipes: TOML there and back, and what is refused."""

from __future__ import annotations

import pickle
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sfxlab.crystal import UnitCell
from sfxlab.errors import RecipeError
from sfxlab.recipe import Recipe, validate

CELL = UnitCell(79.3, 79.3, 37.8, lattice_type="tetragonal", centring="P", unique_axis="c")

recipes = st.builds(
    lambda peaks, hits, integration: Recipe().changed(peaks=peaks, hits=hits, integration=integration),
    st.fixed_dictionaries({
        "min_snr": st.floats(1e-3, 1e6), "max_pixels": st.integers(2, 10**6), "use_saturated": st.booleans(),
    }),
    st.fixed_dictionaries({"min_peaks": st.integers(1, 10**6)}),
    st.fixed_dictionaries({"min_partiality": st.floats(0, 1, exclude_max=True)}),
)  # fmt: skip


@given(recipes, st.booleans())
def test_a_recipe_comes_back_from_its_toml(recipe: Recipe, with_cell: bool) -> None:
    recipe = recipe.with_cell(CELL) if with_cell else recipe
    assert validate(tomllib.loads(recipe.to_toml())) == recipe


def test_toml_names_every_parameter() -> None:
    written = tomllib.loads(Recipe().with_cell(CELL).to_toml())
    assert written == Recipe().with_cell(CELL).model_dump()


def test_what_a_file_does_not_name_keeps_its_default(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[peaks]\nmin_snr = 7\n")
    assert Recipe.read(path) == Recipe().changed(peaks={"min_snr": 7})
    path.write_text("")
    assert Recipe.read(path) == Recipe()


def test_every_parameter_is_described_and_its_default_is_allowed() -> None:
    sections = Recipe.model_fields.values()
    fields = [(name, field) for section in sections for name, field in section.annotation.model_fields.items()]
    assert [name for name, field in fields if not field.description] == []
    assert validate(Recipe().model_dump()) == Recipe()


def test_a_cell_goes_in_and_out() -> None:
    recipe = Recipe().with_cell(CELL)
    assert recipe.cell == CELL
    assert not recipe.without_indexing().indexing.enabled
    assert recipe.without_indexing().cell == recipe.cell
    assert Recipe().cell is None


def test_a_changed_recipe_leaves_the_first_as_it_was() -> None:
    first = Recipe()
    assert first.changed(peaks={"min_snr": 6.0}).peaks.min_snr == 6.0
    assert first == Recipe()
    with pytest.raises(ValidationError):
        first.peaks.min_snr = 6.0  # type: ignore[misc]


def test_a_recipe_travels() -> None:
    recipe = Recipe().with_cell(CELL)
    assert pickle.loads(pickle.dumps(recipe)) == recipe


@pytest.mark.parametrize(
    ("values", "place", "problem", "remedy"),
    [
        ({"peaks": {"min_srn": 5}}, "peaks.min_srn", "unknown parameter", "did you mean 'min_snr'?"),
        ({"peeks": {}}, "peeks", "unknown parameter", "did you mean 'peaks'?"),
        ({"indexing": {"cell": {"a": 1, "b": 1, "c": 1, "alfa": 90}}}, "indexing.cell.alfa", "unknown parameter",
         "did you mean 'alpha'?"),
        ({"indexing": {"cell": {"a": 79.3}}}, "indexing.cell.b", "wrong value", None),
        ({"indexing": {"cell": {"a": 1, "b": 1, "c": 1, "centring": "X"}}}, "indexing.cell.centring", "wrong value",
         None),
        ({"hits": {"min_peaks": 0}}, "hits.min_peaks", "wrong value", None),
        ({"integration": {"min_partiality": 1.0}}, "integration.min_partiality", "wrong value", None),
        ({"peaks": {"min_snr": "high"}}, "peaks.min_snr", "wrong value", None),
        ({"peaks": 5}, "peaks", "wrong value", None),
        ({"hits": {"min_peaks": 10.5}}, "hits.min_peaks", "wrong value", None),
        ({"peaks": {"min_snr": float("nan")}}, "peaks.min_snr", "wrong value", None),
    ],
)  # fmt: skip
def test_the_first_wrong_key_is_named(values: dict[str, Any], place: str, problem: str, remedy: str | None) -> None:
    with pytest.raises(RecipeError, match=problem) as caught:
        validate(values, "my.toml")
    assert (caught.value.path, caught.value.place, caught.value.remedy) == ("my.toml", place, remedy)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"alpha": 10, "gamma": 150}, "these angles close no cell"),
        ({"lattice_type": "tetragonal", "unique_axis": "c"}, "do not fit a tetragonal lattice"),
    ],
)
def test_an_impossible_cell_is_refused(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(RecipeError, match=problem) as caught:
        validate({"indexing": {"cell": {"a": 30, "b": 40, "c": 50} | changes}}, "my.toml")
    assert (caught.value.path, caught.value.place) == ("my.toml", "indexing.cell")


@pytest.mark.parametrize("content", [b"[peaks\n", b"\xff\xfe\x00", b"min_snr"])
def test_what_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "my.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match="this is not TOML") as caught:
        Recipe.read(path)
    assert caught.value.path == str(path)
