"""As much of OpenStack as starting and deleting servers takes, over HTTP on loopback.

Written from the API references of Keystone v3, Nova v2.1, Glance v2 and Neutron v2.0. Requests are checked as those
services check them: without a token, with an unknown image, or with user data that is not base64, they are refused.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
import threading
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

PASSWORD = "correct"
LOOKS_UNTIL_DONE = 2
"""How often a server is looked at before it is active, or gone."""


class RefusedError(Exception):
    def __init__(self, status: int, kind: str, message: str) -> None:
        self.status, self.body = status, {kind: {"code": status, "message": message}}


class OpenStackService:
    """Use it in a `with` statement; `clouds_yaml` then is the text for a client's clouds.yaml.

    `on_create(name)` makes a machine and returns its address, `on_delete(name)` ends it. At most `quota` servers are
    allowed at a time. Servers named in `cannot_build` end up in the state ERROR.
    """

    def __init__(
        self,
        on_create: Callable[[str], str] = lambda name: "10.0.0.5",
        on_delete: Callable[[str], None] = lambda name: None,
        quota: int = 10,
    ) -> None:
        self.on_create, self.on_delete, self.quota = on_create, on_delete, quota
        self.cannot_build: set[str] = set()
        self.servers: dict[str, dict[str, Any]] = {}
        self.images = {str(uuid.uuid4()): "debian-worker"}
        self.flavors = {str(uuid.uuid4()): "m1.large"}
        self.networks = {str(uuid.uuid4()): "site"}
        self.calls: list[str] = []
        """Method and path of all requests."""
        self._looks: dict[str, int] = {}
        self._tokens: set[str] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> OpenStackService:
        service = self

        class Handler(_Handler):
            openstack = service

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def clouds_yaml(self, password: str = PASSWORD) -> str:
        return (
            "clouds:\n  research:\n    region_name: RegionOne\n    auth:\n"
            f"      auth_url: {self.url}/identity/v3\n      username: burst\n      password: {password}\n"
            "      project_name: sfx\n      user_domain_name: Default\n      project_domain_name: Default\n"
        )

    def add_server(self, name: str, metadata: dict[str, str], status: str = "ACTIVE") -> str:
        """A server that was there before."""
        number = str(uuid.uuid4())
        addresses = {"site": [{"addr": "10.0.0.9", "version": 4, "OS-EXT-IPS:type": "fixed"}]}
        self.servers[number] = {
            "id": number, "name": name, "status": status, "metadata": metadata, "addresses": addresses,
        }  # fmt: skip
        return number

    def answer(self, method: str, path: str, query: dict[str, str], body: Any, token: str | None) -> tuple[int, Any]:
        with self._lock:
            if (method, path) == ("POST", "/identity/v3/auth/tokens"):
                return 201, self._token(body)
            for pattern, body_of in self._versions().items():
                if method == "GET" and path.rstrip("/") == pattern:
                    return 200, body_of
            if token not in self._tokens:
                raise RefusedError(401, "error", "The request you have made requires authentication.")
            for pattern, function in _CALLS.items():
                if match := re.fullmatch(pattern, f"{method} {path}"):
                    return function(self, *match.groups(), query=query, body=body)
        raise RefusedError(404, "itemNotFound", f"no {method} {path} here")

    def new_token(self) -> str:
        token = secrets.token_hex()
        self._tokens.add(token)
        return token

    def _token(self, body: Any) -> Any:
        password = body["auth"]["identity"]["password"]["user"]["password"]
        if password != PASSWORD:
            raise RefusedError(401, "error", "The request you have made requires authentication.")
        places = {"identity": "/identity", "compute": "/compute/v2.1", "image": "/image", "network": "/network"}
        catalog = [
            {
                "id": kind, "type": kind, "name": kind,
                "endpoints": [{
                    "id": kind, "interface": "public", "region": "RegionOne", "region_id": "RegionOne",
                    "url": self.url + place,
                }],
            }
            for kind, place in places.items()
        ]  # fmt: skip
        domain = {"id": "default", "name": "Default"}
        return {"token": {
            "methods": ["password"], "expires_at": "2099-01-01T00:00:00.000000Z", "catalog": catalog,
            "issued_at": "2026-01-01T00:00:00.000000Z", "roles": [{"id": "member", "name": "member"}],
            "project": {"id": "p1", "name": "sfx", "domain": domain},
            "user": {"id": "u1", "name": "burst", "domain": domain},
        }}  # fmt: skip

    def _versions(self) -> dict[str, Any]:
        def version(number: str, place: str, **more: str) -> dict[str, Any]:
            link = {"rel": "self", "href": f"{self.url}{place}/"}
            return {"id": number, "status": "CURRENT", "links": [link], "updated": "2013-07-23T11:33:21Z", **more}

        return {
            "/identity/v3": {"version": version("v3.14", "/identity/v3")},
            "/compute/v2.1": {"version": version("v2.1", "/compute/v2.1", version="2.96", min_version="2.1")},
            "/image": {"versions": [version("v2.16", "/image/v2")]},
            "/network": {"versions": [version("v2.0", "/network/v2.0")]},
        }

    def _image(self, number: str, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if number not in self.images:
            raise RefusedError(404, "itemNotFound", "No image found")
        return 200, {"id": number, "name": self.images[number], "status": "active"}

    def _all_images(self, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        found = [number for number, name in self.images.items() if query.get("name") in (None, name)]
        return 200, {"images": [self._image(number, query={}, body=None)[1] for number in found]}

    def _flavor(self, number: str, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if number not in self.flavors:
            raise RefusedError(404, "itemNotFound", f"Flavor {number} could not be found.")
        return 200, {"flavor": {"id": number, "name": self.flavors[number], "vcpus": 4, "ram": 8192, "disk": 20}}

    def _all_flavors(self, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        return 200, {"flavors": [self._flavor(number, query={}, body=None)[1]["flavor"] for number in self.flavors]}

    def _network(self, number: str, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if number not in self.networks:
            raise RefusedError(404, "NeutronError", f"Network {number} could not be found.")
        return 200, {"network": {"id": number, "name": self.networks[number], "status": "ACTIVE"}}

    def _all_networks(self, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        found = [number for number, name in self.networks.items() if query.get("name") in (None, name)]
        return 200, {"networks": [self._network(number, query={}, body=None)[1]["network"] for number in found]}

    def _create(self, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        wanted = body["server"]
        try:
            base64.b64decode(wanted["user_data"], validate=True)
        except binascii.Error as error:
            raise RefusedError(400, "badRequest", "User data needs to be base 64 encoded.") from error
        known = wanted["imageRef"] in self.images and wanted["flavorRef"] in self.flavors
        if not known or wanted["networks"][0]["uuid"] not in self.networks:
            raise RefusedError(400, "badRequest", "Can not find requested image, flavor or network")
        if len(self.servers) >= self.quota:
            counts = f"Requested 1, but already used {len(self.servers)} of {self.quota} instances"
            raise RefusedError(403, "forbidden", f"Quota exceeded for instances: {counts}")
        number = str(uuid.uuid4())
        more = {key: wanted.get(key) for key in ("metadata", "user_data", "key_name", "security_groups")}
        self.servers[number] = {"id": number, "name": wanted["name"], "status": "BUILD", "addresses": {}, **more}
        self._looks[number] = 0
        return 202, {"server": {"id": number, "links": [], "adminPass": secrets.token_hex(4)}}

    def _server(self, number: str, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if number not in self.servers:
            raise RefusedError(404, "itemNotFound", f"Instance {number} could not be found.")
        self._look(number)
        if number not in self.servers:
            raise RefusedError(404, "itemNotFound", f"Instance {number} could not be found.")
        return 200, {"server": self.servers[number]}

    def _look(self, number: str) -> None:
        """Time goes on for a server with each look at it."""
        server = self.servers[number]
        self._looks[number] = self._looks.get(number, 0) + 1
        if self._looks[number] < LOOKS_UNTIL_DONE:
            return
        if server.get("OS-EXT-STS:task_state") == "deleting":
            self.on_delete(server["name"])
            del self.servers[number]
        elif server["status"] == "BUILD" and server["name"] in self.cannot_build:
            server |= {"status": "ERROR", "fault": {"code": 500, "message": "No valid host was found."}}
        elif server["status"] == "BUILD":
            address = {"addr": self.on_create(server["name"]), "version": 4, "OS-EXT-IPS:type": "fixed"}
            server |= {"status": "ACTIVE", "addresses": {"site": [address]}}

    def _all_servers(self, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        pattern = query.get("name", "")
        return 200, {"servers": [each for each in self.servers.values() if re.search(pattern, each["name"])]}

    def _delete(self, number: str, *, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if number not in self.servers:
            raise RefusedError(404, "itemNotFound", f"Instance {number} could not be found.")
        self.servers[number]["OS-EXT-STS:task_state"] = "deleting"
        self._looks[number] = 0
        return 204, None


_CALLS: dict[str, Any] = {
    r"GET /image/v2/images": OpenStackService._all_images,
    r"GET /image/v2/images/([^/]+)": OpenStackService._image,
    r"GET /compute/v2.1/flavors/detail": OpenStackService._all_flavors,
    r"GET /compute/v2.1/flavors/([^/]+)": OpenStackService._flavor,
    r"GET /network/v2.0/networks": OpenStackService._all_networks,
    r"GET /network/v2.0/networks/([^/]+)": OpenStackService._network,
    r"POST /compute/v2.1/servers": OpenStackService._create,
    r"GET /compute/v2.1/servers/detail": OpenStackService._all_servers,
    r"GET /compute/v2.1/servers/([^/]+)": OpenStackService._server,
    r"DELETE /compute/v2.1/servers/([^/]+)": OpenStackService._delete,
}


class _Handler(BaseHTTPRequestHandler):
    openstack: OpenStackService
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        where = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        query = {name: values[0] for name, values in parse_qs(where.query).items()}
        self.openstack.calls.append(f"{self.command} {where.path}")
        headers = {}
        try:
            status, answer = self.openstack.answer(
                self.command, where.path, query, body, self.headers.get("X-Auth-Token")
            )
            if where.path.endswith("/auth/tokens"):
                headers["X-Subject-Token"] = self.openstack.new_token()
        except RefusedError as refusal:
            status, answer = refusal.status, refusal.body
        content = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        pass
