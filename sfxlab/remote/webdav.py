"""What a WebDAV server says about a folder (PROPFIND, RFC 4918 section 9.1)."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from fsspec.asyn import sync

from sfxlab.errors import InputError
from sfxlab.remote.server_answers import asked

_QUESTION = b'<?xml version="1.0"?><propfind xmlns="DAV:"><prop><resourcetype/></prop></propfind>'


def is_folder(system: Any, address: str, url: str) -> bool:
    """Whether there is a folder at a URL. Raises `InputError`."""
    return any(is_one for _, is_one in _properties(system, address, url, depth=0))


def entries_of(system: Any, address: str, url: str) -> list[tuple[str, bool]]:
    """URLs of what a folder holds, and whether each is a folder. Raises `InputError` naming `address`."""
    own = unquote(urlsplit(url).path).rstrip("/")
    found = ((urljoin(url, href), is_one) for href, is_one in _properties(system, address, url, depth=1))
    return [(at, is_one) for at, is_one in found if unquote(urlsplit(at).path).rstrip("/") != own]


def _properties(system: Any, address: str, url: str, depth: int) -> list[tuple[str, bool]]:
    """Names (href) of an object and, with depth 1, of what is in it, and whether each is a folder."""
    text = asked(address, lambda: sync(system.loop, _answer, system, url, depth))
    try:
        responses = list(ElementTree.fromstring(text).iter("{DAV:}response"))
    except ElementTree.ParseError as error:
        raise InputError(
            "the server's list of the folder cannot be read", path=address, found=str(error), expected="WebDAV's XML",
            remedy="is this a WebDAV server? else write https://",
        ) from error  # fmt: skip
    return [
        (node.findtext("{DAV:}href", ""), next(node.iter("{DAV:}collection"), None) is not None) for node in responses
    ]


async def _answer(system: Any, url: str, depth: int) -> bytes:
    session = await system.set_session()
    said = {"Depth": str(depth), "Content-Type": "application/xml"}
    options = {**system.kwargs, "headers": {**system.kwargs.get("headers", {}), **said}}
    async with session.request("PROPFIND", url, data=_QUESTION, **options) as response:
        response.raise_for_status()
        content: bytes = await response.read()
        return content
