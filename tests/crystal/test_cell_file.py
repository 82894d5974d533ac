"""Cells from CrystFEL cell files, PDB and MTZ files."""

from __future__ import annotations

from pathlib import Path

import gemmi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfxlab.crystal import UnitCell, read_cell, write_cell
from sfxlab.crystal.cell_file import format_cell, parse_cell
from sfxlab.errors import CellError

LYSOZYME = """CrystFEL unit cell file version 1.0

lattice_type = tetragonal
centering = P
unique_axis = c
a = 7.93 nm   ; in nanometres
b = 79.3 A
c = 38.1 A
al = 90.0 deg
be = 1.5707963267948966 rad
ga = 90 deg
"""


def test_units_and_comments_are_understood() -> None:
    cell = parse_cell(LYSOZYME)
    assert cell.parameters == pytest.approx((79.3, 79.3, 38.1, 90, 90, 90))
    assert (cell.lattice_type, cell.centring, cell.unique_axis) == ("tetragonal", "P", "c")


@given(
    lengths=st.tuples(*[st.integers(50000, 4000000)] * 3),
    angles=st.tuples(*[st.integers(700000, 1100000)] * 3),
    centring=st.sampled_from("PABCIF"),
)
def test_what_is_written_is_read_again(
    lengths: tuple[int, int, int], angles: tuple[int, int, int], centring: str
) -> None:
    values = [x / 10000 for x in (*lengths, *angles)]
    cell = UnitCell(*values, centring=centring)  # type: ignore[arg-type]
    assert parse_cell(format_cell(cell)) == cell


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("centering = P", "centring = P", "did you mean 'centering'"),
        ("a = 7.93 nm   ; in nanometres\n", "", "parameters are missing"),
        ("b = 79.3 A", "b = 79.3", "'b' is no length"),
        ("b = 79.3 A", "b = 89.3 A", "do not fit a tetragonal lattice"),
        ("tetragonal", "tetragon", "did you mean 'tetragonal'"),
        ("ga = 90 deg", "ga 90 deg", "without '='"),
    ],
)
def test_a_mistake_is_named_with_file_and_remedy(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "lyso.cell"
    path.write_text(LYSOZYME.replace(old, new))
    with pytest.raises(CellError, match=message) as caught:
        read_cell(path)
    assert "lyso.cell" in str(caught.value)


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CellError, match="no such cell file"):
        read_cell(tmp_path / "absent.cell")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CellError, match="neither a cell file nor a PDB file"):
        read_cell(tmp_path / "notes.txt")


def test_cell_of_a_pdb_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pdb"
    path.write_text("CRYST1   66.200   66.200  150.200  90.00  90.00 120.00 H 3\nEND\n")
    cell = read_cell(path)
    assert cell.parameters == pytest.approx((66.2, 66.2, 150.2, 90, 90, 120))
    assert (cell.lattice_type, cell.centring) == ("rhombohedral", "H")


def test_cell_of_an_mtz_file(tmp_path: Path) -> None:
    mtz = gemmi.Mtz(with_base=True)
    mtz.spacegroup = gemmi.SpaceGroup("P 43 21 2")
    mtz.set_cell_for_all(gemmi.UnitCell(79.3, 79.3, 38.1, 90, 90, 90))
    mtz.write_to_file(str(tmp_path / "x.mtz"))
    cell = read_cell(tmp_path / "x.mtz")
    assert cell == UnitCell(79.3, 79.3, 38.1, lattice_type="tetragonal", unique_axis="c")


def test_a_written_file_is_read_again(tmp_path: Path) -> None:
    cell = parse_cell(LYSOZYME)
    write_cell(cell, tmp_path / "again.cell")
    assert read_cell(tmp_path / "again.cell").parameters == pytest.approx(cell.parameters)
