"""Who is in which proposal, and how the site runs its hub: two TOML files, typed and checked."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from sfxlab.errors import SfxlabError
from sfxlab.typed_toml import read_typed

Role = Literal["viewer", "analyst", "lead"]

_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15}

_ACCOUNTS = "proposal-"


def _person(name: str) -> str:
    if name.startswith(_ACCOUNTS):
        raise ValueError(f"names of people, and '{_ACCOUNTS}…' are accounts of proposals")
    return name


# What Unix accounts, DNS labels and JupyterHub's groups all allow.
ProposalName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,22}$")]
UserName = Annotated[str, AfterValidator(_person), StringConstraints(pattern=r"^[a-z_][a-z0-9_.@-]{0,63}$")]


class PolicyError(SfxlabError):
    """The hub's policy cannot be read or contradicts itself."""


def _bytes(value: object) -> object:
    """`"2 TB"` as a number of bytes."""
    if not isinstance(value, str):
        return value
    number, _, unit = value.strip().partition(" ")
    if unit not in _UNITS:
        raise ValueError(f"a number and one of {', '.join(_UNITS)}, such as '2 TB'")
    try:
        return int(float(number) * _UNITS[unit])
    except ValueError:
        raise ValueError("a number and a unit, such as '2 TB'") from None


Size = Annotated[int, BeforeValidator(_bytes), Field(ge=0)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Proposal(_Table):
    """One proposal: a group of people, their data, and how long they may work on them."""

    title: str = Field(min_length=1, description="What people read")
    members: dict[UserName, Role] = Field(description="Accounts and what each may do: viewer, analyst or lead")
    data: tuple[Path, ...] = Field((), description="Directories with the proposal's data, absolute")
    quota: Size | None = Field(None, description="Most that its work directory may hold; no limit if not given")
    begins: datetime.date | None = Field(None, description="First day on which its members get in")
    ends: datetime.date | None = Field(None, description="Last day on which its members get in")

    @model_validator(mode="after")
    def _check(self) -> Self:
        relative = [str(path) for path in self.data if not path.is_absolute() or ".." in path.parts]
        if relative:
            raise ValueError(f"data directories are absolute and without '..', not {relative[0]}")
        if self.begins and self.ends and self.ends < self.begins:
            raise ValueError("a proposal begins before it ends")
        return self

    def is_open(self, day: datetime.date) -> bool:
        """Whether its members get in on this day."""
        return (self.begins is None or self.begins <= day) and (self.ends is None or day <= self.ends)


class Proposals(_Table):
    """The file `proposals.toml`."""

    proposals: dict[ProposalName, Proposal] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        nested = [
            (one, other, path)
            for one, first in self.proposals.items()
            for other, second in self.proposals.items()
            if one != other
            for path in first.data
            if any(path.is_relative_to(theirs) for theirs in second.data)
        ]
        if nested:
            one, other, path = nested[0]
            raise ValueError(f"{path} of {one} lies within those of {other}; each proposal has its own")
        return self

    @staticmethod
    def read(path: str | Path) -> Proposals:
        """Raises `PolicyError` naming the file and the key."""
        return read_typed(path, Proposals, PolicyError)

    def roles_of(self, user: str, day: datetime.date) -> dict[str, Role]:
        """The proposals that somebody gets into on this day, and as what."""
        return {
            name: proposal.members[user]
            for name, proposal in self.proposals.items()
            if user in proposal.members and proposal.is_open(day)
        }

    def people(self) -> set[str]:
        """Everybody who is a member of anything, on any day."""
        return {user for proposal in self.proposals.values() for user in proposal.members}


def is_account(name: str) -> bool:
    """Whether this is the account of a proposal, as which nobody logs in."""
    return name.startswith(_ACCOUNTS)


def account_of(proposal: str) -> str:
    """The account that the proposal's shared server runs under."""
    return f"{_ACCOUNTS}{proposal}"
