"""Invitations to a proposal's shared server: made, listed and withdrawn with the rights of the lead who asks.

They are JupyterHub's own (share codes); nobody else than the hub decides.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest

from sfxlab.errors import SfxlabError
from sfxlab.hub.policy import account_of
from sfxlab.hub.roles import LOOK, RUN

DAY = 86400


class InvitationError(SfxlabError):
    """The hub does not do what is wanted of it."""


@dataclass(frozen=True)
class Invitation:
    """An invitation that is open; `link`, a path at the hub, is known only when it is made."""

    name: str
    may_run: bool
    expires: str
    accepted: int
    link: str = ""


@dataclass(frozen=True)
class Guest:
    """Somebody who accepted an invitation."""

    name: str
    may_run: bool
    since: str


class Invitations:
    """The invitations of one proposal, as somebody with this token may handle them.

    `hub` is the address of the hub's API, such as `"https://hub.site.org/hub/api"`. All raise `InvitationError`.
    """

    def __init__(self, hub: str, token: str, proposal: str) -> None:
        self._hub, self._token, self._proposal = hub.rstrip("/"), token, proposal
        self._server = f"{quote(account_of(proposal))}/"

    async def make(self, days: float, may_run: bool = False) -> Invitation:
        """A new one; whoever has its link and may log in at the hub becomes a guest."""
        scopes = [f"{scope}!server={self._server}" for scope in ("access:servers", LOOK, *((RUN,) if may_run else ()))]
        made = await self._ask("POST", "share-codes", {"scopes": scopes, "expires_in": int(days * DAY)})
        return _invitation(made)

    async def open(self) -> list[Invitation]:
        """Those that have not ended."""
        return [_invitation(each) for each in (await self._ask("GET", "share-codes"))["items"]]

    async def withdraw(self, name: str) -> None:
        """End one now; who came in by it is out within seconds."""
        await self._ask("DELETE", "share-codes", query=f"?id={quote(name)}")

    async def guests(self) -> list[Guest]:
        """Who accepted one that has not ended."""
        items = (await self._ask("GET", "shares"))["items"]
        return [
            Guest(each["user"]["name"], _runs(each["scopes"]), each["created_at"])
            for each in items
            if each["user"] is not None
        ]

    async def remove(self, guest: str) -> None:
        """Put one guest out; his or her invitation stays."""
        await self._ask("PATCH", "shares", {"user": guest})

    async def _ask(self, method: str, what: str, body: dict[str, Any] | None = None, query: str = "") -> Any:
        request = HTTPRequest(
            f"{self._hub}/{what}/{self._server}{query}", method=method,
            headers={"Authorization": f"token {self._token}", "Accept": "application/jupyterhub-pagination+json"},
            body=None if body is None else json.dumps(body), request_timeout=60,
        )  # fmt: skip
        try:
            answer = await AsyncHTTPClient().fetch(request)
        except HTTPClientError as error:
            raise InvitationError(
                _meaning(error.code), place=f"proposal {self._proposal}", found=_said(error), remedy=_remedy(error.code)
            ) from error
        except OSError as error:
            raise InvitationError("the hub does not answer", place=self._hub, found=error.strerror) from error
        return json.loads(answer.body) if answer.body else {}


def _invitation(model: dict[str, Any]) -> Invitation:
    accepted, link = model["exchange_count"], model.get("accept_url", "")
    return Invitation(model["id"], _runs(model["scopes"]), model["expires_at"], accepted, link)


def _runs(scopes: Iterable[str]) -> bool:
    return any(scope.startswith(RUN) for scope in scopes)


def _said(error: HTTPClientError) -> str:
    try:
        return str(json.loads(error.response.body)["message"] if error.response else error)
    except (ValueError, KeyError, TypeError):
        return str(error)


def _meaning(code: int) -> str:
    meanings = {403: "only leads invite", 404: "no such invitation, or the shared server has never run"}
    return meanings.get(code, "the hub refuses")


def _remedy(code: int) -> str | None:
    remedies = {403: "ask a lead of the proposal", 404: "start the shared server once, or look at the list"}
    return remedies.get(code)
