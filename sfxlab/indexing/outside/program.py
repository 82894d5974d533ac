"""The way of a chunk's hits through an outside program and back."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from sfxlab.crystal import UnitCell
from sfxlab.errors import RecipeError
from sfxlab.geometry import HC_EV_ANGSTROM, Detector, Panel
from sfxlab.indexing.indexer import Spots
from sfxlab.indexing.judging import judged
from sfxlab.indexing.known_cell import IndexingResult
from sfxlab.indexing.outside.sandbox import Ended
from sfxlab.indexing.reasons import Reason
from sfxlab.indexing.target import target_of
from sfxlab.peaks import Peaks
from sfxlab.recipe import IndexingRecipe

Bases = list[NDArray[np.float64]]
"""Columns a*, b*, c* of primitive cells in the laboratory frame, each (3, 3), 1/Å."""
_TRIAL_PEAKS, _TRIAL_REACH, _TRIAL_ENERGY = 60, 0.4, 10_000.0
"""Of a made-up still: peaks, largest 1/d in 1/Å, photon energy in eV."""


@dataclass(frozen=True)
class Answers:
    """What a program made of some frames."""

    bases: Mapping[int, Bases]
    """By the number of the frame among those asked about; those without an answer are not in it."""
    ended: Ended
    refused: Mapping[int, str] = field(default_factory=dict)
    """What a program said went wrong with single frames."""


@dataclass(frozen=True)
class OutsideProgram:
    """An indexer that is a program of the user's."""

    name: str
    version: Callable[[IndexingRecipe], str]
    """The version that the program says it is. Raises `RecipeError` where there is no such program."""
    ask: Callable[[Sequence[Spots], UnitCell | None, IndexingRecipe], Answers]
    """Has the program index frames, in one call."""

    def __call__(self, frames: Sequence[Spots], cell: UnitCell | None, recipe: IndexingRecipe) -> list[IndexingResult]:
        """One result for each frame.

        Where the program ends before its time, or its time ends, each frame that it has not answered is asked about
        again by itself, so that only those have no lattice that are to blame.
        """
        asked = [number for number, spots in enumerate(frames) if len(spots.q) >= recipe.min_peaks]
        found: dict[int, Bases] = {}
        reasons: dict[int, str] = {}
        for these in (asked, *([number] for number in asked)) if len(asked) > 1 else (asked,):
            these = [number for number in these if number not in found and number not in reasons]
            if not these:
                continue
            answers = self.ask([frames[number] for number in these], cell, recipe)
            found |= {these[place]: bases for place, bases in answers.bases.items()}
            reasons |= {
                these[place]: Reason.PROGRAM_FAILED.because(f"{self.name}: {words}")
                for place, words in answers.refused.items()
            }
            if len(these) == 1 and these[0] not in found:
                reasons.setdefault(these[0], self._failure(answers.ended, recipe))
        return [
            IndexingResult((), reasons[number])
            if number in reasons
            else judged(spots.q, found.get(number, []), cell, recipe)
            for number, spots in enumerate(frames)
        ]

    def check(self, cell: UnitCell | None, recipe: IndexingRecipe) -> None:
        """Have it index made-up peaks, so that what is wrong with it shows before any work is done.

        Raises `RecipeError`.
        """
        version = self.version(recipe)
        answers = self.ask([_made_up(cell)], cell, recipe)
        if not answers.bases:
            words = answers.refused.get(0) or answers.ended.problem or self._failure(answers.ended, recipe)
            raise RecipeError(
                f"{self.name} does not work as it is called", place="indexing.method", found=words,
                expected=f"{version} indexes made-up peaks with '{recipe.method}'",
                remedy="check indexing.method, indexing.program_options and the limits of indexing",
            )  # fmt: skip

    def _failure(self, ended: Ended, recipe: IndexingRecipe) -> str:
        if ended.late:
            return Reason.TIME_LIMIT.because(f"{recipe.program_time_limit:g} s, {self.name} had not finished")
        return Reason.PROGRAM_FAILED.because(f"{self.name}: {ended.problem or 'it gave no answer'}")


def options(recipe: IndexingRecipe) -> list[str]:
    """The words of `program_options`. Raises `RecipeError`."""
    try:
        return shlex.split(recipe.program_options)
    except ValueError as error:
        raise RecipeError(
            "these options cannot be taken apart", place="indexing.program_options", found=str(error),
            expected="words as on a command line",
        ) from None  # fmt: skip


def _made_up(cell: UnitCell | None) -> Spots:
    """A still of a crystal of the cell, or of some other one."""
    panel = Panel("panel", 0, 0, 2000, 2000, (-0.1, -0.1, 0.1), (1e-4, 0.0, 0.0), (0.0, 1e-4, 0.0))
    detector, k = Detector((panel,), (2000, 2000), 0.1), _TRIAL_ENERGY / HC_EV_ANGSTROM
    target = target_of(cell or UnitCell(50, 60, 70, lattice_type="orthorhombic"))
    q = target.nodes.positions @ Rotation.from_rotvec([0.4, 1.1, -0.7]).as_matrix().T
    ray = (q + [0.0, 0.0, k])[np.linalg.norm(q, axis=1) < _TRIAL_REACH]
    length = np.linalg.norm(ray, axis=1)
    nearest = np.argsort(np.abs(length - k), kind="stable")[:_TRIAL_PEAKS]
    ray = ray[nearest] / length[nearest, None]
    ones, which = np.ones(len(ray), dtype=np.float32), np.zeros(len(ray), dtype=np.int16)
    fs, ss = (ray[:, :2] / ray[:, 2:] * 1000 + 1000).astype(np.float32).T
    q = detector.q(which, fs, ss, _TRIAL_ENERGY)
    resolution = np.linalg.norm(q, axis=1).astype(np.float32)
    peaks = Peaks(which, fs, ss, 100 * ones, 10 * ones, 10 * ones, resolution, 50 * ones, which + np.int16(4))
    return Spots(q, peaks, detector, _TRIAL_ENERGY)
