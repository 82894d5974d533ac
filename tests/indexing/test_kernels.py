"""Indexing kernels against plain numpy."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from sfxlab.crystal import UnitCell, parameters_of
from sfxlab.indexing import kernels, target_of

seeds = st.integers(0, 10_000)


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_direction_scores_are_those_of_the_formula(seed):
    rng = np.random.default_rng(seed)
    q = rng.uniform(-0.3, 0.3, (3, 40)).astype(np.float32)
    directions = kernels.hemisphere(50)
    values = 60.0 * directions.astype(float) @ q
    expected = np.maximum(0, 1 - 16 * (values - np.rint(values)) ** 2).sum(axis=1)
    np.testing.assert_allclose(kernels.score_directions(q, 60.0, directions), expected, rtol=2e-3, atol=2e-3)


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_rotation_scores_are_those_of_the_turned_lattice(seed):
    rng = np.random.default_rng(seed)
    q = rng.uniform(-0.2, 0.2, (3, 30)).astype(np.float32)
    basis = target_of(UnitCell(40, 52, 63, 81, 94, 102)).basis
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    scores, start = kernels.score_rotations(q, basis, 1, direction, 12)
    np.testing.assert_allclose(start[1] / np.linalg.norm(start[1]), direction, atol=1e-12)
    for i in range(12):
        turned = Rotation.from_rotvec(2 * np.pi * i / 12 * direction).apply(start)
        np.testing.assert_allclose(kernels.rotate(start, direction, 2 * np.pi * i / 12), turned, atol=1e-9)
        hkl = turned @ q.astype(float)
        expected = np.maximum(0, 1 - 10 * ((hkl - np.rint(hkl)) ** 2).sum(axis=0)).sum()
        assert abs(scores[i] - expected) < 0.02


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_index_refinement_finds_the_lattice_that_made_the_peaks(seed):
    rng = np.random.default_rng(seed)
    target = target_of(UnitCell(50, 60, 70, lattice_type="orthorhombic")).basis
    true = Rotation.random(rng=rng).apply(target * [[1.004], [0.997], [1.002]])
    hkl = rng.integers(-8, 9, (80, 3))
    q = np.ascontiguousarray((np.linalg.inv(true) @ hkl.T).astype(np.float32))
    start = Rotation.from_rotvec(rng.normal(0, 0.004, 3)).apply(true)
    found = start
    for _ in range(4):
        found = kernels.refine_indices(q, 80, found, target, 0.3, 0.01)
    np.testing.assert_allclose(found, true, atol=0.02)


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_the_nearest_rotation_of_a_rotation_is_itself(seed):
    rotation = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    np.testing.assert_allclose(kernels.nearest_rotation(1.3 * rotation), rotation, atol=1e-9)


def test_the_reduced_cell_of_a_rhombohedral_lattice_is_that_of_methods():
    """METHODS.md A11: a = b = 66.2, c = 150.2 H is a = 62.99 Å, α = 63.40° R."""
    target = target_of(
        UnitCell(66.2, 66.2, 150.2, 90, 90, 120, lattice_type="rhombohedral", centring="H", unique_axis="c")
    )
    np.testing.assert_allclose(parameters_of(target.basis), [62.988, 62.988, 62.988, 63.403, 63.403, 63.403], atol=1e-3)
    np.testing.assert_allclose(target.conventional(target.basis), target.cell.reciprocal_basis, atol=1e-12)
