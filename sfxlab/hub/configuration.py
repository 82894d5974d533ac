"""JupyterHub's configuration, made of `site.toml` and `proposals.toml`."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from pathlib import Path

from jupyterhub.auth import Authenticator
from traitlets.config import Config

from sfxlab.hub.authentication import PolicyFile, with_policy
from sfxlab.hub.policy import PolicyError, Proposals
from sfxlab.hub.programs import Acceptances
from sfxlab.hub.roles import CUSTOM_SCOPES, SERVER_ROLE, TOKEN_SCOPES, USER_ROLE
from sfxlab.hub.site import Site, secret
from sfxlab.hub.spawning import proposal_spawner


def configure(c: Config, site_path: str | Path, proposals_path: str | Path) -> None:
    """Fill in all of JupyterHub's configuration; raises `PolicyError` where one of the files is wrong."""
    site = Site.read(site_path)
    Proposals.read(proposals_path)
    _configure_hub(c, site)
    _configure_authentication(c, site, proposals_path)
    _configure_servers(c, site, proposals_path)
    c.JupyterHub.load_roles = [USER_ROLE, SERVER_ROLE]
    c.JupyterHub.services = []
    c.Spawner.environment = {}
    _configure_sessions(c, site)
    _configure_culling(c, site)
    c.JupyterHub.custom_scopes = CUSTOM_SCOPES


def _configure_hub(c: Config, site: Site) -> None:
    hub = site.hub
    c.JupyterHub.bind_url = hub.address
    c.JupyterHub.db_url = f"sqlite:///{hub.state / 'hub.sqlite'}"
    c.JupyterHub.cookie_secret_file = str(hub.state / "cookie_secret")
    c.ConfigurableHTTPProxy.command = list(hub.proxy)
    c.ConfigurableHTTPProxy.pid_file = str(hub.state / "proxy.pid")
    if hub.domain:
        c.JupyterHub.subdomain_host = hub.domain
    if hub.certificate and hub.key:
        secret(hub.key)
        c.JupyterHub.ssl_cert, c.JupyterHub.ssl_key = str(hub.certificate), str(hub.key)
        c.JupyterHub.cookie_host_prefix_enabled = True
        c.JupyterHub.tornado_settings = {"cookie_options": {"secure": True, "samesite": "Lax"}}
    c.JupyterHub.cleanup_servers = False
    c.JupyterHub.allow_named_servers = False


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
    c.Spawner.cmd = [sys.executable, "-m", "jupyterhub.singleuser"]
    c.Spawner.args = [
        "--ServerApp.authorizer_class=sfxlab.hub.authorization.ProposalAuthorizer",
        f"--HubOAuth.cache_max_age={site.refresh}",
        "--LabApp.extension_manager=readonly",
    ]
    c.Spawner.args.append("--ServerApp.jpserver_extensions=" + repr({"sfxlab.hub.keep_alive": True}))
    c.Spawner.disable_user_config = True
    c.Spawner.oauth_client_allowed_scopes = TOKEN_SCOPES
    c.Spawner.default_url = "/lab"
    if site.servers.memory:
        c.Spawner.mem_limit = site.servers.memory


def _configure_sessions(c: Config, site: Site) -> None:
    """The session service, behind the hub's proxy; servers find it by an environment variable."""
    told = site.hub.state / "sessions.toml"
    told.touch(mode=0o600)
    kept = site.sessions.catalogue
    catalogue = f"sqlite:///{site.hub.state / 'sessions.sqlite'}" if kept is None else secret(kept)
    c.JupyterHub.services.append(
        {
            "name": "sessions",
            "url": f"http://127.0.0.1:{site.sessions.port}",
            "command": [
                *(sys.executable, "-m", "sfxlab", "session", "serve"),
                *("--hub", str(told), "--port", str(site.sessions.port)),
            ],
            # An environment is for the process alone; the arguments of a command everybody can read.
            "environment": {"SFXLAB_CATALOGUE": catalogue},
        }
    )
    c.Spawner.environment["SFXLAB_CATALOGUE"] = f"{site.hub.address.rstrip('/')}/services/sessions"


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
