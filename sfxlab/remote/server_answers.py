"""Why a server does not give a file, in words: what fsspec, s3fs, botocore and aiohttp raise is sorted here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from sfxlab.errors import UnreachableError

Result = TypeVar("Result")


def asked(address: str, ask: Callable[[], Result]) -> Result:
    """What a server answers. Raises `UnreachableError` where it gives none, or says no."""
    try:
        return ask()
    except _errors() as error:
        raise _explained(address, error) from error


def _errors() -> tuple[type[BaseException], ...]:
    """What fsspec and the libraries under it raise, those that are loaded."""
    found: list[type[BaseException]] = [OSError, EOFError, ValueError, RuntimeError, ImportError, TimeoutError]
    for module, names in (("aiohttp", ["ClientError"]), ("botocore.exceptions", ["BotoCoreError", "ClientError"])):
        if module in sys.modules:
            found += [getattr(sys.modules[module], name) for name in names]
    return tuple(found)


@dataclass(frozen=True)
class _Cause:
    """A reason for not getting a file: by which HTTP status or exception it is known, and what to do."""

    problem: str
    statuses: tuple[int, ...]
    exceptions: tuple[str, ...]
    remedy: str
    is_passing: bool = False


_CREDENTIALS = (
    "for S3 set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or FSSPEC_S3_ANON=true for public data; "
    "for HTTP write the password to ~/.netrc, or a token to the variable FSSPEC_HTTP as "
    '{"headers": {"Authorization": "Bearer …"}}'
)
_NO_CREDENTIALS = (
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound",
    "TokenRetrievalError", "SSOTokenLoadError",
)  # fmt: skip
_NO_ANSWER = ("TimeoutError", "ConnectTimeoutError", "ReadTimeoutError", "FSTimeoutError")
_NO_CONNECTION = (
    "EndpointConnectionError", "ClientConnectionError", "ConnectionError", "HTTPClientError", "gaierror",
)  # fmt: skip
_CUT_SHORT = ("ClientPayloadError", "IncompleteRead", "ResponseStreamingError")
_CAUSES = (
    _Cause("there are no credentials", (), _NO_CREDENTIALS, _CREDENTIALS),
    _Cause("the server denies access", (401, 403, 407), ("PermissionError",), _CREDENTIALS),
    _Cause("the file has changed while it was read", (412,), ("FileExpired",), "open the frames again"),
    _Cause("the server has too much to do", (429, 502, 503, 504), (), "try again later, or with fewer workers", True),
    _Cause("the server cannot do this", (405, 501), (), "is this a WebDAV server? else write https:// or http://"),
    _Cause("the server has a problem of its own", (500, 507), (), "try again later", True),
    _Cause("the server does not answer in time", (408,), _NO_ANSWER, "try again later", True),
    _Cause("the server cannot be reached", (), _NO_CONNECTION, "check address, network, for S3 AWS_ENDPOINT_URL", True),
    _Cause("the connection was lost", (), _CUT_SHORT, "try again", True),
    _Cause("there is no such object", (404, 410), ("FileNotFoundError",), "check the address"),
)
"""In the order of asking, because an exception is often another one's cause."""


def _explained(address: str, error: BaseException) -> UnreachableError:
    chain = list(_chain(error))
    statuses = {status for status in map(_status, chain) if status is not None}
    names = {kind.__name__ for each in chain for kind in type(each).__mro__}
    found = next((c for c in _CAUSES if statuses & set(c.statuses) or names & set(c.exceptions)), None)
    text = next((str(each) for each in reversed(chain) if str(each)), type(error).__name__).partition("\n")[0]
    if found is None:
        return UnreachableError("the file cannot be read", path=address, found=text)
    explained = UnreachableError(found.problem, path=address, found=text, remedy=found.remedy)
    explained.is_passing = found.is_passing
    return explained


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _status(error: BaseException) -> int | None:
    """The HTTP status in an exception of aiohttp or botocore."""
    status = getattr(error, "status", None)
    if status is None:
        response = getattr(error, "response", None)
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    return status if isinstance(status, int) else None
