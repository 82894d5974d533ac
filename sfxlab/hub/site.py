"""How a site runs its hub: the file `site.toml`."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sfxlab.hub.policy import PolicyError
from sfxlab.hub.programs import Program
from sfxlab.typed_toml import read_typed


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HubTable(_Table):
    """Where the hub listens and what it keeps."""

    address: str = Field("http://127.0.0.1:8000", description="Where browsers find it, http://HOST:PORT or https://…")
    domain: str = Field(
        "", description="Domain of which every server gets a subdomain of its own, https://hub.site.org"
    )
    certificate: Path | None = Field(None, description="TLS certificate, PEM")
    key: Path | None = Field(None, description="Its private key, PEM, readable by nobody else")
    proxy: tuple[str, ...] = Field(("configurable-http-proxy",), description="Command that starts the proxy")
    state: Path = Field(description="Directory for the hub's database, secrets and log; the hub's alone")
    admins: tuple[str, ...] = Field((), description="Accounts that see the hub's admin page")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key together, or neither")
        return self


class AuthenticationTable(_Table):
    """How people prove who they are."""

    kind: str = Field("pam", description="Name of a JupyterHub authenticator: pam, shared-password, generic-oauth …")
    options: dict[str, Any] = Field({}, description="Its own options, by their names in JupyterHub")
    secrets: dict[str, Path] = Field({}, description="Options of it that are secret: files that hold them")


class ServerTable(_Table):
    """What servers run in: processes under the accounts of this machine."""

    memory: str | None = Field(None, description="Most memory of a server, such as '8G', where the spawner can hold it")
    idle: float = Field(
        14400.0, ge=0, description="Seconds after which a server is stopped that nobody uses and no run needs; 0: never"
    )


class SessionsTable(_Table):
    """The service that keeps what groups look at together; it alone may reach the catalogue."""

    port: int = Field(
        8899, ge=1, le=65535, description="Where it listens, on 127.0.0.1; the hub's proxy goes before it"
    )
    catalogue: Path | None = Field(
        None, description="File that holds the address of a PostgreSQL, a secret; SQLite in the hub's state without"
    )


class Site(_Table):
    """The file `site.toml`."""

    hub: HubTable
    authentication: AuthenticationTable = AuthenticationTable()
    servers: ServerTable = ServerTable()
    sessions: SessionsTable = SessionsTable()
    programs: dict[str, Program] = Field({}, description="Programs under terms that each user has to accept")
    refresh: int = Field(10, ge=1, le=300, description="Seconds until a changed proposals.toml holds for who is there")

    @staticmethod
    def read(path: str | Path) -> Site:
        """Raises `PolicyError` naming the file and the key."""
        return read_typed(path, Site, PolicyError)


def secret(path: Path) -> str:
    """What a file with a secret holds, without the end of its line.

    Raises `PolicyError` where others can read it, or it belongs to somebody else.
    """
    try:
        status = path.stat()
        text = path.read_text(encoding="utf-8").rstrip("\n")
    except OSError as error:
        raise PolicyError("the secret cannot be read", path=path, found=error.strerror) from error
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = f"mode {stat.S_IMODE(status.st_mode):04o}"
        raise PolicyError("others can read this secret", path=path, found=mode, remedy=f"chmod 600 {path}")
    if status.st_uid != os.geteuid():
        raise PolicyError("this secret belongs to somebody else", path=path, found=f"uid {status.st_uid}")
    if not text:
        raise PolicyError("this secret is empty", path=path)
    return text
