"""Ranks of a real `mpirun` as workers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sfxlab.cluster import connect
from sfxlab.errors import ClusterError

Mpirun = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def mpirun(tmp_path: Path) -> Mpirun:
    """`mpirun(4, "process", …)`: a command of sfxlab on so many ranks."""
    program = shutil.which("mpirun")
    if program is None:
        pytest.skip("no mpirun here (Debian: openmpi-bin)")
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    sfxlab = (sys.executable, "-c", "from sfxlab.cli import main; main()")

    def run(ranks: int, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, "--oversubscribe", "-n", str(ranks), *sfxlab, *arguments],
            env=os.environ | allowed, cwd=tmp_path, capture_output=True, text=True, timeout=240,
        )  # fmt: skip

    return run


def test_ranks_give_what_one_process_gives_and_end_quietly(
    mpirun: Mpirun, quick_frames: Any, sfxlab_here: Callable[..., None], content: Any, tmp_path: Path
) -> None:
    sfxlab_here(*quick_frames.command(tmp_path / "here", "--workers", 0))
    done = mpirun(4, *quick_frames.command(tmp_path / "ranks", "--cluster", "mpi", "--json"))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count('"status"') == 1
    assert content(tmp_path / "ranks") == content(tmp_path / "here")


def test_too_few_ranks_are_told_once_and_leave_nothing_behind(
    mpirun: Mpirun, quick_frames: Any, tmp_path: Path
) -> None:
    done = mpirun(2, *quick_frames.command(tmp_path / "run", "--cluster", "mpi"))
    assert done.returncode == 1
    assert done.stderr.count("these are too few ranks of MPI") == 1
    assert "mpirun -n 3" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_an_error_of_the_client_ends_all_ranks(mpirun: Mpirun, quick_frames: Any, tmp_path: Path) -> None:
    done = mpirun(3, *quick_frames.command(tmp_path / "no" / "such.cxi", "--cluster", "mpi", "-g", "nothing.geom"))
    assert done.returncode == 1
    assert done.stderr.count("Error:") == 1
    assert "Traceback" not in done.stderr


def test_without_mpirun_there_is_nothing_to_work_with() -> None:
    pytest.importorskip("mpi4py.MPI")
    with pytest.raises(ClusterError, match="too few ranks"):
        connect("mpi")
