"""The hits of a run as a data set of their own, small enough to keep and to carry."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sfxlab.errors import ClusterError, OutputExistsError, RunError
from sfxlab.frames import FrameSequence
from sfxlab.geometry import Geometry, format_geometry
from sfxlab.interop.cxi_frames import geometry_of_parts, join_parts, part_attribute, unreadable_frames, write_part
from sfxlab.interop.pixel_reduction import PixelReduction, reduced_panels
from sfxlab.store.parts import committed_chunks, part_path, remove_leftovers, results_in_chunk
from sfxlab.store.run import Run
from sfxlab.whole_files import written_whole

if TYPE_CHECKING:
    from distributed import Client

_IN_FLIGHT_PER_THREAD = 3


@dataclass(frozen=True)
class Reduced:
    """What became of a data set."""

    path: Path
    geometry: Path
    frames: int
    """Processed frames of the run."""
    hits: int
    """Frames in the reduced file."""
    unreadable: tuple[tuple[str, str], ...]
    """Names of hits that are not in it because they can no longer be read, and why."""
    bytes_before: int
    """Size of the files that the run was made from, as far as they are known."""
    bytes_after: int
    """Size of the reduced file with its parts."""

    @property
    def factor(self) -> float:
        """How many times smaller the data set is."""
        return self.bytes_before / self.bytes_after


def export_hits(
    run: Run,
    path: str | os.PathLike[str],
    reduction: PixelReduction | None = None,
    client: Client | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Reduced:
    """Write the hits of a run to the CXI file `path` that reprocesses to the same results, here or on Dask workers.

    Pixels lie in a folder beside it, named as the file but for the ending `.parts`, one file for each chunk of the
    run; the geometry beside it ends in `.geom`. An export that was interrupted goes on where it stopped. Hits that
    cannot be read any more are listed in the file. Pixels are kept as they are unless `reduction` says otherwise.
    `progress` is called with the parts done and of all.

    Raises `OutputExistsError`, `RunError`, `InputError`, `GeometryError` or `ClusterError`.
    """
    path, reduction = Path(path).absolute(), reduction or PixelReduction()
    geometry_path, folder = path.with_suffix(".geom"), path.with_suffix(".parts")
    _check(run, path, geometry_path, folder)
    frames = _frames_of(run)
    reduced = reduced_panels(frames.geometry, reduction, _median_energy(run))
    chunks = committed_chunks(run.path)
    origin = _origin(run, reduction)
    parts = {chunk: folder / f"part-{chunk:06d}.cxi" for chunk in chunks}
    missing = _missing(run, folder, parts, origin)
    tasks = (
        _Part(run.path, chunk, _slice(run, frames, chunk), reduced, reduction, origin, parts[chunk])
        for chunk in missing
    )  # fmt: skip
    report = progress or (lambda done, total: None)
    report(len(chunks) - len(missing), len(chunks))
    with closing(_here(tasks) if client is None else _on_workers(client, tasks)) as done:
        for number, _ in enumerate(done, start=len(chunks) - len(missing) + 1):
            report(number, len(chunks))
    remove_leftovers(folder)
    learned = run.bad_pixels
    join_parts(path, list(parts.values()), "" if learned is None else str(learned))
    with written_whole(geometry_path) as file:
        file.write(_geometry_text(run, reduced, reduction).encode("utf-8", "backslashreplace"))
    return _summary(run, path, geometry_path, list(parts.values()))


@dataclass(frozen=True)
class _Part:
    """One part to be written; travels to a worker without pixels."""

    run_path: Path
    chunk: int
    frames: FrameSequence
    geometry: Geometry
    reduction: PixelReduction
    origin: str
    path: Path

    def write(self) -> int:
        hits = (r for r in results_in_chunk(self.run_path, self.chunk) if r.status in ("hit", "indexed"))
        write_part(self.path, hits, self.frames, self.geometry, self.reduction, self.origin)
        return self.chunk


def _check(run: Run, path: Path, geometry_path: Path, folder: Path) -> None:
    """Refuse what can be seen beforehand not to work."""
    if path in (geometry_path, folder):
        raise RunError("this ending is that of another file", path=path, expected="a name such as hits.cxi")
    for output in (path, geometry_path):
        if os.path.lexists(output):
            raise OutputExistsError("the output is already there", path=output, remedy="remove it, or export elsewhere")
    if not run.counts.hits:
        raise RunError("the run has no hits to write", path=run.path, found=f"{run.counts.frames} frames")


def _frames_of(run: Run) -> FrameSequence:
    frames = run.open_frames()
    if not isinstance(frames, FrameSequence):
        raise RunError("the frames of this run have no geometry", path=run.path)
    return frames


def _slice(run: Run, frames: FrameSequence, chunk: int) -> FrameSequence:
    those = run.record.frames_of(chunk)
    return frames[those.start : those.stop]


def _origin(run: Run, reduction: PixelReduction) -> str:
    """A name for all that the content of parts depends on."""
    record = run.record
    settings = (
        record.frames_sha256, record.geometry_sha256, record.chunk_size, record.started.isoformat(),
        record.recipe.to_toml(), str(reduction),
    )  # fmt: skip
    return hashlib.sha256(repr(settings).encode()).hexdigest()


def _missing(run: Run, folder: Path, parts: dict[int, Path], origin: str) -> list[int]:
    """Chunks whose part is not there yet, is older than its results, or lacks frames that could not be read then."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError("the folder of parts cannot be made", path=folder, found=error.strerror) from error
    present = {chunk for chunk, part in parts.items() if part.exists()}
    expected = {parts[chunk].name for chunk in present}
    other = next((name for name in sorted(os.listdir(folder)) if name not in expected and name[0] != "."), None)
    strange = next((parts[chunk] for chunk in present if part_attribute(parts[chunk], "origin") != origin), None)
    if other is not None or strange is not None:
        raise OutputExistsError(
            "there is something else in the folder of parts", path=folder, found=other or strange,
            expected="nothing, or parts of the same export", remedy="remove the folder, or export elsewhere",
        )  # fmt: skip
    current = {
        chunk for chunk in present
        if parts[chunk].stat().st_mtime >= part_path(run.path, "frames", chunk).stat().st_mtime
    }  # fmt: skip
    return [chunk for chunk in parts if chunk not in current or unreadable_frames(parts[chunk])]


def _here(tasks: Iterator[_Part]) -> Generator[int]:
    for task in tasks:
        yield task.write()


def _on_workers(client: Client, tasks: Iterator[_Part]) -> Generator[int]:
    """Keep the workers busy with a few parts each, so that neither they nor the scheduler hold more."""
    from distributed import Future, KilledWorker, as_completed

    def submit(task: _Part) -> Future[int]:
        return client.submit(_Part.write, task, key=f"export-{task.chunk:06d}-{os.urandom(4).hex()}", pure=False)

    room = max(sum(client.nthreads().values()) * _IN_FLIGHT_PER_THREAD, 1)
    completed = as_completed([submit(task) for task in islice(tasks, room)])
    try:
        for finished in completed:
            yield finished.result()
            completed.update([submit(task) for task in islice(tasks, 1)])
    except (KilledWorker, CancelledError) as error:
        raise ClusterError(
            "the cluster lost a part of the export", found=error, remedy="export again: it goes on where it stopped"
        ) from error
    finally:
        if client.status == "running":
            client.cancel(list(completed.futures))


def _median_energy(run: Run) -> float:
    energies = run.table("frames", ["photon_energy"])["photon_energy"].to_numpy()
    known = energies[np.isfinite(energies)]
    return float(np.median(known)) if len(known) else float("nan")


def _geometry_text(run: Run, reduced: Geometry, reduction: PixelReduction) -> str:
    return (
        f"; Hits of {run.path}, written by sfxlab\n"
        f"; pixels: {reduction}\n\n"
        f"{format_geometry(geometry_of_parts(reduced))}"
    )


def _summary(run: Run, path: Path, geometry_path: Path, parts: list[Path]) -> Reduced:
    unreadable = unreadable_frames(path)
    counts = run.counts
    return Reduced(
        path=path,
        geometry=geometry_path,
        frames=counts.frames,
        hits=counts.hits - len(unreadable),
        unreadable=tuple(unreadable),
        bytes_before=run.record.input_size,
        bytes_after=sum(file.stat().st_size for file in (path, *parts)),
    )
