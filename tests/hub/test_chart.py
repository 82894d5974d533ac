"""A hub on Kubernetes: the values of its chart, the pods that it would start, and what it refuses."""

from __future__ import annotations

import asyncio
import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from kubernetes_asyncio.config import kube_config
from traitlets.config import Config

from sfxlab.cli import main
from sfxlab.hub.authentication import PolicyFile
from sfxlab.hub.configuration import configure_on_kubernetes
from sfxlab.hub.kubernetes_servers import KubernetesServer
from sfxlab.hub.policy import PolicyError
from sfxlab.hub.programs import Acceptances
from sfxlab.hub.sight import sight_of
from sfxlab.hub.site import Site

SITE = """
[hub]
address = "https://hub.site.org"
state = "/srv/jupyterhub/sfxlab"
database = "/run/sfxlab/database"
[authentication]
kind = "shared-password"
secrets = { user_password = "/run/sfxlab/password" }
[servers]
kind = "kubernetes"
memory = "8G"
[servers.kubernetes]
image = "registry.site.org:5000/sfxlab-notebook:1.0"
hub_image = "registry.site.org:5000/sfxlab-hub:1.0"
claim = "all-data"
"""

PROPOSALS = """
[proposals.one]
title = "One"
members = { anna = "lead", carol = "viewer" }
data = ["/data/one"]
[proposals.two]
title = "Two"
members = { dan = "lead", carol = "analyst" }
data = ["/data/two/raw", "/data/two/scratch"]
"""


# A cluster that nobody asks anything.
CLUSTER = """
current-context: none
clusters: [{name: none, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: none, user: {token: none}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "site.toml").write_text(SITE)
    (tmp_path / "proposals.toml").write_text(PROPOSALS)
    return tmp_path


def _printed(folder: Path, *options: str) -> str:
    result = CliRunner().invoke(main, ["hub", "values", "--config", str(folder), *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_values_name_images_data_and_existing_secrets(folder: Path) -> None:
    values = yaml.safe_load(_printed(folder))
    hub = values["hub"]
    assert hub["image"] == {"name": "registry.site.org:5000/sfxlab-hub", "tag": "1.0"}
    assert values["singleuser"]["image"] == {"name": "registry.site.org:5000/sfxlab-notebook", "tag": "1.0"}
    assert values["singleuser"]["memory"]["limit"] == "8G"
    assert values["cull"] == {"enabled": False}
    assert values["proxy"]["https"]["secret"] == {"name": "sfxlab-hub-tls"}
    assert hub["extraFiles"]["site"]["stringData"] == SITE
    (secret,) = [each["secret"] for each in hub["extraVolumes"] if "secret" in each]
    assert secret["secretName"] == "sfxlab-hub"
    assert [each["port"] for each in hub["service"]["extraPorts"]] == [8899, 8897, 8898]
    compile(hub["extraConfig"]["sfxlab"], "extraConfig", "exec")


# What is used here of the chart's values.schema.yaml (zero-to-jupyterhub-k8s with JupyterHub 5.4): names and types.
# The chart refuses other names wherever these are given.
IMAGE = {"name": str, "tag": str}
CHART: dict[str, Any] = {
    "hub": {
        "image": IMAGE, "db": {"type": ("sqlite-pvc", "sqlite-memory", "mysql", "postgres", "other")},
        "extraFiles": {"*": {"mountPath": str, "stringData": str}}, "extraConfig": {"*": str}, "extraVolumes": list,
        "extraVolumeMounts": list, "initContainers": list, "service": {"extraPorts": list},
        "networkPolicy": {"ingress": list, "egress": list},
    },
    "proxy": {
        "https": {
            "enabled": bool, "type": ("letsencrypt", "manual", "offload", "secret"), "hosts": list,
            "secret": {"name": str, "key": str, "crt": str},
        },
    },
    "singleuser": {
        "image": IMAGE, "uid": int, "storage": {"homeMountPath": str, "dynamic": {"storageClass": str}},
        "memory": {"limit": (str, None), "guarantee": (str, None)}, "networkPolicy": {"ingress": list, "egress": list},
    },
    "cull": {"enabled": bool},
}  # fmt: skip


@pytest.mark.parametrize(
    "change", [("", ""), ("https:", "http:"), ('claim = "all-data"', 'claim = "c"\nstorage_class = "x"')]
)
def test_values_are_such_as_the_chart_takes(folder: Path, change: tuple[str, str]) -> None:
    (folder / "site.toml").write_text(SITE.replace(*change))
    _check(yaml.safe_load(_printed(folder)), CHART, "values")


def _check(value: Any, known: Any, place: str) -> None:
    if isinstance(known, dict):
        assert isinstance(value, dict), place
        for name, each in value.items():
            assert name in known or "*" in known, f"{place}.{name}"
            _check(each, known.get(name, known.get("*")), f"{place}.{name}")
    elif isinstance(known, tuple):
        assert value in known or type(value) in known, f"{place}: {value}"
    else:
        assert type(value) is known, f"{place}: {value}"


def test_the_policy_is_a_config_map_whose_changes_need_no_restart(folder: Path) -> None:
    manifest = yaml.safe_load(_printed(folder, "--policy"))
    assert manifest["data"]["proposals.toml"] == PROPOSALS
    hub = yaml.safe_load(_printed(folder))["hub"]
    (volume,) = [each for each in hub["extraVolumes"] if "configMap" in each]
    assert volume["configMap"]["name"] == manifest["metadata"]["name"]
    (mount,) = [each for each in hub["extraVolumeMounts"] if each["name"] == volume["name"]]
    # Kubernetes does not renew what is mounted file by file.
    assert "subPath" not in mount
    assert f"{mount['mountPath']}/proposals.toml" in hub["extraConfig"]["sfxlab"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("/srv/jupyterhub/sfxlab", "/var/lib/hub"), "would be lost with its pod"),
        (('"/run/sfxlab/database"', '"/etc/database"'), "one folder of the pod"),
        (('kind = "kubernetes"', 'kind = "local"'), "values are for a hub on Kubernetes"),
        (('claim = "all-data"', 'claim = "all-data"\nroot = "/mnt"'), "not on the volume"),
        ((SITE[SITE.index("[servers.kubernetes]") :], ""), "need the table"),
    ],
)
def test_what_does_not_fit_kubernetes_is_refused(folder: Path, change: tuple[str, str], says: str) -> None:
    (folder / "site.toml").write_text(SITE.replace(*change))
    result = CliRunner().invoke(main, ["hub", "values", "--config", str(folder)])
    assert result.exit_code == 1
    assert says in result.output


def test_pods_get_their_own_proposals_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest that KubeSpawner would send to the cluster."""
    (folder / "kubeconfig").write_text(CLUSTER)
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(folder / "kubeconfig"))
    site, policy = Site.read(folder / "site.toml"), PolicyFile(folder / "proposals.toml")
    acceptances = Acceptances(folder / "accepted.sqlite")

    def mounts(owner: str) -> dict[str, tuple[str, bool]]:
        sight = sight_of(owner, policy.proposals(), {}, acceptances, datetime.date(2026, 11, 1))
        monkeypatch.setattr(KubernetesServer, "sight", lambda self: sight)
        pod = asyncio.run(_pod(site, owner))
        claims = {each.name: each.persistent_volume_claim.claim_name for each in pod.spec.volumes}
        assert set(claims.values()) <= {"all-data"}
        return {each.mount_path: (each.sub_path, each.read_only) for each in pod.spec.containers[0].volume_mounts}

    assert mounts("proposal-one") == {"/data/one": ("one", False)}
    assert mounts("carol") == {
        "/data/one": ("one", True),
        "/data/two/raw": ("two/raw", False),
        "/data/two/scratch": ("two/scratch", False),
    }
    acceptances.close()


async def _pod(site: Site, owner: str) -> Any:
    user = SimpleNamespace(
        name=owner, id=1, url=f"/user/{owner}/", escaped_name=owner, settings={}, groups=[], domain="",
    )  # fmt: skip
    kind = type("Server", (KubernetesServer,), {"site": site})
    hub = SimpleNamespace(public_host="", api_url="http://hub:8081/hub/api", base_url="/hub/")
    server = kind(_mock=True, user=user, hub=hub, config=Config())
    server.get_env = dict  # the address of the hub, and a token
    return await server.get_pod_manifest()


def test_the_hubs_pod_configures_itself_from_the_same_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("database", "postgresql://hub@db/hub"), ("password", "correct horse")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    site = SITE.replace("/run/sfxlab", str(folder)).replace("/srv/jupyterhub/sfxlab", str(folder / "state"))
    (folder / "site.toml").write_text(site)
    c = Config()
    configure_on_kubernetes(c, folder / "site.toml", folder / "proposals.toml")
    assert c.Spawner.environment["SFXLAB_CATALOGUE"] == "http://hub:8899/services/sessions"
    assert c.JupyterHub.db_url == "postgresql+psycopg://hub@db/hub"
    assert issubclass(c.JupyterHub.spawner_class, KubernetesServer)
    assert {each["url"] for each in c.JupyterHub.services if "url" in each} == {
        "http://hub:8899", "http://hub:8897", "http://hub:8898",
    }  # fmt: skip
    c.JupyterHub.spawner_class.acceptances.close()
    (folder / "database").write_text("mysql://hub@db/hub")
    with pytest.raises(PolicyError, match="not the address of a PostgreSQL"):
        configure_on_kubernetes(Config(), folder / "site.toml", folder / "proposals.toml")
