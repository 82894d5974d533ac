"""What people see who wait for workers."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from typing import Any

import pytest
from distributed import LocalCluster

from sfxlab.cluster import connect, wait_for_workers, waiting_for
from sfxlab.errors import ClusterError

_WAITING = """
from distributed import LocalCluster
from sfxlab.cluster import connect, wait_for_workers
from sfxlab.errors import ClusterError
with LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster:
    with connect(cluster.scheduler_address) as client:
        try:
            wait_for_workers(client, timeout=1)
        except ClusterError as error:
            print("gave up:", error.problem)
"""


def test_waiting_for_a_scheduler_without_workers_says_what_is_missing() -> None:
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        connect(cluster.scheduler_address) as client,
    ):
        told: list[str] = []
        with pytest.raises(ClusterError, match="no workers came in time"):
            wait_for_workers(client, report=told.append, timeout=0.5)
        assert told == [f"no workers at {cluster.scheduler_address}; start `dask worker` there"]
        cluster.scale(1)
        wait_for_workers(client, timeout=20)
        assert waiting_for(client) == ""


def test_workers_of_this_machine_that_do_not_come_back_are_told() -> None:
    with connect("local", workers=1, dashboard=False) as client:
        assert waiting_for(client) == ""
        client.retire_workers()
        deadline = time.monotonic() + 60
        while "none is started again" not in waiting_for(client) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert waiting_for(client) == "0 of 1 workers: their processes have ended, and none is started again"
        assert waiting_for(client) in client._repr_html_()


def test_a_terminal_has_a_line_for_it() -> None:
    master, slave = pty.openpty()
    with subprocess.Popen((sys.executable, "-c", _WAITING), stdout=slave, stderr=slave, stdin=slave) as process:
        os.close(slave)
        shown = b""
        while True:
            try:
                piece = os.read(master, 4096)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece
        process.wait()
    os.close(master)
    assert b"no workers at inproc://" in shown
    assert b"gave up: no workers came in time" in shown


def test_a_notebook_has_a_line_for_it() -> None:
    client = pytest.importorskip("jupyter_client")
    manager, kernel = client.manager.start_new_kernel(kernel_name="python3")
    try:
        messages: list[dict[str, Any]] = []
        kernel.execute_interactive(_WAITING, timeout=60, output_hook=messages.append)
    finally:
        kernel.stop_channels()
        manager.shutdown_kernel(now=True)
    updates = [
        message["content"]["data"]["text/html"] for message in messages if message["msg_type"] == "update_display_data"
    ]
    assert updates[0].startswith("no workers at inproc://")
    assert updates[-1] == ""
