"""`export`, `import`, `report` and `lab`: what goes out and comes in."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from sfxlab.cli.output import PATH, PATH_OR_ADDRESS, check_output, json_option, print_json, progress_bar
from sfxlab.cli.workers import cluster_options, workers_of
from sfxlab.errors import InputError, RunError

if TYPE_CHECKING:
    from sfxlab.interop.pixel_reduction import PixelReduction
    from sfxlab.store import Run


_OF_RUNS = ("stream", "cxi", "unmerged-mtz", "dials")
_OF_MERGED = ("hkl", "mtz", "mmcif")


@click.command("export")
@click.argument("what", metavar="RUN|MERGED", type=PATH)
@click.option("--to", "kind", type=click.Choice([*_OF_RUNS, *_OF_MERGED]), required=True, help="Format.")
@click.option("-p", "--cell", "cell_path", type=PATH_OR_ADDRESS, help="Cell, for .hkl files.")
@click.option("--space-group", help="unmerged-mtz: as in 'P 43 21 2'.")
@click.option("--amplitudes", is_flag=True, help="mtz, mmcif: F after French & Wilson (needs reciprocalspaceship).")
@click.option("--free-from", type=PATH, help="mtz, mmcif: MTZ file to take free-R flags from. [default: 5 %, by hkl]")
@click.option("--run", "run_paths", type=PATH, multiple=True, help="mmcif: run that was merged; repeatable.")
@click.option("--bin", "binning", type=click.IntRange(1, 16), help="cxi, lossy: so many by so many pixels to one.")
@click.option("--photons", type=click.Choice(["uint8", "uint16"]), help="cxi, lossy: pixels as counts of photons.")
@cluster_options("cxi: ")
@click.argument("output", metavar="FILE", type=PATH)
@json_option
def export_command(
    what: Path,
    kind: str,
    cell_path: Path | str | None,
    space_group: str | None,
    amplitudes: bool,
    free_from: Path | None,
    run_paths: tuple[Path, ...],
    binning: int | None,
    photons: Literal["uint8", "uint16"] | None,
    cluster: str,
    workers: int | None,
    output: Path,
    as_json: bool,
) -> None:
    """Write a run, its hits or merged data in other formats.

    A run becomes a stream, or (cxi) a data set of its hits: pixels go to a folder beside FILE that ends in .parts, the
    geometry to a file that ends in .geom. The same command again goes on where it was interrupted. Its observations
    become an unmerged MTZ file, or X.expt and X.refl (dials). Merged data become .hkl, MTZ or mmCIF.

    \b
    Examples:
      sfxlab export run1 --to stream run1.stream
      sfxlab export run1 --to cxi hits.cxi
      sfxlab export run1 --to unmerged-mtz unmerged.mtz --space-group 'P 43 21 2'
      sfxlab export run1 --to dials run1.expt
      sfxlab export merged.mtz --to mtz final.mtz --amplitudes --free-from old.mtz
      sfxlab export merged.mtz --to mmcif merged.cif --run run1
    """
    from sfxlab.cli.statistics import facts_of_runs
    from sfxlab.crystal import read_cell
    from sfxlab.interop.pixel_reduction import PixelReduction
    from sfxlab.merging import read_merged
    from sfxlab.store import Run

    check_output(output)
    if not what.exists():
        raise InputError("there is no such run or merged file", path=what, remedy="check the path")
    is_run = what.is_dir()
    if (binning or photons) and kind != "cxi":
        raise InputError(f"{kind} holds no pixels to reduce", path=output, remedy="leave --bin and --photons out")
    if is_run != (kind in _OF_RUNS):
        raise InputError(
            f"a {'run' if is_run else 'merged file'} cannot be written as {kind}", path=what,
            expected=f"{', '.join(_OF_RUNS)} for a run; {', '.join(_OF_MERGED)} for merged intensities",
            remedy=f"merge the run first: sfxlab merge {what} -y POINTGROUP -o {output}" if is_run else None,
        )  # fmt: skip
    if kind == "cxi":
        _export_hits(Run(what), output, PixelReduction(binning or 1, photons), (cluster, workers), as_json)
        return
    if kind == "stream":
        frames = _export_stream(Run(what), output)
        _say(f"{frames} frames in {output}", {"file": str(output), "frames": frames}, as_json)
        return
    if is_run:
        (_export_dials if kind == "dials" else _export_unmerged)(Run(what), output, space_group, as_json)
        return
    merged = read_merged(what, cell=read_cell(cell_path) if cell_path else None)
    if kind == "hkl":
        merged.to_hkl(output)
    elif kind == "mtz":
        merged.to_mtz(output, with_amplitudes=amplitudes, free_from=free_from)
    else:
        merged.to_mmcif(output, facts_of_runs(run_paths), with_amplitudes=amplitudes, free_from=free_from)
    _say(f"{len(merged)} reflections in {output}", {"file": str(output), "reflections": len(merged)}, as_json)


def _export_stream(run: Run, output: Path) -> int:
    from sfxlab.interop.stream_writer import write_stream

    return write_stream(
        output, run.results(), run.detector(), geometry_text=run.geometry_text, cell=run.recipe.cell,
        command=" ".join(run.record.command),
    )  # fmt: skip


def _export_dials(run: Run, output: Path, space_group: str | None, as_json: bool) -> None:
    from sfxlab.interop.dials_files import write_dials

    expt, refl, crystals = write_dials(output, run.results(), run.detector_at)
    values = {"experiments": str(expt), "reflections": str(refl), "crystals": crystals}
    _say(f"{crystals} crystals in {expt} and {refl}", values, as_json)


def _export_unmerged(run: Run, output: Path, space_group: str | None, as_json: bool) -> None:
    from sfxlab.interop.unmerged_mtz import write_unmerged_mtz

    if space_group is None:
        raise InputError("an unmerged MTZ file needs a space group", remedy="give one: --space-group 'P 43 21 2'")
    history = (f"sfxlab run {run.path.name}", " ".join(run.record.command))
    crystals, observations = write_unmerged_mtz(
        output, run.results(), run.detector_at, space_group, cell=run.recipe.cell, history=history
    )
    values = {"file": str(output), "crystals": crystals, "observations": observations}
    _say(f"{observations} observations of {crystals} crystals in {output}", values, as_json)


def _export_hits(
    run: Run, output: Path, reduction: PixelReduction, where: tuple[str, int | None], as_json: bool
) -> None:
    from sfxlab.store.reduction import export_hits

    try:
        with workers_of(*where, "export") as client, progress_bar("writing hits") as progress:
            made = export_hits(run, output, reduction, client, progress)
    except KeyboardInterrupt:
        raise click.ClickException("interrupted; the same command again goes on where it stopped") from None
    values = {
        "file": str(made.path), "geometry": str(made.geometry), "frames": made.frames, "hits": made.hits,
        "pixels": str(reduction), "bytes_before": made.bytes_before, "bytes_after": made.bytes_after,
        "factor": made.factor, "unreadable": [{"frame": name, "reason": why} for name, why in made.unreadable],
    }  # fmt: skip
    sizes = f"{made.bytes_before / 1e6:.1f} MB to {made.bytes_after / 1e6:.1f} MB, {made.factor:.1f} times smaller"
    _say(f"{made.hits} hits of {made.frames} frames in {output} with {made.geometry.name}; {sizes}", values, as_json)
    if made.unreadable:
        reason = made.unreadable[0][1]
        click.echo(f"Warning: {len(made.unreadable)} hits cannot be read any more, the first: {reason}", err=True)


def _say(sentence: str, values: dict[str, object], as_json: bool) -> None:
    print_json(values) if as_json else click.echo(sentence)


@click.command("import")
@click.argument("stream", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the run.")
@json_option
def import_command(stream: Path, output: Path, as_json: bool) -> None:
    """Make a run of a CrystFEL stream.

    \b
    Example:
      sfxlab import indexamajig.stream -o run1
    """
    from sfxlab.store import import_stream

    check_output(output)
    run = import_stream(stream, output, sys.argv)
    counts = run.counts
    _say(
        f"{counts.frames} frames, {counts.lattices} crystals in {run.path}",
        {"run": str(run.path), "frames": counts.frames, "crystals": counts.lattices},
        as_json,
    )


@click.command("report")
@click.argument("run_path", metavar="RUN", type=PATH)
@click.option("--merged", "merged_path", type=PATH, help="Show these merged intensities too.")
@click.option("-p", "--cell", "cell_path", type=PATH_OR_ADDRESS, help="Cell, for .hkl files.")
@click.option("-o", "--output", type=PATH, required=True, help="HTML file.")
@click.option("--overwrite", is_flag=True, help="Replace the file where it exists.")
@json_option
def report_command(
    run_path: Path, merged_path: Path | None, cell_path: Path | str | None, output: Path, overwrite: bool, as_json: bool
) -> None:
    """Write the report of a run: one HTML file, small enough to mail.

    \b
    Example:
      sfxlab report run1 --merged merged.mtz -o report.html
    """
    from sfxlab.crystal import read_cell
    from sfxlab.merging import read_merged
    from sfxlab.report import write_report
    from sfxlab.store import Run

    check_output(output, overwrite=overwrite)
    run = Run(run_path)
    cell = read_cell(cell_path) if cell_path else run.recipe.cell
    write_report(run, output, read_merged(merged_path, cell=cell) if merged_path else None, overwrite=overwrite)
    size = output.stat().st_size
    _say(f"{output} ({size / 1e6:.1f} MB)", {"file": str(output), "bytes": size}, as_json)


@click.command("lab", context_settings={"ignore_unknown_options": True}, options_metavar="")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[JUPYTERLAB OPTIONS]")
def lab_command(options: tuple[str, ...]) -> None:
    """Open JupyterLab in this folder.

    \b
    Example:
      sfxlab lab --no-browser
    """
    import importlib.util

    if importlib.util.find_spec("jupyterlab") is None:
        raise RunError("JupyterLab is not installed", remedy="pip install 'sfxlab[lab]'")
    # In the place of this process, so that Ctrl-C and the exit code are JupyterLab's own.
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *options])
