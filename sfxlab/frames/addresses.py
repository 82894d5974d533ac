"""What an address names: one file on the network, those that match a pattern, or those of a folder."""

from __future__ import annotations

import posixpath
import xml.etree.ElementTree as ElementTree
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from fsspec.asyn import sync

from sfxlab.errors import InputError
from sfxlab.frames.remote import RemoteFile, file_system
from sfxlab.frames.server_answers import asked

_LARGEST_LIST = 2**28


def addresses_named(item: str, suffixes: tuple[str, ...]) -> list[str]:
    """The addresses of files that one address names.

    It may have wildcards (`s3://bucket/run*/*.cxi`, over HTTP only in the last part), or be a folder, of which those
    files count that end in one of `suffixes`. Folders of web servers end in a slash; they are read from the page that
    shows them, those of WebDAV servers (`davs://`, `dav://`) as WebDAV has it. Raises `InputError`.
    """
    system, path = file_system(item)
    on_s3 = item.startswith("s3://")
    if any(sign in path for sign in ("*?[" if on_s3 else "*[")):
        found = asked(item, lambda: system.glob(path)) if on_s3 else _matching(system, item, path)
        if not found:
            raise InputError("no file matches", path=item, remedy="check the pattern; in a shell, quote it")
    elif path.endswith("/") or (on_s3 and _is_prefix(system, item, path)):
        names = asked(item, lambda: system.ls(path, detail=False)) if on_s3 else _in_folder(system, item, path)
        found = [name for name in names if name.lower().endswith(suffixes)]
        if not found:
            raise InputError(
                "there are no files of frames in this folder", path=item, found=f"{len(names)} other files",
                expected=f"files ending in {', '.join(suffixes)}", remedy="is the address complete?",
            )  # fmt: skip
    else:
        return [item]
    scheme = item.partition("://")[0]
    return sorted(f"{scheme}://{name.partition('://')[2] or name}" for name in found)


def text_at(address: str) -> str:
    """A text on the network. Raises `InputError`, and `UnicodeDecodeError` where it is none."""
    file = RemoteFile(address)
    if file.size > _LARGEST_LIST:
        raise InputError("this is too long for a list of files", path=address, found=f"{file.size} bytes")
    return file.read_at(0, file.size).decode("utf-8")


def _is_prefix(system: Any, item: str, path: str) -> bool:
    # Names of files have a dot, so that there is mostly no need to ask.
    if "/" in path and "." in posixpath.basename(path):
        return False
    return bool(asked(item, lambda: system.info(path))["type"] == "directory")


def _matching(system: Any, item: str, path: str) -> list[str]:
    """Files of a web server whose names match the last part of an address."""
    folder, pattern = posixpath.split(path)
    if "*" in folder or "[" in folder:
        raise InputError(
            "over HTTP only the last part of an address may have wildcards", path=item, found=folder,
            expected="for example https://server/run1/*.cxi", remedy="give several addresses",
        )  # fmt: skip
    names = _in_folder(system, item, f"{folder}/")
    return [name for name in names if fnmatchcase(unquote(posixpath.basename(name)), unquote(pattern))]


def _in_folder(system: Any, item: str, path: str) -> list[str]:
    """What a folder of a web server holds, as addresses."""
    if not item.startswith("dav"):
        names: list[str] = asked(item, lambda: system.ls(path, detail=False))
        return names
    text = asked(item, lambda: sync(system.loop, _properties, system, path))
    try:
        hrefs = [node.text or "" for node in ElementTree.fromstring(text).iter("{DAV:}href")]
    except ElementTree.ParseError as error:
        raise InputError(
            "the server's list of the folder cannot be read", path=item, found=str(error), expected="WebDAV's XML",
            remedy="is this a WebDAV server? else write https://",
        ) from error  # fmt: skip
    folder = urlsplit(path).path.rstrip("/")
    return [urljoin(path, href) for href in hrefs if unquote(urlsplit(href).path).rstrip("/") != unquote(folder)]


async def _properties(system: Any, url: str) -> bytes:
    """What a WebDAV server says about a folder and what is in it (PROPFIND, RFC 4918 section 9.1)."""
    session = await system.set_session()
    options = {**system.kwargs, "headers": {**system.kwargs.get("headers", {}), "Depth": "1"}}
    async with session.request("PROPFIND", url, **options) as response:
        response.raise_for_status()
        content: bytes = await response.read()
        return content
