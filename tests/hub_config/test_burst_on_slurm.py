"""Real SLURM, whose power saving calls the programs as an administrator installs them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
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


def test_a_run_spreads_to_nodes_of_a_cloud_which_go_back_when_idle(
    slurm_site: Any,
    make_cxi: Callable[..., Path],
    two_panels: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "frames.geom").write_text(two_panels)
    pixels = np.random.default_rng(1).poisson(3, (90, 8, 6)).astype(np.uint16)
    frames = open_frames([make_cxi(frames=pixels)], tmp_path / "frames.geom")
    with slurm_site(local_nodes=1, cloud_nodes=2, cpus=1, suspend_time=4) as site:
        (tmp_path / "site.toml").write_text(
            f'[hall]\nkind = "slurm"\nworkers = 3\nmemory = "2 GiB"\nhost = "{site.host}"\njob_folder = "{tmp_path}"\n'
        )
        for name, value in (site.environment | {"SFXLAB_SITE": str(tmp_path / "site.toml")}).items():
            monkeypatch.setenv(name, value)
        assert site.states() == {"local1": "idle", "cloud1": "idle~", "cloud2": "idle~"}
        with connect("hall") as client:
            wait_for_workers(client, 3, timeout=200)
            with get_task_stream(client) as stream:
                run = process(frames, _RECIPE, client, tmp_path / "run", chunk_size=1)
        assert run.is_finished
        assert run.counts.frames == 90
        workers = {urlsplit(task["worker"]).hostname for task in stream.data if task["key"].startswith("process")}
        assert workers == {site.address(node) for node in ("local1", "cloud1", "cloud2")}
        site.wait_for(lambda: [site.states()[node] for node in site.cloud_nodes] == ["idle~"] * 2, "nodes to go back")
        assert site.states()["local1"] == "idle"
        assert not any(site.nodes.processes(node) for node in site.cloud_nodes)


def test_servers_of_openstack_serve_jobs_and_a_node_without_server_is_down_with_the_reason(
    slurm_site: Any, tmp_path: Path
) -> None:
    """The cloud's servers are slurmds in network namespaces; everything up to them is the real thing."""
    with contextlib.ExitStack() as stack:
        cloud = stack.enter_context(OpenStackService(quota=0))

        def settings(site: Any) -> str:
            cloud.on_create, cloud.on_delete = site.nodes.start, site.nodes.stop
            (tmp_path / "clouds.yaml").write_text(cloud.clouds_yaml())
            (tmp_path / "init.yaml").write_text("#cloud-config\nruncmd: [slurmd, -N, $node]\n")
            return (
                f'driver = "openstack"\nlog = "{site.folder}/log/burst.log"\n[openstack]\ncloud = "research"\n'
                f'image = "debian-worker"\nflavor = "m1.large"\nnetwork = "site"\n'
                f'cloud_init = "{tmp_path}/init.yaml"\nclouds_yaml = "{tmp_path}/clouds.yaml"\n'
            )

        site = stack.enter_context(slurm_site(1, 1, cpus=1, suspend_time=4, burst=settings))
        site.run("sbatch", "-Ccloud", "-o", str(tmp_path / "out"), "--wrap", "printenv SLURMD_NODENAME")
        site.wait_for(lambda: "State=DOWN" in site.run("scontrol", "show", "node", "cloud1"), "the node to be down")
        assert "already used 0 of 0 instances" in site.run("scontrol", "show", "node", "cloud1")
        assert "already used 0 of 0 instances" in (site.folder / "log" / "burst.log").read_text()
        # What an administrator does then. The job has been waiting.
        cloud.quota = 1
        for state in ("POWER_DOWN_FORCE", "RESUME"):
            site.run("scontrol", "update", "NodeName=cloud1", f"State={state}")
        site.wait_for(lambda: (tmp_path / "out").exists() and (tmp_path / "out").read_text(), "the job to run")
        assert (tmp_path / "out").read_text() == "cloud1\n"
        site.wait_for(lambda: not cloud.servers, "the server to be deleted")
