"""What runs on servers of a real hub: the data it sees, programs under terms, and sessions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from sfxlab.cli import main
from sfxlab.errors import SfxlabError
from sfxlab.session import Session

PROPOSALS = """
[proposals.one@]
title = "One"
members = { anna@ = "lead", bob@ = "analyst", carol@ = "viewer" }
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

WRITE = """
import sfxlab
session = sfxlab.Session({name!r})
print(session.person.name, session.person.role, session.get("view.frame"))
session.set("view.frame", {frame})
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, start_hub: Callable[..., Any]) -> Iterator[Any]:
    accounts = ["proposal-one", "proposal-two"]
    folder = tmp_path_factory.mktemp("servers")
    with start_hub(folder, PROPOSALS, ["anna", "bob", "carol", "dan"], accounts, SITE) as running:
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
        assert running.start_server("anna", running.name("proposal-one")).ok
        yield running


def _seen(hub: Any, person: str, owner: str) -> list[str]:
    return hub.run(person, owner, LOOK.replace("DATA", str(hub.data))).splitlines()


def test_the_shared_server_has_its_proposals_data_and_no_program_until_all_accept(hub: Any) -> None:
    owner = hub.name("proposal-one")
    assert _seen(hub, "anna", owner) == [
        "one/run.h5 frames of one",
        "two/run.h5 Permission denied",
        "indexer/bin/index Permission denied",
        "PATH None",
    ]


def test_own_servers_have_the_data_of_ones_proposals_only(hub: Any) -> None:
    """And no program whose terms were accepted for another version only."""
    owner = hub.name("carol")
    assert hub.start_server("carol", owner, accept=["indexer 0.9"]).ok
    assert _seen(hub, "carol", owner) == [
        "one/run.h5 frames of one",
        "two/run.h5 Permission denied",
        "indexer/bin/index Permission denied",
        "PATH None",
    ]


def test_a_program_is_there_for_who_accepted_its_terms(hub: Any) -> None:
    owner = hub.name("carol")
    hub.ask("carol", "DELETE", f"/hub/api/users/{owner}/server")
    page = hub.sessions["carol"].get(f"{hub.address}/hub/spawn", timeout=30).text
    assert "Not for profit." in page
    assert hub.start_server("carol", owner, accept=["indexer 1.0"]).ok
    assert _seen(hub, "carol", owner)[-1] == f"PATH {hub.data}/indexer/bin/index"
    listed = CliRunner().invoke(main, ["hub", "licences", "--config", str(hub.folder), "--json"])
    (accepted,) = json.loads(listed.stdout)["accepted"]
    assert (accepted["user"], accepted["program"], accepted["version"]) == (owner, "indexer", "1.0")


@pytest.fixture
def open_as(hub: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Session]:
    """The session of proposal one as this person's own kernel opens it."""

    def open_session(person: str) -> Session:
        monkeypatch.setenv("SFXLAB_TOKEN", hub.token(person))
        return Session(f"one{hub.suffix}/beamtime", catalogue=f"{hub.address}/services/sessions")

    return open_session


def test_roles_hold_at_the_service(hub: Any, open_as: Callable[[str], Session]) -> None:
    for person, frame in (("anna", 1), ("bob", 2)):
        session = open_as(person)
        session.set("view.frame", frame)
        assert (session.person.name, session.get("view.frame")) == (hub.name(person), frame)
        session.close()
    session = open_as("carol")
    assert session.get("view.frame") == 2
    with pytest.raises(SfxlabError, match="viewer"):
        session.set("view.frame", 3)
    assert session.get("view.frame") == 2
    session.close()


def test_others_do_not_even_learn_that_there_is_a_session(open_as: Callable[[str], Session]) -> None:
    with pytest.raises(SfxlabError, match="no such session for you"):
        open_as("dan")


def test_kernels_of_the_shared_and_of_own_servers_are_in_the_same_session(hub: Any) -> None:
    name, shared = f"one{hub.suffix}/kernels", hub.name("proposal-one")
    hub.start_server("carol", hub.name("carol"))
    printed = hub.run("anna", shared, WRITE.format(name=name, frame=7))
    assert printed.strip() == f"{shared} analyst None"
    printed = hub.run("carol", hub.name("carol"), WRITE.format(name=name, frame=8))
    assert printed.startswith(f"{hub.name('carol')} viewer 7\nNotAllowedError")


def test_only_the_service_reaches_the_catalogue(hub: Any) -> None:
    catalogue = hub.folder / "state" / "sessions.sqlite"
    assert catalogue.exists()
    look = f"import os\nprint(os.access({str(catalogue)!r}, os.R_OK), 'sqlite' in str(dict(os.environ)))"
    assert hub.run("anna", hub.name("proposal-one"), look).strip() == "False False"
