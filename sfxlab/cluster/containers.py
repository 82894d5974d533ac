"""The command that runs a worker's Python in a container."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from sfxlab.cluster.profiles import Container

PASSED_ON = ("NUMBA_CACHE_DIR", "SFXLAB_CACHE", "SFXLAB_CACHE_LIMIT", "TMPDIR")
"""Variables of the job that workers in a container see too."""


def python_in_container(container: Container, folders: Iterable[str]) -> str:
    """The text to put before `-m MODULE` in a job's script.

    `folders`, the folder that the job starts in and those of the profile are seen inside at the same place. Texts may
    name variables of the job, which its shell fills in.
    """
    places = list(dict.fromkeys(["$PWD", *folders, *container.binds]))
    words = [*_RUNTIMES[container.runtime](places), *map(shlex.quote, container.options)]
    separator = ["--"] if container.runtime == "ch-run" else []
    return " ".join([*words, shlex.quote(container.image), *separator, shlex.quote(container.python)])


def _engine(program: str, *more: str) -> Sequence[str]:
    # Workers are found by the host's address.
    return [program, "run", "--rm", "--network=host", *more, "--workdir", '"$PWD"']


def _podman(places: Sequence[str]) -> Sequence[str]:
    # Its root is whoever runs it, so that files belong to the user.
    return [*_engine("podman", "--user=0:0"), *_mounts(places), *(f"--env {name}" for name in PASSED_ON)]


def _docker(places: Sequence[str]) -> Sequence[str]:
    user = '--user "$(id -u):$(id -g)"'
    return [*_engine("docker", user), *_mounts(places), *(f"--env {name}" for name in PASSED_ON)]


def _apptainer(places: Sequence[str]) -> Sequence[str]:
    return ["apptainer", "exec", "--pwd", '"$PWD"', *(f'--bind "{place}"' for place in places)]


def _ch_run(places: Sequence[str]) -> Sequence[str]:
    return ["ch-run", "--cd", '"$PWD"', *(f'--bind "{place}"' for place in places)]


def _mounts(places: Sequence[str]) -> list[str]:
    return [f'--volume "{place}:{place}"' for place in places]


_RUNTIMES = {"podman": _podman, "docker": _docker, "apptainer": _apptainer, "ch-run": _ch_run}
