"""What all commands share: tables and numbers on a terminal or as JSON, bars, and files to write."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from sfxlab.errors import OutputExistsError, RunError
from sfxlab.remote.addresses import is_address

PATH = click.Path(path_type=Path, readable=False)
"""Files are opened by those who know what they are, and can say so."""


class _PathOrAddress(click.Path):
    def convert(self, value: Any, *context: Any) -> Any:
        return value if is_address(value) else super().convert(value, *context)


PATH_OR_ADDRESS = _PathOrAddress(path_type=Path, readable=False)
"""A path, or the text of an address."""
json_option: Callable[[Any], Any] = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")

_WIDTH_OF_PIPES = 10_000


def print_facts(facts: Mapping[str, object]) -> None:
    """Names and values, one a line."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    for name, value in facts.items():
        table.add_row(name, str(value))
    _print(table)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None, text: Collection[str] = ()
) -> None:
    """Rows under headings, below a title; numbers to the right, the columns named in `text` to the left."""
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in text else "right", no_wrap=name not in text)
    for row in rows:
        table.add_row(*(str(value) for value in row))
    if title:
        _print(title, style="bold")
    _print(table)


def fixed(value: float, digits: int) -> str:
    """A number with so many digits behind the point; "-" for what is none."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def print_json(value: object) -> None:
    """JSON; what is not a number becomes null."""
    click.echo(json.dumps(_plain(value), indent=1))


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """What to call with the number done and of all; a bar on standard error, where that is a terminal."""
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)


def check_output(path: Path, *, overwrite: bool = False) -> None:
    """Refuse a file to write before any work is done for it.

    Raises `OutputExistsError` where it exists, `RunError` where it cannot be made.
    """
    folder = path.parent
    if os.path.lexists(path) and not (overwrite and path.is_file()):
        raise OutputExistsError("the output is already there", path=path, remedy="remove it or choose another name")
    if not folder.is_dir():
        raise RunError("there is no such folder to write to", path=folder, remedy=f"make it first: mkdir -p {folder}")
    if not os.access(folder, os.W_OK):
        raise RunError("this folder cannot be written to", path=folder, remedy="give another name or permissions")


def _print(content: Table | str, style: str | None = None) -> None:
    # File names may hold brackets and colons, which are no markup.
    plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    console = Console(**plain)
    if not console.is_terminal:
        console = Console(**plain, width=_WIDTH_OF_PIPES)
    with console.capture() as capture:
        console.print(content, style=style)
    # Tables fill their last column up with blanks.
    click.echo("\n".join(line.rstrip() for line in capture.get().rstrip("\n").split("\n")))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
