"""Merging without what people have tagged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sfxlab.errors import MergeError
from sfxlab.merging import merge
from sfxlab.merging.exclusion import without
from sfxlab.session import Session, tagged

MakeRun = Callable[..., Any]


@dataclass(frozen=True)
class InParts:
    """The same run as one that is larger than the memory gives it: some rows at a time."""

    whole: Any

    def parts(self, name: str, columns: Sequence[str]) -> Iterator[Any]:
        for batch in getattr(self.whole, name).select(list(columns)).to_batches(max_chunksize=7):
            yield pa.table(batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)


def of_crystals(run: Any, rows: Sequence[int]) -> Any:
    """The run as if only these crystals had been found."""
    crystals = run.crystals.take(rows)
    own = {tuple(row.values()) for row in crystals.select(["frame", "crystal"]).to_pylist()}
    observed = run.reflections.select(["frame", "crystal"]).to_pylist()
    kept = np.array([tuple(row.values()) in own for row in observed])
    return replace(run, crystals=crystals, reflections=run.reflections.filter(pa.array(kept)))


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize(
    ("exclude", "kept"),
    [
        ({"crystal": ["0", "5"]}, [i for i in range(20) if i not in (0, 5)]),
        ({"frame": ["1"], "crystal": ["0"]}, [i for i in range(20) if i not in (0, 2, 3)]),
        ({"frame": []}, list(range(20))),
        ({}, list(range(20))),
    ],
)
def test_a_merge_without_crystals_is_the_merge_of_the_others(
    synthetic_run: MakeRun, exclude: dict[str, list[str]], kept: list[int], in_parts: bool
) -> None:
    run = synthetic_run(n_crystals=20, crystals_per_frame=2, n_observed=60)
    limits = pa.array(np.full(20, np.nan))
    run = replace(run, crystals=run.crystals.append_column("resolution_limit", limits))
    assert run.crystals["frame"].to_pylist()[:4] == [0, 0, 1, 1]
    expected = merge(of_crystals(run, kept), "4/mmm", "none")
    merged = merge(InParts(run) if in_parts else run, "4/mmm", "none", exclude=exclude)
    assert np.array_equal(merged.hkl, expected.hkl)
    assert np.array_equal(merged.intensity, expected.intensity)
    assert merged.history["left_out"] == {"crystals": 20 - len(kept)}


def test_what_is_tagged_in_a_session_is_left_out(synthetic_run: MakeRun, tmp_path: Path) -> None:
    run = synthetic_run(n_crystals=12, crystals_per_frame=2, n_observed=60)
    with Session("lyso", f"sqlite:///{tmp_path}/sessions.sqlite", "anna") as session:
        session.tag("frame", ["2", "3"], "ice")
        session.untag("frame", ["3"], "ice")
        session.tag("crystal", ["11"], "ice")
        for exclude, kept in (
            (session.tagged("frame", "ice"), [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]),
            (session.tagged("crystal", "ice"), list(range(11))),
            (session.tagged("frame", "none"), list(range(12))),
            (tagged("ice", session=session), [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]),
            (tagged("ice", session=session) | session.tagged("frame", "none"), [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]),
        ):
            expected = merge(of_crystals(run, kept), "4/mmm", "none")
            assert np.array_equal(merge(run, "4/mmm", "none", exclude=exclude).intensity, expected.intensity)


@pytest.mark.parametrize(
    ("exclude", "words"),
    [
        ({"1", "2"}, "not said what"),
        ({"run": ["1"]}, "not said what"),
        ({"frame": ["ice"]}, "no number"),
        ({"crystal": ["20"]}, "no such crystals"),
        ({"crystal": ["-1"]}, "no such crystals"),
    ],
)
def test_what_cannot_be_left_out_is_a_sentence(synthetic_run: MakeRun, exclude: Any, words: str) -> None:
    with pytest.raises(MergeError, match=words):
        without(synthetic_run(n_crystals=20, n_observed=6), exclude)


def test_numbers_of_frames_are_of_one_run(synthetic_run: MakeRun) -> None:
    runs = [synthetic_run(n_crystals=8, n_observed=60, seed=i, path=f"run{i}.cxi") for i in (1, 2)]
    with pytest.raises(MergeError, match="of one run"):
        merge(runs, "4/mmm", "none", exclude={"frame": ["1"]})
    reduced = merge([without(runs[0], {"frame": ["1"]}), runs[1]], "4/mmm", "none")
    expected = merge([of_crystals(runs[0], [0, 2, 3, 4, 5, 6, 7]), runs[1]], "4/mmm", "none")
    assert np.array_equal(reduced.intensity, expected.intensity)
