"""A real JupyterHub with real Unix accounts, for tests."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from websocket import WebSocket, create_connection

ROOT = Path(__file__).parents[2]

PASSWORD = "correct horse battery"
ADMIN = "olga"
ADMIN_PASSWORD = "correct horse battery staple 1234"

CONFIGURATION = """
from sfxlab.hub.configuration import configure
configure(c, {site!r}, {proposals!r})
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{hub}"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy}"
"""

SITE = """
refresh = 1
[hub]
address = "{address}"
state = "{folder}/state"
admins = ["olga{suffix}"]
[authentication]
kind = "shared-password"
secrets = {{ user_password = "{folder}/password", admin_password = "{folder}/admin" }}
[sessions]
port = {sessions}
[health]
port = {health}
token = "{folder}/token"
free = "1 MB"
[places]
port = {places}
measure_every = 5
"""


def what_is_missing() -> str:
    """Why no hub can be started here; empty where one can."""
    programs = ("configurable-http-proxy", "useradd", "userdel", "unshare", "mount")
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    return "" if os.geteuid() == 0 else "only root may make accounts and start servers under them"


@dataclass
class RealHub:
    """A hub that runs; people come in by a login of their own and then by a token."""

    address: str
    folder: Path
    suffix: str
    certificate: Path | None = None
    domain: str = ""
    """Of which each server and service has a subdomain of its own; empty where all are on one host."""
    tokens: dict[str, str] = field(default_factory=dict)
    sessions: dict[str, requests.Session] = field(default_factory=dict)

    def name(self, person: str) -> str:
        """The account of somebody, or of a proposal; unlike any that this machine has already."""
        return f"{person}{self.suffix}"

    @property
    def data(self) -> Path:
        """A folder that every account reaches; `DATA` in the policy."""
        return Path(f"/tmp/sfxlab-hub-{self.suffix}")

    @property
    def proposals(self) -> Path:
        return self.folder / "proposals.toml"

    @property
    def verify(self) -> str | bool:
        """What requests have to know to trust this hub."""
        return str(self.certificate) if self.certificate else True

    def url(self, path: str) -> str:
        """Where a path of the hub is, which begins with /user/NAME or /services/NAME where it is not the hub's own."""
        kind, name = [*path.split("/"), "", ""][1:3]
        host = {"user": f"{name}.", "services": f"{name}--service."}.get(kind, "") if self.domain else ""
        return self.address.replace("://", f"://{host}", 1) + path

    def log_in(self, person: str) -> requests.Response:
        """Log in as a browser does."""
        if person in self.sessions:
            self.sessions[person].close()
        session = self.sessions[person] = requests.Session()
        session.trust_env, session.verify = False, self.verify
        session.get(f"{self.address}/hub/login", timeout=30)
        password = ADMIN_PASSWORD if person == ADMIN else PASSWORD
        form = {"username": self.name(person), "password": password, "_xsrf": session.cookies["_xsrf"]}
        return session.post(f"{self.address}/hub/login?next=/hub/home", data=form, allow_redirects=False, timeout=30)

    def token(self, person: str) -> str:
        """A token that JupyterHub gave this person."""
        if person not in self.tokens:
            assert self.log_in(person).status_code == 302
            session = self.sessions[person]
            xsrf = next(cookie.value for cookie in session.cookies if cookie.name == "_xsrf" and cookie.path == "/hub/")
            answer = session.post(
                f"{self.address}/hub/api/users/{self.name(person)}/tokens",
                json={"note": "test"},
                headers={"X-XSRFToken": str(xsrf), "Referer": f"{self.address}/hub/home"},
                timeout=30,
            )
            self.tokens[person] = answer.json()["token"]
        return self.tokens[person]

    def ask(self, person: str, method: str, path: str, **options: Any) -> requests.Response:
        """A request with this person's token; `path` begins behind the address."""
        headers = {"Authorization": f"token {self.token(person)}"} if person != "nobody" else {}
        return requests.request(
            method, self.url(path), headers=headers, timeout=60, verify=self.verify,
            **{"allow_redirects": False, **options},
        )  # fmt: skip

    def start_server(self, person: str, owner: str, **options: Any) -> requests.Response:
        """Start somebody's or a proposal's server and wait until it is ready."""
        answer = self.ask(person, "POST", f"/hub/api/users/{owner}/server", json=options)
        deadline = time.monotonic() + 90
        while answer.ok and time.monotonic() < deadline:
            servers = self.ask(person, "GET", f"/hub/api/users/{owner}").json().get("servers") or {}
            if servers.get("", {}).get("ready"):
                break
            time.sleep(0.5)
        return answer

    def connect(self, person: str, path: str, **options: Any) -> WebSocket:
        """A websocket of this person's, open; raises `WebSocketBadStatusException` where it is refused.

        `as_browser`: without a token, since the options of the websocket hold cookies.
        """
        header = [] if options.pop("as_browser", False) else [f"Authorization: token {self.token(person)}"]
        trusted = {"ca_certs": str(self.certificate)} if self.certificate else {}
        address = self.url(path).replace("http", "ws", 1)
        return create_connection(address, header=header, timeout=30, sslopt=trusted, **options)

    def start_kernel(self, person: str, owner: str) -> str:
        """A kernel of somebody's server."""
        return str(self.ask(person, "POST", f"/user/{owner}/api/kernels", json={}).json()["id"])

    def run(self, person: str, owner: str, code: str, kernel: str = "") -> str:
        """What code prints that a person runs on somebody's server, in a kernel of its own unless one is given."""
        server, own = f"/user/{owner}", kernel or self.start_kernel(person, owner)
        request = {
            "header": {"msg_id": "1", "msg_type": "execute_request", "session": "1", "username": "", "version": "5.3"},
            "parent_header": {}, "metadata": {}, "channel": "shell", "buffers": [],
            "content": {"code": code, "silent": False, "store_history": False, "user_expressions": {},
                        "allow_stdin": False, "stop_on_error": True},
        }  # fmt: skip
        printed = ""
        with closing(self.connect(person, f"{server}/api/kernels/{own}/channels")) as socket:
            socket.send(json.dumps(request))
            while True:
                message = json.loads(socket.recv())
                content = message["content"]
                if message["msg_type"] == "stream":
                    printed += content["text"]
                elif message["msg_type"] == "error":
                    printed += f"{content['ename']}: {content['evalue']}"
                elif content.get("execution_state") == "idle" and message["parent_header"].get("msg_id") == "1":
                    break
        if not kernel:
            self.ask(person, "DELETE", f"{server}/api/kernels/{own}")
        return printed


@contextmanager
def real_hub(
    folder: Path, proposals: str, people: list[str], accounts: list[str], site: str = "", domain: str = "",
    environment: dict[str, str] | None = None,
) -> Iterator[RealHub]:  # fmt: skip
    """A hub for these people and accounts of proposals, which are made and taken away.

    With a `domain` below .localhost it speaks HTTPS, and each server and service has a subdomain of its own.

    In `proposals` and in `site`, the further lines of site.toml, `@` stands for the suffix of names and `DATA` for
    the folder `data`.
    """
    suffix = secrets.token_hex(3)
    ports = _free_ports(6)
    local = f"http{'s' if domain else ''}://127.0.0.1:{ports[0]}"
    hub = RealHub(f"https://{domain}:{ports[0]}" if domain else local, folder, suffix, domain=domain)
    hub.proposals.write_text(proposals.replace("@", suffix).replace("DATA", str(hub.data)))
    hub.data.mkdir(mode=0o755)
    (folder / "state").mkdir()
    for name, text in (("password", PASSWORD), ("admin", ADMIN_PASSWORD), ("token", secrets.token_hex())):
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    if domain:
        hub.certificate = _own_certificate(folder, domain)
    # Nobody stops servers that are not used, but where a test is about that.
    site = site if "[servers]" in site else f"{site}[servers]\nidle = 0\n"
    further = site.replace("@", suffix).replace("DATA", str(hub.data))
    known = SITE.format(
        address=local, folder=folder, suffix=suffix, sessions=ports[3], health=ports[4], places=ports[5]
    )
    if domain:
        files = f'certificate = "{hub.certificate}"\nkey = "{folder}/tls.key"'
        known = known.replace("[hub]", f'[hub]\ndomain = "{hub.address}"\n{files}', 1)
    (folder / "site.toml").write_text(known + further)
    text = CONFIGURATION.format(
        site=str(folder / "site.toml"), proposals=str(hub.proposals), hub=ports[1], proxy=ports[2]
    )
    (folder / "jupyterhub_config.py").write_text(text)
    names = [hub.name(person) for person in (*people, *accounts)]
    made: list[str] = []
    try:
        for name in names:
            subprocess.run(["useradd", "--create-home", "--key", "HOME_MODE=0700", name], check=True)
            made.append(name)
        with _found(domain), _running(folder, hub, environment or {}):
            yield hub
    finally:
        for session in hub.sessions.values():
            session.close()
        shutil.rmtree(hub.data)
        for name in made:
            subprocess.run(["pkill", "-KILL", "-u", name], check=False)
        time.sleep(0.5)
        for name in made:
            subprocess.run(["userdel", "--remove", "--force", name], check=False, capture_output=True)


@contextmanager
def _found(domain: str) -> Iterator[None]:
    """As in browsers: names below .localhost are this machine's, and a host's cookies do not go to hosts below it.

    The first not every system's resolver knows (RFC 6761); the second Python does only when told (RFC 6265).
    """
    ask = socket.getaddrinfo
    policy = DefaultCookiePolicy(strict_ns_domain=DefaultCookiePolicy.DomainStrictNonDomain)

    def answer(host: Any, *arguments: Any, **options: Any) -> Any:
        is_ours = bool(domain) and str(host).endswith(domain)
        return ask("127.0.0.1" if is_ours else host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", answer)
        patch.setattr(requests.sessions, "RequestsCookieJar", partial(requests.cookies.RequestsCookieJar, policy))
        yield


@contextmanager
def _running(folder: Path, hub: RealHub, environment: dict[str, str]) -> Iterator[None]:
    command = [sys.executable, "-m", "jupyterhub", "-f", str(folder / "jupyterhub_config.py")]
    # Debian's configurable-http-proxy wants Debian's modules whatever node there is.
    environment = {**os.environ, "NODE_PATH": "/usr/share/nodejs", "JUPYTERHUB_LOG_LEVEL": "INFO", **environment}
    with (folder / "hub.log").open("w") as log:
        process = subprocess.Popen(
            [*reachable_by(folder), *command],
            stdout=log, stderr=subprocess.STDOUT, cwd=folder, env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            _wait_for(hub, process, folder / "hub.log")
            yield
        finally:
            kill_hub(process.pid)
            process.wait()


def kill_hub(pid: int) -> None:
    """End a hub and what it started at once; its orderly end takes seconds."""
    with suppress(psutil.NoSuchProcess):
        hub = psutil.Process(pid)
        for each in [*hub.children(recursive=True), hub]:
            with suppress(psutil.NoSuchProcess):
                each.kill()


def _own_certificate(folder: Path, domain: str) -> Path:
    """A certificate for this machine and a domain, signed by nobody else; its key is `tls.key`."""
    names = f"subjectAltName=IP:127.0.0.1,DNS:{domain},DNS:*.{domain}"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", names, "-keyout", folder / "tls.key", "-out", folder / "tls.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    (folder / "tls.key").chmod(0o600)
    return folder / "tls.pem"


def _wait_for(hub: RealHub, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 180
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if requests.get(f"{hub.address}/hub/api", timeout=5, verify=hub.verify).ok:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.5)
    raise RuntimeError(f"the hub did not start:\n{log.read_text()[-3000:]}")


def reachable_by(folder: Path) -> list[str]:
    """A command whose arguments run where other accounts reach the interpreter and this project."""
    (folder / "start.sh").write_text(_reachable() + 'exec "$@"\n')
    return ["unshare", "--mount", "sh", "-e", str(folder / "start.sh")]


def _reachable() -> str:
    """Shell commands that let other accounts reach the interpreter and this project, in a mount namespace only."""
    wanted = dict.fromkeys((Path(sys.base_prefix).resolve(), ROOT.resolve(), Path(sys.prefix).resolve()))
    closed = {path: shut for path in wanted if (shut := _closed_parent(path))}
    lines = []
    for number, path in enumerate(closed):
        lines.append(f"k{number}=$(mktemp -d); mount --bind '{path}' $k{number}")
    for parent in dict.fromkeys(closed.values()):
        lines.append(f"mount -t tmpfs -o mode=755 tmpfs '{parent}'")
    for number, path in enumerate(closed):
        lines.append(f"mkdir -p '{path}'; mount --bind $k{number} '{path}'; umount $k{number}; rmdir $k{number}")
    return "\n".join([*lines, ""])


def _closed_parent(path: Path) -> Path | None:
    return next((parent for parent in reversed(path.parents) if not parent.stat().st_mode & 0o001), None)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        with closing(each):
            pass
    return ports


@pytest.fixture(scope="session")
def start_hub() -> Callable[..., AbstractContextManager[RealHub]]:
    """`start_hub(folder, proposals, people, accounts)`, a context with a `RealHub`."""
    missing = what_is_missing()
    if missing:
        pytest.skip(f"no JupyterHub can be started here; {missing}")
    return real_hub


@pytest.fixture(scope="session")
def reachable() -> Callable[[Path], list[str]]:
    """`reachable(folder)`, a command for what servers of other accounts run in."""
    return reachable_by


@pytest.fixture(scope="session")
def free_ports() -> Callable[[int], list[int]]:
    """`free_ports(count)`: so many ports of 127.0.0.1 at which nobody listens."""
    return _free_ports


@pytest.fixture(scope="session")
def kill() -> Callable[[int], None]:
    """`kill(pid)` ends a hub and what it started."""
    return kill_hub
