"""What a profile makes of a job's script; jobs that really run are in test_slurm.py and test_containers.py."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from dask_jobqueue.slurm import SLURMJob

from sfxlab.cluster.profiles import Container, SlurmProfile
from sfxlab.cluster.slurm import job_options


def script_of(profile: SlurmProfile, folder: Path) -> str:
    script = str(SLURMJob("tcp://192.0.2.1:8786", name="first", **job_options(profile, folder)).job_script())
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)  # it is a script that a shell can read
    return script


def test_values_of_the_profile_are_options_of_sbatch(tmp_path: Path) -> None:
    profile = SlurmProfile(
        cores=16, memory="64 GiB", walltime="04:00:00", queue="upex", account="p1234", qos="beamtime",
        sbatch=("--constraint=avx2", "--exclusive"), interface="lo",
    )  # fmt: skip
    lines = script_of(profile, tmp_path).splitlines()
    assert {
        "#SBATCH -p upex", "#SBATCH -A p1234", "#SBATCH --qos=beamtime", "#SBATCH -n 1", "#SBATCH --cpus-per-task=16",
        "#SBATCH --mem=64G", "#SBATCH -t 04:00:00", "#SBATCH --constraint=avx2", "#SBATCH --exclusive",
    } <= set(lines)  # fmt: skip
    words = lines[-1].split()
    assert words[:2] == ["exec", sys.executable]
    options = dict(itertools.pairwise(words))
    assert (options["--nworkers"], options["--nthreads"], options["--memory-limit"]) == ("16", "1", "4.00GiB")
    assert options["--interface"] == "lo"
    lifetime, stagger = (int(options[name][:-1]) for name in ("--lifetime", "--lifetime-stagger"))
    assert lifetime + stagger < 4 * 3600


def test_the_environment_is_set_up_before_the_worker_starts(tmp_path: Path) -> None:
    profile = SlurmProfile(
        prologue=("module load sfx", "ulimit -n 4096"), scratch="$TMPDIR/sfx lab", numba_cache="$HOME/kernels",
        python="/opt/sfx/bin/python",
    )  # fmt: skip
    lines = script_of(profile, tmp_path).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("exec /opt/sfx/bin/python "))
    wanted = (
        "module load sfx", "ulimit -n 4096", 'export NUMBA_CACHE_DIR="$HOME/kernels"', 'mkdir -p "$TMPDIR/sfx lab"',
        'export SFXLAB_CACHE="$TMPDIR/sfx lab/sfxlab-cache"',
    )  # fmt: skip
    places = [lines.index(line) for line in wanted]
    assert places == sorted(places)
    assert places[-1] < start
    assert '--local-directory "$TMPDIR/sfx lab"' in lines[start]


@pytest.mark.parametrize(
    ("runtime", "beginning", "end"),
    [
        ("podman", "exec podman run --rm", "quay.io/a/worker:1 python"),
        ("docker", "exec docker run --rm", "quay.io/a/worker:1 python"),
        ("apptainer", "exec apptainer exec --pwd", "quay.io/a/worker:1 python"),
        ("ch-run", "exec ch-run --cd", "quay.io/a/worker:1 -- python"),
    ],
)
def test_a_worker_in_a_container_sees_what_it_needs(tmp_path: Path, runtime: str, beginning: str, end: str) -> None:
    container = Container.model_validate({"runtime": runtime, "image": "quay.io/a/worker:1", "binds": ["/gpfs/data"]})
    profile = SlurmProfile(container=container, scratch="/scratch/$USER", numba_cache="/gpfs/kernels")
    command = script_of(profile, tmp_path).splitlines()[-1]
    before, _, worker = command.partition(" -m distributed.cli.dask_worker ")
    assert before.startswith(beginning)
    assert before.endswith(end)
    assert worker.startswith("tcp://192.0.2.1:8786 ")
    for place in ("$PWD", str(tmp_path), "/scratch/$USER", "/gpfs/kernels", "/gpfs/data"):
        assert f'"{place}:{place}"' in before or f'--bind "{place}"' in before
