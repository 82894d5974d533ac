"""Tables and numbers on a terminal, or as JSON for a program."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

json_option: Callable[[Any], Any] = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def print_facts(facts: Mapping[str, object]) -> None:
    """Names and values, one a line."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    for name, value in facts.items():
        table.add_row(name, str(value))
    console().print(table)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Rows under headings; numbers to the right."""
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(formatted(value) for value in row))
    if title:
        console().print(title, style="bold")
    console().print(table)


def formatted(value: object) -> str:
    """A value as it reads well in a table."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return "-"
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def print_json(value: object) -> None:
    """JSON; what is not a number becomes null."""
    click.echo(json.dumps(_plain(value), indent=1, ensure_ascii=False))


def console() -> Console:
    """Standard output; wide where nobody looks, so that pipes get whole lines."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=200)


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
