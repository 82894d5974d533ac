"""What JupyterHub is told of a policy: groups, and roles made of its own scopes."""

from __future__ import annotations

import os
from typing import Any

from jupyterhub.services.auth import check_scopes

from sfxlab.hub.policy import Role, account_of

LOOK = "custom:sfxlab:look"
RUN = "custom:sfxlab:run"

CUSTOM_SCOPES: dict[str, dict[str, Any]] = {
    LOOK: {"description": "Look at files and at what runs on a server, without changing anything"},
    RUN: {"description": "Run code and change files on a server", "subscopes": [LOOK]},
}
"""What JupyterHub's own scopes do not tell apart: getting into a server to look, and to run code there."""

USER_ROLE = {
    "name": "user",
    "scopes": ["self", f"{RUN}!user", "access:services!service=health", "access:services!service=proposals"],
}
"""What everybody may do: all with a server of one's own, see one's proposals and whether the hub is well."""

SERVER_ROLE = {
    "name": "server",
    "scopes": ["users:activity!user", "access:servers!server", "read:users:name!user", "read:users:groups!user"],
}
"""What the token within a server may do: say whose it is, which is how the session service knows who is asking."""

TOKEN_SCOPES = [f"{LOOK}!server", f"{RUN}!server"]
"""What a server may know of those who come in by a browser: what they may do there."""

PLACES_SCOPES = ["shares", "read:shares", "access:servers", LOOK, RUN]
"""Of what somebody may do, what the page of proposals does for him or her (`sfxlab.hub.places`)."""


def role_of(proposal: str, role: Role) -> dict[str, Any]:
    """The JupyterHub role of somebody who is `role` in a proposal, on the proposal's shared server."""
    mine = f"!user={account_of(proposal)}"
    scopes = [f"access:servers{mine}", f"read:users:name{mine}", f"list:users{mine}", f"{LOOK}{mine}"]
    if role != "viewer":
        scopes += [f"servers{mine}", f"{RUN}{mine}"]
    if role == "lead":
        # Invitations are links that expire; to invite by name would need a look at who else is at the site.
        scopes.append(f"shares{mine}")
    return {"name": f"{proposal}-{role}", "description": f"{role} in proposal {proposal}", "scopes": scopes}


def groups_of(roles: dict[str, Role]) -> list[str]:
    """Groups of somebody with these roles in proposals: each proposal, and within it each role."""
    return [name for proposal, role in roles.items() for name in (proposal, f"{proposal}-{role}")]


def roles_of(roles: dict[str, Role]) -> list[dict[str, Any]]:
    """JupyterHub's roles of somebody with these roles in proposals."""
    return [dict(USER_ROLE), *(role_of(proposal, role) for proposal, role in roles.items())]


def covers(scopes: set[str], wanted: str) -> bool:
    """Whether somebody with these scopes may do what is wanted (`LOOK`, `RUN`) on the server that this process is."""
    owner, server = os.environ["JUPYTERHUB_USER"], os.environ.get("JUPYTERHUB_SERVER_NAME", "")
    return bool(check_scopes({f"{wanted}!user={owner}", f"{wanted}!server={owner}/{server}"}, scopes))
