from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from distributed import LocalCluster, Security, comm

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


def test_others_of_the_machine_do_not_get_into_workers_on_it() -> None:
    with connect("local", workers=1, dashboard=False) as owner:
        address = owner.scheduler.address
        assert address.startswith("tls://127.0.0.1:")
        for way in (address, address.replace("tls:", "tcp:")):
            with pytest.raises(ClusterError, match="no scheduler answers"):
                connect(way, timeout=1)
        # Somebody with certificates of their own is nobody, too.
        foreign = Security.temporary().get_connection_args("client")
        with pytest.raises(OSError, match="certificate"):
            asyncio.run(comm.connect(address, timeout=1, **foreign))
        # What listens does so on this machine only, and no worker listens to just anybody.
        mine = psutil.Process()
        listening = [
            place.laddr
            for process in [mine, *mine.children(recursive=True)]
            for place in process.net_connections("tcp")
            if place.status == psutil.CONN_LISTEN
        ]
        assert {place.ip for place in listening} == {"127.0.0.1"}
        assert owner.submit(sum, [1, 2]).result() == 3


def test_a_scheduler_that_is_running_already_can_be_used() -> None:
    with (
        LocalCluster(n_workers=1, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0") as running,
        connect(running.scheduler_address) as guest,
    ):
        assert guest.submit(sum, [1, 2]).result() == 3


def test_a_scheduler_with_certificates_wants_those_of_the_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    security = Security.temporary()
    (tmp_path / "ca.pem").write_text(security.tls_ca_file)
    (tmp_path / "cert.pem").write_text(security.tls_client_cert)
    (tmp_path / "key.pem").write_text(security.tls_client_key)
    site = tmp_path / "site.toml"
    monkeypatch.setenv("SFXLAB_SITE", str(site))
    files = [
        f"--tls-{kind}={tmp_path}/{name}.pem" for kind, name in (("ca-file", "ca"), ("cert", "cert"), ("key", "key"))
    ]
    there = tmp_path / "scheduler.json"
    command = ("scheduler", "--host", "tls://127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", there)
    running = subprocess.Popen([sys.executable, "-m", "dask", *command, *files], stderr=subprocess.DEVNULL)
    try:
        while not there.exists():
            assert running.poll() is None
            time.sleep(0.1)
        address = json.loads(there.read_text())["address"]
        profile = f'[hall]\nkind = "tcp"\naddress = "{address}"\n'
        site.write_text(profile)
        with pytest.raises(ClusterError, match="with tls_ca, tls_cert and tls_key"):
            connect("hall", timeout=1)
        site.write_text(profile + "".join(f'tls_{name} = "{tmp_path}/{name}.pem"\n' for name in ("ca", "cert", "key")))
        with connect("hall", timeout=30) as guest:
            assert guest.scheduler_info()["address"] == address
        (tmp_path / "key.pem").unlink()
        with pytest.raises(ClusterError, match=r"key\.pem, tls_key: this certificate cannot be read"):
            connect("hall", timeout=1)
    finally:
        running.kill()
        running.wait()


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
