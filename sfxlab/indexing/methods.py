"""Indexers by the name that a recipe gives them: our own, outside programs, plug-ins."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

import numpy as np

from sfxlab.crystal import UnitCell
from sfxlab.errors import FrameError, RecipeError, suggestion
from sfxlab.indexing.indexer import Indexer, Spots
from sfxlab.indexing.known_cell import IndexingResult, index
from sfxlab.indexing.outside import CRYSTFEL, DIALS, OutsideProgram
from sfxlab.indexing.target import Target, target_of
from sfxlab.indexing.unknown_cell import index_without_cell
from sfxlab.recipe import IndexingRecipe

OWN = "sfxlab"
PROGRAMS = {"crystfel": CRYSTFEL, "dials": DIALS}
PLUG_INS = "sfxlab.indexers"
"""The group of entry points that packages add indexers by."""


def index_own(frames: Sequence[Spots], cell: UnitCell | None, recipe: IndexingRecipe) -> list[IndexingResult]:
    """Our own indexer: lattices of the cell, or of any cell where there is none."""
    if cell is None:
        return [index_without_cell(spots.q, recipe) for spots in frames]
    return [index(spots.q, _target(cell), recipe) for spots in frames]


def indexer(recipe: IndexingRecipe) -> Indexer:
    """The indexer of a recipe. Raises `RecipeError` where there is none of that name."""
    name, _, what = recipe.method.partition(":")
    if name == OWN and not what:
        return index_own
    if name in PROGRAMS and (what or name != "crystfel"):
        return PROGRAMS[name]
    plug_in = _plug_in(name)
    if plug_in is None:
        known = [OWN, "crystfel:METHOD", "dials", "dials:METHOD", *sorted(_plug_ins())]
        raise RecipeError(
            f"there is no indexer '{recipe.method}'", place="indexing.method", expected=", ".join(known),
            remedy=suggestion(name, known) or "choose one of them, or install the package that adds it",
        )  # fmt: skip
    try:
        loaded = plug_in.load()
    except Exception as error:
        raise RecipeError(
            f"the plug-in '{name}' cannot be loaded", place=f"indexing.method, {plug_in.value}",
            found=f"{type(error).__name__}: {error}", remedy="mend or remove the package that it comes from",
        ) from error  # fmt: skip
    if not callable(loaded):
        raise RecipeError(
            f"the plug-in '{name}' is no indexer", place=f"indexing.method, {plug_in.value}", found=repr(loaded),
            expected="something to call with frames, cell and recipe (sfxlab.indexing.Indexer)",
        )  # fmt: skip
    return loaded  # type: ignore[no-any-return]


def takes_chunks(recipe: IndexingRecipe) -> bool:
    """Whether an indexer is better called for many frames at once."""
    return recipe.enabled and recipe.method != OWN


def index_frames(
    frames: Sequence[Spots], cell: UnitCell | None, recipe: IndexingRecipe
) -> list[IndexingResult | FrameError]:
    """One result for each frame; an error for each that the indexer raised one for.

    Where an indexer raises an error for several frames, each is tried by itself. Raises `RecipeError` where the recipe
    names no indexer or a program that is not there, and what our own one raises.
    """
    wanted = indexer(recipe)
    if wanted is index_own:
        return list(index_own(frames, cell, recipe))
    try:
        return list(_checked(wanted(frames, cell, recipe), frames))
    except RecipeError:
        raise
    except Exception as error:  # noqa: BLE001
        # Plug-ins may raise anything.
        if len(frames) > 1:
            return [result for spots in frames for result in index_frames([spots], cell, recipe)]
        found = "; ".join(f"{type(error).__name__}: {error}".splitlines())
        return [FrameError(f"the indexer '{recipe.method}' failed", found=found)]


def check_indexer(cell: UnitCell | None, recipe: IndexingRecipe) -> None:
    """Raise `RecipeError` where the indexer of a recipe does not exist or, being a program, does not work."""
    if not recipe.enabled:
        return
    wanted = indexer(recipe)
    if isinstance(wanted, OutsideProgram):
        wanted.check(cell, recipe)


def indexer_version(recipe: IndexingRecipe) -> dict[str, str]:
    """The versions of what a recipe indexes with besides sfxlab, by name. Raises `RecipeError`."""
    if not takes_chunks(recipe):
        return {}
    wanted = indexer(recipe)
    if isinstance(wanted, OutsideProgram):
        return {wanted.name: wanted.version(recipe)}
    plug_in = _plug_in(recipe.method.partition(":")[0])
    if plug_in is None or plug_in.dist is None:
        return {}
    return {plug_in.dist.name: plug_in.dist.version}


def _checked(results: Sequence[IndexingResult], frames: Sequence[Spots]) -> Sequence[IndexingResult]:
    """The results, where they are what an indexer has to return."""
    if len(results) != len(frames):
        raise TypeError(f"{len(results)} results for {len(frames)} frames")
    for result, spots in zip(results, frames, strict=True):
        if not isinstance(result, IndexingResult):
            raise TypeError(f"{type(result).__name__} in place of an IndexingResult")
        for lattice in result.lattices:
            basis, peaks = np.asarray(lattice.basis), np.asarray(lattice.peaks)
            if basis.shape != (3, 3) or not np.isfinite(basis).all() or abs(np.linalg.det(basis)) < 1e-12:
                raise ValueError("a lattice with no basis of three finite columns")
            if len(peaks) and not (peaks.min() >= 0 and peaks.max() < len(spots.q)):
                raise ValueError("a lattice with peaks that the frame does not have")
    return results


def _plug_ins() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=PLUG_INS)}


def _plug_in(name: str) -> EntryPoint | None:
    return _plug_ins().get(name)


@lru_cache(maxsize=8)
def _target(cell: UnitCell) -> Target:
    """The target of a run is the same for all its frames."""
    return target_of(cell)
