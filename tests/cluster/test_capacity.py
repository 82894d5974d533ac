"""What a real SLURM says of its nodes and of its queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from sfxlab.cli import main
from sfxlab.cluster.capacity import capacity
from sfxlab.cluster.profiles import SlurmProfile
from sfxlab.errors import ClusterError


@pytest.fixture(scope="module")
def site(slurm_site: Any) -> Iterator[Any]:
    with slurm_site(local_nodes=2, cloud_nodes=3, cpus=2, memory=4000) as site, pytest.MonkeyPatch.context() as patch:
        for name, value in site.environment.items():
            patch.setenv(name, value)
        yield site


def test_nodes_of_the_cloud_add_to_those_that_are_always_there(site: Any) -> None:
    found = capacity(SlurmProfile(workers=100, cores=1, memory="1 GiB"), 1e8)
    # 2 nodes of 2 cores, and 3 that take ResumeTimeout, 60 s, to come.
    assert found.here.workers == 4
    assert found.here.wait < 30
    assert found.burst is not None
    assert (found.burst.workers, found.burst.bytes_per_second) == (6, 1e8)
    assert 60 <= found.burst.wait < 90


def test_memory_and_the_profile_limit_the_workers(site: Any) -> None:
    # A job of 2 cores and 3 GiB: one on each node.
    few = capacity(SlurmProfile(workers=6, cores=2, memory="3 GiB"), 1e8)
    assert few.burst is not None
    assert (few.here.workers, few.burst.workers) == (4, 2)
    assert capacity(SlurmProfile(workers=2, memory="3 GiB"), 1e8).burst is None


def test_the_wait_is_that_of_the_queue(site: Any) -> None:
    nodes = ",".join(site.cloud_nodes)
    job = site.run("sbatch", "--parsable", "-t20", "-n4", f"--exclude={nodes}", "--wrap", "sleep 1000").strip()
    site.wait_for(lambda: site.run("squeue", "-h", "-j", job, "-o", "%T").strip() == "RUNNING", "the job to run")
    found = capacity(SlurmProfile(workers=100, memory="1 GiB"), 1e8)
    assert found.here.wait == pytest.approx(20 * 60, abs=120)
    assert found.burst is not None
    assert found.burst.wait < 90
    site.run("scancel", job)


@pytest.mark.parametrize(
    ("wishes", "complaint"),
    [
        ({"queue": "nowhere"}, "partition nowhere"),
        ({"memory": "1 TiB"}, "1 TiB for a job"),
        ({"memory": "1 GiB", "sbatch": ("--constraint=gpu",)}, "SLURM refuses"),
    ],
)
def test_jobs_that_cannot_run_are_refused_with_the_reason(site: Any, wishes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ClusterError, match=complaint):
        capacity(SlurmProfile(**wishes), 1e8)


def test_the_command_tells_both_times_before_anything_is_submitted(
    site: Any, make_cxi: Callable[..., Path], two_panels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "frames.geom").write_text(two_panels)
    frames = make_cxi(frames=np.random.default_rng(1).poisson(3, (50, 8, 6)).astype(np.uint16))
    (tmp_path / "site.toml").write_text('[hall]\nkind = "slurm"\nworkers = 100\nmemory = "1 GiB"\n')
    monkeypatch.setenv("SFXLAB_SITE", str(tmp_path / "site.toml"))
    command = [
        "estimate",
        str(frames),
        "-g",
        str(tmp_path / "frames.geom"),
        "--cluster",
        "hall",
        "--copy-to",
        str(tmp_path),
    ]
    result = CliRunner().invoke(main, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "with burst" in result.output
    assert "6 workers in 6" in result.output
    assert not site.run("squeue", "-h").strip()
    assert not list(tmp_path.glob("tmp*"))
