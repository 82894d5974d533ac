"""The merging board: cuts, the merge beside, scales, and what is shared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import sfxlab
from sfxlab.crystal import UnitCell
from sfxlab.errors import MergeError
from sfxlab.pipeline import FrameResult
from sfxlab.session import Person, Session
from sfxlab.store import Run
from sfxlab.widgets.merging_board import MergingBoard as MergingBoardWidget
from sfxlab.widgets.models.merging_board import Cuts, MergingBoard, Settings, read_cuts, read_settings

N = 60
OPTIONS = {"polarisation": None, "reject_harmful": False}


@pytest.fixture
def run(make_run: Callable[..., Run], make_result: Callable[..., FrameResult]) -> Run:
    """Crystals of one structure, every fifth noisy, every tenth with axes that are a little longer."""
    made = make_run(N, 30)
    wide = UnitCell(40.6, 40.6, 30, lattice_type="tetragonal", unique_axis="c")

    def result(index: int) -> FrameResult:
        options = {"cell": wide} if index % 10 == 3 else {}
        return make_result(index, reflections=(150,), noise=150.0 if index % 5 == 0 else 3.0, **options)

    with made.writing():
        for chunk in range(2):
            made.write_chunk(chunk, [result(i) for i in range(30 * chunk, 30 * chunk + 30)])
    return made


@pytest.fixture
def board(run: Run) -> MergingBoard:
    return MergingBoard(run, "4/mmm", **OPTIONS)


def test_figures_are_those_of_the_merge(board: MergingBoard, run: Run) -> None:
    figures = board.figures(Cuts(), Settings(n_shells=4))
    statistics = sfxlab.merge(run, "4/mmm", model="scaled", **OPTIONS).statistics(4)
    for name in ("cc_half", "rsplit", "completeness", "multiplicity", "snr"):
        expected = [getattr(shell, name) for shell in statistics.shells]
        assert figures["main"][name] == pytest.approx(expected, rel=1e-3), name
        assert figures["main"]["overall"][name] == pytest.approx(getattr(statistics.overall, name), rel=1e-3)
    assert figures["crystals"]["given"] == N
    assert sum(figures["crystals"]["correlation"]["every"]) <= N


def test_a_cut_on_the_correlation_takes_the_noisy_crystals_out(board: MergingBoard) -> None:
    every = board.figures(Cuts(), Settings())
    cut = board.figures(Cuts(correlation=0.8), Settings())
    assert every["crystals"]["chosen"] == N
    assert cut["crystals"]["chosen"] == N - N // 5
    assert cut["main"]["crystals"] == cut["crystals"]["used"] <= N - N // 5
    table = board.running.crystals
    noisy = np.array([int(event[2:]) % 5 == 0 for event in table["event"].to_pylist()])
    assert np.array_equal(table["chosen"].to_numpy(zero_copy_only=False), ~noisy)
    assert board.figures(Cuts(), Settings())["main"]["overall"] == pytest.approx(every["main"]["overall"], nan_ok=True)


def test_cuts_on_the_cell_are_about_the_cell_of_the_merge(board: MergingBoard) -> None:
    assert board.figures(Cuts(lengths=1.0), Settings())["crystals"]["chosen"] == N - N // 10
    assert board.limits()["lengths"][1] > 1.0
    with pytest.raises(MergeError, match="no crystal passes the cuts"):
        board.figures(Cuts(correlation=2.0), Settings())
    assert board.figures(Cuts(), Settings())["crystals"]["chosen"] == N  # nothing is lost by that


def test_tagged_frames_and_crystals_are_left_out(board: MergingBoard) -> None:
    tags = {("frame", "ice"): {"3", "7", "1000", "all"}, ("crystal", "ice"): {"9"}, ("frame", "flow"): {"11"}}
    cuts = Cuts(without=("ice", "flow"))
    figures = board.figures(cuts, Settings(), lambda kind, tag: tags.get((kind, tag), set()))
    assert figures["crystals"]["chosen"] == N - 4
    table = board.running.crystals
    left_out = [
        e for e, chosen in zip(table["event"].to_pylist(), table["chosen"].to_pylist(), strict=True) if not chosen
    ]
    assert sorted(left_out) == ["//11", "//3", "//7", "//9"]


def test_only_selected_crystals_are_merged(board: MergingBoard) -> None:
    rows = list(range(10, 40))
    figures = board.figures(Cuts(only_selected=True), Settings(), None, rows)
    assert figures["crystals"]["chosen"] == 30
    assert figures["main"]["why"] == "selected only"


def test_a_merge_is_kept_beside_while_the_other_moves(board: MergingBoard) -> None:
    settings = Settings(n_shells=3, beside=Cuts(correlation=0.8))
    beside = [board.figures(cuts, settings)["beside"] for cuts in (Cuts(), Cuts(lengths=1.0))]
    alone = board.figures(Cuts(correlation=0.8), Settings(n_shells=3))["main"]
    for one in beside:
        assert one["cc_half"] == alone["cc_half"]
        assert one["why"] == "CC ≥ 0.8"
    same = board.figures(Cuts(correlation=0.8), settings)
    assert same["beside"]["cc_overall"] == pytest.approx(1)
    assert board.figures(Cuts(), Settings())["beside"] is None


def test_another_merge_is_compared_with(run: Run) -> None:
    other, mine = (sfxlab.merge(run, "4/mmm", model=model, **OPTIONS) for model in ("none", "scaled"))
    figures = MergingBoard(run, "4/mmm", beside=other, **OPTIONS).figures(Cuts(), Settings())
    assert figures["beside"]["why"] == "another merge"
    assert figures["beside"]["cc_overall"] == pytest.approx(sfxlab.compare(mine, other).overall.cc, rel=1e-3)
    assert figures["beside"]["overall"]["rsplit"] == pytest.approx(other.statistics(10).overall.rsplit, rel=1e-3)


def test_scales_do_not_depend_on_what_was_fitted_before(board: MergingBoard, run: Run) -> None:
    wanted, settings = Cuts(correlation=0.8), Settings(scaled_on=Cuts(correlation=0.8))
    board.figures(Cuts(lengths=1.0), Settings(scaled_on=Cuts(lengths=1.0)))
    here = board.merged(wanted, settings)
    fresh = MergingBoard(run, "4/mmm", **OPTIONS).merged(wanted, settings)
    assert np.array_equal(here.intensity, fresh.intensity)
    assert not board.figures(wanted, settings)["refit_due"]


def test_a_run_that_grows_is_taken_in(make_run: Callable[..., Run], make_result: Callable[..., FrameResult]) -> None:
    run = make_run(40, 20)
    with run.writing():
        run.write_chunk(0, [make_result(i, reflections=(150,)) for i in range(20)])
        board = MergingBoard(run, "4/mmm", **OPTIONS)
        assert board.update() == 0
        run.write_chunk(1, [make_result(i, reflections=(150,)) for i in range(20, 40)])
        assert board.update() == 20
    assert board.figures(Cuts(), Settings())["crystals"]["chosen"] == 40


@pytest.mark.parametrize("values", [{"corelation": 0.5}, {"lengths": "wide"}, {"lengths": -1}])
def test_cuts_that_make_no_sense_are_told(values: dict[str, object]) -> None:
    with pytest.raises(MergeError, match="cannot be used") as told:
        read_cuts(values)
    assert "lengths" in str(told.value.expected)
    with pytest.raises(MergeError, match="n_shells"):
        read_settings({"n_shells": 0})


def test_one_person_cuts_and_everybody_sees_the_same_figures(
    run: Run, tmp_path: Path, until: Callable[[Callable[[], bool]], None]
) -> None:
    catalogue = f"sqlite:///{tmp_path / 'sessions.sqlite'}"
    with Session("beamtime", catalogue, "anna") as anna, Session("beamtime", catalogue, "ben") as ben:
        hers = MergingBoardWidget(run, "4/mmm", anna, **OPTIONS)
        his = MergingBoardWidget(run, "4/mmm", ben, **OPTIONS)
        hers.cut(correlation=0.8)
        hers.put_beside()
        hers.cut()
        until(lambda: his.figures.get("beside") is not None and his.cuts == {})
        until(lambda: his.figures["main"] == hers.figures["main"] and his.figures["beside"] == hers.figures["beside"])
        anna.tag("frame", [str(i) for i in range(0, N, 5)], "noisy")
        until(lambda: his.tags == ["noisy"])
        his.cut(without=["noisy"])
        until(lambda: hers.figures["crystals"]["chosen"] == N - N // 5)
        path = hers.save(tmp_path / "merged.mtz")
        assert len(sfxlab.read_merged(path)) == hers.figures["main"]["overall"]["n_unique"]
        assert anna.records("merge")[0].value["cuts"] == {"without": ["noisy"]}
        hers.figure()
        hers.close()
        his.close()


def test_a_viewer_cannot_cut_and_bad_cuts_are_a_sentence(run: Run, tmp_path: Path) -> None:
    catalogue = f"sqlite:///{tmp_path / 'sessions.sqlite'}"
    with (
        Session("beamtime", catalogue, "anna") as anna,
        Session("beamtime", catalogue, Person("vera", "Vera", "viewer")) as vera,
    ):
        board = MergingBoardWidget(run, "4/mmm", vera, **OPTIONS)
        assert board.disabled
        board.cut(correlation=0.8)
        assert board.cuts == {}
        assert anna.get("merge.cuts") is None
        assert "vera, viewer" in board.message  # the figures that follow leave it there
        board.close()
    alone = MergingBoardWidget(run, "4/mmm", **OPTIONS)
    alone.cuts = {"correlation": 7}
    assert "no crystal passes the cuts" in alone.message
    alone.cuts = {}
    assert alone.message == ""
