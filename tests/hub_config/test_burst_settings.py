from __future__ import annotations

from pathlib import Path

import pytest
from burst.settings import BurstError, BurstSettings

_OPENSTACK = """
driver = "openstack"
log = "/var/log/slurm/burst.log"

[openstack]
cloud = "research"
image = "debian-12-worker"
flavor = "m1.large"
network = "compute"
cloud_init = "/etc/slurm/burst-cloud-init.yaml"
"""


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    return tmp_path / "burst.toml"


def test_settings_of_a_cloud_are_read(settings_file: Path) -> None:
    settings_file.write_text(_OPENSTACK + 'security_groups = ["slurm"]\n')
    settings = BurstSettings.read(settings_file)
    assert settings.openstack is not None
    assert settings.openstack.security_groups == ("slurm",)
    assert settings.openstack.timeout == 300


def test_the_example_is_read_as_it_is() -> None:
    example = Path(__file__).parents[2] / "hub_config" / "slurm" / "burst.example.toml"
    settings = BurstSettings.read(example)
    assert settings.driver == "openstack"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (_OPENSTACK.replace("flavor", "flavour"), "did you mean 'flavor'"),
        (_OPENSTACK.replace('flavor = "m1.large"\n', ""), "openstack.flavor"),
        (_OPENSTACK.replace('"openstack"', '"local"'), "table [local] is missing"),
        (_OPENSTACK.replace('"openstack"', '"opensatck"'), "driver"),
        (_OPENSTACK + "timeout = 0\n", "openstack.timeout"),
        ("driver = ", "TOML"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_with_the_key(settings_file: Path, text: str, complaint: str) -> None:
    settings_file.write_text(text)
    with pytest.raises(BurstError) as caught:
        BurstSettings.read(settings_file)
    assert complaint in str(caught.value)
    assert str(settings_file) in str(caught.value)
