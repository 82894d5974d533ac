"""`python -m burst install|resume|suspend`: see README.md beside this package."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from pathlib import Path

import click

from sfxlab.errors import SfxlabError

from . import nodes
from .settings import BurstSettings

_PROGRAM = """\
#!/bin/sh
# Written by `python -m burst install`. slurmctld starts this with next to no environment.
{exports}
exec {python} -m burst {action} {settings} "$1"
"""

_LINES = """\
# For slurm.conf; sizes and names of the cloud nodes are yours.
ResumeProgram={folder}/burst-resume
SuspendProgram={folder}/burst-suspend
ResumeFailProgram={folder}/burst-suspend"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Nodes that SLURM's power saving starts when jobs wait for them, and gives back when they are idle."""


@main.command()
@click.argument("settings_path", metavar="BURST.TOML", type=click.Path(path_type=Path))
def install(settings_path: Path) -> None:
    """Write burst-resume and burst-suspend beside BURST.TOML, and print the lines for slurm.conf.

    They keep this Python, PATH and SLURM_CONF. Run it on the machine of slurmctld.
    """
    BurstSettings.read(settings_path)
    settings_path = settings_path.resolve()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        "SLURM_CONF": os.environ.get("SLURM_CONF", "/etc/slurm/slurm.conf"),
    }
    exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in environment.items())
    for action in ("resume", "suspend"):
        program = settings_path.with_name(f"burst-{action}")
        program.write_text(
            _PROGRAM.format(
                exports=exports, python=shlex.quote(sys.executable), action=action,
                settings=shlex.quote(str(settings_path)),
            )
        )  # fmt: skip
        program.chmod(0o755)
    click.echo(_LINES.format(folder=settings_path.parent))


@main.command()
@click.argument("settings_path", metavar="BURST.TOML", type=click.Path(path_type=Path))
@click.argument("names", metavar="NODES")
def resume(settings_path: Path, names: str) -> None:
    """Start NODES, such as cloud[1-3], and tell SLURM their addresses."""
    _act("resume", settings_path, names)


@main.command()
@click.argument("settings_path", metavar="BURST.TOML", type=click.Path(path_type=Path))
@click.argument("names", metavar="NODES")
def suspend(settings_path: Path, names: str) -> None:
    """Give NODES back."""
    _act("suspend", settings_path, names)


def _act(action: str, settings_path: Path, names: str) -> None:
    wanted = nodes.expanded(names)
    try:
        settings = BurstSettings.read(settings_path)
        logging.basicConfig(filename=settings.log, format="%(asctime)s %(levelname)s %(message)s")
        nodes.log.setLevel(logging.INFO)
        driver = nodes.driver_of(settings)
    except Exception as error:  # noqa: BLE001 - no node will come or go: SLURM has to know it of each
        for node in wanted:
            nodes.set_down(node, f"no {action}", error)
        sys.exit(1)
    sys.exit(0 if getattr(nodes, action)(wanted, driver) else 1)


if __name__ == "__main__":
    try:
        main()
    except SfxlabError as error:
        sys.exit(f"Error: {error}")
