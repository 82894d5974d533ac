"""MTZ files by way of gemmi."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest

from sfxlab.errors import MergeError
from sfxlab.interop.mtz import MtzTable, mtz_bytes, read_mtz


def table(**changes: object) -> MtzTable:
    fields: dict[str, object] = {
        "cell": gemmi.UnitCell(66.2, 66.2, 150.2, 90, 90, 120),
        "space_group": "R 3:H",
        "hkl": np.array([[2, 1, 0], [1, 0, 1], [1, 0, 4]], dtype=np.int32),
        "columns": {"IMEAN": np.array([3.0, 1.5, np.nan]), "SIGIMEAN": np.ones(3), "N": np.array([3.0, 2, 0])},
        "types": {"IMEAN": "J", "SIGIMEAN": "Q", "N": "I"},
        "wavelength": 1.305,
        "history": ("first line", "x" * 100),
    }  # fmt: skip
    return MtzTable(**{**fields, **changes})  # type: ignore[arg-type]


def test_what_is_written_is_read_again_in_the_order_of_ccp4(tmp_path: Path) -> None:
    (tmp_path / "x.mtz").write_bytes(mtz_bytes(table()))
    again = read_mtz(tmp_path / "x.mtz")
    assert again.hkl.tolist() == [[1, 0, 1], [1, 0, 4], [2, 1, 0]]
    assert again.columns["IMEAN"] == pytest.approx([1.5, np.nan, 3.0], nan_ok=True)
    assert again.columns["N"].tolist() == [2, 0, 3]
    assert again.types == table().types
    assert again.space_group == "R 3:H"
    assert again.cell.parameters == pytest.approx((66.2, 66.2, 150.2, 90, 90, 120))
    assert again.wavelength == pytest.approx(1.305, abs=1e-5)
    assert [line.strip() for line in again.history] == ["first line", "x" * 80]


def test_an_unknown_wavelength_stays_unknown(tmp_path: Path) -> None:
    (tmp_path / "x.mtz").write_bytes(mtz_bytes(table(wavelength=float("nan"))))
    assert np.isnan(read_mtz(tmp_path / "x.mtz").wavelength)


def test_long_histories_are_cut_to_what_the_format_holds(tmp_path: Path) -> None:
    (tmp_path / "x.mtz").write_bytes(mtz_bytes(table(history=[f"line {i}" for i in range(50)])))
    assert len(read_mtz(tmp_path / "x.mtz").history) == 30


def test_unmerged_and_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = mtz_bytes(table())
    path = tmp_path / "x.mtz"
    for content in (b"", b"not an MTZ file", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(MergeError, match=r"x\.mtz: the MTZ file cannot be read"):
            read_mtz(path)
    mtz = gemmi.read_mtz_file(str(_write(path, whole)))
    mtz.batches.append(gemmi.Mtz.Batch())
    mtz.write_to_file(str(path))
    with pytest.raises(MergeError, match="not merged"):
        read_mtz(path)


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
