"""Workers that die, hang or run out of memory: the frame to blame is a row with a reason, all others are as ever."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from sfxlab.cluster import connect
from sfxlab.frames import FrameSource
from sfxlab.learning import Guard, learn_bad_pixels
from sfxlab.processing import process
from sfxlab.progress import Progress
from sfxlab.recipe import BadPixelRecipe, Recipe
from sfxlab.store import Run

MakeFrames = Callable[..., FrameSource]
Content = Callable[[Run], dict[str, Any]]


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Client]:
    with connect("local", workers=2, memory_limit="1.5 GiB", dashboard=False) as client:
        yield client


def test_workers_killed_in_every_stage_change_nothing(
    make_frames: MakeFrames, content: Content, tmp_path: Path, two_workers: Client
) -> None:
    frames = make_frames(40, seconds=0.02)
    undisturbed = process(frames, Recipe(), output=tmp_path / "undisturbed", chunk_size=4, progress=None)
    killed: list[str] = []

    def kill(progress: Progress) -> None:
        stage = progress.stage.partition(",")[0] or f"processing, {progress.fresh > 0}"
        if stage not in killed and "workers:" not in stage:
            killed.append(stage)
            os.kill(two_workers.cluster.workers[len(killed) % 2].pid, signal.SIGKILL)

    run = process(frames, Recipe(), two_workers, tmp_path / "run", chunk_size=4, progress=kill)
    assert killed == ["learning bad pixels", "learning shapes of spots", "processing, False", "processing, True"]
    assert content(run) == content(undisturbed)
    assert run.bad_pixels is not None
    assert run.counts.failed == 0
    assert not list((run.path / "under_way").iterdir())


def test_a_frame_that_hangs_or_takes_all_memory_is_recorded_alone_and_tried_again_when_resumed(
    make_frames: MakeFrames, recipe: Recipe, content: Content, tmp_path: Path, two_workers: Client
) -> None:
    undisturbed = process(make_frames(16), recipe, output=tmp_path / "undisturbed", chunk_size=4, progress=None)
    others = [row for row in undisturbed.frames.to_pylist() if row["frame"] != 5]
    limited = recipe.changed(processing={"seconds_per_frame": 4})
    output = tmp_path / "run"
    for frames, settings, reason in (
        (make_frames(16, hanging={5}), limited, "TimeLimit: it took more than 4 s, 2 times"),
        (make_frames(16, hungry={5}), recipe, "KilledWorker: the worker process died 3 times on this frame"),
    ):
        run = process(frames, settings, two_workers, output, chunk_size=4, resume=True, progress=None)
        assert run.is_finished
        rows = run.frames.to_pylist()
        assert (rows[5]["status"], rows[5]["reason"]) == ("failed", reason)
        assert repr([row for row in rows if row["frame"] != 5]) == repr(others)
        assert run.missing() == "0 of 16 frames are missing (0 of 4 chunks); 1 that failed are tried again"
    resumed = process(make_frames(16), recipe, two_workers, output, resume=True, progress=None)
    assert content(resumed) == content(undisturbed)
    assert resumed.counts.failed == 0


def test_a_frame_that_hangs_does_not_hold_up_what_is_learned(
    make_frames: MakeFrames, tmp_path: Path, two_workers: Client
) -> None:
    guard = Guard(tmp_path, seconds=1)
    learned = learn_bad_pixels(make_frames(20, hanging={7}), BadPixelRecipe(), two_workers, guard=guard)
    assert learned is not None
    assert learned.frames == 16
