"""The model intensities have the symmetry, the absences and the statistics of a real crystal."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest

from sfxlab.crystal import UnitCell
from sfxlab.errors import CellError
from sfxlab.simulation import LYSOZYME
from sfxlab.simulation.structure_factors import (
    Intensities,
    _random_structure,
    find_space_group,
    lowest_space_group,
    model_intensities,
)

CELLS = {
    "P 1": UnitCell(30, 34, 50, 80, 85, 88),
    "P 1 2 1": UnitCell(60, 70, 50, 90, 100, 90, "monoclinic", "P", "b"),
    "P 1 1 2": UnitCell(60, 70, 50, 90, 90, 100, "monoclinic", "P", "c"),
    "C 1 2 1": UnitCell(60, 70, 50, 90, 100, 90, "monoclinic", "C", "b"),
    "F 2 2 2": UnitCell(93, 94, 130, lattice_type="orthorhombic", centring="F"),
    "P 4": UnitCell(79, 79, 38, lattice_type="tetragonal", unique_axis="c"),
    "I 4": UnitCell(79, 79, 38, lattice_type="tetragonal", centring="I", unique_axis="c"),
    "R 3:H": UnitCell(93, 93, 130, 90, 90, 120, "rhombohedral", "H", "c"),
    "R 3:R": UnitCell(63, 63, 63, 63.4, 63.4, 63.4, "rhombohedral", "R"),
    "P 3": UnitCell(93, 93, 130, 90, 90, 120, "hexagonal", "P", "c"),
    "I 2 3": UnitCell(103, 103, 103, lattice_type="cubic", centring="I"),
}


@pytest.fixture(scope="module")
def lysozyme() -> Intensities:
    group = find_space_group("P 43 21 2", LYSOZYME)
    return model_intensities(LYSOZYME, group, 2.0, 20.0, np.random.default_rng(3))


@pytest.mark.parametrize("name", CELLS)
def test_the_lowest_space_group_suits_lattice_centring_and_unique_axis(name: str) -> None:
    assert lowest_space_group(CELLS[name]).xhm() == name


@pytest.mark.parametrize("name", CELLS)
def test_no_reflection_that_the_centring_forbids_has_intensity(name: str) -> None:
    cell = CELLS[name]
    model = model_intensities(cell, lowest_space_group(cell), 4.0, 20.0, np.random.default_rng(0))
    hkl = np.argwhere(model.dense > 0) - (np.array(model.dense.shape) - 1) // 2
    assert np.all(cell.allows(hkl))
    # As many reflections as the primitive reciprocal lattice has points in the sphere, less the few on screw axes.
    points = 4 / 3 * np.pi / 4.0**3 * cell.volume * np.linalg.det(cell.primitive_transform)
    assert len(hkl) == pytest.approx(points, rel=0.02)


def test_screw_axes_leave_out_what_they_must(lysozyme: Intensities) -> None:
    axis = np.arange(-18, 19)
    along_c, along_a = (np.outer(axis, direction).astype(np.int64) for direction in ([0, 0, 1], [1, 0, 0]))
    assert np.array_equal(lysozyme.of(along_c) > 0, (axis % 4 == 0) & (axis != 0))
    assert np.array_equal(lysozyme.of(along_a) > 0, (axis % 2 == 0) & (axis != 0))


def test_all_sixteen_equivalents_of_the_laue_class_have_one_intensity(lysozyme: Intensities) -> None:
    general = lysozyme.hkl[np.all(lysozyme.hkl > 0, axis=1) & (lysozyme.hkl[:, 0] != lysozyme.hkl[:, 1])][:200]
    h, k, l = general.T  # noqa: E741 -- the field's letters
    first = lysozyme.of(general)
    assert np.all(first > 0)
    for a, b in ((h, k), (k, h)):
        for signs in np.ndindex(2, 2, 2):
            x, y, z = (1 - 2 * np.array(signs))[:, None] * np.array([a, b, l])
            assert np.array_equal(lysozyme.of(np.stack([x, y, z], axis=1)), first)


def test_the_intensities_are_those_of_the_atoms_summed_one_by_one() -> None:
    cell = CELLS["C 1 2 1"]
    group = lowest_space_group(cell)
    model = model_intensities(cell, group, 3.0, 20.0, np.random.default_rng(8))
    atoms = _random_structure(cell, group, 20.0, np.random.default_rng(8))
    calculator = gemmi.StructureFactorCalculatorX(atoms.cell)
    chosen = np.argsort(model.intensity)[-40:]
    direct = np.array(
        [abs(calculator.calculate_sf_from_model(atoms[0], [int(i) for i in model.hkl[n]])) ** 2 for n in chosen]
    )
    ratio = model.intensity[chosen] / direct
    assert np.allclose(ratio, ratio.mean(), rtol=5e-3)


def test_acentric_intensities_follow_wilson_statistics(lysozyme: Intensities) -> None:
    general = np.all(lysozyme.hkl > 0, axis=1) & (lysozyme.hkl[:, 0] != lysozyme.hkl[:, 1])
    d = np.array(LYSOZYME.gemmi.calculate_d_array(lysozyme.hkl[general]))
    intensity = lysozyme.intensity[general]
    shells = np.digitize(d, np.quantile(d, np.linspace(0, 1, 21)[1:-1]))
    moments = [np.mean(intensity[shells == i] ** 2) / np.mean(intensity[shells == i]) ** 2 for i in range(20)]
    assert np.mean(moments) == pytest.approx(2.0, abs=0.1)


def test_the_wilson_plot_falls_off_with_the_b_factors_that_were_asked_for() -> None:
    cell = CELLS["P 1 2 1"]
    logarithms = []
    for b in (10.0, 40.0):
        model = model_intensities(cell, lowest_space_group(cell), 2.0, b, np.random.default_rng(2))
        s2 = 0.25 / np.array(cell.gemmi.calculate_d_array(model.hkl)) ** 2
        low, high = (np.mean(model.intensity[np.abs(s2 - centre) < 2e-3]) for centre in (0.015, 0.055))
        # The mean of exp(−2Bs²) over B factors that are gamma distributed with shape 10.
        expected = [(1 + 2 * b / 10 * centre) ** -10 for centre in (0.015, 0.055)]
        logarithms.append(np.log(high / low) - np.log(expected[1] / expected[0]))
    # What remains is the fall-off of the atoms' form factors, the same for both.
    assert logarithms[0] == pytest.approx(logarithms[1], abs=0.15)
    assert logarithms[0] < -0.3


def test_a_space_group_that_does_not_fit_the_cell_is_refused() -> None:
    with pytest.raises(CellError, match="does not fit"):
        find_space_group("P 43 21 2", CELLS["C 1 2 1"])
    with pytest.raises(CellError, match="does not fit"):
        find_space_group("I 4", LYSOZYME)
    with pytest.raises(CellError, match="unknown space group"):
        find_space_group("P 43 21 7", LYSOZYME)
    with pytest.raises(CellError, match="no space group fits"):
        lowest_space_group(UnitCell(38, 79, 79, lattice_type="tetragonal", unique_axis="a"))
