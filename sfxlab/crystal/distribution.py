"""The cells of many crystals: what is usual, and how much they differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal.cell import UnitCell, symmetrise
from sfxlab.errors import CellError

PARAMETERS = ("a", "b", "c", "alpha", "beta", "gamma")
_CLIP = 4.0
_FEW = 5
"""With fewer crystals than this, the spread says too little to leave one out."""


@dataclass(frozen=True)
class CellDistribution:
    """Statistics of a, b, c (Å), α, β, γ (degrees) of crystals of one lattice type and centring."""

    cell: UnitCell
    """The mean of the typical crystals, with the symmetry of the lattice."""
    n_crystals: int
    n_typical: int
    """Crystals within four robust standard deviations of the median in every parameter; of fewer than five, all."""
    median: NDArray[np.float64]
    """(6,)."""
    deviation: NDArray[np.float64]
    """Robust standard deviation, 1.4826 times the median absolute deviation, (6,)."""


def cell_distribution(parameters: NDArray[np.float64], lattice: UnitCell) -> CellDistribution:
    """Statistics of cells, (n, 6) in Å and degrees; `lattice` gives their lattice type, centring and unique axis.

    Raises `CellError` where there are none.
    """
    if len(parameters) == 0:
        raise CellError("there are no crystals", remedy="look at why hits are not indexed: sfxlab report")
    median = np.median(parameters, axis=0)
    deviation = 1.4826 * np.median(np.abs(parameters - median), axis=0)
    # Angles that symmetry fixes, and equal axes, have no spread of their own.
    typical = np.all(np.abs(parameters - median) <= _CLIP * np.maximum(deviation, 1e-6 * median), axis=1)
    if len(parameters) < _FEW or not typical.any():
        typical[:] = True
    mean = symmetrise(parameters[typical].mean(axis=0), lattice)
    return CellDistribution(
        lattice.with_parameters(mean), len(parameters), int(np.count_nonzero(typical)), median, deviation
    )
