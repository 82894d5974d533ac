"""`sfxlab doctor` without SLURM; with it: tests/cluster/test_slurm.py."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from distributed import LocalCluster


@pytest.fixture(autouse=True)
def site_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only site file that is found, in the folder that the test works in."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "sfxlab-site.toml"
    file.write_text('[local]\nmemory = "2 GiB"\n[maxwell]\nkind = "slurm"\nqueue = "upex"\n')
    return file


def test_each_value_is_shown_with_where_it_is_from(sfxlab: Callable[..., Any], site_file: Path) -> None:
    lines = sfxlab("doctor", "maxwell", "--only-show").stdout.splitlines()
    assert lines[0] == f"Site files: {site_file}"
    assert lines[1] == "Profiles: local, slurm, mpi, maxwell"
    rows = {line.split()[0]: line.split() for line in lines[4:]}
    assert rows["queue"][1:3] == ["upex", str(site_file)]
    assert rows["walltime"][1:3] == ["01:00:00", "default"]


def test_a_worker_of_this_machine_is_tried(told: Callable[..., Any]) -> None:
    values = told("doctor")
    assert values["good"]
    findings = {finding["what"]: finding["found"] for finding in values["findings"]}
    assert findings["machine"].startswith(platform.node())
    assert findings["Python"] == f"Python {platform.python_version()} there, {platform.python_version()} here"
    assert findings["this folder"].endswith("is seen there")


def test_a_scheduler_without_workers_is_told_with_what_to_do(sfxlab: Callable[..., Any]) -> None:
    with LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        done = sfxlab("doctor", cluster.scheduler_address, "--timeout", 0.5)
    assert done.exit_code == 1
    assert "good  scheduler  inproc://" in done.stdout
    assert "start `dask worker` there" in done.stdout


@pytest.mark.parametrize(
    ("profile", "words"),
    [("maxwel", "did you mean 'maxwell'?"), ("mpi", "mpirun -n 3"), ("tcp://127.0.0.1:9", "check the address")],
)
def test_what_cannot_be_tried_says_why(sfxlab: Callable[..., Any], profile: str, words: str) -> None:
    done = sfxlab("doctor", profile)
    assert done.exit_code == 1
    assert words in done.output
    assert "Traceback" not in done.output
