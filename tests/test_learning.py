"""Bad pixels learned from the frames of a run: the same whoever learns them, and used by whoever processes frames."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from distributed import Client

from sfxlab import bad_pixels
from sfxlab.bad_pixels import KINDS, LearnedMask, parts_of_sample, read_learned_mask
from sfxlab.cluster import connect
from sfxlab.crystal import read_cell
from sfxlab.frames import FrameSource, open_frames
from sfxlab.learning import learn_bad_pixels, learn_spot_profiles
from sfxlab.pipeline import process_frame
from sfxlab.processing import process
from sfxlab.progress import Progress
from sfxlab.recipe import BadPixelRecipe, Recipe
from sfxlab.simulation import Simulation, simulate
from sfxlab.store import Run
from sfxlab.store.reduction import export_hits

_SCRIPT = """
import sys
from sfxlab.frames import open_frames
from sfxlab.processing import process
from sfxlab.recipe import Recipe

def dawdle(progress):
    print(progress, flush=True)
    sys.stdin.readline()

process(open_frames(sys.argv[1], sys.argv[2]), Recipe(), None, sys.argv[3], progress=dawdle)
"""


@pytest.fixture(scope="module")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    return simulate(tmp_path_factory.mktemp("learning") / "data", 24, seed=4)


@pytest.fixture(scope="module")
def frames(simulation: Simulation) -> FrameSource:
    return open_frames(simulation.frames, simulation.geometry)


@pytest.fixture(scope="module")
def recipe(simulation: Simulation) -> Recipe:
    return Recipe().with_cell(read_cell(simulation.cell))


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Client]:
    with connect("local", workers=2, dashboard=False) as client:
        yield client


@pytest.fixture(scope="module")
def run(frames: FrameSource, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return process(frames, recipe, output=tmp_path_factory.mktemp("run") / "run", progress=None)


def assert_same(one: LearnedMask | None, other: LearnedMask | None) -> None:
    assert one is not None
    assert other is not None
    for name in ("kinds", "seen", "stood_out"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (one.frames, one.remarks) == (other.frames, other.remarks)


def tables(run: Run) -> dict[str, str]:
    return {name: repr(run.table(name).to_pylist()) for name in ("frames", "peaks", "crystals", "reflections")}


def test_the_hot_pixels_that_the_mask_leaves_out_are_found(simulation: Simulation, run: Run) -> None:
    learned = run.bad_pixels
    assert learned is not None
    with h5py.File(simulation.truth / "full_mask.h5") as file:
        full = file["mask"][()] != 0
    listed = np.loadtxt(simulation.truth / "unmasked_hot_pixels.csv", delimiter=",", skiprows=1)
    columns, rows = listed[:, 0].astype(int), listed[:, 1].astype(int)
    assert len(rows) >= 20
    assert np.mean(learned.kinds[rows, columns] == KINDS["hot"]) >= 0.95
    assert not learned.bad[~full].any()
    assert run.summary()["bad pixels"] == str(learned)


def test_workers_learn_what_this_process_learns(
    frames: FrameSource, recipe: Recipe, run: Run, two_workers: Client, tmp_path: Path
) -> None:
    there = process(frames, recipe, two_workers, tmp_path / "there", chunk_size=5, progress=None)
    assert_same(there.bad_pixels, run.bad_pixels)
    assert (there.path / "profiles.h5").exists()
    assert there.profiles is not None
    assert run.profiles is not None
    for name in ("tables", "resolution", "misfit", "offsets"):
        np.testing.assert_array_equal(getattr(there.profiles, name), getattr(run.profiles, name))
    assert tables(there) == tables(run)
    with connect("local", workers=1, dashboard=False) as client:
        assert_same(learn_bad_pixels(frames, recipe.bad_pixels, client), run.bad_pixels)


def test_a_frame_by_hand_gives_what_the_run_has(recipe: Recipe, run: Run) -> None:
    frames = run.open_frames()
    learned = run.bad_pixels
    assert learned is not None
    for number in (0, 11):
        mine, its = process_frame(frames[number], recipe), run.result(number)
        np.testing.assert_array_equal(mine.peaks.fs, its.peaks.fs)
        for one, other in zip(mine.reflections, its.reflections, strict=True):
            np.testing.assert_array_equal(one.intensity_profile, other.intensity_profile)
        assert not learned.bad[mine.peaks.ss.astype(int), mine.peaks.fs.astype(int)].any()
    assert (frames[0].bad.astype(int) - run.open_frames(learned_mask=False)[0].bad).sum() == learned.bad.sum()


def test_the_reduced_data_set_keeps_the_mask_and_learns_no_other(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    export_hits(run, tmp_path / "hits.cxi")
    frames = open_frames(tmp_path / "hits.cxi", tmp_path / "hits.geom")
    assert len(frames) >= recipe.bad_pixels.min_frames
    again = process(frames, recipe, output=tmp_path / "again", progress=None)
    assert again.bad_pixels is None
    hits = [result for result in run.results() if result.status in ("hit", "indexed")]
    for before, after in zip(hits, again.results(), strict=True):
        np.testing.assert_array_equal(after.peaks.intensity, before.peaks.intensity)
        assert [crystal.cell for crystal in after.crystals] == [crystal.cell for crystal in before.crystals]
    with h5py.File(tmp_path / "hits.cxi") as file:
        assert file.attrs[bad_pixels.LEARNED] == str(run.bad_pixels)


def test_a_run_killed_while_it_learns_learns_again(simulation: Simulation, frames: FrameSource, tmp_path: Path) -> None:
    script, killed = tmp_path / "script.py", tmp_path / "killed"
    script.write_text(_SCRIPT)
    victim = subprocess.Popen(
        [sys.executable, script, simulation.frames, simulation.geometry, killed],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert victim.stdin is not None
    assert victim.stdout is not None
    try:
        for _ in range(3):
            stage = victim.stdout.readline()
            victim.stdin.write("\n")
            victim.stdin.flush()
        assert stage == "learning bad pixels, 2 of 6\n"
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
    assert Run(killed).bad_pixels is None
    resumed = process(frames, Recipe(), output=killed, resume=True, progress=None)
    undisturbed = process(frames, Recipe(), output=tmp_path / "undisturbed", progress=None)
    assert_same(resumed.bad_pixels, undisturbed.bad_pixels)
    assert tables(resumed) == tables(undisturbed)


def test_a_resumed_run_keeps_the_mask_that_it_began_with(frames: FrameSource, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done.frames >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process(frames, Recipe(), output=tmp_path / "run", chunk_size=4, progress=interrupt)
    path = tmp_path / "run" / "bad_pixels.h5"
    before, written = read_learned_mask(path), path.stat().st_mtime_ns
    stages: list[str] = []
    resumed = process(
        frames, Recipe(), output=tmp_path / "run", resume=True, progress=lambda progress: stages.append(progress.stage)
    )
    assert resumed.is_finished
    assert set(stages) == {""}
    assert path.stat().st_mtime_ns == written
    assert_same(resumed.bad_pixels, before)


@pytest.mark.parametrize(("n", "learn"), [(15, True), (24, False)])
def test_without_learning_there_is_no_mask(frames: FrameSource, tmp_path: Path, n: int, learn: bool) -> None:
    recipe = Recipe().changed(bad_pixels={"learn": learn})
    assert process(frames[:n], recipe, output=tmp_path / "run", progress=None).bad_pixels is None


def test_the_sample_is_evenly_spread(frames: FrameSource) -> None:
    def numbers(most: int) -> list[list[int]]:
        return [[part.frames.numbers[i] for i in part.positions] for part in parts_of_sample(frames, most)]

    assert [number for part in numbers(256) for number in part] == list(range(24))
    few = numbers(8)
    assert [len(part) for part in few] == [4, 4]
    assert few[0][0] == 0
    assert few[1][-1] == 23


def test_a_frame_that_is_listed_again_and_again_counts_once(simulation: Simulation, tmp_path: Path) -> None:
    (tmp_path / "many.lst").write_text(f"{simulation.frames}\n" * 3)
    many = open_frames(tmp_path / "many.lst", simulation.geometry)
    once = learn_bad_pixels(many[:24], BadPixelRecipe())
    assert len(many) == 72
    assert_same(learn_bad_pixels(many, BadPixelRecipe()), once)


def test_frames_that_cannot_be_read_are_left_out(simulation: Simulation, tmp_path: Path) -> None:
    broken = tmp_path / "frames.cxi"
    broken.write_bytes(simulation.frames.read_bytes())
    with h5py.File(broken, "r+") as file:
        energies = file["/LCLS/photon_energy_eV"]
        energies[5] = np.nan
    learned = learn_bad_pixels(open_frames(broken, simulation.geometry), BadPixelRecipe())
    assert learned is not None
    assert learned.frames == 23


def test_fits_of_learned_profiles_have_less_noise_than_sums(run: Run) -> None:
    """No true intensity is below zero, so what is there is noise: of weak reflections, the fits have less of it."""
    profiles = run.profiles
    assert profiles is not None
    assert profiles.spots >= 200
    assert run.summary()["shape of spots"] == str(profiles)
    found = run.reflections.to_pandas()
    weak = found[found.intensity_sum < 2 * found.sigma_sum].dropna()
    assert len(weak) > 300
    assert -np.percentile(weak.intensity_profile, 2) < -0.7 * np.percentile(weak.intensity_sum, 2)
    assert (weak.intensity == weak.intensity_profile).mean() > 0.9


def test_a_frame_that_is_listed_again_shows_its_spots_once(
    simulation: Simulation, frames: FrameSource, recipe: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "twice.lst").write_text(f"{simulation.frames}\n" * 2)
    once = learn_spot_profiles(frames, recipe)
    twice = learn_spot_profiles(open_frames(tmp_path / "twice.lst", simulation.geometry), recipe)
    assert once is not None
    assert twice is not None
    assert (twice.spots, twice.frames) == (once.spots, once.frames)


def test_profiles_are_learned_only_where_they_are_wanted(frames: FrameSource, recipe: Recipe, tmp_path: Path) -> None:
    recipe = recipe.changed(bad_pixels={"learn": False})
    few = frames[:4]
    for number, changes in enumerate(
        ({"profiles": {"learn": False}}, {"integration": {"fit_profiles": False}}, {"profiles": {"min_spots": 5000}})
    ):
        run = process(few, recipe.changed(**changes), output=tmp_path / str(number), progress=None)
        assert run.profiles is None
        assert np.isnan(run.reflections["intensity_profile"].to_numpy()).all()


def test_enough_spots_end_the_search_for_more(frames: FrameSource, recipe: Recipe) -> None:
    recipe = recipe.changed(profiles={"spots": 250})
    told: list[tuple[int, int]] = []
    learned = learn_spot_profiles(frames, recipe, progress=lambda done, total: told.append((done, total)))
    assert learned is not None
    assert learned.frames < 20
    assert told[0] == (0, 250)
    assert told[-1] == (250, 250)
