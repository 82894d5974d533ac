"""A trial on one machine: what is missing is made, remembered, and taken away again when the trial is over."""

from __future__ import annotations

import grp
import json
import pwd
import secrets
import shutil
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sfxlab.hub.policy import PolicyError, Proposals, account_of
from sfxlab.hub.site import Site

_KEPT = "trial.json"


@dataclass
class Trial:
    """What was made: accounts, directories and files. All accounts of people have one password."""

    password: str
    people: list[str] = field(default_factory=list)
    accounts: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


def begin(site: Site, proposals: Proposals) -> Trial:
    """Make the accounts, directories and secrets that this policy needs and this machine does not have.

    May be called again, after a change of the policy. Raises `PolicyError` where something cannot be made.
    """
    site.hub.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    trial = read(site) or Trial(secrets.token_urlsafe(9))
    try:
        for name, each in proposals.proposals.items():
            _make_account(account_of(name), trial.accounts)
            for person in each.members:
                if _make_account(person, trial.people):
                    _command(["chpasswd"], f"{person}:{trial.password}\n")
            for path in each.data:
                _make_folder(path, account_of(name), trial)
        _make_secrets(site, trial)
    finally:
        _keep(site, trial)
    return trial


def read(site: Site) -> Trial | None:
    """The trial that goes on; None where there is none."""
    path = site.hub.state / _KEPT
    return Trial(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def end(site: Site) -> list[str]:
    """Take away what the trial made; what is left, since somebody has put data there."""
    trial = read(site)
    if trial is None:
        raise PolicyError("no trial goes on here", path=site.hub.state / _KEPT)
    for name in [*trial.people, *trial.accounts]:
        if _exists(name):
            subprocess.run(["pkill", "-KILL", "-u", name], check=False, capture_output=True)
            _command(["userdel", "--remove", "--force", name])
    left = []
    for folder in map(Path, reversed(trial.folders)):
        if folder.is_dir() and any(folder.iterdir()):
            left.append(str(folder))
        elif folder.is_dir():
            folder.rmdir()
    for file in trial.files:
        Path(file).unlink(missing_ok=True)
    (site.hub.state / _KEPT).unlink()
    return left


def _make_account(name: str, made: list[str]) -> bool:
    if _exists(name):
        return False
    _command(["useradd", "--create-home", "--user-group", "--shell", "/bin/bash", "--key", "HOME_MODE=0700", name])
    made.append(name)
    return True


def _make_folder(path: Path, group: str, trial: Trial) -> None:
    if path.exists():
        return
    path.mkdir(parents=True)
    shutil.chown(path, group=grp.getgrgid(pwd.getpwnam(group).pw_gid).gr_name)
    path.chmod(0o2770)
    trial.folders.append(str(path))


def _make_secrets(site: Site, trial: Trial) -> None:
    """The password that everybody shares, where this is how people prove who they are."""
    if site.authentication.kind != "shared-password":
        return
    for path in site.authentication.secrets.values():
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(f"{trial.password}\n", encoding="utf-8")
            trial.files.append(str(path))


def _keep(site: Site, trial: Trial) -> None:
    path = site.hub.state / _KEPT
    path.touch(mode=0o600)
    path.write_text(json.dumps(asdict(trial)), encoding="utf-8")


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _command(command: list[str], text: str | None = None) -> None:
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True)
    except OSError as error:
        raise PolicyError("a trial cannot make accounts here", place=command[0], found=error.strerror) from error
    if done.returncode not in (0, 12 if command[0] == "userdel" else 0):  # 12: no mail box to remove
        raise PolicyError(
            "a trial cannot make or remove accounts here", place=" ".join(command), found=done.stderr.strip(),
            remedy="run it as root",
        )  # fmt: skip
