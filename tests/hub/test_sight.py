"""What servers get to see: each proposal's own data, and programs whose terms were accepted."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sfxlab.cli import main
from sfxlab.hub.policy import Proposals
from sfxlab.hub.programs import Acceptances, Program, terms_form
from sfxlab.hub.sight import sight_of

PROPOSALS = """
[proposals.one@]
title = "One"
members = { anna@ = "lead", carol@ = "viewer" }
data = ["DATA/one"]

[proposals.two@]
title = "Two"
members = { dan@ = "lead" }
data = ["DATA/two"]
"""

SITE = """
[programs.indexer]
title = "Indexer"
version = "1.0"
terms = "DATA/terms.txt"
path = "DATA/indexer"
"""

LOOK = """
import pathlib, shutil, subprocess
for path in ("one/run.h5", "two/run.h5", "indexer/bin/index"):
    try:
        print(path, pathlib.Path("DATA", path).read_text().strip())
    except OSError as error:
        print(path, error.strerror)
print("PATH", shutil.which("index"))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, start_hub: Callable[..., Any]) -> Iterator[Any]:
    accounts = ["proposal-one", "proposal-two"]
    with start_hub(tmp_path_factory.mktemp("sight"), PROPOSALS, ["anna", "carol", "dan"], accounts, SITE) as running:
        for name in ("one", "two"):
            folder = running.data / name
            folder.mkdir(mode=0o750)
            (folder / "run.h5").write_text(f"frames of {name}")
            shutil.chown(folder, group=running.name(f"proposal-{name}"))
        # Somebody got the mode of a directory wrong.
        (running.data / "two").chmod(0o755)
        program = running.data / "indexer" / "bin" / "index"
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\necho indexed\n")
        program.chmod(0o755)
        (running.data / "terms.txt").write_text("Not for profit.")
        yield running


def _seen(hub: Any, person: str, owner: str) -> list[str]:
    return hub.run(person, owner, LOOK.replace("DATA", str(hub.data))).splitlines()


def test_the_shared_server_has_its_proposals_data_and_no_program_until_all_accept(hub: Any) -> None:
    owner = hub.name("proposal-one")
    hub.start_server("anna", owner)
    assert _seen(hub, "anna", owner) == [
        "one/run.h5 frames of one",
        "two/run.h5 Permission denied",
        "indexer/bin/index Permission denied",
        "PATH None",
    ]


def test_own_servers_have_the_data_of_ones_proposals_only(hub: Any) -> None:
    hub.start_server("dan", hub.name("dan"))
    assert _seen(hub, "dan", hub.name("dan"))[:2] == ["one/run.h5 Permission denied", "two/run.h5 frames of two"]


def test_a_program_is_there_for_who_accepted_its_terms(hub: Any) -> None:
    owner = hub.name("carol")
    assert hub.start_server("carol", owner, accept=["indexer 0.9"]).ok
    assert _seen(hub, "carol", owner)[2:] == ["indexer/bin/index Permission denied", "PATH None"]
    hub.ask("carol", "DELETE", f"/hub/api/users/{owner}/server")
    page = hub.sessions["carol"].get(f"{hub.address}/hub/spawn", timeout=30).text
    assert "Not for profit." in page
    assert hub.start_server("carol", owner, accept=["indexer 1.0"]).ok
    assert _seen(hub, "carol", owner)[-1] == f"PATH {hub.data}/indexer/bin/index"
    listed = CliRunner().invoke(main, ["hub", "licences", "--config", str(hub.folder), "--json"])
    (accepted,) = json.loads(listed.stdout)["accepted"]
    assert (accepted["user"], accepted["program"], accepted["version"]) == (owner, "indexer", "1.0")


@pytest.fixture
def program(tmp_path: Path) -> Program:
    (tmp_path / "terms.txt").write_text("Terms <of use>")
    return Program(title="Indexer", version="1", terms=tmp_path / "terms.txt", path=tmp_path / "indexer")


def test_a_new_version_or_new_terms_withdraw_an_acceptance(tmp_path: Path, program: Program) -> None:
    acceptances = Acceptances(tmp_path / "accepted.sqlite")
    acceptances.add("anna", "indexer", program)
    acceptances.add("anna", "indexer", program)
    assert acceptances.of("anna", {"indexer": program}) == {"indexer"}
    assert acceptances.of("bob", {"indexer": program}) == set()
    assert acceptances.of("anna", {"indexer": program.model_copy(update={"version": "2"})}) == set()
    program.terms.write_text("other terms")
    assert acceptances.of("anna", {"indexer": program}) == set()
    assert [(each.user, each.version) for each in acceptances.all()] == [("anna", "1")]
    acceptances.close()


def test_a_shared_server_has_a_program_when_all_who_run_code_there_accepted(tmp_path: Path, program: Program) -> None:
    text = '[proposals.p]\ntitle = "P"\nmembers = { a = "lead", b = "analyst", v = "viewer" }\n'
    (tmp_path / "proposals.toml").write_text(text)
    proposals = Proposals.read(tmp_path / "proposals.toml")
    acceptances = Acceptances(tmp_path / "accepted.sqlite")
    day = datetime.date(2026, 1, 1)
    for user, visible in (("a", False), ("b", True)):
        acceptances.add(user, "indexer", program)
        sight = sight_of("proposal-p", proposals, {"indexer": program}, acceptances, day)
        assert (program.path in sight.programs, program.path in sight.hidden) == (visible, not visible)
    acceptances.close()


def test_terms_are_shown_as_text(program: Program) -> None:
    assert "Terms &lt;of use&gt;" in terms_form({"indexer": program})
