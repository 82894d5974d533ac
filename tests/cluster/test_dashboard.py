"""Panels of frames on Dask's dashboard, and links to it."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client

from sfxlab.cluster import connect
from sfxlab.cluster.dashboard import TOPIC, page_of, rates, tell_chunk

_PREFIX = "/user/anna/"


def test_rates_are_of_the_chunks_that_ended_lately() -> None:
    def event(seconds_ago: float, worker: str, frames: int, hits: int, indexed: int) -> tuple[float, dict[str, Any]]:
        told = {"worker": worker, "frames": frames, "hits": hits, "indexed": indexed, "seconds": 5.0}
        return 1000.0 - seconds_ago, told

    events = [
        event(95, "old", 50, 50, 50),
        event(25, "a", 100, 40, 10),
        event(24, "b", 50, 20, 20),
        event(1, "a", 10, 0, 0),
    ]
    found = rates(events, now=1000.0, window=30.0, bins=3)
    np.testing.assert_allclose(found.seconds, [-25, -15, -5])
    np.testing.assert_allclose(found.frames_per_second, [15, 0, 1])
    np.testing.assert_allclose(found.hit_rate, [0.4, np.nan, 0])
    np.testing.assert_allclose(found.indexing_rate, [0.5, np.nan, np.nan])
    assert found.of_workers == {"a": 11.0, "b": 10.0}
    assert rates([], now=1000.0).of_workers == {}


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A worker on this machine, started where a hub gave this process its prefix."""
    with pytest.MonkeyPatch.context() as patch, dask.config.set({}):
        patch.setenv("JUPYTERHUB_SERVICE_PREFIX", _PREFIX)
        with connect("local", workers=1) as started:
            yield started
    dask.config.refresh()


def port_of(client: Client) -> int:
    return int(client.dashboard_link.split("/proxy/")[1].split("/")[0])


def test_links_lead_through_the_hub_and_are_shown(client: Client) -> None:
    assert client.dashboard_link == f"{_PREFIX}proxy/{port_of(client)}/status"
    assert page_of(client) == f"{_PREFIX}proxy/{port_of(client)}/frames"
    assert f'href="{page_of(client)}"' in client._repr_html_()


def test_what_workers_did_is_on_the_page_of_frames(client: Client) -> None:
    pull_session = pytest.importorskip("bokeh.client").pull_session
    client.submit(tell_chunk, 100, 40, 10, 5.0, key="process-frames-000000-0-0123abcd").result()
    deadline = time.monotonic() + 60
    while not client.get_events(TOPIC) and time.monotonic() < deadline:
        time.sleep(0.1)
    here = f"http://127.0.0.1:{port_of(client)}"
    figures = pull_session(url=f"{here}/frames").document.roots[0].children
    data = [figure.renderers[0].data_source.data for figure in figures]
    assert [figure.title.text.split(",")[0] for figure in figures] == [
        "Frames a second", "Hit rate", "Frames a second of each worker",
    ]  # fmt: skip
    assert np.nanmax(data[0]["rate"]) == pytest.approx(100 / 5)
    assert (np.nanmax(data[1]["hits"]), np.nanmax(data[1]["indexed"])) == (0.4, 0.25)
    assert dict(zip(data[2]["worker"], data[2]["rate"], strict=True)) == dict.fromkeys(client.nthreads(), 20.0)
    # Panels by themselves are listed with Dask's own, and tasks carry the names of their steps.
    listed = json.loads(urllib.request.urlopen(f"{here}/individual-plots.json").read())
    assert "/individual-frames-of-workers" in listed.values()
    assert "process-frames" in client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.task_prefixes))


def test_the_dashboard_is_reached_through_jupyters_proxy(client: Client, tmp_path: Path) -> None:
    pytest.importorskip("jupyter_server_proxy")
    token = secrets.token_hex(8)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    options = (f"--ServerApp.base_url={_PREFIX}", f"--ServerApp.port={port}", f"--IdentityProvider.token={token}")
    command = (
        sys.executable,
        "-m",
        "jupyter_server",
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        *options,
    )
    extension = "--ServerApp.jpserver_extensions=jupyter_server_proxy=True"
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen([*command, extension], stdout=log, stderr=log, cwd=tmp_path)
    try:
        asked = urllib.request.Request(f"http://127.0.0.1:{port}{page_of(client)}")
        deadline = time.monotonic() + 120
        while True:
            try:
                assert "/login" in urllib.request.urlopen(asked).url  # nobody gets in without the token
                break
            except urllib.error.URLError:
                assert server.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
        asked.add_header("Authorization", f"token {token}")
        page = urllib.request.urlopen(asked)
        assert page.status == 200
        assert b"<title>Frames</title>" in page.read()
    finally:
        server.kill()
        server.wait()
