"""`session`: what groups look at together, and the service that keeps it for them."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import signal
import ssl
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sfxlab.cli.output import PATH, json_option, print_facts, print_json, print_table
from sfxlab.errors import SessionError, SfxlabWarning

if TYPE_CHECKING:
    from sfxlab.session.access import Access
    from sfxlab.session.asking import WhoAsks

_DEFAULT = "sqlite:///sfxlab-sessions.sqlite"
_WIDEST = 100

catalogue_option = click.option(
    "--catalogue", envvar="SFXLAB_CATALOGUE", default=_DEFAULT, show_default=True, metavar="ADDRESS",
    help="sqlite:///FILE, postgresql://USER@HOST/DATABASE, or http://… of a session service. [env: SFXLAB_CATALOGUE]",
)  # fmt: skip


@click.group("session")
def session_command() -> None:
    """What a group looks at together: list it, show it, serve it.

    \b
    Examples:
      sfxlab session list
      sfxlab session show lyso-beamtime
      sfxlab session serve --tokens tokens.toml
    """


@session_command.command("list")
@catalogue_option
@json_option
def list_command(catalogue: str, as_json: bool) -> None:
    """List the sessions of a catalogue, or those of your proposals that a service keeps.

    \b
    Example:
      sfxlab session list --catalogue sqlite:////data/p1234/sessions.sqlite
    """
    found = _sessions(catalogue)
    if as_json:
        print_json(found)
    elif found:
        rows = [(_full_name(one), one["changes"], one["changed"][:19], one["person"]) for one in found]
        print_table(("session", "changes", "last change (UTC)", "made by"), rows, text=("session", "made by"))
    else:
        click.echo("no sessions yet")


@session_command.command("show")
@click.argument("name")
@catalogue_option
@json_option
def show_command(name: str, catalogue: str, as_json: bool) -> None:
    """Show what is in a session: who is there, values, tags, comments and records.

    \b
    Example:
      sfxlab session show lyso-beamtime --json
    """
    access = _look_in(name, catalogue)
    shown = {
        "session": name,
        "present": access.call("present"),
        "values": access.call("values"),
        "tags": {kind: access.call("tags", kind=kind) for kind in ("frame", "crystal", "run")},
        "comments": access.call("records", kind="comment"),
        "records": access.call("records", kind="record"),
    }
    print_json(shown) if as_json else _print_session(shown)


@session_command.command("serve")
@catalogue_option
@click.option("--tokens", type=PATH, help="People, their tokens and proposals: TOML, mode 0600.")
@click.option("--hub", "hub_file", type=PATH, help="JupyterHub's people: TOML with 'api' and [groups].")
@click.option("--address", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8899, show_default=True, help="0: any that is free.")
@click.option("--prefix", envvar="JUPYTERHUB_SERVICE_PREFIX", default="/", help="Path below which it answers.")
@click.option("--certificate", type=PATH, help="Certificate for https, PEM.")
@click.option("--key", type=PATH, help="Its key, PEM.")
def serve_command(
    catalogue: str,
    tokens: Path | None,
    hub_file: Path | None,
    address: str,
    port: int,
    prefix: str,
    certificate: Path | None,
    key: Path | None,
) -> None:
    """Keep the sessions of groups, and let in who may.

    Kernels reach it with Session("PROPOSAL/NAME", catalogue="http://HOST:PORT") and a token in SFXLAB_TOKEN; they need
    no access to the database. A viewer looks, an analyst changes and records, a lead can also freeze a session. Who is
    struck off is out within half a minute.

    \b
    A file of tokens, which only you may read:
      [[people]]
      name = "anna"
      display_name = "Anna B."
      token = "…"      # python3 -c 'import secrets; print(secrets.token_urlsafe())'
      proposals = { p1234 = "lead", p0007 = "viewer" }

    \b
    A file for a hub (these are the defaults; api is $JUPYTERHUB_API_URL):
      api = "http://127.0.0.1:8081/hub/api"
      groups = { viewer = "{proposal}-viewer", analyst = "{proposal}-analyst", lead = "{proposal}-lead" }

    \b
    Examples:
      sfxlab session serve --tokens tokens.toml
      sfxlab session serve --catalogue postgresql://sfxlab@db/sessions --hub hub.toml --prefix /services/sessions/
    """
    from sfxlab.session.asking import HubTokens, TokenFile

    if (tokens is None) == (hub_file is None):
        raise click.UsageError("Who may come in? Give --tokens FILE or --hub FILE.")
    if catalogue.startswith(("http://", "https://")):
        raise click.UsageError("A service keeps its sessions in a database: give sqlite:///… or postgresql://…")
    who_asks: WhoAsks = TokenFile(tokens) if tokens else HubTokens.read(hub_file or Path())
    encryption = _encryption(certificate, key)
    if encryption is None and not _is_loopback(address):
        warnings.warn(
            f"tokens travel in the clear to {address}: give --certificate and --key, or let a proxy encrypt",
            SfxlabWarning, stacklevel=1,
        )  # fmt: skip
    asyncio.run(_serve(catalogue, who_asks, address, port, prefix, encryption))


async def _serve(
    catalogue: str, who_asks: WhoAsks, address: str, port: int, prefix: str, encryption: ssl.SSLContext | None
) -> None:
    from sfxlab.session.catalogue import Catalogue
    from sfxlab.session.service import THREADS, SessionService

    database = Catalogue(catalogue, connections=THREADS)
    service = SessionService(database, who_asks, prefix)
    bound = service.listen(address, port, encryption)
    scheme = "http" if encryption is None else "https"
    host = f"[{address}]" if ":" in address else address
    click.echo(f"sessions of {database.address} at {scheme}://{host}:{bound}{prefix.rstrip('/')}")
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    await service.stop()


def _encryption(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        raise SessionError("the certificate or its key cannot be used", path=certificate, found=error) from error
    return context


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _sessions(catalogue: str) -> list[dict[str, Any]]:
    if catalogue.startswith(("http://", "https://")):
        from sfxlab.session.client import ask, my_token
        from sfxlab.session.wire import SESSIONS

        found: list[dict[str, Any]] = ask(catalogue.rstrip("/"), SESSIONS, my_token())["sessions"]
        return found
    from sfxlab.session.catalogue import Catalogue
    from sfxlab.session.ledger import sessions

    _require_file(catalogue)
    with Catalogue(catalogue).connected() as connection:
        return sessions(connection)


def _look_in(name: str, catalogue: str) -> Access:
    """A session to look at, without being seen there or making one."""
    if catalogue.startswith(("http://", "https://")):
        from sfxlab.session.client import ServiceAccess

        return ServiceAccess(catalogue, name, make=False)
    from sfxlab.session.access import DirectAccess
    from sfxlab.session.catalogue import Catalogue
    from sfxlab.session.identity import this_person

    _require_file(catalogue)
    return DirectAccess(Catalogue(catalogue), name, this_person(), make=False)


def _require_file(catalogue: str) -> None:
    # Looking must not leave an empty catalogue behind.
    path = catalogue.removeprefix("sqlite:///")
    if path != catalogue and not os.path.exists(path):
        raise SessionError(
            "there is no catalogue of sessions", path=path,
            remedy="give another with --catalogue, or go to the folder where the sessions are",
        )  # fmt: skip


def _full_name(session: dict[str, Any]) -> str:
    return f"{session['proposal']}/{session['name']}" if session["proposal"] else str(session["name"])


def _print_session(shown: dict[str, Any]) -> None:
    here = ", ".join(f"{one['display_name']} ({one['role']})" for one in shown["present"])
    tags = {
        f"{kind}s tagged": ", ".join(f"{tag} {count}" for tag, count in counts.items())
        for kind, counts in shown["tags"].items()
        if counts
    }
    print_facts({"session": shown["session"], "present": here or "nobody"} | tags)
    if shown["values"]:
        rows = [(name, _short(value)) for name, value in shown["values"].items()]
        print_table(("name", "value"), rows, title="\nValues", text=("name", "value"))
    for title, on in (("comments", "on"), ("records", "name")):
        if shown[title]:
            kept = [(one["name"], _short(one["value"]), one["person"], one["time"][:19]) for one in shown[title]]
            columns = (on, "what", "who", "when (UTC)")
            print_table(columns, kept, title=f"\n{title.capitalize()}", text=columns)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
