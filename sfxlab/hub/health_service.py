"""A service of the hub that says whether all is well: to people as a page, to programs as JSON, to Prometheus.

python -m sfxlab.hub.health_service site.toml proposals.toml
"""

from __future__ import annotations

import asyncio
import datetime
import html
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jupyterhub.services.auth import HubOAuthCallbackHandler, HubOAuthenticated
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from tornado.web import Application, HTTPError, RequestHandler, authenticated

from sfxlab.hub.authentication import PolicyFile
from sfxlab.hub.health import Doctor, Health
from sfxlab.hub.site import Site

_HOLDS = 5.0
"""Seconds for which what was seen is told again."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222 }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin-top: 2em }
table { border-collapse: collapse } td, th { padding: .25em 1em .25em 0; text-align: left; vertical-align: top }
th { font-weight: 600; border-bottom: 1px solid #bbb }
.well { color: #17692c } .broken { color: #b00020; font-weight: 600 }
"""


class _Known:
    """What was seen last; several who ask at once wait for one look."""

    def __init__(self, doctor: Doctor) -> None:
        self.doctor = doctor
        self._looking = asyncio.Lock()
        self._seen: Health | None = None
        self._until = 0.0

    async def health(self) -> Health:
        async with self._looking:
            if self._seen is None or time.monotonic() > self._until:
                self._seen = await self.doctor.look()
                self._until = time.monotonic() + _HOLDS
            return self._seen


class _Page(HubOAuthenticated, RequestHandler):
    """For whom the hub's login lets in; what each gets to see depends on his proposals."""

    def initialize(self) -> None:
        self.known: _Known = self.settings["known"]

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header(
            "Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
        )

    def _sees_all(self) -> bool:
        """Admins, and the program that collects metrics."""
        user = self.current_user
        return user["name"] in self.known.doctor.site.hub.admins or "read:metrics" in user["scopes"]

    async def seen(self) -> Health:
        """The hub's health as far as it is for whoever asks."""
        health = await self.known.health()
        if self._sees_all():
            return health
        policy = self.known.doctor.policy.proposals()
        seen = health.of(set(policy.roles_of(self.current_user["name"], datetime.date.today())))
        return seen if self.known.doctor.site.dashboards.runs else replace(seen, runs=())

    @authenticated
    async def get(self, form: str = "") -> None:
        health = await self.seen()
        self.set_status(200 if health.well else 503)
        if form == "json" or "application/json" in self.request.headers.get("Accept", ""):
            self.finish(json.dumps(health.to_json()))
        else:
            self.finish(page_of(health))


class _Metrics(_Page):
    @authenticated
    async def get(self) -> None:
        if not self._sees_all():
            raise HTTPError(403, "metrics are for admins and for the service prometheus")
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Counted(await self.known.health()))
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(generate_latest(registry))


class _Counted(Collector):
    def __init__(self, health: Health) -> None:
        self._health = health

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The same as on the page, in Prometheus' words."""
        health = self._health
        going = [run for run in health.runs if run.state == "going on"]
        open_runs = [run for run in health.runs if run.state != "ended"]
        counts = {name: [run for run in going if run.proposal == name] for name in health.servers}
        yield _family(
            "up", "Whether a part of the hub is well", {(part.name,): part.well for part in health.parts}, "part"
        )
        yield _family("servers", "Servers that run", {(name,): n for name, n in health.servers.items()}, "proposal")
        yield _family(
            "runs", "Runs that are being written", {(n,): len(runs) for n, runs in counts.items()}, "proposal"
        )
        speeds = {(name,): sum(run.frames_per_second for run in runs) for name, runs in counts.items()}
        yield _family("frames_per_second", "Speed of the runs that are being written", speeds, "proposal")
        ages = {(run.proposal, run.path): run.age for run in open_runs}
        text = "Since the last sign of life of a run that has not ended"
        yield _family("heartbeat_age_seconds", text, ages, "proposal", "run")
        free = {(disk.path, disk.proposal): disk.free for disk in health.disks}
        yield _family("disk_free_bytes", "What is left of a disk", free, "path", "proposal")
        yield _family("sessions", "Sessions in the catalogue", {(): health.sessions})
        yield _family("session_listeners", "Kernels that follow a session", {(): health.listeners})


def _family(name: str, text: str, values: Mapping[Any, float], *labels: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"sfxlab_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, float(value))
    return family


def page_of(health: Health) -> str:
    """A page that reads itself anew."""
    verdict = _state("well" if health.well else "broken")
    parts = [(part.name, _state("well" if part.well else "broken"), part.found) for part in health.parts]
    runs = [
        (run.proposal, run.path, _state(run.state), _ago(run.age), f"{run.done} of {run.total}",
         f"{run.frames_per_second:.1f}" if run.state == "going on" else "", f"{run.user} on {run.host}")
        for run in sorted(health.runs, key=lambda run: run.age)
    ]  # fmt: skip
    disks = [
        (disk.proposal or "the hub", disk.path, f"{disk.free / 1e9:.1f} GB", f"{disk.total / 1e9:.1f} GB")
        for disk in health.disks
    ]
    servers = [(name, str(count)) for name, count in health.servers.items()]
    return (
        f"<!DOCTYPE html><html lang='en'><meta charset='utf-8'><title>Health of the hub</title>"
        f"<meta http-equiv='refresh' content='15'><style>{_STYLE}</style>"
        f"<h1>The hub is {verdict}</h1><p>As of {html.escape(health.time)}.</p>"
        + _table("Parts", ("part", "state", "found"), parts)
        + _table("Runs", ("proposal", "run", "state", "last sign of life", "frames", "frames/s", "written by"), runs)
        + _table("Servers that run", ("proposal", "servers"), servers)
        + _table("Disks", ("of", "path", "free", "size"), disks)
        + "</html>"
    )


class _Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def _state(word: str) -> _Markup:
    kind = {"well": "well", "going on": "well", "broken": "broken", "silent": "broken"}.get(word, "")
    return _Markup(f"<span class='{kind}'>{word}</span>")


def _ago(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 7200 else f"{datetime.timedelta(seconds=round(seconds))} ago"


def _table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return f"<h2>{title}</h2><p>None.</p>"
    head = "".join(f"<th>{column}</th>" for column in columns)
    cells = (
        "".join(f"<td>{cell if isinstance(cell, _Markup) else html.escape(cell)}</td>" for cell in row) for row in rows
    )
    return f"<h2>{title}</h2><table><tr>{head}</tr>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def application(doctor: Doctor, prefix: str) -> Application:
    """The service below this path."""
    base = "/" + prefix.strip("/")
    return Application(
        [
            (f"{base}/?", _Page),
            (f"{base}/(json)", _Page),
            (f"{base}/metrics", _Metrics),
            (f"{base}/oauth_callback", HubOAuthCallbackHandler),
        ],
        known=_Known(doctor), cookie_secret=os.urandom(32),
    )  # fmt: skip


async def _serve(site: Path, proposals: Path) -> None:
    told: Any = os.environ
    doctor = Doctor(
        Site.read(site), PolicyFile(proposals), told["JUPYTERHUB_API_URL"], told["JUPYTERHUB_API_TOKEN"]
    )  # fmt: skip
    address, _, port = told["SFXLAB_LISTENS"].rpartition(":")
    application(doctor, told["JUPYTERHUB_SERVICE_PREFIX"]).listen(int(port), address)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    doctor.stop()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), Path(sys.argv[2])))
