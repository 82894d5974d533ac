"""`forecast`: how many more frames it takes."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from sfxlab.cli.merged import open_run_or_stream
from sfxlab.cli.output import (
    PATH,
    PATH_OR_ADDRESS,
    check_output,
    fixed,
    json_option,
    print_facts,
    print_json,
    print_table,
)

_ABOVE_ZERO = click.FloatRange(0, min_open=True)


@click.command("forecast")
@click.argument("inputs", metavar="RUN|STREAM...", nargs=-1, required=True, type=PATH)
@click.option("-y", "--symmetry", required=True, help="Point group, as for merge.")
@click.option("--at", "resolution", required=True, type=_ABOVE_ZERO, metavar="D", help="Resolution, Å.")
@click.option("--cc-half", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="CC1/2 that is wanted.")
@click.option("--rsplit", type=_ABOVE_ZERO, help="Rsplit that is wanted, a fraction.")
@click.option("--snr", type=_ABOVE_ZERO, help="Mean of I/σ that is wanted.")
@click.option(
    "--confidence", default=0.9, show_default=True, type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Of the limits that are given.",
)  # fmt: skip
@click.option(
    "--model",
    type=click.Choice(["none", "scaled", "partiality"]),
    default="scaled",
    show_default=True,
    help="As for merge.",
)
@click.option("-p", "--cell", "cell_path", type=PATH_OR_ADDRESS, help="Cell. [default: median of crystals]")
@click.option("--polarisation", default="horiz", show_default=True, help="As for merge.")
@click.option("--html", "html_path", type=PATH, help="Page with a chart of the trend.")
@json_option
def forecast_command(
    inputs: tuple[Path, ...],
    symmetry: str,
    resolution: float,
    cc_half: float | None,
    rsplit: float | None,
    snr: float | None,
    confidence: float,
    model: str,
    cell_path: Path | str | None,
    polarisation: str,
    html_path: Path | None,
    as_json: bool,
) -> None:
    """Foretell how many more frames are needed for a figure of merit.

    The trend is measured on random parts of the data that there are. Give one of --cc-half, --rsplit and --snr.

    \b
    Example:
      sfxlab forecast run1 -y 4/mmm --cc-half 0.5 --at 1.8 --html forecast.html
    """
    from sfxlab.crystal import read_cell
    from sfxlab.merging import forecast

    if sum(value is not None for value in (cc_half, rsplit, snr)) != 1:
        raise click.UsageError("Give one of --cc-half, --rsplit and --snr.")
    if html_path is not None:
        check_output(html_path)
    with ExitStack() as stack:
        found = forecast(
            [open_run_or_stream(path, stack) for path in inputs], symmetry, resolution,
            cc_half=cc_half, rsplit=rsplit, snr=snr, confidence=confidence, model=model,  # type: ignore[arg-type]
            cell=read_cell(cell_path) if cell_path else None, polarisation=polarisation,
        )  # fmt: skip
    if html_path is not None:
        from sfxlab.report.page import write_forecast

        write_forecast(found, html_path)
    values: dict[str, Any] = {
        **{name: value for name, value in asdict(found).items() if not name.startswith("_")},
        "value": found.value, "frames": found.frames, "more_frames": found.more_frames,
    }  # fmt: skip
    if as_json:
        print_json(values)
        return
    print_facts(
        {
            "forecast": found, "shell": f"{found.d_max:.2f} to {found.d_min:.2f} Å",
            "so far": f"{found.n_crystals:,} crystals of {found.n_frames:,} frames",
            **({"page": html_path} if html_path else {}),
        }
    )  # fmt: skip
    digits = 2 if found.figure == "snr" else 3
    per_crystal = found.n_frames / max(found.n_crystals, 1)
    rows = [
        (f"{p.n_crystals:,.0f}", f"{p.n_crystals * per_crystal:,.0f}", fixed(p.value, digits), fixed(p.spread, digits))
        for p in found.trend
    ]
    print_table(("crystals", "frames", found.figure, "±"), rows, "random parts of the data")
