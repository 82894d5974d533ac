"""Whether few peaks bear out the lattice that was found in them, or others as well."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sfxlab.indexing.assignment import CLAIM, same_lattice
from sfxlab.indexing.fit_kernels import inverse, misfits, rotation_near
from sfxlab.indexing.orientation import oriented
from sfxlab.indexing.reasons import Reason
from sfxlab.indexing.search import find_lattice
from sfxlab.indexing.target import Target

FEW = 12
"""Lattices of fewer peaks are doubted."""
TURNED = math.radians(1.0)
MOST_TURNED = 0.08
"""Largest probability that a lattice is turned by more than `TURNED` against the true one."""
RIVALS = 3
"""Others that are looked for, at most."""
MARGIN = 1.0
"""log10 by which a lattice has to be less likely by chance than any other that explains half of its peaks or more."""
SPLIT = 0.9
"""Share of the peaks of a lattice near nodes of another one, turned by less than `TURNED`, that makes it part of it."""


def doubt(
    q: NDArray[np.float64],
    beam: NDArray[np.float64],
    own: NDArray[np.bool_],
    basis: NDArray[np.float64],
    error: float,
    log10_p: float,
    target: Target,
) -> str:
    """Why a lattice is doubtful, empty where it is not.

    `q` (3, n), 1/Å, innermost first, are the peaks that no other lattice explains, of which it explains its `own` (n,).
    `error` is the standard error of its orientation, radians.
    """
    n = int(np.count_nonzero(own))
    if n >= FEW:
        return ""
    turned = chance_of_turn(error, n)
    if not turned <= MOST_TURNED:
        return Reason.AMBIGUOUS.because(
            f"what {n} peaks tell of the orientation is off by more than {math.degrees(TURNED):g}° with a probability "
            f"of {turned:.0%}, at most {MOST_TURNED:.0%} wanted (standard error {math.degrees(error):.1f}°)"
        )
    known = basis[None]
    for _ in range(RIVALS):
        rival, rival_p = find_lattice(q, beam, known, target, may_be_loose=False)
        if rival_p > log10_p + MARGIN:
            break
        misfit = np.empty_like(q)
        misfits(q, beam, rival, misfit)
        explained = misfit[2] < CLAIM
        if np.count_nonzero(explained & own) >= n / 2:
            settled, _ = oriented(np.ascontiguousarray(q[:, explained]), beam, rival, target.basis)
            if not same_lattice(basis, settled):
                return Reason.AMBIGUOUS.because(
                    f"another lattice suits {np.count_nonzero(explained)} peaks about as well as the best one suits "
                    f"{n} of them (log10 of chance {rival_p:.1f} and {log10_p:.1f})"
                )
        known = np.concatenate([known, rival[None]])
    return ""


def is_part(
    own: NDArray[np.float64], beam: NDArray[np.float64], basis: NDArray[np.float64], other: NDArray[np.float64]
) -> bool:
    """Whether a lattice with its own peaks (3, n) is another one once more: a block of a split crystal, say."""
    whole = np.rint(other @ inverse(basis))
    if round(abs(np.linalg.det(whole))) != 1:
        return False
    rotation = rotation_near(inverse(whole @ basis) @ other)
    misfit = np.empty_like(own)
    misfits(own, beam, other, misfit)
    small = np.trace(rotation) > 1 + 2 * math.cos(TURNED)
    return bool(small and np.mean(misfit[2] < CLAIM) > SPLIT)


def chance_of_turn(error: float, n: int) -> float:
    """Probability that the orientation that n peaks tell is off by more than `TURNED`, given its standard error.

    Most of the error is that of two angles across the beam. As the scatter that it comes from is itself an estimate
    with n − 2 degrees of freedom, they have a t distribution.
    """
    if n <= 2:
        return 1.0
    variance = 0.5 * error * error
    return float((1.0 + TURNED**2 / ((n - 2) * variance)) ** (-0.5 * (n - 2)))
