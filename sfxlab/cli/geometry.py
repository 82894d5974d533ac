"""`geometry`: where the panels of the detector really are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

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
from sfxlab.cli.workers import cluster_options, workers_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sfxlab.detector_refinement import DetectorRefinement, RefinedGeometry

_ROWS_SHOWN = 64


@click.command("geometry")
@click.argument("run_path", metavar="RUN", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="Geometry file to write.")
@click.option(
    "--level", type=click.Choice(["detector", "groups", "panels"]), default="panels", show_default=True,
    help="What moves by itself: the detector only, also groups of the geometry file, also panels.",
)  # fmt: skip
@click.option("--out-of-plane", is_flag=True, help="Also move groups and panels along the beam, and tilt them.")
@click.option("-p", "--cell", "cell_path", type=PATH_OR_ADDRESS, help="Unit cell. [default: of the run's recipe]")
@click.option(
    "--cell-deviation", type=click.FloatRange(0, 0.2), default=0.01, show_default=True,
    help="How much cells differ from it, relative; 0: not at all. The less, the more the cell decides the distance.",
)  # fmt: skip
@click.option(
    "--cycles", type=click.IntRange(1, 20), default=2, show_default=True,
    help="Times to refine; in between, the run's peaks are indexed again.",
)  # fmt: skip
@click.option("--html", "html_path", type=PATH, help="Page with pictures of residuals before and after.")
@cluster_options()
@json_option
def geometry_command(
    run_path: Path,
    output: Path,
    level: Any,
    out_of_plane: bool,
    cell_path: Path | str | None,
    cell_deviation: float,
    cycles: int,
    html_path: Path | None,
    cluster: str,
    workers: int | None,
    as_json: bool,
) -> None:
    """Refine the detector's geometry against all crystals of a run.

    Beam centre, distance, tilt and panels are refined together with every crystal's orientation and cell, and written
    as a new geometry file. Process the frames again with it. The distance is as right as the cell where peaks reach no
    high angles.

    \b
    Examples:
      sfxlab geometry run1 -o refined.geom --html geometry.html
      sfxlab geometry run1 -o refined.geom --level detector -p lysozyme.cell --cell-deviation 0.001
    """
    from sfxlab.crystal import read_cell
    from sfxlab.detector_refinement import refine_geometry
    from sfxlab.geometry import write_geometry
    from sfxlab.store import Run

    for path in filter(None, (output, html_path)):
        check_output(path)
    run, cell = Run(run_path), read_cell(cell_path) if cell_path else None
    with workers_of(cluster, workers, "geometry") as client, _status() as report:
        found = refine_geometry(
            run, level=level, out_of_plane=out_of_plane, cell=cell, cell_deviation=cell_deviation, cycles=cycles,
            client=client, progress=report,
        )  # fmt: skip
    write_geometry(found.geometry, output)
    if html_path is not None:
        from sfxlab.report.geometry import write_refined_geometry

        write_refined_geometry(found, html_path)
    if as_json:
        print_json(_values(found))
    else:
        _show(found, output, html_path)


@contextmanager
def _status() -> Iterator[Callable[[int, int, float], None]]:
    """What to call after each pass; a line on standard error, where that is a terminal."""
    console = Console(stderr=True)
    with console.status("refining the detector") as status:
        yield lambda cycle, number, moved: status.update(
            f"refining the detector: cycle {cycle}, pass {number}, panels moved by up to {moved:.3f} px"
        )


def _values(found: RefinedGeometry) -> dict[str, Any]:
    r = found.refinement
    panels = [
        {
            "panel": p.name, "shift": p.shift, "shift_error": p.shift_error, "rotation": p.rotation,
            "rotation_error": p.rotation_error, "peaks": p.n_peaks, "median_before": p.median_before,
            "median_after": p.median_after,
        }
        for p in r.panels
    ]  # fmt: skip
    return {
        "crystals": r.n_crystals, "hits": found.n_hits, "indexed": found.indexed, "settled": r.settled,
        "median_before": r.sums_before.median_distance, "median_after": r.sums_after.median_distance,
        "shift": r.shift, "shift_error": r.shift_error, "distance_change": r.distance_change,
        "distance_error": r.distance_error, "tilt": r.tilt, "tilt_error": r.tilt_error, "held": r.held,
        "panels": panels,
    }  # fmt: skip


def _show(found: RefinedGeometry, output: Path, html_path: Path | None) -> None:
    r = found.refinement
    shift, error = r.shift, r.shift_error
    facts: dict[str, object] = {
        "crystals used": f"{r.n_crystals} ({r.sums_after.n_crystals[1]} left out)",
        "hits indexed": " → ".join(str(n) for n in found.indexed) + f" of {found.n_hits}",
        "median residual": f"{r.sums_before.median_distance:.2f} → {r.sums_after.median_distance:.2f} px",
        "beam centre": f"x {shift[0]:+.3f} ± {error[0]:.3f} px, y {shift[1]:+.3f} ± {error[1]:.3f} px",
        "distance": f"{100 * r.distance_change:+.4f} ± {100 * r.distance_error:.4f} %",
        "tilt": f"about x {r.tilt[0]:+.3f} ± {r.tilt_error[0]:.3f}°, y {r.tilt[1]:+.3f} ± {r.tilt_error[1]:.3f}°",
    }
    if r.held:
        facts["not determined"] = f"{', '.join(r.held)}: too few peaks; each stays where the others take it"
    if not r.settled:
        facts["not settled"] = f"panels still moved after {r.n_passes} passes; refine again with the new geometry"
    facts["geometry"] = str(output)
    if html_path is not None:
        facts["pictures"] = str(html_path)
    print_facts(facts)
    _show_panels(r)


def _show_panels(r: DetectorRefinement) -> None:
    if len(r.panels) > _ROWS_SHOWN:
        return
    rows = [
        (
            f"{p.name}, not determined" if p.name in r.held else p.name,
            *(f"{v:+.2f} ± {e:.2f}" for v, e in zip(p.shift, p.shift_error, strict=True)),
            *(f"{v:+.3f} ± {e:.3f}" for v, e in zip(p.rotation, p.rotation_error, strict=True)), p.n_peaks,
            fixed(p.median_before, 2), fixed(p.median_after, 2),
        )
        for p in r.panels
    ]  # fmt: skip
    head = (
        "panel",
        "x, px",
        "y, px",
        "z, px",
        "about x, °",
        "about y, °",
        "about z, °",
        "peaks",
        "median, px",
        "after",
    )
    print_table(head, rows, text=("panel",))
