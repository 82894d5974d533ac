from __future__ import annotations

from typing import Any


def test_a_site_runs_jobs_and_leaves_nothing_behind(slurm_site: Any) -> None:
    with slurm_site(local_nodes=2) as site:
        assert site.states() == {"local1": "idle", "local2": "idle"}
        assert sorted(site.run("srun", "-N2", "printenv", "SLURMD_NODENAME").split()) == ["local1", "local2"]
        site.run("sbatch", "--wrap", "sleep 1000")
        folder = site.folder
    assert not folder.exists()
