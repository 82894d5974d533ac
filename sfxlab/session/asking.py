"""Who is asking the session service: a token in, a person with his or her roles out."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from sfxlab.errors import CatalogueError, SessionError, UnknownSessionError
from sfxlab.session.changes import ROLES, Person, Role
from sfxlab.typed_toml import read_typed

_REMEMBERED = 10.0
"""Seconds for which the hub's word about a token holds."""

Named = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


@dataclass(frozen=True)
class Asker:
    """Somebody, with his or her role in each proposal."""

    name: str
    display_name: str
    roles: Mapping[str, Role]

    def in_proposal(self, proposal: str) -> Person:
        """The person in this proposal. Raises `UnknownSessionError` for others than its members."""
        if proposal not in self.roles:
            # The same words as for what does not exist: others learn nothing about a proposal, not even its name.
            raise UnknownSessionError(
                "there is no such session for you", found=f"proposal {proposal!r}" if proposal else "no proposal",
                expected=f"one of your proposals: {', '.join(sorted(self.roles)) or 'none'}",
                remedy="write 'proposal/name', or ask a lead to add you",
            )  # fmt: skip
        return Person(self.name, self.display_name, self.roles[proposal])


class WhoAsks(Protocol):
    """Tells who has a token; None for one that nobody has."""

    def __call__(self, token: str) -> Awaitable[Asker | None]:
        """Raises `SessionError` where that cannot be found out now."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Holder(_Model):
    name: Named
    display_name: Named | None = None
    token: Annotated[str, StringConstraints(min_length=20)]
    proposals: dict[str, Role]


class _Tokens(_Model):
    people: list[_Holder] = Field(min_length=1)


class TokenFile:
    """People and their tokens in a TOML file, for a trial without a hub; it is read again when it has changed.

        [[people]]
        name = "anna"
        display_name = "Anna B."
        token = "…"            # python3 -c 'import secrets; print(secrets.token_urlsafe())'
        proposals = { p1234 = "lead", p0007 = "viewer" }

    Raises `SessionError` for a file that others may read (mode 0600 is wanted), or that is wrong.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at: tuple[int, int] | None = None
        self._people: dict[str, Asker] = {}
        self._read()

    async def __call__(self, token: str) -> Asker | None:
        self._read()
        return self._people.get(_digest(token))

    def _read(self) -> None:
        try:
            status = self._path.stat()
        except OSError as error:
            raise SessionError("the file of tokens cannot be read", path=self._path, found=error.strerror) from error
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO) or status.st_uid not in (os.geteuid(), 0):
            raise SessionError(
                "the file of tokens is open to others", path=self._path,
                found=f"mode {stat.S_IMODE(status.st_mode):04o}, owner {status.st_uid}",
                expected=f"mode 0600, owner {os.geteuid()}", remedy=f"chmod 600 {self._path}",
            )  # fmt: skip
        if self._read_at == (status.st_mtime_ns, status.st_ino):
            return
        people = read_typed(self._path, _Tokens, SessionError).people
        by_token = {_digest(one.token): Asker(one.name, one.display_name or one.name, one.proposals) for one in people}
        if len(by_token) < len(people):
            raise SessionError("two people have the same token", path=self._path, remedy="give each one of their own")
        self._people, self._read_at = by_token, (status.st_mtime_ns, status.st_ino)


class HubGroups(_Model):
    """Names of the hub's groups that make somebody a viewer, an analyst or a lead of a proposal."""

    viewer: str = "{proposal}-viewer"
    analyst: str = "{proposal}-analyst"
    lead: str = "{proposal}-lead"

    def roles(self, groups: list[str]) -> dict[str, Role]:
        """The highest role in each proposal that these groups give."""
        found: dict[str, Role] = {}
        for role in ROLES:
            before, _, after = getattr(self, role).partition("{proposal}")
            pattern = re.compile(f"{re.escape(before)}(.+){re.escape(after)}")
            found |= {match[1]: role for match in map(pattern.fullmatch, groups) if match}
        return found


class HubFile(_Model):
    """What the service is told about a hub, in a TOML file."""

    api: str | None = None
    """Where the hub's API is, `http://…/hub/api`; `$JUPYTERHUB_API_URL` where left out."""
    groups: HubGroups = HubGroups()


@dataclass
class HubTokens:
    """People as JupyterHub knows them: it is asked with the token of whoever asks."""

    api: str
    groups: HubGroups = field(default_factory=HubGroups)
    _known: dict[str, tuple[float, Asker | None]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> HubTokens:
        """From a TOML file (`HubFile`). Raises `SessionError`."""
        told = read_typed(path, HubFile, SessionError)
        api = told.api or os.environ.get("JUPYTERHUB_API_URL")
        if not api:
            raise SessionError("where the hub's API is must be told", path=path, place="api")
        return cls(api.rstrip("/"), told.groups)

    async def __call__(self, token: str) -> Asker | None:
        key, now = _digest(token), time.monotonic()
        self._known = {one: known for one, known in self._known.items() if known[0] > now}
        if key not in self._known:
            self._known[key] = (now + _REMEMBERED, await self._ask(token))
        return self._known[key][1]

    async def _ask(self, token: str) -> Asker | None:
        try:
            answer = await AsyncHTTPClient().fetch(
                f"{self.api}/user", headers={"Authorization": f"token {token}"}, request_timeout=10
            )
        except HTTPClientError as error:
            if error.code in (401, 403):
                return None
            raise _silent(self.api, error) from error
        except OSError as error:
            raise _silent(self.api, error) from error
        user = json.loads(answer.body)
        if user.get("kind", "user") != "user":
            return None  # a service of the hub is nobody
        return Asker(user["name"], user["name"], self.groups.roles(user.get("groups", [])))


def _silent(api: str, error: Exception) -> CatalogueError:
    return CatalogueError("the hub does not say who is asking", path=api, found=str(error), remedy="try again later")


def _digest(token: str) -> str:
    # Looking up a digest takes a time that says nothing about the token.
    return hashlib.sha256(token.encode()).hexdigest()
