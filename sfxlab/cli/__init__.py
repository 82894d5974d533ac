"""The command line, `sfxlab …`.

Commands import what they need when they run, so that `sfxlab --help` answers at once.
"""

from __future__ import annotations

import errno
import importlib
import io
import sys
import warnings
from typing import Any

import click

from sfxlab.errors import SfxlabError, SfxlabWarning

_COMMANDS = {
    "simulate": "frames",
    "show": "frames",
    "peaks": "frames",
    "recipe": "recipes",
    "process": "runs",
    "rerun": "comparison",
    "compare": "comparison",
    "watch": "watch",
    "cells": "cells",
    "decoys": "decoys",
    "mask": "masks",
    "geometry": "geometry",
    "ambiguity": "ambiguity",
    "merge": "merged",
    "stats": "statistics",
    "forecast": "forecast",
    "export": "files",
    "import": "files",
    "report": "files",
    "compile": "compiling",
    "doctor": "doctor",
    "estimate": "estimate",
    "lab": "files",
    "session": "session",
    "hub": "hub",
}
"""Each command and the module that it lives in."""


class _Commands(click.Group):
    """Commands by name, each loaded when it is wanted; errors of the user as sentences, without traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"sfxlab.cli.{_COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from sfxlab.errors import suggestion

        if args and not args[0].startswith("-") and args[0] not in _COMMANDS:
            hint = suggestion(args[0], _COMMANDS)
            raise click.UsageError(f"No such command '{args[0]}'" + (f"; {hint}" if hint else "."))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # Å and σ on terminals that have no such letters, and file names that are no text.
            sys.stdout.reconfigure(errors="backslashreplace")
        with warnings.catch_warnings():
            warnings.simplefilter("default", SfxlabWarning)
            warnings.showwarning = _show_warning  # type: ignore[assignment]
            try:
                return super().invoke(ctx)
            except SfxlabError as error:
                raise click.ClickException(str(error)) from error
            except OSError as error:
                if error.errno == errno.EPIPE:  # click ends quietly where nobody reads on
                    raise
                raise click.ClickException(str(_as_sentences(error))) from error


def _as_sentences(error: OSError) -> SfxlabError:
    """What the system refused; commands say more where they can foresee it."""
    return SfxlabError(
        "the system refuses", path=error.filename, found=error.strerror or error,
        remedy="check paths, permissions and free space",
    )  # fmt: skip


def _show_warning(message: Warning | str, *_: Any) -> None:
    click.echo(f"Warning: {message}", err=True)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sfxlab")
def main() -> None:
    """From detector frames to structure factors: serial femtosecond crystallography.

    \b
    Example, from nothing to structure factors:
      sfxlab simulate try
      sfxlab process try/frames.cxi -g try/frames.geom -p try/frames.cell -o try/run
      sfxlab merge try/run -y 4/mmm -o try/merged.mtz
    """
