"""Real SLURM, whose power saving calls the programs as an administrator installs them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from distributed import get_task_stream
from openstack_service import OpenStackService

from sfxlab import Recipe, connect, open_frames, process
from sfxlab.cluster import wait_for_workers

_RECIPE = Recipe().without_indexing().changed(bad_pixels={"learn": False})
"""Where frames go matters here, not what is found in them."""

_LIMIT = 200
"""Seconds: SLURM gives up a node that does not come after 60, and tries again."""
pytestmark = pytest.mark.timeout(4 * _LIMIT)


@pytest.fixture(scope="module")
def site(slurm_site: Any) -> Iterator[Any]:
    """One node that is always there, and two in the cloud."""
    with slurm_site(local_nodes=1, cloud_nodes=2, cpus=1, suspend_time=2) as started:
        yield started


@pytest.fixture
def given_back(site: Any) -> Callable[[], None]:
    """Waits until all nodes of the cloud have gone."""
    return lambda: site.wait_for(
        lambda: [site.states()[node] for node in site.cloud_nodes] == ["idle~"] * 2, "nodes to go back", _LIMIT
    )


def test_nodes_on_this_machine_come_for_a_job_and_go_when_idle(site: Any, given_back: Callable[[], None]) -> None:
    site.install_burst(site.local_burst())
    # What was left of a node is no node that boots now, and SLURM would not take it.
    left = [_something_running_on(f"{site.name}-{node}") for node in site.cloud_nodes]
    assert site.run("srun", "-Ccloud", "printenv", "SLURMD_NODENAME", timeout=_LIMIT).strip() in site.cloud_nodes
    given_back()
    assert site.states()["local1"] == "idle"
    for each in left:
        each.kill()
        each.wait()


def _something_running_on(node: str) -> subprocess.Popen[bytes]:
    subprocess.run(["ip", "netns", "add", node], check=True)
    return subprocess.Popen(["nsenter", f"--net=/run/netns/{node}", "sleep", "1000"])


def test_a_run_spreads_to_servers_of_a_cloud_also_when_one_is_refused_at_first(
    site: Any,
    given_back: Callable[[], None],
    make_cxi: Callable[..., Path],
    two_panels: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The cloud's servers are slurmds in network namespaces; everything up to them is the real thing."""
    (tmp_path / "frames.geom").write_text(two_panels)
    pixels = np.random.default_rng(1).poisson(3, (90, 8, 6)).astype(np.uint16)
    frames = open_frames([make_cxi(frames=pixels)], tmp_path / "frames.geom")
    (tmp_path / "init.yaml").write_text("#cloud-config\nruncmd: [slurmd, -N, $node]\n")
    (tmp_path / "site.toml").write_text(
        f'[hall]\nkind = "slurm"\nworkers = 3\nmemory = "2 GiB"\nhost = "{site.host}"\njob_folder = "{tmp_path}"\n'
    )
    for name, value in (site.environment | {"SFXLAB_SITE": str(tmp_path / "site.toml")}).items():
        monkeypatch.setenv(name, value)
    with OpenStackService(site.nodes.start, site.nodes.stop, quota=1) as cloud:
        (tmp_path / "clouds.yaml").write_text(cloud.clouds_yaml())
        site.install_burst(
            f'driver = "openstack"\nlog = "{site.folder}/log/burst.log"\n[openstack]\ncloud = "research"\n'
            f'image = "debian-worker"\nflavor = "m1.large"\nnetwork = "site"\n'
            f'cloud_init = "{tmp_path}/init.yaml"\nclouds_yaml = "{tmp_path}/clouds.yaml"\n'
        )
        with connect("hall") as client:
            refused = "already used 1 of 1 instances"
            site.wait_for(lambda: refused in site.run("scontrol", "show", "node", "-o"), "a node to be refused", _LIMIT)
            assert refused in (site.folder / "log" / "burst.log").read_text()
            # What an administrator does then. The job has been waiting.
            cloud.quota = 2
            (down,) = [node for node in site.cloud_nodes if refused in site.run("scontrol", "show", "node", node)]
            for state in ("POWER_DOWN_FORCE", "RESUME"):
                site.run("scontrol", "update", f"NodeName={down}", f"State={state}")
            wait_for_workers(client, 3, timeout=_LIMIT)
            with get_task_stream(client) as stream:
                run = process(frames, _RECIPE, client, tmp_path / "run", chunk_size=1)
        assert run.is_finished
        assert run.counts.frames == 90
        workers = {urlsplit(task["worker"]).hostname for task in stream.data if task["key"].startswith("process")}
        assert workers == {site.address(node) for node in ("local1", "cloud1", "cloud2")}
        given_back()
        site.wait_for(lambda: not cloud.servers, "the servers to be deleted", _LIMIT)
        assert not any(site.nodes.processes(node) for node in site.cloud_nodes)
