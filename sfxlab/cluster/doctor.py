"""Trying a profile: one job is submitted, one task is run, and what is wrong is said with what to do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distributed import Client

from sfxlab.cluster.connect import connect_to, task_result
from sfxlab.cluster.profiles import LocalProfile, SlurmProfile
from sfxlab.cluster.site import SiteProfile
from sfxlab.cluster.waiting import wait_for_workers
from sfxlab.errors import ClusterError

_LITTLE_SPACE = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One thing that was tried."""

    what: str
    good: bool
    found: str
    remedy: str = ""


def examine(site: SiteProfile, report: Callable[[str], None], timeout: float) -> Iterator[Finding]:
    """Try a profile with as little as one worker, waited for `timeout` seconds; ends with the first thing that fails.

    `report` is called with what is waited for.
    """
    began = time.monotonic()
    try:
        with connect_to(_smallest(site), dashboard=False) as client:
            yield Finding("scheduler", True, client.scheduler_info()["address"])
            wait_for_workers(client, 1, report, timeout)
            yield Finding("worker", True, f"the first one came after {time.monotonic() - began:.0f} s")
            with tempfile.NamedTemporaryFile(prefix=".sfxlab-doctor-", dir=".") as mark:
                there = task_result(client.submit(_examination(), str(Path(mark.name).absolute()), pure=False))
            yield from _judged(there, _versions(client))
    except ClusterError as error:
        words = [f"{error.problem}: {error.found}"] + ([f"see {error.path}"] if error.path else [])
        lines = [line.strip() for line in "\n".join(words).splitlines()]
        yield Finding("worker", False, "\n".join(lines), error.remedy or "")
    except OSError as error:
        yield Finding("this folder", False, f"nothing can be written here: {error.strerror}", "work in another folder")


def _smallest(site: SiteProfile) -> SiteProfile:
    """The same with one job, or one worker."""
    profile = site.profile
    if isinstance(profile, SlurmProfile):
        profile = profile.model_copy(update={"workers": profile.cores, "most_workers": None, "look": "2 s"})
    if isinstance(profile, LocalProfile):
        profile = profile.model_copy(update={"workers": 1})
    return replace(site, profile=profile)


def _examination() -> Callable[[str], dict[str, Any]]:
    """What the task does. A function within a function travels as a whole: sfxlab may be missing over there."""

    def examination(mark: str) -> dict[str, Any]:
        import importlib.metadata
        import importlib.util
        import os
        import platform
        import shutil
        import tempfile

        from distributed import get_worker

        def can_write(folder: str) -> bool:
            try:
                os.makedirs(folder, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder):
                    return True
            except OSError:
                return False

        found = importlib.util.find_spec("sfxlab")
        package = os.path.dirname(found.origin) if found and found.origin else ""
        kernels = os.environ.get("NUMBA_CACHE_DIR", "")
        scratch = get_worker().local_directory
        return {
            "host": platform.node(),
            "python": platform.python_version(),
            "sfxlab": importlib.metadata.version("sfxlab") if found else "",
            "package": package,
            "in_container": os.path.exists("/run/.containerenv") or os.path.exists("/.dockerenv"),
            "cores": len(os.sched_getaffinity(0)),
            "sees_folder": os.path.exists(mark),
            "scratch": scratch,
            "can_write_scratch": can_write(scratch),
            "free": shutil.disk_usage(scratch).free,
            "kernels": kernels or package,
            "can_write_kernels": can_write(kernels or package) if kernels or package else False,
        }

    return examination


def _versions(client: Client) -> list[str]:
    """Packages of Dask that differ between here and there."""
    all_versions: Any = client.get_versions()
    here = all_versions["client"]["packages"]
    return [
        f"{name} {there[name]} there, {here[name]} here"
        for there in (worker["packages"] for worker in list(all_versions["workers"].values())[:1])
        for name in ("python", "dask", "distributed", "cloudpickle", "msgpack", "numpy")
        if there.get(name) != here.get(name)
    ]


def _judged(there: dict[str, Any], differences: list[str]) -> Iterator[Finding]:
    place = f"{there['host']}, {there['cores']} cores{', in a container' if there['in_container'] else ''}"
    yield Finding("machine", True, place)
    same = "install the same there and here, or set python, prologue or container in the profile"
    python = f"Python {there['python']} there, {platform.python_version()} here"
    yield Finding("Python", not differences, "; ".join(differences) or python, same if differences else "")
    here, version = importlib.metadata.version("sfxlab"), there["sfxlab"]
    versions = f"sfxlab {version or 'none'} there, {here} here"
    yield Finding("sfxlab", version == here, versions, "" if version == here else same)
    yield Finding(
        "this folder", there["sees_folder"], f"{os.getcwd()} is {'' if there['sees_folder'] else 'not '}seen there",
        "" if there["sees_folder"] else "work in a folder that all machines share; a container needs it in binds",
    )  # fmt: skip
    enough = there["can_write_scratch"] and there["free"] >= _LITTLE_SPACE
    free = f"{there['scratch']}, {there['free'] / 1e9:.0f} GB free"
    yield Finding(
        "scratch", enough, free if there["can_write_scratch"] else f"{there['scratch']} cannot be written to",
        "" if enough else "set scratch in the profile to a folder with more space on the workers' machines",
    )  # fmt: skip
    kept = there["can_write_kernels"]
    where = there["kernels"] or "nowhere"
    yield Finding(
        "compiled kernels", kept, f"kept in {where}" if kept else f"cannot be kept in {where}",
        "" if kept else "set numba_cache in the profile; each job compiles anew otherwise, for a minute",
    )  # fmt: skip
