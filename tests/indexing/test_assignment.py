"""Sharing the peaks of a frame out among its lattices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from sfxlab.crystal import UnitCell
from sfxlab.indexing import index, target_of
from sfxlab.indexing.assignment import Assignment, assign, same_lattice, settle
from sfxlab.indexing.background import FOR_SPREAD, spread, turned_about_beam
from sfxlab.indexing.fit_kernels import NORMAL_RATIO, beam_of, misfits, strained
from sfxlab.recipe import IndexingRecipe

K = 0.75  # 1/Å
CELLS = [
    UnitCell(79.3, 79.3, 37.8, lattice_type="tetragonal", unique_axis="c"),
    UnitCell(61, 73, 52, 90, 105, 90, lattice_type="monoclinic", centring="C", unique_axis="b"),
    UnitCell(105, 105, 105, lattice_type="cubic", centring="I"),
]


def peaks_of(cell, rotation, rng, n, reach=0.35):
    """Scattering vectors (n, 3) of spots near the Ewald sphere, projected on it, with noise, 1/Å."""
    limits = [int(length * reach) + 1 for length in cell.lengths]
    hkl = np.stack(np.meshgrid(*(np.arange(-m, m + 1) for m in limits), indexing="ij"), axis=-1).reshape(-1, 3)
    hkl = hkl[cell.allows(hkl) & np.any(hkl != 0, axis=1)]
    q = hkl @ (rotation.as_matrix() @ cell.reciprocal_basis).T
    ray = q[np.linalg.norm(q, axis=1) < reach] + [0, 0, K]
    length = np.linalg.norm(ray, axis=1)
    near = np.abs(length - K) < 0.1 / max(cell.lengths)
    q = ray[near] * (K / length[near])[:, None] - [0, 0, K]
    return q[rng.permutation(len(q))[:n]] + rng.normal(0, 0.02 / max(cell.lengths), (min(n, len(q)), 3))


def crowd(cell, rng, n_lattices, n_peaks=50, outliers=0):
    """Peaks (3, n) of some crystals and of none, whose each one is (−1: nobody's), and the true real bases."""
    rotations = Rotation.random(n_lattices, rng=rng)
    lists = [peaks_of(cell, rotation, rng, n_peaks) for rotation in rotations]
    x = rng.uniform(-0.3, 0.3, (outliers, 2))
    lists.append(np.column_stack([x, np.sqrt(K**2 - (x**2).sum(axis=1)) - K]))
    numbers = [*range(n_lattices), -1]
    owner = np.concatenate([np.full(len(q), i) for i, q in zip(numbers, lists, strict=True)])
    bases = np.array([target_of(cell).basis @ rotation.as_matrix().T for rotation in rotations])
    return np.ascontiguousarray(np.concatenate(lists).T), owner, bases


def nudged(bases, rng, degrees=0.1):
    turns = Rotation.from_rotvec(np.radians(degrees) * rng.normal(size=(len(bases), 3))).as_matrix()
    return np.einsum("nij,nkj->nik", bases, turns)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(CELLS), st.integers(0, 10_000), st.integers(1, 4))
def test_overlapping_lattices_keep_their_own_peaks(cell, seed, n_lattices):
    rng = np.random.default_rng(seed)
    q, owner, bases = crowd(cell, rng, n_lattices)
    shares = assign(q, beam_of(q), nudged(bases, rng), target_of(cell).basis, 6)
    # Random orientations may happen to be alike.
    if any(same_lattice(a, b) for i, a in enumerate(bases) for b in bases[:i]):
        return
    assert list(shares.kept) == list(range(n_lattices))
    assert np.mean(shares.owner == owner) > 0.9
    for found, true in zip(shares.bases, bases, strict=True):
        assert same_lattice(found, true)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(CELLS), st.integers(0, 10_000))
def test_two_copies_of_a_lattice_give_one(cell, seed):
    """One of them in other axes that are the same by symmetry, and turned a little."""
    rng = np.random.default_rng(seed)
    q, owner, bases = crowd(cell, rng, 2, outliers=20)
    operation = rng.choice(target_of(cell).rotations)
    copies = np.concatenate([bases, operation @ nudged(bases[:1], rng)])
    if same_lattice(bases[0], bases[1]):
        return
    shares = assign(q, beam_of(q), copies, target_of(cell).basis, 6)
    assert len(shares.bases) == 2
    assert 1 in shares.kept
    mine = shares.owner == int(np.flatnonzero(shares.kept != 1)[0])
    assert np.mean(mine[owner == 0]) > 0.85


@pytest.mark.parametrize("axis", range(3))
def test_a_lattice_and_its_superlattice_give_one(axis):
    rng = np.random.default_rng(3)
    q, _, bases = crowd(CELLS[0], rng, 1)
    larger = bases[0].copy()
    larger[axis] *= 2
    assert same_lattice(bases[0], larger)
    assert same_lattice(larger, bases[0])
    shares = assign(q, beam_of(q), np.array([bases[0], larger]), target_of(CELLS[0]).basis, 6)
    assert len(shares.bases) == 1


@pytest.mark.parametrize(("degrees", "same"), [(0.4, True), (0.6, False), (3.0, False)])
def test_lattices_are_the_same_up_to_half_a_degree(degrees, same):
    basis = target_of(CELLS[1]).basis
    turn = Rotation.from_rotvec(np.radians(degrees) * np.array([0.6, 0.0, 0.8])).as_matrix()
    assert same_lattice(basis, basis @ turn) == same


def test_a_lattice_without_enough_peaks_of_its_own_goes():
    rng = np.random.default_rng(4)
    q, owner, bases = crowd(CELLS[0], rng, 2)
    stranger = Rotation.random(rng=rng).as_matrix() @ bases[0].T
    shares = assign(q, beam_of(q), np.array([*bases, stranger.T]), target_of(CELLS[0]).basis, 12)
    assert list(shares.kept) == [0, 1]
    assert np.mean(shares.owner == owner) > 0.9


def test_the_order_of_the_peaks_and_of_the_lattices_does_not_matter():
    rng = np.random.default_rng(5)
    q, _, bases = crowd(CELLS[0], rng, 3, outliers=30)
    start = nudged(bases, rng)
    one = assign(q, beam_of(q), start, target_of(CELLS[0]).basis, 6)
    order, turn = rng.permutation(q.shape[1]), [2, 0, 1]
    other = assign(np.ascontiguousarray(q[:, order]), beam_of(q), start[turn], target_of(CELLS[0]).basis, 6)
    np.testing.assert_allclose(other.bases, one.bases[turn], rtol=1e-7, atol=1e-6)
    np.testing.assert_array_equal(np.append(turn, -1)[other.owner], one.owner[order])


def test_no_lattice_takes_no_peak():
    none = Assignment.of_none(5)
    assert (none.owner == -1).all()
    assert len(none.bases) == len(none.kept) == 0


def twin_of_settle(q, k, bases, target):
    """The same in numpy, one lattice and one peak at a time."""
    bases, before, n = bases.copy(), None, q.shape[1]
    random = turned_about_beam(q, k, FOR_SPREAD)

    def scatter(misfit, tolerance):
        values = misfit[0, misfit[2] < tolerance]
        return max(np.median(values) / 1.177, 1e-5) if len(values) else 1e-3

    while True:
        fits = np.empty((len(bases), 3, n))
        for i, basis in enumerate(bases):
            misfits(q, k, basis, fits[i])
        limits = []
        for i, basis in enumerate(bases):
            by_chance = np.empty_like(random)
            misfits(random, k, basis, by_chance)
            taken = np.zeros(n, bool) if before is None else (before >= 0) & (before != i)
            limits.append(spread(fits[i], by_chance, taken, 0.25)[1])
        claims = (fits[:, 2] < 0.25) & (fits[:, 0] < np.array(limits)[:, None])
        distance = np.where(claims, fits[:, 0] ** 2 + (fits[:, 1] / NORMAL_RATIO) ** 2, np.inf)
        owner = np.where(claims.any(axis=0), distance.argmin(axis=0), -1)
        if before is not None and np.array_equal(owner, before):
            return owner, bases
        before = owner
        for i in range(len(bases)):
            own = np.ascontiguousarray(q[:, owner == i])
            work = np.empty_like(own)
            for _ in range(2):
                misfits(own, k, bases[i], work)
                bases[i] = strained(own, k, own.shape[1], bases[i], target, 0.3, scatter(work, 0.3))


def test_the_kernel_shares_out_as_numpy_does():
    rng = np.random.default_rng(6)
    q, _, bases = crowd(CELLS[0], rng, 3, outliers=40)
    start, target = nudged(bases, rng), target_of(CELLS[0]).basis
    expected, fitted = twin_of_settle(q, beam_of(q), start, target)
    owner, _, _ = settle(q, beam_of(q), start, target)
    np.testing.assert_array_equal(owner, expected)
    np.testing.assert_allclose(start, fitted, rtol=1e-9)


def test_two_crystals_a_few_degrees_apart_are_both_found():
    cell, rng = CELLS[0], np.random.default_rng(7)
    one = Rotation.random(rng=rng)
    other = Rotation.from_rotvec(np.radians([3.0, -2.0, 2.0])) * one
    q = np.concatenate([peaks_of(cell, rotation, rng, 60) for rotation in (one, other)])
    found = index(q, target_of(cell), IndexingRecipe()).lattices
    assert len(found) == 2
    assert sum(len(lattice.peaks) for lattice in found) == len(np.unique(np.concatenate([f.peaks for f in found])))


def test_five_crystals_in_one_frame_are_all_found_each_with_its_figures():
    cell, rng = CELLS[0], np.random.default_rng(8)
    q, owner, _ = crowd(cell, rng, 5, n_peaks=45, outliers=20)
    found = index(q.T.copy(), target_of(cell), IndexingRecipe()).lattices
    assert len(found) == 5
    for lattice in found:
        counts = np.bincount(owner[lattice.peaks] + 1, minlength=6)[1:]
        assert counts.max() > 0.8 * len(lattice.peaks)
        assert lattice.log10_p < -10
        assert 0 < lattice.rms < 0.1 / max(cell.lengths)
