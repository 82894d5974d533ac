"""The image of workers, built and run by podman. A build takes minutes and a network, so it has to be asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfxlab import Recipe, connect, open_frames, process
from sfxlab.cluster import wait_for_workers

_ROOT = Path(__file__).parents[2]

_CONTAINERS = """\
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=1024:4096"]
netns = "host"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
"""Settings with which podman runs as root on machines without systemd, too."""


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """`podman("run", …)`: what it prints."""
    if shutil.which("podman") is None:
        pytest.skip("no podman here")
    settings = tmp_path_factory.mktemp("podman") / "containers.conf"
    settings.write_text(_CONTAINERS)

    def call(*arguments: str) -> str:
        done = subprocess.run(["podman", *arguments], capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINERS_CONF", str(settings))
        yield call


@pytest.fixture(scope="module")
def image(podman: Callable[..., str]) -> str:
    """The name of the image: a built one that SFXLAB_WORKER_IMAGE names, or one that is built now."""
    name = os.environ.get("SFXLAB_WORKER_IMAGE")
    if name:
        return name
    if os.environ.get("SFXLAB_TEST_IMAGES") != "1":
        pytest.skip("images are built and tested with SFXLAB_TEST_IMAGES=1, or tested with SFXLAB_WORKER_IMAGE=NAME")
    environment = {
        "BUILD_OPTIONS": "--network=host --isolation=chroot",
        "TAG": "test",
        **os.environ,
        "ENGINE": "podman",
    }
    subprocess.run([_ROOT / "images" / "build", "worker"], env=environment, check=True)
    return f"{os.environ.get('NAME', 'localhost/sfxlab')}-worker:{environment['TAG']}"


def test_the_image_is_small_and_runs_as_nobody_in_particular(podman: Callable[..., str], image: str) -> None:
    (described,) = json.loads(podman("inspect", "--type", "image", image))
    assert described["Size"] < 2e9
    assert described["User"] == "sfx"
    assert described["Healthcheck"]["Test"][0] == "CMD"
    assert podman("run", "--rm", "--no-healthcheck", image, "id", "-u").strip() == "1000"


def test_no_secret_of_the_build_is_in_the_image(podman: Callable[..., str], image: str) -> None:
    look = "ls /run/secrets /etc/pip.conf ~/.config 2>/dev/null; env | grep -i -E 'pip_|index|proxy'; true"
    assert podman("run", "--rm", "--no-healthcheck", "--user=0", image, "sh", "-c", look) == ""
    assert "--index" not in podman("history", "--no-trunc", image)


def test_a_run_is_done_by_workers_of_the_image_in_jobs_of_slurm(
    image: str, slurm_site: Any, make_cxi: Callable[..., Path], two_panels: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "frames.geom").write_text(two_panels)
    pixels = np.random.default_rng(1).poisson(3, (20, 8, 6)).astype(np.uint16)
    frames = open_frames([make_cxi(frames=pixels)], tmp_path / "frames.geom")
    # A job's Python would find a checkout that it starts in before the sfxlab of the image.
    monkeypatch.chdir(tmp_path)
    with slurm_site(local_nodes=2, cpus=1) as site:
        (tmp_path / "site.toml").write_text(
            f'[hall]\nkind = "slurm"\nworkers = 2\nmemory = "2 GiB"\nhost = "{site.host}"\njob_folder = "{tmp_path}"\n'
            f'numba_cache = "{tmp_path}/numba"\n'
            f'[hall.container]\nruntime = "podman"\nimage = "{image}"\nbinds = ["{tmp_path}"]\n'
            'options = ["--no-healthcheck"]\n'
        )
        for name, value in (site.environment | {"SFXLAB_SITE": str(tmp_path / "site.toml")}).items():
            monkeypatch.setenv(name, value)
        with connect("hall") as client:
            wait_for_workers(client, 2, timeout=200)
            places = set(
                client.run(lambda: (__import__("sfxlab").__file__, os.path.exists("/run/.containerenv"))).values()
            )
            recipe = Recipe().without_indexing().changed(bad_pixels={"learn": False})
            run = process(frames, recipe, client, tmp_path / "run", chunk_size=2)
    assert places == {("/opt/sfxlab/lib/python3.11/site-packages/sfxlab/__init__.py", True)}
    assert run.is_finished
    assert run.counts.frames == 20
