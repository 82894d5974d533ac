"""What people watch behind the hub's login: dashboards of their runs, and whether all is well."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from websocket import WebSocketBadStatusException

PROPOSALS = """
[proposals.one@]
title = "One"
members = { anna@ = "lead", bob@ = "analyst", carol@ = "viewer" }

[proposals.two@]
title = "Two"
members = { dan@ = "lead" }
"""

# A cluster of sfxlab's and another page, in processes of the shared server's account that outlive the kernel.
START = """
import subprocess, sys
CLUSTER = '''
from sfxlab.cluster import connect
import http.server
if __name__ == "__main__":
    client = connect("local", workers=1)
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    print(client.scheduler_info()["services"]["dashboard"], server.server_port, flush=True)
    server.serve_forever()
'''
process = subprocess.Popen([sys.executable, "-c", CLUSTER], start_new_session=True, text=True, stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL)
print(process.stdout.readline())
"""

REACH = """
import urllib.request
try:
    print(urllib.request.urlopen("http://127.0.0.1:{port}/status", timeout=30).status)
except OSError as error:
    print("refused")
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, start_hub: Callable[..., Any]) -> Iterator[Any]:
    people, accounts = ["anna", "bob", "carol", "dan"], ["proposal-one", "proposal-two"]
    with start_hub(tmp_path_factory.mktemp("watching"), PROPOSALS, [*people, "olga"], accounts) as running:
        running.start_server("bob", running.name("proposal-one"))
        yield running


@pytest.fixture(scope="module")
def ports(hub: Any) -> list[str]:
    """Of a Dask dashboard and of another page, both of the shared server."""
    found: list[str] = hub.run("bob", hub.name("proposal-one"), START).split()
    return found


@pytest.mark.parametrize("person", ["anna", "bob", "carol", "dan", "nobody"])
def test_dashboards_are_for_members_and_other_pages_for_those_who_run_code(
    hub: Any, ports: list[str], person: str
) -> None:
    members, runners = {"anna", "bob", "carol"}, {"anna", "bob"}
    proxy = f"/user/{hub.name('proposal-one')}/proxy"
    for path, method, let_in in (
        (f"{ports[0]}/status", "GET", members),
        (f"{ports[0]}/json/counts.json", "GET", members),
        (f"{ports[0]}/json/counts.json", "POST", runners),
        (f"127.0.0.1:{ports[0]}/status", "GET", members),
        (f"{ports[1]}/", "GET", runners),
        (f"absolute/{ports[1]}/", "GET", runners),
    ):
        answer = hub.ask(person, method, f"{proxy}/{path}")
        assert (answer.status_code not in (302, 403)) == (person in let_in), (path, answer.status_code)
    websocket = f"{proxy}/{ports[0]}/status/ws"
    if person in members:
        hub.connect(person, websocket).close()
    elif person != "nobody":
        with pytest.raises(WebSocketBadStatusException, match="403"):
            hub.connect(person, websocket)


def test_viewers_change_no_settings_of_a_shared_server(hub: Any) -> None:
    settings = f"/user/{hub.name('proposal-one')}/lab/api/settings/@jupyterlab/apputils-extension:themes"
    for person, status in (("bob", 204), ("carol", 403), ("dan", 403)):
        answer = hub.ask(person, "PUT", settings, json={"raw": "{}"})
        assert answer.status_code == status, person


def test_ports_of_the_hub_and_of_other_accounts_are_not_handed_on(hub: Any) -> None:
    port = hub.address.rpartition(":")[2]
    for path in (f"{port}/hub/api", f"localhost:{port}/hub/api", "example.org:80/"):
        assert hub.ask("anna", "GET", f"/user/{hub.name('proposal-one')}/proxy/{path}").status_code == 403


def test_a_server_of_another_proposal_does_not_reach_the_dashboard_by_its_port(hub: Any, ports: list[str]) -> None:
    hub.start_server("dan", hub.name("proposal-two"))
    code = REACH.format(port=ports[0])
    assert hub.run("bob", hub.name("proposal-one"), code).strip() == "200"
    assert hub.run("dan", hub.name("proposal-two"), code).strip() == "refused"


RUN = """
import os, subprocess, sys
script = '''
import os, time
from pathlib import Path
from sfxlab.store.counts import Counts
from sfxlab.store.progress import Progress
from sfxlab.store.writer import begin_writing
os.makedirs("scan/run-1")
begin_writing(Path("scan/run-1")).tell(Progress(Counts(frames=300, hits=30), 1000, 300, 10.0))
print(1, flush=True)
time.sleep(600)
'''
process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True, stdout=subprocess.PIPE)
process.stdout.readline()
os.symlink("/tmp", "scan/elsewhere")
"""


@pytest.fixture(scope="module")
def run(hub: Any) -> str:
    """The path of a run that is being written by a process of the shared server."""
    assert hub.run("bob", hub.name("proposal-one"), RUN) == ""
    return str(Path(f"~{hub.name('proposal-one')}/scan/run-1").expanduser())


def _health(hub: Any, person: str) -> Any:
    return hub.ask(person, "GET", "/services/health/json").json()


def _wait_until(hub: Any, status: int) -> Any:
    deadline = time.monotonic() + 60
    while (answer := hub.ask("olga", "GET", "/services/health/json")).status_code != status:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.5)
    return answer.json()


def test_members_see_the_runs_of_their_own_proposals_and_admins_all(hub: Any, run: str) -> None:
    for person in ("olga", "anna", "carol", "dan"):
        health = _wait_until(hub, 200) if person == "olga" else _health(hub, person)
        assert health["status"] == "well"
        seen = [(each["path"], each["state"], each["done"], each["total"]) for each in health["runs"]]
        assert seen == ([] if person == "dan" else [(run, "going on", 300, 1000)])
        assert (health["servers"].get(f"one{hub.suffix}") == 1) == (person != "dan")
        assert any(part["found"] for part in health["parts"]) == (person == "olga")
    assert hub.ask("nobody", "GET", "/services/health/json").status_code in (302, 403)


def test_the_page_says_what_the_json_says(hub: Any, run: str) -> None:
    page = hub.sessions["anna"].get(f"{hub.address}/services/health/", timeout=60)
    assert page.status_code == 200
    assert "The hub is <span class='well'>well" in page.text
    assert run in page.text


def test_prometheus_comes_with_its_own_token_and_members_do_not_get_in(hub: Any, run: str) -> None:
    def scrape(path: str) -> dict[tuple[str, ...], float]:
        headers = {"Authorization": f"token {(hub.folder / 'token').read_text()}"}
        answer = requests.get(hub.address + path, headers=headers, timeout=60)
        assert answer.status_code == 200
        families = text_string_to_metric_families(answer.text)
        return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}

    mine = scrape("/services/health/metrics")
    one = f"one{hub.suffix}"
    assert mine["sfxlab_up", "session service"] == 1
    assert mine["sfxlab_servers", one] == 1
    assert mine["sfxlab_runs", one] == 1
    assert mine["sfxlab_frames_per_second", one] == 30
    assert mine["sfxlab_heartbeat_age_seconds", one, run] < 60
    assert scrape("/hub/metrics")["jupyterhub_running_servers",] >= 1
    for person in ("anna", "dan"):
        for path in ("/services/health/metrics", "/hub/metrics"):
            assert hub.ask(person, "GET", path).status_code == 403


def test_a_part_that_does_not_answer_makes_the_whole_broken_until_it_does(hub: Any) -> None:
    service = _process_with(f"{hub.folder}/state/sessions.toml")
    os.kill(service, signal.SIGSTOP)
    try:
        health = _wait_until(hub, 503)
        assert [part["name"] for part in health["parts"] if not part["well"]] == ["session service"]
        assert hub.sessions["anna"].get(f"{hub.address}/services/health/", timeout=60).status_code == 503
    finally:
        os.kill(service, signal.SIGCONT)
    _wait_until(hub, 200)


def _process_with(argument: str) -> int:
    """The process that has this among its arguments."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
            if argument.encode() in arguments and b"serve" in arguments:
                return int(folder.name)
    raise AssertionError(f"no process has {argument}")


STEAL = """
import os
from pathlib import Path
theirs = Path({theirs!r})
os.symlink(theirs, "linked-run")
os.makedirs("linked-writers")
os.symlink(theirs / "writers", "linked-writers/writers")
os.makedirs("linked-file/writers")
os.symlink(theirs / "writers/writer-000001.json", "linked-file/writers/writer-000001.json")
"""


def test_links_among_the_runs_show_nobody_the_runs_of_others(hub: Any, run: str) -> None:
    """Neither a link to a run, nor one to its writers, nor one to the file that says how far it is."""
    two = hub.name("proposal-two")
    hub.start_server("dan", two)
    assert hub.run("dan", two, RUN) == ""
    theirs = str(Path(f"~{two}/scan/run-1").expanduser())
    assert hub.run("bob", hub.name("proposal-one"), STEAL.format(theirs=theirs)) == ""
    deadline = time.monotonic() + 60
    while not (seen := {each["path"] for each in _health(hub, "dan")["runs"]}):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert seen == {theirs}
    for person in ("anna", "olga"):
        paths = {each["path"] for each in _health(hub, person)["runs"]}
        assert paths == ({run} if person == "anna" else {run, theirs})
