"""Widgets with a Dask client: parameters applied to the run on its workers, and these in the run monitor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from sfxlab.store import Run
from sfxlab.widgets import FrameViewer, LiveParameters
from sfxlab.widgets.models.run_monitor import WatchedRun
from sfxlab.widgets.run_monitor import RunMonitor


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Two workers of two threads each; what other tests left in memory must not make them pause."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=2, processes=False, memory_limit="8GiB", dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def done(client: Client) -> set[str]:
    """Keys of the tasks that workers have finished."""
    return {str(key) for key, _, state, *_ in client.cluster.scheduler.transition_log if state == "memory"}


def test_changes_are_applied_to_the_run_on_the_workers(client: Client, small_run: Run, tmp_path: Path) -> None:
    viewer = FrameViewer(small_run)
    live = LiveParameters(viewer, client=client, folder=tmp_path)
    live.changes = {"hits.min_peaks": 100000}
    before = done(client)
    live.apply(some=False)
    live.wait(240)
    assert live.applying["state"] == "done", live.applying["text"]
    assert done(client) - before
    assert live.comparison["hits"] == [small_run.counts.hits, 0]
    assert len(live.comparison["lost"]) == small_run.counts.indexed
    assert live.run is not None
    assert live.run.is_finished
    assert len(live.run.frames) == len(small_run.frames)
    assert live.run.recipe.hits.min_peaks == 100000
    live.close()
    viewer.close()


def test_the_monitor_shows_a_line_for_each_worker(
    client: Client, small_run: Run, until: Callable[[Callable[[], bool]], None]
) -> None:
    workers = WatchedRun(small_run, client).look()["workers"]
    assert len(workers) == 2
    for worker in workers:
        assert (worker["threads"], worker["processing"], worker["limit"]) == (2, 0, 2**13)
        assert 0 < worker["memory"] < 2**20
        assert worker["cpu"] >= 0
        assert worker["host"]
    assert len({worker["name"] for worker in workers}) == 2
    monitor = RunMonitor(small_run, client=client)
    assert [worker["name"] for worker in monitor.seen["workers"]] == [worker["name"] for worker in workers]
    assert RunMonitor(small_run).seen["workers"] == []
    client.cluster.scale(1)
    until(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == 1)
    monitor.refresh()
    assert len(monitor.seen["workers"]) == 1
    monitor.close()
