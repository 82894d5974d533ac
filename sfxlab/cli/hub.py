"""`hub`: a JupyterHub for proposals."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sfxlab.cli.output import PATH, json_option, print_json, print_table

if TYPE_CHECKING:
    from sfxlab.hub.backup import Kept

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
    from sfxlab.hub.checks import advice, findings
    from sfxlab.hub.policy import Proposals
    from sfxlab.hub.site import Site

    site, proposals = Site.read(folder / "site.toml"), Proposals.read(folder / "proposals.toml")
    found, advised = findings(site, proposals), advice(site, proposals)
    if as_json:
        told = {"findings": [asdict(each) for each in found], "advice": [asdict(each) for each in advised]}
        print_json({**told, "proposals": len(proposals.proposals)})
    else:
        for heading, listed in (("what is wrong", found), ("what could be better", advised)):
            columns = ("where", heading, "what to do")
            if listed:
                print_table(columns, [(each.subject, each.problem, each.remedy) for each in listed], text=columns)
        if not found:
            print(f"{len(proposals.proposals)} proposals, {len(proposals.people())} people: nothing to mend")
    if found:
        raise SystemExit(1)


@hub_command.command("up")
@_folder_option
@click.option("--trial", "is_trial", is_flag=True, help="Make the accounts and directories that are missing. As root.")
def up_command(folder: Path, is_trial: bool) -> None:
    """Start the hub here, once `check` has nothing to mend.

    For a trial on a machine of your own, the accounts in the policy are made, with one password, which is printed.

    \b
    Examples:
      sfxlab hub up --config hub_config
      sfxlab hub up --config hub_config --trial
    """
    from sfxlab.hub.checks import findings
    from sfxlab.hub.policy import PolicyError, Proposals
    from sfxlab.hub.site import Site

    site, proposals = Site.read(folder / "site.toml"), Proposals.read(folder / "proposals.toml")
    if is_trial:
        from sfxlab.hub.trial import begin

        trial = begin(site, proposals)
        print(f"{site.hub.address}: {', '.join(trial.people) or 'nobody new'}, password {trial.password}", flush=True)
    found = findings(site, proposals)
    if found:
        first = found[0]
        raise PolicyError(
            f"{first.problem} ({len(found)} in all)", path=folder, place=first.subject, remedy=first.remedy
        )
    command = [sys.executable, "-m", "jupyterhub", "-f", str(folder / "jupyterhub_config.py")]
    os.execv(command[0], command)


@hub_command.command("down")
@_folder_option
@click.option("--trial", "is_trial", is_flag=True, required=True, help="Remove what `up --trial` made.")
@click.confirmation_option(prompt="Remove the accounts of the trial, and their home directories?")
def down_command(folder: Path, is_trial: bool) -> None:
    """End a trial, once its hub has been stopped.

    \b
    Example:
      sfxlab hub down --config hub_config --trial
    """
    from sfxlab.hub.site import Site
    from sfxlab.hub.trial import end

    left = end(Site.read(folder / "site.toml"))
    print(f"left, because there are data in it: {', '.join(left)}" if left else "the trial is over")


@hub_command.command("usage")
@_folder_option
@json_option
def usage_command(folder: Path, as_json: bool) -> None:
    """Measure what proposals have stored, beside their quotas.

    \b
    Example:
      sfxlab hub usage --config hub_config
    """
    from sfxlab.hub.policy import Proposals
    from sfxlab.hub.quota import measure, size_told
    from sfxlab.hub.site import Site

    found = measure(Site.read(folder / "site.toml").hub.state, Proposals.read(folder / "proposals.toml"))
    if as_json:
        print_json({name: {"used": each.used, "quota": each.quota} for name, each in found.items()})
        return
    rows = [
        (
            name,
            size_told(each.used),
            "" if each.quota is None else size_told(each.quota),
            "full" if each.is_full else "",
        )
        for name, each in found.items()
    ]
    print_table(("proposal", "stored", "quota", ""), rows, text=("proposal", ""))


@hub_command.command("invite")
@click.argument("proposal")
@click.option("--hub", "address", envvar="SFXLAB_HUB", required=True, metavar="ADDRESS",
              help="The hub, as browsers find it. [env: SFXLAB_HUB]")  # fmt: skip
@click.option("--days", type=click.FloatRange(0, 365, min_open=True), default=7, show_default=True,
              help="How long guests stay.")  # fmt: skip
@click.option("--look/--run", "looks", default=True, help="What guests may do: look (the default), or run code, too.")
@click.option("--list", "lists", is_flag=True, help="List the invitations that are open, and the guests.")
@click.option("--withdraw", metavar="NAME", help="End an invitation; its guests are out within seconds.")
@click.option("--remove", metavar="GUEST", help="Put one guest out.")
@json_option
def invite_command(
    proposal: str, address: str, days: float, looks: bool, lists: bool, withdraw: str | None, remove: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Invite to a proposal's shared server, as a lead of it.

    Prints a link for people who may log in at the hub. Your token, made on the hub's page "Token", is in SFXLAB_TOKEN.

    \b
    Examples:
      sfxlab hub invite p1234 --hub https://hub.site.org --days 7 --look
      sfxlab hub invite p1234 --hub https://hub.site.org --list
      sfxlab hub invite p1234 --hub https://hub.site.org --withdraw sc_3
    """
    import asyncio

    from sfxlab.hub.invitations import InvitationError, Invitations

    token = os.environ.get("SFXLAB_TOKEN")
    if not token:
        raise InvitationError("who is asking?", remedy="put your token into the environment variable SFXLAB_TOKEN")
    invitations = Invitations(f"{address.rstrip('/')}/hub/api", token, proposal)

    async def act() -> dict[str, Any]:
        if withdraw:
            await invitations.withdraw(withdraw)
        if remove:
            await invitations.remove(remove)
        if not (lists or withdraw or remove):
            made = await invitations.make(days, may_run=not looks)
            return {"invitations": [asdict(made) | {"link": address.rstrip("/") + made.link}], "guests": []}
        opened, guests = await invitations.open(), await invitations.guests()
        return {"invitations": [asdict(each) for each in opened], "guests": [asdict(each) for each in guests]}

    _show_invitations(asyncio.run(act()), as_json)


def _show_invitations(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    for each in found["invitations"]:
        allows = "look and run code" if each["may_run"] else "look"
        print(f"{each['name']}  until {each['expires'][:16]} UTC  {allows}  accepted {each['accepted']} times")
        if each["link"]:
            print(each["link"])
    for each in found["guests"]:
        print(f"guest {each['name']}  may {'look and run code' if each['may_run'] else 'look'}")
    if not found["invitations"]:
        print("no invitation is open")


@hub_command.command("values")
@_folder_option
@click.option("--policy", is_flag=True, help="Print the ConfigMap with proposals.toml instead.")
def values_command(folder: Path, policy: bool) -> None:
    """Print the values with which the chart of zero-to-jupyterhub makes this hub on Kubernetes.

    The policy is a ConfigMap of its own: a change of it holds within a minute or two, and no pod is started anew.

    \b
    Examples:
      sfxlab hub values --config hub_config > values.yaml
      sfxlab hub values --config hub_config --policy | kubectl apply -f -
    """
    from sfxlab.hub.chart import chart_values, policy_manifest

    proposals = folder / "proposals.toml"
    print(policy_manifest(proposals) if policy else chart_values(folder / "site.toml", proposals), end="")


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


@hub_command.command("backup")
@click.argument("target", type=PATH)
@_folder_option
def backup_command(target: Path, folder: Path) -> None:
    """Copy what the hub keeps into the new directory TARGET, while it runs.

    These are its databases (SQLite or PostgreSQL), its secrets in the state directory, and the files of its
    configuration; not data of proposals and home directories.

    \b
    Example:
      sfxlab hub backup --config hub_config /backup/hub-2026-11-21
    """
    from sfxlab.hub.backup import back_up

    _print_kept(back_up(folder, target))


@hub_command.command("restore")
@click.argument("source", type=PATH)
@_folder_option
def restore_command(source: Path, folder: Path) -> None:
    """Put the backup SOURCE back, for a hub that does not run; what was there is renamed, not removed.

    \b
    Example:
      sfxlab hub restore --config hub_config /backup/hub-2026-11-21
    """
    from sfxlab.hub.backup import restore

    _print_kept(restore(source, folder))


@hub_command.command("rotate")
@_folder_option
def rotate_command(folder: Path) -> None:
    """Make new secrets, which hold from the next start of the hub on, and say what people notice.

    \b
    Example:
      sfxlab hub rotate --config hub_config
    """
    from sfxlab.hub.backup import rotate

    for line in rotate(folder):
        click.echo(line)


def _print_kept(kept: list[Kept]) -> None:
    print_table(("file", "at"), [(each.name, each.source) for each in kept], text=("file", "at"))
