from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfxlab.hub.authentication import PolicyFile
from sfxlab.hub.policy import PolicyError, Proposals
from sfxlab.hub.roles import groups_of, role_of, roles_of
from sfxlab.hub.site import Site, secret

TWO = """
[proposals.p1]
title = "Lysozyme"
members = { anna = "lead", bob = "viewer" }
data = ["/data/p1"]
quota = "1.5 TB"
begins = 2026-11-01
ends = 2026-11-30

[proposals.p2]
title = "Photosystem II"
members = { bob = "analyst" }
data = ["/data/p2"]
"""


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_roles_hold_on_the_days_of_the_proposal(tmp_path: Path) -> None:
    policy = Proposals.read(_written(tmp_path / "proposals.toml", TWO))
    assert policy.proposals["p1"].quota == 1_500_000_000_000
    assert policy.roles_of("bob", datetime.date(2026, 11, 30)) == {"p1": "viewer", "p2": "analyst"}
    assert policy.roles_of("bob", datetime.date(2026, 12, 1)) == {"p2": "analyst"}
    assert policy.roles_of("anna", datetime.date(2026, 10, 31)) == {}
    assert policy.roles_of("eve", datetime.date(2026, 11, 15)) == {}
    assert policy.people() == {"anna", "bob"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("title =", "titel ="), "did you mean 'title'?"),
        (('"lead"', '"boss"'), "'viewer', 'analyst' or 'lead'"),
        (('"1.5 TB"', '"1.5 terabyte"'), "such as '2 TB'"),
        (('"/data/p1"', '"data/p1"'), "absolute"),
        (('"/data/p1"', '"/data/p2/../p1"'), "without '..'"),
        (('"/data/p1"', '"/data/p2/raw"'), "/data/p2/raw of p1 lies within those of p2"),
        (("ends = 2026-11-30", "ends = 2026-10-30"), "begins before it ends"),
        (("[proposals.p2]", "[proposals.P2]"), "pattern"),
        (("bob = ", '"proposal-p1" = '), "accounts of proposals"),
        (("quota = ", "quota "), "not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    path = _written(tmp_path / "proposals.toml", TWO.replace(*change))
    with pytest.raises(PolicyError) as error:
        Proposals.read(path)
    assert says in str(error.value)
    assert str(path) in str(error.value)


def test_a_wrong_edit_leaves_the_last_good_policy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = _written(tmp_path / "proposals.toml", TWO)
    policy = PolicyFile(path)
    path.write_text(TWO.replace('anna = "lead", ', ""))
    assert policy.proposals().people() == {"bob"}
    path.write_text(TWO + "[proposals")
    assert policy.proposals().people() == {"bob"}
    assert "not TOML" in caplog.text
    path.unlink()
    assert policy.proposals().people() == {"bob"}
    path.write_text(TWO)
    assert policy.proposals().people() == {"anna", "bob"}


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True), st.sampled_from(["viewer", "analyst"])))
def test_scopes_reach_no_other_proposal(roles: dict[str, str]) -> None:
    for role in roles_of(roles)[1:]:
        proposal = role["name"].rpartition("-")[0]
        assert {scope.partition("!")[2] for scope in role["scopes"]} == {f"user=proposal-{proposal}"}
    assert len(groups_of(roles)) == 2 * len(roles)


def test_only_those_who_may_run_get_the_scope_for_it() -> None:
    runs = {
        role: any("run" in scope for scope in role_of("p1", role)["scopes"]) for role in ("viewer", "analyst", "lead")
    }
    assert runs == {"viewer": False, "analyst": True, "lead": True}


def test_secrets_that_others_can_read_are_refused(tmp_path: Path) -> None:
    path = _written(tmp_path / "password", "open sesame\n")
    path.chmod(0o600)
    assert secret(path) == "open sesame"
    path.chmod(0o640)
    with pytest.raises(PolicyError, match="chmod 600"):
        secret(path)
    with pytest.raises(PolicyError, match="cannot be read"):
        secret(tmp_path / "absent")


def test_the_example_of_a_site_is_right() -> None:
    folder = Path(__file__).parents[2] / "hub_config"
    assert Site.read(folder / "site.toml").authentication.kind == "pam"
    assert Proposals.read(folder / "proposals.toml").people() == {"anna", "bob", "carol"}
