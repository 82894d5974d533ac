from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from sfxlab.errors import RunError
from sfxlab.pipeline import FrameResult
from sfxlab.store import Run
from sfxlab.store.parts import committed_chunks, part_path, read_part, remove_leftovers
from sfxlab.store.tables import ADDED

MakeResult = Callable[..., FrameResult]
MakeRun = Callable[..., Run]


def test_a_chunk_without_its_part_of_frames_does_not_count(make_run: MakeRun, make_result: MakeResult) -> None:
    run = make_run(6, 2)
    for chunk in (0, 2):
        run.write_chunk(chunk, [make_result(2 * chunk), make_result(2 * chunk + 1)])
    part_path(run.path, "frames", 0).unlink()
    assert committed_chunks(run.path) == [2]
    assert set(run.peaks["frame"].to_pylist()) == {4, 5}


def test_the_part_of_frames_is_put_in_place_last(
    make_run: MakeRun, make_result: MakeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, placed = make_run(2, 2), []
    replace = __import__("os").replace
    monkeypatch.setattr(
        "sfxlab.whole_files.os.replace", lambda source, to: (placed.append(Path(to).parent.name), replace(source, to))
    )
    run.write_chunk(0, [make_result(0), make_result(1)])
    assert placed[-1] == "frames"
    assert sorted(placed) == ["crystals", "frames", "peaks", "radial", "reflections", "timings"]


def test_what_a_killed_process_left_is_neither_read_nor_kept(make_run: MakeRun, make_result: MakeResult) -> None:
    run = make_run(2, 2)
    run.write_chunk(0, [make_result(0), make_result(1)])
    leftover = run.path / "frames" / ".part-000000.parquet.0123abcd.tmp"
    leftover.write_bytes(b"half a part")
    assert len(run.frames) == 2
    remove_leftovers(run.path)
    assert not leftover.exists()
    assert len(run.frames) == 2


def test_a_damaged_part_is_named_with_what_to_do(make_run: MakeRun, make_result: MakeResult) -> None:
    run = make_run(2, 2)
    run.write_chunk(0, [make_result(0), make_result(1)])
    part = part_path(run.path, "peaks", 0)
    part.write_bytes(part.read_bytes()[:-10])
    with pytest.raises(RunError, match="missing or damaged") as caught:
        _ = run.peaks
    assert caught.value.path == str(part)
    assert "--resume" in str(caught.value)


def test_a_folder_name_with_an_equals_sign_adds_no_column(make_run: MakeRun, make_result: MakeResult) -> None:
    run = make_run(2, 2, name="cell=lysozyme")
    run.write_chunk(0, [make_result(0), make_result(1)])
    assert read_part(run.path, "frames", 0).column_names[0] == "frame"
    assert "cell" not in run.frames.column_names


def test_a_run_from_before_some_columns_came_reads_as_without_them(make_run: MakeRun, make_result: MakeResult) -> None:
    run = make_run(2, 2)
    results = [make_result(0, reflections=(5, 3)), make_result(1, reflections=())]
    run.write_chunk(0, results)
    for name, added in ADDED.items():
        path = part_path(run.path, name, 0)
        table = pq.read_table(path)
        pq.write_table(table.drop_columns(list(added)), path)
    found = list(run.results())
    assert [crystal.mosaicity for crystal in found[0].crystals] == [0.0, 0.0]
    for before, after in zip(results[0].reflections, found[0].reflections, strict=True):
        np.testing.assert_array_equal(after.intensity, before.intensity)
        assert np.isnan(after.intensity_profile).all()
        assert after.intensity_profile.dtype == np.float32
    assert run.table("reflections", ["sigma_sum", "h"]).column_names == ["sigma_sum", "h"]
    assert len(run.table("crystals", ["mosaicity"])) == 2
    assert len(run.table("frames", ["bandwidth"])) == 2
