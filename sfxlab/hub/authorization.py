"""Inside a server that a proposal shares: viewers look, and only analysts and leads run code and change files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from jupyter_server.services.kernels.websocket import KernelWebsocketHandler
from jupyterhub.singleuser.extension import JupyterHubAuthorizer
from tornado.ioloop import PeriodicCallback
from tornado.websocket import WebSocketHandler

from sfxlab.hub.onlookers import KernelConnection
from sfxlab.hub.roles import LOOK, RUN, covers

_SHARED_TEXT = "collaboration"
"""How jupyter-collaboration's resource of rooms is in their address."""

_LOOKED_AT = ("api/collaboration/session/", "api/events/subscribe")
"""Routes where Jupyter Server asks for more than is done there: opening a shared text, hearing what happens."""

# Of the messages of a room (y-protocols): asking for the text, and saying where one looks.
_HARMLESS = (b"\x00\x00", b"\x01")


class ProposalAuthorizer(JupyterHubAuthorizer):
    """Lets those look whom JupyterHub's scopes let look, and those run who may run; nobody else anything.

    Jupyter Server asks with "read", "write" or "execute" at each of its routes. Websockets stay open after that, so
    they are asked about again as long as they are, and closed when their user may no longer; and what a viewer sends
    into a notebook that is edited together is dropped, because all of such a room goes over one websocket that
    "read" opens. Kernels' websockets are open to viewers, since pages show widgets by them; what passes there is the
    matter of `sfxlab.hub.onlookers`.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._open: WeakKeyDictionary[WebSocketHandler, str] = WeakKeyDictionary()
        self._asking: PeriodicCallback | None = None

    def is_authorized(self, handler: Any, user: Any, action: str, resource: str) -> bool:
        if not super().is_authorized(handler, user, action, resource):
            return False
        scopes = set(user.hub_user["scopes"])
        if handler.request.path.removeprefix(handler.base_url).startswith(_LOOKED_AT) or _is_guarded(handler, scopes):
            action = "read"
        if not covers(scopes, LOOK if action == "read" else RUN):
            return False
        if isinstance(handler, WebSocketHandler):
            if _SHARED_TEXT in handler.request.path and not covers(scopes, RUN):
                handler.on_message = _reading_only(handler.on_message)  # type: ignore[assignment, method-assign]
            self._follow(handler, action)
        return True

    def _follow(self, handler: WebSocketHandler, action: str) -> None:
        self._open[handler] = action
        if self._asking is None:
            seconds = max(self.hub_auth.cache_max_age, 1)
            self._asking = PeriodicCallback(self._close_where_refused, seconds * 1000)
            self._asking.start()

    async def _close_where_refused(self) -> None:
        for handler, action in list(self._open.items()):
            if handler.ws_connection is None:
                continue
            token, session = self.hub_auth.get_token(handler), self.hub_auth.get_session_id(handler)
            user = await self.hub_auth.user_for_token(token, session_id=session, sync=False)
            if user is None or not covers(set(user["scopes"]), LOOK if action == "read" else RUN):
                self.log.warning("a websocket is closed whose user may no longer %s: %s", action, handler.request.path)
                handler.close(1008, "no longer a member")


def _is_guarded(handler: Any, scopes: set[str]) -> bool:
    """Whether this is a kernel's websocket that lets no more through than its user may."""
    return (
        isinstance(handler, KernelWebsocketHandler)
        and issubclass(handler.kernel_websocket_connection_class, KernelConnection)
        and not covers(scopes, RUN)
    )


def _reading_only(on_message: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same for messages that change nothing; others are dropped."""

    def filtered(message: Any) -> Any:
        return on_message(message) if isinstance(message, bytes) and message.startswith(_HARMLESS) else None

    return filtered
