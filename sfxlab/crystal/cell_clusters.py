"""Which cell the lattices of many frames share, each measured without knowing it.

Two lattices are compared by the smallest strain that takes one to the other, over all changes of basis. Unlike cell
parameters it has no jumps where the reduced cell of a lattice changes its kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.stats import binom

from sfxlab.crystal.cell import UnitCell, parameters_of
from sfxlab.crystal.lattice_symmetry import LatticeSymmetry, averaged, lattice_symmetries, niggli_basis

MAX_STRAIN = 0.04
"""Lattices further apart than this strain are different. Cells of single frames differ by some 0.01."""
MAX_OBLIQUITY = 5.0
"""Symmetries beyond this are not worth a look, degrees."""
SIGNIFICANT = 2.5
"""A symmetry is broken where the mean strain against it is so many times what single frames scatter by.

Equal axes are never found equal, and the reduced cell sorts them by length: the mean of |x| is 0.8 of the deviation of
x, and 1.3 times its own.
"""
MOST_CHANCE = 1e-3
"""A symmetry is broken, too, where its own chance of as few lattices near it is less than this."""
SYSTEMATIC = 4e-3
"""Strain that an error of the detector's geometry may give to all crystals of one orientation alike."""


@dataclass(frozen=True)
class SymmetryEvidence:
    """How well a symmetry suits the lattices of a cluster."""

    symmetry: LatticeSymmetry
    strain: float
    """Mean strain that the symmetry takes away, given the symmetry below it."""
    scatter: float
    """Scatter of single frames in the same strain, at least what errors of the geometry may leave of it."""
    chance: float
    """Probability that as few lattices would be near the symmetry if they had it."""
    accepted: bool


@dataclass(frozen=True)
class CellCluster:
    """Lattices that are alike, their mean and its symmetry."""

    members: NDArray[np.int64]
    """Positions of the lattices in what was given, (n,)."""
    cell: UnitCell
    """The conventional cell of the mean."""
    deviation: NDArray[np.float64]
    """Robust standard deviation of a, b, c (Å), α, β, γ (degrees) of single lattices in the conventional axes, (6,)."""
    symmetries: tuple[SymmetryEvidence, ...]
    """From triclinic upwards; the last accepted one is that of `cell`."""


def cell_clusters(bases: NDArray[np.float64]) -> list[CellCluster]:
    """Clusters of primitive lattices, (n, 3, 3), rows in Å, the largest first.

    The earlier lattices found clusters, so the best ones should come first.
    """
    reduced = np.array([niggli_basis(basis) for basis in bases]).reshape(-1, 3, 3)
    centres: list[NDArray[np.float64]] = []
    for basis in reduced:
        if not any(lattice_strain(centre, basis)[0] < MAX_STRAIN for centre in centres):
            centres.append(basis)
    clusters: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
    left = np.arange(len(reduced))
    for centre in _by_size(centres, reduced):
        metric = centre @ centre.T
        for _ in range(3):  # the mean moves as members join
            centre = niggli_basis(np.asarray(np.linalg.cholesky(metric), dtype=np.float64))
            strains, images = _compared(centre, reduced[left])
            near = strains < MAX_STRAIN
            if not near.any():
                break
            metric = np.median(images[near] @ images[near].transpose(0, 2, 1), axis=0)
        if near.any():
            clusters.append((left[near], images[near]))
            left = left[~near]
    clusters.sort(key=lambda cluster: -len(cluster[0]))
    return [_described(members, images) for members, images in clusters]


def lattice_strain(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """The smallest strain (root of the sum of its squares) that takes one reduced lattice to another.

    Both are rows in Å. The second value is the other lattice in the basis that corresponds to that of the one.
    Infinite where the two have nothing in common.
    """
    strain, change = _nearest_change(one @ one.T, other @ other.T, np.asarray(np.linalg.inv(one), dtype=np.float64))
    return float(strain), change @ other


@njit(cache=True, nogil=True)
def _nearest_change(
    wanted: NDArray[np.float64], metric: NDArray[np.float64], inverse: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """The integer matrix M of determinant 1, entries within ±2, for which M G Mᵀ comes nearest to a wanted metric.

    Nearness is |½ B⁻¹ (M G Mᵀ − W) B⁻ᵀ|, B with B Bᵀ = W the wanted basis and `inverse` its inverse.
    """
    loose = 0.3  # in squared lengths
    vectors = np.empty((3, 125, 3))
    counts = np.zeros(3, dtype=np.int64)
    vector = np.empty(3)
    for i in range(-2, 3):
        for j in range(-2, 3):
            for k in range(-2, 3):
                vector[0], vector[1], vector[2] = i, j, k
                square = (vector * (metric @ vector)).sum()
                for axis in range(3):
                    if abs(square - wanted[axis, axis]) < loose * wanted[axis, axis]:
                        vectors[axis, counts[axis]] = vector
                        counts[axis] += 1
    best, best_change = np.inf, np.eye(3)
    change = np.empty((3, 3))
    for i in range(counts[0]):
        change[0] = vectors[0, i]
        along_a = metric @ change[0]
        for j in range(counts[1]):
            change[1] = vectors[1, j]
            limit = loose * np.sqrt(wanted[0, 0] * wanted[1, 1])
            if abs((change[1] * along_a).sum() - wanted[0, 1]) > limit:
                continue
            for k in range(counts[2]):
                change[2] = vectors[2, k]
                limit = loose * np.sqrt(wanted[0, 0] * wanted[2, 2])
                if abs((change[2] * along_a).sum() - wanted[0, 2]) > limit:
                    continue
                if abs(np.linalg.det(change) - 1) > 0.1:
                    continue
                difference = change @ metric @ change.T - wanted
                strain = 0.5 * np.sqrt(((inverse @ difference @ inverse.T) ** 2).sum())
                if strain < best:
                    best = strain
                    best_change = change.copy()
    return best, best_change


def _compared(
    centre: NDArray[np.float64], bases: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Strains (n,) of lattices (n, 3, 3) against a centre, and the lattices in its basis."""
    found = [lattice_strain(centre, basis) for basis in bases]
    return np.array([strain for strain, _ in found]), np.array([image for _, image in found]).reshape(-1, 3, 3)


def _by_size(centres: list[NDArray[np.float64]], bases: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Centres by the number of lattices near them, the largest first."""
    sizes = [sum(lattice_strain(centre, basis)[0] < MAX_STRAIN for basis in bases) for centre in centres]
    return [centres[i] for i in np.argsort(-np.array(sizes), kind="stable")]


def _described(members: NDArray[np.int64], images: NDArray[np.float64]) -> CellCluster:
    metrics = images @ images.transpose(0, 2, 1)
    mean = np.asarray(np.linalg.cholesky(np.median(metrics, axis=0)), dtype=np.float64)
    centre = niggli_basis(mean)
    change = np.rint(centre @ np.linalg.inv(mean))
    images = change @ images
    symmetries = _symmetries(centre, change @ metrics @ change.T, _n_orientations(centre, images))
    chosen = [evidence for evidence in symmetries if evidence.accepted][-1].symmetry
    parameters = np.array([parameters_of(chosen.axes @ image) for image in images])
    median = np.median(parameters, axis=0)
    deviation = 1.4826 * np.median(np.abs(parameters - median), axis=0)
    return CellCluster(members, chosen.cell, deviation, symmetries)


def _n_orientations(centre: NDArray[np.float64], images: NDArray[np.float64]) -> float:
    """How many orientations at random average as the orientations of these lattices do, 1 where all are the same.

    The mean of n random rotation matrices has the squared norm 3 / n.
    """
    mean = (np.linalg.inv(centre) @ images).mean(axis=0)
    return float(np.clip(3 / (mean**2).sum(), 1, len(images)))


def _symmetries(
    centre: NDArray[np.float64], metrics: NDArray[np.float64], n_orientations: float
) -> tuple[SymmetryEvidence, ...]:
    """Symmetries of the mean lattice (rows, Å, Niggli-reduced), judged by the metrics of its members, (n, 3, 3)."""
    found = list(lattice_symmetries(centre, MAX_OBLIQUITY))
    inverse = np.linalg.inv(centre)
    evidence = [SymmetryEvidence(found[0], 0.0, 0.0, 1.0, True)]
    for lower, higher in pairwise(found):
        # What the higher symmetry takes away from what the lower one leaves.
        broken = averaged(metrics, lower.group) - averaged(metrics, higher.group)
        strains = 0.5 * inverse @ broken @ inverse.T
        mean = np.median(strains, axis=0)
        scatter = 1.4826 * float(np.median(np.sqrt(((strains - mean) ** 2).sum(axis=(1, 2)))))
        systematic = float(SYSTEMATIC / np.sqrt(n_orientations))
        strain = float(np.sqrt((mean**2).sum()))
        chance = 1.0
        if len(higher.group) == 2 * len(lower.group) and strain > SIGNIFICANT * systematic:
            chance = _chance_of_symmetry((strains * mean).sum(axis=(1, 2)))
        scatter = max(scatter, systematic)
        accepted = evidence[-1].accepted and strain < SIGNIFICANT * scatter and chance > MOST_CHANCE
        evidence.append(SymmetryEvidence(higher, strain, scatter, chance, accepted))
    return tuple(evidence)


def _chance_of_symmetry(strains: NDArray[np.float64]) -> float:
    """Probability of as few lattices near a symmetry as there are, if it holds, from strains along their mean, (n,).

    Each lattice was turned so that its strain is rather positive. Where the symmetry holds, strains of both signs were
    equally frequent and small ones more so than large ones, so that of those up to the median at least half are up to
    half of it; where it does not, lattices gather about the mean and leave a gap at 0. Many lattices tell the two
    apart even where single ones scatter nearly as much as the mean.
    """
    return float(binom.cdf(np.count_nonzero(strains < np.median(strains) / 2), len(strains), 0.25))
