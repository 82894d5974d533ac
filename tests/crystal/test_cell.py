"""Unit cells and the bases that follow from them."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfxlab.crystal import CENTRINGS, UnitCell, check_lattice, parameters_of, symmetrise
from sfxlab.errors import CellError

# METHODS appendix A3.
A3_REAL = np.array([(70.0, 20, 30), (-25, 72, 12), (-11, -14, 33)])
A3_PARAMETERS = (78.74007874, 77.15568676, 37.49666652, 96.68927, 91.16444, 89.52844)
A3_RECIPROCAL = np.array(
    [(0.01124668, 0.00306366, 0.00504863), (-0.00477454, 0.01167109, 0.00335986), (-0.00848806, -0.00702918, 0.0244916)]
).T

lengths = st.floats(5, 400)
angles = st.floats(75, 105)
cells = st.builds(UnitCell, lengths, lengths, lengths, angles, angles, angles, centring=st.sampled_from(CENTRINGS))


def test_parameters_and_volume_of_a_basis() -> None:
    assert parameters_of(A3_REAL) == pytest.approx(A3_PARAMETERS, rel=1e-7)
    assert UnitCell(*parameters_of(A3_REAL)).volume == pytest.approx(226200)


def test_cell_of_a_reciprocal_basis() -> None:
    cell = UnitCell(1, 1, 1).with_basis(A3_RECIPROCAL)
    assert cell.parameters == pytest.approx(A3_PARAMETERS, rel=1e-5)


@given(cell=cells)
def test_real_and_reciprocal_basis_are_inverse_and_carry_the_parameters(cell: UnitCell) -> None:
    assert cell.real_basis @ cell.reciprocal_basis == pytest.approx(np.eye(3), abs=1e-9)
    assert parameters_of(cell.real_basis) == pytest.approx(cell.parameters)
    assert abs(np.linalg.det(cell.real_basis)) == pytest.approx(cell.volume)


@given(cell=cells, hkl=st.tuples(*[st.integers(-20, 20)] * 3))
def test_centring_allows_what_gemmi_does_not_call_absent(cell: UnitCell, hkl: tuple[int, int, int]) -> None:
    name = {"H": "R 3:H", "R": "R 3:R"}.get(cell.centring, f"{cell.centring} 1")
    absent = gemmi.SpaceGroup(name).operations().is_systematically_absent(hkl)
    assert cell.allows(np.array([hkl])).tolist() == [not absent]


@pytest.mark.parametrize(
    ("centring", "points"), [("P", 1), ("A", 2), ("B", 2), ("C", 2), ("I", 2), ("F", 4), ("R", 1), ("H", 3)]
)
def test_primitive_cell_holds_one_lattice_point(centring: str, points: int) -> None:
    cell = UnitCell(30, 40, 50, centring=centring)  # type: ignore[arg-type]
    assert np.linalg.det(cell.primitive_transform) == pytest.approx(1 / points)


def test_hexagonal_axes_of_a_rhombohedral_lattice() -> None:
    # METHODS appendix A11.
    cell = UnitCell(66.2, 66.2, 150.2, 90, 90, 120, "rhombohedral", "H", "c")
    primitive = parameters_of(cell.primitive_transform @ cell.real_basis)
    assert primitive == pytest.approx([62.99] * 3 + [63.40] * 3, abs=0.005)


@given(cell=cells)
def test_symmetrised_parameters_fit_the_lattice_and_stay_when_symmetrised_again(cell: UnitCell) -> None:
    for lattice_type, axis in (
        ("monoclinic", "b"),
        ("orthorhombic", None),
        ("tetragonal", "a"),
        ("hexagonal", "c"),
        ("cubic", None),
    ):
        kind = UnitCell(50, 50, 50, lattice_type=lattice_type, unique_axis=axis)  # type: ignore[arg-type]
        ideal = symmetrise(np.array(cell.parameters), kind)
        assert symmetrise(ideal, kind) == pytest.approx(ideal)
        check_lattice(kind.with_parameters(ideal))


def test_tetragonal_average_is_over_the_equal_axes() -> None:
    kind = UnitCell(50, 50, 30, lattice_type="tetragonal", unique_axis="c")
    many = np.array([(79.0, 80.0, 38.0, 89.9, 90.2, 90.1), (10.0, 12.0, 5.0, 90.0, 90.0, 91.0)])
    assert symmetrise(many, kind).tolist() == [[79.5, 79.5, 38, 90, 90, 90], [11, 11, 5, 90, 90, 90]]


@pytest.mark.parametrize(
    "parameters",
    [
        (0, 1, 1, 90, 90, 90),
        (1, -1, 1, 90, 90, 90),
        (1, 1, float("nan"), 90, 90, 90),
        (5, 5, 5, 60, 60, 150),
        (5, 5, 5, 90, 90, 180),
    ],
)
def test_impossible_parameters_are_refused(parameters: tuple[float, ...]) -> None:
    with pytest.raises(CellError):
        UnitCell(*parameters)


def test_parameters_that_do_not_fit_the_lattice_type_are_refused() -> None:
    with pytest.raises(CellError, match="tetragonal"):
        check_lattice(UnitCell(77, 80, 38, lattice_type="tetragonal", unique_axis="c"))
