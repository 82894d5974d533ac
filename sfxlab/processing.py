"""A whole data set: chunks of frames, here or over Dask, into a run on disk."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

from distributed import Client, Future, KilledWorker, as_completed

from sfxlab.bad_pixels import learned_before, with_learned_mask
from sfxlab.cluster import connection_lost, task_result
from sfxlab.errors import FrameError, InputError, RunError, UnreachableError
from sfxlab.frames import FrameId, FrameSequence, FrameSource
from sfxlab.frames.profiled import with_profiles
from sfxlab.indexing import IndexingResult
from sfxlab.indexing.methods import check_indexer, index_frames, takes_chunks
from sfxlab.learning import learn_bad_pixels, learn_spot_profiles
from sfxlab.peaks.hits import check_hit_function, hit_function_source
from sfxlab.pipeline import FrameResult, process_frame, spots
from sfxlab.progress import Progress, Report, reported
from sfxlab.recipe import Recipe
from sfxlab.store import Counts, Run, RunRecord, describe
from sfxlab.store.parts import (
    committed_chunks,
    learned_mask_path,
    part_path,
    profiles_path,
    results_in_chunk,
    write_chunk,
)
from sfxlab.store.projection import MaximumProjection, join_projections
from sfxlab.store.record import HIT_FUNCTION
from sfxlab.whole_files import written_whole

_LOG = logging.getLogger(__name__)

_IN_FLIGHT_PER_THREAD = 3
_IN_FLIGHT_AT_LEAST = 16


def process(
    frames: FrameSource,
    recipe: Recipe,
    client: Client | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    chunk_size: int | None = None,
    inputs: Sequence[str] | None = None,
    command: Sequence[str] = (),
    progress: Report | Literal["auto"] | None = "auto",
) -> Run:
    """Process all frames into the run `output`, in this process or on the workers of `client`.

    Without `output` the run goes to `sfxlab-runs/DATE-TIME` in the working directory. With `resume` a run that is
    there already is continued, and begun where there is none; recipe, frames and input files have to be the same as
    when it began. Frames that failed because their file on the network could not be read are then tried again.
    Bad pixels that no mask knows and the shapes of spots are learned first, from frames evenly spread over the run
    (`recipe.bad_pixels`, `recipe.profiles`).
    A function of the user's own that decides on hits (`recipe.hits.function`) is tried first and kept in the run.
    `chunk_size` is the number of frames in a task and in a part on disk (chosen from the number of
    frames by default). `inputs` and `command` are recorded as what the user said. `progress` is called with a
    `Progress` after each chunk; "auto" shows a bar on a terminal or in a notebook.

    What a run holds does not depend on the workers. A frame that cannot be processed, or that kills its worker
    process again and again, is recorded as failed. Whatever ends this call early leaves a run that can be resumed.

    Raises `InputError`, `CellError`, `OutputExistsError`, `RunError` `RecipeError` or `ClusterError`.
    """
    run = _begun(frames, recipe, output, resume, chunk_size, inputs, command)
    again = run.unreachable_frames() if resume else []
    if run.is_finished and not again:
        return run
    with run.writing(), reported(progress) as report:
        if resume:
            run.resumed()
            join_projections(run.path)
        recipe = _with_kept_function(recipe, run.path)
        _learn(frames, run, recipe, client, report)
        numbers = {*run.missing_chunks(), *(index // run.record.chunk_size for index in again)}
        chunks = _chunks(frames, run.record, sorted(numbers))
        done = _here(chunks, recipe, run.path) if client is None else _on_workers(client, chunks, recipe, run.path)
        with closing(done):
            _follow(done, run, report, len(again))
        join_projections(run.path)
    return run


def default_chunk_size(n_frames: int) -> int:
    """Frames in a chunk: 64 chunks at first, so that a small data set spreads over workers; then 100 frames each."""
    return min(max(-(-n_frames // 64), 8), 100)


def process_chunk(frames: FrameSource, recipe: Recipe, start: int, run_path: Path, number: int) -> Counts:
    """Process the frames of one chunk, the first of which is number `start`, and write them into the run.

    Where the chunk is in the run already, only the frames are processed whose files could not be read then. Returns
    the counts of those that were processed now.
    """
    frames = _with_learned(frames, run_path)
    kept, maximum = _kept(run_path, number), MaximumProjection()
    todo = [position for position in range(len(frames)) if start + position not in kept]
    began = time.perf_counter()
    found = _indexed_together(frames, todo, recipe) if takes_chunks(recipe.indexing) else {}
    share = (time.perf_counter() - began) / max(len(found), 1)
    fresh = {}
    for position in todo:
        result = process_one(frames, position, start + position, recipe, maximum, found.get(position))
        if position in found:
            result = replace(result, seconds={**result.seconds, "indexing": share})
        fresh[start + position] = result
    maximum.save(run_path)
    write_chunk(run_path, number, _in_order(kept, fresh))
    return _counts(fresh.values())


def _indexed_together(
    frames: FrameSource, positions: Sequence[int], recipe: Recipe
) -> dict[int, IndexingResult | FrameError]:
    """What the indexer makes of the hits at these positions, all handed over at once; no pixels are kept meanwhile."""
    hits = {}
    for position in positions:
        try:
            hit = spots(frames[position], recipe)
        except Exception:  # noqa: BLE001
            # What is wrong with the frame goes on record when it is processed.
            continue
        if hit is not None:
            hits[position] = hit
    results = index_frames(list(hits.values()), recipe.cell, recipe.indexing) if hits else []
    return dict(zip(hits, results, strict=True))


def _kept(run_path: Path, number: int) -> dict[int, FrameResult]:
    """Results of a chunk that is in the run already, by their numbers, but for unreachable frames."""
    if not part_path(run_path, "frames", number).exists():
        return {}
    results = results_in_chunk(run_path, number)
    return {result.index: result for result in results if not result.reason.startswith(UnreachableError.__name__)}


def _in_order(kept: Mapping[int, FrameResult], fresh: Mapping[int, FrameResult]) -> list[FrameResult]:
    return [result for _, result in sorted({**kept, **fresh}.items())]


def process_one(
    frames: FrameSource,
    position: int,
    index: int,
    recipe: Recipe,
    maximum: MaximumProjection | None = None,
    found: IndexingResult | FrameError | None = None,
) -> FrameResult:
    """The frame at `position` of `frames` as number `index`; whatever goes wrong is its reason to have failed.

    A hit is taken into `maximum`. `found` is what its indexer made of it, where that is known already.
    """
    name = frames.identity(position)
    try:
        frame = frames[position]
        result = process_frame(frame, recipe, found)
        if maximum is not None and result.status in ("hit", "indexed"):
            maximum.add(frame)
    except Exception as error:  # noqa: BLE001
        # A bug of ours included: one frame must not end the run.
        _LOG.info("frame %d, %s, failed", index, name, exc_info=True)
        return FrameResult(name, index, "failed", "; ".join(f"{type(error).__name__}: {error}".splitlines()))
    return replace(result, id=name, index=index)


def _with_learned(frames: FrameSource, run_path: Path) -> FrameSource:
    """The frames with what was learned from the run: bad pixels and shapes of spots."""
    return with_profiles(with_learned_mask(frames, learned_mask_path(run_path)), profiles_path(run_path))


def _process_alone(frames: FrameSource, index: int, recipe: Recipe, run_path: Path) -> FrameResult:
    maximum = MaximumProjection()
    result = process_one(_with_learned(frames, run_path), 0, index, recipe, maximum)
    maximum.save(run_path)
    return result


@dataclass(frozen=True)
class _Chunk:
    number: int
    start: int
    frames: FrameSource


def _begun(
    frames: FrameSource,
    recipe: Recipe,
    output: str | os.PathLike[str] | None,
    resume: bool,
    chunk_size: int | None,
    inputs: Sequence[str] | None,
    command: Sequence[str],
) -> Run:
    """The run to write to, new or continued, once everything that can be checked beforehand is right."""
    if len(frames) == 0:
        raise InputError("there are no frames", found=", ".join(inputs or frames.paths) or "no files")
    if chunk_size is not None and chunk_size < 1:
        raise RunError("a chunk needs frames", found=chunk_size, expected="1 or more")
    if output is None and resume:
        raise RunError("which run shall be resumed?", remedy="name it with -o")
    path = Path("sfxlab-runs", f"{datetime.now():%Y-%m-%dT%H-%M-%S}") if output is None else Path(output)
    _ = recipe.cell  # an impossible cell stops here
    check_hit_function(recipe)
    check_indexer(recipe.cell, recipe.indexing)
    if not (resume and path.exists()):
        Run.require_absent(path)
        record = _record(frames, recipe, chunk_size or default_chunk_size(len(frames)), inputs, command)
        return Run.create(path, record, _names(frames), frames.geometry_text)
    run = Run(path)
    before = run.record
    awaited = before.linked.missing if before.linked else ()
    now = _record(frames, recipe, chunk_size or before.chunk_size, inputs, command, awaited)
    differences = before.differences(now)
    if differences:
        raise RunError(
            "this run was begun with something else",
            path=path,
            found="\n            ".join(differences),
            remedy="process as it was begun, or give another -o",
        )
    return run


def _record(
    frames: FrameSource,
    recipe: Recipe,
    chunk_size: int,
    inputs: Sequence[str] | None,
    command: Sequence[str],
    awaited: Sequence[str] = (),
) -> RunRecord:
    """What is to be done now; of the files that links lead to, those that are `awaited` do not count."""
    geometry = frames.geometry if isinstance(frames, FrameSequence) else None
    panels = () if geometry is None else geometry.panels
    named = {file: None for p in panels for file in (*(m.file for m in p.masks), p.saturation_map_file) if file}
    paths = (*frames.paths, *named)
    return describe(
        recipe,
        _names(frames),
        n_frames=len(frames),
        chunk_size=chunk_size,
        paths=paths,
        linked=sorted({*frames.files} - {*paths, *awaited}),
        inputs=tuple(dict.fromkeys(name.path for name in _names(frames))) if inputs is None else inputs,
        geometry_text=frames.geometry_text,
        geometry_path=None if geometry is None else geometry.path,
        command=command,
    )


def _with_kept_function(recipe: Recipe, run_path: Path) -> Recipe:
    """The recipe with the user's function as the run keeps it, so that every worker has the same one."""
    name = recipe.hits.function
    if not name:
        return recipe
    kept = run_path / HIT_FUNCTION
    if not kept.exists():
        with written_whole(kept) as file:
            file.write(hit_function_source(name))
    return recipe.changed(hits={"function": f"{kept}:{name.rpartition(':')[2]}"})


def _learn(frames: FrameSource, run: Run, recipe: Recipe, client: Client | None, report: Report) -> None:
    """Learn the run's bad pixels, then the shapes of its spots, once: all its frames shall have the same ones."""
    if committed_chunks(run.path):
        return
    began = time.monotonic()

    def learning(what: str, done: int, total: int) -> None:
        stage = f"learning {what}, {done} of {total}"
        report(Progress(run.counts, run.record.n_frames, 0, time.monotonic() - began, stage))

    mask_path, profile_path = learned_mask_path(run.path), profiles_path(run.path)
    if recipe.bad_pixels.learn and not mask_path.exists() and not learned_before(frames):
        learned = learn_bad_pixels(frames, recipe.bad_pixels, client, partial(learning, "bad pixels"))
        if learned is not None:
            learned.save(mask_path)
    wanted = recipe.profiles.learn and recipe.integration.fit_profiles and recipe.indexing.enabled
    if wanted and not profile_path.exists():
        good = with_learned_mask(frames, mask_path)
        profiles = learn_spot_profiles(good, recipe, client, partial(learning, "shapes of spots"))
        if profiles is not None:
            profiles.save(profile_path)


def _names(frames: FrameSource) -> Iterator[FrameId]:
    return (frames.identity(index) for index in range(len(frames)))


def _chunks(frames: FrameSource, record: RunRecord, numbers: Iterable[int]) -> Iterator[_Chunk]:
    for number in numbers:
        those = record.frames_of(number)
        yield _Chunk(number, those.start, frames[those.start : those.stop])


def _follow(done: Iterable[Counts], run: Run, report: Report, n_again: int) -> None:
    """Report progress; `n_again` frames are in the run as failed and do not count until they have been tried again."""
    began, fresh, total = time.monotonic(), 0, run.record.n_frames
    counts = run.counts + Counts(frames=-n_again, failed=-n_again)
    report(Progress(counts, total, fresh, 0.0))
    for chunk in done:
        counts, fresh = counts + chunk, fresh + chunk.frames
        report(Progress(counts, total, fresh, time.monotonic() - began))


def _here(chunks: Iterable[_Chunk], recipe: Recipe, run_path: Path) -> Generator[Counts]:
    for chunk in chunks:
        yield process_chunk(chunk.frames, recipe, chunk.start, run_path, chunk.number)


def _on_workers(client: Client, chunks: Iterator[_Chunk], recipe: Recipe, run_path: Path) -> Generator[Counts]:
    """Keep the workers busy with a few chunks each, so that neither they nor the scheduler hold more."""
    # Several people may share a scheduler, and it takes tasks of the same name for the same task.
    token = uuid.uuid4().hex[:8]
    waiting: dict[Future[Counts], _Chunk] = {}
    completed = as_completed()

    def top_up() -> None:
        threads = sum(client.nthreads().values())
        room = max(threads * _IN_FLIGHT_PER_THREAD, _IN_FLIGHT_AT_LEAST) - len(waiting)
        for chunk in islice(chunks, max(room, 0)):
            name = f"process-frames-{chunk.number:06d}-{token}"
            task = client.submit(
                process_chunk, chunk.frames, recipe, chunk.start, run_path, chunk.number, key=name, pure=False
            )
            waiting[task] = chunk
            completed.add(task)

    try:
        top_up()
        for task in completed:
            chunk = waiting.pop(task)
            try:
                counts = task_result(task)
            except KilledWorker:
                counts = _frame_by_frame(client, chunk, recipe, run_path, token)
            yield counts
            top_up()
    except OSError as error:
        raise connection_lost(error) from error
    finally:
        if client.status == "running":
            client.cancel(list(waiting))


def _frame_by_frame(client: Client, chunk: _Chunk, recipe: Recipe, run_path: Path, token: str) -> Counts:
    """Find the frames that kill workers by giving each a task of its own; only those are recorded as failed.

    The chunk itself may be innocent: a worker takes the chunks that wait on it along when it dies.
    """
    kept, fresh = _kept(run_path, chunk.number), {}
    for position in range(len(chunk.frames)):
        frame, index = chunk.frames[position : position + 1], chunk.start + position
        if index in kept:
            continue
        name = f"process-frame-{index:06d}-{token}"
        try:
            fresh[index] = task_result(
                client.submit(_process_alone, frame, index, recipe, run_path, key=name, pure=False)
            )
        except KilledWorker as error:
            reason = f"KilledWorker: the worker process died {error.allowed_failures + 1} times on this frame"
            fresh[index] = FrameResult(chunk.frames.identity(position), index, "failed", reason)
    write_chunk(run_path, chunk.number, _in_order(kept, fresh))
    return _counts(fresh.values())


def _counts(results: Collection[FrameResult]) -> Counts:
    return Counts.of((result.status for result in results), sum(len(result.crystals) for result in results))
