"""`estimate`: how long a run would take, before it is started."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

import click

from sfxlab.cli.output import PATH, PATH_OR_ADDRESS, json_option, print_facts, print_json

if TYPE_CHECKING:
    from sfxlab.cluster.capacity import Capacity
    from sfxlab.frames import FrameSource
    from sfxlab.recipe import Recipe

_COPIED = 256 * 2**20
"""Bytes of a copy that is tried; less where the files hold less."""


@click.command("estimate")
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option("-g", "--geometry", type=PATH_OR_ADDRESS, help="CrystFEL geometry file.")
@click.option("-p", "--cell", "cell_path", type=PATH_OR_ADDRESS, help="Unit cell: .cell, PDB or MTZ.")
@click.option("--recipe", "recipe_path", type=PATH, help="Parameters, TOML.")
@click.option("--cluster", default="local", show_default=True, help="Profile of a site, as for process.")
@click.option("--workers", type=click.IntRange(1), help="As for process.")
@click.option("--like", type=PATH, metavar="RUN", help="Take the time per frame from this run. [default: try some]")
@click.option("--sample", default=16, show_default=True, type=click.IntRange(1), help="Frames that are tried here.")
@click.option("--transfer-rate", type=click.FloatRange(0, min_open=True), help="MB/s of data to burst nodes.")
@click.option("--copy-to", type=PATH, help="Measure that by a copy to this folder, which burst nodes read.")
@json_option
def estimate_command(
    inputs: tuple[str, ...],
    geometry: Path | str | None,
    cell_path: Path | str | None,
    recipe_path: Path | None,
    cluster: str,
    workers: int | None,
    like: Path | None,
    sample: int,
    transfer_rate: float | None,
    copy_to: Path | None,
    as_json: bool,
) -> None:
    """Say beforehand how long 'process' takes, waiting included.

    That is for workers here and for nodes that SLURM adds (burst). Nothing is submitted. The time per frame is that of
    an earlier run or of some frames that are tried here; SLURM says when jobs would start; nodes that have to be
    started take ResumeTimeout. Without --transfer-rate and --copy-to
    burst nodes read the files as fast as this machine does.

    \b
    Examples:
      sfxlab estimate data.cxi -g data.geom -p my.cell --cluster maxwell --transfer-rate 200
      sfxlab estimate 'r0042/*.h5' -g jf.geom --like run1 --cluster maxwell --copy-to /cloud/scratch
    """
    from sfxlab.cluster.estimate import Work, estimate, in_words
    from sfxlab.crystal import read_cell
    from sfxlab.frames import open_frames
    from sfxlab.recipe import Recipe

    if transfer_rate is not None and copy_to is not None:
        raise click.UsageError("--transfer-rate and --copy-to exclude each other.")
    frames = open_frames(inputs, geometry)
    recipe = Recipe.read(recipe_path) if recipe_path else Recipe()
    if cell_path:
        recipe = recipe.with_cell(read_cell(cell_path))
    seconds = _seconds_per_frame(frames, recipe, like, sample)
    rate = _rate_of_copy(frames, copy_to) if copy_to else 1e6 * transfer_rate if transfer_rate else math.inf
    there = _capacity(cluster, workers, rate)
    work = Work(len(frames), seconds, sum(map(_size, frames.files)) / len(frames))
    found = estimate(work, there.here, there.burst)
    if as_json:
        burst = None if there.burst is None else asdict(there.burst)
        print_json(asdict(found) | {"work": asdict(work), "here_workers": asdict(there.here), "burst_workers": burst})
        return
    facts: dict[str, Any] = {
        "estimate": found,
        "frames": f"{work.frames}, {seconds:.3g} s and {work.bytes_per_frame / 1e6:.3g} MB each",
        "here": f"{there.here.workers} workers" + (f" in {in_words(there.here.wait)}" if there.here.wait >= 1 else ""),
    }
    if there.burst is not None:
        line = f", data at {rate / 1e6:.3g} MB/s" if math.isfinite(rate) else ", data where they are"
        facts["burst"] = f"{there.burst.workers} workers in {in_words(there.burst.wait)} at most{line}"
    print_facts(facts)


def _capacity(cluster: str, workers: int | None, bytes_per_second: float) -> Capacity:
    from dask.system import CPU_COUNT

    from sfxlab.cluster.capacity import Capacity, capacity
    from sfxlab.cluster.estimate import Machines
    from sfxlab.cluster.profiles import LocalProfile, SlurmProfile
    from sfxlab.cluster.site import site_profile
    from sfxlab.errors import ClusterError

    profile = site_profile(cluster, "index", workers=workers).profile
    if isinstance(profile, SlurmProfile):
        return capacity(profile, bytes_per_second)
    if isinstance(profile, LocalProfile):
        return Capacity(Machines(profile.workers or CPU_COUNT, 0.0), None)
    raise ClusterError(
        "the workers of this profile are not known before it runs",
        place=cluster,
        expected="a profile of SLURM or local",
    )


def _size(path: str) -> int:
    from sfxlab.remote.addresses import is_address
    from sfxlab.remote.files import RemoteFile

    return (RemoteFile(path).version.size or 0) if is_address(path) else os.path.getsize(path)


def _rate_of_copy(frames: FrameSource, folder: Path) -> float:
    """Bytes per second of a copy of the largest file, or of as much of it as tells enough."""
    from sfxlab.errors import InputError
    from sfxlab.remote.addresses import is_address

    local = [path for path in frames.files if not is_address(path)]
    if not local:
        raise InputError("no file to copy is on this machine", remedy="give --transfer-rate")
    began = time.perf_counter()
    with open(max(local, key=os.path.getsize), "rb") as source, NamedTemporaryFile(dir=folder) as target:
        while target.tell() < _COPIED and (block := source.read(2**22)):
            target.write(block)
        target.flush()
        os.fsync(target.fileno())
        copied = target.tell()
    return copied / (time.perf_counter() - began)


def _seconds_per_frame(frames: FrameSource, recipe: Recipe, like: Path | None, sample: int) -> float:
    """Seconds that a worker spends on a frame on average, reading included."""
    from sfxlab.errors import RunError
    from sfxlab.processing import process_one
    from sfxlab.store import Run

    numbers = sorted({len(frames) * number // sample for number in range(sample)})
    if like is not None:
        done = Run(like).counts.frames
        if not done:
            raise RunError("this run tells no time per frame", path=like, found="no frames that are done")
        spent = float(sum(Run(like).timings["seconds"].to_pylist())) / done
        return spent + _mean_seconds(lambda number: frames[number], numbers)
    # What is compiled or loaded once must not count: the second time does.
    for number in numbers:
        process_one(frames, number, number, recipe)
    return _mean_seconds(lambda number: process_one(frames, number, number, recipe), numbers)


def _mean_seconds(action: Callable[[int], object], numbers: list[int]) -> float:
    began = time.perf_counter()
    for number in numbers:
        action(number)
    return (time.perf_counter() - began) / len(numbers)
