"""What crystals say about the panels, as sums that can be added up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import Crystal, UnitCell, parameters_of, symmetrise
from sfxlab.detector_refinement.bodies import centres_of
from sfxlab.detector_refinement.kernels import add_crystal
from sfxlab.detector_refinement.stills import Part, Still
from sfxlab.diffraction.prediction import panel_inverses
from sfxlab.diffraction.refinement import allowed_strains
from sfxlab.diffraction.refinement_kernels import MIN_EXCITATION, least_squares, paired, residuals
from sfxlab.geometry import HC_EV_ANGSTROM, Detector

CELLS = 6
"""Along each side of a panel, for pictures of residuals."""
BINS, BIN = 500, 0.02
"""Of the histogram of distances: number and width, pixels."""
SPARE_PAIRS = 5
"""Pairs that a crystal needs more than it has parameters."""
FIRST_DISTANCE = 8.0
"""Peaks further than this from their prediction are never used, pixels."""
_CYCLES = 8


@dataclass(frozen=True)
class Pass:
    """How one pass over the crystals is made."""

    cell: UnitCell | None
    """What cells are restrained to; None for each crystal's own."""
    cell_deviation: float
    """Relative standard deviation of cells about it; 0 where all have exactly this cell."""
    pairing_distance: NDArray[np.float64]
    """Peaks further than this from their prediction are not used, pixels, by panel."""
    pixel: NDArray[np.float64]
    """Standard deviation of the positions of peaks, pixels, by panel."""
    largest_median: float = np.inf
    """Crystals whose median distance is larger are left out, pixels."""


@dataclass(frozen=True)
class Sums:
    """The reduced normal equations of moves of n panels, and residuals."""

    normal: NDArray[np.float64]
    """(6 n, 6 n)."""
    right: NDArray[np.float64]
    """(6 n,)."""
    n_pairs: NDArray[np.int64]
    """Peaks with a prediction on each panel, (n,)."""
    n_crystals: NDArray[np.int64]
    """Crystals that were used, and that were left out, (2,)."""
    distances: NDArray[np.int64]
    """How many pairs are how far apart, (n, BINS)."""
    residuals: NDArray[np.float64]
    """Sums over parts of panels of predicted − observed fs, ss (pixels) and their number, (n, CELLS, CELLS, 3)."""

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @staticmethod
    def none(n: int) -> Sums:
        """Of no crystals, for n panels."""
        return Sums(
            np.zeros((6 * n, 6 * n)), np.zeros(6 * n), np.zeros(n, np.int64), np.zeros(2, np.int64),
            np.zeros((n, BINS), np.int64), np.zeros((n, CELLS, CELLS, 3)),
        )  # fmt: skip

    @property
    def median_distance(self) -> float:
        """Median distance between peaks and predictions, pixels; NaN where there are none."""
        return self.distance_of(0.5)

    def distance_of(self, share: float) -> float:
        """What this share of the distances between peaks and predictions is below, pixels; NaN where there are none."""
        return float(_quantiles(self.distances.sum(axis=0)[None], share)[0])

    @property
    def median_distances(self) -> NDArray[np.float64]:
        """The same for each panel, (n,)."""
        return _quantiles(self.distances, 0.5)


def _quantiles(counts: NDArray[np.int64], share: float) -> NDArray[np.float64]:
    total = counts.cumsum(axis=1)
    wanted = share * total[:, -1]
    at = np.argmax(total >= np.maximum(wanted, 0.5)[:, None], axis=1)
    rows = np.arange(len(counts))
    inside = counts[rows, at]
    within = (wanted - (total[rows, at] - inside)) / np.maximum(inside, 1)
    return np.where(total[:, -1] > 0, (at + within) * BIN, np.nan)


def sums_of(part: Part, detector: Detector, settings: Pass) -> Sums:
    """The sums over the crystals of a part, each refined with this detector first."""
    sums = Sums.none(len(detector.panels))
    placed: dict[float, _Placed] = {}
    for still in part.stills():
        if still.crystals and still.offset not in placed:
            placed[still.offset] = _Placed.of(detector.moved(z=still.offset))
        for crystal in still.crystals:
            used = _add(sums, still, crystal, placed[still.offset], settings)
            sums.n_crystals[0 if used else 1] += 1
    return sums


@dataclass(frozen=True)
class _Placed:
    """A detector at the distance of some frames."""

    detector: Detector
    inverses: NDArray[np.float64]
    centres: NDArray[np.float64]

    @staticmethod
    def of(detector: Detector) -> _Placed:
        return _Placed(detector, panel_inverses(detector), centres_of(detector))


def added(sums: Iterable[Sums], n: int) -> Sums:
    """The sum for n panels, one after the other, so that the result does not depend on who made them when."""
    return sum(sums, Sums.none(n))


def _add(sums: Sums, still: Still, crystal: Crystal, placed: _Placed, settings: Pass) -> bool:
    """Add one crystal to the sums; whether it was good enough."""
    peaks, detector, inverses, k = still.peaks, placed.detector, placed.inverses, still.photon_energy / HC_EV_ANGSTROM
    panel, q = peaks.panel.astype(np.int64), detector.q(peaks.panel, peaks.fs, peaks.ss, still.photon_energy)
    bounds = detector.arrays.bounds[panel]
    place = np.stack([peaks.fs - bounds[:, 2], peaks.ss - bounds[:, 0]], axis=1).astype(np.float64)
    rotation, cell_basis, target, strains = _start(crystal, settings)
    amplitudes = np.ascontiguousarray(np.linalg.pinv(strains.reshape(len(strains), 9).T)).reshape(len(strains), 9)
    deviation, shift = max(settings.cell_deviation, 1e-9), np.zeros(2)

    def pairs() -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        return paired(q, panel, place, inverses, k, rotation @ cell_basis, shift, FIRST_DISTANCE)

    def near_pairs() -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        which, hkl = pairs()
        off = residuals(hkl, panel[which], place[which], inverses, k, rotation @ cell_basis, shift)
        near = np.hypot(off[:, 0], off[:, 1]) < settings.pairing_distance[panel[which]]
        return which[near], hkl[near]

    # The crystal is as it was found with the detector as it was, and does not fit the one of now yet.
    which, hkl = pairs()
    for _ in range(2):
        if len(which) < 3 + len(strains) + SPARE_PAIRS:
            return False
        rotation, cell_basis, shift = least_squares(
            hkl, panel[which], place[which], inverses, k, rotation, cell_basis, shift, 0, strains, target, amplitudes,
            deviation, _CYCLES,
        )  # fmt: skip
        which, hkl = near_pairs()
    if len(which) < 3 + len(strains) + SPARE_PAIRS:
        return False
    panel, place = panel[which], place[which]
    error = residuals(hkl, panel, place, inverses, k, rotation @ cell_basis, shift)
    distance = np.hypot(error[:, 0], error[:, 1])
    _count(sums, panel, place, error, distance, bounds[which])
    if not np.median(distance) <= settings.largest_median:
        return False
    excitation = max(1.4826 * float(np.median(np.abs(error[:, 2]))), MIN_EXCITATION)
    strain = target @ np.linalg.inv(cell_basis)
    add_crystal(
        hkl, panel, place, inverses, placed.centres, k, rotation, cell_basis, strains,
        amplitudes @ ((strain + strain.T) / 2 - np.eye(3)).ravel(), deviation, settings.pixel, excitation,
        sums.normal, sums.right,
    )  # fmt: skip
    return True


def _start(
    crystal: Crystal, settings: Pass
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Rotation and cell basis of a crystal, the reciprocal basis of its target, and the strains that it may have."""
    kind = crystal.cell if settings.cell is None else settings.cell
    own = kind.with_parameters(symmetrise(parameters_of(crystal.real_basis), kind)).reciprocal_basis
    target = own if settings.cell is None else settings.cell.reciprocal_basis
    cell_basis = own if settings.cell_deviation > 0 else target
    u, _, vt = np.linalg.svd(crystal.basis @ np.linalg.inv(cell_basis))
    rotation = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
    strains = np.zeros((0, 3, 3))
    if settings.cell_deviation > 0:
        strains = allowed_strains(kind, np.asarray(np.linalg.inv(cell_basis)))
    return np.ascontiguousarray(rotation), np.ascontiguousarray(cell_basis), np.ascontiguousarray(target), strains


def _count(
    sums: Sums, panel: NDArray[np.int64], place: NDArray[np.float64], error: NDArray[np.float64],
    distance: NDArray[np.float64], bounds: NDArray[np.int64],
) -> None:  # fmt: skip
    """Add pairs to what the pictures show."""
    size = np.stack([bounds[:, 3] - bounds[:, 2], bounds[:, 1] - bounds[:, 0]], axis=1)
    cell = np.clip((place / size * CELLS).astype(np.int64), 0, CELLS - 1)
    sums.n_pairs[:] += np.bincount(panel, minlength=len(sums.n_pairs))
    np.add.at(sums.distances, (panel, np.minimum((distance / BIN).astype(np.int64), BINS - 1)), 1)
    rows = np.column_stack([error[:, :2], np.ones(len(error))])
    np.add.at(sums.residuals, (panel, cell[:, 1], cell[:, 0]), rows)
