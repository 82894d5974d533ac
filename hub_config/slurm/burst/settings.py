"""What an administrator says about the nodes that come and go: a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sfxlab.errors import SfxlabError
from sfxlab.typed_toml import read_typed


class BurstError(SfxlabError):
    """A node cannot be started or given back, or the settings cannot be used."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OpenStackSettings(_Table):
    """One server of a cloud for each node. Images, flavors and networks are given by name or identifier."""

    cloud: str
    """Its name in clouds.yaml, where the address and the credentials are."""
    image: str
    """Holds slurmd, munged and what jobs need."""
    flavor: str
    network: str
    """The one that reaches slurmctld and the file system of the site."""
    cloud_init: Path
    """User data of the servers; `$node` in it stands for the name of the node."""
    clouds_yaml: Path | None = None
    """Where clouds.yaml is, if not in one of the usual places."""
    key_name: str | None = None
    security_groups: tuple[str, ...] = ()
    availability_zone: str | None = None
    timeout: float = Field(default=300, gt=0)
    """Seconds until a server has to be active, or gone. Below SLURM's ResumeTimeout."""


class LocalSettings(_Table):
    """Nodes on this machine, each in a network namespace; for trying things out."""

    bridge: str
    """An interface that is there already."""
    addresses: dict[str, str]
    """Each node's address with the length of the prefix."""
    log_folder: Path


class BurstSettings(_Table):
    """The whole file: which driver, and the table of that driver."""

    driver: Literal["openstack", "local"]
    log: Path
    """Every start and end of a node, and every error, is a line of this file."""
    openstack: OpenStackSettings | None = None
    local: LocalSettings | None = None

    @model_validator(mode="after")
    def _has_the_table_of_its_driver(self) -> BurstSettings:
        if getattr(self, self.driver) is None:
            raise ValueError(f"the table [{self.driver}] is missing")
        return self

    @classmethod
    def read(cls, path: Path) -> BurstSettings:
        """The settings in a file. Raises `BurstError` that names the key."""
        return read_typed(path, cls, BurstError)
