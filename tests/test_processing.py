from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import h5py
import numpy as np
import pytest
from distributed import Client, LocalCluster

from sfxlab.cluster import connect
from sfxlab.errors import ClusterError, FrameError, InputError, OutputExistsError, RunError
from sfxlab.frames import Frame, FrameId, FrameSource, open_frames
from sfxlab.geometry import Detector, Panel
from sfxlab.processing import default_chunk_size, process
from sfxlab.progress import Progress
from sfxlab.recipe import Recipe
from sfxlab.store import Run

MakeFrames = Callable[..., FrameSource]

_SCRIPT = """
import sys
from pathlib import Path
import cloudpickle
from sfxlab.cluster import connect
from sfxlab.processing import process
from sfxlab.recipe import Recipe

if __name__ == "__main__":
    frames = cloudpickle.loads(Path(sys.argv[1]).read_bytes())
    with connect("local", workers=2, dashboard=False) as client:
        process(frames, Recipe(), client, sys.argv[2], chunk_size=4, progress=None)
"""


@pytest.fixture
def make_frames(tmp_path: Path) -> MakeFrames:
    """`make_frames(n, bad=…, deadly=…, seconds=…)`: spots on every other frame, some frames unreadable or deadly."""
    file = tmp_path / "frames.raw"
    file.write_bytes(b"made up")
    panel = Panel("p0", 0, 0, 128, 128, (-0.0064, -0.0064, 0.1), (1e-4, 0.0, 0.0), (0.0, 1e-4, 0.0))

    # A class inside a function travels to workers by value, so that they need not import this file.
    class MadeUpFrames:
        def __init__(self, numbers: range, bad: set[int], deadly: set[int], seconds: float, home: int) -> None:
            self.numbers, self.bad, self.deadly, self.seconds, self.home = numbers, bad, deadly, seconds, home
            self.paths, self.geometry_text = (str(file),), "photon_energy = 9000\n"
            self.files = self.paths

        def __len__(self) -> int:
            return len(self.numbers)

        def __iter__(self) -> Iterator[Frame]:
            return (self[position] for position in range(len(self)))

        @property
        def detector(self) -> Detector:
            return Detector((panel,), (128, 128), 0.1)

        def identity(self, index: int) -> FrameId:
            return FrameId(str(file), f"//{self.numbers[index]}")

        def __getitem__(self, item: Any) -> Any:
            if isinstance(item, slice):
                return MadeUpFrames(self.numbers[item], self.bad, self.deadly, self.seconds, self.home)
            number = self.numbers[item]
            time.sleep(self.seconds)
            if number in self.bad:
                raise FrameError("the frame cannot be read", path=file, place=f"//{number}", found="a gap")
            if number in self.deadly and os.getpid() != self.home:
                os.kill(os.getpid(), signal.SIGKILL)
            random = np.random.default_rng(number)
            data = random.poisson(10, (128, 128)).astype(np.int32)
            for row, column in random.integers(8, 120, (20 if number % 2 else 0, 2)):
                data[row : row + 2, column : column + 2] += 900
            return Frame(data, np.zeros(data.shape, np.uint8), 9000.0, self.detector, self.identity(item))

    def make(n: int, bad: set[int] = frozenset(), deadly: set[int] = frozenset(), seconds: float = 0.0) -> FrameSource:
        return MadeUpFrames(range(n), bad, deadly, seconds, os.getpid())

    return make


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Client]:
    with connect("local", workers=2, dashboard=False) as client:
        yield client


def _content(run: Run) -> dict[str, str]:
    """All that two runs of one recipe have in common: everything but the timings."""
    return {name: repr(run.table(name).to_pylist()) for name in ("frames", "peaks", "crystals", "reflections")}


def _parts(run: Run) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (run.path / "frames").glob("part-*.parquet")}


def test_every_frame_gets_its_row(make_frames: MakeFrames, tmp_path: Path) -> None:
    run = process(make_frames(11), Recipe(), output=tmp_path / "run", chunk_size=4, inputs=["*.raw"], command=["x"])
    frames = run.frames
    assert frames["frame"].to_pylist() == list(range(11))
    assert frames["event"].to_pylist() == [f"//{i}" for i in range(11)]
    assert frames["status"].to_pylist() == ["blank", "hit"] * 5 + ["blank"]
    assert run.is_finished
    assert len(_parts(run)) == 3
    assert len(run.peaks) == sum(frames["n_peaks"].to_pylist()) > 50
    assert run.record.inputs == (str(Path.cwd() / "*.raw"),)
    assert run.record.command == ("x",)
    assert [file.path for file in run.record.files] == [str(tmp_path / "frames.raw")]
    assert (run.path / "geometry.geom").read_text() == "photon_energy = 9000\n"


def test_workers_give_what_this_process_gives(make_frames: MakeFrames, tmp_path: Path, two_workers: Client) -> None:
    here = process(make_frames(30), Recipe(), output=tmp_path / "here", chunk_size=4)
    there = process(make_frames(30), Recipe(), two_workers, tmp_path / "there", chunk_size=4)
    assert _content(here) == _content(there)
    assert _parts(here).keys() == _parts(there).keys()


def test_content_does_not_depend_on_the_number_of_workers(make_frames: MakeFrames, tmp_path: Path) -> None:
    here = process(make_frames(9), Recipe(), output=tmp_path / "here", chunk_size=2)
    with connect("local", workers=1, dashboard=False) as client:
        there = process(make_frames(9), Recipe(), client, tmp_path / "there", chunk_size=2)
    assert _content(here) == _content(there)


def test_a_frame_that_kills_its_worker_is_recorded_alone(
    make_frames: MakeFrames, tmp_path: Path, two_workers: Client
) -> None:
    run = process(make_frames(4, deadly={1}), Recipe(), two_workers, tmp_path / "run", chunk_size=2)
    assert run.frames["status"].to_pylist() == ["blank", "failed", "blank", "hit"]
    assert run.frames["reason"][1].as_py().startswith("KilledWorker: the worker process died 3 times")
    assert run.is_finished


def test_bad_pixels_are_learned_without_frames_that_kill_workers(
    make_frames: MakeFrames, tmp_path: Path, two_workers: Client
) -> None:
    run = process(make_frames(20, deadly={7}), Recipe(), two_workers, tmp_path / "run", chunk_size=4)
    assert run.bad_pixels is not None
    assert run.bad_pixels.frames == 16
    assert [row["frame"] for row in run.frames.to_pylist() if row["status"] == "failed"] == [7]


def test_frames_that_fail_are_rows_with_a_reason(make_frames: MakeFrames, tmp_path: Path) -> None:
    run = process(make_frames(6, bad={2, 5}), Recipe(), output=tmp_path / "run", chunk_size=4)
    rows = run.frames.to_pylist()
    assert [row["frame"] for row in rows if row["status"] == "failed"] == [2, 5]
    assert rows[2]["reason"].startswith("FrameError: ")
    assert "the frame cannot be read" in rows[2]["reason"]
    assert "\n" not in rows[2]["reason"]
    assert rows[2]["event"] == "//2"
    assert run.counts.failed == 2


def test_a_bug_in_one_frame_does_not_end_the_run(
    make_frames: MakeFrames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sfxlab import processing

    real = processing.process_frame

    def broken(frame: Frame, *others: Any) -> Any:
        return real(frame, *others) if frame.id.event != "//1" else [][0]

    monkeypatch.setattr(processing, "process_frame", broken)
    run = process(make_frames(3), Recipe(), output=tmp_path / "run")
    assert run.frames["reason"].to_pylist() == ["", "IndexError: list index out of range", ""]


def test_a_run_killed_half_way_and_resumed_is_as_if_undisturbed(make_frames: MakeFrames, tmp_path: Path) -> None:
    frames, script, pickled = make_frames(80, seconds=0.03), tmp_path / "script.py", tmp_path / "frames.pickle"
    script.write_text(_SCRIPT)
    pickled.write_bytes(cloudpickle.dumps(frames))
    killed = tmp_path / "killed"
    victim = subprocess.Popen([sys.executable, script, pickled, killed], start_new_session=True)
    try:
        while len(list(killed.glob("frames/part-*.parquet"))) < 5:
            assert victim.poll() is None, "the run ended before it could be killed"
            time.sleep(0.02)
    finally:
        os.killpg(victim.pid, signal.SIGKILL)
        victim.wait()
    before = _parts(Run(killed))
    assert 5 <= len(before) < 20
    assert Run(killed).record.status == "running"
    assert len(Run(killed).frames) == 4 * len(before)

    resumed = process(frames, Recipe(), output=killed, resume=True)
    after = _parts(resumed)
    assert {name: after[name] for name in before} == before
    assert len(after) == 20
    assert not list(killed.glob("**/.*.tmp"))
    assert len(resumed.record.resumed) == 1
    assert _content(resumed) == _content(process(make_frames(80), Recipe(), output=tmp_path / "undisturbed"))


def test_an_interrupted_run_resumes_with_what_is_missing(make_frames: MakeFrames, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.done.frames >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process(make_frames(20), Recipe(), output=tmp_path / "run", chunk_size=4, progress=interrupt)
    run = Run(tmp_path / "run")
    assert run.record.status == "interrupted"
    assert run.missing_chunks() == [2, 3, 4]
    seen: list[Progress] = []
    assert process(make_frames(20), Recipe(), output=run.path, resume=True, progress=seen.append).is_finished
    assert [progress.done.frames for progress in seen] == [8, 12, 16, 20]
    assert seen[-1].fresh == 12


def test_a_scheduler_that_goes_away_leaves_a_run_to_resume(make_frames: MakeFrames, tmp_path: Path) -> None:
    owner = LocalCluster(n_workers=1, threads_per_worker=1, protocol="tcp", dashboard_address="127.0.0.1:0")

    def end(progress: Progress) -> None:
        if progress.done.frames >= 4:
            owner.close()

    frames = make_frames(200, seconds=0.01)
    with (
        connect(owner.scheduler_address, timeout=2) as client,
        pytest.raises(ClusterError, match="--resume"),
    ):
        process(frames, Recipe(), client, tmp_path / "run", chunk_size=4, progress=end)
    run = Run(tmp_path / "run")
    assert run.record.status == "interrupted"
    assert 0 < len(run.frames) < 200


def test_resuming_a_finished_run_does_nothing(make_frames: MakeFrames, tmp_path: Path) -> None:
    run = process(make_frames(6), Recipe(), output=tmp_path / "run", chunk_size=2)
    parts, record = _parts(run), run.record
    again = process(make_frames(6), Recipe(), output=tmp_path / "run", resume=True)
    assert (_parts(again), again.record) == (parts, record)


def test_resuming_begins_a_run_that_is_not_there(make_frames: MakeFrames, tmp_path: Path) -> None:
    assert process(make_frames(3), Recipe(), output=tmp_path / "run", resume=True).is_finished


def test_another_recipe_is_refused_by_name_before_anything_is_written(make_frames: MakeFrames, tmp_path: Path) -> None:
    run = process(make_frames(3), Recipe(), output=tmp_path / "run")
    parts = _parts(run)
    with pytest.raises(RunError, match=r"peaks\.min_snr: 5\.0 in the run, 6\.0 now"):
        process(make_frames(3), Recipe().changed(peaks={"min_snr": 6}), output=run.path, resume=True)
    assert _parts(run) == parts


def test_a_changed_input_file_is_refused_even_with_its_old_date(make_frames: MakeFrames, tmp_path: Path) -> None:
    frames = make_frames(3)
    run = process(frames, Recipe(), output=tmp_path / "run")
    file = Path(frames.paths[0])
    status = file.stat()
    file.write_bytes(b"MADE UP")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(RunError, match=r"frames\.raw: the file has changed"):
        process(frames, Recipe(), output=run.path, resume=True)


def test_other_frames_are_refused(make_frames: MakeFrames, tmp_path: Path) -> None:
    run = process(make_frames(5), Recipe(), output=tmp_path / "run")
    with pytest.raises(RunError, match="5 in the run, 4 now"):
        process(make_frames(5)[:4], Recipe(), output=run.path, resume=True)


def test_nothing_is_overwritten_without_being_asked(make_frames: MakeFrames, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(OutputExistsError):
        process(make_frames(3), Recipe(), output=tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_run_that_somebody_writes_is_left_alone(make_frames: MakeFrames, tmp_path: Path) -> None:
    caught: list[RunError] = []

    def second(progress: Progress) -> None:
        with pytest.raises(RunError, match="this process itself is writing this run") as error:
            process(make_frames(4), Recipe(), output=tmp_path / "run", resume=True)
        caught.append(error.value)

    assert process(make_frames(4), Recipe(), output=tmp_path / "run", progress=second).is_finished
    assert caught


def test_without_frames_nothing_is_begun(make_frames: MakeFrames, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no frames"):
        process(make_frames(0), Recipe(), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_an_output_the_run_goes_to_a_folder_named_by_date(
    make_frames: MakeFrames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = process(make_frames(2), Recipe())
    assert run.path.parent == tmp_path / "sfxlab-runs"


def test_a_run_of_some_frames_opens_those_again_with_their_masks(tmp_path: Path) -> None:
    lines = ["photon_energy = 9000", "clen = 0.1", "res = 10000", "adu_per_photon = 1", "data = /data", "dim0 = %"]
    lines += ["dim1 = ss", "dim2 = fs", "mask0_data = /mask", "mask0_file = mask.h5", "mask0_badbits = 1"]
    lines += ["saturation_map = /limits", "saturation_map_file = mask.h5"]
    lines += ["p0/min_fs = 0", "p0/max_fs = 63", "p0/min_ss = 0", "p0/max_ss = 63", "p0/corner_x = -32"]
    lines += ["p0/corner_y = -32", "p0/fs = x", "p0/ss = y"]
    (tmp_path / "detector.geom").write_text("\n".join(lines) + "\n")
    mask = np.zeros((64, 64), np.uint8)
    mask[5, 7] = 1
    with h5py.File(tmp_path / "frames.h5", "w") as file, h5py.File(tmp_path / "mask.h5", "w") as masks:
        file["data"] = np.random.default_rng(1).poisson(5, (10, 64, 64)).astype(np.uint16)
        masks["mask"], masks["limits"] = mask, np.full((64, 64), 80)
    frames = open_frames(tmp_path / "frames.h5", tmp_path / "detector.geom")[3:9:2]
    run = process(frames, Recipe(), output=tmp_path / "run")
    assert [Path(file.path).name for file in run.record.files] == ["frames.h5", "mask.h5"]
    again = run.open_frames()
    assert (
        [again.identity(i).event for i in range(len(again))] == run.frames["event"].to_pylist() == ["//3", "//5", "//7"]
    )
    np.testing.assert_array_equal(again[1].data, frames[1].data)
    assert again[1].bad[5, 7]
    assert again[1].saturation_map is not None
    assert process(again, Recipe(), output=run.path, resume=True).is_finished


def test_small_data_sets_spread_and_large_ones_have_large_chunks() -> None:
    assert [default_chunk_size(n) for n in (1, 100, 1000, 6400, 10**6)] == [8, 8, 16, 100, 100]
