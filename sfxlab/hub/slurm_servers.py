"""Servers as jobs of SLURM.

A job runs under its owner's account on another machine, where no mount can be put over other people's data: what it
sees is what the site's Unix groups let the account see (`sfxlab hub check` compares them with the policy).
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import sys
from pathlib import Path

from batchspawner import SlurmSpawner
from batchspawner.api import BatchSpawnerAPIHandler
from jupyterhub.apihandlers import APIHandler, default_handlers
from tornado import web
from traitlets.config import Config

from sfxlab.hub.loopback import DASK_SETTINGS
from sfxlab.hub.site import Site
from sfxlab.hub.spawning import ProposalServer

_ADDRESS = re.compile(r"\bNodeAddr=(\S+)")


class SlurmServer(ProposalServer, SlurmSpawner):
    """One job; its port comes from the job itself."""

    async def start(self) -> tuple[str, int]:
        proposal = self.proposal()
        account = self.site.servers.slurm.account
        self.req_account = account.replace("{proposal}", proposal) if proposal else ""
        node, port = await super().start()
        self.ip = await self._address_of(node)
        return self.ip, port

    def get_env(self) -> dict[str, str]:
        environment = super().get_env()
        return environment if self.site.servers.environment else {**environment, **DASK_SETTINGS}

    def cmd_formatted_for_batch(self) -> str:
        return shlex.join([self.batchspawner_singleuser_cmd, *self.cmd, *self.get_args()])

    async def _address_of(self, node: str) -> str:
        """Where SLURM itself reaches a node; names of nodes need not be known to anybody else."""
        process = await asyncio.create_subprocess_exec(
            "scontrol", "show", "node", node, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        text, error = await process.communicate()
        found = _ADDRESS.search(text.decode())
        if found is None:
            raise RuntimeError(f"SLURM does not say where {node} is: {error.decode().strip()}")
        return found[1]


class PortHandler(APIHandler):
    """Where a job tells its port.

    In the place of batchspawner's, which sets whatever attribute of the spawner a server names: commands, too, that
    the hub then runs as root.
    """

    @web.authenticated
    def post(self) -> None:
        body = self.get_json_body()
        port = body.get("port") if isinstance(body, dict) else None
        if not isinstance(port, int) or not 1024 <= port <= 65535:
            raise web.HTTPError(400, "a port is wanted")
        token = self.get_auth_token()
        for spawner in self.current_user.spawners.values():
            if spawner.api_token == token:
                spawner.port = port
                self.set_status(201)
                self.finish(json.dumps({"message": "the port is known"}))
                return
        raise web.HTTPError(403, "only a server tells its port")


default_handlers[:] = [
    (route, PortHandler) if handler is BatchSpawnerAPIHandler else (route, handler, *rest)
    for route, handler, *rest in default_handlers
]


def configure_slurm(c: Config, site: Site) -> None:
    """Put what site.toml says of SLURM into JupyterHub's configuration."""
    slurm, folder = site.servers.slurm, (site.servers.environment or Path(sys.prefix)) / "bin"
    c.Spawner.env_keep = ["LANG", "LC_ALL", "PATH", "SLURM_CONF"]
    c.Spawner.cmd = [str(folder / "jupyterhub-singleuser")]
    c.SlurmSpawner.batchspawner_singleuser_cmd = str(folder / "batchspawner-singleuser")
    c.SlurmSpawner.exec_prefix = "setpriv --reuid={username} --regid={username} --init-groups"
    c.SlurmSpawner.req_partition = slurm.partition
    c.SlurmSpawner.req_runtime = slurm.walltime
    c.SlurmSpawner.req_nprocs = str(slurm.cpus)
    c.SlurmSpawner.req_memory = site.servers.memory or ""
    c.SlurmSpawner.req_options = slurm.options
    c.SlurmSpawner.batch_script = _SCRIPT


_SCRIPT = """\
#!/bin/bash
#SBATCH --job-name=jupyter-{{username}}
#SBATCH --output={{homedir}}/.jupyter-server-%j.log
#SBATCH --chdir={{homedir}}
#SBATCH --export={{keepvars}}
{% if partition %}#SBATCH --partition={{partition}}
{% endif %}{% if account %}#SBATCH --account={{account}}
{% endif %}{% if runtime %}#SBATCH --time={{runtime}}
{% endif %}{% if memory %}#SBATCH --mem={{memory}}
{% endif %}{% if nprocs %}#SBATCH --cpus-per-task={{nprocs}}
{% endif %}{% if options %}#SBATCH {{options}}
{% endif %}
exec {{cmd}}
"""
