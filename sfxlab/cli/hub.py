"""`hub`: a JupyterHub for proposals."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from sfxlab.cli.output import PATH, json_option, print_json, print_table

_folder_option: Any = click.option(
    "--config", "folder", type=PATH, default="hub_config", show_default=True,
    help="Folder with site.toml, proposals.toml and jupyterhub_config.py.",
)  # fmt: skip


@click.group("hub")
def hub_command() -> None:
    """A JupyterHub where each proposal is a shared place.

    \b
    Example:
      sfxlab hub check --config hub_config
    """


@hub_command.command("check")
@_folder_option
@json_option
def check_command(folder: Path, as_json: bool) -> None:
    """Check the hub's policy, and that this machine is what it takes it for.

    \b
    Example:
      sfxlab hub check --config hub_config
    """
    from sfxlab.hub.checks import findings
    from sfxlab.hub.policy import Proposals
    from sfxlab.hub.site import Site

    site, proposals = Site.read(folder / "site.toml"), Proposals.read(folder / "proposals.toml")
    found = findings(site, proposals)
    if as_json:
        print_json({"findings": [asdict(each) for each in found], "proposals": len(proposals.proposals)})
    elif found:
        rows = [(each.subject, each.problem, each.remedy) for each in found]
        print_table(("where", "what is wrong", "what to do"), rows, text=("where", "what is wrong", "what to do"))
    else:
        print(f"{len(proposals.proposals)} proposals, {len(proposals.people())} people: nothing to mend")
    if found:
        raise SystemExit(1)


@hub_command.command("up")
@_folder_option
def up_command(folder: Path) -> None:
    """Start the hub here, once `check` has nothing to mend.

    \b
    Example:
      sfxlab hub up --config hub_config
    """
    from sfxlab.hub.checks import findings
    from sfxlab.hub.policy import PolicyError, Proposals
    from sfxlab.hub.site import Site

    found = findings(Site.read(folder / "site.toml"), Proposals.read(folder / "proposals.toml"))
    if found:
        first = found[0]
        raise PolicyError(
            f"{first.problem} ({len(found)} in all)", path=folder, place=first.subject, remedy=first.remedy
        )
    command = [sys.executable, "-m", "jupyterhub", "-f", str(folder / "jupyterhub_config.py")]
    os.execv(command[0], command)


@hub_command.command("licences")
@_folder_option
@json_option
def licences_command(folder: Path, as_json: bool) -> None:
    """List who accepted the terms of which program, when.

    \b
    Example:
      sfxlab hub licences --config hub_config
    """
    from sfxlab.hub.programs import Acceptances
    from sfxlab.hub.site import Site

    acceptances = Acceptances(Site.read(folder / "site.toml").hub.state / "accepted.sqlite")
    try:
        rows = [asdict(each) | {"time": each.time.isoformat(timespec="seconds")} for each in acceptances.all()]
    finally:
        acceptances.close()
    if as_json:
        print_json({"accepted": rows})
    else:
        columns = ("user", "program", "version", "time", "terms")
        print_table(columns, [[row[name] for name in columns] for row in rows], text=columns)
