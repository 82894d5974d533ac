"""Whoever proves who he is gets in where the policy says so, as it reads at that moment."""

from __future__ import annotations

import datetime
import logging
from pathlib import Path
from typing import Any

from jupyterhub.auth import Authenticator
from traitlets import Unicode

from sfxlab.hub.guests import send_home
from sfxlab.hub.policy import PolicyError, Proposals, account_of, is_account
from sfxlab.hub.roles import groups_of, roles_of

_LOG = logging.getLogger(__name__)


class PolicyFile:
    """`proposals.toml` as it is on disk, read again when it has changed.

    A file that cannot be read or is wrong changes nothing: the last good one holds, and the error is logged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._proposals = Proposals.read(self.path)
        self._seen = self._stamp()

    def _stamp(self) -> tuple[int, int, int]:
        stat = self.path.stat()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def proposals(self) -> Proposals:
        """The policy that holds now."""
        try:
            stamp = self._stamp()
            if stamp != self._seen:
                self._proposals, self._seen = Proposals.read(self.path), stamp
        except (OSError, PolicyError) as error:
            _LOG.error("the last good policy goes on to hold: %s", error)
        return self._proposals


def with_policy(kind: type[Authenticator]) -> type[Authenticator]:
    """An authenticator that asks for names and passwords as `kind` does, and for what they may do the policy."""

    class ProposalAuthenticator(kind):
        policy_path = Unicode(config=True, help="proposals.toml")

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.manage_groups = self.manage_roles = True
            self._policy = PolicyFile(self.policy_path)

        def _model(self, name: str) -> dict[str, Any]:
            roles = self._policy.proposals().roles_of(name, datetime.date.today())
            return {"groups": groups_of(roles), "roles": [*roles_of(roles), *_admin(name in self.admin_users)]}

        def _is_let_in(self, name: str) -> bool:
            known = self._policy.proposals().roles_of(name, datetime.date.today())
            return bool(known) or name in self.admin_users

        def check_allow_config(self) -> None:
            """Whom the policy names is let in, so nothing needs to be allowed besides."""

        def check_allowed(self, username: str, authentication: Any = None) -> bool:
            return self._is_let_in(username)

        async def get_authenticated_user(self, handler: Any, data: Any) -> Any:
            found = await super().get_authenticated_user(handler, data)
            if not found:
                return None
            self._know_accounts(found["name"], handler)
            return {**found, **self._model(found["name"])}

        def _know_accounts(self, name: str, handler: Any) -> None:
            """Make the accounts of somebody's proposals known to the hub; nobody else ever asks for their servers."""
            for proposal in self._policy.proposals().roles_of(name, datetime.date.today()):
                if handler.find_user(account_of(proposal)) is None:
                    account = handler.user_from_username(account_of(proposal))
                    # Who runs code there is an analyst or a lead, and it acts for all of them.
                    account.sync_groups(groups_of({proposal: "analyst"}))

        async def refresh_user(self, user: Any, handler: Any = None) -> Any:
            """Members who were taken out, or whose proposals have ended, have to log in anew, and cannot."""
            if is_account(user.name):
                return True
            send_home(user)
            if not self._is_let_in(user.name):
                return False
            if handler is not None:
                self._know_accounts(user.name, handler)
            refreshed = await super().refresh_user(user, handler)
            if refreshed is False:
                return False
            return {**(refreshed if isinstance(refreshed, dict) else {"name": user.name}), **self._model(user.name)}

    return ProposalAuthenticator


def _admin(is_admin: bool) -> list[dict[str, Any]]:
    return [{"name": "admin"}] if is_admin else []
