"""Nodes that are servers of an OpenStack cloud."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from string import Template
from typing import Any

import openstack
from openstack.config import OpenStackConfig
from openstack.exceptions import ResourceFailure, ResourceTimeout, SDKException

from .settings import BurstError, OpenStackSettings

OWNER = "sfxlab_burst"
"""Key of the servers' metadata; its value is the name of the SLURM cluster. Servers without it are never touched."""

INTERVAL = 2.0
"""Seconds between two looks at a server."""


class OpenStackServers:
    """One server for each node, named like it. Raises `BurstError` where the cloud cannot be used as set up."""

    def __init__(self, settings: OpenStackSettings, cluster: str) -> None:
        self.settings, self.cluster = settings, cluster
        with _told_in_our_words("the cloud cannot be used"):
            files = [str(settings.clouds_yaml)] if settings.clouds_yaml else None
            region = OpenStackConfig(config_files=files, load_envvars=False).get_one(cloud=settings.cloud)
            self._cloud = openstack.connection.Connection(config=region)
            self._cloud.authorize()
            self._image = self._cloud.image.find_image(settings.image, ignore_missing=False).id
            self._flavor = self._cloud.compute.find_flavor(settings.flavor, ignore_missing=False).id
            self._network = self._cloud.network.find_network(settings.network, ignore_missing=False)
        try:
            self._user_data = Template(settings.cloud_init.read_text())
            self._user_data.substitute(node="")
        except (OSError, ValueError, KeyError) as error:
            raise BurstError("the user data cannot be used", path=settings.cloud_init, found=error) from error

    def start(self, node: str) -> str:
        """Create the server and wait until it is active; one that is active already is replaced, because SLURM waits
        for a node that boots now. Its address in the network."""
        with _told_in_our_words("no server"):
            servers = self._servers(node)
            usable = [server for server in servers if _will_boot(server)]
            for server in servers:
                if server not in usable[:1]:
                    self._delete(server)
            return self._address(self._active(usable[0] if usable else self._create(node)))

    def stop(self, node: str) -> None:
        """Delete the server and wait until it is gone."""
        with _told_in_our_words("the server may still be there"):
            for server in self._servers(node):
                self._delete(server)

    def _servers(self, node: str) -> list[Any]:
        named_so = self._cloud.compute.servers(name=f"^{re.escape(node)}$")
        return [server for server in named_so if (server.metadata or {}).get(OWNER) == self.cluster]

    def _create(self, node: str) -> Any:
        settings = self.settings
        optional = {
            "key_name": settings.key_name,
            "availability_zone": settings.availability_zone,
            "security_groups": [{"name": name} for name in settings.security_groups],
        }
        return self._cloud.compute.create_server(
            name=node, image_id=self._image, flavor_id=self._flavor, networks=[{"uuid": self._network.id}],
            user_data=base64.b64encode(self._user_data.substitute(node=node).encode()).decode(),
            metadata={OWNER: self.cluster}, **{key: value for key, value in optional.items() if value},
        )  # fmt: skip

    def _active(self, server: Any) -> Any:
        try:
            return self._cloud.compute.wait_for_server(server, interval=INTERVAL, wait=self.settings.timeout)
        except ResourceFailure as error:
            fault = self._cloud.compute.get_server(server).fault or {}
            raise BurstError("the cloud could not build the server", found=fault.get("message", error)) from error

    def _address(self, server: Any) -> str:
        for address in (server.addresses or {}).get(self._network.name, []):
            if address.get("OS-EXT-IPS:type", "fixed") == "fixed":
                return str(address["addr"])
        raise BurstError(
            "the server has no address in the network", found=server.addresses, expected=self._network.name
        )

    def _delete(self, server: Any) -> None:
        self._cloud.compute.delete_server(server, ignore_missing=True)
        self._cloud.compute.wait_for_delete(server, interval=INTERVAL, wait=self.settings.timeout)


def _will_boot(server: Any) -> bool:
    return bool(server.status == "BUILD") and server.task_state != "deleting"


@contextmanager
def _told_in_our_words(problem: str) -> Iterator[None]:
    try:
        yield
    except ResourceTimeout as error:
        raise BurstError(problem, found=error, remedy="raise `timeout`, or look at the cloud") from error
    except SDKException as error:
        raise BurstError(problem, found=error) from error
    except OSError as error:  # requests' errors are of this kind
        raise BurstError(problem, found=error) from error
