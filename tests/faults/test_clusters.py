"""A scheduler that is killed, a client that is gone, workers whose time is up: real processes of `dask`."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sfxlab.cluster import connect
from sfxlab.errors import ClusterError
from sfxlab.frames import FrameSource
from sfxlab.learning import learn_spot_profiles
from sfxlab.processing import process
from sfxlab.progress import Progress
from sfxlab.recipe import Recipe
from sfxlab.store import Run

MakeFrames = Callable[..., FrameSource]
Start = Callable[..., subprocess.Popen[str]]
Content = Callable[[Run], dict[str, Any]]
WaitFor = Callable[[Callable[[], object], str], None]


class Site:
    """A scheduler, and workers that know it."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{one.getsockname()[1]}"
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start("scheduler", "--host", self.address, "--no-dashboard")

    def worker(self, *options: str) -> subprocess.Popen[bytes]:
        return self._start("worker", self.address, "--nthreads", "1", "--no-dashboard", *options)

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        log = (self._folder / f"{len(self._started)}.log").open("wb")
        started = subprocess.Popen(
            [sys.executable, "-m", "dask", *command], stdout=log, stderr=log, cwd=self._folder, start_new_session=True
        )
        log.close()
        self._started.append(started)
        return started

    def end(self) -> None:
        for one in self._started:
            with suppress(ProcessLookupError):
                os.killpg(one.pid, signal.SIGKILL)  # each has a session of its own
            one.wait()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.end()


def test_a_run_outlives_its_client_its_workers_walltime_and_its_scheduler(
    make_frames: MakeFrames, recipe: Recipe, content: Content, start: Start, site: Site, wait_for: WaitFor,
    tmp_path: Path,
) -> None:  # fmt: skip
    frames, output = make_frames(240, seconds=0.05), tmp_path / "run"

    # The client is killed; scheduler and workers stay, and another client goes on with them.
    site.worker()
    first = start(frames, recipe, output=output, chunk_size=4, address=site.address)
    wait_for(lambda: len(list(output.glob("frames/part-*.parquet"))) >= 3, "chunks")
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert Run(output).writer is None
    assert Run(output).record.status == "running"

    # The time of a worker is up: it goes in peace, and what it had to do goes to the other. Then the scheduler is
    # killed; no more than 16 chunks are under way, so there is something left to do.
    short = site.worker("--lifetime", "6 seconds")

    def watch(progress: Progress) -> None:
        if progress.done.frames >= 40:
            wait_for(lambda: short.poll() is not None, "end of the worker whose time is up")
        if progress.done.frames >= 120:
            site.scheduler.send_signal(signal.SIGKILL)

    with connect(site.address, timeout=60) as client:
        client.wait_for_workers(2, timeout=60)
        with pytest.raises(ClusterError, match="--resume"):
            process(frames, recipe, client, output, resume=True, progress=watch)
    assert short.returncode == 0
    run = Run(output)
    assert run.record.status == "interrupted"
    assert re.fullmatch(r"\d+ of 240 frames are missing \(\d+ of 60 chunks\)", run.missing())
    assert 120 <= len(run.frames) < 240
    assert run.counts.failed == 0

    resumed = process(make_frames(240), recipe, output=output, resume=True)
    assert content(resumed) == content(process(make_frames(240), recipe, output=tmp_path / "undisturbed", chunk_size=4))


def test_a_run_whose_workers_are_all_killed_says_so_and_goes_on_with_others(
    make_frames: MakeFrames, recipe: Recipe, content: Content, site: Site, wait_for: WaitFor, tmp_path: Path
) -> None:
    frames, recipe = make_frames(40), recipe.changed(bad_pixels={"learn": True})
    why = f"no workers at {site.address}; start `dask worker` there"
    workers, stages, killed = [site.worker("--no-nanny")], list[str](), list[str]()

    def kill_all(during: str) -> None:
        killed.append(during)
        workers[-1].kill()
        wait_for(lambda: not client.nthreads(), "end of the worker")

    def told() -> str | None:
        writer = Run(tmp_path / "run").writer
        return writer.progress.stage if writer and writer.progress else None

    def watch(progress: Progress) -> None:
        if stages[-1:] != [progress.stage]:
            stages.append(progress.stage)
        if not killed and progress.stage.startswith("learning"):
            kill_all("learning")
        if len(killed) == 1 and progress.fresh:
            kill_all("processing")
        if progress.stage == why:
            wait_for(lambda: told() == why, "word of it in the run")
            workers.append(site.worker("--no-nanny"))

    def start_one(said: str) -> None:
        stages.append(said)
        if said:
            workers.append(site.worker("--no-nanny"))

    with connect(site.address, timeout=60) as client:
        client.wait_for_workers(1, timeout=60)
        run = process(frames, recipe, client, tmp_path / "run", chunk_size=1, progress=watch)
        assert killed == ["learning", "processing"]
        assert stages.count(why) == 2
        assert stages[stages.index(why) + 1].startswith("learning bad pixels")
        assert stages[-1] == ""
        # Shapes of spots are learned likewise; without crystals there are none.
        kill_all("learning")
        assert learn_spot_profiles(make_frames(1), Recipe(), client, waiting=start_one) is None
        assert stages[-2:] == [why, ""]
    assert content(run) == content(process(frames, recipe, output=tmp_path / "undisturbed", chunk_size=1))
