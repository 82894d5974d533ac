"""What a run shows of its hits: the same whoever computed it, and whatever interrupted it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from distributed import Client

from sfxlab.cluster import connect
from sfxlab.crystal import read_cell
from sfxlab.errors import RecipeError, RunError
from sfxlab.frames import FrameSource, open_frames
from sfxlab.peaks.ice import ICE
from sfxlab.processing import process
from sfxlab.recipe import Recipe
from sfxlab.simulation import Simulation, simulate
from sfxlab.store import Run, RunMonitor

_FUNCTION = """
import numba

@numba.njit
def bright(panel, fs, ss, intensity, sigma, snr, resolution, max_value, n_pixels):
    return (snr > 15).sum() >= 30
"""

_SCRIPT = """
import sys
from sfxlab.cluster import connect
from sfxlab.frames import open_frames
from sfxlab.processing import process
from sfxlab.recipe import Recipe

if __name__ == "__main__":
    frames = open_frames([sys.argv[1]], sys.argv[2])
    with connect("local", workers=2, dashboard=False) as client:
        process(frames, Recipe(), client, sys.argv[3], chunk_size=2, progress=None)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    kinds = {"single": 0.6, "blank": 0.2, "blank_ice_rings": 0.2}
    return simulate(tmp_path_factory.mktemp("simulated") / "data", frames=30, seed=4, kinds=kinds)


@pytest.fixture(scope="module")
def frames(data: Simulation) -> FrameSource:
    return open_frames([str(data.frames)], data.geometry)


@pytest.fixture(scope="module")
def run(data: Simulation, frames: FrameSource, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Processed in this process."""
    recipe = Recipe().with_cell(read_cell(data.cell))
    return process(frames, recipe, output=tmp_path_factory.mktemp("run") / "run", chunk_size=4)


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Client]:
    with connect("local", workers=2, dashboard=False) as client:
        yield client


def assert_same(left: Run, right: Run) -> None:
    """Powders, projections and radial averages are equal to the last bit."""
    for selection in ("all", "hits", "indexed", "not indexed"):
        np.testing.assert_array_equal(left.powder(selection), right.powder(selection))
    np.testing.assert_array_equal(left.maximum_projection(), right.maximum_projection())
    for kind in ("blank", "hit", None):
        np.testing.assert_array_equal(left.radial_average(kind).mean, right.radial_average(kind).mean)
    assert left.frames["ice_rings"].to_pylist() == right.frames["ice_rings"].to_pylist()


def test_powder_projection_and_averages_are_those_of_the_frames(run: Run) -> None:
    source = run.open_frames()
    hits = np.flatnonzero(np.isin(run.frames["status"].to_pylist(), ["hit", "indexed"]))
    assert 15 <= len(hits) <= 20
    largest = np.fmax.reduce([np.where(source[i].bad == 0, source[i].data, np.nan) for i in hits]).astype(np.float32)
    np.testing.assert_array_equal(run.maximum_projection(), largest)

    powder, peaks = np.zeros(source[0].data.shape), run.peaks.to_pydict()
    for frame, fs, ss, intensity in zip(*(peaks[n] for n in ("frame", "fs", "ss", "intensity")), strict=True):
        if frame in hits:
            powder[int(ss), int(fs)] += intensity
    np.testing.assert_allclose(run.powder("hits"), powder)
    assert run.powder().sum() >= powder.sum() > 0

    blanks = [i for i in range(len(source)) if i not in hits]
    q, some = source[0].detector.resolution_map(9500.0), np.zeros(source[0].data.shape, dtype=bool)
    band = (q > 0.20) & (q < 0.22)
    for kind, numbers in (("hit", hits), ("blank", blanks)):
        some = [float(source[int(i)].data[band & (source[int(i)].bad == 0)].mean()) for i in numbers]
        sums = run.radial_average(kind)
        bins = (sums.resolution > 0.20) & (sums.resolution < 0.22)
        assert sums.total[bins].sum() / sums.n_pixels[bins].sum() == pytest.approx(np.mean(some), rel=0.02)
    both = run.radial_average()
    assert both.n_pixels.sum() == sum(run.radial_average(kind).n_pixels.sum() for kind in ("hit", "blank"))


def test_workers_give_what_this_process_gives(
    run: Run, frames: FrameSource, tmp_path: Path, two_workers: Client
) -> None:
    assert_same(run, process(frames, run.recipe, two_workers, tmp_path / "two", chunk_size=4))
    with connect("local", workers=1, dashboard=False) as client:
        assert_same(run, process(frames, run.recipe, client, tmp_path / "one", chunk_size=4))
    assert len(list((tmp_path / "two" / "projection").iterdir())) == 1


def test_a_run_killed_half_way_and_resumed_shows_the_same(data: Simulation, tmp_path: Path) -> None:
    listing, script, killed = tmp_path / "many.lst", tmp_path / "script.py", tmp_path / "killed"
    listing.write_text(f"{data.frames}\n" * 5)
    script.write_text(_SCRIPT)
    victim = subprocess.Popen([sys.executable, script, listing, data.geometry, killed], start_new_session=True)
    try:
        while len(list(killed.glob("frames/part-*.parquet"))) < 5:
            assert victim.poll() is None, "the run ended before it could be killed"
            time.sleep(0.01)
    finally:
        os.killpg(victim.pid, signal.SIGKILL)
        victim.wait()
    before = Run(killed)
    assert 10 <= before.counts.frames < 150
    shown = before.maximum_projection()
    assert shown is not None
    frames = open_frames([str(listing)], data.geometry)
    resumed = process(frames, Recipe(), output=killed, resume=True)
    undisturbed = process(frames, Recipe(), output=tmp_path / "undisturbed", chunk_size=2)
    assert_same(resumed, undisturbed)
    final = resumed.maximum_projection()
    assert final is not None
    assert np.all((shown <= final) | np.isnan(shown))


def test_frames_with_ice_are_reported_and_no_others(run: Run, data: Simulation) -> None:
    ice = np.flatnonzero(run.frames["ice_rings"].to_numpy() >= ICE)
    spots, salt = (run.frames[name].to_numpy() for name in ("ice_spots", "salt"))
    assert len(ice) == data.counts["blank_ice_rings"] == 6
    assert set(np.take(run.frames["status"].to_pylist(), ice)) == {"blank"}
    assert spots[run.frames["n_peaks"].to_numpy() > 5].max() < ICE
    assert not salt.any()
    assert run.summary()["ice"] == "6 (20.0% of frames)"
    assert "salt" not in run.summary()


def test_a_monitor_that_reads_chunk_by_chunk_shows_the_same(run: Run, tmp_path: Path) -> None:
    growing = Run.create(
        tmp_path / "growing", run.record, (run.open_frames().identity(i) for i in range(30)), run.geometry_text
    )
    results = [replace(r, radial=None) for r in run.results()]
    monitor, seen = RunMonitor(growing, "all"), []
    assert not monitor.update()
    assert len(monitor.rates().frames) == 0
    for chunk in (3, 0, 1, 2, 7, 4, 5, 6):
        numbers = run.record.frames_of(chunk)
        growing.write_chunk(chunk, results[numbers.start : numbers.stop])
        assert monitor.update()
        assert not monitor.update()
        seen.append(monitor.counts.frames)
    assert seen == sorted(seen)
    assert monitor.counts == run.counts
    assert dict(monitor.reasons) == run.reasons()
    assert monitor.ice_and_salt == run.ice_and_salt
    np.testing.assert_allclose(monitor.powder, run.powder())
    np.testing.assert_array_equal(monitor.rates().hits, run.hit_rate().hits)
    assert monitor.recent().frames == 30
    growing.write_chunk(0, results[:4])  # again
    assert monitor.update()
    assert monitor.counts == run.counts
    finished = RunMonitor(run)
    finished.update()
    for kind, sums in finished.radial.items():
        np.testing.assert_allclose(sums.mean, run.radial_average(kind).mean)


def test_a_function_of_the_users_own_works_on_workers_and_is_kept(
    run: Run, frames: FrameSource, tmp_path: Path, two_workers: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(_FUNCTION)
    monkeypatch.chdir(tmp_path)  # where workers are not
    recipe = Recipe().changed(hits={"min_peaks": 5, "function": "mine:bright"})
    mine = process(frames, recipe, two_workers, tmp_path / "run", chunk_size=4)
    peaks = mine.peaks.to_pandas()
    strong = peaks[peaks["snr"] > 15].groupby("frame").size()
    hits = np.flatnonzero(np.isin(mine.frames["status"].to_pylist(), ["hit", "indexed"]))
    assert set(hits) == set(strong[strong >= 30].index)
    assert 0 < mine.counts.hits < run.counts.hits
    assert (mine.path / "hit_function.py").read_text() == _FUNCTION
    assert mine.recipe.hits.function == "mine:bright"
    assert mine.counts.failed == 0

    (tmp_path / "mine.py").write_text(_FUNCTION.replace(">= 30", ">= 31"))
    with pytest.raises(RunError, match="begun with something else") as caught:
        process(frames, recipe, output=tmp_path / "run", resume=True)
    assert "the file of hits.function has changed" in str(caught.value)


def test_a_function_that_is_not_there_stops_before_any_work(frames: FrameSource, tmp_path: Path) -> None:
    recipe = Recipe().changed(hits={"function": "no_such_module:f"})
    with pytest.raises(RecipeError, match="no such module"):
        process(frames, recipe, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
