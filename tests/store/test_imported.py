"""Runs made of streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sfxlab.crystal import UnitCell
from sfxlab.errors import OutputExistsError, StreamError
from sfxlab.geometry import Detector
from sfxlab.interop.stream_writer import write_stream
from sfxlab.pipeline import FrameResult
from sfxlab.recipe import Recipe
from sfxlab.store import import_stream

MakeResult = Callable[..., FrameResult]
MakeStream = Callable[..., Path]
CELL = UnitCell(75.0, 80.0, 38.1, 90.0, 100.0, 90.0, "monoclinic", "C", "b")


@pytest.fixture
def make_stream(tmp_path: Path, detector: Detector) -> MakeStream:
    def write(results: Sequence[FrameResult], cell: UnitCell | None = CELL) -> Path:
        path = tmp_path / "made.stream"
        write_stream(path, results, detector, geometry_text="", cell=cell, command="other --program")
        return path

    return write


@pytest.fixture
def make_bare(make_result: MakeResult) -> MakeResult:
    """`make_bare(index, n_crystals)`: a frame of crystals that have no reflections."""
    return lambda index, n_crystals=1: make_result(index, 0, (0,) * n_crystals)


def test_a_run_holds_what_the_stream_does(make_stream: MakeStream, make_bare: MakeResult, tmp_path: Path) -> None:
    results = [make_bare(index, index % 3) for index in range(7)]
    run = import_stream(make_stream(results), tmp_path / "run", ["sfxlab", "import"])
    assert run.is_finished
    assert run.frames["status"].to_pylist() == [result.status for result in results]
    assert run.frames["event"].to_pylist() == [result.id.event for result in results]
    assert run.frames["n_crystals"].to_pylist() == [0, 1, 2, 0, 1, 2, 0]
    found = [crystal.basis for result in run.results() for crystal in result.crystals]
    expected = [crystal.basis for result in results for crystal in result.crystals]
    # A stream has seven digits of 1/nm.
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_the_record_says_where_it_came_from(make_stream: MakeStream, make_bare: MakeResult, tmp_path: Path) -> None:
    stream = make_stream([make_bare(0)])
    run = import_stream(stream, tmp_path / "run", ["sfxlab", "import"])
    assert run.recipe == Recipe().with_cell(CELL)
    assert [file.path for file in run.record.files] == [str(stream)]
    assert run.record.inputs == ("/data/lysozyme.cxi",)
    assert run.record.command[:2] == ("sfxlab", "import")
    assert run.record.command[2].endswith(": other --program]")


def test_frames_are_counted_from_0_whatever_numbers_the_stream_gives(
    make_stream: MakeStream, make_bare: MakeResult, tmp_path: Path
) -> None:
    results = [replace(make_bare(0), index=index) for index in (41, 7, 7, 1000)]
    run = import_stream(make_stream(results), tmp_path / "run")
    assert run.frames["frame"].to_pylist() == [0, 1, 2, 3]


def test_many_frames_are_several_chunks(make_stream: MakeStream, make_bare: MakeResult, tmp_path: Path) -> None:
    run = import_stream(make_stream([make_bare(index, 0) for index in range(205)]), tmp_path / "run")
    assert [path.name for path in sorted((run.path / "frames").iterdir())] == [
        "part-000000.parquet", "part-000001.parquet", "part-000002.parquet",
    ]  # fmt: skip
    assert run.frames["frame"].to_pylist() == list(range(205))


def test_a_stream_without_a_target_cell_gives_a_recipe_without_one(
    make_stream: MakeStream, make_bare: MakeResult, tmp_path: Path
) -> None:
    assert import_stream(make_stream([make_bare(0)], cell=None), tmp_path / "run").recipe == Recipe()


def test_a_stream_without_frames_is_refused(make_stream: MakeStream, tmp_path: Path) -> None:
    with pytest.raises(StreamError, match="there are no frames in this stream"):
        import_stream(make_stream([]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_stream_that_is_damaged_at_its_end_leaves_no_run(
    make_stream: MakeStream, make_bare: MakeResult, tmp_path: Path
) -> None:
    stream = make_stream([make_bare(index) for index in range(3)])
    stream.write_text(stream.read_text()[:-40])
    with pytest.raises(StreamError, match=r"made\.stream, line \d+"):
        import_stream(stream, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_there_is_left_alone(make_stream: MakeStream, make_bare: MakeResult, tmp_path: Path) -> None:
    stream = make_stream([make_bare(0)])
    run = import_stream(stream, tmp_path / "run")
    before = run.record
    with pytest.raises(OutputExistsError):
        import_stream(stream, tmp_path / "run")
    assert run.record == before


@pytest.mark.parametrize(
    ("name", "frames", "crystals"),
    [
        ("lyso/reference/xgandalf_fullmask.stream.gz", 120, 95),
        ("real/stream_5ht2b/5ht2b.stream", 70, 32),
        ("real/thermolysin_cspad/thermolysin_crystfel.stream", 4, 5),
    ],
)
def test_streams_of_other_programs_become_runs(
    shared_data: Path, tmp_path: Path, name: str, frames: int, crystals: int
) -> None:
    counts = import_stream(shared_data / name, tmp_path / "run").counts
    assert (counts.frames, counts.lattices) == (frames, crystals)
