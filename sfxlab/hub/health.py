"""Whether a hub is well: its parts, its proposals' servers and runs."""

from __future__ import annotations

import asyncio
import datetime
import json
import shutil
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPClientError

from sfxlab.hub.authentication import PolicyFile
from sfxlab.hub.policy import PolicyError, Proposals, account_of
from sfxlab.hub.runs import RunSeen, places_of
from sfxlab.hub.site import Site

_PATIENCE = 5.0
"""Seconds after which a part that does not answer is taken for broken."""
_LINE = 64 << 20
_PAGES = "application/jupyterhub-pagination+json"


@dataclass(frozen=True)
class Part:
    """Something that the hub needs."""

    name: str
    well: bool
    found: str


@dataclass(frozen=True)
class Disk:
    """A file system that proposals or the hub itself write to."""

    path: str
    proposal: str
    """Empty for the hub's own."""
    free: int
    """Bytes."""
    total: int


@dataclass(frozen=True)
class Health:
    """A hub at one moment."""

    time: str
    parts: tuple[Part, ...]
    disks: tuple[Disk, ...]
    servers: dict[str, int]
    """How many run of each proposal: its shared one, and those of its members."""
    runs: tuple[RunSeen, ...]
    sessions: int = 0
    listeners: int = 0

    @property
    def well(self) -> bool:
        """Whether all parts are."""
        return all(part.well for part in self.parts)

    def of(self, proposals: set[str]) -> Health:
        """What members of these proposals may know: what is broken, but not why, and what is theirs."""
        return Health(
            self.time,
            tuple(Part(part.name, part.well, "") for part in self.parts),
            tuple(disk for disk in self.disks if disk.proposal in proposals),
            {name: count for name, count in self.servers.items() if name in proposals},
            tuple(run for run in self.runs if run.proposal in proposals),
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values, with `status` "well" or "broken"."""
        return {"status": "well" if self.well else "broken", **asdict(self)}


class Doctor:
    """Looks at a hub. `api` is the address of the hub's API, `token` one that may list users and their servers."""

    def __init__(self, site: Site, policy: PolicyFile, api: str, token: str) -> None:
        self.site, self.policy = site, policy
        self._api, self._token = api.rstrip("/"), token
        self._reader: Process | None = None
        self._reading = asyncio.Lock()

    async def look(self) -> Health:
        """All of it, now."""
        proposals = self.policy.proposals()
        asked = await asyncio.gather(
            self._hub(),
            self._database(proposals),
            self._proxy(),
            self._sessions(),
            self._slurm(),
            self._runs(proposals),
        )
        hub, (database, servers), proxy, (sessions, kept), slurm, (reading, runs) = asked
        disks = _disks(self.site, proposals)
        parts = [hub, proxy, database, sessions, _disk_part(disks, self.site.health.free), self._policy(), reading]
        return Health(
            datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            tuple(part for part in (*parts, slurm) if part), disks, servers, runs,
            kept.get("sessions", 0), kept.get("listeners", 0),
        )  # fmt: skip

    async def _ask(self, url: str, token: str = "") -> Any:
        headers = {"Authorization": f"token {token}", "Accept": _PAGES} if token else {}
        # The certificate is the browsers' matter: nothing secret goes to the hub by its public address.
        answer = await AsyncHTTPClient().fetch(
            url, headers=headers, request_timeout=_PATIENCE, validate_cert=False, follow_redirects=False
        )
        return json.loads(answer.body)

    async def _part(self, name: str, url: str) -> tuple[Part, Any]:
        try:
            return Part(name, True, ""), await self._ask(url)
        except (HTTPClientError, OSError, ValueError) as error:
            return Part(name, False, f"{url}: {error}"), {}

    async def _hub(self) -> Part:
        part, answer = await self._part("hub", self._api)
        return Part("hub", True, f"JupyterHub {answer.get('version', '?')}") if part.well else part

    async def _proxy(self) -> Part:
        return (await self._part("proxy", f"{self.site.hub.address.rstrip('/')}/hub/api"))[0]

    async def _database(self, proposals: Proposals) -> tuple[Part, dict[str, int]]:
        """The hub's database is where this answer comes from."""
        running: Counter[str] = Counter()
        page: dict[str, Any] | None = {"offset": 0}
        try:
            while page:
                answer = await self._ask(f"{self._api}/users?state=active&offset={page['offset']}", self._token)
                running.update({user["name"]: len(user["servers"]) for user in answer["items"]})
                page = answer["_pagination"]["next"]
            part = Part("database", True, "")
        except (HTTPClientError, OSError, ValueError, KeyError) as error:
            part = Part("database", False, f"the hub does not list its servers: {error!r}")
        servers = {
            name: sum(running[user] for user in (account_of(name), *proposal.members))
            for name, proposal in proposals.proposals.items()
        }
        return part, servers

    async def _sessions(self) -> tuple[Part, Any]:
        url = f"http://127.0.0.1:{self.site.sessions.port}/services/sessions/api/health"
        return await self._part("session service", url)

    async def _slurm(self) -> Part | None:
        if self.site.servers.kind != "slurm" and not self.site.health.slurm:
            return None
        try:
            process = await asyncio.create_subprocess_exec(
                "sinfo", "--noheader", "--format=%T", stdout=PIPE, stderr=PIPE
            )
            said, complained = await asyncio.wait_for(process.communicate(), _PATIENCE)
        except FileNotFoundError:
            return Part("SLURM", False, "sinfo is not installed here")
        except TimeoutError:
            process.kill()
            return Part("SLURM", False, f"sinfo does not answer within {_PATIENCE:g} s")
        if process.returncode:
            return Part("SLURM", False, complained.decode(errors="replace").strip()[:500])
        nodes = Counter(said.decode().split())
        return Part("SLURM", True, ", ".join(f"{count} {state}" for state, count in nodes.items()))

    def _policy(self) -> Part:
        try:
            Proposals.read(self.policy.path)
        except PolicyError as error:
            return Part("proposals.toml", False, f"{error}")
        return Part("proposals.toml", True, "")

    async def _runs(self, proposals: Proposals) -> tuple[Part, tuple[RunSeen, ...]]:
        places = [
            asdict(place)
            for name, proposal in proposals.proposals.items()
            for place in places_of(name, account_of(name), proposal.data)
        ]
        try:
            async with self._reading:
                found = await asyncio.wait_for(self._read(json.dumps(places)), 60)
        except (TimeoutError, OSError, ValueError) as error:
            self.stop()
            return Part("runs", False, f"they cannot be read: {type(error).__name__} {error}"), ()
        return Part("runs", True, ""), tuple(RunSeen(**each) for each in found)

    async def _read(self, places: str) -> Any:
        if self._reader is None or self._reader.returncode is not None:
            self._reader = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "sfxlab.hub.runs", stdin=PIPE, stdout=PIPE, limit=_LINE
            )
        assert self._reader.stdin is not None
        assert self._reader.stdout is not None
        self._reader.stdin.write(f"{places}\n".encode())
        await self._reader.stdin.drain()
        return json.loads(await self._reader.stdout.readline())

    def stop(self) -> None:
        """End the process that reads runs."""
        if self._reader is not None and self._reader.returncode is None:
            self._reader.kill()
        self._reader = None


def _disks(site: Site, proposals: Proposals) -> tuple[Disk, ...]:
    wanted = [("", site.hub.state)]
    wanted += [(name, path) for name, proposal in proposals.proposals.items() for path in proposal.data]
    found = []
    for name, path in wanted:
        try:
            usage = shutil.disk_usage(path)
        except OSError:
            usage = None
        found.append(Disk(str(path), name, usage.free if usage else 0, usage.total if usage else 0))
    return tuple(found)


def _disk_part(disks: tuple[Disk, ...], least: int) -> Part:
    bad = [
        f"{disk.path} has {disk.free / 1e9:.1f} GB left" if disk.total else f"{disk.path} is not there"
        for disk in disks
        if disk.free < least or not disk.total
    ]
    return Part("disks", not bad, "; ".join(bad))
