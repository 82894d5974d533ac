"""Which reflections are free of refinement: by the reflection itself, so that data sets share their free set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import PointGroup, point_group_of
from sfxlab.errors import MergeError
from sfxlab.interop.mtz import read_mtz

LABELS = ("FreeR_flag", "FREE", "R-free-flags", "FREER")
"""Labels that programs give to the column, the first being ours."""
N_SETS = 20
"""Sets of about the same size, numbered from 0; 0 is the free one, 5 % of all, as CCP4 has it."""


def free_flags(hkl: NDArray[np.int32], group: PointGroup, seed: int = 0) -> NDArray[np.int32]:
    """Number of the set of each reflection, 0 to 19, (n,).

    It follows from the indices in the asymmetric unit of the Laue group and `seed` alone: every data set of the same
    crystal form, however complete, has the same free reflections, and Friedel mates are in the same set.
    """
    asu = group.laue_group.asu(hkl).astype(np.int64) & 0xFFFF
    mixed = ((asu[:, 0] << 32) | (asu[:, 1] << 16) | asu[:, 2]).astype(np.uint64) ^ np.uint64((seed & 0xFFFF) << 48)
    # The finalizer of splitmix64 (Steele, Lea & Flood 2014): neighbours become unrelated.
    mixed += np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) % np.uint64(N_SETS)).astype(np.int32)


def flags_from(path: str | Path, hkl: NDArray[np.int32], group: PointGroup) -> NDArray[np.float64]:
    """The flags that reflections have in an MTZ file, (n,).

    Those that it lacks get flags by `free_flags` in the file's own convention: shares and values as there.

    Raises `MergeError` where the file has no such column, or its Laue group is another one.
    """
    table = read_mtz(path)
    label = next((name for name in LABELS if name in table.columns), None)
    if label is None:
        raise MergeError(
            "the MTZ file has no free-R flags", path=path, found=", ".join(table.columns), expected=" or ".join(LABELS)
        )
    laue = group.laue_group
    theirs = point_group_of(table.space_group, friedel=True)
    if theirs != laue:
        raise MergeError(
            "the free-R flags are those of another symmetry", path=path, found=theirs.name, expected=laue.name
        )
    values = table.columns[label]
    known = {
        tuple(index): value
        for index, value in zip(laue.asu(table.hkl).tolist(), values.tolist(), strict=True)
        if np.isfinite(value)
    }
    if not known:
        raise MergeError("the free-R flags of the MTZ file are all missing", path=path, place=label)
    flags = np.array([known.get(tuple(index), np.nan) for index in laue.asu(hkl).tolist()])
    missing = ~np.isfinite(flags)
    kinds, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    # A number from 0 to 1 for each reflection, cut where the shares of the file's own values are.
    share = (N_SETS * free_flags(hkl, group, 1).astype(float) + free_flags(hkl, group, 2) + 0.5) / N_SETS**2
    edges = np.cumsum(counts) / counts.sum()
    flags[missing] = kinds[np.minimum(np.searchsorted(edges, share[missing]), len(kinds) - 1)]
    return flags
