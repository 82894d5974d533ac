"""Point groups against gemmi's tables of space groups."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfxlab.crystal import (
    POINT_GROUPS,
    PointGroup,
    UnitCell,
    point_group,
    point_group_of,
    possible_reflections,
    resolution_of,
)
from sfxlab.errors import CellError

OTHER_AXES = ("2_uab", "2/m_uab", "2/m_uaa", "m_uaa", "mm2_uab", "4/mmm_uaa", "422_uab", "6_uaa", "-4m2_uab")
ALL = (*POINT_GROUPS, *OTHER_AXES)
CENTROSYMMETRIC = [name for name in POINT_GROUPS if point_group(name).centrosymmetric]
CHIRAL = ("1", "2", "222", "4", "422", "3_R", "32_R", "3_H", "321_H", "312_H", "6", "622", "23", "432")

indices = st.tuples(*[st.integers(-40, 40)] * 3)
groups = st.sampled_from(ALL).map(point_group)
TETRAGONAL = UnitCell(79.344, 79.344, 37.81, lattice_type="tetragonal", unique_axis="c")


@given(group=groups, hkl=indices)
def test_representative_is_the_same_for_all_equivalent_reflections(
    group: PointGroup, hkl: tuple[int, int, int]
) -> None:
    orbit = group.operations @ np.array(hkl)
    representatives = np.unique(group.asu(orbit), axis=0)
    assert len(representatives) == 1
    assert representatives[0].tolist() in orbit.tolist()


@given(group=groups, hkl=indices)
def test_operations_form_a_group(group: PointGroup, hkl: tuple[int, int, int]) -> None:
    operations = {m.tobytes() for m in group.operations}
    assert len(operations) == len(group.operations)
    assert {(a @ b).tobytes() for a in group.operations for b in group.operations} == operations
    assert np.array_equal(group.operations[0] @ hkl, hkl)


@pytest.mark.parametrize("name", CENTROSYMMETRIC)
def test_representative_lies_in_the_asymmetric_unit_of_ccp4(name: str) -> None:
    group = point_group(name)
    space_group = gemmi.SpaceGroup(group.symmorphic)
    asu, operations = gemmi.ReciprocalAsu(space_group), space_group.operations()
    hkl = np.random.default_rng(1).integers(-9, 10, (200, 3))
    assert group.asu(hkl).tolist() == [list(asu.to_asu(index, operations)[0]) for index in hkl.tolist()]


@pytest.mark.parametrize("name", CHIRAL)
def test_friedel_mates_stay_apart_unless_they_are_centric(name: str) -> None:
    group = point_group(name)
    operations = gemmi.SpaceGroup(group.symmorphic).operations()
    hkl = np.random.default_rng(2).integers(-9, 10, (200, 3)).astype(np.int32)
    mates_together = np.all(group.asu(hkl) == group.asu(-hkl), axis=1)
    assert mates_together.tolist() == operations.centric_flag_array(hkl).tolist()
    assert np.array_equal(group.laue_group.asu(hkl), group.laue_group.asu(-hkl))
    apart = ~mates_together
    assert np.array_equal(group.asu(-hkl)[apart], -group.asu(hkl)[apart])


@pytest.mark.parametrize(
    ("name", "order"), [("1", 1), ("2/m", 4), ("4/mmm", 16), ("32_R", 6), ("-3m1_H", 12), ("m-3m", 48)]
)
def test_orders_are_those_of_the_international_tables(name: str, order: int) -> None:
    assert len(point_group(name).operations) == order


def test_unique_axis_is_c_unless_the_name_says_otherwise() -> None:
    hkl = np.array([[1, 2, 3]])
    for name, equivalent in (("2", (-1, -2, 3)), ("2_uab", (-1, 2, -3)), ("2_uaa", (1, -2, -3))):
        group = point_group(name)
        assert np.array_equal(group.asu(hkl), group.asu(np.array([equivalent])))
    assert np.array_equal(point_group("4_uaa").asu(hkl), point_group("4_uaa").asu(np.array([[1, -3, 2]])))


@pytest.mark.parametrize(
    ("name", "centring", "number"),
    [("4/mmm", "P", 123), ("422", "P", 89), ("422", "I", 97), ("222", "P", 16), ("3_H", "H", 146), ("3_H", "P", 143),
     ("32_R", "R", 155), ("2_uab", "C", 5), ("2_uab", "P", 3), ("23", "F", 196), ("622", "P", 177)],
)  # fmt: skip
def test_default_space_group_is_the_lowest_numbered_one(name: str, centring: str, number: int) -> None:
    group = point_group(name).space_group(centring)  # type: ignore[arg-type]
    assert group.number == number
    assert point_group_of(group.xhm(), friedel=False).name == name


def test_point_group_of_a_space_group() -> None:
    assert point_group_of("P 43 21 2", friedel=False).name == "422"
    assert point_group_of("P 43 21 2", friedel=True).name == "4/mmm"
    assert point_group_of("P 1 21 1", friedel=True).name == "2/m_uab"
    with pytest.raises(CellError, match="unknown space group"):
        point_group_of("P 43 21 7", friedel=True)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("4/mm", "4/mmm"),
        ("P43212", "merge with -y 4/mmm, or 422"),
        ("321", "321_H"),
        ("3", "3_R or 3_H"),
        ("2/m_uad", "2/m_ua"),
    ],
)
def test_unknown_name_comes_with_a_suggestion(name: str, hint: str) -> None:
    with pytest.raises(CellError, match=f"unknown point group '{name}'") as caught:
        point_group(name)
    assert hint in str(caught.value.remedy)


def test_trigonal_axes_cannot_be_combined_with_a_unique_axis() -> None:
    with pytest.raises(CellError):
        point_group("3_H_uaa")
    with pytest.raises(CellError):
        point_group("m-3_uaa")


def test_a_cell_of_another_symmetry_is_refused_and_fitting_point_groups_are_named() -> None:
    point_group("422").check_cell(TETRAGONAL)
    with pytest.raises(CellError, match="6/mmm") as caught:
        point_group("6/mmm").check_cell(TETRAGONAL)
    assert "4/mmm" in str(caught.value.expected)
    monoclinic = UnitCell(50, 60, 70, 90, 100, 90, "monoclinic", "P", "b")
    point_group("2/m_uab").check_cell(monoclinic)
    with pytest.raises(CellError) as caught:
        point_group("2/m").check_cell(monoclinic)
    assert "2/m_uab" in str(caught.value.expected)


def test_possible_reflections_are_those_that_crystfel_counts() -> None:
    # check_hkl on the partial_lyso set: 11110 reflections are 94.997862 % from 30 to 1.8 Å.
    possible = possible_reflections(TETRAGONAL, point_group("4/mmm"), 1 / 1.8, 1 / 30)
    assert 100 * 11110 / len(possible) == pytest.approx(94.997862, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("422", UnitCell(40, 40, 30, lattice_type="tetragonal", unique_axis="c")),
        ("222", UnitCell(30, 35, 40, lattice_type="orthorhombic", centring="C")),
        ("3_H", UnitCell(30, 30, 50, 90, 90, 120, "rhombohedral", "H", "c")),
        ("4/mmm_uaa", UnitCell(30, 40, 40, lattice_type="tetragonal", centring="I", unique_axis="a")),
        ("m-3", UnitCell(40, 40, 40, lattice_type="cubic", centring="F")),
    ],
)
def test_possible_reflections_are_all_that_the_centring_allows(name: str, cell: UnitCell) -> None:
    group = point_group(name)
    axis = np.arange(-14, 15)
    box = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    resolution = resolution_of(cell, box)
    inside = (resolution >= 0.1) & (resolution < 0.25) & cell.allows(box)
    expected = np.unique(group.asu(box[inside]), axis=0)
    assert np.array_equal(possible_reflections(cell, group, 0.25, 0.1), expected)
