"""The images, built and run by podman: `make test-images`, because a build takes minutes and a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfxlab import Recipe, connect, open_frames, process
from sfxlab.cluster import wait_for_workers

pytestmark = [pytest.mark.images, pytest.mark.timeout(3600)]

_ROOT = Path(__file__).parents[2]
_TARGETS = ("worker", "notebook", "hub")
_DEBIAN = "localhost/debian:bookworm"

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

_SITE = """\
[hub]
address = "http://127.0.0.1:8000"
state = "/var/lib/sfxlab-hub"
[authentication]
kind = "dummy"
"""

_PROPOSALS = """\
[proposals.p1]
title = "One"
members = { anna = "lead" }
data = ["/tmp"]
"""

Podman = Callable[..., str]


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """`podman("run", …)`: what it prints."""
    if shutil.which("podman") is None:
        pytest.skip("no podman here")
    settings = tmp_path_factory.mktemp("podman") / "containers.conf"
    settings.write_text(_CONTAINERS)

    def call(*arguments: str | Path, timeout: float = 600) -> str:
        done = subprocess.run(["podman", *arguments], capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        return done.stdout

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINERS_CONF", str(settings))
        # Else jobs take it along into their containers, where it is no place of compiled kernels.
        patch.delenv("NUMBA_CACHE_DIR", raising=False)
        yield call


@pytest.fixture(scope="module")
def images(podman: Podman) -> dict[str, str]:
    """The images that are built now, by their targets; podman takes what has not changed from its cache."""
    usual = {"BUILD_OPTIONS": "--network=host --isolation=chroot", "TAG": "test"}
    environment = usual | os.environ | {"ENGINE": "podman"}
    if "DEBIAN" not in environment and shutil.which("mmdebstrap"):
        # Without a registry the base is made of Debian's packages.
        if subprocess.run(["podman", "image", "exists", _DEBIAN]).returncode:
            subprocess.run([_ROOT / "images" / "debian-root", _DEBIAN], check=True)
        environment["DEBIAN"] = _DEBIAN
    subprocess.run([_ROOT / "images" / "build", *_TARGETS], env=environment, check=True)
    name = environment.get("NAME", "localhost/sfxlab")
    return {target: f"{name}-{target}:{environment['TAG']}" for target in _TARGETS}


@pytest.fixture(params=_TARGETS)
def image(request: pytest.FixtureRequest, images: dict[str, str]) -> str:
    """Each of the images."""
    return images[request.param]


def test_an_image_is_small_and_runs_as_nobody_in_particular(podman: Podman, image: str) -> None:
    (described,) = json.loads(podman("inspect", "--type", "image", image))
    assert described["Size"] < 2e9
    assert described["User"] == "sfx"
    assert described["Healthcheck"]["Test"][0] == "CMD"
    assert podman("run", "--rm", "--no-healthcheck", image, "id", "-u").strip() == "1000"


def test_no_secret_of_the_build_is_in_an_image(podman: Podman, image: str) -> None:
    look = "ls /run/secrets /etc/pip.conf ~/.config/pip 2>/dev/null; env | grep -i -E 'pip_|index|proxy'; true"
    assert podman("run", "--rm", "--no-healthcheck", "--user=0", image, "sh", "-c", look) == ""
    assert "--index" not in podman("history", "--no-trunc", image)


def test_hub_and_notebook_have_the_same_packages(podman: Podman, images: dict[str, str]) -> None:
    def packages(target: str) -> dict[str, str]:
        look = "from importlib.metadata import distributions\nfor p in distributions(): print(f'{p.name}={p.version}')"
        lines = podman("run", "--rm", "--no-healthcheck", images[target], "python", "-c", look).split()
        return dict(line.lower().split("=", 1) for line in lines)

    hub, notebook = packages("hub"), packages("notebook")
    assert {"jupyterhub", "sqlalchemy", "sfxlab"} <= hub.keys() & notebook.keys()
    assert {name: hub[name] for name in hub.keys() & notebook.keys()}.items() <= notebook.items()


@contextmanager
def _running(podman: Podman, image: str, *options: str | Path) -> Iterator[Callable[..., str]]:
    """A container without a network, which does what its image does; what runs a command in it."""
    name = podman("run", "--detach", "--no-healthcheck", "--network=none", *options, image).strip()
    try:
        yield lambda *command: podman("exec", name, *command)
    finally:
        podman("rm", "--force", "--time=5", name)


def _wait_until_healthy(podman: Podman, image: str, run_in: Callable[..., str]) -> None:
    (described,) = json.loads(podman("inspect", "--type", "image", image))
    deadline = time.monotonic() + 180
    while True:
        try:
            run_in(*described["Healthcheck"]["Test"][1:])
            return
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def test_a_worker_becomes_healthy(podman: Podman, images: dict[str, str]) -> None:
    scheduler = "tcp://127.0.0.1:8786"
    with _running(podman, images["worker"], f"--env=DASK_SCHEDULER_ADDRESS={scheduler}") as run_in:
        run_in("sh", "-c", "dask scheduler --host 127.0.0.1 --port 8786 --no-dashboard > /tmp/log 2>&1 &")
        _wait_until_healthy(podman, images["worker"], run_in)
        ask = f"from distributed import Client; print(Client('{scheduler}').submit(sum, [20, 22]).result())"
        assert run_in("python", "-c", ask).strip() == "42"


def test_a_notebook_server_becomes_healthy(podman: Podman, images: dict[str, str]) -> None:
    with _running(podman, images["notebook"]) as run_in:
        _wait_until_healthy(podman, images["notebook"], run_in)
        assert "http://" in run_in("jupyter", "server", "list")


def test_a_hub_answers_and_shows_its_door(podman: Podman, images: dict[str, str], tmp_path: Path) -> None:
    options = []
    for name, text in (("site.toml", _SITE), ("proposals.toml", _PROPOSALS)):
        (tmp_path / name).write_text(text)
        options.append(f"--volume={tmp_path / name}:/etc/sfxlab-hub/{name}:ro")
    with _running(podman, images["hub"], *options) as run_in:
        _wait_until_healthy(podman, images["hub"], run_in)
        ask = "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:8000/hub/login').read().decode())"
        assert 'name="password"' in run_in("python", "-c", ask)


def test_the_notebook_image_runs_a_notebook_without_a_network_and_compiles_next_to_nothing(
    podman: Podman, images: dict[str, str]
) -> None:
    work = (
        "find $NUMBA_CACHE_DIR -name '*.nbc' | wc -l; touch /tmp/begin"
        " && jupyter nbconvert --to notebook --execute --output-dir=/tmp --output=done notebooks/01_first_look.ipynb"
        " && find $NUMBA_CACHE_DIR -name '*.nbc' -newer /tmp/begin && cat /tmp/done.ipynb"
    )
    told = podman("run", "--rm", "--no-healthcheck", "--network=none", images["notebook"], "sh", "-c", work)
    compiled, _, executed = told.partition("{")
    before, *fresh = compiled.split()
    # What the image brings is taken; a few kernels that `sfxlab compile` leaves out may be missing in it.
    assert len(fresh) < int(before) / 10, fresh
    cells = json.loads("{" + executed)["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert len(outputs) > 5
    assert not [output for output in outputs if output["output_type"] == "error"]


def test_a_run_is_done_by_workers_of_the_image_in_jobs_of_slurm(
    images: dict[str, str], slurm_site: Any, make_cxi: Callable[..., Path], two_panels: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "frames.geom").write_text(two_panels)
    pixels = np.random.default_rng(1).poisson(3, (20, 8, 6)).astype(np.uint16)
    frames = open_frames([make_cxi(frames=pixels)], tmp_path / "frames.geom")

    def place() -> tuple[str, str | None, bool]:
        import sfxlab

        return sfxlab.__file__, os.environ.get("NUMBA_CACHE_DIR"), os.path.exists("/run/.containerenv")

    # A job's Python would find a checkout that it starts in before the sfxlab of the image.
    monkeypatch.chdir(tmp_path)
    with slurm_site(local_nodes=2, cpus=1) as site:
        (tmp_path / "site.toml").write_text(
            f'[hall]\nkind = "slurm"\nworkers = 2\nmemory = "2 GiB"\nhost = "{site.host}"\njob_folder = "{tmp_path}"\n'
            f'[hall.container]\nruntime = "podman"\nimage = "{images["worker"]}"\nbinds = ["{tmp_path}"]\n'
            'options = ["--no-healthcheck"]\n'
        )
        for name, value in (site.environment | {"SFXLAB_SITE": str(tmp_path / "site.toml")}).items():
            monkeypatch.setenv(name, value)
        with connect("hall") as client:
            wait_for_workers(client, 2, timeout=200)
            places = set(client.run(place).values())
            recipe = Recipe().without_indexing().changed(bad_pixels={"learn": False})
            run = process(frames, recipe, client, tmp_path / "run", chunk_size=2)
    packages = "/opt/sfxlab/lib/python3.11/site-packages/sfxlab/__init__.py"
    assert places == {(packages, "/opt/sfxlab/kernels", True)}
    assert run.is_finished
    assert run.counts.frames == 20
