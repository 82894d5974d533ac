"""What an address names: one file on the network, a folder, or whatever matches a pattern."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import unquote

from sfxlab.errors import InputError
from sfxlab.remote.file_systems import file_system
from sfxlab.remote.server_answers import asked
from sfxlab.remote.webdav import entries_of, is_folder


@dataclass(frozen=True, order=True)
class Entry:
    """A file or a folder at an address; the addresses of folders end in a slash."""

    address: str

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.address.endswith("/")


def entries_named(item: str) -> list[Entry]:
    """The files and folders that one address names, which may have wildcards: `s3://bucket/run*/*.cxi`.

    Folders of web servers end in a slash; those of S3 and of WebDAV servers (`davs://`, `dav://`) need none. Over HTTP
    only the last part may have wildcards. Whether a file exists is not asked. Raises `InputError` where nothing
    matches.
    """
    system, path = file_system(item)
    if any(sign in path for sign in ("*?[" if _is_s3(item) else "*[")):
        found = (
            _on_s3(asked(item, lambda: system.glob(path, detail=True)).values()) if _is_s3(item) else _matching(item)
        )
        if not found:
            raise InputError("no file matches", path=item, remedy="check the pattern; in a shell, quote it")
        return sorted(found)
    return [Entry(f"{item}/") if _is_folder(system, item, path) else Entry(item)]


def entries_in(folder: str) -> list[Entry]:
    """What a folder on the network holds, sorted. Raises `InputError`."""
    system, path = file_system(folder)
    if _is_s3(folder):
        found = _on_s3(asked(folder, lambda: system.ls(path.rstrip("/"), detail=True)))
    elif folder.startswith("dav"):
        found = [_entry(folder, url, is_one) for url, is_one in entries_of(system, folder, path)]
    else:
        names = asked(folder, lambda: system.ls(path, detail=False))
        found = [_entry(folder, url, url.endswith("/")) for url in names]
    return sorted(entry for entry in found if entry.address != folder)


def _is_s3(address: str) -> bool:
    return address.startswith("s3://")


def _is_folder(system: Any, item: str, path: str) -> bool:
    """Whether an address that does not end in a slash is a folder's."""
    # Names of files have a dot, so that there is mostly no need to ask.
    rest = item.partition("://")[2]
    if path.endswith("/") or ("/" in rest and "." in posixpath.basename(rest)):
        return False
    if _is_s3(item):
        return bool(asked(item, lambda: system.info(path))["type"] == "directory")
    return item.startswith("dav") and is_folder(system, item, path)


def _on_s3(found: Any) -> list[Entry]:
    # A folder that somebody made with a browser is an empty object of its own name.
    return [
        Entry(f"s3://{each['name'].rstrip('/')}{'/' if each['type'] == 'directory' else ''}")
        for each in found
        if each["type"] == "directory" or not each["name"].endswith("/")
    ]


def _matching_on_s3(system: Any, item: str, path: str) -> list[Entry]:
    return _on_s3(asked(item, lambda: system.glob(path, detail=True)).values())


def _entry(near: str, url: str, is_one: bool) -> Entry:
    """A URL as an address of the scheme of another one."""
    return Entry(f"{near.partition('://')[0]}://{url.partition('://')[2].rstrip('/')}{'/' if is_one else ''}")


def _matching(item: str) -> list[Entry]:
    """What matches an address on a web server, folder by folder from the first wildcard on."""
    known, *parts = re.split(r"/(?=[^/]*[*\[])", item, maxsplit=1)
    parts = [unquote(part) for part in parts[0].split("/")]
    wants_folder = not parts[-1]
    parts = [part for part in parts if part]
    if len(parts) > 1 and not item.startswith("dav"):
        raise InputError(
            "over HTTP only the last part of an address may have wildcards", path=item, found=parts[0],
            expected="for example https://server/run1/*.cxi", remedy="give several addresses",
        )  # fmt: skip
    found = [Entry(f"{known}/")]
    for number, pattern in enumerate(parts, start=1):
        inside = (each for entry in found for each in entries_in(entry.address))
        only_folders = wants_folder or number < len(parts)
        found = [each for each in inside if fnmatchcase(_name(each), pattern) and (each.is_folder or not only_folders)]
    return found


def _name(entry: Entry) -> str:
    return unquote(posixpath.basename(entry.address.rstrip("/")))
