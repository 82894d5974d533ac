"""The table of frames: order, filters, pages, and what it shares with a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from sfxlab.errors import FilterError
from sfxlab.pipeline import FrameResult
from sfxlab.session import Person, Session
from sfxlab.store import SCHEMAS, Run
from sfxlab.widgets.frame_table import FrameTable as FrameTableWidget
from sfxlab.widgets.models.filters import filtered
from sfxlab.widgets.models.frame_table import FrameTable, RunFrames, columns_of

N = 500


@pytest.fixture(scope="module")
def tables() -> tuple[pa.Table, pa.Table]:
    """Frames of all kinds, and crystals, two in some of the frames."""
    rng = np.random.default_rng(3)
    status = rng.choice(["blank", "hit", "indexed", "failed"], N, p=[0.4, 0.2, 0.35, 0.05])
    n_crystals = np.where(status == "indexed", rng.integers(1, 3, N), 0)
    reason = np.where(status == "hit", rng.choice(["wrong cell: only 70%", "no lattice"], N), "")
    columns = {
        "frame": np.arange(N), "path": np.full(N, "run1.cxi"), "event": [f"//{i}" for i in range(N)], "status": status,
        "reason": reason, "photon_energy": rng.normal(9500, 9, N), "camera_length": np.full(N, 0.1),
        "n_peaks": rng.integers(0, 200, N), "n_crystals": n_crystals,
        "peak_resolution": np.where(status == "blank", np.nan, rng.uniform(0.2, 0.6, N)),
        "ice_spots": rng.exponential(1, N), "ice_rings": rng.exponential(1, N), "salt": np.zeros(N),
        "bandwidth": np.full(N, np.nan),
    }  # fmt: skip
    frames = pa.table(
        {name: pa.array(values).cast(SCHEMAS["frames"].field(name).type) for name, values in columns.items()}
    )
    of_frame = np.repeat(np.arange(N), n_crystals)
    m = len(of_frame)
    crystals = {
        "frame": of_frame, **{name: rng.normal(80, 0.5, m) for name in ("a", "b", "c", "alpha", "beta", "gamma")},
        "n_peaks": rng.integers(5, 40, m), "n_reflections": rng.integers(50, 500, m), "log10_p": rng.normal(-30, 9, m),
    }  # fmt: skip
    return frames, pa.table(crystals)


@pytest.fixture
def table(tables: tuple[pa.Table, pa.Table]) -> FrameTable:
    return FrameTable(columns_of(*tables))


def test_the_worst_frames_come_first(table: FrameTable) -> None:
    table.arrange()
    page = table.page(0, N)
    kinds = [{"failed": 0, "hit": 1, "indexed": 2, "blank": 3}[status] for status in page["status"]]
    assert kinds == sorted(kinds)
    peaks = [n for n, status in zip(page["n_peaks"], page["status"], strict=True) if status == "hit"]
    assert peaks == sorted(peaks, reverse=True)
    explained = [x for x, status in zip(page["explained"], page["status"], strict=True) if status == "indexed"]
    assert explained == sorted(explained)


@pytest.mark.parametrize("name", ["n_peaks", "resolution", "a", "reason", "event"])
@pytest.mark.parametrize("descending", [False, True])
def test_any_column_sorts_both_ways_and_what_is_unknown_is_last(table: FrameTable, name: str, descending: bool) -> None:
    assert table.arrange(name, descending) == N
    values = table.page(0, N)[name]
    known = [value for value in values if value not in (None, "")]
    assert values[: len(known)] == sorted(known, reverse=descending)


def test_pages_are_the_whole_and_nothing_more(table: FrameTable) -> None:
    table.arrange("n_peaks", True, "status != blank")
    shown = table.page(0, N)["frame"]
    pages = [frame for first in range(0, N, 64) for frame in table.page(first, 64)["frame"]]
    assert pages == shown
    assert all(table.place(frame) == i for i, frame in enumerate(shown[:50]))
    blank = table.columns["status"].to_pylist().index("blank")
    assert table.place(blank) == -1


def test_a_frame_shows_the_cell_of_its_best_crystal(tables: tuple[pa.Table, pa.Table], table: FrameTable) -> None:
    crystals = tables[1].to_pylist()
    for frame in (row["frame"] for row in crystals[:20]):
        best = min((row for row in crystals if row["frame"] == frame), key=lambda row: row["log10_p"])
        assert table.columns["a"][frame] == pytest.approx(best["a"], rel=1e-6)
        n = sum(row["n_reflections"] for row in crystals if row["frame"] == frame)
        assert table.columns["n_reflections"][frame] == n


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("status = hit", lambda row: row["status"] == "hit"),
        ("status == HIT and n_peaks > 100", lambda row: row["status"] == "hit" and row["n_peaks"] > 100),
        ("n_peaks >= 50 n_peaks<=60", lambda row: 50 <= row["n_peaks"] <= 60),
        ("status=failed or (status=hit reason~'WRONG cell')", lambda r: r["status"] == "failed" or "wr" in r["reason"]),
        ("not indexed", lambda row: row["status"] != "indexed"),
        ("resolution < 3", lambda row: row["peak_resolution"] > 1 / 3),
        ("not resolution < 3", lambda row: not row["peak_resolution"] > 1 / 3),
        ('"no lattice"', lambda row: row["reason"] == "no lattice"),
        ("reason !~ lattice and reason != ''", lambda row: row["reason"].startswith("wrong")),
        ("event = //17", lambda row: row["event"] == "//17"),
    ],
)  # fmt: skip
def test_filters_say_what_they_say(
    tables: tuple[pa.Table, pa.Table], table: FrameTable, text: str, condition: Callable[[dict[str, object]], bool]
) -> None:
    expected = [row["frame"] for row in tables[0].to_pylist() if condition(row)]
    assert np.flatnonzero(filtered(text, table.columns, N)).tolist() == expected
    assert expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("peaks > 3", "there is no column 'peaks'"),
        ("n_peaks > many", "'many' is no number"),
        ("n_peaks ~ 3", "'n_peaks' is a number"),
        ("status > hit", "'status' is a text"),
        ("(status = hit", "a bracket is not closed"),
        ("status = hit)", "a bracket is closed that was not opened"),
        ("status =", "a value is missing"),
        ("= 3", "something is missing"),
        ("status = 'hit", "the filter cannot be read"),
        ("(" * 5000, "the filter is too long"),
    ],
)
def test_what_is_no_filter_is_told(table: FrameTable, text: str, said: str) -> None:
    before = table.arrange(text="status = hit")
    with pytest.raises(FilterError, match=said.replace("(", r"\(")):
        table.arrange(text=text)
    assert len(table.order) == before  # what is shown stays


def test_python_in_a_filter_is_but_words_to_look_for(table: FrameTable) -> None:
    assert table.arrange(text="__import__('os').system('true')") == 0


def test_a_frame_with_several_tags_has_each_of_them(table: FrameTable) -> None:
    table.set_tags({"ice": ["7", "9"], "nice": ["8"], "two lattices": ["9", "9000", "run"]})
    for text, frames in (("tags = ice", [7, 9]), ("tags ~ ice", [7, 8, 9]), ("tags = 'two lattices'", [9])):
        table.arrange("frame", False, text)
        assert table.page(0, 10)["frame"] == frames
    assert table.page(0, 1)["tags"] == ["ice, two lattices"]


def test_a_run_that_grows_is_read_chunk_by_chunk(
    make_run: Callable[..., Run], make_result: Callable[..., FrameResult]
) -> None:
    run = make_run()
    reader = RunFrames(run)
    assert reader.read() is None
    with run.writing():
        run.write_chunk(0, [make_result(0), make_result(1, reflections=())])
        first = reader.read()
        assert first is not None
        assert first.n == 2
        assert reader.read() is None  # nothing new
        run.write_chunk(1, [make_result(2, reflections=(3, 4)), make_result(3)])
    second = reader.read()
    assert second is not None
    assert second.columns["n_crystals"].tolist() == [1, 0, 2, 1]
    assert reader.frames_of({"kind": "crystal", "items": [0, 2, 3]}) == [0, 2, 3]
    assert reader.crystal_frames.tolist() == [0, 2, 2, 3]
    assert reader.frames_of({"kind": "frame", "items": [1]}) == [1]
    assert reader.frames_of({}) is None


def test_two_people_see_the_same_frame_selection_and_tags(
    table: FrameTable, tmp_path: Path, until: Callable[[Callable[[], bool]], None]
) -> None:
    catalogue = f"sqlite:///{tmp_path / 'sessions.sqlite'}"
    with Session("beamtime", catalogue, "anna") as anna, Session("beamtime", catalogue, "ben") as ben:
        hers, his = FrameTableWidget(table, anna), FrameTableWidget(FrameTable(table.columns), ben)
        hers.show_frame(17)
        until(lambda: his.frame == 17)
        assert his.place == his.table.place(17)
        hers.select([3, 4, 5])
        until(lambda: his.n_selected == 3)
        his.only_selected = True
        assert sorted(his.table.page(0, 10)["frame"]) == [3, 4, 5]
        hers.tag([4, 5], "ice")
        until(lambda: his.table.arrange("frame", False, "tags = ice") == 2)
        for widget in (hers, his):
            widget.close()


def test_a_viewer_cannot_change_what_others_see(table: FrameTable, tmp_path: Path) -> None:
    catalogue = f"sqlite:///{tmp_path / 'sessions.sqlite'}"
    with Session("beamtime", catalogue, "anna") as anna:
        anna.set("view.frame", 3)
        with Session("beamtime", catalogue, Person("vera", "Vera", "viewer")) as vera:
            widget = FrameTableWidget(table, vera)
            assert widget.disabled
            assert widget.frame == 3
            widget.show_frame(8)
            assert widget.frame == 3
            assert "vera" in widget.message.lower() or "viewer" in widget.message.lower()
            widget.close()
        assert anna.get("view.frame") == 3


def test_a_filter_that_is_not_understood_is_a_sentence_in_the_widget(table: FrameTable) -> None:
    widget = FrameTableWidget(table)
    widget.filter = "n_peaks >"
    assert "a value is missing" in widget.message
    assert widget.n_shown == N
    widget.filter = "n_peaks > 100"
    assert widget.message == ""
    assert widget.n_shown == int((table.columns["n_peaks"] > 100).sum())
    assert "<table>" in widget.figure(5).data
