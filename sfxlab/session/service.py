"""The session service: the catalogue behind HTTP and WebSocket, for those who have no business in the database.

It asks who is asking at every request, and does only what that person's role in the session's proposal allows.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from sfxlab.errors import CatalogueError, SessionError
from sfxlab.session import wire
from sfxlab.session.access import open_session, split_name
from sfxlab.session.asking import Asker, WhoAsks
from sfxlab.session.catalogue import Catalogue
from sfxlab.session.changes import Person
from sfxlab.session.channels import Channels
from sfxlab.session.ledger import last_numbers, sessions
from sfxlab.session.operations import OPERATIONS, perform

_LOG = logging.getLogger(__name__)

THREADS = 8
"""So many requests wait for the catalogue at once."""
_ASKED_AGAIN = 15.0
"""Seconds after which a listener's access is checked anew."""
_PING = 10.0


class SessionService:
    """A session service in the event loop of this thread; `stop` ends it.

    Parameters
    ----------
    catalogue:
        Where sessions are kept.
    who_asks:
        Tells who has a token (`sfxlab.session.asking`).
    prefix:
        Path below which it answers, as a hub hands it on: `/services/sessions/`.
    """

    def __init__(self, catalogue: Catalogue, who_asks: WhoAsks, prefix: str = "/") -> None:
        self.catalogue, self.who_asks = catalogue, who_asks
        self._threads = ThreadPoolExecutor(THREADS, "sfxlab session service")
        self.channels = Channels(catalogue, self.aside)
        self.feeds: set[_Feed] = set()
        handlers = {
            wire.OPEN: _Open, wire.CALL: _Call, wire.FEED: _Feed, wire.SESSIONS: _Sessions, wire.HEALTH: _Health,
        }  # fmt: skip
        self._application = Application(
            [("/" + f"{prefix}/{path}".strip("/").replace("//", "/"), kind) for path, kind in handlers.items()],
            service=self, websocket_ping_interval=_PING, websocket_ping_timeout=_PING, log_function=_log_request,
            websocket_max_message_size=wire.MAX_MESSAGE,
        )  # fmt: skip
        self._server: HTTPServer | None = None

    def listen(self, address: str = "127.0.0.1", port: int = 0, encryption: ssl.SSLContext | None = None) -> int:
        """Answer at this address; the port, one that is free where 0 is given. Raises `SessionError`."""
        try:
            sockets = bind_sockets(port, address)
        except OSError as error:
            raise SessionError(
                "the service cannot listen there", found=f"{address}:{port}: {error.strerror}",
                remedy="choose another address or port",
            ) from error  # fmt: skip
        self._server = HTTPServer(
            self._application, ssl_options=encryption, max_body_size=wire.MAX_MESSAGE, xheaders=False
        )
        self._server.add_sockets(sockets)
        bound: int = sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Answer no more; those who listen come back by themselves when there is a service again."""
        if self._server is not None:
            self._server.stop()
        await asyncio.gather(*(feed.stop() for feed in list(self.feeds)))
        if self._server is not None:
            await self._server.close_all_connections()
        await asyncio.to_thread(self.channels.close)
        await asyncio.to_thread(self._threads.shutdown)

    async def aside(self, work: Callable[[], Any]) -> Any:
        """Do what waits for the database in another thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def asker(self, header: str | None) -> Asker:
        """Who sends this `Authorization` header. Raises `NotAllowedError` for nobody."""
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() not in ("token", "bearer") or not token.strip():
            raise wire.nobody()
        asker = await self.who_asks(token.strip())
        if asker is None:
            raise wire.nobody()
        return asker

    async def open(self, asker: Asker, name: str, make: bool = False) -> tuple[int, Person, str]:
        """A session, who the asker is in it, and its name in full; without a proposal it is of the asker's only one.

        Raises `UnknownSessionError` for what is not there or not for the asker.
        """
        proposal, own = split_name(name)
        if not proposal and len(asker.roles) == 1:
            proposal = next(iter(asker.roles))
        person = asker.in_proposal(proposal)
        full = f"{proposal}/{own}" if proposal else own
        return await self.aside(lambda: open_session(self.catalogue, full, person, make)), person, full


def _log_request(handler: RequestHandler) -> None:
    if handler.get_status() >= 500:
        _LOG.warning("%s %s: %s", handler.request.method, handler.request.path, handler.get_status())


class _Handler(RequestHandler):
    """Answers in JSON, errors too."""

    def initialize(self) -> None:
        self.service: SessionService = self.settings["service"]

    def set_default_headers(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")

    def check_xsrf_cookie(self) -> None:
        """There are no cookies: a token is in a header, where no other page can put it."""

    async def asker(self) -> Asker:
        return await self.service.asker(self.request.headers.get("Authorization"))

    def asked(self, *wanted: str) -> list[Any]:
        """These keys of the JSON that was sent."""
        try:
            body = json.loads(self.request.body)
            return [body[key] for key in wanted]
        except (ValueError, KeyError, TypeError) as error:
            raise SessionError("this request is not understood", found=repr(error), expected=wanted) from error

    def write_error(self, status_code: int, **context: Any) -> None:
        error = context.get("exc_info", (None, None))[1]
        if isinstance(error, SessionError):
            status_code, told = wire.error_to_wire(error)
            self.set_status(status_code)
        else:
            _, told = wire.error_to_wire(SessionError("the service cannot answer this", found=str(status_code)))
        self.finish(told)

    def log_exception(self, kind: Any, error: Any, trace: Any) -> None:
        if not isinstance(error, SessionError):
            super().log_exception(kind, error, trace)


class _Open(_Handler):
    """Who the asker is in a session, and where its feed begins."""

    async def post(self) -> None:
        asker = await self.asker()
        name, make = self.asked("session", "make")
        session, person, full = await self.service.open(asker, str(name), bool(make))
        number = await self.service.aside(lambda: self._newest(session))
        self.finish(json.dumps({"session": full, "person": asdict(person), "number": number}))

    def _newest(self, session: int) -> int:
        with self.service.catalogue.connected() as connection:
            return last_numbers(connection, [session])[session]


class _Call(_Handler):
    """An operation on a session (`sfxlab.session.operations`)."""

    async def post(self) -> None:
        asker = await self.asker()
        name, client, operation, arguments = self.asked("session", "client", "operation", "arguments")
        if not isinstance(operation, str) or not isinstance(arguments, dict):
            raise SessionError("this request is not understood", found=repr(operation)[:100])
        session, person, _ = await self.service.open(asker, str(name))
        client = _client(asker, client)
        catalogue = self.service.catalogue
        answer = await self.service.aside(lambda: perform(catalogue, session, person, client, operation, arguments))
        if OPERATIONS[operation].access != "read":
            self.service.channels.hurry()
        self.finish(json.dumps({"answer": answer}))


class _Sessions(_Handler):
    """The sessions of the asker's proposals."""

    async def get(self) -> None:
        asker = await self.asker()
        found = await self.service.aside(self._read)
        mine = [one | {"role": asker.roles[one["proposal"]]} for one in found if one["proposal"] in asker.roles]
        self.finish(json.dumps({"sessions": mine}))

    def _read(self) -> list[dict[str, Any]]:
        with self.service.catalogue.connected() as connection:
            return sessions(connection)


class _Health(_Handler):
    """Whether the catalogue answers, and how much there is; for those who watch over services, whoever they are."""

    async def get(self) -> None:
        count = await self.service.aside(self._read)
        self.finish(json.dumps({"status": "well", "sessions": count, "listeners": len(self.service.feeds)}))

    def _read(self) -> int:
        with self.service.catalogue.connected() as connection:
            return len(sessions(connection))


class _Feed(WebSocketHandler, _Handler):
    """The changes of a session, from the number after `after` on."""

    person: Person
    session: int
    client: str
    number: int

    async def get(self, *_: Any) -> None:
        self.asking = await self.asker()
        self.name = self.get_query_argument("session")
        self.session, self.person, self.name = await self.service.open(self.asking, self.name)
        self.client = _client(self.asking, self.get_query_argument("client"))
        try:
            self.number = int(self.get_query_argument("after"))
        except ValueError as error:
            raise SessionError("'after' is a number", found=self.get_query_argument("after")) from error
        self.news = asyncio.Event()
        await super().get()

    def check_origin(self, origin: str) -> bool:
        return False  # only browsers send one, and none has business here

    async def open(self, *_: Any) -> None:
        self.service.feeds.add(self)
        self._sending = asyncio.create_task(self._send())

    def on_close(self) -> None:
        self.service.feeds.discard(self)
        self._sending.cancel()

    async def stop(self) -> None:
        """Close it and let the others know."""
        self.close(1001, "the service stops")
        self._sending.cancel()
        await asyncio.wait((self._sending,))

    async def _send(self) -> None:
        header = self.request.headers.get("Authorization")
        channels, loop = self.service.channels, asyncio.get_running_loop()
        try:
            await channels.join(self)
            ask_at = loop.time() + _ASKED_AGAIN
            while True:
                if (text := await channels.changes(self)) is not None:
                    await self.write_message(text)
                elif (left := ask_at - loop.time()) > 0:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self.news.wait(), left)
                if loop.time() >= ask_at:
                    _, self.person, _ = await self.service.open(await self.service.asker(header), self.name)
                    ask_at = loop.time() + _ASKED_AGAIN
        except WebSocketClosedError:
            pass  # nobody is there to be told
        except SessionError as error:
            _LOG.info("the feed of %s is closed: %s", self.person.name, error)
            self.close(wire.LATER_CODE if isinstance(error, CatalogueError) else wire.NOBODY_CODE, error.problem[:100])
        finally:
            await asyncio.shield(channels.part(self))


def _client(asker: Asker, client: object) -> str:
    # With the name of who asks, so that nobody speaks for somebody else's kernel.
    return f"{asker.name}:{str(client)[:64]}"
