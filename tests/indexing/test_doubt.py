"""How well few peaks tell an orientation, and when they do not tell it."""

import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation
from scipy.stats import multivariate_t

from sfxlab.crystal import UnitCell
from sfxlab.indexing import index, target_of
from sfxlab.indexing.doubt import TURNED, chance_of_turn, is_part
from sfxlab.indexing.orientation import oriented
from sfxlab.indexing.reasons import Reason, kind
from sfxlab.recipe import IndexingRecipe

K = np.array([0.0, 0.0, 0.75])  # 1/Å
TARGET = target_of(UnitCell(50, 60, 70, lattice_type="orthorhombic"))
NOISE, RADIUS = 1e-4, 1e-3  # 1/Å, of peaks along the Ewald sphere and of nodes across it


def peaks(rng, target, n, reach=0.1, wanted=lambda hkl: hkl[:, 0] == hkl[:, 0]):
    """Peaks (3, n) of a crystal near the beam, innermost first, and its real axes."""
    basis = target.basis @ Rotation.random(rng=rng).as_matrix()
    hkl = np.stack(np.meshgrid(*[np.arange(-9, 10)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    nodes = (hkl[np.any(hkl != 0, axis=1) & wanted(hkl)] @ np.linalg.inv(basis).T).T
    off = np.linalg.norm(nodes + K[:, None], axis=0) - K[2]
    shines = (np.linalg.norm(nodes, axis=0) < reach) & (rng.random(nodes.shape[1]) < np.exp(-0.5 * (off / RADIUS) ** 2))
    rays = nodes[:, shines][:, : 10 * n] + K[:, None]
    rays = rays[:, rng.permutation(rays.shape[1])[:n]]
    rays[:2] += rng.normal(0, NOISE, (2, rays.shape[1]))
    q = rays * K[2] / np.linalg.norm(rays, axis=0) - K[:, None]
    return np.ascontiguousarray(q[:, np.argsort(np.linalg.norm(q, axis=0))]), basis


def angle(one, other):
    return Rotation.align_vectors(one, other)[0].magnitude()


def test_the_orientation_of_few_peaks_is_that_of_weighted_least_squares():
    q, basis = peaks(np.random.default_rng(1), TARGET, 10)
    found, _ = oriented(q, K, basis @ Rotation.from_rotvec([0.004, -0.005, 0.003]).as_matrix(), TARGET.basis)
    hkl, normal = np.rint(basis @ q), (q + K[:, None]) / np.linalg.norm(q + K[:, None], axis=0)

    def misfits(turn):
        off = np.linalg.inv(found @ Rotation.from_rotvec(turn).as_matrix()) @ hkl - q
        across = (off * normal).sum(axis=0)
        return off - across * normal, across

    along, across = misfits(np.zeros(3))
    sigmas = np.sqrt((along**2).sum() / 19), np.sqrt((across**2).sum() / 8)

    def residuals(turn):
        return np.concatenate([(m / sigma).ravel() for m, sigma in zip(misfits(turn), sigmas, strict=True)])

    best = least_squares(residuals, np.zeros(3), x_scale=1e-3)
    assert np.linalg.norm(best.x) < 2e-5


def test_standard_errors_tell_how_far_orientations_are_off():
    rng, errors, off = np.random.default_rng(2), [], []
    for _ in range(150):
        q, basis = peaks(rng, TARGET, 9)
        found, error = oriented(q, K, basis, TARGET.basis)
        errors.append(error)
        off.append(angle(found, basis))
    assert 0.8 < np.sqrt(np.mean(np.square(off)) / np.mean(np.square(errors))) < 1.25


def test_a_cell_that_is_off_keeps_its_strain_and_says_that_it_is_less_certain():
    rng = np.random.default_rng(3)
    q, basis = peaks(rng, TARGET, 15, 0.2)
    strained = target_of(UnitCell(51.5, 58.5, 71, lattice_type="orthorhombic"))
    rigid, error = oriented(q, K, basis, TARGET.basis)
    np.testing.assert_allclose(np.linalg.norm(rigid, axis=1), TARGET.lengths)
    kept, larger = oriented(q, K, basis, strained.basis)
    np.testing.assert_allclose(np.linalg.norm(kept, axis=1), TARGET.lengths)
    assert larger > error


def test_the_chance_of_a_turn_is_that_of_a_t_distribution():
    error, n = np.radians(0.5), 9
    drawn = multivariate_t(shape=0.5 * error**2 * np.eye(2), df=n - 2, seed=4).rvs(100_000)
    assert chance_of_turn(error, n) == pytest.approx((np.linalg.norm(drawn, axis=1) > TURNED).mean(), rel=0.05)
    assert chance_of_turn(error, 2) == 1.0


def test_few_peaks_near_the_beam_leave_the_orientation_open():
    rng = np.random.default_rng(5)
    kinds = {True: 0, False: 0}
    for _ in range(10):
        q, _ = peaks(rng, TARGET, 10, reach=0.07)
        found = index(q.T, TARGET, IndexingRecipe())
        kinds[kind(found.reason) is Reason.AMBIGUOUS] += not found.lattices
        q, _ = peaks(rng, TARGET, 10, reach=0.3)
        kinds[False] += not index(q.T, TARGET, IndexingRecipe()).lattices
    assert kinds[True] >= 6
    assert kinds[False] <= 2


def test_few_peaks_on_nodes_that_two_lattices_share_are_of_neither():
    """A cube turned by 60° about a diagonal shares the nodes whose indices add up to a multiple of three."""
    target, rng = target_of(UnitCell(60, 60, 60, lattice_type="cubic")), np.random.default_rng(6)
    for _ in range(4):
        q, _ = peaks(rng, target, 10, 0.3, lambda hkl: hkl.sum(axis=1) % 3 == 0)
        found = index(q.T, target, IndexingRecipe())
        assert found.lattices == ()
        assert kind(found.reason) is Reason.AMBIGUOUS


def test_a_block_of_a_split_crystal_is_no_lattice_of_its_own():
    rng = np.random.default_rng(7)
    q, basis = peaks(rng, TARGET, 12, 0.2)
    block = basis @ Rotation.from_rotvec([0.006, 0.005, 0.004]).as_matrix()
    assert is_part(q, K, basis, block)
    assert is_part(q, K, basis, target_of(TARGET.cell).rotations[1] @ block)
    assert not is_part(q, K, basis, basis @ Rotation.from_rotvec([0.0, 0.03, 0.0]).as_matrix())
    assert not is_part(q, K, basis, np.diag([1.0, 1.0, 2.0]) @ basis)
