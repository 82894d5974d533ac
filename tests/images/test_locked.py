"""Which packages of the lock get into an image."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

_ROOT = Path(__file__).parents[2]

_LOCK = """\
click==8.5.1 \\
    --hash=sha256:aa
    # via
    #   dask
    #   sfxlab (pyproject.toml)
colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:bb
    # via click
dask==2026.8.0 \\
    --hash=sha256:cc
    # via sfxlab (pyproject.toml)
jupyterhub==6.1.1 \\
    --hash=sha256:dd
    # via sfxlab (pyproject.toml)
numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:ee
    # via sfxlab (pyproject.toml)
numpy==2.5.5 ; python_full_version >= '3.12' \\
    --hash=sha256:ff
    # via sfxlab (pyproject.toml)
"""


@pytest.fixture(scope="module")
def locked() -> ModuleType:
    spec = importlib.util.spec_from_file_location("locked", _ROOT / "images" / "locked.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_package_brings_those_that_it_needs(locked: ModuleType) -> None:
    found = locked.entries(_LOCK)
    assert locked.closure(found, {"dask"}) == {"dask", "click", "colorama"}
    assert locked.closure(found, {"numpy"}) == {"numpy"}


def test_lines_for_all_systems_keep_their_hashes(locked: ModuleType) -> None:
    numpy = locked.entries(_LOCK)["numpy"]
    assert re.findall("sha256:(..)", numpy) == ["ee", "ff"]


def test_a_package_that_is_not_locked_is_refused(locked: ModuleType) -> None:
    with pytest.raises(ValueError, match="scipy"):
        locked.closure(locked.entries(_LOCK), {"scipy"})


def test_workers_need_no_hub_and_no_tests(locked: ModuleType) -> None:
    import tomllib

    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())
    found = locked.entries((_ROOT / "requirements.lock").read_text())
    needed = locked.closure(found, locked.roots_of(project, ["euxfel", "remote"]))
    assert {"numba", "llvmlite", "distributed", "tornado", "gemmi", "extra-data", "s3fs"} <= needed
    assert not {"jupyterhub", "jupyterlab", "moto", "playwright", "openstacksdk", "ruff"} & needed
