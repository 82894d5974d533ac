from __future__ import annotations

import os
import time

import pytest

from sfxlab.cluster import connect
from sfxlab.errors import ClusterError


def test_workers_on_this_machine_are_processes_of_one_thread_each() -> None:
    with connect("local", workers=2) as client:
        assert list(client.nthreads().values()) == [1, 1]
        pids = set(client.run(os.getpid).values())
        assert len(pids | {os.getpid()}) == 3
        assert client.dashboard_link.startswith("http://127.0.0.1:")
        address = client.scheduler.address
    # What the block started has ended with it.
    with pytest.raises(ClusterError):
        connect(address, timeout=1)


def test_a_scheduler_that_is_running_already_can_be_used() -> None:
    with connect("local", workers=1, dashboard=False) as owner, connect(owner.scheduler.address) as guest:
        assert guest.submit(sum, [1, 2]).result() == 3


def test_a_scheduler_that_does_not_answer_is_reported_in_time() -> None:
    start = time.monotonic()
    with pytest.raises(ClusterError, match=r"tcp://127\.0\.0\.1:9") as caught:
        connect("tcp://127.0.0.1:9", timeout=1)
    assert time.monotonic() - start < 5
    assert "dask scheduler" in str(caught.value)


def test_a_machine_without_slurm_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClusterError, match="there is no SLURM on this machine"):
        connect("slurm")


@pytest.mark.parametrize(
    ("where", "workers"), [("locla", None), ("foo://host:1", None), ("tcp://", None), ("local", 0), ("tcp://a:1", 4)]
)
def test_what_cannot_be_meant_is_refused(where: str, workers: int | None) -> None:
    with pytest.raises(ClusterError):
        connect(where, workers=workers)
