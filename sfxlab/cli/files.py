"""`export`, `import`, `report` and `lab`: what goes out and comes in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sfxlab.errors import OutputExistsError, RunError

if TYPE_CHECKING:
    from sfxlab.store import Run


@click.command("export")
@click.argument("what", metavar="RUN|MERGED", type=click.Path(path_type=Path))
@click.option("--to", "kind", type=click.Choice(["stream", "hkl", "mtz"]), required=True, help="Format.")
@click.argument("output", metavar="FILE", type=click.Path(path_type=Path))
def export_command(what: Path, kind: str, output: Path) -> None:
    """Write a run as a CrystFEL stream, or merged intensities as .hkl or MTZ.

    \b
    Examples:
      sfxlab export run1 --to stream run1.stream
      sfxlab export merged.mtz --to hkl merged.hkl
    """
    from sfxlab.merging import read_merged
    from sfxlab.store import Run

    if output.exists():
        raise OutputExistsError("the file exists", path=output, remedy="remove it or choose another name")
    is_run = (what / "run.json").exists()
    if is_run != (kind == "stream"):
        raise RunError(
            f"a {'run' if is_run else 'merged file'} cannot be written as {kind}", path=what,
            expected="stream for a run, hkl or mtz for merged intensities",
            remedy="merge the run first: sfxlab merge RUN -y POINTGROUP -o merged.mtz" if is_run else None,
        )  # fmt: skip
    if is_run:
        frames = _export_stream(Run(what), output)
        click.echo(f"{frames} frames in {output}")
        return
    merged = read_merged(what)
    (merged.to_hkl if kind == "hkl" else merged.to_mtz)(output)
    click.echo(f"{len(merged)} reflections in {output}")


def _export_stream(run: Run, output: Path) -> int:
    from sfxlab.interop.stream_writer import write_stream

    return write_stream(
        output, run.results(), run.detector(), geometry_text=run.geometry_text, cell=run.recipe.cell,
        command=" ".join(run.record.command),
    )  # fmt: skip


@click.command("import")
@click.argument("stream", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
def import_command(stream: Path, output: Path) -> None:
    """Make a run of a CrystFEL stream.

    \b
    Example:
      sfxlab import indexamajig.stream -o run1
    """
    from sfxlab.store import import_stream

    run = import_stream(stream, output, sys.argv)
    counts = run.counts
    click.echo(f"{counts.frames} frames, {counts.lattices} crystals in {run.path}")


@click.command("report")
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--merged", "merged_path", type=click.Path(path_type=Path), help="Show these merged intensities too.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="HTML file.")
@click.option("--overwrite", is_flag=True, help="Replace the file where it exists.")
def report_command(run_path: Path, merged_path: Path | None, output: Path, overwrite: bool) -> None:
    """Write the report of a run: one HTML file, small enough to mail.

    \b
    Example:
      sfxlab report run1 --merged merged.mtz -o report.html
    """
    from sfxlab.merging import read_merged
    from sfxlab.report import write_report
    from sfxlab.store import Run

    merged = read_merged(merged_path) if merged_path else None
    write_report(Run(run_path), output, merged, overwrite=overwrite)
    click.echo(f"{output} ({output.stat().st_size / 1e6:.1f} MB)")


@click.command("lab", context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def lab_command(options: tuple[str, ...]) -> None:
    """Open JupyterLab in this folder; OPTIONS go to JupyterLab.

    \b
    Example:
      sfxlab lab --no-browser
    """
    import importlib.util
    import subprocess

    if importlib.util.find_spec("jupyterlab") is None:
        raise RunError("JupyterLab is not installed", remedy="pip install 'sfxlab[lab]'")
    sys.exit(subprocess.call([sys.executable, "-m", "jupyterlab", *options]))
