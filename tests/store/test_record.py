from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from sfxlab.errors import InputError
from sfxlab.frames import FrameId
from sfxlab.recipe import Recipe
from sfxlab.store import RunRecord, describe


def _record(*paths: Path, recipe: Recipe | None = None, geometry_text: str = "") -> RunRecord:
    names = [FrameId(str(path), "//0") for path in paths]
    return describe(
        recipe or Recipe(),
        names,
        n_frames=len(names),
        chunk_size=8,
        paths=[str(path) for path in paths],
        geometry_text=geometry_text,
    )


def test_small_files_are_hashed_whole(tmp_path: Path) -> None:
    path = tmp_path / "frames.h5"
    path.write_bytes(b"x" * 5000)
    (file,) = _record(path).files
    assert (file.hashed, file.size) == ("whole file", 5000)
    assert file.sha256 == hashlib.sha256(b"x" * 5000).hexdigest()


def test_large_files_are_hashed_at_both_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfxlab.store.record._WHOLE_FILE_LIMIT", 1 << 21)
    path, mib = tmp_path / "frames.h5", 1 << 20
    first, middle, last = b"a" * mib, b"b" * mib, b"c" * mib
    path.write_bytes(first + middle + last)
    (file,) = _record(path).files
    assert file.hashed == "first and last MiB"
    assert file.sha256 == hashlib.sha256(first + last).hexdigest()


def test_addresses_on_the_network_are_recorded_as_they_are() -> None:
    record = describe(Recipe(), [], n_frames=1, chunk_size=1, paths=[], inputs=["s3://bucket/run1/"])
    assert record.inputs == ("s3://bucket/run1/",)


def test_an_input_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"frames\.h5"):
        _record(tmp_path / "frames.h5")


def test_the_record_survives_the_way_through_json(tmp_path: Path) -> None:
    path = tmp_path / "frames.h5"
    path.write_bytes(b"x")
    record = _record(path, recipe=Recipe().changed(peaks={"min_snr": 7}))
    assert RunRecord.model_validate_json(record.to_json()) == record


def test_equal_runs_have_no_differences(tmp_path: Path) -> None:
    path = tmp_path / "frames.h5"
    path.write_bytes(b"x")
    assert _record(path).differences(_record(path)) == []


def test_differences_name_the_parameter_the_file_and_the_geometry(tmp_path: Path) -> None:
    path, other = tmp_path / "frames.h5", tmp_path / "more.h5"
    path.write_bytes(b"x")
    other.write_bytes(b"x")
    before = _record(path)
    path.write_bytes(b"y")
    cell = {"cell": {"a": 79, "b": 79, "c": 38}}
    recipe = Recipe().changed(peaks={"min_snr": 7}, indexing=cell)
    lines = "\n".join(before.differences(_record(path, other, recipe=recipe, geometry_text="clen = 1")))
    assert "peaks.min_snr: 5.0 in the run, 7.0 now" in lines
    assert "indexing.cell.a: None in the run, 79.0 now" in lines
    assert f"{path}: the file has changed" in lines
    assert f"{other}: in the inputs now, not in the run" in lines
    assert "the geometry is another one" in lines
    assert "1 in the run, 2 now" in lines


def test_the_last_chunk_may_be_shorter() -> None:
    record = describe(Recipe(), [], n_frames=21, chunk_size=8, paths=[])
    assert record.n_chunks == 3
    assert record.frames_of(2) == range(16, 21)
