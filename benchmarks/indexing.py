"""Indexing with a known cell and without: lattices, false ones, time and cells, against truth.

    python benchmarks/indexing.py [--quick] [--only SECTION] [FOLDER OF EXAMPLE DATA]

Prints a table for each section as it goes: known, generated, few, crowds, hard, unknown, cells, same. `--quick` takes
few of the generated frames. A process for each core; times are CPU times, measured in the process, compiled.

A lattice is right where it is an integer change of basis of a true lattice not yet taken and turned by less than 1°
(0.5° for measured data); how many of the false ones are such a lattice, but turned by up to 5°, stands behind their
number. Few peaks tell an orientation that badly. Data sets that are not there are left out.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import stills
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from stills import LATTICES, Still

import sfxlab
from sfxlab.crystal import UnitCell
from sfxlab.crystal.cell_clusters import cell_clusters
from sfxlab.indexing import IndexingResult, Target, index, index_without_cell, target_of
from sfxlab.indexing.decoys import DecoyCount, scrambled

ROOT = Path(__file__).parents[1]
RECIPE = sfxlab.Recipe().indexing
CELLS = {
    "lysozyme_cspad_100": UnitCell(79.1, 79.1, 38.1, lattice_type="tetragonal", unique_axis="c"),
    "cunir_ssx": UnitCell(96.4, 96.4, 96.4, lattice_type="cubic"),
}
SPOTS = {"lysozyme_cspad_100": "indexed", "cunir_ssx": "spots"}
TURNED = 5.0
"""Degrees."""
Make = Callable[[], Still]


@dataclass(frozen=True)
class Row:
    """Frames of one kind."""

    name: str
    stills: Sequence[Make]
    """What makes each of them, in the process that indexes it."""
    angle: float = 1.0
    """Degrees by which a right lattice may be turned."""


@dataclass(frozen=True)
class Outcome:
    """What became of a frame."""

    n_true: int
    right: int
    false: int
    turned: int
    """False ones that are a true one's indices, but turned by more than a right one may be, up to 5°."""
    seconds: float
    angles: tuple[float, ...]
    """Of the right lattices, to the true ones, degrees."""
    bases: NDArray[np.float64]
    """Real axes of primitive cells as rows, Å, (n, 3, 3)."""
    log10_p: tuple[float, ...]
    decoy: int = 0
    """Whether the same peaks with scrambled azimuths were indexed."""
    decoy_seconds: float = 0.0


class Benchmark:
    """The example data, the share of frames, and processes to index them."""

    def __init__(self, shared: Path, pool: ProcessPoolExecutor, quick: bool) -> None:
        self.shared, self.pool, self.quick = shared, pool, quick
        self.console = Console(width=153)

    def count(self, n: int) -> int:
        """How many frames of each lattice to take of `n`."""
        return max(1, n // 20) if self.quick else n

    def known(self) -> None:
        """Example data with their cells."""
        rows = []
        for name in ("lyso", "psii"):
            if (self.shared / name).is_dir():
                found = stills.simulated(self.shared / name)
                rows.append(Row(name, _given(found)))
                rows += [
                    Row(f"{name}, {kind}", _given([still for still in found if still.kind == kind]))
                    for kind in ("single", "weak", "double")
                ]
                rows.append(
                    Row(f"{name}, CrystFEL's peaks", _given(stills.simulated(self.shared / name, reference_peaks=True)))
                )
                some = found[:: 5 if self.quick else 1]
                rows.append(
                    Row(f"{name}, with noise to 5,000", [partial(stills.with_noise, s, i) for i, s in enumerate(some)])
                )
                rows.append(
                    Row(
                        f"{name}, 5,000 peaks of noise",
                        [partial(stills.with_noise, s, i, 5000, 0.0) for i, s in enumerate(some)],
                    )
                )
        rows += self._measured()
        self._print("known: with the cell", rows, _known)

    def generated(self) -> None:
        """Random cells of all lattices."""
        self._generated("generated: random cells, 20 % outliers, 0.3 pixels", [
            ("15-300 spots", 100, partial(stills.generated, spots=(15, 300))),
            ("30-200 spots, cell up to 3 % and 1.5° off", 10, partial(stills.generated, spots=(30, 200), wrong=0.03)),
            ("axes of 200-400 Å, 60-300 spots", 10, partial(stills.generated, spots=(60, 300), axes=(200, 400))),
        ])  # fmt: skip

    def few(self) -> None:
        """Few spots."""
        self._generated("few: few spots", [
            ("8-14 spots", 80, partial(stills.generated, spots=(8, 14))),
            ("axes of 5-12 Å, 8-14 spots", 25, partial(stills.small_cell, spots=(8, 14))),
            ("axes of 5-12 Å, 15-24 spots", 25, partial(stills.small_cell, spots=(15, 24))),
            ("axes of 5-12 Å, 25-40 spots", 25, partial(stills.small_cell, spots=(25, 40))),
        ])  # fmt: skip

    def crowds(self) -> None:
        """Several equal crystals."""
        self._generated("crowds: equal crystals of 40-80 spots each, 20 % outliers", [
            (f"{n} crystals", frames, partial(stills.generated, spots=(40, 80), crystals=n))
            for n, frames in ((2, 10), (3, 10), (5, 5), (7, 3), (10, 3))
        ])  # fmt: skip

    def hard(self) -> None:
        """Peaks that are mostly noise."""
        self._generated(
            "hard: mostly noise",
            [
                (
                    "5,000 peaks, 95 % outliers",
                    10,
                    partial(stills.generated, spots=(5000, 5000), axes=(40, 80), outliers=0.95),
                ),
            ],
        )

    def unknown(self) -> None:
        """Without a cell."""
        rows = [
            Row(name, _given(stills.simulated(self.shared / name)))
            for name in ("lyso", "psii")
            if (self.shared / name).is_dir()
        ]
        rows += self._measured()
        self._print("unknown: without a cell", rows, _unknown)
        self._generated("unknown: without a cell, 15-300 spots, 20 % outliers, 0.3 pixels", [
            *((
                f"axes of {low}-{high} Å", 25, partial(stills.generated, spots=(15, 300), axes=(low, high))
            ) for low, high in ((25, 60), (60, 120), (120, 200), (200, 300))),
            ("axes of 10-25 Å, 20-60 spots", 4, partial(stills.small_cell, spots=(20, 60), axes=(10, 25))),
        ], _unknown)  # fmt: skip

    def cells(self) -> None:
        """How many of some random cells of each Bravais lattice are found, with their symmetry, from some frames."""
        n_cells, n_frames = (1, 20) if self.quick else (3, 40)
        table = Table(
            title=f"cells: found without a cell from {n_frames} frames each, with their symmetry", title_justify="left"
        )
        for column in ("lattice", "right", "wrong"):
            table.add_column(column)
        for place, (kind, centring) in enumerate(LATTICES):
            right, wrong = 0, ""
            for number in range(n_cells):
                cell = stills.random_cell(np.random.default_rng((90, place, number)), kind, centring, (30, 250))
                make = partial(stills.generated, kind=kind, centring=centring, spots=(15, 200), cell=cell)
                row = Row("", [partial(make, np.random.default_rng((91, place, number, i))) for i in range(n_frames)])
                best = _best_cell(self._outcomes(row, _unknown))
                if best is None:
                    wrong += f"{cell} not found "
                elif _kind(best) == (kind, centring) and abs(best.volume / cell.volume - 1) < 0.02:
                    right += 1
                else:
                    wrong += f"{cell} as {best} "
            table.add_row(f"{kind} {centring}", f"{right} of {n_cells}", wrong)
        self.console.print(table)

    def same(self) -> None:
        """Whether results depend on the run, the order of frames or the number of workers."""
        makes = _given(
            stills.generated(rng, kind, centring, (40, 80), crystals=n)
            for n in (1, 3)
            for rng, kind, centring in stills.of_all_lattices(95 + n, 1)
        )
        for name, method in (("known cell", _known), ("without a cell", _unknown)):
            row = Row(name, makes)
            here = [_outcome(method, make, i, row.angle) for i, make in enumerate(makes)]
            there = self._outcomes(row, method)
            backwards = self._outcomes(Row(name, makes[::-1]), method)[::-1]
            same = all(
                np.array_equal(one.bases, other.bases) and one.log10_p == other.log10_p
                for others in (there, backwards)
                for one, other in zip(here, others, strict=True)
            )
            says = "the same" if same else "NOT THE SAME"
            self.console.print(f"same: {name}, {len(makes)} frames, one process, all cores, backwards: {says}")

    def _measured(self) -> list[Row]:
        real = self.shared / "real"
        rows = [
            Row(name, _given(stills.measured(real / name / f"{name}.h5", spots, CELLS[name])), 0.5)
            for name, spots in SPOTS.items()
            if (real / name).is_dir()
        ]
        if (real / "thermolysin_cspad").is_dir():
            found = stills.thermolysin(real / "thermolysin_cspad")
            rows.append(Row("thermolysin_cspad, but event 1", _given(found[:1] + found[2:]), 0.5))
            rows.append(Row("thermolysin_cspad, event 1 of 3 crystals", _given(found[1:2]), 0.5))
        lists = real / "spot_lists_tetragonal"
        if lists.is_dir():
            rows += [
                Row(f"spot lists, {finder}", _given(stills.spot_lists(lists, finder)), 0.5)
                for finder in ("local", "radial", "peakfinder8")
            ]
        return rows

    def _generated(
        self, title: str, kinds: Iterable[tuple[str, int, Callable[..., Still]]], method: Method | None = None
    ) -> None:
        rows = [
            Row(
                name,
                [partial(make, rng, kind, c) for rng, kind, c in stills.of_all_lattices(_seed(name), self.count(n))],
            )
            for name, n, make in kinds
        ]
        self._print(title, rows, method or _known)

    def _print(self, title: str, rows: Sequence[Row], method: Method) -> None:
        """Print a line of each row as soon as it is there."""
        self.console.print(f"\n[bold]{title}")
        self.console.print(
            f"{'':42}{'lattices':>9}{'right':>15}{'false':>9}   {'ms a frame: median, 95 %, most':<32}"
            + (f"{'ms a decoy':<24}{'decoys indexed'}" if method is _known else f"{'angle / °':<12}cell")
        )
        for row in rows:
            if row.stills:
                self.console.print(_line(row.name, self._outcomes(row, method), method), highlight=False)

    def _outcomes(self, row: Row, method: Method) -> list[Outcome]:
        work = partial(_outcome, method)
        return list(self.pool.map(work, row.stills, range(len(row.stills)), [row.angle] * len(row.stills), chunksize=4))


def _known(q: NDArray[np.float64], target: Target) -> IndexingResult:
    return index(q, target, RECIPE)


def _unknown(q: NDArray[np.float64], _target: Target) -> IndexingResult:
    return index_without_cell(q, RECIPE)


Method = Callable[[NDArray[np.float64], Target], IndexingResult]
SECTIONS = ("known", "generated", "few", "crowds", "hard", "unknown", "cells", "same")


def _seed(name: str) -> int:
    return sum(name.encode())


def _given(found: Iterable[Still]) -> list[Make]:
    return [partial(_itself, still) for still in found]


def _itself(still: Still) -> Still:
    return still


def _compile() -> None:
    """Index once in each way, so that no time counts the compiling."""
    still = stills.generated(np.random.default_rng(0), "orthorhombic", "P", (60, 60), axes=(40, 60), crystals=2)
    _outcome(_known, partial(_itself, still), 0, 1.0)
    _outcome(_unknown, partial(_itself, still), 0, 1.0)


def _outcome(method: Method, make: Make, number: int, largest_angle: float) -> Outcome:
    still = make()
    target = target_of(still.given)
    _ = target.nodes, target.settings, target.like_axes, target.coincidences  # made once for a run
    start = time.thread_time()
    found = method(still.q, target).lattices
    seconds = time.thread_time() - start
    decoy, decoy_seconds = 0, 0.0
    if method is _known:
        start = time.thread_time()
        decoy = int(len(method(scrambled(still.q, number), target).lattices) > 0)
        decoy_seconds = time.thread_time() - start
    primitive = np.linalg.inv(still.cell.primitive_transform)
    left, angles, turned_too_far = [basis @ primitive for basis in still.true], [], 0
    for lattice in found:
        basis = lattice.basis @ primitive if method is _known else lattice.basis
        turned = [rotation_between(basis, true) for true in left]
        if turned and min(turned) < largest_angle:
            angles.append(min(turned))
            left.pop(int(np.argmin(turned)))
        elif any(rotation_between(basis, true @ primitive) < TURNED for true in still.true):
            turned_too_far += 1
    bases = np.array([np.linalg.inv(lattice.basis) for lattice in found]).reshape(-1, 3, 3)
    return Outcome(
        len(still.true), len(angles), len(found) - len(angles), turned_too_far, seconds, tuple(angles), bases,
        tuple(lattice.log10_p for lattice in found), decoy, decoy_seconds,
    )  # fmt: skip


def rotation_between(found: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """Degrees between two primitive bases of one lattice; 180 where they are not the same lattice."""
    change = np.linalg.inv(true) @ found
    whole = np.rint(change)
    if round(np.linalg.det(whole)) != 1:
        return 180.0
    u, _, vt = np.linalg.svd(found @ np.linalg.inv(true @ whole))
    return float(np.degrees(np.arccos(np.clip((np.trace(u @ vt) - 1) / 2, -1, 1))))


def _line(name: str, outcomes: Sequence[Outcome], method: Method) -> str:
    fields = ("n_true", "right", "false", "turned")
    n, right, false, turned = (sum(getattr(o, field) for o in outcomes) for field in fields)
    share = f" ({right / n:.1%})" if n else ""
    wrong = f"{false} ({turned})" if turned else str(false)
    line = f"{name:42}{n:>9}{f'{right}{share}':>15}{wrong:>9}   {_times([o.seconds for o in outcomes]):<32}"
    if method is _known:
        decoys = DecoyCount(len(outcomes), sum(o.decoy for o in outcomes))
        return line + f"{_times([o.decoy_seconds for o in outcomes]):<24}{decoys.accepted} of {decoys.tried}"
    angles = [angle for o in outcomes for angle in o.angles]
    best = _best_cell(outcomes) if not name.startswith("axes") else ""
    return line + f"{np.median(angles) if angles else np.nan:<12.3f}{best}"


def _kind(cell: UnitCell) -> tuple[str, str]:
    return cell.lattice_type, cell.centring


def _times(seconds: Sequence[float]) -> str:
    return "  ".join(f"{1e3 * t:.1f}" for t in (*np.percentile(seconds, [50, 95]), max(seconds)))


def _best_cell(outcomes: Iterable[Outcome]) -> UnitCell | None:
    """The cell that most lattices share."""
    found = [(p, basis) for o in outcomes for p, basis in zip(o.log10_p, o.bases, strict=True)]
    if not found:
        return None
    order = np.argsort([p for p, _ in found], kind="stable")
    return cell_clusters(np.array([found[i][1] for i in order]))[0].cell


def main() -> None:
    """Run all sections, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("SFXLAB_SHARED_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("shared", nargs="?", type=Path, default=default, help="folder of example data")
    parser.add_argument("--quick", action="store_true", help="few of the generated frames")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="this section; may be given again")
    arguments = parser.parse_args()
    with ProcessPoolExecutor(os.cpu_count(), initializer=_compile) as pool:
        benchmark = Benchmark(arguments.shared, pool, arguments.quick)
        for section in arguments.only or SECTIONS:
            getattr(benchmark, section)()


if __name__ == "__main__":
    main()
