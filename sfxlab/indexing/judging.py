"""Lattices that others propose, judged as our own are."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from sfxlab.crystal import UnitCell
from sfxlab.indexing import fit_kernels
from sfxlab.indexing.acceptance import SHARP_TOLERANCES, chance
from sfxlab.indexing.assignment import Assignment, assign
from sfxlab.indexing.known_cell import IndexingResult, Lattice
from sfxlab.indexing.known_cell_kernels import FIRST_SHELL, mean_reach
from sfxlab.indexing.objection import objection
from sfxlab.indexing.reasons import Reason
from sfxlab.indexing.significance import NOT_TURNED, log10_chance
from sfxlab.indexing.target import Target, target_of
from sfxlab.recipe import IndexingRecipe

LOG10_FREE_TRIALS = 13.0
"""log10 of the number of independent lattices that a search for any cell tries: our own largest one."""


def judged(
    q: NDArray[np.float64], bases: Iterable[NDArray[np.float64]], cell: UnitCell | None, recipe: IndexingRecipe
) -> IndexingResult:
    """The lattices among those proposed that peaks q, (n, 3), 1/Å, bear out, with the peaks that each explains.

    `bases` have columns a*, b*, c* of primitive cells, (3, 3), 1/Å, in any setting, the best first. Each is brought to
    the setting of `cell`, or to its reduced cell where that is None, fitted to the peaks that those before it leave,
    and has to pass the tests of our own indexer. Lattices after the first have its cell where none is given.
    """
    if len(q) < recipe.min_peaks:
        return IndexingResult((), Reason.TOO_FEW_PEAKS.because(f"{len(q)}, at least {recipe.min_peaks} needed"))
    order = np.argsort(np.linalg.norm(q, axis=1), kind="stable")
    ordered = np.ascontiguousarray(q[order].T, dtype=np.float64)
    beam = fit_kernels.beam_of(ordered)
    target = None if cell is None else _target(cell)
    shares: Assignment | None = None
    chances: list[float] = []
    reason = Reason.NO_LATTICE.because(f"none was found in {len(q)} peaks")
    for number, basis in enumerate(bases):
        left = ordered if shares is None else np.ascontiguousarray(ordered[:, shares.owner < 0])
        if left.shape[1] < recipe.min_peaks or len(chances) == recipe.max_lattices:
            break
        wanted = target or _reduced(basis)
        fitted = fit_kernels.fit_growing(
            left, beam, _in_setting_of(wanted, basis), wanted.basis, FIRST_SHELL, np.empty_like(left)
        )
        log10_p = _log10_chance(left, beam, fitted, wanted, free=cell is None)
        refused = objection(left, beam, fitted, log10_p, wanted, recipe)
        if refused:
            reason = refused if number == 0 else reason
            continue
        target = wanted
        known = np.empty((0, 3, 3)) if shares is None else shares.bases
        shares = assign(ordered, beam, np.concatenate([known, fitted[None]]), target.basis, recipe.min_peaks)
        chances = [[*chances, log10_p][i] for i in shares.kept]
    if shares is None or target is None or not chances:
        return IndexingResult((), reason)
    return IndexingResult(
        tuple(
            Lattice(target.conventional(basis), np.sort(order[shares.owner == i]), chances[i], shares.rms(i))
            for i, basis in enumerate(shares.bases)
        )
    )


def _log10_chance(
    q: NDArray[np.float64], beam: NDArray[np.float64], basis: NDArray[np.float64], target: Target, *, free: bool
) -> float:
    """log10 of how often as good a fit is had by chance, for peaks (3, n)."""
    misfit = np.empty_like(q)
    fit_kernels.misfits(q, beam, basis, misfit)
    if free:
        return chance(misfit[2], LOG10_FREE_TRIALS, SHARP_TOLERANCES)
    factorials = gammaln(np.arange(q.shape[1] + 1) + 1.0)
    rotations = len(target.rotations)
    value, _, _ = log10_chance(misfit, target.volume, mean_reach(q), rotations, True, factorials, NOT_TURNED)
    return float(value)


def _reduced(basis: NDArray[np.float64]) -> Target:
    """A target that is the reduced cell of a basis (columns a*, b*, c*) itself."""
    return target_of(UnitCell.of_basis(np.asarray(np.linalg.inv(target_of(UnitCell.of_basis(basis)).basis))))


def _in_setting_of(target: Target, basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Real axes (rows, Å) of the lattice of a basis (columns a*, b*, c*), chosen like those of the target."""
    axes = target_of(UnitCell.of_basis(basis)).to_reduced @ np.linalg.inv(basis)
    return target.closest(axes if np.linalg.det(axes) > 0 else -axes)


@lru_cache(maxsize=8)
def _target(cell: UnitCell) -> Target:
    """The target of a run is the same for all its frames."""
    return target_of(cell)
