"""What of a policy does not fit the machine that it is for, before anybody logs in."""

from __future__ import annotations

import grp
import pwd
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sfxlab.hub.policy import PolicyError, Proposal, Proposals, account_of
from sfxlab.hub.quota import command_to_enforce, is_enforced, read_usage, told, written_by
from sfxlab.hub.site import Site, secret


@dataclass(frozen=True)
class Finding:
    """Something that has to be mended, and how."""

    subject: str
    problem: str
    remedy: str


def findings(site: Site, proposals: Proposals) -> list[Finding]:
    """All that keeps this hub from doing what the policy says; empty where nothing does."""
    found = [*_of_site(site), *_of_servers(site)]
    for name, proposal in proposals.proposals.items():
        if site.servers.kind != "kubernetes":
            found += _of_proposal(name, proposal)
        if site.servers.kind == "slurm":
            found += _of_group(name, proposal)
    return found


def advice(site: Site, proposals: Proposals) -> list[Finding]:
    """What a hub does without, but had better not."""
    usage = read_usage(site.hub.state, proposals)
    found = []
    for name, proposal in proposals.proposals.items():
        if name in usage and usage[name].is_full:
            found.append(
                Finding(name, f"has stored {told(usage[name])}", "ask a lead to make room, or raise the quota")
            )
        for path in written_by(name, proposal):
            quota = proposal.quota
            if quota is None or not path.is_dir() or is_enforced(path, quota):
                continue
            command = command_to_enforce(name, path, quota)
            if command:
                found.append(Finding(name, f"no file system holds {path} to the quota", command))
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
    secrets = {
        "key": site.hub.key, "database": site.hub.database, "catalogue": site.sessions.catalogue,
        "token": site.health.token,
    }  # fmt: skip
    for key, path in {**site.authentication.secrets, **secrets}.items():
        try:
            if path is not None:
                secret(path)
        except PolicyError as error:
            yield Finding(key, f"{path}: {error.problem}", error.remedy or "write it anew, with mode 600")
    if site.hub.key is None and not site.hub.address.startswith("http://127."):
        yield Finding("hub.address", "passwords would travel in the clear", "give certificate and key")


def _of_servers(site: Site) -> Iterator[Finding]:
    servers = site.servers
    if servers.kind == "slurm":
        if shutil.which("sbatch") is None:
            yield Finding("servers.slurm", "sbatch is not installed", "install SLURM's commands on the hub's machine")
        yield from _of_address(site, "jobs on other machines", "a name that the nodes know")
        for name, program in site.programs.items():
            if not program.group:
                remedy = "give a group of this machine that may read it"
                yield Finding(name, "jobs see this program whoever accepted its terms", remedy)
    if servers.kind == "container" and servers.container is not None:
        socket = Path(servers.container.socket.removeprefix("unix://"))
        if servers.container.socket.startswith("unix://") and not socket.is_socket():
            remedy = f"podman system service --time=0 {servers.container.socket}"
            yield Finding("servers.container", f"nothing listens at {socket}", remedy)
        if servers.container.network != "host":
            yield from _of_address(site, "containers", "this machine's address in their network")


def _of_address(site: Site, who: str, name: str) -> Iterator[Finding]:
    if site.hub.inside.startswith("http://127."):
        yield Finding("hub.inside", f"{who} do not find the hub there", f'inside = "http://NAME:8081", with {name}')


def _of_group(name: str, proposal: Proposal) -> Iterator[Finding]:
    """Where no mounts hide data, the Unix group of the proposal's account decides who sees them."""
    group = account_of(name)
    try:
        members = set(grp.getgrnam(group).gr_mem)
    except KeyError:
        return  # the account is missing, which is told already
    for user in sorted(proposal.members.keys() - members):
        yield Finding(
            name, f"{user} is not in the group {group} and would not see its data", f"gpasswd -a {user} {group}"
        )
    for user in sorted(members - proposal.members.keys()):
        yield Finding(name, f"{user} is in the group {group} and no member", f"gpasswd -d {user} {group}")


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
