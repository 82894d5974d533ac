from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from burst import openstack_servers
from burst.openstack_servers import OWNER, OpenStackServers
from burst.settings import BurstError, OpenStackSettings
from openstack_service import OpenStackService

# openstacksdk says such things of itself, however it is used.
pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenStackService]:
    monkeypatch.setattr(openstack_servers, "INTERVAL", 0.01)
    with OpenStackService() as service:
        yield service


@pytest.fixture
def log_in(cloud: OpenStackService, tmp_path: Path) -> Callable[..., OpenStackServers]:
    def servers(password: str = "correct", **changes: object) -> OpenStackServers:
        (tmp_path / "clouds.yaml").write_text(cloud.clouds_yaml(password))
        (tmp_path / "init.yaml").write_text("#cloud-config\nruncmd: [slurmd, -N, $node]\n")
        settings = OpenStackSettings(
            cloud="research", image="debian-worker", flavor="m1.large", network="site", key_name="admin",
            security_groups=("slurm",), cloud_init=tmp_path / "init.yaml", clouds_yaml=tmp_path / "clouds.yaml",
        )  # fmt: skip
        return OpenStackServers(settings.model_copy(update=changes), "hall3")

    return servers


def test_a_server_is_made_for_a_node_and_deleted(
    cloud: OpenStackService, log_in: Callable[..., OpenStackServers]
) -> None:
    servers = log_in()
    assert servers.start("cloud1") == "10.0.0.5"
    (server,) = cloud.servers.values()
    assert (server["name"], server["status"], server["metadata"]) == ("cloud1", "ACTIVE", {OWNER: "hall3"})
    assert base64.b64decode(server["user_data"]) == b"#cloud-config\nruncmd: [slurmd, -N, cloud1]\n"
    assert (server["key_name"], server["security_groups"]) == ("admin", [{"name": "slurm"}])
    servers.stop("cloud1")
    assert not cloud.servers
    servers.stop("cloud1")


def test_a_server_that_is_being_built_already_is_taken(
    cloud: OpenStackService, log_in: Callable[..., OpenStackServers]
) -> None:
    under_way = cloud.add_server("cloud1", {OWNER: "hall3"}, status="BUILD")
    assert log_in().start("cloud1") == "10.0.0.5"
    assert list(cloud.servers) == [under_way]


@pytest.mark.parametrize("status", ["ERROR", "ACTIVE"])
def test_a_server_of_before_is_replaced_by_one_that_boots_now(
    cloud: OpenStackService, log_in: Callable[..., OpenStackServers], status: str
) -> None:
    before = cloud.add_server("cloud1", {OWNER: "hall3"}, status=status)
    assert log_in().start("cloud1") == "10.0.0.5"
    assert before not in cloud.servers
    assert len(cloud.servers) == 1


def test_servers_of_others_are_never_touched(cloud: OpenStackService, log_in: Callable[..., OpenStackServers]) -> None:
    others = {
        cloud.add_server("cloud1", {}), cloud.add_server("cloud1", {OWNER: "hall4"}),
        cloud.add_server("cloud10", {OWNER: "hall3"}),
    }  # fmt: skip
    servers = log_in()
    assert servers.start("cloud1") == "10.0.0.5"
    servers.stop("cloud1")
    assert set(cloud.servers) == others


def test_an_exhausted_quota_is_reported_in_the_words_of_the_cloud(
    cloud: OpenStackService, log_in: Callable[..., OpenStackServers]
) -> None:
    cloud.quota = 1
    servers = log_in()
    servers.start("cloud1")
    with pytest.raises(BurstError, match="already used 1 of 1 instances"):
        servers.start("cloud2")
    assert [server["name"] for server in cloud.servers.values()] == ["cloud1"]


def test_a_server_that_cannot_be_built_is_reported_with_the_fault(
    cloud: OpenStackService, log_in: Callable[..., OpenStackServers]
) -> None:
    cloud.cannot_build.add("cloud1")
    with pytest.raises(BurstError, match="No valid host was found"):
        log_in().start("cloud1")


def test_a_server_that_takes_too_long_is_reported(
    cloud: OpenStackService, log_in: Callable[..., OpenStackServers], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openstack_service.LOOKS_UNTIL_DONE", 10**9)
    with pytest.raises(BurstError, match="no server"):
        log_in(timeout=0.1).start("cloud1")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"password": "wrong"}, "requires authentication"),
        ({"flavor": "m1.huge"}, "m1.huge"),
        ({"image": "windows"}, "windows"),
        ({"network": "mars"}, "mars"),
        ({"cloud": "reserach"}, "reserach"),
        ({"cloud_init": Path("/nowhere")}, "/nowhere"),
    ],
)
def test_a_cloud_that_cannot_be_used_as_set_up_is_reported_before_any_server_is_made(
    cloud: OpenStackService, log_in: Callable[..., OpenStackServers], changes: dict[str, str], complaint: str
) -> None:
    with pytest.raises(BurstError, match=complaint):
        log_in(**changes)
    assert not any(call.startswith("POST /compute") for call in cloud.calls)
