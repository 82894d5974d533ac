"""Crystals indexed as they should be, once the indexing ambiguity is resolved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import Crystal
from sfxlab.crystal.cell import parameters_of
from sfxlab.integration import Reflections
from sfxlab.merging.ambiguity import Ambiguity
from sfxlab.pipeline import FrameResult


def reindexed(results: Iterable[FrameResult], found: Ambiguity) -> Iterator[FrameResult]:
    """Results of frames with hkl' = M hkl and basis' = basis M⁻¹ by the operator M of each crystal.

    Crystals that are not resolved are left out; frames stay, as hits where no crystal is left.
    """
    rows = {(crystal.path, crystal.event, crystal.number): row for row, crystal in enumerate(found.crystals)}
    for result in results:
        crystals, reflections = [], []
        for number, (crystal, own) in enumerate(zip(result.crystals, result.reflections, strict=True)):
            row = rows.get((result.id.path, result.id.event, number))
            if row is None or not found.resolved[row]:
                continue
            matrix = found.operators.matrices[found.operator[row]]
            crystals.append(_turned(crystal, matrix))
            reflections.append(_renamed(own, matrix))
        lost = bool(result.crystals) and not crystals
        yield replace(
            result, crystals=tuple(crystals), reflections=tuple(reflections),
            status="hit" if lost else result.status,
            reason="the indexing ambiguity is not resolved" if lost else result.reason,
        )  # fmt: skip


def _turned(crystal: Crystal, matrix: NDArray[np.int32]) -> Crystal:
    basis = np.asarray(crystal.basis @ np.linalg.inv(matrix), dtype=np.float64)
    return replace(
        crystal,
        basis=basis,
        cell=crystal.cell.with_parameters(parameters_of(np.asarray(np.linalg.inv(basis), dtype=np.float64))),
    )


def _renamed(reflections: Reflections, matrix: NDArray[np.int32]) -> Reflections:
    hkl = np.stack([reflections.h, reflections.k, reflections.l], axis=1) @ matrix.T
    h, k, l = np.ascontiguousarray(hkl.T, dtype=np.int32)  # noqa: E741  the field's name for it
    return replace(reflections, h=h, k=k, l=l)
