"""What of a policy does not fit the machine that it is for, before anybody logs in."""

from __future__ import annotations

import pwd
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sfxlab.hub.policy import PolicyError, Proposal, Proposals, account_of
from sfxlab.hub.site import Site, secret


@dataclass(frozen=True)
class Finding:
    """Something that has to be mended, and how."""

    subject: str
    problem: str
    remedy: str


def findings(site: Site, proposals: Proposals) -> list[Finding]:
    """All that keeps this hub from doing what the policy says; empty where nothing does."""
    found = [*_of_site(site)]
    for name, proposal in proposals.proposals.items():
        found += _of_proposal(name, proposal)
    return found


def _of_site(site: Site) -> Iterator[Finding]:
    if find_spec("jupyterhub") is None:
        yield Finding("hub", "JupyterHub is not installed", "pip install 'sfxlab[hub]'")
    proxy = site.hub.proxy[0]
    if shutil.which(proxy) is None:
        yield Finding("hub.proxy", f"{proxy} is not installed", "install configurable-http-proxy, or name its command")
    state = site.hub.state
    if not state.is_dir():
        yield Finding("hub.state", f"{state} is no directory", f"mkdir -p -m 700 {state}")
    elif stat.S_IMODE(state.stat().st_mode) & 0o077:
        yield Finding("hub.state", f"others can read {state}, where the hub keeps its secrets", f"chmod 700 {state}")
    for key, path in {**site.authentication.secrets, "key": site.hub.key}.items():
        try:
            if path is not None:
                secret(path)
        except PolicyError as error:
            yield Finding(key, f"{path}: {error.problem}", error.remedy or "write it anew, with mode 600")
    if site.hub.key is None and not site.hub.address.startswith("http://127."):
        yield Finding("hub.address", "passwords would travel in the clear", "give certificate and key")


def _of_proposal(name: str, proposal: Proposal) -> Iterator[Finding]:
    account = account_of(name)
    for user in (*proposal.members, account):
        if not _exists(user):
            what = "account of the proposal" if user == account else "account"
            yield Finding(
                name, f"this machine has no {what} {user}", f"useradd --create-home --key HOME_MODE=0700 {user}"
            )
    if "lead" not in proposal.members.values():
        yield Finding(name, "nobody leads it", 'make somebody "lead"')
    for path in proposal.data:
        yield from _of_data(name, path)


def _of_data(name: str, path: Path) -> Iterator[Finding]:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        yield Finding(name, f"{path}: {error.strerror}", "make the directory, or mount it")
        return
    if mode & stat.S_IRWXO:
        yield Finding(name, f"everybody on this machine gets into {path}", f"chmod o= {path}")


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
