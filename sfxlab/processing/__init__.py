"""A whole data set: chunks of frames, here or over Dask, into a run on disk."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from distributed import Client

from sfxlab.bad_pixels import learned_before, with_learned_mask
from sfxlab.cluster import wait_for_workers
from sfxlab.cluster.dashboard import tell_chunk
from sfxlab.errors import FrameError, RunError, RunInUseError, SfxlabWarning
from sfxlab.frames import FrameSource
from sfxlab.frames.profiled import with_profiles
from sfxlab.indexing import IndexingResult
from sfxlab.indexing.methods import index_frames, takes_chunks
from sfxlab.learning import Guard, learn_bad_pixels, learn_spot_profiles
from sfxlab.pipeline import FrameResult, process_frame, spots
from sfxlab.processing.begin import begun, default_chunk_size, recipe_again, with_kept_function
from sfxlab.processing.scheduling import Chunk, chunks_of, done_on_workers
from sfxlab.progress import Progress, Report, reported
from sfxlab.recipe import Recipe
from sfxlab.store import Counts, Run
from sfxlab.store.parts import (
    committed_chunks,
    learned_mask_path,
    part_path,
    profiles_path,
    results_in_chunk,
    write_chunk,
)
from sfxlab.store.projection import MaximumProjection, join_projections
from sfxlab.store.run import PASSING_REASONS
from sfxlab.store.under_way import UnderWay
from sfxlab.store.writer import Writer

__all__ = ["default_chunk_size", "process", "process_chunk", "process_frame", "process_one", "rerun"]

_LOG = logging.getLogger(__name__)


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
    when it began. Frames that failed for a reason that may have passed are then tried again: a file on the network
    that could not be read, and, with workers, too little memory or time.
    Bad pixels that no mask knows and the shapes of spots are learned first, from frames evenly spread over the run
    (`recipe.bad_pixels`, `recipe.profiles`).
    A function of the user's own that decides on hits (`recipe.hits.function`) is tried first and kept in the run.
    `chunk_size` is the number of frames in a task and in a part on disk (chosen from the number of
    frames by default). `inputs` and `command` are recorded as what the user said. `progress` is called with a
    `Progress` after each chunk; "auto" shows a bar on a terminal or in a notebook.

    What a run holds does not depend on the workers. A frame that cannot be processed is recorded as failed; so is one
    on which its worker dies again and again, or which takes longer than `recipe.processing.seconds_per_frame`, which
    is watched on workers that have a nanny. Whatever ends this call early leaves a run that can be resumed.

    Where another process is writing this very run, a warning says who, its progress is shown until it ends, and its
    run is returned; with `resume` this call takes its place should it die.

    Raises `InputError`, `CellError`, `OutputExistsError`, `RunError`, `RecipeError` or `ClusterError`.
    """
    run = begun(frames, recipe, output, resume, chunk_size, inputs, command)
    return _written(run, frames, recipe, client, resume, progress)


def rerun(
    run: Run | str | os.PathLike[str],
    output: str | os.PathLike[str],
    client: Client | None = None,
    *,
    inputs: Sequence[str] | None = None,
    resume: bool = False,
    command: Sequence[str] = (),
    progress: Report | Literal["auto"] | None = "auto",
) -> Run:
    """Process a run anew into `output`, as its `run.json` says: its tables come out the same.

    Bad pixels and shapes of spots are learned anew, too. `inputs` say where its frames are, should they have been
    moved since. The rest is as in `process`. Where other versions of sfxlab and its libraries are installed than then,
    a warning names them; `compare` then says what it changes.

    Raises `RunError` where files, geometry or frames are not what they were, and what `process` raises.
    """
    before = run if isinstance(run, Run) else Run(run)
    record, recipe, frames = before.record, recipe_again(before), before.open_inputs(inputs)
    named = record.inputs if inputs is None else inputs
    new = begun(frames, recipe, output, resume, record.chunk_size, named, command, record)
    return _written(new, frames, recipe, client, resume, progress)


def _written(
    run: Run,
    frames: FrameSource,
    recipe: Recipe,
    client: Client | None,
    resume: bool,
    progress: Report | Literal["auto"] | None,
) -> Run:
    """The run once it is finished, by this process or by another that writes it already."""
    while True:
        try:
            return _finished(run, frames, recipe, client, resume, progress)
        except RunInUseError as error:
            if isinstance(error.found, Writer) and error.found.is_this_process:
                raise
            warnings.warn(f"{run.path}: being written by {error.found}; this is its progress", SfxlabWarning, 3)
        try:
            return run.attach(progress)
        except RunError:
            if not resume:
                raise


def _finished(
    run: Run,
    frames: FrameSource,
    recipe: Recipe,
    client: Client | None,
    resume: bool,
    progress: Report | Literal["auto"] | None,
) -> Run:
    again: list[int] = []
    if resume:
        again = run.unreachable_frames() if client is None else run.frames_to_try_again()
    if run.is_finished and not again:
        return run
    with run.writing() as writing, reported(progress) as show:
        last = Progress(run.counts, run.record.n_frames, 0, 0.0)

        def tell(progress: Progress) -> None:
            writing.tell(progress)
            show(progress)

        def report(progress: Progress) -> None:
            nonlocal last
            last = progress
            tell(progress)

        def waiting(why: str) -> None:
            tell(replace(last, stage=why or last.stage))

        if resume:
            run.resumed()
            join_projections(run.path)
        recipe = with_kept_function(recipe, run.path)
        if client is not None:
            wait_for_workers(client, report=waiting)
        _learn(frames, run, recipe, client, report, waiting)
        missing = set(run.missing_chunks())
        numbers = sorted(missing.union(index // run.record.chunk_size for index in again))
        chunks = chunks_of(frames, run.record, numbers, missing)
        work = _here(chunks, recipe, run.path)
        if client is not None:
            work = done_on_workers(client, chunks, _on_worker, recipe, run.path, waiting)
        with closing(work) as done:
            _follow(done, run, report, len(again))
        join_projections(run.path)
    return run


def process_chunk(
    frames: FrameSource, recipe: Recipe, start: int, run_path: Path, number: int, notes: UnderWay | None = None
) -> Counts:
    """Process the frames of one chunk, the first of which is number `start`, and write them into the run.

    Where the chunk is in the run already, only those frames are processed that failed for a reason that may have
    passed. `notes` tell which frame is under way, and which are given up. Returns the counts of those that were
    processed now.
    """
    frames = _with_learned(frames, run_path)
    part = part_path(run_path, "frames", number)
    was_there = part.exists()
    kept = _kept(run_path, number, on_worker=notes is not None) if was_there else {}
    todo = [position for position in range(len(frames)) if start + position not in kept]
    fresh = _processed(frames, todo, recipe, start, run_path, notes)
    # A worker that was taken for dead may have been as far; what it wrote is the same.
    if was_there or not part.exists():
        write_chunk(run_path, number, _in_order(kept, fresh))
    return _counts(fresh.values())


def _processed(
    frames: FrameSource, todo: Sequence[int], recipe: Recipe, start: int, run_path: Path, notes: UnderWay | None
) -> dict[int, FrameResult]:
    """What becomes of the frames at some positions, by their numbers."""
    fresh, maximum = {}, MaximumProjection()
    if notes is not None:
        todo = _suspects_early(todo, [index - start for index in notes.suspects])
        reasons = {position: reason for position in todo if (reason := notes.verdict(start + position))}
        for position, reason in reasons.items():
            fresh[start + position] = FrameResult(frames.identity(position), start + position, "failed", reason)
        todo = [position for position in todo if position not in reasons]
    began = time.perf_counter()
    found = _indexed_together(frames, todo, recipe, start, notes) if takes_chunks(recipe.indexing) else {}
    share = (time.perf_counter() - began) / max(len(found), 1)
    for position in todo:
        index = start + position
        with _noted(notes, index):
            result = process_one(frames, position, index, recipe, maximum, found.get(position))
        if position in found:
            result = replace(result, seconds={**result.seconds, "indexing": share})
        fresh[index] = result
    if notes is not None:
        notes.end()
    maximum.save(run_path)
    return fresh


def _suspects_early(positions: Sequence[int], suspects: Sequence[int]) -> list[int]:
    """Suspects before others, because what a try has done is lost with its worker; but first one that is none.

    With it the worker compiles kernels, which is not the suspect's fault.
    """
    innocent = [position for position in positions if position not in suspects]
    return [*innocent[:1], *(position for position in positions if position in suspects), *innocent[1:]]


def _noted(notes: UnderWay | None, index: int) -> AbstractContextManager[None]:
    return nullcontext() if notes is None else notes.at(index)


def _indexed_together(
    frames: FrameSource, positions: Sequence[int], recipe: Recipe, start: int, notes: UnderWay | None
) -> dict[int, IndexingResult | FrameError]:
    """What the indexer makes of the hits at these positions, all handed over at once; no pixels are kept meanwhile."""
    hits = {}
    for position in positions:
        with _noted(notes, start + position):
            try:
                hit = spots(frames[position], recipe)
            except Exception:  # noqa: BLE001
                # What is wrong with the frame goes on record when it is processed.
                continue
        if hit is not None:
            hits[position] = hit
    if notes is not None:
        notes.end()  # outside programs have a limit of their own
    results = index_frames(list(hits.values()), recipe.cell, recipe.indexing) if hits else []
    return dict(zip(hits, results, strict=True))


def _kept(run_path: Path, number: int, *, on_worker: bool) -> dict[int, FrameResult]:
    """Results of a chunk that is in the run already, by their numbers, but for those that are to be tried again."""
    again = PASSING_REASONS if on_worker else PASSING_REASONS[:1]
    return {
        result.index: result for result in results_in_chunk(run_path, number) if not result.reason.startswith(again)
    }


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


def _learn(
    frames: FrameSource, run: Run, recipe: Recipe, client: Client | None, report: Report, waiting: Callable[[str], None]
) -> None:
    """Learn the run's bad pixels, then the shapes of its spots, once: all its frames shall have the same ones."""
    if committed_chunks(run.path):
        return
    began = time.monotonic()

    def learning(what: str, done: int, total: int) -> None:
        stage = f"learning {what}, {done} of {total}"
        report(Progress(Counts(), run.record.n_frames, 0, time.monotonic() - began, stage))

    guard = Guard(run.path, recipe.processing.seconds_per_frame)
    mask_path, profile_path = learned_mask_path(run.path), profiles_path(run.path)
    if recipe.bad_pixels.learn and not mask_path.exists() and not learned_before(frames):
        learned = learn_bad_pixels(frames, recipe.bad_pixels, client, partial(learning, "bad pixels"), guard, waiting)
        if learned is not None:
            learned.save(mask_path)
    wanted = recipe.profiles.learn and recipe.integration.fit_profiles and recipe.indexing.enabled
    if wanted and not profile_path.exists():
        good = with_learned_mask(frames, mask_path)
        profiles = learn_spot_profiles(good, recipe, client, partial(learning, "shapes of spots"), guard, waiting)
        if profiles is not None:
            profiles.save(profile_path)


def _follow(done: Iterable[Counts], run: Run, report: Report, n_again: int) -> None:
    """Report progress; `n_again` frames are in the run as failed and do not count until they have been tried again."""
    began, fresh, total = time.monotonic(), 0, run.record.n_frames
    counts = run.counts + Counts(frames=-n_again, failed=-n_again)
    report(Progress(counts, total, fresh, 0.0))
    for chunk in done:
        counts, fresh = counts + chunk, fresh + chunk.frames
        report(Progress(counts, total, fresh, time.monotonic() - began))


def _here(chunks: Iterable[Chunk], recipe: Recipe, run_path: Path) -> Generator[Counts]:
    for chunk in chunks:
        yield process_chunk(chunk.frames, recipe, chunk.start, run_path, chunk.number)


def _on_worker(chunk: Chunk, recipe: Recipe, run_path: Path) -> Counts:
    """A chunk on a worker, which may die of it, or may have died when the chunk was done and before it said so."""
    if chunk.is_missing and part_path(run_path, "frames", chunk.number).exists():
        return _counts(results_in_chunk(run_path, chunk.number))
    began = time.monotonic()
    guard = Guard(run_path, recipe.processing.seconds_per_frame)
    with guard.notes(f"chunk-{chunk.number:06d}") as notes:
        counts = process_chunk(chunk.frames, recipe, chunk.start, run_path, chunk.number, notes)
    tell_chunk(counts.frames, counts.hits, counts.indexed, time.monotonic() - began)
    return counts


def _counts(results: Iterable[FrameResult]) -> Counts:
    results = list(results)
    return Counts.of((result.status for result in results), sum(len(result.crystals) for result in results))
