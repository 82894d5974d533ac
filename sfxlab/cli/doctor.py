"""`doctor`: where workers would run, where each setting is from, and whether it works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from sfxlab.cli.output import json_option, print_json, print_table
from sfxlab.cli.workers import join_mpi

if TYPE_CHECKING:
    from sfxlab.cluster.doctor import Finding
    from sfxlab.cluster.site import SiteProfile


@click.command("doctor")
@click.argument("profile", default="local")
@click.option(
    "--step", type=click.Choice(["index", "learn", "tune", "geometry", "merge", "export"]), help="For a step."
)
@click.option("--only-show", is_flag=True, help="Show the values and try nothing.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=600, show_default=True, help="Seconds.")
@json_option
@click.pass_context
def doctor_command(
    context: click.Context, profile: str, step: Any, only_show: bool, timeout: float, as_json: bool
) -> None:
    """Show where a profile's values are from, and try it.

    PROFILE is local, slurm, mpi, the address of a Dask scheduler, or a table of a site file: the one that SFXLAB_SITE
    names, ./sfxlab-site.toml, site.toml in your configuration folder of sfxlab, /etc/sfxlab/site.toml. A value in an
    earlier one counts. One job is submitted, waited for and given a task; the exit code tells whether all went well.

    \b
    Examples:
      sfxlab doctor
      sfxlab doctor slurm --timeout 60
      sfxlab doctor maxwell --step merge --only-show
    """
    from sfxlab.cluster.site import site_profile

    site = site_profile(profile, step)
    if not only_show:
        join_mpi(site.profile)
    if not as_json:
        _show(site)
    findings = [] if only_show else _tried(site, timeout, as_json)
    if as_json:
        print_json(_values(site, findings))
    if not all(finding.good for finding in findings):
        context.exit(1)


def _tried(site: SiteProfile, timeout: float, quiet: bool) -> list[Finding]:
    from rich.console import Console
    from rich.markup import escape

    from sfxlab.cluster.doctor import examine

    findings = []
    with Console(stderr=True).status("trying it") as status:
        for finding in examine(site, lambda why: status.update(escape(why)), timeout):
            findings.append(finding)
    if not quiet:
        rows = [
            (
                "good" if finding.good else "BAD",
                finding.what,
                finding.found + (finding.remedy and f"\n→ {finding.remedy}"),
            )
            for finding in findings
        ]
        print_table(("", "tried", "found"), rows, "Tried", text=("", "tried", "found"))
    return findings


def _show(site: SiteProfile) -> None:
    from sfxlab.cluster.site import profile_names, site_files

    files = [str(file) for file in site_files()]
    click.echo(f"Site files: {', '.join(files) or 'none'}")
    click.echo(f"Profiles: {', '.join(profile_names())}")
    rows = [(row["name"], _text(row["value"]), row["from"], row["meaning"]) for row in _rows(site)]
    columns = ("key", "value", "from", "meaning")
    print_table(columns, rows, f"{site.name}: {type(site.profile).__doc__}", text=columns)


def _values(site: SiteProfile, findings: list[Finding]) -> dict[str, Any]:
    from dataclasses import asdict

    from sfxlab.cluster.site import profile_names, site_files

    return {
        "profile": site.name, "site_files": [str(file) for file in site_files()], "profiles": profile_names(),
        "values": _rows(site), "findings": [asdict(finding) for finding in findings],
        "good": all(finding.good for finding in findings),
    }  # fmt: skip


def _rows(site: SiteProfile) -> list[dict[str, Any]]:
    values = site.profile.model_dump(exclude_none=True)
    return [
        {"name": name, "value": values.get(name), "from": site.origins[name], "meaning": field.description or ""}
        for name, field in type(site.profile).model_fields.items()
    ]


def _text(value: Any) -> str:
    """As in a site file, in short."""
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        inner = {key: _text(item) for key, item in value.items() if item not in ({}, ())}
        return "; ".join(f"{key}: {text}" for key, text in inner.items() if text != "-") or "-"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "-"
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
