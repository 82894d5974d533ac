"""`compile`: kernels ahead of time."""

from __future__ import annotations

import click
from rich.console import Console


@click.command("compile")
def compile_command() -> None:
    """Compile the kernels now, so that no first run waits for it.

    Takes a few minutes once after installing, and seconds where all is compiled already. The result is kept beside the
    source, or in the folder that the environment variable NUMBA_CACHE_DIR names.

    \b
    Example:
      sfxlab compile
    """
    from sfxlab.compiling import PARTS, compile_kernels

    console = Console(stderr=True)
    with console.status("compiling") as status:
        for number, part in enumerate(compile_kernels(), 1):
            console.print(f"compiled: {part}")
            status.update(f"compiling, {number} of {len(PARTS)} parts done")
