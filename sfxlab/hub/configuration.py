"""JupyterHub's configuration, made of `site.toml` and `proposals.toml`."""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jupyterhub.auth import Authenticator
from jupyterhub.utils import subdomain_hook_idna
from traitlets.config import Config

from sfxlab.hub.authentication import PolicyFile, with_policy
from sfxlab.hub.policy import PolicyError, Proposals
from sfxlab.hub.programs import Acceptances
from sfxlab.hub.roles import CUSTOM_SCOPES, PLACES_SCOPES, SERVER_ROLE, TOKEN_SCOPES, USER_ROLE
from sfxlab.hub.site import DASHBOARDS, HubTable, Site, secret
from sfxlab.hub.spawning import proposal_spawner

_STARTS_WITHIN = 150
"""Seconds after which a hub gives up that waits for one of its services: machines may be busy."""


def configure(c: Config, site_path: str | Path, proposals_path: str | Path) -> None:
    """Fill in all of JupyterHub's configuration; raises `PolicyError` where one of the files is wrong."""
    site = Site.read(site_path)
    Proposals.read(proposals_path)
    _configure_hub(c, site)
    _configure_authentication(c, site, proposals_path)
    _configure_servers(c, site, proposals_path)
    _configure_what_is_around(c, site, proposals_path)
    _configure_health(c, site, site_path, proposals_path)


def configure_on_kubernetes(c: Config, site_path: str | Path, proposals_path: str | Path) -> None:
    """The same in the pod of a hub that the chart of zero-to-jupyterhub made, which has configured the rest."""
    site = Site.read(site_path)
    site.hub.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    if site.hub.database:
        c.JupyterHub.db_url = _database(site.hub.database)
    _configure_cookies(c, site.hub)
    _configure_authentication(c, site, proposals_path)
    _configure_servers(c, site, proposals_path)
    _configure_what_is_around(c, site, proposals_path, reached_at="hub")
    _configure_health(c, site, site_path, proposals_path, reached_at="hub")


def _configure_what_is_around(c: Config, site: Site, proposals_path: str | Path, reached_at: str = "127.0.0.1") -> None:
    """Services, and the roles that they need; the proxy reaches them at this address."""
    c.JupyterHub.load_roles = [USER_ROLE, SERVER_ROLE]
    c.JupyterHub.services = []
    c.Spawner.environment = {DASHBOARDS: site.dashboards.model_dump_json()}
    _configure_sessions(c, site, reached_at)
    _configure_places(c, site, proposals_path, reached_at)
    _configure_culling(c, site)
    c.JupyterHub.custom_scopes = CUSTOM_SCOPES
    c.JupyterHub.template_paths = [str(Path(__file__).parent / "templates")]
    c.JupyterHub.template_vars = {"contact": site.hub.contact}


def _configure_hub(c: Config, site: Site) -> None:
    hub = site.hub
    c.JupyterHub.bind_url = hub.address
    c.JupyterHub.hub_bind_url = hub.inside
    c.JupyterHub.db_url = _database(hub.database) if hub.database else f"sqlite:///{hub.state / 'hub.sqlite'}"
    c.JupyterHub.cookie_secret_file = str(hub.state / "cookie_secret")
    c.ConfigurableHTTPProxy.command = list(hub.proxy)
    c.ConfigurableHTTPProxy.pid_file = str(hub.state / "proxy.pid")
    c.JupyterHub.pid_file = str(hub.state / "hub.pid")
    if hub.domain:
        c.JupyterHub.subdomain_host = hub.domain
    if hub.certificate and hub.key:
        secret(hub.key)
        c.JupyterHub.ssl_cert, c.JupyterHub.ssl_key = str(hub.certificate), str(hub.key)
    _configure_cookies(c, hub)
    c.JupyterHub.cleanup_servers = False
    c.JupyterHub.allow_named_servers = False


def _database(path: Path) -> str:
    """The address of a PostgreSQL as SQLAlchemy wants it."""
    kind, found, rest = secret(path).partition("://")
    if kind != "postgresql" or not found:
        raise PolicyError("not the address of a PostgreSQL", path=path, expected="postgresql://USER@HOST/DATABASE")
    return f"postgresql+psycopg://{rest}"


def _configure_cookies(c: Config, hub: HubTable) -> None:
    """As JupyterHub's page on security asks, which needs TLS for some."""
    cookies: dict[str, Any] = {"samesite": "Lax"}
    if hub.address.startswith("https:"):
        cookies["secure"] = True
    # Such cookies go to all of a host, so each server has to have a host of its own.
    c.JupyterHub.cookie_host_prefix_enabled = bool(hub.domain) and cookies.get("secure", False)
    c.JupyterHub.tornado_settings = {"cookie_options": cookies}


def _configure_authentication(c: Config, site: Site, proposals_path: str | Path) -> None:
    kind = _authenticator(site.authentication.kind)
    c.JupyterHub.authenticator_class = with_policy(kind)
    for name, value in site.authentication.options.items():
        c[kind.__name__][name] = value
    for name, path in site.authentication.secrets.items():
        c[kind.__name__][name] = secret(path)
    c.ProposalAuthenticator.policy_path = str(Path(proposals_path).resolve())
    c.Authenticator.admin_users = set(site.hub.admins)
    # A changed policy holds as soon as this for everybody, with a token too.
    c.Authenticator.auth_refresh_age = site.refresh
    c.Authenticator.auth_refresh_strict = True
    c.Authenticator.refresh_pre_spawn = True


def _authenticator(kind: str) -> type[Authenticator]:
    found = {entry.name: entry for entry in entry_points(group="jupyterhub.authenticators")}
    if kind not in found:
        raise PolicyError("unknown authenticator", place="authentication.kind", found=kind, expected=", ".join(found))
    loaded: type[Authenticator] = found[kind].load()
    return loaded


def _configure_servers(c: Config, site: Site, proposals_path: str | Path) -> None:
    acceptances = Acceptances(site.hub.state / "accepted.sqlite")
    c.JupyterHub.spawner_class = proposal_spawner(site, PolicyFile(proposals_path), acceptances)
    _configure_kind_of_servers(c, site)
    c.Spawner.args = [
        "--ServerApp.authorizer_class=sfxlab.hub.authorization.ProposalAuthorizer",
        "--ServerApp.kernel_websocket_connection_class=sfxlab.hub.onlookers.KernelConnection",
        f"--HubOAuth.cache_max_age={site.refresh}",
        "--LabApp.extension_manager=readonly",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        # Other accounts of the machine reach kernels' ports, too.
        "--KernelManager.transport_encryption=auto",
    ]
    extensions = {"sfxlab.hub.keep_alive": True, "sfxlab.hub.routes": True}
    c.Spawner.args.append(f"--ServerApp.jpserver_extensions={extensions!r}")
    c.Spawner.disable_user_config = True
    c.Spawner.oauth_client_allowed_scopes = TOKEN_SCOPES
    c.Spawner.default_url = "/lab"
    if site.servers.memory:
        c.Spawner.mem_limit = site.servers.memory


def _configure_kind_of_servers(c: Config, site: Site) -> None:
    match site.servers.kind:
        case "local":
            folder = site.servers.environment
            python = str(folder / "bin" / "python") if folder else sys.executable
            c.Spawner.cmd = [python, "-m", "jupyterhub.singleuser"]
        case "slurm":
            from sfxlab.hub.slurm_servers import configure_slurm

            configure_slurm(c, site)
        case "container":
            from sfxlab.hub.container_servers import configure_containers

            configure_containers(c, site)
        case "kubernetes":
            from sfxlab.hub.kubernetes_servers import configure_kubernetes

            configure_kubernetes(c, site)


def _configure_sessions(c: Config, site: Site, reached_at: str) -> None:
    """The session service, behind the hub's proxy; servers find it by an environment variable."""
    told = site.hub.state / "sessions.toml"
    told.touch(mode=0o600)
    kept = site.sessions.catalogue
    catalogue = f"sqlite:///{site.hub.state / 'sessions.sqlite'}" if kept is None else secret(kept)
    c.JupyterHub.services.append(
        {
            "name": "sessions",
            "url": f"http://{reached_at}:{site.sessions.port}",
            "timeout": _STARTS_WITHIN,
            "command": [
                *(sys.executable, "-m", "sfxlab", "session", "serve"),
                *("--hub", str(told), "--port", str(site.sessions.port), "--address", _listens_at(reached_at)),
            ],
            # An environment is for the process alone; the arguments of a command everybody can read.
            "environment": {"SFXLAB_CATALOGUE": catalogue},
        }
    )
    c.Spawner.environment["SFXLAB_CATALOGUE"] = f"{_sessions_for_servers(site, reached_at)}/services/sessions"


def _sessions_for_servers(site: Site, reached_at: str) -> str:
    """Where servers find the session service: pods and processes of this machine itself, others behind the proxy."""
    if site.servers.kind in ("local", "kubernetes"):
        return f"http://{reached_at}:{site.sessions.port}"
    if not site.hub.domain:
        return site.hub.public
    domain = urlsplit(site.hub.domain)
    host = subdomain_hook_idna("sessions", domain.hostname, kind="service")
    return f"{domain.scheme}://{host}{f':{domain.port}' if domain.port else ''}"


def _configure_health(
    c: Config, site: Site, site_path: str | Path, proposals_path: str | Path, reached_at: str = "127.0.0.1"
) -> None:
    """The service that says whether all is well (`sfxlab.hub.health_service`), and who collects its metrics."""
    files = [str(Path(path).resolve()) for path in (site_path, proposals_path)]
    c.JupyterHub.services.append(
        {
            "name": "health",
            "url": f"http://{reached_at}:{site.health.port}",
            "timeout": _STARTS_WITHIN,
            "command": [sys.executable, "-m", "sfxlab.hub.health_service", *files],
            "environment": {
                "SFXLAB_LISTENS": f"{_listens_at(reached_at)}:{site.health.port}",
                **{name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ},
            },
            "oauth_no_confirm": True,
        }
    )
    c.JupyterHub.load_roles.append({"name": "health", "scopes": ["list:users", "read:servers"], "services": ["health"]})
    if site.health.token:
        c.JupyterHub.services.append({"name": "prometheus", "api_token": secret(site.health.token)})
        scopes = ["read:metrics", "access:services!service=health"]
        c.JupyterHub.load_roles.append({"name": "metrics", "scopes": scopes, "services": ["prometheus"]})


def _configure_places(c: Config, site: Site, proposals_path: str | Path, reached_at: str) -> None:
    """The page of each proposal, which acts with the rights of whoever looks at it and has none of its own."""
    c.JupyterHub.services.append(
        {
            "name": "proposals",
            "url": f"http://{reached_at}:{site.places.port}",
            "timeout": _STARTS_WITHIN,
            "command": [sys.executable, "-m", "sfxlab.hub.places", str(Path(proposals_path).resolve())],
            "environment": {
                "SFXLAB_HUB_ADDRESS": site.hub.public,
                "SFXLAB_HUB_STATE": str(site.hub.state),
                "SFXLAB_LISTENS": f"{_listens_at(reached_at)}:{site.places.port}",
                "SFXLAB_MEASURE_EVERY": str(site.places.measure_every),
            },
            "oauth_no_confirm": True,
            "oauth_client_allowed_scopes": PLACES_SCOPES,
        }
    )


def _listens_at(reached_at: str) -> str:
    return "127.0.0.1" if reached_at == "127.0.0.1" else "0.0.0.0"


def _configure_culling(c: Config, site: Site) -> None:
    """Servers that nobody uses are stopped; what a server says of its use includes runs (`sfxlab.hub.keep_alive`)."""
    idle = site.servers.idle
    if not idle:
        return
    c.JupyterHub.load_roles.append(
        {
            "name": "culling",
            "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"],
            "services": ["culling"],
        }
    )
    every = max(int(idle / 4), 1)
    c.JupyterHub.services.append(
        {
            "name": "culling",
            "command": [
                sys.executable,
                "-m",
                "jupyterhub_idle_culler",
                f"--timeout={int(idle)}",
                f"--cull-every={every}",
            ],
        }
    )
    c.Spawner.environment["JUPYTERHUB_ACTIVITY_INTERVAL"] = str(min(every, 300))
