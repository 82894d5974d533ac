"""Telling what a lattice explains from what it explains by chance."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sfxlab.crystal import UnitCell
from sfxlab.indexing import index, target_of
from sfxlab.indexing.background import spread, turned_about_beam
from sfxlab.recipe import IndexingRecipe

K = 0.75  # 1/Å
CELL = UnitCell(79.3, 79.3, 37.8, lattice_type="tetragonal", unique_axis="c")


def anywhere(rng, n, reach=0.3):
    """Peaks (n, 3) of no lattice on the Ewald sphere, 1/Å."""
    x = rng.uniform(-reach, reach, (n, 2))
    return np.column_stack([x, np.sqrt(K**2 - (x**2).sum(axis=1)) - K])


def crystal(rng, n, reach=0.3):
    """Peaks (n, 3) of a crystal in a random orientation, 1/Å, and its basis."""
    basis = Rotation.random(rng=rng).as_matrix() @ CELL.reciprocal_basis
    limits = [int(length * reach) + 1 for length in CELL.lengths]
    hkl = np.stack(np.meshgrid(*(np.arange(-m, m + 1) for m in limits)), axis=-1).reshape(-1, 3)
    rays = hkl[np.any(hkl != 0, axis=1)] @ basis.T
    rays = rays[np.linalg.norm(rays, axis=1) < reach] + [0, 0, K]
    rays = rays[np.abs(np.linalg.norm(rays, axis=1) - K) < 0.002]
    rays = rays[rng.permutation(len(rays))[:n]]
    rays[:, :2] += rng.normal(0, 2e-4, (len(rays), 2))
    return K * rays / np.linalg.norm(rays, axis=1)[:, None] - [0, 0, K], basis


def test_turned_peaks_keep_their_resolution_and_their_sphere_in_any_order():
    rng = np.random.default_rng(1)
    q, beam = anywhere(rng, 40), np.array([0, 0, K])
    turned = turned_about_beam(q.T.copy(), beam, 100)
    assert turned.shape == (3, 120)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=0), np.repeat(np.linalg.norm(q, axis=1), 3))
    np.testing.assert_allclose(np.linalg.norm(turned + beam[:, None], axis=0), K)
    azimuth = np.arctan2(turned[1], turned[0])
    assert np.abs(np.exp(1j * azimuth).mean()) < 0.25
    np.testing.assert_array_equal(
        turned_about_beam(q[::-1].T.copy(), beam, 3), turned_about_beam(q.T.copy(), beam, 3)[:, ::-1]
    )


@pytest.mark.parametrize(("own", "others"), [(60, 0), (60, 60), (60, 600)])
def test_the_scatter_of_a_lattice_is_found_among_many_peaks_of_others(own, others):
    rng, sigma = np.random.default_rng(2), 0.002

    def misfits(n, along):
        return np.array([along, np.zeros(n), rng.uniform(0, 0.2, n)])

    near = np.abs(rng.normal(0, sigma, (own, 2)) @ [1, 1j])
    far = 0.02 * np.sqrt(rng.random(others))
    random = 0.02 * np.sqrt(rng.random(10 * others))
    missed = np.full(10 * own, 1.0)
    found, limit = spread(
        misfits(own + others, np.concatenate([near, far])),
        misfits(10 * (own + others), np.concatenate([random, missed])), np.zeros(own + others, dtype=bool), 0.25,
    )  # fmt: skip
    assert found == pytest.approx(sigma, rel=0.35)
    assert 2 * found <= limit <= 6 * found
    assert (near < limit).mean() > 0.75
    assert (far < limit).sum() < 0.6 * own


def test_peaks_that_others_have_taken_do_not_count():
    misfit = np.array([[0.001, 0.001, 0.5, 0.5], np.zeros(4), np.zeros(4)])
    by_chance = np.array([np.full(4, 1.0), np.zeros(4), np.ones(4)])
    taken = np.array([False, False, True, True])
    assert spread(misfit, by_chance, taken, 0.25)[0] == pytest.approx(0.001 / 1.177)


def test_ten_crystals_in_one_frame_are_found():
    rng = np.random.default_rng(3)
    found = false = 0
    for _ in range(3):
        crystals = [crystal(rng, 50) for _ in range(10)]
        q = np.concatenate([*(peaks for peaks, _ in crystals), anywhere(rng, 100)])
        lattices = index(q, target_of(CELL), IndexingRecipe()).lattices
        same = [
            any(np.abs((m := np.linalg.inv(lattice.basis) @ basis) - np.rint(m)).max() < 0.12 for _, basis in crystals)
            for lattice in lattices
        ]
        found, false = found + sum(same), false + len(same) - sum(same)
    assert found >= 24
    assert false == 0


def test_many_peaks_of_no_crystal_have_no_lattice():
    """At low resolution they are nearly on a plane, and so is a layer of nodes that a lattice turns there."""
    rng = np.random.default_rng(4)
    for _ in range(6):
        assert index(anywhere(rng, 3000), target_of(CELL), IndexingRecipe()).lattices == ()
