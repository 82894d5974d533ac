"""A running merge: whatever comes, goes and is cut away, the result is that of the crystals that are left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfxlab.errors import MergeError
from sfxlab.frames import FrameId
from sfxlab.merging import Merged, RunningMerge, merge
from sfxlab.recipe import Recipe
from sfxlab.store import Run
from sfxlab.store.record import describe
from sfxlab.store.tables import SCHEMAS

MakeRun = Callable[..., Any]
N = 36


def part_of(run: Any, frames: Any) -> Any:
    """The run without the other frames' crystals and reflections."""
    kept = {
        name: getattr(run, name).filter(pa.array(np.isin(getattr(run, name)["frame"].to_numpy(), list(frames))))
        for name in ("crystals", "reflections")
    }
    return replace(run, **kept)


@dataclass(frozen=True)
class Together:
    """Several runs as one argument."""

    whole: Any
    cell: Any

    def merged(self, frames: Any) -> Merged:
        return merge(part_of(self.whole, frames), "4/mmm", cell=self.cell)


@pytest.fixture(scope="module")
def run(synthetic_run: MakeRun) -> Any:
    return synthetic_run(n_crystals=N, n_observed=120, relative_scatter=0.3, outliers=0.003, scrambled=(5,), noise=8.0)


def assert_same(one: Merged, other: Merged, tolerance: float = 1e-9) -> None:
    assert np.array_equal(one.hkl, other.hkl)
    for a, b in zip(one.sets, other.sets, strict=True):
        assert np.array_equal(a.n_observations, b.n_observations)
        assert a.intensity == pytest.approx(b.intensity, rel=tolerance, abs=tolerance, nan_ok=True)
        assert a.sigma == pytest.approx(b.sigma, rel=1e3 * tolerance, nan_ok=True)


def frames_of(running: RunningMerge) -> list[int]:
    table = running.crystals
    return [
        int(event[2:])
        for event, yes in zip(table["event"].to_pylist(), table["chosen"].to_pylist(), strict=True)
        if yes
    ]


def test_at_the_beginning_it_is_the_merge(run: Any) -> None:
    running = RunningMerge(run, "4/mmm")
    assert_same(running.merged(), merge(run, "4/mmm"))
    assert running.drift < 0.01
    assert not running.refit_due
    rejected = running.merged().history["crystals"]["rejected"]
    assert [entry["crystal"] for entry in rejected] == ["data/run1.cxi //5, crystal 0"]


def test_after_a_cut_and_a_fit_it_is_the_merge_of_those_crystals(run: Any) -> None:
    running = RunningMerge(run, "4/mmm")
    low = float(np.median(running.crystals["correlation"].to_numpy()))
    assert running.cut(correlation=(low, None)) == pytest.approx(N / 2, abs=1)
    running.refit()
    assert_same(running.merged(), merge(part_of(run, frames_of(running)), "4/mmm", cell=running.cell))


def test_scales_that_are_held_differ_from_a_fit_by_less_than_the_errors(run: Any) -> None:
    running = RunningMerge(run, "4/mmm")
    running.select(np.arange(N) % 2 == 0)
    held = running.merged()
    assert running.refit_due == (running.drift > 0.02)
    before = running.drift
    running.refit()
    fitted = running.merged()
    assert running.drift < before
    k = (fitted.intensity @ held.intensity) / (held.intensity @ held.intensity)
    difference = (k * held.intensity - fitted.intensity) / fitted.sigma
    assert np.sqrt(np.mean(difference**2)) < 0.5


Event = tuple[str, int]
events = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "cut", "select", "refit"]), st.integers(0, 2**16)), max_size=8
)


@settings(max_examples=12, deadline=None)
@given(history=events)
def test_any_history_gives_what_the_crystals_that_are_left_give(run: Any, history: list[Event]) -> None:
    start = np.arange(N // 2)
    running = RunningMerge(part_of(run, start), "4/mmm")
    waiting = list(range(N // 2, N))
    for kind, number in history:
        rng = np.random.default_rng(number)
        n = len(running.crystals)
        if kind == "add" and waiting:
            taken, waiting = waiting[: 1 + number % 5], waiting[1 + number % 5 :]
            assert running.add(part_of(run, taken)) == len(taken)
        elif kind == "remove" and n > 14:
            running.remove(rng.choice(n, 1 + number % 4, replace=False))
        elif kind == "cut":
            running.cut(n_observations=(None, 119 + number % 3), b_factor=(-40.0, 5.0 + number % 20))
        elif kind == "select":
            running.select(rng.random(n) < 0.7)
        elif kind == "refit" and running.crystals["chosen"].to_numpy().sum() > 10:
            running.refit()
    if running.crystals["used"].to_numpy().sum() < 10:
        running.select(np.ones(len(running.crystals), dtype=bool))
    # With the scales as they are held, sums that were followed are those of adding the used crystals up.
    followed = running.merged()
    running._sum_anew()
    assert_same(followed, running.merged())
    # After a fit nothing is left of what happened before.
    running.refit()
    assert_same(running.merged(), merge(part_of(run, frames_of(running)), "4/mmm", cell=running.cell))


def test_a_crystal_that_comes_gets_about_the_scale_that_all_would_give_it(run: Any) -> None:
    whole = RunningMerge(run, "4/mmm").crystals
    running = RunningMerge(part_of(run, range(N - 6)), "4/mmm")
    assert running.add(part_of(run, range(N - 6, N))) == 6
    table = running.crystals
    assert table["event"].to_pylist() == whole["event"].to_pylist()
    new = np.isin(table["event"].to_pylist(), [f"//{i}" for i in range(N - 6, N)])
    ratio = np.log(table["scale"].to_numpy() / whole["scale"].to_numpy())
    # Scale and B factor are correlated, and both are relative to the others.
    at = ratio - 0.02 * (table["b_factor"].to_numpy() - whole["b_factor"].to_numpy())
    assert np.abs(at[new] - np.median(at[~new])).max() < 0.05
    assert table["used"].to_numpy()[new].all()


def test_a_crystal_that_does_not_agree_is_not_used_when_it_comes(run: Any) -> None:
    running = RunningMerge(part_of(run, [i for i in range(N) if i != 5]), "4/mmm")
    running.add(part_of(run, [5]))
    row = running.crystals.filter(pa.compute.equal(running.crystals["event"], "//5")).to_pylist()[0]
    assert (row["chosen"], row["used"]) == (True, False)
    assert "correlation" in row["reason"]


def test_cuts_hold_for_crystals_that_come_later(run: Any) -> None:
    running = RunningMerge(part_of(run, range(20)), "4/mmm")
    running.cut(without=[("data/run1.cxi", "//3"), ("data/run1.cxi", "//25")])
    running.add(part_of(run, range(20, N)))
    assert set(range(N)) - set(frames_of(running)) == {3, 25}
    assert running.cut(frames=[("data/run1.cxi", f"//{i}") for i in range(12)]) == 12
    assert running.cut(cell={"a": (39, 41), "c": (None, 29)}) == 0
    with pytest.raises(MergeError, match="often enough"):
        running.merged()
    assert running.cut() == N
    with pytest.raises(MergeError, match="unknown cell parameters"):
        running.cut(cell={"d": (1, 2)})
    with pytest.raises(MergeError, match="yes or no for each crystal"):
        running.select(np.arange(3))


def test_a_frame_that_comes_twice_is_refused_and_changes_nothing(run: Any) -> None:
    running = RunningMerge(part_of(run, range(20)), "4/mmm")
    before = running.merged()
    with pytest.raises(MergeError, match="two of the runs"):
        running.add(part_of(run, [7, 30]))
    assert_same(running.merged(), before)


def write_chunk(run: Run, part: Any, chunk: int) -> None:
    """Write the tables of some frames as a chunk of a run on disk."""
    for name in ("reflections", "crystals", "frames"):
        table = getattr(part, name)
        columns = []
        for field in SCHEMAS[name]:  # type: ignore[index]
            known = field.name in table.column_names
            zero = "" if field.type == pa.string() else 0
            values = table[field.name].combine_chunks() if known else pa.array([zero] * len(table))
            columns.append(values.cast(field.type))
        made = pa.Table.from_arrays(columns, schema=SCHEMAS[name])  # type: ignore[index]
        pq.write_table(made, run.path / name / f"part-{chunk:06d}.parquet")


def test_a_growing_run_is_followed_chunk_by_chunk(run: Any, tmp_path: Path) -> None:
    names = [FrameId("data/run1.cxi", f"//{i}") for i in range(N)]
    record = describe(Recipe(), names, n_frames=N, chunk_size=N // 2, paths=())
    growing = Run.create(tmp_path / "run", record, names)

    def chunk(first: int, stop: int) -> Any:
        frames = run.frames.slice(first, stop - first)
        return replace(part_of(run, range(first, stop)), frames=frames)

    write_chunk(growing, chunk(0, N // 2), 0)
    running = RunningMerge(growing, "4/mmm")
    assert running.add(growing) == 0
    write_chunk(growing, chunk(N // 2, N), 1)
    assert running.add(growing) == N - N // 2
    assert running.add(growing) == 0
    running.refit()
    assert_same(running.merged(), merge(growing, "4/mmm", cell=running.cell))


def test_another_model_is_refused_with_the_way_out(run: Any) -> None:
    with pytest.raises(MergeError, match="knows the model 'scaled' only") as refused:
        RunningMerge(run, "4/mmm", model="partiality")
    assert "merge(…, model='partiality')" in str(refused.value)
