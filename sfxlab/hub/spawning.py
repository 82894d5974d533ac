"""Servers that see the data of their own proposals and nothing of others', whatever they run in."""

from __future__ import annotations

import datetime
import os
from typing import TYPE_CHECKING, Any

from tornado.web import HTTPError

from sfxlab.hub.authentication import PolicyFile
from sfxlab.hub.policy import PolicyError, account_of
from sfxlab.hub.programs import Acceptances, Program, terms_form
from sfxlab.hub.quota import Usage, read_usage, told
from sfxlab.hub.sight import Sight, sight_of
from sfxlab.hub.site import Site

if TYPE_CHECKING:
    from jupyterhub.spawner import Spawner as _Spawner
else:
    _Spawner = object  # JupyterHub wants all of a spawner in each of its subclasses

PATH_IN_IMAGES = "/opt/sfxlab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Of sfxlab's images; what is to come before it has to name it."""


class QuotaError(HTTPError):
    """The proposal's quota is used up."""

    def __init__(self, message: str) -> None:
        super().__init__(403, message)
        self.jupyterhub_message = message
        """What the hub's page of the failed start shows."""


class ProposalServer(_Spawner):
    """What all kinds of servers share: the policy, the terms of programs, and quotas. Comes before a spawner."""

    site: Site
    policy: PolicyFile
    acceptances: Acceptances
    usual_path = os.defpath

    def sight(self) -> Sight:
        """What this server may see if it starts now."""
        proposals, day = self.policy.proposals(), datetime.date.today()
        full = [name for name, used in self._usage().items() if used.is_full]
        return sight_of(self.user.name, proposals, self.site.programs, self.acceptances, day, full)

    def proposal(self) -> str | None:
        """The proposal that shares this server; None for a person's own."""
        return next((name for name in self.policy.proposals().proposals if account_of(name) == self.user.name), None)

    def _usage(self) -> dict[str, Usage]:
        return read_usage(self.site.hub.state, self.policy.proposals())

    def _is_person(self) -> bool:
        return self.user.name in self.policy.proposals().people()

    def _not_accepted(self) -> dict[str, Program]:
        accepted = self.acceptances.of(self.user.name, self.site.programs)
        return {name: each for name, each in self.site.programs.items() if name not in accepted}

    async def get_options_form(self) -> str:
        """The terms that are not accepted yet; accounts of proposals accept nothing."""
        missing = self._not_accepted() if self._is_person() else {}
        return terms_form(missing) if missing else ""

    def options_from_form(self, form_data: dict[str, list[str]]) -> dict[str, Any]:
        return {"accept": form_data.get("accept", [])}

    def get_env(self) -> dict[str, str]:
        environment: dict[str, str] = super().get_env()
        folders = [str(path / "bin" if (path / "bin").is_dir() else path) for path in self.sight().programs]
        if folders:
            environment["PATH"] = os.pathsep.join([*folders, environment.get("PATH", self.usual_path)])
        return environment

    async def start(self) -> Any:
        if self._is_person():
            accepted = self.user_options.get("accept", [])
            for name, program in self._not_accepted().items():
                if f"{name} {program.version}" in accepted:
                    self.acceptances.add(self.user.name, name, program)
        else:
            self._stop_where_full()
        return await super().start()

    def _stop_where_full(self) -> None:
        """Above the quota only leads start the shared server, who can make room."""
        proposal = self.proposal()
        used = self._usage().get(proposal or "")
        if proposal is None or used is None or not used.is_full:
            return
        asking = self.handler.current_user.name if self.handler is not None and self.handler.current_user else ""
        if self.policy.proposals().proposals[proposal].members.get(asking) != "lead":
            raise QuotaError(f"{proposal} has stored {told(used)}: a lead has to start this server and make room")


def proposal_spawner(site: Site, policy: PolicyFile, acceptances: Acceptances) -> type[ProposalServer]:
    """The spawner of a hub with this policy. Raises `PolicyError` where its library is missing."""
    try:
        kind = _kind_of_servers(site)
    except ImportError as error:
        raise PolicyError(
            f"the library for servers of kind {site.servers.kind} is missing", place="servers.kind", found=str(error),
            remedy="pip install 'sfxlab[hub]'",
        ) from error  # fmt: skip
    return type("ProposalSpawner", (kind,), {"site": site, "policy": policy, "acceptances": acceptances})


def _kind_of_servers(site: Site) -> type[ProposalServer]:
    match site.servers.kind:
        case "local":
            from sfxlab.hub.local_servers import LocalServer

            return LocalServer
        case "slurm":
            from sfxlab.hub.slurm_servers import SlurmServer

            return SlurmServer
        case "container":
            from sfxlab.hub.container_servers import ContainerServer

            return ContainerServer
        case "kubernetes":
            from sfxlab.hub.kubernetes_servers import KubernetesServer

            return KubernetesServer
