"""What a server gets to see of the data of proposals and of programs under terms."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from sfxlab.hub.policy import Proposals, account_of
from sfxlab.hub.programs import Acceptances, Program, accepted_by_all


@dataclass(frozen=True)
class Data:
    """A directory with data of a proposal, as one server sees it."""

    path: Path
    read_only: bool


@dataclass(frozen=True)
class Sight:
    """What one server gets to see: data, directories to hide from it, groups to give it, and programs."""

    data: tuple[Data, ...]
    hidden: tuple[Path, ...]
    groups: tuple[str, ...]
    programs: tuple[Path, ...]


def sight_of(
    owner: str,
    proposals: Proposals,
    programs: Mapping[str, Program],
    acceptances: Acceptances,
    day: datetime.date,
    full: Collection[str] = (),
) -> Sight:
    """What the server of `owner`, a person or the account of a proposal, sees on this day.

    Viewers see data read-only in servers of their own, and so does everybody but leads what belongs to proposals
    whose quota is `full`.
    """
    shared = {account_of(name): name for name in proposals.proposals}
    if owner in shared:
        members = proposals.proposals[shared[owner]].members
        read_only = {shared[owner]: False}
        accepted = accepted_by_all(acceptances, [user for user, role in members.items() if role != "viewer"], programs)
    else:
        roles = proposals.roles_of(owner, day)
        read_only = {name: role == "viewer" or (name in full and role != "lead") for name, role in roles.items()}
        accepted = acceptances.of(owner, programs)
    everything = [(name, path) for name, each in proposals.proposals.items() for path in each.data]
    refused = [each.path for name, each in programs.items() if name not in accepted]
    allowed = [programs[name] for name in sorted(accepted)]
    return Sight(
        data=tuple(Data(path, read_only[name]) for name, path in everything if name in read_only),
        hidden=(*(path for name, path in everything if name not in read_only), *refused),
        groups=(*(account_of(name) for name in sorted(read_only)), *(each.group for each in allowed if each.group)),
        programs=tuple(each.path for each in allowed),
    )
