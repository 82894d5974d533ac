"""Decoys: peaks that hold no lattice, and what an indexer makes of them, METHODS.md section 4.7."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta


@dataclass(frozen=True)
class DecoyCount:
    """How many decoys were indexed."""

    tried: int
    accepted: int

    @property
    def rate(self) -> float:
        """Share of hits that would be indexed if none held a lattice, NaN without decoys."""
        return self.accepted / self.tried if self.tried else float("nan")

    @property
    def limit(self) -> float:
        """The rate is below this with 95 % confidence (Clopper and Pearson 1934)."""
        if self.accepted == self.tried:
            return 1.0
        return float(beta.ppf(0.95, self.accepted + 1, self.tried - self.accepted))

    def __str__(self) -> str:
        return f"{self.accepted} of {self.tried} ({self.rate:.1%}; below {self.limit:.1%} with 95 % confidence)"


def scrambled(q: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Peaks (n, 3), 1/Å, each turned about the beam (z) by an angle of its own.

    Their number and resolutions stay and so does the Ewald sphere they lie on; lattices go. The same seed, the same
    angles. Decoys are indexed as often as random peaks are. Crystals of another cell than the one that is given fit by
    accident more often; decoys say nothing about them.
    """
    angle = np.random.default_rng(seed).uniform(0, 2 * np.pi, len(q))
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.column_stack([q[:, 0] * cosine - q[:, 1] * sine, q[:, 0] * sine + q[:, 1] * cosine, q[:, 2]])
