"""What servers get to see, by the policy and by what was accepted; test_servers.py shows it on real ones."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from sfxlab.hub.policy import Proposals
from sfxlab.hub.programs import Acceptances, Program, terms_form
from sfxlab.hub.sight import sight_of


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
