"""How a site runs its hub: the file `site.toml`."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sfxlab.hub.policy import PolicyError, Size
from sfxlab.hub.programs import Program
from sfxlab.typed_toml import read_typed

DASHBOARDS = "SFXLAB_DASHBOARDS"
"""Environment variable of servers that holds the table `dashboards`, JSON."""


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
    inside: str = Field(
        "http://127.0.0.1:8081", description="Where servers find the hub itself; those on other machines need its name"
    )
    database: Path | None = Field(
        None, description="File that holds the address of a PostgreSQL, a secret; SQLite in the hub's state without"
    )
    admins: tuple[str, ...] = Field((), description="Accounts that see the hub's admin page")
    contact: str = Field("", description="Whom people may ask, an address; pages that let nobody in say it")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key together, or neither")
        return self

    @property
    def public(self) -> str:
        """The address of the hub's own pages."""
        return (self.domain or self.address).rstrip("/")


class AuthenticationTable(_Table):
    """How people prove who they are."""

    kind: str = Field("pam", description="Name of a JupyterHub authenticator: pam, shared-password, generic-oauth …")
    options: dict[str, Any] = Field({}, description="Its own options, by their names in JupyterHub")
    secrets: dict[str, Path] = Field({}, description="Options of it that are secret: files that hold them")


class SlurmTable(_Table):
    """Servers as jobs of SLURM, submitted under the account of their owner."""

    partition: str = Field("", description="Partition of the jobs; SLURM's own choice if not given")
    account: str = Field(
        "", description="Account that shared servers are charged to, with {proposal} in it; a person's own if not given"
    )
    walltime: str = Field("08:00:00", pattern=r"^[0-9:-]+$", description="Longest that a server runs")
    cpus: int = Field(2, ge=1, description="Processors of a server")
    options: str = Field("", description="Further options of sbatch, in one line, such as '--constraint=jupyter'")


class ContainerTable(_Table):
    """Servers in containers of podman or docker on the hub's machine, under the numbers of their owners' accounts."""

    image: str = Field(description="Image with sfxlab, JupyterLab and the version of JupyterHub that the hub has")
    socket: str = Field("unix:///run/podman/podman.sock", description="Where podman's or docker's service listens")
    network: str = Field("bridge", description="Network of the containers; 'host' for that of the machine")
    options: dict[str, Any] = Field({}, description="Further settings of a container, as docker's HostConfig in Python")


class KubernetesTable(_Table):
    """Servers as pods; `sfxlab hub values` makes the values of the chart of zero-to-jupyterhub."""

    image: str = Field(description="Image of the servers, NAME:TAG")
    hub_image: str = Field(description="Image of the hub with sfxlab[hub], NAME:TAG")
    claim: str = Field(description="Persistent volume claim that holds the data of all proposals")
    root: Path = Field(Path("/data"), description="Where the top of that volume is, as proposals.toml writes paths")
    storage_class: str = Field("", description="Class of the volumes of home directories; the cluster's own without")
    secret: str = Field("sfxlab-hub", description="Kubernetes secret that holds the files with secrets, by their names")


class ServerTable(_Table):
    """What servers run in."""

    kind: Literal["local", "slurm", "container", "kubernetes"] = Field(
        "local", description="local: processes of the hub's machine; or jobs, containers, pods"
    )
    memory: str | None = Field(None, description="Most memory of a server, such as '8G', where the spawner can hold it")
    idle: float = Field(
        14400.0, ge=0, description="Seconds after which a server is stopped that nobody uses and no run needs; 0: never"
    )
    environment: Path | None = Field(
        None, description="Python environment in which servers of local and slurm run; the hub's own if not given"
    )
    slurm: SlurmTable = SlurmTable()
    container: ContainerTable | None = None
    kubernetes: KubernetesTable | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if getattr(self, self.kind, self) is None:
            raise ValueError(f"servers of kind {self.kind} need the table [servers.{self.kind}]")
        return self


class SessionsTable(_Table):
    """The service that keeps what groups look at together; it alone may reach the catalogue."""

    port: int = Field(
        8899, ge=1, le=65535, description="Where it listens, on 127.0.0.1; the hub's proxy goes before it"
    )
    catalogue: Path | None = Field(
        None, description="File that holds the address of a PostgreSQL, a secret; SQLite in the hub's state without"
    )


class HealthTable(_Table):
    """The service that says whether all is well, and counts for Prometheus."""

    port: int = Field(
        8898, ge=1, le=65535, description="Where it listens, on 127.0.0.1; the hub's proxy goes before it"
    )
    free: Size = Field(5 * 10**9, description="A disk with less left is not well, such as '5 GB'")
    slurm: bool = Field(False, description="Watch SLURM though servers do not run in it")
    token: Path | None = Field(None, description="File that holds the token with which Prometheus comes, a secret")


class PlacesTable(_Table):
    """The page of each proposal: members, what is used of the quota, invitations."""

    port: int = Field(
        8897, ge=1, le=65535, description="Where it listens, on 127.0.0.1; the hub's proxy goes before it"
    )
    measure_every: float = Field(
        3600.0, gt=0, description="Seconds from one measurement of what proposals have stored to the next"
    )


class DashboardsTable(_Table):
    """Pages of programs on a proposal's server, which the server hands on to people who have logged in at the hub."""

    dask: Literal["members", "analysts", "nobody"] = Field(
        "members", description="Who looks at Dask's dashboards: members, viewers among them; who runs code; nobody"
    )
    others: Literal["analysts", "nobody"] = Field(
        "analysts", description="Who gets to pages of other programs: who runs code; nobody"
    )
    runs: bool = Field(True, description="Whether the health page shows members the runs of their proposals")


class Site(_Table):
    """The file `site.toml`."""

    hub: HubTable
    authentication: AuthenticationTable = AuthenticationTable()
    servers: ServerTable = ServerTable()
    sessions: SessionsTable = SessionsTable()
    places: PlacesTable = PlacesTable()
    health: HealthTable = HealthTable()
    dashboards: DashboardsTable = DashboardsTable()
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
