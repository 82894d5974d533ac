"""Workers in jobs of a real SLURM."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from distributed import Client

from sfxlab.cli import main
from sfxlab.cluster import connect, task_result, wait_for_workers, waiting_for
from sfxlab.errors import ClusterError
from sfxlab.frames import open_frames
from sfxlab.processing import process
from sfxlab.progress import Progress
from sfxlab.recipe import Recipe

_SITE_FILE = """\
[here]
kind = "slurm"
host = "{host}"
queue = "{partition}"
workers = 2
cores = 1
memory = "600 MiB"
look = "1 s"
job_folder = "{folder}/jobs"
scratch = "{folder}/scratch"

[pairs]
kind = "slurm"
host = "{host}"
workers = 2
most_workers = 4
cores = 2
memory = "1 GiB"
look = "1 s"
idle = "1 s"
job_folder = "{folder}/jobs"

[broken]
kind = "slurm"
host = "{host}"
memory = "600 MiB"
look = "1 s"
prologue = ["echo 'module: command not found' >&2", "exit 3"]
job_folder = "{folder}/jobs"

[elsewhere]
kind = "slurm"
host = "{host}"
queue = "nonesuch"
memory = "600 MiB"
job_folder = "{folder}/jobs"
"""


@pytest.fixture(scope="module")
def site(slurm_site: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two nodes of two cores, and a site file with profiles for them."""
    pytest.importorskip("dask_jobqueue")
    folder = tmp_path_factory.mktemp("site")
    with slurm_site(local_nodes=2) as started, pytest.MonkeyPatch.context() as patch:
        file = folder / "site.toml"
        file.write_text(_SITE_FILE.format(host=started.host, partition=started.partition, folder=folder))
        for name, value in (started.environment | {"SFXLAB_SITE": str(file)}).items():
            patch.setenv(name, value)
        yield started


@pytest.fixture(autouse=True)
def empty_queue(site: Any) -> Iterator[None]:
    """Whatever a test did, its jobs have ended after it."""
    yield
    site.wait_for(lambda: not site.run("squeue", "-h"), "jobs to end with their client", 30)


def jobs_of(client: Client) -> list[str]:
    return [job.job_id for job in client.cluster.workers.values()]


def until(condition: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def test_a_run_on_slurm_is_the_run_of_one_process(
    site: Any, quick_frames: Any, sfxlab_here: Callable[..., str], content: Any, tmp_path: Path
) -> None:
    sfxlab_here(*quick_frames.command(tmp_path / "here", "--workers", 0))
    told = sfxlab_here(*quick_frames.command(tmp_path / "jobs", "--cluster", "here", "--json"))
    assert json.loads(told)["status"] == "finished"
    assert content(tmp_path / "jobs") == content(tmp_path / "here")


def test_a_cancelled_job_comes_back_and_its_tasks_are_done(site: Any) -> None:
    with connect("pairs") as client:
        wait_for_workers(client, 2, timeout=60)
        assert client.scheduler_info()["address"].startswith("tls://")
        tasks = client.map(lambda number: time.sleep(0.2) or number, range(40), pure=False)
        first = jobs_of(client)
        site.run("scancel", first[0])
        assert client.gather(tasks) == list(range(40))
        assert until(lambda: bool(jobs_of(client)) and set(jobs_of(client)).isdisjoint(first[:1]))
        wait_for_workers(client, 2, timeout=60)
        # Who has no certificate of this scheduler does not get in.
        with pytest.raises(ClusterError):
            connect(client.scheduler_info()["address"].replace("tls:", "tcp:"), timeout=1)
        folder = client.cluster.folder
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()


def test_there_are_more_jobs_while_there_is_much_to_do(site: Any) -> None:
    with connect("pairs") as client:
        tasks = client.map(time.sleep, [1.0] * 200, pure=False)
        assert until(lambda: len(client.nthreads()) == 4)
        client.cancel(tasks)
        # A job goes as a whole, and the floor stays.
        assert until(lambda: len(client.nthreads()) == 2)
        assert until(lambda: len(jobs_of(client)) == 1)


def test_a_run_that_waits_shows_what_for_in_the_words_of_slurm(site: Any, quick_frames: Any, tmp_path: Path) -> None:
    script = tmp_path / "others.sh"
    script.write_text("#!/bin/sh\nexec sleep 300\n")
    for _ in site.local_nodes:
        site.run("sbatch", "--exclusive", "--time=10", "--output=/dev/null", str(script))
    stages: list[str] = []

    def report(progress: Progress) -> None:
        stages.append(progress.stage)
        if "expected" in progress.stage:
            assert waiting_for(client) in client._repr_html_()
            site.run("scancel", "--name=others.sh")

    frames = open_frames([quick_frames.frames], quick_frames.geometry)
    with connect("here") as client:
        run = process(frames, Recipe.read(quick_frames.recipe), client, tmp_path / "run", progress=report)
        wait_for_workers(client, 2, timeout=60)
        assert waiting_for(client) == ""
    assert run.is_finished
    assert all(stage.startswith("0 of 2 workers: ") for stage in stages if stage)
    assert any("PENDING (Resources)" in stage for stage in stages)
    assert stages[-1] == ""


def test_a_run_whose_workers_all_vanish_shows_why_and_goes_on_with_new_ones(
    site: Any, quick_frames: Any, sfxlab_here: Callable[..., str], content: Any, tmp_path: Path
) -> None:
    stages: list[str] = []
    nodes = ",".join(site.local_nodes)

    def resume() -> None:
        with suppress(RuntimeError):  # they are up already
            site.run("scontrol", "update", f"nodename={nodes}", "state=resume")

    def report(progress: Progress) -> None:
        if progress.fresh and not stages:
            site.run("scontrol", "update", f"nodename={nodes}", "state=drain", "reason=power")
            for job in jobs_of(client):
                site.run("scancel", job)
            assert until(lambda: not client.nthreads())
        if progress.fresh:
            stages.append(progress.stage)
        if "PENDING" in progress.stage:
            resume()

    frames = open_frames([quick_frames.frames], quick_frames.geometry)
    try:
        with connect("here") as client:
            run = process(
                frames, Recipe.read(quick_frames.recipe), client, tmp_path / "run", chunk_size=1, progress=report
            )
    finally:
        resume()
    assert run.is_finished
    (why, *_) = [stage for stage in stages if "PENDING (" in stage]
    assert why.startswith("0 of 2 workers: ")
    assert stages[-1] == ""
    sfxlab_here(*quick_frames.command(tmp_path / "here", "--workers", 0))
    assert content(run.path) == content(tmp_path / "here")


def test_jobs_that_fail_at_once_end_the_wait_with_the_end_of_their_log(site: Any) -> None:
    with connect("broken") as client:
        task = client.submit(sum, [1, 2])
        with pytest.raises(ClusterError, match="end before their workers come") as caught:
            wait_for_workers(client, timeout=60)
        assert "FAILED (NonZeroExitCode)" in str(caught.value)
        assert "module: command not found" in str(caught.value)
        with pytest.raises(ClusterError, match="end before their workers come"):
            task_result(task)


def test_a_job_that_slurm_refuses_ends_the_wait_with_its_reason(site: Any) -> None:
    with connect("elsewhere") as client, pytest.raises(ClusterError, match="SLURM refuses") as caught:
        wait_for_workers(client, timeout=60)
    assert "Invalid partition name specified" in str(caught.value)


def test_the_doctor_tries_a_job_and_a_task(site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["doctor", "here", "--json"], catch_exceptions=False)
    values = json.loads(done.stdout)
    findings = {finding["what"]: finding for finding in values["findings"]}
    assert done.exit_code == 0, done.stdout
    assert set(findings) == {
        "scheduler", "worker", "machine", "Python", "sfxlab", "this folder", "scratch", "compiled kernels",
    }  # fmt: skip
    assert "/scratch/" in findings["scratch"]["found"]
    origins = {row["name"]: row["from"] for row in values["values"]}
    assert (origins["memory"], origins["walltime"]) == (os.environ["SFXLAB_SITE"], "default")


def test_the_doctor_says_what_is_wrong_and_what_to_do(site: Any) -> None:
    done = CliRunner().invoke(main, ["doctor", "broken"], catch_exceptions=False)
    assert done.exit_code == 1
    for words in ("BAD", "module: command not found", "→ mend prologue, python or container"):
        assert words in done.stdout
