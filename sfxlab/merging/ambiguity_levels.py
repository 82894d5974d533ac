"""Observations as the indexing ambiguity needs them: on one scale, with all the reflections that each one may be of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfxlab.crystal import resolution_of
from sfxlab.merging.ambiguity_kernels import fit_levels
from sfxlab.merging.observations import Observations
from sfxlab.merging.reindexing import ReindexingOperators
from sfxlab.merging.scaling import B_SPREAD
from sfxlab.merging.scaling_kernels import typical_sigma

_NEIGHBOURS = 40
_CYCLES = 4
_OFFSET, _WIDTH = 2048, 4096


@dataclass(frozen=True)
class LevelBlock:
    """Some crystals that follow each other, as the kernels take them."""

    crystals: slice
    offsets: NDArray[np.int64]
    index: NDArray[np.int32]
    level: NDArray[np.float64]
    sigma: NDArray[np.float64]


@dataclass(frozen=True)
class Levels:
    """Intensities of crystals in units of what is expected of each crystal at each resolution."""

    rows: NDArray[np.int32]
    """The row of `hkl` that each measured hkl is with each operator, (n_measured, n_operators)."""
    hkl: NDArray[np.int32]
    """Unique reflections in the asymmetric unit of the Laue group, sorted, (n_reflections, 3)."""
    counts: NDArray[np.int64]
    """Number of observations of each crystal, (n_crystals,)."""
    blocks: Callable[[], Iterator[LevelBlock]]
    """All observations, block by block."""

    def sample(self, crystals: NDArray[np.int64]) -> Levels:
        """Only these crystals, sorted by number, in memory."""
        parts = [_chosen(block, crystals) for block in self.blocks()]
        index, level, sigma = (np.concatenate([part[i] for part in parts]) for i in range(3))
        counts = self.counts[crystals]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        block = LevelBlock(slice(0, len(crystals)), offsets, index, level, sigma)
        return Levels(self.rows, self.hkl, counts, lambda: iter([block]))


def levels_of(observations: Observations, operators: ReindexingOperators) -> Levels:
    """Levels of observations that were gathered with the extra columns h, k and l.

    The observations' blocks have the columns measured, level and level_sigma then. As operators leave the resolution
    as it is, scales need not know them.
    """
    o = observations
    measured = _measured(o)
    images = [operators.laue_group.asu(operators.reindexed(measured, k)) for k in range(len(operators))]
    hkl, place = numbered(images)
    rows = np.ascontiguousarray(np.stack(place, axis=1))
    _put_levels(o, resolution_of(o.cell, measured))

    def blocks() -> Iterator[LevelBlock]:
        for block in o.blocks("measured", "level", "level_sigma"):
            columns = (block.columns[name] for name in ("measured", "level", "level_sigma"))
            yield LevelBlock(block.crystals, block.offsets, *columns)

    return Levels(rows, hkl, np.diff(o.offsets), blocks)


def _chosen(block: LevelBlock, crystals: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
    """Index, level and sigma of those of the crystals that are in the block."""
    mine = crystals[(crystals >= block.crystals.start) & (crystals < block.crystals.stop)] - block.crystals.start
    keep = np.repeat(np.isin(np.arange(len(block.offsets) - 1), mine), np.diff(block.offsets))
    return block.index[keep], block.level[keep], block.sigma[keep]


def _measured(o: Observations) -> NDArray[np.int32]:
    """The distinct hkl as crystals were indexed, (m, 3), and, as a column, which of them each observation is."""
    found = []
    for block in o.blocks("h", "k", "l"):
        distinct, which = distinct_hkl(np.stack([block.columns[name] for name in "hkl"], axis=1))
        found.append(distinct)
        o.columns.put(block.number, "measured", which)
    measured, place = numbered(found)
    for block in o.blocks("measured"):
        o.columns.put(block.number, "measured", place[block.number][block.columns["measured"]])
    return measured


def distinct_hkl(hkl: NDArray[np.integer]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The distinct among hkl (n, 3), (m, 3), and which of them each row is, (n,)."""
    # Arrow finds distinct values by hashing, many times faster than numpy by sorting.
    encoded = pa.array(_packed(hkl)).dictionary_encode()
    return _unpacked(encoded.dictionary.to_numpy()), encoded.indices.to_numpy()


def numbered(tables: Sequence[NDArray[np.int32]]) -> tuple[NDArray[np.int32], list[NDArray[np.int32]]]:
    """The distinct hkl of some tables, sorted, (m, 3), and for each table which of them its rows are."""
    keys = [_packed(hkl) for hkl in tables]
    known = np.unique(np.concatenate(keys))
    return _unpacked(known), [np.searchsorted(known, key).astype(np.int32) for key in keys]


def _packed(hkl: NDArray[np.integer]) -> NDArray[np.int64]:
    h, k, l = (hkl.astype(np.int64) + _OFFSET).T  # noqa: E741  the field's letters
    return np.asarray((h * _WIDTH + k) * _WIDTH + l)


def _unpacked(key: NDArray[np.int64]) -> NDArray[np.int32]:
    return (np.stack([key // _WIDTH**2, key // _WIDTH % _WIDTH, key % _WIDTH], axis=1) - _OFFSET).astype(np.int32)


def _put_levels(o: Observations, resolution: NDArray[np.float64]) -> None:
    """Fit scale and B factor of each crystal to the mean intensity by resolution, and that to the crystals."""
    shell, n_shells = _shells(o, resolution)
    s2 = resolution**2 / 4
    for block in o.blocks("measured"):
        sigma = np.empty(len(block))
        typical_sigma(block.offsets, resolution[block.columns["measured"]], block.sigma, sigma, _NEIGHBOURS)
        o.columns.put(block.number, "typical", sigma)
    mean = _first_means(o, shell, n_shells)
    log_scale, b_factor = np.zeros((2, len(o.crystals)))
    for _ in range(_CYCLES):
        sums = np.zeros((n_shells, 2))
        for block in o.blocks("measured", "typical"):
            index, mine = block.columns["measured"], block.crystals
            level, noise = np.empty((2, len(block)))
            fit_levels(
                block.offsets, s2[index], shell[index], block.intensity, block.columns["typical"], mean,
                log_scale[mine], b_factor[mine], B_SPREAD, level, noise, sums,
            )  # fmt: skip
            o.columns.put(block.number, "level", level)
            o.columns.put(block.number, "level_sigma", noise)
        mean = _floored(mean * sums[:, 0] / np.maximum(sums[:, 1], 1e-9))


def _shells(o: Observations, resolution: NDArray[np.float64]) -> tuple[NDArray[np.int32], int]:
    """Shells of resolution with about equally many measured hkl, (n_measured,), and how many there are."""
    n_shells = int(np.clip(len(resolution) // 200, 1, 20))
    edges = np.quantile(resolution, np.linspace(0, 1, n_shells + 1)[1:-1])
    return np.searchsorted(edges, resolution).astype(np.int32), n_shells


def _first_means(o: Observations, shell: NDArray[np.int32], n_shells: int) -> NDArray[np.float64]:
    """Mean intensity in each shell before anything is scaled; single hot pixels are cut to the rest."""
    sums, counts = np.zeros((2, n_shells))
    for block in o.blocks("measured"):
        of_block = shell[block.columns["measured"]]
        order = np.argsort(of_block, kind="stable")
        edges = np.searchsorted(of_block[order], np.arange(n_shells + 1))
        for i, (start, stop) in enumerate(pairwise(edges.tolist())):
            values = block.intensity[order[start:stop]]
            if len(values):
                sums[i] += np.minimum(values, np.percentile(values, 98)).sum()
                counts[i] += len(values)
    return _floored(sums / np.maximum(counts, 1))


def _floored(means: NDArray[np.float64]) -> NDArray[np.float64]:
    # Beyond the diffraction limit the mean may come out as zero or less; a scale cannot.
    highest = means.max()
    return np.maximum(means, 1e-3 * highest if highest > 0 else 1.0)
