from __future__ import annotations

import json
import pwd
from pathlib import Path

import pytest
from click.testing import CliRunner

from sfxlab.cli import main

ME = pwd.getpwuid(0).pw_name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A policy in which everything is wrong that can be before anybody logs in."""
    (tmp_path / "state").mkdir(mode=0o755)
    (tmp_path / "data").mkdir(mode=0o755)
    (tmp_path / "password").write_text("secret")
    (tmp_path / "password").chmod(0o644)
    (tmp_path / "site.toml").write_text(
        f"""
        [hub]
        address = "http://0.0.0.0:8000"
        state = "{tmp_path}/state"
        proxy = ["no-such-proxy"]
        [authentication]
        secrets = {{ user_password = "{tmp_path}/password" }}
        """
    )
    (tmp_path / "proposals.toml").write_text(
        f"""
        [proposals.p1]
        title = "One"
        members = {{ no-such-person = "analyst", {ME} = "viewer" }}
        data = ["{tmp_path}/data", "{tmp_path}/absent"]
        """
    )
    return tmp_path


def test_everything_that_is_wrong_is_found_with_its_remedy(folder: Path) -> None:
    result = CliRunner().invoke(main, ["hub", "check", "--config", str(folder), "--json"])
    assert result.exit_code == 1
    remedies = [each["remedy"] for each in json.loads(result.stdout)["findings"]]
    assert remedies == [
        "install configurable-http-proxy, or name its command",
        f"chmod 700 {folder}/state",
        f"chmod 600 {folder}/password",
        "give certificate and key",
        "useradd --create-home --key HOME_MODE=0700 no-such-person",
        "useradd --create-home --key HOME_MODE=0700 proposal-p1",
        'make somebody "lead"',
        f"chmod o= {folder}/data",
        "make the directory, or mount it",
    ]


def test_what_is_used_up_is_told_but_keeps_no_hub_from_starting(folder: Path) -> None:
    (folder / "data" / "run.h5").write_bytes(b"x" * 10_000)
    text = (folder / "proposals.toml").read_text()
    (folder / "proposals.toml").write_text(text + 'quota = "1 kB"\n')
    measured = CliRunner().invoke(main, ["hub", "usage", "--config", str(folder), "--json"])
    used = json.loads(measured.stdout)["p1"]
    assert used["used"] >= 10_000
    assert used["quota"] == 1000
    result = CliRunner().invoke(main, ["hub", "check", "--config", str(folder), "--json"])
    told = json.loads(result.stdout)
    assert "ask a lead to make room, or raise the quota" in [each["remedy"] for each in told["advice"]]
    assert len(told["findings"]) == 9


def test_a_hub_with_something_to_mend_does_not_start(folder: Path) -> None:
    result = CliRunner().invoke(main, ["hub", "up", "--config", str(folder)])
    assert result.exit_code == 1
    assert "no-such-proxy is not installed (9 in all)" in result.output


def test_unknown_keys_of_a_site_are_named(folder: Path) -> None:
    text = (folder / "site.toml").read_text().replace("address =", "adress =")
    (folder / "site.toml").write_text(text)
    result = CliRunner().invoke(main, ["hub", "check", "--config", str(folder)])
    assert result.exit_code == 1
    assert "did you mean 'address'?" in result.output
