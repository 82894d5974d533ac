"""`decoys`: how often a run's indexing errs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from sfxlab.cli.output import PATH, json_option, print_facts, print_json


@click.command("decoys")
@click.argument("run_path", metavar="RUN", type=PATH)
@click.option("--sample", type=click.IntRange(1), default=200, show_default=True, help="Hits to try.")
@json_option
def decoys_command(run_path: Path, sample: int, as_json: bool) -> None:
    """Estimate how many lattices of a run are false.

    Hits are indexed again with the azimuths of their peaks scrambled, so that what is found then is false.

    \b
    Example:
      sfxlab decoys run1
    """
    from sfxlab.report.decoys import count_decoys
    from sfxlab.store import Run

    count = count_decoys(Run(run_path), sample)
    if as_json:
        print_json(asdict(count) | {"rate": count.rate, "limit": count.limit})
    else:
        print_facts({"decoys indexed": count})
