"""Lattices that share nodes with turned ones."""

import numpy as np
import pytest

from sfxlab.crystal import UnitCell
from sfxlab.indexing import target_of
from sfxlab.indexing.coincidence import coincidences, is_suspect, turned_ones


def share(change):
    """Every how manieth node is shared: of 30³ residues those that stay whole."""
    hkl = np.indices((30, 30, 30)).reshape(3, -1).T @ change.T
    return 1 / np.mean(np.all(np.abs(hkl - np.rint(hkl)) < 1e-6, axis=1))


@pytest.mark.parametrize("centring", ["P", "I", "F"])
def test_cubic_lattices_have_four_turned_ones_of_every_third_and_six_of_every_fifth_node(centring):
    """Grimmer, Bollmann & Warrington (1974), Acta Cryst. A30, 197: rotations by 60° about <111>, 36.9° about <100>."""
    basis = target_of(UnitCell(100, 100, 100, lattice_type="cubic", centring=centring)).basis
    exact = [
        change for change in coincidences(basis) if np.allclose(change @ basis @ basis.T @ change.T, basis @ basis.T)
    ]
    assert sorted(round(share(change)) for change in exact) == [3] * 4 + [5] * 6


def test_a_cell_three_times_as_long_as_high_has_turned_ones_with_a_small_strain():
    target = target_of(UnitCell(165.2, 165.2, 54.5, lattice_type="tetragonal", unique_axis="c"))
    assert any(round(share(change)) == 3 for change in target.coincidences)


def test_a_turned_lattice_is_told_by_its_indices_and_the_true_one_is_named():
    rng = np.random.default_rng(1)
    basis = target_of(UnitCell(100, 100, 100, lattice_type="cubic")).basis
    changes = coincidences(basis)
    true = rng.integers(-9, 10, (400, 3)).astype(float)
    assert not is_suspect(true)
    change = changes[2]  # from the turned lattice to the true one
    seen = true @ np.linalg.inv(change).T
    seen = np.rint(seen[np.all(np.abs(seen - np.rint(seen)) < 1e-6, axis=1)])
    assert is_suspect(seen)
    named = turned_ones(seen, changes)
    assert any(np.allclose(one, change) for one in named)
    assert len(named) < len(changes)
