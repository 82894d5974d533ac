"""The cell that many measured lattices share."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sfxlab.crystal import UnitCell
from sfxlab.crystal.cell_clusters import cell_clusters, lattice_strain
from sfxlab.crystal.lattice_symmetry import niggli_basis


def measured(cell, n, rng, noise=2e-3, rotations=None):
    """n primitive lattices of a cell as single frames give them: reduced, each orientation, relative noise."""
    basis = cell.primitive_transform @ cell.real_basis
    rotations = Rotation.random(n, rng=rng) if rotations is None else rotations
    return np.array(
        [niggli_basis(rotation.apply(basis @ (np.eye(3) + rng.normal(0, noise, (3, 3))))) for rotation in rotations]
    )


CELLS = [
    UnitCell(79.3, 79.3, 37.8, 90, 90, 90, "tetragonal", "P", "c"),
    UnitCell(37.8, 78.0, 80.6, lattice_type="orthorhombic"),
    UnitCell(61.4, 122.6, 168, lattice_type="orthorhombic", centring="C"),
    UnitCell(66.2, 66.2, 150.2, 90, 90, 120, "rhombohedral", "H", "c"),
    UnitCell(93.4, 93.4, 131.1, 90, 90, 120, "hexagonal", "P", "c"),
    UnitCell(91, 73, 52, 90, 105, 90, "monoclinic", "C", "b"),
    UnitCell(45, 62, 71, 90, 93.5, 90, "monoclinic", "P", "b"),
    UnitCell(140, 140, 140, lattice_type="cubic", centring="F"),
    UnitCell(105, 105, 105, lattice_type="cubic", centring="I"),
    UnitCell(40, 52, 63, 81, 86, 78),
]


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_the_cell_of_noisy_lattices_is_recognised(cell):
    found = cell_clusters(measured(cell, 60, np.random.default_rng(1)))
    assert len(found) == 1
    assert len(found[0].members) == 60
    assert (found[0].cell.lattice_type, found[0].cell.centring) == (cell.lattice_type, cell.centring)
    np.testing.assert_allclose(found[0].cell.parameters, cell.parameters, rtol=4e-3)


@pytest.mark.parametrize("cell", CELLS[:4], ids=str)
def test_a_few_lattices_are_enough(cell):
    found = cell_clusters(measured(cell, 5, np.random.default_rng(2), 1e-3))
    assert (found[0].cell.lattice_type, found[0].cell.centring) == (cell.lattice_type, cell.centring)


def test_axes_that_differ_by_more_than_frames_scatter_stay_different():
    rng = np.random.default_rng(3)
    split = cell_clusters(measured(UnitCell(79.0, 80.6, 37.8, lattice_type="orthorhombic"), 100, rng))[0]
    assert split.cell.lattice_type == "orthorhombic"
    blurred = cell_clusters(measured(UnitCell(79.0, 79.1, 37.8, lattice_type="orthorhombic"), 100, rng))[0]
    assert blurred.cell.lattice_type == "tetragonal"
    assert split.symmetries[-1].symmetry.cell.lattice_type == "tetragonal"
    assert not split.symmetries[-1].accepted


@pytest.mark.parametrize("seed", range(3))
def test_many_lattices_tell_axes_apart_that_single_ones_do_not(seed):
    """Axes are half a per cent apart, single lattices scatter by nearly as much: a gap is left where axes are equal."""
    rng = np.random.default_rng(seed)
    found = [
        cell_clusters(measured(UnitCell(80, b, 37.8, lattice_type="orthorhombic"), 600, rng, 1.5e-3))[0]
        for b in (80, 80.4)
    ]
    assert [cluster.cell.lattice_type for cluster in found] == ["tetragonal", "orthorhombic"]
    assert found[1].symmetries[-1].chance < 1e-3
    assert found[1].cell.parameters[1:3] == pytest.approx((80, 80.4), rel=2e-3)


def test_one_orientation_says_less_than_many():
    """A detector that is a little off strains all crystals of one orientation alike."""
    rng = np.random.default_rng(4)
    strained = UnitCell(78.9, 79.5, 37.8, 90.2, 90.1, 90.1)
    alike = cell_clusters(measured(strained, 20, rng, 2e-4, [Rotation.random(rng=rng)] * 20))[0]
    spread = cell_clusters(measured(strained, 20, rng, 2e-4))[0]
    assert alike.cell.lattice_type == "tetragonal"
    assert spread.cell.lattice_type in ("monoclinic", "triclinic")


def test_two_cells_and_strays_are_told_apart():
    rng = np.random.default_rng(5)
    one, other = measured(CELLS[0], 40, rng), measured(CELLS[3], 25, rng)
    strays = np.array([measured(UnitCell(*rng.uniform(40, 120, 3)), 1, rng)[0] for _ in range(6)])
    bases = np.concatenate([one, other, strays])
    order = rng.permutation(len(bases))
    found = cell_clusters(bases[order])
    assert [len(cluster.members) for cluster in found[:2]] == [40, 25]
    assert set(order[found[0].members]) == set(range(40))
    assert [cluster.cell.lattice_type for cluster in found[:2]] == ["tetragonal", "rhombohedral"]


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_the_same_lattice_in_any_reduced_basis_has_no_strain(cell):
    rng = np.random.default_rng(6)
    one, other = measured(cell, 2, rng, 1e-9)
    strain, image = lattice_strain(one, other)
    assert strain < 1e-6
    np.testing.assert_allclose(image @ image.T, one @ one.T, rtol=1e-6, atol=1e-3)


def test_strain_is_the_relative_change_of_the_axes():
    one = UnitCell(50, 60, 70).real_basis
    other = UnitCell(50 * 1.01, 60, 70 * 1.02).real_basis
    assert lattice_strain(one, other)[0] == pytest.approx(np.hypot(0.01, 0.02), rel=0.03)


def test_lattices_with_nothing_in_common_are_infinitely_far_apart():
    assert lattice_strain(UnitCell(30, 31, 32).real_basis, UnitCell(90, 91, 92).real_basis)[0] == np.inf
