"""Labels of frames: scaled together, merged one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sfxlab.errors import MergeError
from sfxlab.merging import bins, merge, read_labels
from sfxlab.merging.observations import CrystalId

MakeRun = Callable[..., Any]
PATH = "data/run1.cxi"


def light_and_dark(n: int) -> dict[tuple[str, str], str]:
    return {(PATH, f"//{i}"): "light" if i % 2 else "dark" for i in range(n)}


def only(run: Any, frames: Any) -> Any:
    """The run without the other frames' crystals and reflections."""
    kept = {
        name: getattr(run, name).filter(pa.array(np.isin(getattr(run, name)["frame"].to_numpy(), frames)))
        for name in ("crystals", "reflections")
    }
    return replace(run, **kept)


def test_a_label_of_plain_means_is_what_merging_its_frames_gives(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=40, n_observed=200, crystals_per_frame=2)
    splits = merge(run, "4/mmm", "none", labels=light_and_dark(20))
    assert list(splits) == ["dark", "light"]
    for label, frames in (("light", np.arange(1, 20, 2)), ("dark", np.arange(0, 20, 2))):
        alone = merge(only(run, frames), "4/mmm", "none", cell=splits.whole.cell)
        assert np.array_equal(splits[label].hkl, alone.hkl)
        for a, b in zip(splits[label].sets, alone.sets, strict=True):
            assert a.intensity == pytest.approx(b.intensity, nan_ok=True)
            # Of errors only the number of observations is the label's own; how these scatter is known from all.
            assert np.nanmedian(a.sigma / b.sigma) == pytest.approx(1, abs=0.2)
    total = splits["light"].n_observations.sum() + splits["dark"].n_observations.sum()
    assert total <= splits.whole.n_observations.sum()
    assert np.array_equal(splits.whole.intensity, merge(run, "4/mmm", "none").intensity)


def test_labels_are_on_one_scale(synthetic_run: MakeRun) -> None:
    # Crystals of one label are three times as strong, which scaling takes out, since structures are the same.
    run = synthetic_run(n_crystals=80, n_observed=250, relative_scatter=0.2, log_scale_spread=0.2, b_spread=0.0)
    table = run.reflections
    strong = np.where(table["frame"].to_numpy() % 2, 3.0, 1.0).astype(np.float32)
    values = pa.array(table["intensity"].to_numpy() * strong)
    run = replace(run, reflections=table.set_column(table.schema.get_field_index("intensity"), "intensity", values))
    splits = merge(run, "4/mmm", labels=light_and_dark(80), polarisation=None)
    overall = splits.differences("dark", "light").overall
    assert splits["light"].intensity.mean() == pytest.approx(splits["dark"].intensity.mean(), rel=0.05)
    assert overall.cc > 0.99
    assert overall.significance == pytest.approx(1.0, abs=0.2)
    assert abs(overall.cc_difference) < 4 / np.sqrt(overall.n_common)


def test_a_true_difference_is_seen_in_both_halves(synthetic_run: MakeRun) -> None:
    dark = synthetic_run(n_crystals=80, n_observed=250, log_scale_spread=0.1, b_spread=0.0)
    light = synthetic_run(n_crystals=80, n_observed=250, log_scale_spread=0.1, b_spread=0.0, seed=2, path="light.cxi",
                          friedel_difference=0.3)  # fmt: skip
    labels = {**light_and_dark(0), **{(PATH, f"//{i}"): "dark" for i in range(80)}}
    labels |= {("light.cxi", f"//{i}"): "light" for i in range(80)}
    splits = merge([dark, light], "422", labels=labels, polarisation=None)
    found = splits.differences("light", "dark", n_shells=3)
    assert found.overall.cc_difference > 0.5
    assert found.overall.significance > 1.5
    assert len(found.to_rows()) == 4
    assert found.overall.r_iso > 0.03


def test_lattices_of_a_frame_stay_in_one_half_of_their_label(synthetic_run: MakeRun) -> None:
    # Two lattices that are the same: if they came into different halves, halves of noise would agree.
    run = synthetic_run(n_crystals=200, n_observed=100, crystals_per_frame=2, log_scale_spread=0.0, b_spread=0.0)
    table = run.reflections
    noise = np.random.default_rng(3).exponential(100.0, len(table)).astype(np.float32)
    frame, crystal = (table[name].to_numpy() for name in ("frame", "crystal"))
    hkl = np.stack([table[name].to_numpy() for name in "hkl"], axis=1)
    first = crystal == 0
    noise[~first], hkl[~first] = noise[first], hkl[first]
    assert np.array_equal(frame[first], frame[~first])
    for name, values in (("intensity", noise), *zip("hkl", hkl.T, strict=True)):
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    splits = merge(replace(run, reflections=table), "4/mmm", labels=light_and_dark(100), polarisation=None)
    for part in (splits.whole, *splits.values()):
        overall = part.statistics().overall
        assert abs(overall.cc_half) < 4 / np.sqrt(overall.n_pairs)


def test_halves_of_a_label_are_those_of_its_frames(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=40, n_observed=200)
    light = merge(run, "4/mmm", "none", labels=light_and_dark(40), min_observations=1)["light"]
    halves = np.array([CrystalId("run1.cxi", f"//{i}", PATH, 0).half for i in range(40)])
    of_light = np.arange(40) % 2 == 1
    for half, part in ((0, light.half1), (1, light.half2)):
        assert part.n_observations.sum() == 200 * np.count_nonzero(of_light & (halves == half))


def test_ranges_of_a_number_become_labels_that_may_overlap(synthetic_run: MakeRun) -> None:
    delays = {(PATH, f"//{i}"): 10.0 * i for i in range(40)}
    labels = bins(delays, [0, 100, 200], overlap=50, unit="fs")
    assert labels[PATH, "//3"] == ["0 to 100 fs"]
    assert labels[PATH, "//12"] == ["0 to 100 fs", "100 to 200 fs"]
    assert (PATH, "//25") not in labels
    splits = merge(synthetic_run(n_crystals=40), "4/mmm", "none", labels=labels)
    assert list(splits) == ["0 to 100 fs", "100 to 200 fs"]
    assert [part.history["crystals"]["given"] for part in splits.values()] == [15, 20]
    with pytest.raises(MergeError, match="have to rise"):
        bins(delays, [0, 0])


def test_labels_may_be_a_column_or_a_function_of_the_table_of_frames(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=40)
    frames = run.frames.append_column("pump", pa.array([i % 2 for i in range(40)]))
    run = replace(run, frames=frames)
    by_column = merge(run, "4/mmm", "none", labels="pump")
    by_function = merge(run, "4/mmm", "none", labels=lambda t: ["on" if p else None for p in t["pump"].to_pylist()])
    assert list(by_column) == ["0", "1"]
    assert list(by_function) == ["on"]
    assert np.array_equal(by_column["1"].intensity, by_function["on"].intensity)
    with pytest.raises(MergeError, match="no such column"):
        merge(run, "4/mmm", labels="delay")
    with pytest.raises(MergeError, match="a label is needed for each frame"):
        merge(run, "4/mmm", labels=lambda t: ["on"])


def test_labels_are_read_from_a_table(synthetic_run: MakeRun, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("path,event,label\n" + "".join(f"run1.cxi,{i},{'on' if i % 2 else 'off'}\n" for i in range(40)))
    run = synthetic_run(n_crystals=40)
    found = merge(run, "4/mmm", "none", labels=read_labels(path))
    expected = merge(run, "4/mmm", "none", labels=light_and_dark(40))
    assert np.array_equal(found["on"].intensity, expected["light"].intensity)
    path.write_text("file,event,label\nx,1,on\n")
    with pytest.raises(MergeError, match="no table of labels"):
        read_labels(path)
    path.write_text("path,event,label\nx,1,\n")
    with pytest.raises(MergeError, match="line 2"):
        read_labels(path)


def test_labels_that_fit_nothing_are_explained(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=10)
    with pytest.raises(MergeError, match="no crystal is of a frame with a label") as caught:
        merge(run, "4/mmm", labels={("other.cxi", "//1"): "light"})
    assert PATH in str(caught.value)
    splits = merge(run, "4/mmm", labels=light_and_dark(10))
    with pytest.raises(MergeError, match="no frames have this label"):
        splits["lihgt"]
    with pytest.raises(MergeError, match="often enough with the label 'alone'"):
        merge(run, "4/mmm", labels={(PATH, "//1"): "alone"})
