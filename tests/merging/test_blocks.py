"""Observations in blocks and scratch files: the same results, and what goes wrong with files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sfxlab.crystal import point_group
from sfxlab.errors import MergeError
from sfxlab.merging import merge
from sfxlab.merging.blocks import Columns
from sfxlab.merging.observations import gather, join
from sfxlab.merging.scaling import fit_scales

MakeRun = Callable[..., Any]
GROUP = point_group("4/mmm")
# With this limit a block has about 1,000 observations.
SMALL = 160_000


class InParts:
    """A run whose tables come in parts, as those on disk do."""

    def __init__(self, run: Any, rows: int) -> None:
        self.run, self.rows = run, rows

    def parts(self, name: str, columns: Any = None) -> Iterator[pa.Table]:
        table = getattr(self.run, name)
        if name == "crystals":
            table = table.append_column("resolution_limit", pa.array(np.full(len(table), 0.4)))
        for start in range(0, len(table), self.rows):
            yield table.slice(start, self.rows).select(columns)


@pytest.mark.parametrize("model", ["none", "scaled"])
def test_scratch_files_change_nothing(synthetic_run: MakeRun, model: Any) -> None:
    run = synthetic_run(n_crystals=30, n_observed=150, outliers=0.003, crystals_per_frame=2)
    one = merge(run, "4/mmm", model)
    other = merge(InParts(run, 333), "4/mmm", model, memory_limit=SMALL)  # type: ignore[arg-type]
    assert np.array_equal(one.hkl, other.hkl)
    for a, b in zip(one.sets, other.sets, strict=True):
        assert np.array_equal(a.intensity, b.intensity, equal_nan=True)
        assert np.array_equal(a.sigma, b.sigma, equal_nan=True)
        assert np.array_equal(a.n_observations, b.n_observations)
    assert {**one.history, "created": ""} == {**other.history, "created": ""}


def test_observations_on_disk_are_those_in_memory(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=30, n_observed=150).shuffled(3)
    one, other = gather([run], GROUP), gather([run], GROUP, memory_limit=SMALL, extra=("h", "k", "l"))
    assert not one.columns.on_disk
    assert other.columns.on_disk
    assert len(list(other.blocks())) > 3
    assert max(len(block) for block in other.blocks()) <= SMALL // 160 + 150
    for name in ("reflection", "intensity", "sigma", "crystal", "offsets", "hkl"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    measured = np.stack([other.column(name) for name in "hkl"], axis=1)
    assert np.array_equal(GROUP.asu(measured), other.hkl[other.reflection])


def test_scaling_does_not_depend_on_blocks(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=30, n_observed=150, outliers=0.003, relative_scatter=0.3)
    one, other = (fit_scales(gather([run], GROUP, memory_limit=limit)) for limit in (1 << 30, SMALL))
    for name in ("scale", "b_factor", "scatter", "correlation", "outlier", "weight", "factor"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_scratch_files_go_with_the_observations(
    synthetic_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    observations = gather([synthetic_run(n_crystals=30)], GROUP, memory_limit=SMALL)
    assert list(tmp_path.rglob("*.intensity"))
    del observations
    assert not list(tmp_path.iterdir())


def test_a_scratch_folder_that_cannot_be_written_to_is_named(
    synthetic_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = Columns(on_disk=True)
    columns.put(0, "sigma", np.ones(3))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sfxlab.merging.blocks.open", full, raising=False)
    with pytest.raises(MergeError, match="scratch files") as caught:
        merge(synthetic_run(n_crystals=30), "4/mmm", memory_limit=SMALL)
    assert "No space left on device" in str(caught.value)
    assert "TMPDIR" in str(caught.value)


def test_some_of_the_crystals_have_just_their_observations(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=20)
    for limit in (1 << 30, SMALL):
        whole = gather([run], GROUP, memory_limit=limit)
        chosen = np.arange(20) % 3 == 0
        part, rows = whole.of(chosen).compact()
        of_chosen = chosen[whole.crystal]
        assert np.array_equal(part.intensity, whole.intensity[of_chosen])
        assert np.array_equal(part.hkl[part.reflection], whole.hkl[whole.reflection][of_chosen])
        assert np.array_equal(part.hkl, whole.hkl[rows])
        assert [str(c) for c in part.crystals] == [str(c) for c, yes in zip(whole.crystals, chosen, strict=True) if yes]


def test_observations_joined_are_those_gathered_together(synthetic_run: MakeRun) -> None:
    first, second = (synthetic_run(n_crystals=12, n_observed=60, seed=i, path=f"run{i}.cxi") for i in (2, 1))
    together = gather([first, second], GROUP)
    one, other = (gather([run], GROUP, cell=together.cell) for run in (first, second))
    joined, order, rows = join(one, replace(other, facts=replace(other.facts, run=other.facts.run + 1)))
    for name in ("reflection", "intensity", "sigma", "crystal", "offsets", "hkl", "half"):
        assert np.array_equal(getattr(joined, name), getattr(together, name)), name
    assert np.array_equal(joined.hkl[rows], one.hkl)
    ids = [*one.crystals, *other.crystals]
    assert [ids[i] for i in order] == list(joined.crystals) == list(together.crystals)


def test_a_frame_that_is_joined_twice_is_refused(synthetic_run: MakeRun) -> None:
    one = gather([synthetic_run(n_crystals=5)], GROUP)
    with pytest.raises(MergeError, match="two of the runs"):
        join(one, replace(one, facts=replace(one.facts, run=one.facts.run + 1)))
