"""Routes of a server that ask for a login only: what viewers may do there, and whose ports are handed on.

JupyterLab's settings are such a route, and all that jupyter-server-proxy hands on to ports of the machine, Dask's
dashboards for one. Here those who may only look are held to looking, whatever route there is, and a port has to be this
account's own. Which pages the site hands on at all, and to whom, `dashboards` in site.toml says.
"""

from __future__ import annotations

import json
import os
from typing import Any

from jupyter_server.base.handlers import JupyterHandler
from jupyter_server_proxy.handlers import ProxyHandler
from tornado.httpclient import AsyncHTTPClient, HTTPClientError
from tornado.web import HTTPError

from sfxlab.hub.loopback import listener
from sfxlab.hub.site import DASHBOARDS, DashboardsTable

_LOOKS = ("GET", "HEAD", "OPTIONS")
_OWN_TO_EACH = ("lab/api/workspaces", "api/collaboration/session/", "logout")
"""What viewers send, too: where their windows are, and which text they open."""

_HERE = ("localhost", "127.0.0.1")
_NOT_TO_LOOK_AT = ("/proxy", "/jupyter")
"""Of a dashboard's pages: those that hand on to other machines, or run code."""


def _load_jupyter_server_extension(server: Any) -> None:
    """What Jupyter Server calls when it starts."""
    prepare, prepare_proxied = JupyterHandler.prepare, ProxyHandler.prepare
    dashboards: dict[int, bool] = {}
    table = DashboardsTable.model_validate_json(os.environ.get(DASHBOARDS, "{}"))

    async def asking(handler: Any, *arguments: Any, **options: Any) -> None:
        await prepare(handler, *arguments, **options)
        own = handler.request.path.removeprefix(handler.base_url).startswith(_OWN_TO_EACH)
        if handler.current_user and handler.request.method not in _LOOKS and not own:
            await _ask(handler, "write", "you may look here; to change something, ask a lead to make you analyst")

    async def asking_proxied(handler: Any) -> None:
        await prepare_proxied(handler)
        if handler.current_user:
            await _ask_for_port(handler, dashboards, table)

    # There is no other place at which all routes pass.
    JupyterHandler.prepare = asking  # type: ignore[method-assign, assignment]
    ProxyHandler.prepare = asking_proxied


async def _ask_for_port(handler: Any, dashboards: dict[int, bool], table: DashboardsTable) -> None:
    who: str = table.others
    *host, port, path = handler.path_args if len(handler.path_args) > 1 else ("", "")
    if port:
        at = listener(int(port)) if not host or host[0] in _HERE else None
        if at is None or at.user != os.geteuid():
            raise HTTPError(403, f"nothing of this server listens at port {port}")
        if at.inode not in dashboards:
            dashboards[at.inode] = await _is_dashboard(int(port))
        if dashboards[at.inode]:
            who = table.dask
            if who == "members" and (handler.request.method not in _LOOKS or path.startswith(_NOT_TO_LOOK_AT)):
                who = "analysts"
    if who == "nobody":
        raise HTTPError(403, "pages of programs on servers are not handed on at this site")
    refusal = "you may not look at this page; ask a lead to make you analyst"
    await _ask(handler, "read" if who == "members" else "execute", refusal)


async def _ask(handler: Any, action: str, refusal: str) -> None:
    """Raise 403 with these words for whoever may not do this."""
    answer = handler.authorizer.is_authorized(handler, handler.current_user, action, "server")
    if not (await answer if hasattr(answer, "__await__") else answer):
        raise HTTPError(403, refusal)


async def _is_dashboard(port: int) -> bool:
    try:
        answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/json/identity.json", request_timeout=5)
        return bool(json.loads(answer.body)["type"] == "Scheduler")
    except (HTTPClientError, OSError, ValueError, KeyError, TypeError):
        return False
