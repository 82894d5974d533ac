"""What is checked and written before the first frame of a run is processed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from sfxlab.errors import InputError, OutputExistsError, RunError, SfxlabError, SfxlabWarning
from sfxlab.frames import FrameId, FrameSequence, FrameSource
from sfxlab.indexing.methods import check_indexer
from sfxlab.peaks.hits import check_hit_function, hit_function_checksum, hit_function_source
from sfxlab.recipe import Recipe
from sfxlab.store import Run, RunRecord, describe
from sfxlab.store.differences import input_differences, version_differences
from sfxlab.store.record import HIT_FUNCTION
from sfxlab.whole_files import written_whole


def default_chunk_size(n_frames: int) -> int:
    """Frames in a chunk: 64 chunks at first, so that a small data set spreads over workers; then 100 frames each."""
    return min(max(-(-n_frames // 64), 8), 100)


def begun(
    frames: FrameSource,
    recipe: Recipe,
    output: str | os.PathLike[str] | None,
    resume: bool,
    chunk_size: int | None,
    inputs: Sequence[str] | None,
    command: Sequence[str],
    like: RunRecord | None = None,
) -> Run:
    """The run to write to, new or continued, once everything that can be checked beforehand is right.

    A run that somebody has just begun or is writing, with the same recipe and frames, is that run. Where it has to be
    `like` another one, its input has to be the same.
    """
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
    if not resume:
        Run.require_startable(path)
    if not path.exists():
        record = _record(frames, recipe, chunk_size or default_chunk_size(len(frames)), inputs, command)
        if like is not None:
            _require_alike(like, record)
        try:
            return Run.create(path, record, names(frames), frames.geometry_text)
        except OutputExistsError:
            Run.require_startable(path)  # somebody was faster
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


def _require_alike(before: RunRecord, now: RunRecord) -> None:
    different = input_differences(before, now)
    if different:
        raise RunError(
            "what this run was made from is not there any more", found="\n            ".join(different),
            remedy="bring it back, or process what there is as a run of its own",
        )  # fmt: skip
    versions = version_differences(before, now)
    if versions:
        words = ", ".join(f"{name} {was or 'none'} then, {now or 'none'} now" for name, (was, now) in versions.items())
        warnings.warn(f"numbers may differ from the run of before: {words}", SfxlabWarning, 3)


def recipe_again(run: Run) -> Recipe:
    """The recipe of a run, with the user's function for hits as it was then."""
    record = run.record
    name, kept = record.recipe.hits.function, run.path / HIT_FUNCTION
    if not name or not kept.exists() or _checksum(name) == record.hit_function_sha256:
        return record.recipe
    return with_kept_function(record.recipe, run.path)


def _checksum(hit_function: str) -> str | None:
    try:
        return hit_function_checksum(hit_function)
    except SfxlabError:
        return None  # it is gone


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
        names(frames),
        n_frames=len(frames),
        chunk_size=chunk_size,
        paths=paths,
        linked=sorted({*frames.files} - {*paths, *awaited}),
        inputs=tuple(dict.fromkeys(name.path for name in names(frames))) if inputs is None else inputs,
        geometry_text=frames.geometry_text,
        geometry_path=None if geometry is None else geometry.path,
        command=command,
    )


def names(frames: FrameSource) -> Iterator[FrameId]:
    """The names of all frames, one after the other."""
    return (frames.identity(index) for index in range(len(frames)))


def with_kept_function(recipe: Recipe, run_path: Path) -> Recipe:
    """The recipe with the user's function as the run keeps it, so that every worker has the same one."""
    name = recipe.hits.function
    if not name:
        return recipe
    kept = run_path / HIT_FUNCTION
    if not kept.exists():
        with written_whole(kept) as file:
            file.write(hit_function_source(name))
    return recipe.changed(hits={"function": f"{kept}:{name.rpartition(':')[2]}"})
