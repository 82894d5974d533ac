from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sfxlab.errors import OutputExistsError, RunError
from sfxlab.pipeline import FrameResult
from sfxlab.recipe import Recipe
from sfxlab.store import Run
from sfxlab.store.tables import tables_of

MakeResult = Callable[..., FrameResult]
MakeRun = Callable[..., Run]


def test_a_growing_run_shows_its_chunks_in_the_order_of_frames(make_run: MakeRun, make_result: MakeResult) -> None:
    run, reader = make_run(6, 2), None
    with run.writing():
        for chunk, frames in ((2, [4, 5]), (0, [0, 1, 4, 5]), (1, [0, 1, 2, 3, 4, 5])):
            run.write_chunk(chunk, [make_result(2 * chunk), make_result(2 * chunk + 1)])
            reader = Run(run.path)
            assert reader.frames["frame"].to_pylist() == frames
            assert not reader.is_finished
    assert reader.is_finished
    assert reader.missing_chunks() == []


def test_tables_of_a_run_are_those_of_its_results(make_run: MakeRun, make_result: MakeResult) -> None:
    run, results = make_run(5, 2), [make_result(i, i, (i,) * (i % 3)) for i in range(5)]
    for chunk in range(3):
        run.write_chunk(chunk, results[2 * chunk : 2 * chunk + 2])
    for name, table in tables_of(results).items():
        # Not Table.equals, for which NaN differs from NaN; representations of numbers are exact.
        assert repr(run.table(name).to_pylist()) == repr(table.to_pylist())
        assert sum(len(part) for part in run.parts(name)) == len(table)
    assert [result.index for result in run.results()] == list(range(5))
    assert run.table("reflections", ["h", "intensity"]).column_names == ["h", "intensity"]


def test_an_empty_run_has_empty_tables(make_run: MakeRun) -> None:
    run = make_run(6, 2)
    assert len(run.frames) == len(run.reflections) == 0
    assert run.missing_chunks() == [0, 1, 2]
    assert list(run.results()) == []


def test_recipe_and_geometry_lie_beside_the_tables(make_run: MakeRun) -> None:
    run = make_run()
    assert Recipe.read(run.path / "recipe.toml") == run.recipe == Recipe()
    assert (run.path / "geometry.geom").read_bytes() == b"photon_energy = 9494.7\r\n"
    assert run.record.versions["sfxlab"]


def test_nothing_is_overwritten(make_run: MakeRun) -> None:
    run = make_run()
    with pytest.raises(OutputExistsError, match="--resume"):
        Run.create(run.path, run.record, [])
    assert [path.name for path in run.path.parent.iterdir()] == ["run"]


def test_frames_that_are_not_those_of_the_chunk_are_refused(make_run: MakeRun, make_result: MakeResult) -> None:
    run = make_run(6, 2)
    with pytest.raises(RunError, match="frames 2 to 3"):
        run.write_chunk(1, [make_result(0), make_result(1)])
    assert run.missing_chunks() == [0, 1, 2]


def test_two_cannot_write_at_once_and_the_second_learns_who_does(make_run: MakeRun) -> None:
    run = make_run()
    with run.writing():
        with pytest.raises(RunError, match=r"process \d+ of .+ on .+"), Run(run.path).writing():
            pass
        assert run.record.status == "running"
    with Run(run.path).writing():
        pass


def test_an_interrupted_run_says_so(make_run: MakeRun, make_result: MakeResult) -> None:
    run = make_run(6, 2)
    with contextlib.suppress(KeyboardInterrupt), run.writing():
        run.write_chunk(0, [make_result(0), make_result(1)])
        raise KeyboardInterrupt
    assert run.record.status == "interrupted"
    assert run.record.finished is None


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run"):
        Run(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-20], "damaged"),
        (lambda text: text.replace('"format": 2', '"format": 99'), "another format"),
        (lambda text: text.replace('"chunk_size": 2', '"chunk_size": "two"'), "chunk_size"),
        (lambda text: "[]", "damaged"),
    ],
)
def test_a_damaged_record_is_refused(make_run: MakeRun, damage: Callable[[str], str], message: str) -> None:
    record = make_run().path / "run.json"
    record.write_text(damage(record.read_text()))
    with pytest.raises(RunError, match=message) as caught:
        Run(record.parent)
    assert caught.value.path == str(record)


def test_the_summary_counts_hits_and_lattices(make_run: MakeRun, make_result: MakeResult) -> None:
    run = make_run(4, 2)
    run.write_chunk(0, [make_result(0, 3, (1, 2)), make_result(1, 3, ())])
    assert "frames 2 of 4, hits 1 (50.0% of frames), indexed 1 (100.0% of hits), lattices 2" in repr(run)
    assert "<td>2 of 4</td>" in run._repr_html_()


def test_reasons_are_counted_the_most_frequent_first(make_run: MakeRun, make_result: MakeResult) -> None:
    run, why = make_run(4, 4), ["no lattice", "", "the frame cannot be read", "the frame cannot be read"]
    run.write_chunk(0, [replace(make_result(i), reason=reason) for i, reason in enumerate(why)])
    assert list(run.reasons().items()) == [("the frame cannot be read", 2), ("no lattice", 1)]


def test_a_run_travels_as_its_path(make_run: MakeRun) -> None:
    run = make_run()
    assert pickle.loads(pickle.dumps(run)).record == run.record


def test_the_record_is_plain_json(make_run: MakeRun) -> None:
    values = json.loads((make_run(6, 2).path / "run.json").read_text())
    assert (values["n_frames"], values["chunk_size"], values["status"]) == (6, 2, "running")
    assert values["recipe"]["peaks"]["min_snr"] == 5.0


def test_one_frame_is_found_by_its_number(make_run: MakeRun, make_result: MakeResult) -> None:
    run = make_run(6, 2)
    run.write_chunk(2, [make_result(4), make_result(5)])
    assert run.result(5).id == make_result(5).id
    for index in (-1, 0, 6):
        with pytest.raises(RunError, match="this frame is not in the run so far"):
            run.result(index)
