from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
from distributed import Client
from scipy.spatial.transform import Rotation

from sfxlab.cluster import connect
from sfxlab.crystal import Crystal, UnitCell
from sfxlab.errors import FrameError, InputError, RecipeError
from sfxlab.frames import Frame, FrameSource
from sfxlab.processing import process
from sfxlab.recipe import Recipe
from sfxlab.tuning import Sweep, default_grid, propose, sweep
from sfxlab.tuning.grid import applied, settings_of, with_start
from sfxlab.tuning.sample import drawn, spread_order
from sfxlab.tuning.trial import peaks_on_lattices

SNR = {"min_snr": (5.0, 8.0, 40.0)}


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Client]:
    with connect("local", workers=2, dashboard=False) as client:
        yield client


@pytest.fixture(scope="module")
def swept(frames: FrameSource, recipe: Recipe) -> Sweep:
    """With a recipe that is bad on purpose: it asks for far too strong peaks."""
    return sweep(frames, recipe.changed(peaks={"min_snr": 40.0}), SNR)


def test_a_recipe_that_misses_hits_is_mended_and_the_truth_agrees(swept: Sweep, truth: list[dict[str, Any]]) -> None:
    proposal = propose(swept)
    assert proposal.is_better
    assert proposal.changes == {"min_snr": (40.0, 5.0)}
    assert proposal.recipe.peaks.min_snr == 5.0
    found = swept.measure("lattices")
    hits = np.array([frame["is_hit"] for frame in truth])
    assert not found[:, ~hits].any()
    assert found[swept.start, hits].mean() < 0.5
    assert found[proposal.setting, hits].mean() > 0.9
    gain = (found[proposal.setting].sum() - found[swept.start].sum()) / len(truth)
    assert proposal.lattices.value == pytest.approx(gain)
    assert 0 < proposal.lattices.low < gain < proposal.lattices.high
    assert "min_snr 40 → 5" in str(proposal)


def test_a_recipe_that_calls_blanks_hits_is_mended_and_the_truth_agrees(
    frames: FrameSource, recipe: Recipe, truth: list[dict[str, Any]]
) -> None:
    bad = recipe.changed(peaks={"min_snr": 3.0, "max_false_peaks": 3000.0})
    result = sweep(frames, bad, {"min_snr": (4.0, 5.0, 6.0)})
    proposal = propose(result)
    blank = np.array([not frame["is_hit"] for frame in truth])
    hit = result.measure("hit")
    assert hit[result.start, blank].mean() > 0.8
    assert proposal.changes["min_snr"][1] in (5.0, 6.0)
    assert hit[proposal.setting, blank].mean() < 0.2
    lattices = result.measure("lattices").sum(axis=1)
    assert lattices[proposal.setting] >= lattices[result.start] - 1
    row = result.table.to_pylist()[result.start]
    assert row["false_hits"] == pytest.approx(hit[result.start, result.without_lattice].mean())
    assert row["false_hits"] > 0.8
    assert row["unexplained"] > 10 > result.table.to_pylist()[proposal.setting]["unexplained"]


def test_without_a_cell_lattices_of_any_cell_count(
    frames: FrameSource, swept: Sweep, truth: list[dict[str, Any]]
) -> None:
    result = sweep(frames, Recipe().changed(peaks={"min_snr": 40.0}), SNR, hits=10)
    assert result.recipe.cell is None
    proposal, tried = propose(result), result.sample.numbers
    assert proposal.changes == {"min_snr": (40.0, 5.0)}
    found, with_cell = result.measure("lattices")[proposal.setting], swept.measure("lattices")[proposal.setting, tried]
    hits = np.array([frame["is_hit"] for frame in truth])[tried]
    assert not found[~hits].any()
    assert found.sum() >= 0.9 * with_cell.sum() > 8


def test_where_nothing_changes_nothing_is_proposed(frames: FrameSource, recipe: Recipe) -> None:
    result = sweep(frames[:12], recipe, {"max_peaks": (1500, 2500, 4000)})
    proposal = propose(result)
    assert not proposal.is_better
    assert proposal.recipe == recipe
    assert proposal.changes == {}
    assert "as good as any of 3 other settings (lattices of the best of them: the same)" in str(proposal)


def test_a_setting_finds_what_a_run_with_its_recipe_finds(swept: Sweep, frames: FrameSource, tmp_path: Path) -> None:
    setting = swept.settings.index({"min_snr": 8.0})
    run = process(frames, swept.recipe_of(setting), output=tmp_path / "run", progress=None)
    table = run.frames.to_pydict()
    assert swept.measure("peaks")[setting].tolist() == table["n_peaks"]
    assert [bool(hit) for hit in swept.measure("hit")[setting]] == [
        status in ("hit", "indexed") for status in table["status"]
    ]
    crystals = run.crystals["frame"].to_pylist()
    assert swept.measure("lattices")[setting].tolist() == [crystals.count(frame) for frame in table["frame"]]


def test_a_sweep_does_not_depend_on_workers(frames: FrameSource, recipe: Recipe, two_workers: Client) -> None:
    bad = recipe.changed(peaks={"min_snr": 40.0})
    stages: set[str] = set()
    here = sweep(frames, bad, SNR, hits=8, progress=lambda stage, done, total: stages.add(stage.partition(",")[0]))
    there = sweep(frames, bad, SNR, two_workers, hits=8)
    assert stages == {"learning bad pixels", "looking for hits", "trying settings"}
    assert here.sample.numbers.tolist() == there.sample.numbers.tolist()
    np.testing.assert_array_equal(here.values[:, :, :-1], there.values[:, :, :-1])
    first, second = propose(here), propose(there)
    assert (first.setting, first.lattices) == (second.setting, second.lattices)


def test_a_sample_holds_hits_and_as_many_others_and_stands_for_all(
    frames: FrameSource, recipe: Recipe, truth: list[dict[str, Any]], swept: Sweep
) -> None:
    result = sweep(frames, swept.recipe, SNR, hits=8)
    sample = result.sample
    assert (sample.promising.sum(), len(sample.numbers), sample.looked_at) == (8, 16, 40)
    assert sample.weights.sum() == pytest.approx(40)
    assert all(truth[number]["is_hit"] for number in sample.numbers[sample.promising])
    setting = result.settings.index({"min_snr": 5.0})
    assert result.mean(result.measure("hit"))[setting] == pytest.approx(swept.mean(swept.measure("hit"))[setting], 0.1)


@pytest.fixture
def with_gaps(frames: FrameSource) -> Any:
    """`with_gaps({2}, deadly={5})`: the first 12 frames, some of which cannot be read or end any other process."""

    # A class inside a function travels to workers by value, so that they need not import this file.
    class WithGaps:
        def __init__(self, numbers: range, gaps: set[int], deadly: set[int], home: int) -> None:
            self.numbers, self.gaps, self.deadly, self.home = numbers, gaps, deadly, home
            self.frames, self.paths, self.files = frames, frames.paths, frames.files

        def __len__(self) -> int:
            return len(self.numbers)

        def __getitem__(self, item: Any) -> Any:
            if isinstance(item, slice):
                return WithGaps(self.numbers[item], self.gaps, self.deadly, self.home)
            if self.numbers[item] in self.gaps:
                raise FrameError("the frame cannot be read", found="a gap")
            if self.numbers[item] in self.deadly and os.getpid() != self.home:
                os.kill(os.getpid(), signal.SIGKILL)
            return self.frames[self.numbers[item]]

        def __iter__(self) -> Iterator[Frame]:
            return (self[position] for position in range(len(self)))

        def identity(self, index: int) -> Any:
            return self.frames.identity(self.numbers[index])

    return lambda gaps, deadly=frozenset(): WithGaps(range(12), gaps, deadly, os.getpid())


def test_frames_that_fail_are_counted_and_left_out(with_gaps: Any, recipe: Recipe, two_workers: Client) -> None:
    source = with_gaps({2, 5})
    for client in (None, two_workers):
        result = sweep(source, recipe, {"min_snr": (5.0, 8.0)}, client)
        assert list(result.failed) == [2, 5]
        assert "FrameError: the frame cannot be read" in result.failed[2]
        assert len(result.sample.numbers) == 10
        assert sweep(source, recipe, {"min_snr": (5.0, 8.0)}, client, hits=2).failed.keys() == {2, 5}


def test_a_frame_that_kills_workers_is_counted_too(with_gaps: Any, recipe: Recipe, two_workers: Client) -> None:
    without_learning = recipe.changed(bad_pixels={"learn": False})
    result = sweep(with_gaps(set(), {3}), without_learning, {"min_snr": (5.0, 8.0)}, two_workers)
    assert list(result.failed) == [3]
    assert "KilledWorker: the worker process died 3 times on this frame" in result.failed[3]
    assert len(result.sample.numbers) == 11


def test_frames_without_hits_say_so(frames: FrameSource, recipe: Recipe, truth: list[dict[str, Any]]) -> None:
    blank = next(frame["frame"] for frame in truth if frame["kind"] == "blank")
    with pytest.raises(InputError, match="no setting finds a lattice in any frame of the sample") as error:
        sweep(frames[blank : blank + 1], recipe, SNR)
    assert "1 of 1 frames tried with 3 settings" in str(error.value)
    with pytest.raises(InputError, match="there are no frames"):
        sweep(frames[:0], recipe, SNR)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"min_sn": (5.0,)}, "did you mean 'min_snr'"),
        ({"peakfinder8": (5.0, 6.0)}, "a table of parameters"),
        ({"min_snr": (5.0,)}, "a grid of 1 settings"),
        ({"min_snr": (5.0, -1.0)}, "wrong value for 'peaks.min_snr'"),
        ({"min_snr": (5.0, "high")}, "wrong value for 'peaks.min_snr'"),
        ({"hits.min_peak": (5,)}, "did you mean 'min_peaks'"),
        ({"max_peaks": range(1, 3000)}, "2 to 2000"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(
    frames: FrameSource, recipe: Recipe, grid: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        sweep(frames, recipe, grid)


def test_parameters_of_other_tables_can_be_varied(frames: FrameSource, recipe: Recipe) -> None:
    grid = {"peakfinder8.min_snr": (4.0, 6.0), "hits.min_peaks": (5, 200)}
    begin = recipe.changed(peaks={"method": "peakfinder8", "peakfinder8": {"threshold": 0.0}})
    result = sweep(frames[:8], begin, grid)
    assert len(result.settings) == 9
    tried = result.recipe_of(result.settings.index({"peakfinder8.min_snr": 4.0, "hits.min_peaks": 200}))
    assert (tried.peaks.peakfinder8.min_snr, tried.peaks.peakfinder8.threshold, tried.hits.min_peaks) == (4.0, 0.0, 200)
    hits = {tuple(setting.values()): n for setting, n in zip(
        result.settings, result.measure("hit").sum(axis=1), strict=True
    )}  # fmt: skip
    assert hits[4.0, 5] > hits[4.0, 200]


@pytest.mark.parametrize("method", ["matched", "peakfinder8"])
def test_the_default_grid_is_one_of_allowed_values(method: str) -> None:
    recipe = Recipe().changed(peaks={"method": method})
    settings = settings_of(with_start(default_grid(recipe), recipe))
    assert len({applied(recipe, setting) for setting in settings}) == len(settings) > 10


def test_the_table_is_written_as_text_and_as_parquet(swept: Sweep, tmp_path: Path) -> None:
    swept.save(tmp_path / "table.csv")
    swept.save(tmp_path / "table.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "table.parquet").equals(swept.table)
    text = pyarrow.csv.read_csv(tmp_path / "table.csv")
    assert text.column_names == swept.table.column_names
    np.testing.assert_allclose(text["lattices"], swept.table["lattices"])


@pytest.mark.parametrize("n", [1, 2, 7, 64, 1000])
def test_any_beginning_of_the_order_is_evenly_spread(n: int) -> None:
    order = spread_order(n, n)
    assert sorted(order) == list(range(n))
    for length in (8, 32):
        first = np.sort(order[:length])
        assert np.diff([*first, n], prepend=0).max() <= 2 * -(-n // min(length, n))
    assert spread_order(n, 5) == order[:5]


def test_weights_give_each_kind_its_share_back() -> None:
    sample = drawn(list(range(0, 300, 3)), list(range(1, 900, 3)), 50)
    assert sample.weights[sample.promising].sum() == pytest.approx(100)
    assert sample.weights[~sample.promising].sum() == pytest.approx(300)
    assert (len(sample.numbers), sample.looked_at) == (100, 400)


def test_peaks_near_lattice_positions_by_chance_do_not_count_as_explained() -> None:
    random = np.random.default_rng(4)
    cell = UnitCell(60.0, 70.0, 80.0)
    crystals = [Crystal(cell, Rotation.random(rng=random).as_matrix() @ cell.reciprocal_basis, 0.001) for _ in range(2)]
    on = np.concatenate([crystal.q(random.integers(-9, 10, (150, 3))) for crystal in crystals])
    off = random.uniform(-0.3, 0.3, (400, 3))
    assert peaks_on_lattices(on, crystals) == len(on)
    assert abs(peaks_on_lattices(np.concatenate([on, off]), crystals) - 300) < 25
    assert peaks_on_lattices(on, []) == 0
