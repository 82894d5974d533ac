"""Servers as jobs of a real SLURM."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sfxlab.hub.checks import findings
from sfxlab.hub.policy import Proposals
from sfxlab.hub.site import Site

PROPOSALS = """
[proposals.one@]
title = "One"
members = { anna@ = "lead" }
data = ["DATA/one"]

[proposals.two@]
title = "Two"
members = { dan@ = "lead" }
data = ["DATA/two"]
"""

SITE = """
[servers]
kind = "slurm"
memory = "1G"
[servers.slurm]
partition = "onprem"
walltime = "01:00:00"
cpus = 1
"""

LOOK = """
import getpass, json, os, pathlib, requests
read = []
for name in ("one", "two"):
    try:
        read.append(pathlib.Path("DATA", name, "run.h5").read_text())
    except OSError as error:
        read.append(error.strerror)
port = {"Authorization": "token " + os.environ["JUPYTERHUB_API_TOKEN"]}
told = [requests.post(os.environ["JUPYTERHUB_API_URL"] + "/batchspawner", headers=port, json=body).status_code
        for body in ({"exec_prefix": "", "batch_submit_cmd": "id > /tmp/owned"}, {"port": "x"}, {"port": 1})]
print(json.dumps([os.environ["SLURM_JOB_PARTITION"], getpass.getuser(), os.environ["SLURM_MEM_PER_NODE"], read, told]))
"""


@pytest.fixture(scope="module")
def slurm(
    tmp_path_factory: pytest.TempPathFactory,
    start_hub: Callable[..., Any],
    slurm_site: Any,
    reachable: Callable[[Path], list[str]],
) -> Iterator[Any]:
    with slurm_site(1, nodes_by=reachable(tmp_path_factory.mktemp("nodes"))) as site:
        yield site


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, start_hub: Callable[..., Any], slurm: Any) -> Iterator[Any]:
    accounts, folder = ["proposal-one", "proposal-two"], tmp_path_factory.mktemp("slurm")
    with start_hub(
        folder, PROPOSALS, ["anna", "dan", "olga"], accounts, SITE, environment=slurm.environment
    ) as running:
        for name in ("one", "two"):
            data = running.data / name
            data.mkdir()
            (data / "run.h5").write_text(f"frames of {name}")
            shutil.chown(data, group=running.name(f"proposal-{name}"))
            data.chmod(0o2770)
        yield running


def test_a_shared_server_is_a_job_under_the_proposals_account(hub: Any, slurm: Any) -> None:
    owner = hub.name("proposal-one")
    assert hub.start_server("anna", owner).ok
    assert slurm.run("squeue", "-h", "-o", "%j %u %T").split() == [f"jupyter-{owner}", owner, "RUNNING"]
    partition, user, memory, read, told = json.loads(hub.run("anna", owner, LOOK.replace("DATA", str(hub.data))))
    assert (partition, user, memory) == ("onprem", owner, "1024")
    assert read == ["frames of one", "Permission denied"]
    assert told == [400, 400, 400]
    assert hub.ask("anna", "DELETE", f"/hub/api/users/{owner}/server").ok
    slurm.wait_for(lambda: slurm.run("squeue", "-h") == "", "the job to end")


def test_the_health_page_says_whether_slurm_answers(hub: Any, slurm: Any) -> None:
    def wait_for(person: str, well: bool, said: str) -> None:
        deadline = time.monotonic() + 90
        while True:
            health = hub.ask(person, "GET", "/services/health/json").json()
            (part,) = [each for each in health["parts"] if each["name"] == "SLURM"]
            if (part["well"], part["found"]) == (well, said):
                assert health["status"] == ("well" if well else "broken")
                return
            assert time.monotonic() < deadline, health
            time.sleep(0.5)

    wait_for("olga", True, "1 idle")
    wait_for("anna", True, "")
    controller = int((slurm.folder / "slurmctld.pid").read_text())
    os.kill(controller, signal.SIGSTOP)
    try:
        wait_for("olga", False, "sinfo does not answer within 5 s")
    finally:
        os.kill(controller, signal.SIGCONT)
    wait_for("olga", True, "1 idle")


def test_check_compares_unix_groups_with_the_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs on other machines see what their Unix groups let them see."""
    (tmp_path / "site.toml").write_text(f'[hub]\nstate = "{tmp_path}"\n[servers]\nkind = "slurm"\n')
    (tmp_path / "proposals.toml").write_text('[proposals.one]\ntitle = "One"\nmembers = { root = "lead" }\n')
    group = type("Group", (), {"gr_mem": ["daemon"]})
    monkeypatch.setattr("grp.getgrnam", lambda name: group)
    site, proposals = Site.read(tmp_path / "site.toml"), Proposals.read(tmp_path / "proposals.toml")
    remedies = [each.remedy for each in findings(site, proposals)]
    assert 'inside = "http://NAME:8081", with a name that the nodes know' in remedies
    assert remedies[-2:] == ["gpasswd -a root proposal-one", "gpasswd -d daemon proposal-one"]
