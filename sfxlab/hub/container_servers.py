"""Servers in containers of podman or docker on the hub's machine, with their proposals' data and no others'."""

from __future__ import annotations

import grp
import pwd
import socket
from typing import Any

from dockerspawner import DockerSpawner
from traitlets.config import Config

from sfxlab.hub.site import Site
from sfxlab.hub.spawning import PATH_IN_IMAGES, ProposalServer

_PREFIX = "sfxlab"


class ContainerServer(ProposalServer, DockerSpawner):
    """One container, which runs under the number of its owner's account and has that account's home directory.

    Numbers of groups hold for its files as outside; data of other proposals are not there at all.
    """

    usual_path = PATH_IN_IMAGES

    async def start(self) -> tuple[str, int]:
        sight, account = self.sight(), pwd.getpwnam(self.user.name)
        open_ones = [account.pw_dir, *(str(each.path) for each in sight.data if not each.read_only)]
        closed = [*(str(each.path) for each in sight.data if each.read_only), *map(str, sight.programs)]
        self.volumes = {path: path for path in open_ones}
        self.read_only_volumes = {path: path for path in closed}
        groups = [str(grp.getgrnam(name).gr_gid) for name in sight.groups]
        self.extra_create_kwargs = {"user": f"{account.pw_uid}:{account.pw_gid}", "working_dir": account.pw_dir}
        self.extra_host_config = {"group_add": groups, "cap_drop": ["ALL"], **self._options()}
        if self.network_name == "host":
            self.port = _free_port()
        self.notebook_dir = account.pw_dir
        ip, port = await super().start()
        return ip, port

    def _options(self) -> dict[str, Any]:
        table = self.site.servers.container
        return {"security_opt": ["no-new-privileges"], **(table.options if table else {})}

    def get_env(self) -> dict[str, str]:
        account = pwd.getpwnam(self.user.name)
        names = {"HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name}
        return {**super().get_env(), **names}

    async def get_ip_and_port(self) -> tuple[str, int]:
        if self.network_name == "host":
            return "127.0.0.1", int(self.port)
        ip, port = await super().get_ip_and_port()
        return str(ip), int(port)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def configure_containers(c: Config, site: Site) -> None:
    """Put what site.toml says of containers into JupyterHub's configuration."""
    table = site.servers.container
    assert table is not None
    c.Spawner.cmd = ["jupyterhub-singleuser"]
    c.DockerSpawner.image = table.image
    c.DockerSpawner.client_kwargs = {"base_url": table.socket}
    c.DockerSpawner.network_name = table.network
    # Ports of the machine's own network cannot be mapped.
    c.DockerSpawner.use_internal_ip = table.network != "bridge"
    c.DockerSpawner.prefix = _PREFIX
    c.DockerSpawner.remove = True
