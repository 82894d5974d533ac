"""What an indexer is, whoever wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import UnitCell
from sfxlab.geometry import Detector
from sfxlab.indexing.known_cell import IndexingResult
from sfxlab.peaks import Peaks
from sfxlab.recipe import IndexingRecipe


@dataclass(frozen=True)
class Spots:
    """The peaks of one hit, as an indexer gets them."""

    q: NDArray[np.float64]
    """Scattering vectors in the laboratory frame (z along the beam), (n, 3), 1/Å, no 2π."""
    peaks: Peaks
    """The same peaks on the detector, in the same order."""
    detector: Detector
    photon_energy: float
    """eV."""


class Indexer(Protocol):
    """Finds lattices in the peaks of frames.

    It is called with the hits of a whole chunk, or with a single one, and returns one result for each, in order. What
    it makes of a frame may depend on nothing but that frame, the cell and the recipe. `cell` is None where none is
    known. What it raises makes the frame fail that it raises it for, and no other. `sfxlab.indexing.judged` makes a
    result of mere bases.

    A package adds one by an entry point of the group `sfxlab.indexers`; `indexing.method = "NAME"` or `"NAME:WHAT"`
    then calls it, with the whole text in `recipe.method`.
    """

    def __call__(
        self, frames: Sequence[Spots], cell: UnitCell | None, recipe: IndexingRecipe
    ) -> Sequence[IndexingResult]: ...
