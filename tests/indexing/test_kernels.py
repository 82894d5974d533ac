"""Indexing kernels against plain numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from scipy.special import gammaln
from scipy.stats import binom

from sfxlab.crystal import UnitCell, parameters_of
from sfxlab.indexing import fit_kernels, search_kernels, significance, target_of

K = np.array([0.0, 0.0, 0.75])
seeds = st.integers(0, 10_000)


def on_sphere(rng, n, reach=0.3):
    """Points (3, n) on the Ewald sphere, 1/Å."""
    x, y = rng.uniform(-reach, reach, (2, n))
    return np.array([x, y, np.sqrt(K[2] ** 2 - x**2 - y**2) - K[2]])


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_direction_scores_are_those_of_the_formula(seed):
    rng = np.random.default_rng(seed)
    q = rng.uniform(-0.3, 0.3, (3, 40)).astype(np.float32)
    directions, scores = search_kernels.hemisphere(50), np.empty(50, dtype=np.float32)
    search_kernels.score_directions(q, 30, 60.0, directions, scores)
    values = 60.0 * directions.astype(float) @ q[:, :30]
    expected = np.maximum(0, 1 - 16 * (values - np.rint(values)) ** 2).sum(axis=1)
    np.testing.assert_allclose(scores, expected, rtol=2e-3, atol=2e-3)


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_scores_of_bases_are_those_of_the_formula(seed):
    rng = np.random.default_rng(seed)
    q = rng.uniform(-0.2, 0.2, (3, 30)).astype(np.float32)
    basis = Rotation.random(rng=rng).apply(target_of(UnitCell(40, 52, 63, 81, 94, 102)).basis)
    hkl = basis @ q.astype(float)
    expected = np.maximum(0, 1 - 10 * ((hkl - np.rint(hkl)) ** 2).sum(axis=0)).sum()
    assert abs(search_kernels.score_basis(q, 30, basis) - expected) < 0.02


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_axes_that_are_a_little_longer_than_thought_are_put_together_to_their_lattice(seed):
    rng = np.random.default_rng(seed)
    target = target_of(UnitCell(50, 60, 70, 80, 95, 103))
    true = Rotation.random(rng=rng).apply(target.basis) * [[1.03], [0.975], [1.02]]
    hkl = rng.integers(-4, 5, (40, 3))
    hkl = hkl[np.abs(hkl).sum(axis=1) > 0]
    q = np.ascontiguousarray((np.linalg.inv(true) @ hkl.T).astype(np.float32))
    q = q[:, np.argsort((q**2).sum(axis=0))]
    vectors = [
        search_kernels.axis_vectors(q, q.shape[1], length, search_kernels.hemisphere(4000), 0.03, 20)
        for length in target.lengths
    ]
    for found, axis in zip(vectors, true, strict=True):
        assert min(np.linalg.norm(sign * found - axis, axis=1).min() for sign in (1, -1)) < 0.5
    bases, scores = np.empty((4, 3, 3)), np.empty(4)
    n = search_kernels.search_triples(
        q, q.shape[1], target.basis, *vectors, target.like_axes, 0.12, 5000, bases, scores, 0
    )
    assert n > 0
    change = bases[0] @ np.linalg.inv(true)
    np.testing.assert_allclose(change, np.rint(change), atol=0.02)
    assert scores[0] > 0.9 * q.shape[1]


@pytest.mark.parametrize(
    ("cell", "like"),
    [(UnitCell(50, 50, 70), [0, 0, 2]), (UnitCell(50, 60, 70), [0, 1, 2]), (UnitCell(60, 60, 60), [0, 0, 0])],
)
def test_axes_that_rotations_turn_into_each_other_are_alike(cell, like):
    np.testing.assert_array_equal(target_of(cell).like_axes, like)


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_the_best_directions_are_the_best_of_all_that_are_apart(seed):
    rng = np.random.default_rng(seed)
    directions, scores = search_kernels.hemisphere(400), rng.random(400).astype(np.float32)
    expected = []
    for i in np.argsort(-scores, kind="stable"):
        if all(abs(directions[i] @ directions[j]) <= np.cos(0.2) for j in expected):
            expected.append(i)
    np.testing.assert_array_equal(search_kernels.best_directions(scores, directions, 8, 0.2), expected[:8])


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_pairs_of_peaks_give_the_orientation_of_their_lattice(seed):
    rng = np.random.default_rng(seed)
    target = target_of(UnitCell(50, 60, 70, lattice_type="orthorhombic"))
    true = Rotation.random(rng=rng).apply(target.basis)
    hkl = rng.integers(-4, 5, (30, 3))
    hkl = hkl[np.abs(hkl).sum(axis=1) > 0]
    q = np.ascontiguousarray((np.linalg.inv(true) @ hkl.T).astype(np.float32))
    bases, scores, nodes = np.empty((4, 3, 3)), np.empty(4), target.nodes
    n = search_kernels.search_pairs(
        q, 0.75, 1, 10, q.shape[1], target.basis, nodes.positions, nodes.lengths, nodes.representatives,
        1_000_000, bases, scores, 0,
    )  # fmt: skip
    assert n > 0
    assert scores[0] > 0.9 * q.shape[1]
    assert np.all(np.diff(scores[:n]) <= 0)


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_misfits_are_those_of_plain_vectors(seed):
    rng = np.random.default_rng(seed)
    q, basis, out = on_sphere(rng, 25), target_of(UnitCell(40, 52, 63, 81, 94, 102)).basis, np.empty((3, 25))
    fit_kernels.misfits(q, K, basis, out)
    hkl = basis @ q
    miss = np.linalg.inv(basis) @ np.rint(hkl) - q
    normal = (q + K[:, None]) / np.linalg.norm(q + K[:, None], axis=0)
    across = (miss * normal).sum(axis=0)
    np.testing.assert_allclose(out[1], np.abs(across), atol=1e-12)
    np.testing.assert_allclose(out[0], np.linalg.norm(miss - across * normal, axis=0), atol=1e-9)
    np.testing.assert_allclose(out[2], np.abs(hkl - np.rint(hkl)).max(axis=0), atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_the_beam_follows_from_peaks_on_the_sphere(seed):
    np.testing.assert_allclose(fit_kernels.beam_of(on_sphere(np.random.default_rng(seed), 12)), K, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_fits_find_the_lattice_that_made_the_peaks(seed):
    rng = np.random.default_rng(seed)
    target = target_of(UnitCell(50, 60, 70, lattice_type="orthorhombic")).basis
    turned = Rotation.random(rng=rng).apply(target)
    true = turned * [[1.004], [0.997], [1.002]]
    hkl = rng.integers(-5, 6, (80, 3))
    start = Rotation.from_rotvec(rng.normal(0, 0.004, 3)).apply(turned)
    rotated, found = start, start
    q = np.linalg.inv(turned) @ hkl.T
    for _ in range(5):
        rotated = fit_kernels.turned(q, K, 80, rotated, 0.3)
    np.testing.assert_allclose(rotated, turned, atol=1e-4)
    q = np.linalg.inv(true) @ hkl.T
    for _ in range(6):
        found = fit_kernels.strained(q, K, 80, found, target, 0.3, 1e-4)
    np.testing.assert_allclose(found, true, atol=1e-3)


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_the_nearest_rotation_is_that_of_the_singular_value_decomposition(seed):
    rng = np.random.default_rng(seed)
    matrix = Rotation.random(rng=rng).as_matrix() @ (np.eye(3) + rng.uniform(-0.05, 0.05, (3, 3)))
    u, _, vt = np.linalg.svd(matrix)
    np.testing.assert_allclose(fit_kernels.rotation_near(matrix), u @ vt, atol=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 150), st.floats(0.02, 0.3), st.data())
def test_tails_are_those_of_the_binomial_distribution(n, p, data):
    least = data.draw(st.integers(0, n))
    expected = binom.logsf(least - 1, n, p) / np.log(10)
    found = significance.log10_tail(least, n, p, gammaln(np.arange(n + 1) + 1.0))
    assert abs(found - expected) < 1e-3 or (least <= n * p and found == 0.0)


SYSTEMS = [
    (50, 50, 50, 90, 90, 90, 24), (50, 50, 70, 90, 90, 90, 8), (50, 50, 70, 90, 90, 120, 12),
    (50, 60, 70, 90, 90, 90, 4), (50, 60, 70, 90, 100, 90, 2), (50, 60, 70, 80, 95, 103, 1),
]  # fmt: skip


@pytest.mark.parametrize("parameters", SYSTEMS)
def test_lattices_have_as_many_rotations_as_their_system(parameters):
    target = target_of(UnitCell(*parameters[:6]))
    assert len(target.rotations) == parameters[6]
    np.testing.assert_array_equal(target.rotations[0], np.eye(3))
    nodes = target.nodes
    assert abs(len(nodes.lengths) / len(nodes.representatives) / parameters[6] - 1) < 0.35


def test_the_reduced_cell_of_a_rhombohedral_lattice_is_that_of_methods():
    """METHODS.md A11: a = b = 66.2, c = 150.2 H is a = 62.99 Å, α = 63.40° R."""
    target = target_of(
        UnitCell(66.2, 66.2, 150.2, 90, 90, 120, lattice_type="rhombohedral", centring="H", unique_axis="c")
    )
    np.testing.assert_allclose(parameters_of(target.basis), [62.988, 62.988, 62.988, 63.403, 63.403, 63.403], atol=1e-3)
    np.testing.assert_allclose(target.conventional(target.basis), target.cell.reciprocal_basis, atol=1e-12)
