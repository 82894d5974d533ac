"""A session behind the session service: HTTP to ask and to change, a WebSocket for what others change."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import threading
import urllib.error
import urllib.request
import uuid
from contextlib import suppress
from http.client import HTTPException
from typing import Any
from urllib.parse import urlencode

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClientConnection, WebSocketError, websocket_connect

from sfxlab.errors import CatalogueError, NotAllowedError, SessionError
from sfxlab.session import wire
from sfxlab.session.changes import Change, Person, from_wire
from sfxlab.session.following import FIRST_PAUSE, LONGEST_PAUSE, Deliver, Feed

_LOG = logging.getLogger(__name__)

_PATIENCE = 30.0
_PING = 10.0
_FAREWELL = 2.0
"""Seconds in which the service may say goodbye."""


class ServiceAccess:
    """A session that a service keeps; the person and the role are the service's word.

    Raises `NotAllowedError` without a valid token, `CatalogueError` where the service does not answer, and what the
    service says.
    """

    def __init__(self, address: str, name: str, token: str | None = None, make: bool = True) -> None:
        self._address, self._token = address.rstrip("/"), token or my_token()
        self._client = uuid.uuid4().hex
        opened = ask(self._address, wire.OPEN, self._token, {"session": name, "make": make})
        self._name: str = opened["session"]
        self.person = Person(**opened["person"])
        self._number: int = opened["number"]

    def call(self, operation: str, **arguments: Any) -> Any:
        asked = {"session": self._name, "client": self._client, "operation": operation, "arguments": arguments}
        return ask(self._address, wire.CALL, self._token, asked)["answer"]

    def follow(self, deliver: Deliver) -> Feed:
        where = {"session": self._name, "client": self._client}
        return ServiceFeed(self._address, self._token, where, self._number, deliver)


def my_token() -> str:
    """The token in the environment. Raises `NotAllowedError` where there is none."""
    token = os.environ.get("SFXLAB_TOKEN") or os.environ.get("JUPYTERHUB_API_TOKEN")
    if not token:
        raise wire.nobody()
    return token


def ask(address: str, path: str, token: str, body: dict[str, Any] | None = None) -> Any:
    """The JSON that the service answers: to a POST of JSON, or to a GET where there is none."""
    request = urllib.request.Request(
        f"{address}/{path}", None if body is None else json.dumps(body).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )  # fmt: skip
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            raise wire.error_from_wire(_json_or_text(error.read()), address) from None
    except (OSError, ValueError, HTTPException) as error:
        raise _unreachable(address, error) from error


class ServiceFeed:
    """Delivers the changes that the service sends; after a lost connection it asks for those since the last one.

    One thread talks to the service, another one delivers: a subscriber that takes its time does not look like a client
    that is gone.
    """

    trouble: SessionError | None = None

    def __init__(self, address: str, token: str, where: dict[str, str], after: int, deliver: Deliver) -> None:
        self._address, self._token, self._where, self._number = address, token, where, after
        self._deliver = deliver
        self._arrived: queue.SimpleQueue[Change | None] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._ended, self._first_try = asyncio.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=target, name="sfxlab session", daemon=True)
            for target in (self._listen, self._hand_over)
        ]
        for thread in self._threads:
            thread.start()
        # Who has opened a session is present in it.
        self._first_try.wait(_PATIENCE)

    def end(self) -> None:
        self._arrived.put(None)
        with suppress(RuntimeError):  # the loop has ended before
            self._loop.call_soon_threadsafe(self._ended.set)

    def close(self) -> None:
        self.end()
        for thread in self._threads:
            if threading.current_thread() is not thread:
                thread.join()

    def _hand_over(self) -> None:
        while (change := self._arrived.get()) is not None:
            self._deliver(change)

    def _listen(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._stay_connected())

    async def _stay_connected(self) -> None:
        ended = asyncio.create_task(self._ended.wait())
        pause = FIRST_PAUSE
        while not ended.done():
            try:
                line = await self._connect()
                pause, self.trouble = FIRST_PAUSE, None
                self._first_try.set()
                await self._receive(line, ended)
            except SessionError as error:
                if self.trouble is None:
                    _LOG.warning("the feed of a session waits: %s", error)
                self.trouble = error
                self._first_try.set()
                await asyncio.wait((ended,), timeout=pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _connect(self) -> WebSocketClientConnection:
        """A connection that sends what comes after the last change. Raises `SessionError` where there is none."""
        query = urlencode(self._where | {"after": self._number})
        address = "ws" + self._address.removeprefix("http")  # and https becomes wss
        request = HTTPRequest(
            f"{address}/{wire.FEED}?{query}", headers={"Authorization": f"Bearer {self._token}"},
            connect_timeout=_PING, request_timeout=_PING,
        )  # fmt: skip
        try:
            return await websocket_connect(
                request, ping_interval=_PING, ping_timeout=_PING, max_message_size=wire.MAX_MESSAGE
            )
        except HTTPClientError as error:
            body = b"" if error.response is None else error.response.body
            raise wire.error_from_wire(_json_or_text(body or str(error).encode()), self._address) from error
        except (OSError, WebSocketError, StreamClosedError) as error:
            raise _unreachable(self._address, error) from error

    async def _receive(self, line: WebSocketClientConnection, ended: asyncio.Task[Any]) -> None:
        """Take what the service sends until the end. Raises `SessionError` where the connection is lost before."""
        while True:
            message = asyncio.ensure_future(line.read_message())
            await asyncio.wait((message, ended), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                line.close()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_FAREWELL):
                        while await message is not None:
                            message = asyncio.ensure_future(line.read_message())
                return
            if (text := message.result()) is None:
                line.close()
                break
            for fields in json.loads(text):
                self._number = fields["number"]
                self._arrived.put(from_wire(fields))
        if line.close_code == wire.NOBODY_CODE:
            raise NotAllowedError(line.close_reason or "access has ended", path=self._address)
        raise _unreachable(self._address, "the connection is closed")


def _json_or_text(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")


def _unreachable(address: str, error: object) -> CatalogueError:
    return CatalogueError(
        "the session service does not answer", path=address, found=str(getattr(error, "reason", error)),
        remedy="check the address and that the service runs ('sfxlab session serve')",
    )  # fmt: skip
