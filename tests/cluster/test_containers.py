"""Workers in containers, in jobs of a real SLURM. `images/build worker` makes the image."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sfxlab.cluster import connect, wait_for_workers

_CHECKOUT = Path(__file__).parents[2]
_WITHOUT_CGROUPS = """\
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=1024:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
_SITE_FILE = """\
[boxed]
kind = "slurm"
host = "{host}"
workers = 1
memory = "1 GiB"
look = "1 s"
job_folder = "{folder}/jobs"
numba_cache = "{kernels}"

[boxed.container]
runtime = "podman"
image = "{image}"
binds = ["{folder}", "{checkout}"]
# The image may be older than what is tested.
options = ["--env=PYTHONPATH={checkout}"]
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The newest image of a worker, where podman can run it."""
    if shutil.which("podman") is None:
        pytest.skip("no podman here")
    listed = subprocess.run(
        ["podman", "images", "--filter=reference=*/sfxlab-worker", "--format={{.Repository}}:{{.Tag}}"],
        capture_output=True, text=True,
    )  # fmt: skip
    if not listed.stdout.strip():
        pytest.skip(f"no image of a worker here; images/build worker makes it {listed.stderr}")
    name = listed.stdout.split()[0]
    settings = tmp_path_factory.mktemp("podman") / "containers.conf"
    settings.write_text(_WITHOUT_CGROUPS)
    command = ["podman", "run", "--rm", "--network=host", name, "true"]
    with pytest.MonkeyPatch.context() as patch:
        if subprocess.run(command, capture_output=True).returncode:
            patch.setenv("CONTAINERS_CONF", str(settings))
            tried = subprocess.run(command, capture_output=True, text=True)
            if tried.returncode:
                pytest.skip(f"podman cannot run containers here: {tried.stderr.strip()}")
        yield name


@pytest.fixture(scope="module")
def folder(image: str, slurm_site: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that containers see, while there is a SLURM with a profile for them."""
    pytest.importorskip("dask_jobqueue")
    shared = tmp_path_factory.mktemp("site")
    with slurm_site(local_nodes=1) as site, pytest.MonkeyPatch.context() as patch:
        kernels = os.environ.get("NUMBA_CACHE_DIR", shared / "kernels")
        text = _SITE_FILE.format(host=site.host, image=image, folder=shared, kernels=kernels, checkout=_CHECKOUT)
        (shared / "site.toml").write_text(text)
        for name, value in (site.environment | {"SFXLAB_SITE": str(shared / "site.toml")}).items():
            patch.setenv(name, value)
        patch.chdir(shared)
        yield shared
        site.wait_for(lambda: not site.run("squeue", "-h"), "jobs to end", 60)


def test_a_worker_in_a_container_runs_tasks_and_leaves_no_container(folder: Path) -> None:
    def running() -> str:
        command = ["podman", "ps", "--quiet", f"--filter=volume={folder}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with connect("boxed") as client:
        wait_for_workers(client, timeout=120)
        assert client.submit(os.path.exists, "/run/.containerenv").result()
        assert running()
    for _ in range(100):
        if not running():
            break
        time.sleep(0.2)
    assert not running()


def test_a_run_in_containers_is_the_run_of_one_process(
    folder: Path, quick_frames: Any, sfxlab_here: Callable[..., str], content: Any
) -> None:
    inputs = [shutil.copy(path, folder) for path in (quick_frames.frames, quick_frames.geometry)]
    seen = type(quick_frames)(*map(Path, inputs), quick_frames.recipe)
    sfxlab_here(*seen.command(folder / "here", "--workers", 0))
    told = sfxlab_here(*seen.command(folder / "boxed", "--cluster", "boxed", "--json"))
    assert json.loads(told)["status"] == "finished"
    assert content(folder / "boxed") == content(folder / "here")
    assert all(path.stat().st_uid == os.getuid() for path in (folder / "boxed").rglob("*"))
