"""Two runs of the same frames side by side, without a browser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sfxlab
from sfxlab.comparison import RunComparison
from sfxlab.errors import RunError
from sfxlab.pipeline import FrameResult
from sfxlab.session import Person, Session
from sfxlab.store import Run
from sfxlab.widgets import Compare
from sfxlab.widgets.models.compare import ComparedRuns
from sfxlab.widgets.models.frame_table import WORST

Frame = tuple[tuple[int, ...], str]


@pytest.fixture
def two_runs(make_run: Callable[..., Run], make_result: Callable[..., FrameResult]) -> Callable[..., tuple[Run, Run]]:
    """`two_runs(before, after)`: frames with reflections for each lattice; "turn" turns its lattices by 0.2°."""

    def made(name: str, frames: list[tuple[int, ...] | str]) -> Run:
        run = make_run(len(frames), 3, name)
        with run.writing():
            for chunk in range(-(-len(frames) // 3)):
                numbers = range(3 * chunk, min(3 * chunk + 3, len(frames)))
                run.write_chunk(chunk, [result(number, frames[number]) for number in numbers])
        return run

    def result(number: int, frame: tuple[int, ...] | str) -> FrameResult:
        if frame == "failed":
            return make_result(number, (), status="failed", reason="FrameError: damaged")
        if frame == "turn":
            found = make_result(number, (7,))
            c, s = np.cos(np.radians(0.2)), np.sin(np.radians(0.2))
            turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
            return replace(found, crystals=tuple(replace(one, basis=turn @ one.basis) for one in found.crystals))
        return make_result(number, frame)

    return lambda before, after: (made("one", before), made("two", after))


@pytest.fixture(scope="module")
def compared(small_run: Run, tmp_path_factory: pytest.TempPathFactory) -> RunComparison:
    """The small run, and the same frames with a recipe that finds one lattice at most."""
    changed = small_run.recipe.model_copy(
        update={"indexing": small_run.recipe.indexing.model_copy(update={"max_lattices": 1})}
    )
    folder = tmp_path_factory.mktemp("recipes")
    return sfxlab.compare_recipes(
        small_run.open_frames(), small_run.recipe, changed, output=folder, most=None, progress=None
    )


def test_frames_that_lost_come_first_and_then_those_that_moved_and_gained(
    two_runs: Callable[..., tuple[Run, Run]],
) -> None:
    before: list[Any] = [(7,), (7,), (7, 7), (), (7,), (7, 7), "failed", (7,)]
    after: list[Any] = [(7,), "turn", (7,), (7,), (), (), (), "failed"]
    model = ComparedRuns(sfxlab.compare(*two_runs(before, after)))
    assert model.counts() == {"lost": 4, "moved": 1, "gained": 2, "same": 1}
    model.table.arrange(WORST)
    # Two lattices lost, then one each, then what turned, then what gained a lattice, or could be read again.
    assert model.table.frames(0, 9) == [5, 2, 4, 7, 1, 3, 6, 0]
    assert model.worst() == 5
    assert model.table.arrange(text="state = lost and lattices_before = 2") == 2
    assert model.table.arrange(text="reason_after ~ damaged") == 1
    page = model.table.page(0, 1)
    assert (page["frame"], page["state"], page["status_after"]) == ([7], ["lost"], ["failed"])
    model.table.arrange("rotation")
    assert model.table.page(0, 1)["rotation"][0] == pytest.approx(0.2, rel=1e-3)
    assert (
        model.sentence(1)
        == "frame 1 moved: 1 → 1 lattices, 1 of them in both, turned by 0.200° and strained by 0.000 %"
    )
    assert model.sentence(7) == "frame 7 lost: 1 → 0 lattices, 0 of them in both; after: FrameError: damaged"
    assert model.sentence(6) == "frame 6 gained: failed → blank; before: FrameError: damaged"
    assert model.sentence(99) == "frame 99 is not in both runs"
    assert model.title() == "one → two"


def test_frames_of_another_order_find_each_other(small_run: Run, tmp_path: Path) -> None:
    frames = small_run.open_frames()
    other = sfxlab.process(frames[3:12:2], small_run.recipe, output=tmp_path / "some", progress=None)
    model = ComparedRuns(sfxlab.compare(small_run, other))
    assert [model.number_after(frame) for frame in range(12)] == [
        None, None, None, 0, None, 1, None, 2, None, 3, None, 4,
    ]  # fmt: skip
    assert [model.number_before(frame) for frame in range(6)] == [3, 5, 7, 9, 11, None]
    assert model.only() == [f"7 frames are only in {small_run.path.name} so far"]
    assert any("frames" in line[1] for line in model.differences())
    compare = Compare(small_run, other)
    left, right = compare.viewers
    right.frame = 4
    assert (left.frame, compare.frame) == (11, 11)
    left.frame = 4  # only there: the other one stays
    assert (right.frame, compare.head.about) == (4, "frame 4 is not in both runs")
    with pytest.raises(RunError, match="frame 4 is not in both runs"):
        compare.picture()
    compare.close()


def test_two_recipes_are_tried_on_the_same_frames(compared: RunComparison, small_run: Run, tmp_path: Path) -> None:
    assert compared.recipe_differences == {"indexing.max_lattices": (small_run.recipe.indexing.max_lattices, 1)}
    before, after = (np.array(compared.frames[f"lattices_{when}"]) for when in ("before", "after"))
    assert before.max() == 2
    assert np.array_equal(after, np.minimum(before, 1))
    assert compared.counts["lost"] == (before == 2).sum() > 0
    assert [run.path.name for run in (compared.before, compared.after)] == ["before", "after"]
    some = sfxlab.compare_recipes(
        small_run.open_frames(), small_run.recipe, small_run.recipe, output=tmp_path, most=5, progress=None
    )
    assert len(some.frames) == 4  # every third one
    assert some.is_identical


def test_a_click_shows_the_frame_in_both_runs_with_the_same_view(compared: RunComparison, tmp_path: Path) -> None:
    compare = Compare(compared)
    left, right = compare.viewers
    worst = ComparedRuns(compared).worst()
    assert compare.frame == left.frame == right.frame == worst
    assert compare.head.counts == {name: compared.counts[name] for name in ("lost", "moved", "gained", "same")}  # type: ignore[index]
    before = compared.before.recipe.indexing.max_lattices
    assert compare.head.differences == [["recipe", "indexing.max_lattices", str(before), "1"]]
    compare.only("lost")
    assert compare.table.n_shown == compared.counts["lost"]
    compare.table.filter = ""
    assert compare.head.state == ""
    compare.table.frame = 1
    assert (left.frame, right.frame) == (1, 1)
    left.zoom, left.centre = 4.0, [200.0, 100.0]
    assert (right.zoom, right.centre) == (4.0, [200.0, 100.0])
    right.contrast = {**right.contrast, "gamma": 0.5}
    assert left.contrast["gamma"] == 0.5
    compare._step(None, {"kind": "step", "on": 1}, [])
    assert compare.frame == compare.table.table.frames(compare.table.place, compare.table.place)[0] != 1
    assert [len(viewer.result(worst).crystals) for viewer in (left, right)] == [2, 1]
    picture = compare.picture(worst, scale=0.25)
    assert picture.width > 2 * left.figure(worst, scale=0.25).width
    page = compare.figure(3).data
    assert "indexing.max_lattices" in page
    assert page.count("<tr>") == 2 + 1 + 3
    compare.close()


def test_everybody_in_a_session_sees_the_frame_that_one_clicked(
    compared: RunComparison, tmp_path: Path, until: Callable[[Callable[[], bool]], None]
) -> None:
    catalogue = f"sqlite:///{tmp_path / 'sessions.sqlite'}"
    with (
        Session("lyso", catalogue, "anna") as anna,
        Session("lyso", catalogue, "ben") as ben,
        Session("lyso", catalogue, Person("vera", "Vera", "viewer")) as vera,
    ):
        mine, other = Compare(compared, session=anna), Compare(compared, session=ben)
        mine.frame = 7
        mine.viewers[1].zoom = 3.0
        until(lambda: [one.frame for one in other.viewers] == [7, 7] and other.frame == 7)
        until(lambda: other.viewers[0].zoom == other.viewers[1].zoom == 3.0)
        other.table.tag([7], "lost by max_lattices")
        until(lambda: mine.viewers[1].tags == ["lost by max_lattices"])
        looking = Compare(compared, session=vera)
        assert looking.frame == 7
        assert looking.head.disabled
        for one in (mine, other, looking):
            one.close()


def test_runs_whose_pixels_are_away_are_compared_without_pictures(two_runs: Callable[..., tuple[Run, Run]]) -> None:
    before, after = two_runs([(7,), ()], [(), (7,)])
    compare = Compare(before.path, str(after.path))
    assert compare.viewers == ()
    assert compare.head.message.startswith("pictures cannot be shown: ")
    assert compare.head.about.startswith("frame 0 lost: 1 → 0 lattices")
    with pytest.raises(RunError, match="pictures cannot be shown"):
        compare.picture()
    compare.close()
    with pytest.raises(RunError, match="two runs are compared"):
        Compare(before)


def test_runs_that_grow_are_compared_anew(
    make_run: Callable[..., Run], make_result: Callable[..., FrameResult]
) -> None:
    runs = [make_run(4, 2, name) for name in ("one", "two")]
    for run in runs:
        with run.writing():
            run.write_chunk(0, [make_result(0), make_result(1, ())])
    compare = Compare(*runs)
    assert compare.head.counts == {"lost": 0, "moved": 0, "gained": 0, "same": 2}
    with runs[0].writing():
        runs[0].write_chunk(1, [make_result(2), make_result(3)])
    compare.take(sfxlab.compare(*runs))
    assert compare.head.only == ["2 frames are only in one so far"]
    with runs[1].writing():
        runs[1].write_chunk(1, [make_result(2, ()), make_result(3)])
    compare.take(sfxlab.compare(*runs))
    assert compare.head.counts == {"lost": 1, "moved": 0, "gained": 0, "same": 3}
    assert compare.table.n_frames == 4
    compare.close()
