"""Servers as pods of Kubernetes, with their proposals' data mounted from one volume and no others'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kubernetes_asyncio.client.models import (
    V1PersistentVolumeClaimVolumeSource,
    V1Volume,
    V1VolumeMount,
)
from kubespawner import KubeSpawner
from traitlets.config import Config

from sfxlab.hub.policy import PolicyError
from sfxlab.hub.site import KubernetesTable, Site
from sfxlab.hub.spawning import PATH_IN_IMAGES, ProposalServer

_VOLUME = "sfxlab-data"


class KubernetesServer(ProposalServer, KubeSpawner):
    """One pod; what data it has is decided when it starts."""

    usual_path = PATH_IN_IMAGES

    async def get_pod_manifest(self) -> Any:
        table = self.site.servers.kubernetes
        assert table is not None
        pod, sight = await super().get_pod_manifest(), self.sight()
        claim = V1PersistentVolumeClaimVolumeSource(claim_name=table.claim)
        shown = [
            *((each.path, each.read_only) for each in sight.data),
            *((path, True) for path in sight.programs if path.is_relative_to(table.root)),
        ]
        if shown:
            pod.spec.volumes = [*(pod.spec.volumes or ()), V1Volume(name=_VOLUME, persistent_volume_claim=claim)]
        server = pod.spec.containers[0]
        server.volume_mounts = [*(server.volume_mounts or ()), *(_mount(path, ro, table) for path, ro in shown)]
        return pod


def _mount(path: Path, read_only: bool, table: KubernetesTable) -> V1VolumeMount:
    below = below_root(path, table)
    return V1VolumeMount(name=_VOLUME, mount_path=str(path), sub_path=str(below), read_only=read_only)


def below_root(path: Path, table: KubernetesTable) -> Path:
    """A path within the volume of all data; raises `PolicyError` for one outside."""
    if path == table.root or not path.is_relative_to(table.root):
        raise PolicyError(
            "this is not on the volume that servers get", place="servers.kubernetes.root", found=path,
            expected=f"a directory below {table.root}",
        )  # fmt: skip
    return path.relative_to(table.root)


def configure_kubernetes(c: Config, site: Site) -> None:
    """Put what site.toml says of pods into JupyterHub's configuration; the rest comes with the chart's values."""
    table = site.servers.kubernetes
    assert table is not None
    c.Spawner.cmd = ["jupyterhub-singleuser"]
    c.KubeSpawner.image = table.image
    # Not everything that calls itself a server of a proposal shall reach the cluster.
    c.KubeSpawner.automount_service_account_token = False
    c.KubeSpawner.allow_privilege_escalation = False
