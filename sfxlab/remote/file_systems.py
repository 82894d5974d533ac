"""fsspec's file systems for addresses: S3, HTTP and WebDAV."""

from __future__ import annotations

from typing import Any

import fsspec

from sfxlab.errors import InputError

_SCHEMES = {"s3": "s3", "https": "https", "http": "http", "davs": "https", "dav": "http"}
"""Schemes of addresses, and the protocol that each is spoken in."""


def file_system(address: str) -> tuple[Any, str]:
    """fsspec's file system for an address, and its own way to write the address.

    Settings are fsspec's: its configuration files, and variables such as `FSSPEC_S3_ENDPOINT_URL`; for S3 those of AWS
    too. Raises `InputError` where the scheme is unknown, the library for it is missing, or the address has a password.
    """
    scheme, _, rest = address.partition("://")
    protocol = _SCHEMES.get(scheme)
    if protocol is None:
        raise InputError(
            "addresses of this kind cannot be read", path=address,
            expected=", ".join(f"{known}://" for known in _SCHEMES), remedy="copy or mount the file",
        )  # fmt: skip
    if "@" in rest.partition("/")[0]:
        raise InputError(
            "the address contains a password, which would end up in records", path=f"{scheme}://…@{rest.split('@')[-1]}",
            expected="an address without one", remedy="write the password to ~/.netrc",
        )  # fmt: skip
    try:
        system = fsspec.filesystem(protocol, **_options(protocol))
    except ImportError as error:
        raise InputError(
            "a library for addresses of this kind is missing", path=address, found=str(error),
            remedy="pip install 'sfxlab[remote]'",
        ) from error  # fmt: skip
    return system, rest if protocol == "s3" else f"{protocol}://{rest}"


def _options(protocol: str) -> dict[str, Any]:
    """What is set otherwise than s3fs and fsspec do, unless the user sets it."""
    if protocol == "s3":
        # A listing that is kept would hide that an object has changed since.
        return {"use_listings_cache": False}
    import aiohttp

    settings = fsspec.config.conf
    said = {**settings.get("http", {}), **settings.get("https", {})}.get("client_kwargs", {})
    # aiohttp waits for no more than 5 minutes in all, however fast the bytes come.
    patience = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
    return {"client_kwargs": {"trust_env": True, "timeout": patience, **said}}
