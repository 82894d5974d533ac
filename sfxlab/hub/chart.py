"""A hub on Kubernetes: values for the chart of zero-to-jupyterhub, made of site.toml and proposals.toml.

The values hold no secrets: they name a Kubernetes secret that holds the files which site.toml names, by their names.
The policy comes as a ConfigMap of its own, which the hub's pod sees change without a restart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from sfxlab.hub.kubernetes_servers import below_root
from sfxlab.hub.policy import PolicyError, Proposals
from sfxlab.hub.site import KubernetesTable, Site

FOLDER = Path("/etc/sfxlab")
"""Where site.toml lies in the hub's pod; proposals.toml is in a folder below, which Kubernetes keeps up to date."""
_POLICY = "sfxlab-proposals"
_STATE = Path("/srv/jupyterhub")
"""Where the chart keeps what a hub has to keep."""
_USER = 1000

_EXTRA_CONFIG = f"""\
from sfxlab.hub.configuration import configure_on_kubernetes
configure_on_kubernetes(c, "{FOLDER}/site.toml", "{FOLDER}/policy/proposals.toml")
"""


def chart_values(site_file: Path, proposals_file: Path) -> str:
    """Values of the chart, YAML. Raises `PolicyError` where the files do not fit Kubernetes."""
    site, proposals = Site.read(site_file), Proposals.read(proposals_file)
    table = _table_of(site)
    for each in proposals.proposals.values():
        for path in each.data:
            below_root(path, table)
    if not site.hub.state.is_relative_to(_STATE):
        raise PolicyError(
            "the hub's state would be lost with its pod", path=site_file, place="hub.state", found=site.hub.state,
            expected=f"{_STATE}/…, the chart's volume",
        )  # fmt: skip
    values = {
        "hub": _hub(site, table, site_file.read_text(encoding="utf-8")),
        "proxy": _proxy(site, table),
        "singleuser": _servers(site, table),
        # sfxlab's own culling, which knows runs, is a service of the hub.
        "cull": {"enabled": False},
    }
    return str(yaml.safe_dump(values, sort_keys=False, width=120))


def policy_manifest(proposals_file: Path) -> str:
    """The ConfigMap with the policy, YAML, for `kubectl apply`."""
    Proposals.read(proposals_file)
    manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": _POLICY},
        "data": {"proposals.toml": proposals_file.read_text(encoding="utf-8")},
    }
    return str(yaml.safe_dump(manifest, sort_keys=False, width=120))


def secret_files(site: Site) -> list[Path]:
    """The files with secrets that a hub on Kubernetes reads; TLS is the proxy's."""
    files = [*site.authentication.secrets.values(), site.hub.database, site.sessions.catalogue, site.health.token]
    return [path for path in files if path is not None]


def _table_of(site: Site) -> KubernetesTable:
    if site.servers.kind != "kubernetes" or site.servers.kubernetes is None:
        raise PolicyError(
            "values are for a hub on Kubernetes", place="servers.kind", found=site.servers.kind, expected="kubernetes"
        )
    return site.servers.kubernetes


def _hub(site: Site, table: KubernetesTable, site_text: str) -> dict[str, Any]:
    name, _, tag = table.hub_image.rpartition(":")
    ports = {"sessions": site.sessions.port, "proposals": site.places.port, "health": site.health.port}
    values: dict[str, Any] = {
        "image": {"name": name, "tag": tag},
        "db": {"type": "sqlite-pvc"},
        "extraFiles": {"site": {"mountPath": str(FOLDER / "site.toml"), "stringData": site_text}},
        "extraVolumes": [{"name": "policy", "configMap": {"name": _POLICY}}],
        "extraVolumeMounts": [{"name": "policy", "mountPath": str(FOLDER / "policy"), "readOnly": True}],
        "extraConfig": {"sfxlab": _EXTRA_CONFIG},
        # Services of the hub, which the proxy reaches in the hub's pod, and servers the one that keeps sessions.
        "service": {"extraPorts": [{"name": name, "port": port, "targetPort": port} for name, port in ports.items()]},
        "networkPolicy": {
            "ingress": [
                {
                    "from": [_pods("proxy")],
                    "ports": [{"port": port, "protocol": "TCP"} for port in ports.values()],
                },
                {"from": [_pods("singleuser-server")], "ports": [{"port": site.sessions.port, "protocol": "TCP"}]},
            ]
        },
    }
    if any(secret_files(site)):
        _add_secrets(values, site, table)
    return values


def _pods(component: str) -> dict[str, Any]:
    """Those of the chart's pods, in a network policy."""
    return {"podSelector": {"matchLabels": {"component": component}}}


def _add_secrets(values: dict[str, Any], site: Site, table: KubernetesTable) -> None:
    """Secrets of Kubernetes are open to the pod's group; the hub's own copy, in memory, is open to the hub only."""
    folders = {path.parent for path in secret_files(site)}
    if len(folders) > 1:
        raise PolicyError(
            "secrets have to lie in one folder of the pod", found=", ".join(map(str, sorted(folders))), expected="one"
        )
    (folder,) = folders
    given = "/run/sfxlab-given"
    values["extraVolumes"] += [
        {"name": "given", "secret": {"secretName": table.secret, "defaultMode": 0o440}},
        {"name": "secrets", "emptyDir": {"medium": "Memory"}},
    ]
    values["extraVolumeMounts"].append({"name": "secrets", "mountPath": str(folder), "readOnly": True})
    names = " ".join(path.name for path in secret_files(site))
    values["initContainers"] = [
        {
            "name": "secrets",
            "image": table.hub_image,
            "command": ["sh", "-ec", f"umask 077; for name in {names}; do cp {given}/$name {folder}/$name; done"],
            "securityContext": {"runAsUser": _USER, "allowPrivilegeEscalation": False},
            "volumeMounts": [
                {"name": "given", "mountPath": given, "readOnly": True},
                {"name": "secrets", "mountPath": str(folder)},
            ],
        }
    ]


def _proxy(site: Site, table: KubernetesTable) -> dict[str, Any]:
    address = urlsplit(site.hub.address)
    if address.scheme != "https":
        return {"https": {"enabled": False}}
    return {
        "https": {
            "enabled": True,
            "type": "secret",
            "hosts": [address.hostname],
            "secret": {"name": f"{table.secret}-tls"},
        }
    }


def _servers(site: Site, table: KubernetesTable) -> dict[str, Any]:
    name, _, tag = table.image.rpartition(":")
    storage: dict[str, Any] = {"homeMountPath": "/home/sfx"}
    if table.storage_class:
        storage["dynamic"] = {"storageClass": table.storage_class}
    egress = [{"to": [_pods("hub")], "ports": [{"port": site.sessions.port, "protocol": "TCP"}]}]
    values: dict[str, Any] = {
        "image": {"name": name, "tag": tag}, "uid": _USER, "storage": storage, "networkPolicy": {"egress": egress},
    }  # fmt: skip
    if site.servers.memory:
        values["memory"] = {"limit": site.servers.memory, "guarantee": None}
    return values
