"""A page for members of proposals: their role, what is stored, and invitations, which leads make and withdraw.

A service of the hub (`python -m sfxlab.hub.places proposals.toml`) that has no rights of its own: it asks the hub with
the token of whoever looks. It also measures, now and then, what proposals have stored (`sfxlab.hub.quota`).
"""

from __future__ import annotations

import asyncio
import datetime
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyterhub.services.auth import HubOAuthCallbackHandler, HubOAuthenticated
from jupyterhub.utils import url_path_join
from tornado.ioloop import PeriodicCallback
from tornado.log import app_log
from tornado.web import Application, HTTPError, RequestHandler, authenticated

from sfxlab.hub.authentication import PolicyFile
from sfxlab.hub.invitations import Guest, Invitation, InvitationError, Invitations
from sfxlab.hub.policy import Proposal, Role, account_of
from sfxlab.hub.quota import Usage, measure, read_usage, told

_LONGEST = 365
_ASK_ANEW = 10
"""Seconds for which the hub's word about somebody holds."""
_PAGES = Path(__file__).parent / "pages"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"


@dataclass(frozen=True)
class Place:
    """What the page shows of one proposal."""

    name: str
    proposal: Proposal
    role: Role
    usage: Usage | None
    invitations: list[Invitation] = field(default_factory=list)
    guests: list[Guest] = field(default_factory=list)
    problem: str = ""

    @property
    def account(self) -> str:
        return account_of(self.name)

    @property
    def stored(self) -> str:
        """In words; empty where it was never measured."""
        return told(self.usage) if self.usage else ""


class PlacesHandler(HubOAuthenticated, RequestHandler):
    """The page and what its buttons do."""

    def initialize(self, policy: PolicyFile, state: Path, hub: str) -> None:
        self._policy, self._state, self._hub = policy, state, hub
        self.hub_auth.cache_max_age = _ASK_ANEW

    def set_default_headers(self) -> None:
        self.set_header("Content-Security-Policy", _POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cache-Control", "no-store")

    @authenticated
    async def get(self) -> None:
        await self._show()

    @authenticated
    async def post(self) -> None:
        name = self.get_body_argument("proposal")
        if self._roles().get(name) != "lead":
            raise HTTPError(403, "only leads invite")
        invitations = self._invitations(name)
        link = problem = ""
        try:
            match self.get_body_argument("action"):
                case "invite":
                    may_run = self.get_body_argument("may_run", "") == "yes"
                    made = await invitations.make(self._days(), may_run)
                    link = self._hub + made.link
                case "withdraw":
                    await invitations.withdraw(self.get_body_argument("invitation"))
                case "remove":
                    await invitations.remove(self.get_body_argument("guest"))
                case _:
                    raise HTTPError(400, "no such action")
        except InvitationError as error:
            problem = str(error)
        await self._show(link, problem)

    def _days(self) -> float:
        try:
            days = float(self.get_body_argument("days"))
        except ValueError:
            raise HTTPError(400, "days are a number") from None
        if not 0 < days <= _LONGEST:
            raise HTTPError(400, f"an invitation holds up to {_LONGEST} days")
        return days

    def _roles(self) -> dict[str, Role]:
        return self._policy.proposals().roles_of(self.current_user["name"], datetime.date.today())

    def _invitations(self, name: str) -> Invitations:
        token = self.hub_auth.get_token(self)
        return Invitations(self.hub_auth.api_url, token, name)

    async def _show(self, link: str = "", problem: str = "") -> None:
        usage = read_usage(self._state, self._policy.proposals())
        places = [await self._place(name, role, usage.get(name)) for name, role in self._roles().items()]
        self.render(
            "places.html", person=self.current_user["name"], places=places, link=link, problem=problem, hub=self._hub
        )

    async def _place(self, name: str, role: Role, usage: Usage | None) -> Place:
        proposal = self._policy.proposals().proposals[name]
        if role != "lead":
            return Place(name, proposal, role, usage)
        invitations = self._invitations(name)
        try:
            return Place(name, proposal, role, usage, await invitations.open(), await invitations.guests())
        except InvitationError as error:
            return Place(name, proposal, role, usage, problem=error.problem)


def application(policy: PolicyFile, state: Path, hub: str, prefix: str) -> Application:
    """The service below a prefix; `hub` is the hub's address as browsers know it."""
    options = {"policy": policy, "state": state, "hub": hub}
    return Application(
        [
            (url_path_join(prefix, "oauth_callback"), HubOAuthCallbackHandler),
            (prefix, PlacesHandler, options),
        ],
        cookie_secret=os.urandom(32), xsrf_cookies=True, template_path=str(_PAGES),
    )  # fmt: skip


async def _serve(proposals: Path) -> None:
    policy, state = PolicyFile(proposals), Path(os.environ["SFXLAB_HUB_STATE"])
    prefix = os.environ["JUPYTERHUB_SERVICE_PREFIX"]
    host, _, port = os.environ["SFXLAB_LISTENS"].rpartition(":")
    application(policy, state, os.environ["SFXLAB_HUB_ADDRESS"], prefix).listen(int(port), host)
    measurer = ThreadPoolExecutor(1)

    async def measure_all() -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(measurer, measure, state, policy.proposals())
        except OSError as error:
            app_log.error("what proposals have stored cannot be measured: %s", error)

    callback: Any = PeriodicCallback(measure_all, float(os.environ["SFXLAB_MEASURE_EVERY"]) * 1000)
    callback.start()
    await measure_all()
    await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):  # how the hub ends its services
        asyncio.run(_serve(Path(sys.argv[1])))
