"""Decoys, reasons, and the lattices they are about."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sfxlab.crystal import UnitCell
from sfxlab.indexing import index, target_of
from sfxlab.indexing.decoys import DecoyCount, scrambled
from sfxlab.indexing.reasons import Reason, kind
from sfxlab.recipe import IndexingRecipe
from sfxlab.store import kind_of_reason

K = 0.75


def still(cell, rng, n, reach=0.3, radius=0.001):
    """Peaks (n, 3) of one crystal, 1/Å, on the Ewald sphere, and its basis."""
    basis = Rotation.random(rng=rng).as_matrix() @ cell.reciprocal_basis
    limits = [int(length * reach) + 1 for length in cell.lengths]
    hkl = np.stack(np.meshgrid(*(np.arange(-m, m + 1) for m in limits)), axis=-1).reshape(-1, 3)
    rays = hkl[np.any(hkl != 0, axis=1)] @ basis.T
    rays = rays[np.linalg.norm(rays, axis=1) < reach] + [0, 0, K]
    rays = rays[np.abs(np.linalg.norm(rays, axis=1) - K) < radius]
    rays = rays[rng.permutation(len(rays))[:n]]
    rays[:, :2] += rng.normal(0, 1e-4, (len(rays), 2))
    return K * rays / np.linalg.norm(rays, axis=1)[:, None] - [0, 0, K], basis


def test_scrambled_peaks_keep_their_resolution_and_their_sphere():
    q, _ = still(UnitCell(60, 70, 80), np.random.default_rng(1), 50)
    decoy = scrambled(q, 7)
    np.testing.assert_allclose(np.linalg.norm(decoy, axis=1), np.linalg.norm(q, axis=1))
    np.testing.assert_allclose(np.linalg.norm(decoy + [0, 0, K], axis=1), K)
    np.testing.assert_array_equal(decoy, scrambled(q, 7))
    assert not np.allclose(decoy, scrambled(q, 8))


def test_few_peaks_are_indexed_and_their_decoys_are_not():
    cell, rng = UnitCell(79.3, 79.3, 37.8, lattice_type="tetragonal", unique_axis="c"), np.random.default_rng(2)
    target, found, false = target_of(cell), 0, 0
    for number in range(40):
        q, basis = still(cell, rng, 9)
        for lattice in index(q, target, IndexingRecipe()).lattices:
            change = np.linalg.inv(lattice.basis) @ basis
            found += np.abs(change - np.rint(change)).max() < 0.12
        false += len(index(scrambled(q, number), target, IndexingRecipe()).lattices)
    assert found >= 32
    assert false <= 1


def test_decoys_are_indexed_about_as_often_as_random_peaks(monkeypatch):
    """With limits so lax that false lattices are frequent."""
    monkeypatch.setattr("sfxlab.indexing.doubt.FEW", 0)
    cell, rng = UnitCell(79.3, 79.3, 37.8, lattice_type="tetragonal", unique_axis="c"), np.random.default_rng(5)
    target, lax = target_of(cell), IndexingRecipe(max_log10_p=0, min_close=0.3, max_lattices=1)
    measured = estimated = 0
    for number in range(60):
        x = rng.uniform(-0.2, 0.2, (20, 2))
        random = np.column_stack([x, np.sqrt(K**2 - (x**2).sum(axis=1)) - K])
        measured += len(index(random, target, lax).lattices)
        estimated += len(index(scrambled(still(cell, rng, 20)[0], number), target, lax).lattices)
    assert measured >= 6
    assert 0.4 < estimated / measured < 2.5


def test_a_nearly_tetragonal_cell_keeps_its_axes_apart():
    cell, rng = UnitCell(60, 61.5, 80, lattice_type="orthorhombic"), np.random.default_rng(3)
    for _ in range(8):
        q, basis = still(cell, rng, 80)
        (lattice,) = index(q, target_of(cell), IndexingRecipe()).lattices
        change = np.abs(np.linalg.inv(lattice.basis) @ basis)
        np.testing.assert_allclose(change, np.eye(3), atol=0.05)
        assert lattice.rms < 3e-4


def test_a_search_that_takes_too_long_says_so():
    q, _ = still(UnitCell(60, 70, 80), np.random.default_rng(4), 50)
    found = index(q, target_of(UnitCell(60, 70, 80)), IndexingRecipe(time_limit=1e-9))
    assert kind(found.reason) is Reason.TIME_LIMIT


@pytest.mark.parametrize("reason", Reason)
def test_reasons_on_record_are_counted_by_kind(reason):
    assert kind(reason.because("5, at least 8 needed")) is reason
    assert kind_of_reason(reason.because("5")) == kind_of_reason(reason.because("6, or so")) == reason.value


def test_the_limit_of_no_decoy_in_n_is_the_rule_of_three():
    assert DecoyCount(1000, 0).rate == 0
    assert abs(DecoyCount(1000, 0).limit - 3 / 1000) < 1e-4
    assert DecoyCount(3, 3).limit == 1
