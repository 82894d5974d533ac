"""The Bravais lattice of a measured cell."""

from itertools import pairwise

import gemmi
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from sfxlab.crystal import UnitCell, parameters_of
from sfxlab.crystal.lattice_symmetry import averaged, lattice_symmetries, niggli_basis

BRAVAIS = {
    "aP": UnitCell(40, 52, 63, 81, 86, 78),
    "mP": UnitCell(45, 62, 71, 90, 103, 90, "monoclinic", "P", "b"),
    "mC": UnitCell(91, 73, 52, 90, 105, 90, "monoclinic", "C", "b"),
    "mI": UnitCell(52, 73, 75, 90, 92, 90, "monoclinic", "I", "b"),
    "oP": UnitCell(50, 60, 70, lattice_type="orthorhombic"),
    "oC": UnitCell(61.4, 122.6, 168, lattice_type="orthorhombic", centring="C"),
    "oI": UnitCell(60, 84, 110, lattice_type="orthorhombic", centring="I"),
    "oF": UnitCell(80, 120, 150, lattice_type="orthorhombic", centring="F"),
    "tP": UnitCell(79.3, 79.3, 37.8, 90, 90, 90, "tetragonal", "P", "c"),
    "tI": UnitCell(120, 120, 80, 90, 90, 90, "tetragonal", "I", "c"),
    "tI long": UnitCell(50, 50, 160, 90, 90, 90, "tetragonal", "I", "c"),
    "hP": UnitCell(93.4, 93.4, 131.1, 90, 90, 120, "hexagonal", "P", "c"),
    "hR": UnitCell(66.2, 66.2, 150.2, 90, 90, 120, "rhombohedral", "H", "c"),
    "hR flat": UnitCell(120, 120, 40, 90, 90, 120, "rhombohedral", "H", "c"),
    "cP": UnitCell(96.4, 96.4, 96.4, lattice_type="cubic"),
    "cI": UnitCell(105, 105, 105, lattice_type="cubic", centring="I"),
    "cF": UnitCell(140, 140, 140, lattice_type="cubic", centring="F"),
}


def some_basis(cell, rng, noise=0.0):
    """A primitive basis in a random orientation, changed by random whole numbers, with relative noise."""
    change = np.eye(3)
    for _ in range(4):
        i, j = rng.choice(3, 2, replace=False)
        change[i] += rng.integers(-1, 2) * change[j]
    basis = change @ cell.primitive_transform @ cell.real_basis
    return Rotation.random(rng=rng).apply(basis) @ (np.eye(3) + rng.normal(0, noise, (3, 3)))


@pytest.mark.parametrize("name", BRAVAIS)
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_the_conventional_cell_comes_back_from_any_basis(name, noise):
    cell, rng = BRAVAIS[name], np.random.default_rng(3)
    for _ in range(5):
        basis = niggli_basis(some_basis(cell, rng, noise))
        found = list(lattice_symmetries(basis, 1.0))[-1]
        assert (found.cell.lattice_type, found.cell.centring) == (cell.lattice_type, cell.centring)
        assert found.cell.unique_axis == cell.unique_axis
        np.testing.assert_allclose(found.cell.parameters, cell.parameters, rtol=6 * noise + 1e-9)
        axes = found.axes @ basis
        assert np.linalg.det(axes) > 0
        np.testing.assert_allclose(parameters_of(axes), cell.parameters, rtol=10 * noise + 1e-9)


@pytest.mark.parametrize("name", BRAVAIS)
def test_the_number_of_rotations_is_that_of_gemmi(name):
    basis = niggli_basis(some_basis(BRAVAIS[name], np.random.default_rng(4)))
    expected = gemmi.find_lattice_symmetry(gemmi.UnitCell(*parameters_of(basis)), "P", 1.0)
    assert len(list(lattice_symmetries(basis, 1.0))[-1].group) == len(expected.sym_ops)


def test_each_symmetry_holds_that_below_it():
    basis = niggli_basis(some_basis(UnitCell(60, 60.3, 60.9, 90.2, 90.4, 89.9), np.random.default_rng(5)))
    found = list(lattice_symmetries(basis, 3.0))
    assert found[-1].cell.lattice_type == "cubic"
    for lower, higher in pairwise(found):
        assert lower.obliquity <= higher.obliquity
        assert {r.tobytes() for r in lower.group} < {r.tobytes() for r in higher.group}


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(sorted(BRAVAIS)), st.integers(0, 1000))
def test_an_averaged_metric_has_the_symmetry_exactly(name, seed):
    basis = niggli_basis(some_basis(BRAVAIS[name], np.random.default_rng(seed), 2e-3))
    for symmetry in lattice_symmetries(basis, 2.0):
        metric = averaged(basis @ basis.T, symmetry.group)
        for rotation in symmetry.group:
            np.testing.assert_allclose(rotation.T @ metric @ rotation, metric, atol=1e-8 * metric.max())
