"""Which parameters to try, and at which values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from pydantic import BaseModel

from sfxlab.errors import RecipeError, suggestion
from sfxlab.recipe import PeakRecipe, Recipe

Grid = Mapping[str, Sequence[Any]]
"""Names of parameters and the values to try. A name is that of a field of the table `peaks` or, with dots, of a table
in it (`peakfinder8.threshold`) or of another table of the recipe (`hits.min_peaks`)."""

Setting = dict[str, Any]
"""A value for each name of a grid."""

MOST_SETTINGS = 2000
_CORNERS_OF = 4
"""Of so many parameters, the corners of the grid are tried on frames that may become part of the sample."""


def default_grid(recipe: Recipe) -> dict[str, tuple[Any, ...]]:
    """Values around what is usual, for the method of peak search that a recipe names."""
    if recipe.peaks.method == "peakfinder8":
        threshold = recipe.peaks.peakfinder8.threshold
        return {
            "peakfinder8.min_snr": (3.5, 5.0, 7.0),
            # A threshold is in ADU and goes with the gain of a detector; without one, the noise alone decides.
            "peakfinder8.threshold": (0.0, threshold / 16, threshold / 4, threshold),
            "peakfinder8.min_pix_count": (1, 2, 3),
        }
    return {"min_snr": (3.5, 5.0, 6.0, 7.5, 10.0), "max_false_peaks": (0.05, 2.0, 50.0), "min_pixels": (1, 2)}


def with_start(grid: Grid, recipe: Recipe) -> dict[str, tuple[Any, ...]]:
    """The grid with ascending values and the recipe's own value among those of each parameter.

    Raises `RecipeError` for a name that no parameter has, and where the grid is empty or far too large.
    """
    whole = {name: _ascending({*values, value_of(recipe, name)}) for name, values in grid.items()}
    n = len(settings_of(whole)) if whole else 0
    if not 1 < n <= MOST_SETTINGS:
        raise RecipeError(
            "there has to be something to choose from, and not too much", found=f"a grid of {n} settings",
            expected=f"2 to {MOST_SETTINGS}", remedy="name parameters and values: --vary min_snr=5,6,8",
        )  # fmt: skip
    return whole


def _ascending(values: set[Any]) -> tuple[Any, ...]:
    # Texts behind numbers: the recipe says better than a comparison what is wrong with them.
    return tuple(sorted(values, key=lambda value: (isinstance(value, str), value)))


def settings_of(grid: Grid) -> list[Setting]:
    """All combinations, the values of the last name changing fastest."""
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def corners_of(grid: Grid) -> list[Setting]:
    """Combinations of the least and the largest values."""
    ends = {
        name: sorted({values[0], values[-1]}) if number < _CORNERS_OF else [values[len(values) // 2]]
        for number, (name, values) in enumerate(grid.items())
    }
    return settings_of(ends)


def value_of(recipe: Recipe, name: str) -> Any:
    """What a recipe says for a name of a grid. Raises `RecipeError`."""
    value: Any = recipe
    for part in _path(name):
        known = list(type(value).model_fields) if isinstance(value, BaseModel) else []
        if part not in known:
            raise RecipeError(
                f"there is no parameter '{name}'", expected=", ".join(known) or "a parameter, not something in it",
                remedy=suggestion(part, known),
            )  # fmt: skip
        value = getattr(value, part)
    if isinstance(value, BaseModel) or value is None:
        raise RecipeError(f"'{name}' is a table of parameters, not one of them", remedy=f"name one: {name}.NAME")
    return value


def applied(recipe: Recipe, setting: Setting) -> Recipe:
    """The recipe with the values of a setting. Raises `RecipeError`."""
    values: dict[str, dict[str, Any]] = {}
    for name, value in setting.items():
        section, *inner, field = _path(name)
        table = values.setdefault(section, recipe.model_dump()[section])
        for part in inner:
            table = table[part]
        table[field] = value
    return recipe.changed(**values)


def _path(name: str) -> list[str]:
    parts = name.split(".")
    elsewhere = parts[0] in Recipe.model_fields and len(parts) > 1 and parts[0] not in PeakRecipe.model_fields
    return parts if elsewhere else ["peaks", *parts]
