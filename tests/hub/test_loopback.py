"""Ports of 127.0.0.1 belong to whom they belong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sfxlab.hub.loopback import DASK_SETTINGS, listener

CLUSTER = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, protocol="tcp",
                      dashboard_address="127.0.0.1:0") as cluster:
        worker = next(iter(cluster.workers.values()))
        ports = [cluster.scheduler.http_server.port, cluster.scheduler.port, worker.port, worker.http_server.port]
        print(*ports, flush=True)
        sys.stdin.read()
"""

ASK = """
import sys, urllib.request
from distributed import Client
dashboard, scheduler = sys.argv[1:]
try:
    print(urllib.request.urlopen(f"http://127.0.0.1:{dashboard}/status", timeout=20).status)
except OSError:
    print("refused")
try:
    with Client(f"tcp://127.0.0.1:{scheduler}", timeout=3, set_as_default=False) as client:
        print(client.submit(int, 7).result())
except OSError:
    print("refused")
"""

SEND = """
import socket, sys
for port in sys.argv[1:]:
    with socket.create_connection(("127.0.0.1", int(port)), timeout=20) as connection:
        try:
            connection.sendall(b"GET /health HTTP/1.0\\r\\n\\r\\n")
            print(len(connection.recv(10)))
        except OSError:
            print(0)
"""


@pytest.fixture(scope="module")
def ports() -> Iterator[list[str]]:
    """Of a dashboard, a scheduler, a worker and its pages, of a Dask cluster that keeps other accounts out."""
    if os.geteuid() != 0:
        pytest.skip("only root may start processes of two accounts")
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, **DASK_SETTINGS},
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        yield process.stdout.readline().split()
        process.communicate(timeout=60)


def test_the_account_itself_reaches_its_cluster(ports: list[str]) -> None:
    said = subprocess.run([sys.executable, "-c", ASK, *ports[:2]], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["200", "7"]


def test_other_accounts_get_no_byte_out_of_a_scheduler_a_worker_or_their_pages(ports: list[str]) -> None:
    assert len(ports) == 4

    def said_to(user: int) -> list[str]:
        command = ["/usr/bin/python3", "-c", SEND, *ports]
        return subprocess.run(command, user=user, capture_output=True, text=True, check=True).stdout.split()

    mine, theirs = said_to(0), said_to(65534)
    assert [int(each) > 0 for each in mine] == [True] * 4
    assert theirs == ["0"] * 4


def test_a_port_is_known_by_the_account_that_listens(ports: list[str]) -> None:
    at = listener(int(ports[0]))
    assert at is not None
    assert (at.user, at.listens, at.port) == (os.geteuid(), True, int(ports[0]))
    assert listener(1) is None
