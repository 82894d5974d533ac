"""Statistics of many cells."""

from __future__ import annotations

import numpy as np
import pytest

from sfxlab.crystal import UnitCell
from sfxlab.crystal.distribution import CellDistribution, cell_distribution
from sfxlab.errors import CellError

TETRAGONAL = UnitCell(79.3, 79.3, 37.8, lattice_type="tetragonal", centring="P", unique_axis="c")
MONOCLINIC = UnitCell(40, 50, 60, 90, 105, 90, lattice_type="monoclinic", centring="C", unique_axis="b")


def distribution(n: int, n_wrong: int = 0, lattice: UnitCell = TETRAGONAL, seed: int = 1) -> CellDistribution:
    """Of `n` cells with a spread of 0.1 Å and 0.2°, and `n_wrong` with an axis that is 5 % too long."""
    random = np.random.default_rng(seed)
    cells = np.array(lattice.parameters) + random.normal(0, [0.1] * 3 + [0.2] * 3, (n + n_wrong, 6))
    cells[n:, 0] *= 1.05
    return cell_distribution(cells, lattice)


def test_the_mean_has_the_symmetry_of_the_lattice() -> None:
    cell = distribution(200).cell
    assert cell.a == cell.b
    assert cell.angles == (90, 90, 90)
    assert cell.parameters == pytest.approx(TETRAGONAL.parameters, abs=0.03)
    assert (cell.lattice_type, cell.centring, cell.unique_axis) == ("tetragonal", "P", "c")


def test_a_free_angle_is_averaged() -> None:
    cell = distribution(200, lattice=MONOCLINIC).cell
    assert cell.beta == pytest.approx(105, abs=0.06)
    assert cell.beta != 105
    assert (cell.alpha, cell.gamma) == (90, 90)


def test_the_deviation_is_a_standard_deviation_that_outliers_do_not_move() -> None:
    clean, dirty = distribution(2000), distribution(2000, 200)
    assert clean.deviation == pytest.approx([0.1] * 3 + [0.2] * 3, rel=0.08)
    assert dirty.deviation == pytest.approx([0.1] * 3 + [0.2] * 3, rel=0.2)


def test_cells_that_are_not_typical_do_not_count_for_the_mean() -> None:
    dirty = distribution(200, 20)
    assert dirty.n_crystals == 220
    assert 195 <= dirty.n_typical <= 200
    assert dirty.cell.a == pytest.approx(79.3, abs=0.03)


def test_angles_that_symmetry_fixes_leave_no_crystal_out() -> None:
    cells = np.tile(TETRAGONAL.parameters, (50, 1))
    cells[:, 0] += np.linspace(-0.1, 0.1, 50)
    cells[:, 3:] += np.random.default_rng(2).normal(0, 1e-13, (50, 3))
    assert cell_distribution(cells, TETRAGONAL).n_typical == 50


@pytest.mark.parametrize("n", [1, 2, 4])
def test_of_a_few_crystals_all_count(n: int) -> None:
    found = distribution(n, seed=n)
    assert found.n_typical == found.n_crystals == n
    assert found.cell.a == pytest.approx(79.3, abs=0.5)


def test_without_crystals_there_is_no_cell() -> None:
    with pytest.raises(CellError, match="there are no crystals"):
        cell_distribution(np.zeros((0, 6)), TETRAGONAL)
