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

USUAL_BANDWIDTH = 5e-4
"""Of SASE pulses about, where nothing says better."""

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


class PeakFinder8Recipe(_Section):
    """The method peakfinder8 (Barty et al. 2014) under the names of its parameters in CrystFEL, with its defaults."""

    threshold: float = Field(800.0, description="Pixels of a peak exceed this, whatever the background, ADU")
    min_snr: Positive = Field(
        5.0, description="Pixels of a peak exceed the mean of their radius, and its intensity 0, by so many σ"
    )
    min_pix_count: int = Field(2, ge=1, description="Least number of pixels of a peak")
    max_pix_count: int = Field(200, ge=1, description="Largest number of pixels of a peak")
    local_bg_radius: int = Field(3, ge=1, le=50, description="Half the radius of the local background, pixels")
    min_res: int = Field(0, ge=0, description="No peaks up to this distance from the beam, pixels")
    max_res: int = Field(0, ge=0, description="No peaks from this distance from the beam on, pixels; 0 for no limit")
    fast: bool = Field(False, description="Background of a radius from 100 of its pixels instead of all")

    @model_validator(mode="after")
    def _check_order(self) -> PeakFinder8Recipe:
        return _ascending(self, ("min_pix_count", "max_pix_count"))


class PeakRecipe(_Section):
    """Peak finding: a matched filter for spots above a background that depends on radius and panel."""

    method: Literal["matched", "peakfinder8"] = Field(
        "matched",
        description="matched: the parameters of this table; peakfinder8: those of the table peakfinder8 and, of this,"
        " those from min_resolution on",
    )
    min_snr: Positive = Field(
        5.0, description="Least significance of a peak, in σ of normal noise; more where `max_false_peaks` asks for it"
    )
    max_false_peaks: Positive = Field(0.04, description="Noise makes so many peaks in a frame, as the mean of many")
    max_chance_pairs: Positive = Field(
        2.0, description="Single pixels that stand out may be so many that so many pairs of them touch by chance"
    )
    pixel_snr: Positive = Field(2.8, description="σ above the background at which a pixel may belong to a peak")
    min_pixels: int = Field(1, ge=1, description="Least number of such pixels of a peak")
    max_pixels: int = Field(60, ge=1, description="Largest number of such pixels of a peak")
    min_value: NonNegative = Field(0.0, description="Least value of a pixel of a peak, ADU; 0 for no floor")
    local_background_radius: int = Field(5, ge=3, le=20, description="Half width of the local background, pixels")
    min_resolution: NonNegative = Field(0.0, description="Peaks below this 1/d are dropped, 1/Å")
    max_resolution: NonNegative = Field(0.0, description="Peaks beyond this 1/d are dropped, 1/Å; 0 for no limit")
    max_peaks: int = Field(2000, ge=1, description="The strongest so many peaks of a frame are kept")
    use_saturated: bool = Field(True, description="Keep peaks with saturated pixels")
    peakfinder8: PeakFinder8Recipe = Field(PeakFinder8Recipe(), description="Parameters of the method peakfinder8")

    @model_validator(mode="after")
    def _check_order(self) -> PeakRecipe:
        return _ascending(self, ("min_pixels", "max_pixels"))


class HitRecipe(_Section):
    """What makes a frame a hit."""

    min_peaks: int = Field(10, ge=1, description="Least number of peaks of a hit, of those that count")
    min_resolution: NonNegative = Field(0.0, description="Peaks below this 1/d do not count, 1/Å")
    max_resolution: NonNegative = Field(0.0, description="Peaks beyond this 1/d do not count, 1/Å; 0 for no limit")
    function: str = Field(
        "",
        description='Function of your own that has to say yes, too, as "module:name" or "file.py:name"; it gets the'
        " arrays panel, fs, ss, intensity, sigma, snr, resolution, max_value and n_pixels of all peaks and is compiled"
        " by numba; empty for none",
    )

    @model_validator(mode="after")
    def _check_order(self) -> HitRecipe:
        return _ascending(self, ("min_resolution", "max_resolution")) if self.max_resolution else self


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
    """Indexing, with a known cell or without."""

    enabled: bool = Field(True, description="Look for lattices; without, hits are found only")
    method: str = Field(
        "sfxlab",
        description='sfxlab: our own; crystfel:METHOD, for example "crystfel:xgandalf": what your indexamajig calls so;'
        ' dials or "dials:METHOD"; or the name of a plug-in',
    )
    program: str = Field(
        "", description="For crystfel and dials: the indexamajig, or the Python with DIALS; empty for that on PATH"
    )
    program_options: str = Field(
        "", description="Further options for indexamajig, or parameters for dials.ssx_index, as on a command line"
    )
    program_time_limit: Positive = Field(
        60.0, description="Seconds that such a program may take for a frame; for a chunk, so many times its hits"
    )
    program_memory: Positive = Field(8.0, description="Memory that each process of it may have, GB")
    cell: CellRecipe | None = Field(
        None, description="The unit cell; without one, lattices of any cell are looked for, in their reduced cells"
    )
    min_axis: Positive = Field(10.0, description="Without a cell: shortest axis of the reduced cell, Å")
    max_axis: Positive = Field(400.0, description="Without a cell: longest axis of the reduced cell, Å")
    max_lattices: int = Field(10, ge=1, le=10, description="Most lattices looked for in a frame")
    length_tolerance: Positive = Field(0.05, description="Largest relative deviation of a, b, c from the given cell's")
    angle_tolerance: Positive = Field(1.5, description="Largest deviation of α, β, γ from the given cell's, degrees")
    max_log10_p: float = Field(
        -5.0, le=0, description="A lattice counts where as good a fit is rarer than this by chance, log10"
    )
    min_close: Annotated[float, Field(ge=0, le=1)] = Field(
        0.75, description="Of a lattice's peaks, the least share with each index within 1/8 of whole; chance gives half"
    )
    min_peaks: int = Field(6, ge=4, description="Least number of peaks that a lattice has to explain by itself")
    max_peaks: int = Field(250, ge=10, description="Peaks used to find lattices; those of lowest resolution first")
    time_limit: Positive = Field(
        10.0,
        description="No further lattice is looked for after so many seconds; the search itself is bounded by counts",
    )

    @model_validator(mode="after")
    def _check_order(self) -> IndexingRecipe:
        return _ascending(self, ("min_axis", "max_axis"))


class RefinementRecipe(_Section):
    """Refinement of orientation and cell against peak positions."""

    cycles: int = Field(10, ge=0, description="Most cycles of least squares")
    refine_cell: bool = Field(True, description="Refine the cell within its lattice type, not only the orientation")
    cell_restraint: Positive = Field(
        0.01, description="Relative standard deviation of cell lengths about the given cell"
    )
    detector_shift: Literal["none", "frame"] = Field(
        "none",
        description="frame: refine a shift of the detector along x and y for each crystal, for beams that move; what a"
        " single frame tells of it is little, and it correlates with the orientation",
    )


class IntegrationRecipe(_Section):
    """Which reflections are predicted, and their integration: sums and fits of profiles."""

    peak_radius: Positive = Field(3.0, description="Radius of the peak, pixels")
    background_inner: Positive = Field(4.0, description="Inner radius of the background ring, pixels")
    background_outer: Positive = Field(6.0, description="Outer radius of the background ring, pixels")
    fit_profiles: bool = Field(
        True,
        description="Fit the profiles that were learned from the run, and take fits where they are better than sums",
    )
    max_resolution: NonNegative = Field(0.0, description="Integrate up to this 1/d, 1/Å; 0 for the whole detector")
    push_resolution: NonNegative = Field(
        0.0, description="Integrate so far beyond the resolution that a crystal's peaks reach, 1/Å; 0 for no such limit"
    )
    min_partiality: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.135,
        description="Reflections less excited than this are not predicted (Gaussian model, |ε| < 2 R)",
    )
    overprediction: Annotated[float, Field(ge=1, le=5)] = Field(
        1.0,
        description="Predict up to so many times the excitation error that belongs to min_partiality, for"
        " post-refinement",
    )
    bandwidth: Annotated[float, Field(ge=0, lt=0.2)] = Field(
        0.0,
        description="Standard deviation of the spectrum, relative; 0 for that of the geometry, or else"
        f" {USUAL_BANDWIDTH}",
    )

    @model_validator(mode="after")
    def _check_order(self) -> IntegrationRecipe:
        return _ascending(self, ("peak_radius", "background_inner", "background_outer"))


class ProfileRecipe(_Section):
    """Shapes of spots, learned before a run is processed."""

    learn: bool = Field(True, description="Learn them from the run's own frames")
    spots: int = Field(3000, ge=1, description="Strong spots that are enough to learn from")
    frames: int = Field(512, ge=1, description="Most frames to look for them in, spread over the run")
    min_spots: int = Field(200, ge=20, description="From fewer spots nothing is learned, and reflections are summed")


class BadPixelRecipe(_Section):
    """Bad pixels that no mask knows, learned before a run is processed."""

    learn: bool = Field(True, description="Learn them from the run's own frames")
    frames: int = Field(256, ge=1, le=4080, description="Most frames to learn from, evenly spread over the run")
    min_frames: int = Field(16, ge=4, description="From fewer frames nothing is claimed")
    hot: bool = Field(True, description="Leave out pixels that stand out far too often")
    dead: bool = Field(True, description="Leave out pixels that never change")
    noisy: bool = Field(True, description="Leave out pixels with far too much noise")
    shadowed: bool = Field(False, description="Leave out regions with less than half of the light at their radius")
    chance: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.01, description="Chance that even one good pixel of the detector is taken for a hot one, by each test"
    )


class ProcessingRecipe(_Section):
    """What frames may cost."""

    seconds_per_frame: Positive = Field(
        300.0,
        description="A frame that takes longer on a worker, twice, is given up: its file or a library hangs. A resumed"
        " run tries it again",
    )


class Recipe(_Section):
    """All parameters of the way from a frame to its reflections."""

    bad_pixels: BadPixelRecipe = BadPixelRecipe()
    profiles: ProfileRecipe = ProfileRecipe()
    peaks: PeakRecipe = PeakRecipe()
    hits: HitRecipe = HitRecipe()
    indexing: IndexingRecipe = IndexingRecipe()
    refinement: RefinementRecipe = RefinementRecipe()
    integration: IntegrationRecipe = IntegrationRecipe()
    processing: ProcessingRecipe = ProcessingRecipe()

    @property
    def cell(self) -> UnitCell | None:
        """The unit cell to index with."""
        return None if self.indexing.cell is None else UnitCell(**self.indexing.cell.model_dump())

    def with_cell(self, cell: UnitCell) -> Recipe:
        """The same recipe for another unit cell."""
        fields = {name: getattr(cell, name) for name in CellRecipe.model_fields}
        indexing = self.indexing.model_copy(update={"cell": CellRecipe(**fields)})
        return self.model_copy(update={"indexing": indexing})

    def without_indexing(self) -> Recipe:
        """The same recipe for finding hits only."""
        return self.model_copy(update={"indexing": self.indexing.model_copy(update={"enabled": False})})

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
