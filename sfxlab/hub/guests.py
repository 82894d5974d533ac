"""Guests of a proposal's shared server: they go when the invitation ends by which they came.

JupyterHub's invitations (share codes) expire, but what was accepted stays. Here it carries the end of its invitation,
and is taken back with it.
"""

from __future__ import annotations

import logging
from typing import Any

from jupyterhub import handlers, orm
from jupyterhub.handlers.pages import AcceptShareHandler
from tornado import web

from sfxlab.hub.policy import is_account

_LOG = logging.getLogger(__name__)


class AcceptInvitationHandler(AcceptShareHandler):
    """JupyterHub's page for accepting an invitation, which remembers until when."""

    @web.authenticated
    def post(self) -> None:
        code = orm.ShareCode.find(self.db, self.get_argument("code"))
        if code is None or code.expired:
            raise web.HTTPError(404, "this invitation has ended")
        super().post()
        share = orm.Share.find(self.db, code.spawner, self.current_user.orm_user)
        # The invitation that was accepted last counts, so that none prolongs what another one allowed.
        share.scopes, share.expires_at = sorted(code.scopes), code.expires_at
        self.db.commit()


handlers.default_handlers[:] = [
    (route, AcceptInvitationHandler if handler is AcceptShareHandler else handler, *rest)
    for route, handler, *rest in handlers.default_handlers
]


def send_home(user: Any) -> None:
    """Take back what this user, as JupyterHub knows him, was given by invitations that have ended or were withdrawn."""
    for share in list(user.orm_user.shared_with_me):
        if not is_account(share.owner.name) or share.expires_at is None:
            continue
        open_ones = {code.expires_at for code in share.spawner.share_codes if not code.expired}
        if share.expires_at not in open_ones:
            _LOG.info("%s is no longer a guest of %s", user.name, share.owner.name)
            user.db.delete(share)
            user.db.commit()
