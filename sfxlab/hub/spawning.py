"""Servers under the accounts of this machine that see the data of their own proposals and nothing of others."""

from __future__ import annotations

import ctypes
import datetime
import grp
import os
import pwd
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyterhub.spawner import LocalProcessSpawner

from sfxlab.hub.authentication import PolicyFile
from sfxlab.hub.policy import Proposals, account_of
from sfxlab.hub.programs import Acceptances, Program, accepted_by_all, terms_form
from sfxlab.hub.site import Site

_NEW_MOUNTS = 0x00020000
_PRIVATE, _RECURSIVE, _READ_ONLY, _NO_SUID = 1 << 18, 1 << 14, 1, 2


@dataclass(frozen=True)
class Sight:
    """What one server gets to see: directories to hide from it, groups to give it, and programs."""

    hidden: tuple[Path, ...]
    groups: tuple[str, ...]
    programs: tuple[Path, ...]


def sight_of(
    owner: str,
    proposals: Proposals,
    programs: Mapping[str, Program],
    acceptances: Acceptances,
    day: datetime.date,
) -> Sight:
    """What the server of `owner`, a person or the account of a proposal, sees on this day."""
    shared = {account_of(name): name for name in proposals.proposals}
    if owner in shared:
        mine = {shared[owner]}
        members = proposals.proposals[shared[owner]].members
        accepted = accepted_by_all(acceptances, [user for user, role in members.items() if role != "viewer"], programs)
    else:
        mine = set(proposals.roles_of(owner, day))
        accepted = acceptances.of(owner, programs)
    theirs = [path for name, each in proposals.proposals.items() if name not in mine for path in each.data]
    refused = [each.path for name, each in programs.items() if name not in accepted]
    allowed = [programs[name] for name in sorted(accepted)]
    groups = [*(account_of(name) for name in sorted(mine)), *(each.group for each in allowed if each.group)]
    return Sight((*theirs, *refused), tuple(groups), tuple(each.path for each in allowed))


class ProposalSpawner(LocalProcessSpawner):
    """Starts servers in a mount namespace of their own, with the groups that the policy gives them.

    Data of a proposal belong to the group of its account. Other people's data and programs whose terms are not
    accepted lie below empty mounts there, so that not even wrong modes of files show them.
    """

    site: Site
    policy: PolicyFile
    acceptances: Acceptances

    def sight(self) -> Sight:
        day = datetime.date.today()
        return sight_of(self.user.name, self.policy.proposals(), self.site.programs, self.acceptances, day)

    def _not_accepted(self) -> dict[str, Program]:
        accepted = self.acceptances.of(self.user.name, self.site.programs)
        return {name: each for name, each in self.site.programs.items() if name not in accepted}

    async def get_options_form(self) -> str:
        """The terms that are not accepted yet; accounts of proposals accept nothing."""
        is_person = self.user.name in self.policy.proposals().people()
        missing = self._not_accepted() if is_person else {}
        return terms_form(missing) if missing else ""

    def options_from_form(self, form_data: dict[str, list[str]]) -> dict[str, Any]:
        return {"accept": form_data.get("accept", [])}

    def get_env(self) -> dict[str, str]:
        environment: dict[str, str] = super().get_env()
        folders = [str(path / "bin" if (path / "bin").is_dir() else path) for path in self.sight().programs]
        environment["PATH"] = os.pathsep.join([*folders, environment.get("PATH", os.defpath)])
        return environment

    async def start(self) -> Any:
        if self.user.name in self.policy.proposals().people():
            for name, program in self._not_accepted().items():
                if f"{name} {program.version}" in self.user_options.get("accept", []):
                    self.acceptances.add(self.user.name, name, program)
        return await super().start()

    def make_preexec_fn(self, name: str) -> Callable[[], None]:
        sight, account = self.sight(), pwd.getpwnam(name)
        hidden = [str(path).encode() for path in sight.hidden if path.is_dir()]
        groups = [account.pw_gid, *(grp.getgrnam(group).gr_gid for group in sight.groups)]
        libc = ctypes.CDLL(None, use_errno=True)

        def become() -> None:
            _succeed(libc.unshare(_NEW_MOUNTS))
            _succeed(libc.mount(b"none", b"/", None, _RECURSIVE | _PRIVATE, None))
            for path in hidden:
                _succeed(libc.mount(b"none", path, b"tmpfs", _READ_ONLY | _NO_SUID, b"size=4k,mode=000"))
            os.setgid(account.pw_gid)
            os.setgroups(groups)
            os.setuid(account.pw_uid)
            os.chdir(account.pw_dir)

        return become


def _succeed(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def proposal_spawner(site: Site, policy: PolicyFile, acceptances: Acceptances) -> type[ProposalSpawner]:
    """The spawner of a hub with this policy."""
    values = {"site": site, "policy": policy, "acceptances": acceptances}
    return type("ProposalSpawner", (ProposalSpawner,), values)
