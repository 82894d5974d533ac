"""Servers in real containers: podman behind its docker API, with an image made of nothing but empty directories."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROPOSALS = """
[proposals.one@]
title = "One"
members = { anna@ = "lead", carol@ = "viewer" }
data = ["DATA/one"]

[proposals.two@]
title = "Two"
members = { dan@ = "lead" }
data = ["DATA/two"]
"""

SITE = """
[servers]
kind = "container"
[servers.container]
image = "localhost/sfxlab-empty:1"
socket = "unix://{socket}"
network = "host"
[servers.container.options]
tmpfs = {{ {tmpfs} }}
ulimits = [{{ name = "nofile", soft = 1024, hard = 4096 }}, {{ name = "nproc", soft = 1024, hard = 4096 }}]
mounts = [{mounts}]
"""

# As in tests of images: with these, podman runs as root on machines without systemd, too.
CONTAINERS = """\
[containers]
netns = "host"
default_ulimits = ["nofile=1024:4096", "nproc=1024:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""

LOOK = """
import json, os, pathlib
found = [os.getuid(), os.path.exists("/run/.containerenv"), sorted(os.listdir("DATA"))]
found.append(pathlib.Path("DATA/one/run.h5").read_text())
try:
    found.append(pathlib.Path("DATA/one/new.txt").write_text("x"))
except OSError as error:
    found.append(error.strerror)
status = pathlib.Path("/proc/self/status").read_text()
found.append([line.split()[1] for line in status.splitlines() if line.startswith(("CapEff", "NoNewPrivs"))])
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Podman:
    """A podman of its own, whose service listens at `socket`."""

    folder: Path

    @property
    def socket(self) -> Path:
        return self.folder / "podman.sock"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "CONTAINERS_CONF": str(self.folder / "containers.conf")}

    def command(self, *arguments: str) -> list[str]:
        return ["podman", f"--root={self.folder}/root", f"--runroot={self.folder}/run", *arguments]

    def run(self, *arguments: str, data: bytes | None = None) -> str:
        done = subprocess.run(self.command(*arguments), input=data, capture_output=True, env=self.environment)
        if done.returncode:
            raise RuntimeError(done.stderr.decode())
        return done.stdout.decode()


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    missing = [program for program in ("podman", "runc") if shutil.which(program) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"no {' and '.join(missing) or 'root'} here")
    one = Podman(Path(tempfile.mkdtemp(prefix="sfxpod", dir="/tmp")))  # paths of sockets must be short
    (one.folder / "containers.conf").write_text(CONTAINERS)
    service = None
    try:
        path = f"PATH={Path(sys.prefix) / 'bin'}:/usr/bin:/bin"
        try:
            one.run("import", "--change", f"ENV {path}", "-", "localhost/sfxlab-empty:1", data=_empty_image())
            one.run("run", "--rm", "--volume=/usr:/usr:ro", "localhost/sfxlab-empty:1", "true")
        except RuntimeError as error:
            pytest.skip(f"podman cannot run containers here: {error}")
        with (one.folder / "log").open("wb") as log:
            service = subprocess.Popen(
                one.command("system", "service", "--time=0", f"unix://{one.socket}"),
                env=one.environment, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while not one.socket.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        yield one
        one.run("rm", "--all", "--force", "--time=1")
    finally:
        if service is not None:
            service.terminate()
            service.wait()
        subprocess.run(["umount", one.folder / "root" / "overlay"], capture_output=True)
        shutil.rmtree(one.folder, ignore_errors=True)


def _empty_image() -> bytes:
    """Directories on which this machine's own are mounted, and where Debian has links, links."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name in ("usr", "etc", "tmp", "root", "home", "proc", "sys", "dev", "run", "var"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(entry)
        for name in ("bin", "sbin", "lib", "lib64"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, f"usr/{name}"
            archive.addfile(entry)
    return written.getvalue()


def _site(podman: Podman) -> str:
    """Settings that mount the interpreter and this project, as an image would bring them."""
    shown = dict.fromkeys(
        path.resolve() for path in map(Path, (sys.base_prefix, Path(__file__).parents[2], sys.prefix, "/usr"))
    )
    shown[Path("/etc/ld.so.cache")] = None
    tops = {f"/{path.parts[1]}" for path in shown} - {"/usr", "/etc"}
    mounts = ", ".join(f'{{ Type = "bind", Source = "{path}", Target = "{path}", ReadOnly = true }}' for path in shown)
    tmpfs = ", ".join(f'"{top}" = "mode=0755"' for top in sorted(tops))
    return SITE.format(socket=podman.socket, mounts=mounts, tmpfs=tmpfs)


def test_containers_have_their_proposals_data_under_their_accounts(
    tmp_path_factory: pytest.TempPathFactory, start_hub: Callable[..., Any], podman: Podman
) -> None:
    accounts, folder = ["proposal-one", "proposal-two"], tmp_path_factory.mktemp("containers")
    with start_hub(folder, PROPOSALS, ["anna", "carol", "dan"], accounts, _site(podman)) as hub:
        for name in ("one", "two"):
            data = hub.data / name
            data.mkdir()
            (data / "run.h5").write_text(f"frames of {name}")
            shutil.chown(data, group=hub.name(f"proposal-{name}"))
            data.chmod(0o2770)
        look = LOOK.replace("DATA", str(hub.data))
        for person, owner, written in (("anna", "proposal-one", 1), ("carol", "carol", "Read-only file system")):
            account = hub.name(owner)
            assert hub.start_server(person, account).ok
            uid, is_container, seen, read, wrote, rights = json.loads(hub.run(person, account, look))
            assert uid == Path(f"~{account}").expanduser().stat().st_uid
            assert is_container
            assert (seen, read, wrote) == (["one"], "frames of one", written)
            assert rights == ["0000000000000000", "1"]
            assert hub.ask(person, "DELETE", f"/hub/api/users/{account}/server").status_code in (202, 204)
