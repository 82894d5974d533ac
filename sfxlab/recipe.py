"""Every parameter that can change a number.

A recipe is TOML on disk, one table for each step; what is not named keeps its default. Unknown keys are
refused.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sfxlab.crystal import UnitCell, check_lattice
from sfxlab.crystal.cell import Centring, LatticeType
from sfxlab.errors import CellError, RecipeError, suggestion

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


_AnySection = TypeVar("_AnySection", bound=_Section)


def _ascending(section: _AnySection, names: tuple[str, ...]) -> _AnySection:
    """The section, checked: pydantic makes a `ValidationError` of a `ValueError`."""
    values = [getattr(section, name) for name in names]
    if values != sorted(values):
        raise ValueError(" ≤ ".join(names))
    return section


class PeakRecipe(_Section):
    """Peak finding: radial background, connected pixels above it, local signal-to-noise ratio."""

    min_snr: Positive = Field(5.0, description="Least signal-to-noise ratio of a peak")
    pixel_snr: Positive = Field(3.5, description="σ above the radial background at which a pixel may belong to a peak")
    max_chance_pairs: Positive = Field(
        2.0, description="The threshold rises until no more than so many pairs of noise pixels touch by chance"
    )
    min_pixels: int = Field(2, ge=1, description="Least number of pixels of a peak")
    max_pixels: int = Field(60, ge=1, description="Largest number of pixels of a peak")
    min_value: NonNegative = Field(0.0, description="Least value of a pixel of a peak, ADU; 0 for no floor")
    local_background_radius: int = Field(4, ge=2, le=20, description="Half width of the local background, pixels")
    min_resolution: NonNegative = Field(0.0, description="Peaks below this 1/d are dropped, 1/Å")
    max_resolution: NonNegative = Field(0.0, description="Peaks beyond this 1/d are dropped, 1/Å; 0 for no limit")
    max_peaks: int = Field(2000, ge=1, description="The strongest so many peaks of a frame are kept")
    use_saturated: bool = Field(True, description="Keep peaks with saturated pixels")

    @model_validator(mode="after")
    def _check_order(self) -> PeakRecipe:
        return _ascending(self, ("min_pixels", "max_pixels"))


class HitRecipe(_Section):
    """What makes a frame a hit."""

    min_peaks: int = Field(10, ge=1, description="Least number of peaks of a hit")


class CellRecipe(_Section):
    """The unit cell to index with: Å and degrees."""

    a: Positive
    b: Positive
    c: Positive
    alpha: Positive = 90.0
    beta: Positive = 90.0
    gamma: Positive = 90.0
    lattice_type: LatticeType = "triclinic"
    centring: Centring = "P"
    unique_axis: Literal["a", "b", "c"] | None = None


class IndexingRecipe(_Section):
    """Indexing with a known cell."""

    cell: CellRecipe | None = Field(None, description="The unit cell; without one, hits are found but not indexed")
    max_lattices: int = Field(4, ge=1, le=10, description="Most lattices looked for in a frame")
    length_tolerance: Positive = Field(0.05, description="Largest relative deviation of a, b, c of the primitive cell")
    angle_tolerance: Positive = Field(1.5, description="Largest deviation of the primitive cell's angles, degrees")
    max_log10_p: float = Field(
        -5.0, le=0, description="A lattice counts where as good a fit is rarer than this by chance, log10"
    )
    min_close: Annotated[float, Field(ge=0, le=1)] = Field(
        0.75, description="Of a lattice's peaks, the least share with each index within 1/8 of whole; chance gives half"
    )
    min_peaks: int = Field(8, ge=4, description="Least number of peaks that a lattice has to explain by itself")
    max_peaks: int = Field(250, ge=10, description="Peaks used to find lattices; those of lowest resolution first")


class RefinementRecipe(_Section):
    """Refinement of orientation and cell against peak positions."""

    cycles: int = Field(10, ge=0, description="Most cycles of least squares")
    refine_cell: bool = Field(True, description="Refine the cell within its lattice type, not only the orientation")
    cell_restraint: Positive = Field(
        0.01, description="Relative standard deviation of cell lengths about the given cell"
    )


class IntegrationRecipe(_Section):
    """Ring summation."""

    peak_radius: Positive = Field(3.0, description="Radius of the peak, pixels")
    background_inner: Positive = Field(4.0, description="Inner radius of the background ring, pixels")
    background_outer: Positive = Field(6.0, description="Outer radius of the background ring, pixels")
    max_resolution: NonNegative = Field(0.0, description="Integrate up to this 1/d, 1/Å; 0 for the whole detector")
    min_partiality: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.236,
        description="Reflections less excited than this are not predicted (Gaussian model, |ε| < 1.7 R)",
    )

    @model_validator(mode="after")
    def _check_order(self) -> IntegrationRecipe:
        return _ascending(self, ("peak_radius", "background_inner", "background_outer"))


class Recipe(_Section):
    """All parameters of the way from a frame to its reflections."""

    peaks: PeakRecipe = PeakRecipe()
    hits: HitRecipe = HitRecipe()
    indexing: IndexingRecipe = IndexingRecipe()
    refinement: RefinementRecipe = RefinementRecipe()
    integration: IntegrationRecipe = IntegrationRecipe()

    @property
    def cell(self) -> UnitCell | None:
        """The unit cell to index with."""
        return None if self.indexing.cell is None else UnitCell(**self.indexing.cell.model_dump())

    def with_cell(self, cell: UnitCell) -> Recipe:
        """The same recipe for another unit cell."""
        fields = {name: getattr(cell, name) for name in CellRecipe.model_fields}
        indexing = self.indexing.model_copy(update={"cell": CellRecipe(**fields)})
        return self.model_copy(update={"indexing": indexing})

    def without_cell(self) -> Recipe:
        """The same recipe for finding hits only."""
        return self.model_copy(update={"indexing": self.indexing.model_copy(update={"cell": None})})

    def changed(self, **sections: dict[str, Any]) -> Recipe:
        """A recipe with some parameters replaced: `recipe.changed(peaks={"min_snr": 6})`."""
        values = self.model_dump()
        for section, parameters in sections.items():
            values.setdefault(section, {}).update(parameters)
        return validate(values)

    @staticmethod
    def read(path: str | Path) -> Recipe:
        """Read a TOML file. Raises `RecipeError` naming the file and the key."""
        try:
            return validate(tomllib.loads(Path(path).read_text(encoding="utf-8-sig")), path)
        except OSError as error:
            raise RecipeError("the recipe cannot be read", path=path, found=error.strerror) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RecipeError("this is not TOML", path=path, found=str(error)) from error

    def to_toml(self) -> str:
        """The recipe as TOML, every parameter named."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))


def validate(values: dict[str, Any], path: str | Path | None = None) -> Recipe:
    """A recipe from nested dictionaries; `RecipeError` names the first wrong key."""
    try:
        recipe = Recipe.model_validate(values)
        if recipe.cell is not None:
            check_lattice(recipe.cell)
        return recipe
    except CellError as error:
        raise RecipeError(
            error.problem, path=path, place="indexing.cell", found=error.found, expected=error.expected,
            remedy=error.remedy,
        ) from None  # fmt: skip
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = _known_keys(first["loc"][:-1])
            raise RecipeError(
                f"unknown parameter '{key}'", path=path, place=key, expected=", ".join(known),
                remedy=suggestion(str(first["loc"][-1]), known),
            ) from None  # fmt: skip
        raise RecipeError(
            f"wrong value for '{key}'", path=path, place=key, found=first.get("input"), expected=first["msg"]
        ) from None


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    section: Any = Recipe
    for part in location:
        section = CellRecipe if part == "cell" else section.model_fields[part].annotation
    return list(section.model_fields)
