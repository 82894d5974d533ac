"""A crystal: a unit cell in an orientation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal.cell import UnitCell


@dataclass(frozen=True)
class Crystal:
    """One lattice found in one frame."""

    cell: UnitCell
    """Lengths and angles of this very crystal, with the lattice type and centring of its kind."""

    basis: NDArray[np.float64]
    """Columns a*, b*, c* of the conventional cell in the laboratory frame, (3, 3), 1/Å: q = basis @ hkl."""

    profile_radius: float
    """Radius of the reciprocal lattice nodes, 1/Å."""

    resolution_limit: float = math.inf
    """|q| = 1/d to which the crystal shows diffraction, 1/Å."""

    detector_shift: tuple[float, float] = (0.0, 0.0)
    """Shift of the detector along x and y that suits this frame best, metres."""

    n_peaks: int = 0
    """Peaks of the frame that this lattice explains."""

    log10_p: float = 0.0
    """log10 of the probability that so many peaks fit by chance (METHODS 4.7)."""

    rms_residual: float = math.nan
    """Root mean square distance between these peaks and their predicted positions, pixels."""

    mosaicity: float = 0.0
    """η: the nodes grow with the distance from the origin, their radius being `profile_radius` + η|q|."""

    @property
    def real_basis(self) -> NDArray[np.float64]:
        """Rows a, b, c in the laboratory frame, (3, 3), Å: hkl = real_basis @ q."""
        return np.asarray(np.linalg.inv(self.basis), dtype=np.float64)

    def q(self, hkl: NDArray[np.integer]) -> NDArray[np.float64]:
        """Positions of reciprocal lattice points, (n, 3) → (n, 3), 1/Å, laboratory frame."""
        return hkl @ self.basis.T
