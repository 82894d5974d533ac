"""Sessions behind a real hub: who reads and who writes, from servers and with tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sfxlab.errors import SfxlabError
from sfxlab.session import Session

PROPOSALS = """
[proposals.one@]
title = "One"
members = { anna@ = "lead", bob@ = "analyst", carol@ = "viewer" }

[proposals.two@]
title = "Two"
members = { dan@ = "lead" }
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
    with start_hub(
        tmp_path_factory.mktemp("sessions"), PROPOSALS, ["anna", "bob", "carol", "dan"], accounts
    ) as running:
        yield running


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
    hub.start_server("anna", shared)
    hub.start_server("carol", hub.name("carol"))
    printed = hub.run("anna", shared, WRITE.format(name=name, frame=7))
    assert printed.strip() == f"{shared} analyst None"
    printed = hub.run("carol", hub.name("carol"), WRITE.format(name=name, frame=8))
    assert printed.startswith(f"{hub.name('carol')} viewer 7\nNotAllowedError")


def test_only_the_service_reaches_the_catalogue(hub: Any) -> None:
    catalogue = hub.folder / "state" / "sessions.sqlite"
    assert catalogue.exists()
    look = f"import os\nprint(os.access({str(catalogue)!r}, os.R_OK), 'sqlite' in str(dict(os.environ)))"
    hub.start_server("bob", hub.name("bob"))
    assert hub.run("bob", hub.name("bob"), look).strip() == "False False"
