"""Invitations, guests, quotas, cookies and origins, asked of a real hub with TLS and subdomains."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from jupyterhub import orm
from jupyterhub.utils import utcnow
from websocket import ABNF, WebSocketBadStatusException

from sfxlab.hub.guests import send_home
from sfxlab.hub.policy import Proposals
from sfxlab.hub.quota import measure

PROPOSALS = """
[proposals.one@]
title = "One"
members = { anna@ = "lead", bob@ = "analyst", carol@ = "viewer" }
data = ["DATA/one"]
quota = "1 MB"

[proposals.two@]
title = "Two"
members = { dan@ = "lead", eve@ = "viewer" }
"""

SITE = """
[dashboards]
dask = "analysts"
others = "nobody"
"""

WRITE = """
import pathlib
try:
    print(pathlib.Path({path!r}).write_text("x"))
except OSError as error:
    print(error.strerror)
"""

ASK = """
import json, os, requests
here, token = os.environ["JUPYTERHUB_API_URL"], os.environ["JUPYTERHUB_API_TOKEN"]
paths = ["users", "users/{other}", "groups", "proxy", "services", "users/{me}/tokens", "shares/{shared}/"]
answers = [requests.get(f"{{here}}/{{path}}", headers={{"Authorization": f"token {{token}}"}}) for path in paths]
print(json.dumps([answer.status_code for answer in answers]))
"""

# Two pages that say what a browser sends them; the first answers like a dashboard of Dask.
PAGES = """
import subprocess, sys
PAGE = '''
import http.server, json, sys, threading
def serve(kind):
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"type": kind, "cookies": self.headers.get("Cookie", "")}).encode())
    server = http.server.HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever).start()
    return server.server_port
print(serve("Scheduler"), serve("another"), flush=True)
'''
process = subprocess.Popen([sys.executable, "-c", PAGE], start_new_session=True, text=True, stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL)
print(process.stdout.readline())
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, start_hub: Callable[..., Any]) -> Iterator[Any]:
    people, accounts = ["anna", "bob", "carol", "dan", "eve"], ["proposal-one", "proposal-two"]
    folder = tmp_path_factory.mktemp("places")
    with start_hub(folder, PROPOSALS, people, accounts, SITE, domain="hub.localhost") as running:
        folder = running.data / "one"
        folder.mkdir()
        shutil.chown(folder, group=running.name("proposal-one"))
        folder.chmod(0o2770)
        (folder / "run.h5").write_bytes(os.urandom(2_000_000))
        measure(running.folder / "state", Proposals.read(running.folder / "proposals.toml"))
        yield running


def _page(hub: Any, person: str) -> requests.Response:
    if person not in hub.sessions:
        assert hub.log_in(person).status_code == 302
    return hub.sessions[person].get(hub.url("/services/proposals/"), timeout=60)


def _press(hub: Any, person: str, action: str, **fields: str) -> requests.Response:
    """Press a button of the page."""
    page = _page(hub, person).text
    found = re.search(r'name="_xsrf" value="([^"]*)"', page)
    form = {"_xsrf": found[1] if found else "", "proposal": hub.name("one"), "action": action, **fields}
    return hub.sessions[person].post(hub.url("/services/proposals/"), data=form, timeout=60)


def _accept(hub: Any, person: str, link: str) -> requests.Response:
    """Follow a link as a browser does, and accept."""
    if person not in hub.sessions:
        assert hub.log_in(person).status_code == 302
    session = hub.sessions[person]
    page = session.get(link, timeout=60)
    if not page.ok:
        return page
    form = dict(re.findall(r'name="(\w+)"\s+value="([^"]*)"', page.text))
    form["_xsrf"] = next(each.value for each in session.cookies if each.name == "_xsrf" and each.path == "/hub/")
    return session.post(link.partition("?")[0], data=form, allow_redirects=False, timeout=60)


def _wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 90
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.5)
    return condition()


def test_cookies_are_for_this_site_over_tls_and_out_of_reach_of_scripts(hub: Any) -> None:
    answer = hub.log_in("carol")
    cookies = answer.raw.headers.getlist("Set-Cookie")
    logins = [each for each in cookies if each.startswith(("__Host-jupyterhub-hub-login", "jupyterhub-session-id"))]
    assert len(logins) == 2
    for cookie in logins:
        attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
        assert {"httponly", "secure", "samesite=lax"} <= attributes
    assert (
        "frame-ancestors 'none'"
        in hub.sessions["carol"].get(f"{hub.address}/hub/home").headers["content-security-policy"]
    )
    page = _page(hub, "carol")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert all("secure" in each.lower() for each in page.raw.headers.getlist("Set-Cookie"))


def test_pages_of_other_sites_make_nobody_act(hub: Any) -> None:
    """A request that another site's page sends carries cookies at most; the hub wants more."""
    hub.log_in("anna")
    session = hub.sessions["anna"]
    elsewhere = {"Origin": "https://elsewhere.org", "Referer": "https://elsewhere.org/", "Sec-Fetch-Site": "cross-site"}
    for method, path in (("POST", f"users/{hub.name('anna')}/tokens"), ("POST", f"users/{hub.name('anna')}/server")):
        answer = session.request(method, f"{hub.address}/hub/api/{path}", headers=elsewhere, json={}, timeout=60)
        assert answer.status_code == 403
    form = {"proposal": hub.name("one"), "action": "invite", "days": "7"}
    assert _page(hub, "anna").ok
    assert session.post(hub.url("/services/proposals/"), data=form, headers=elsewhere, timeout=60).status_code == 403
    assert "Access-Control-Allow-Origin" not in session.get(f"{hub.address}/hub/api/user", headers=elsewhere).headers


def test_above_the_quota_only_leads_start_the_shared_server(hub: Any) -> None:
    shared = hub.name("proposal-one")
    assert _wait_for(lambda: "of 1.0 MB" in _page(hub, "carol").text)
    assert "The quota is used up" in _page(hub, "bob").text
    refused = hub.ask("bob", "POST", f"/hub/api/users/{shared}/server")
    assert refused.status_code == 403
    assert "a lead has to start this server" in refused.text
    assert hub.start_server("anna", shared).ok
    path = hub.data / "one" / "by-lead.txt"
    assert hub.run("anna", shared, WRITE.format(path=str(path))).strip() == "1"


def test_own_servers_cannot_write_into_what_is_full_or_only_looked_at(hub: Any) -> None:
    """Nor ask the hub for more than who their owner is."""
    mine = hub.name("bob")
    assert hub.start_server("bob", mine).ok
    path = hub.data / "one" / "by-analyst.txt"
    assert hub.run("bob", mine, WRITE.format(path=str(path))).strip() == "Read-only file system"
    asked = ASK.format(me=mine, other=hub.name("anna"), shared=hub.name("proposal-one"))
    assert set(json.loads(hub.run("bob", mine, asked))) <= {403, 404}


@pytest.fixture(scope="module")
def pages(hub: Any) -> list[str]:
    """Ports of a dashboard and of another page, both of the shared server."""
    hub.start_server("anna", hub.name("proposal-one"))
    found: list[str] = hub.run("anna", hub.name("proposal-one"), PAGES).split()
    return found


def _go_in(hub: Any, person: str, path: str) -> requests.Response:
    """Open a page of a server as a browser does that has logged in at the hub, and let the server know who comes."""
    if person not in hub.sessions:
        assert hub.log_in(person).status_code == 302
    session = hub.sessions[person]
    page: requests.Response = session.get(hub.url(path), timeout=60)
    if 'name="scopes"' in page.text:
        form = re.findall(r'name="(_xsrf|scopes)"[^>]*value="([^"]*)"', page.text.replace("\n", " "))
        page = session.post(page.url, data=form, headers={"Referer": page.url}, timeout=60)
    return page


def test_each_server_has_an_origin_of_its_own_and_gets_no_login_but_its_own(hub: Any, pages: list[str]) -> None:
    shared = hub.name("proposal-one")
    page = _go_in(hub, "anna", f"/user/{shared}/proxy/{pages[0]}/")
    assert page.url.startswith(f"https://{shared}.{hub.domain}:")
    told = {part.partition("=")[0].strip() for part in page.json()["cookies"].split(";")}
    assert told <= {f"__Host-jupyterhub-user-{shared}", "jupyterhub-session-id", "_xsrf"}
    kept = {cookie.name: cookie for cookie in hub.sessions["anna"].cookies}
    for name, host in (("__Host-jupyterhub-hub-login", ""), (f"__Host-jupyterhub-user-{shared}", f"{shared}.")):
        assert (kept[name].domain, kept[name].path, kept[name].secure) == (f"{host}{hub.domain}", "/", True)


def test_a_page_of_one_server_does_nothing_at_another_or_at_the_hub(hub: Any) -> None:
    """Such pages are of the same site, so that cookies go with what they send."""
    shared, session = hub.name("proposal-one"), hub.sessions["anna"]
    hub.start_server("anna", shared)
    kernels = hub.url(f"/user/{shared}/api/kernels")
    assert _go_in(hub, "anna", f"/user/{shared}/lab").ok
    theirs, own = (hub.url(f"/user/{name}/").rpartition("/user")[0] for name in (hub.name("bob"), shared))
    near = {"Origin": theirs, "Referer": f"{theirs}/", "Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}
    assert session.post(kernels, json={}, headers=near, timeout=60).status_code == 403
    read = session.get(kernels, headers=near, timeout=60)
    assert "Access-Control-Allow-Origin" not in read.headers
    for path in (f"users/{hub.name('anna')}/tokens", f"users/{shared}/server"):
        answer = session.post(f"{hub.address}/hub/api/{path}", json={}, headers=near, timeout=60)
        assert answer.status_code == 403
    xsrf = next(each.value for each in session.cookies if each.name == "_xsrf" and shared in each.domain)
    mine = {"Origin": own, "Referer": f"{own}/", "Sec-Fetch-Site": "same-origin", "X-XSRFToken": xsrf}
    made = session.post(kernels, json={}, headers=mine, timeout=60)
    assert made.status_code == 201
    socket = f"/user/{shared}/api/kernels/{made.json()['id']}/channels"
    cookies = requests.cookies.get_cookie_header(session.cookies, requests.Request("GET", hub.url(socket)).prepare())
    browser = {"cookie": cookies, "as_browser": True}
    hub.connect("anna", socket, origin=own, **browser).close()
    with pytest.raises(WebSocketBadStatusException, match="403"):
        hub.connect("anna", socket, origin=theirs, **browser)


def test_pages_of_programs_are_handed_on_to_whom_the_site_says(hub: Any, pages: list[str]) -> None:
    shared, (dashboard, other) = hub.name("proposal-one"), pages
    for person, port, status in (
        ("anna", dashboard, 200), ("bob", dashboard, 200), ("carol", dashboard, 403), ("anna", other, 403),
    ):  # fmt: skip
        assert hub.ask(person, "GET", f"/user/{shared}/proxy/{port}/").status_code == status, (person, port)


def test_an_invitation_lets_look_and_nothing_else_until_it_is_withdrawn(hub: Any) -> None:
    shared = hub.name("proposal-one")
    hub.start_server("anna", shared)
    server = f"/user/{shared}/api"
    Path(f"~{shared}/together.txt").expanduser().write_text("seen")
    kernel = hub.ask("anna", "POST", f"{server}/kernels", json={}).json()["id"]
    assert hub.ask("dan", "GET", f"{server}/contents").status_code == 403
    page = _press(hub, "anna", "invite", days="7").text
    found = re.search(r"<code>([^<]*)</code>", page)
    assert found is not None
    link = found[1]
    assert _accept(hub, "dan", link).status_code == 302
    assert _wait_for(lambda: hub.ask("dan", "GET", f"{server}/contents").status_code == 200)
    for method, path, body in (
        ("POST", "kernels", {}), ("POST", "terminals", {}), ("PUT", "contents/x.txt", {"type": "file"}),
        ("DELETE", "contents/x.txt", None), ("DELETE", f"kernels/{kernel}", None),
    ):  # fmt: skip
        assert hub.ask("dan", method, f"{server}/{path}", json=body).status_code == 403
    assert hub.name("dan") in _page(hub, "anna").text
    text = {"format": "text", "type": "file"}
    room = hub.ask("anna", "PUT", f"{server}/collaboration/session/together.txt", json=text).json()
    path = f"{server}/collaboration/room/text:file:{room['fileId']}?sessionId={room['sessionId']}"
    withdrawn = re.search(r'name="invitation" value="(sc_\d+)"', page)
    assert withdrawn is not None
    watched = f"{server}/kernels/{kernel}/channels"
    with closing(hub.connect("dan", path)) as reading, closing(hub.connect("dan", watched)) as watching:
        assert _press(hub, "anna", "withdraw", invitation=withdrawn[1]).ok
        assert _wait_for(lambda: hub.ask("dan", "GET", f"{server}/contents").status_code == 403)
        for socket in (reading, watching):
            while (frame := socket.recv_frame()).opcode != ABNF.OPCODE_CLOSE:
                pass
            assert int.from_bytes(frame.data[:2], "big") == 1008
    with pytest.raises(WebSocketBadStatusException, match="403"):
        hub.connect("dan", watched)
    assert _accept(hub, "eve", link).status_code == 404
    assert hub.ask("bob", "GET", f"{server}/contents").status_code == 200


def test_only_leads_invite_by_the_page(hub: Any) -> None:
    assert "Make a link" not in _page(hub, "bob").text
    for person in ("bob", "carol", "dan"):
        assert _press(hub, person, "invite", days="7").status_code == 403
    assert _press(hub, "anna", "invite", days="1000").status_code == 400
    assert requests.get(hub.url("/services/proposals/"), verify=hub.verify, allow_redirects=False).status_code == 302


def test_a_lead_invites_by_the_command(hub: Any) -> None:
    hub.start_server("anna", hub.name("proposal-one"))

    def invite(person: str, *options: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "SFXLAB_TOKEN": hub.token(person), "SSL_CERT_FILE": hub.verify}
        address = hub.address.replace(hub.domain, "127.0.0.1")  # not every system finds names below .localhost
        command = [sys.executable, "-m", "sfxlab", "hub", "invite", hub.name("one"), "--hub", address, *options]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    made = json.loads(invite("anna", "--days", "2", "--run", "--json").stdout)["invitations"][0]
    assert made["may_run"]
    assert _accept(hub, "eve", made["link"].replace("127.0.0.1", hub.domain)).status_code == 302
    server = f"/user/{hub.name('proposal-one')}/api"
    assert _wait_for(lambda: hub.ask("eve", "POST", f"{server}/kernels", json={}).status_code == 201)
    assert f"guest {hub.name('eve')}" in invite("anna", "--list").stdout
    assert f"guest {hub.name('eve')}" not in invite("anna", "--remove", hub.name("eve")).stdout
    assert _wait_for(lambda: hub.ask("eve", "GET", f"{server}/kernels").status_code == 403)
    assert made["name"] not in invite("anna", "--withdraw", made["name"]).stdout
    refused = invite("bob")
    assert refused.returncode == 1
    assert "only leads invite" in refused.stderr


@pytest.fixture
def database() -> Iterator[Any]:
    session = orm.new_session_factory("sqlite:///:memory:")()
    yield session
    session.close()


def _somebody(database: Any, name: str) -> Any:
    user = orm.User(name=name)
    database.add(user)
    database.commit()
    return user


@pytest.mark.parametrize("end", ["holds", "expired", "withdrawn"])
def test_guests_go_when_the_invitation_ends_by_which_they_came(database: Any, end: str) -> None:
    account, dan = _somebody(database, "proposal-one"), _somebody(database, "dan")
    spawner = orm.Spawner(name="", user=account)
    database.add(spawner)
    database.commit()
    scopes = ["access:servers!server=proposal-one/"]
    code, _ = orm.ShareCode.new(database, spawner, scopes=scopes, expires_in=3600)
    orm.ShareCode.new(database, spawner, scopes=scopes, expires_in=7200)
    share = code.exchange(dan)
    share.expires_at = code.expires_at
    if end == "expired":
        share.expires_at = code.expires_at = utcnow(with_tz=False) - timedelta(seconds=1)
    if end == "withdrawn":
        database.delete(code)
    database.commit()
    database.expire_all()
    send_home(SimpleNamespace(name="dan", orm_user=dan, db=database))
    database.expire_all()
    assert bool(dan.shared_with_me) == (end == "holds")
