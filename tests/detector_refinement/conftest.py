"""Crystals on a detector of four tilted panels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sfxlab.crystal import Crystal, UnitCell
from sfxlab.detector_refinement import Still
from sfxlab.detector_refinement.bodies import moved
from sfxlab.diffraction import predict
from sfxlab.geometry import Detector, Panel
from sfxlab.peaks import Peaks

ENERGY, PIXEL = 9500.0, 1e-4
CELL = UnitCell(60, 60, 90, lattice_type="tetragonal", unique_axis="c")

MakeStills = Callable[..., tuple[Still, ...]]


@pytest.fixture(scope="session")
def cell() -> UnitCell:
    return CELL


@pytest.fixture(scope="session")
def flat_panels() -> Detector:
    """Two by two panels of 300 × 300 pixels around the beam."""
    panels = [
        Panel(
            f"p{2 * row + column}", 300 * row, 300 * column, 300, 300,
            (PIXEL * (310 * column - 305), PIXEL * (310 * row - 305), 0.09), (PIXEL, 0.0, 0.0), (0.0, PIXEL, 0.0),
        )
        for row in range(2) for column in range(2)
    ]  # fmt: skip
    return Detector(tuple(panels), (600, 600), 0.09)


@pytest.fixture(scope="session")
def four_panels(flat_panels: Detector) -> Detector:
    """The same, slightly turned and tilted."""
    turns = np.zeros((4, 6))
    turns[:, 3:] = np.radians(np.random.default_rng(1).uniform(-2, 2, (4, 3)))
    return moved(flat_panels, turns)


@pytest.fixture(scope="session")
def make_stills() -> MakeStills:
    """`make_stills(detector, n)`: hits with 0.2 pixels of noise, and the crystals as they truly are."""

    def make(detector: Detector, n: int, seed: int = 0, noise: float = 0.2) -> tuple[Still, ...]:
        rng = np.random.default_rng(seed)
        stills = []
        for _ in range(n):
            crystal = Crystal(CELL, Rotation.random(rng=rng).as_matrix() @ CELL.reciprocal_basis, 0.0008)
            spots = predict(crystal, detector, ENERGY)
            spots = spots[np.sort(rng.permutation(len(spots))[:60])]
            m = len(spots)
            one = np.ones(m, np.float32)
            fs, ss = ((v + rng.normal(0, noise, m)).astype(np.float32) for v in (spots.fs, spots.ss))
            q = spots.resolution.astype(np.float32)
            peaks = Peaks(spots.panel, fs, ss, one, one, one, q, one, one.astype(np.int16))
            stills.append(Still(peaks, ENERGY, (crystal,)))
        return tuple(stills)

    return make
