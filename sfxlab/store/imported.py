"""Runs made from results of other programs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from sfxlab.errors import StreamError
from sfxlab.interop.stream_reader import Stream, read_stream
from sfxlab.pipeline import FrameResult
from sfxlab.recipe import Recipe
from sfxlab.store.record import describe
from sfxlab.store.run import Run

_CHUNK_SIZE = 100


def import_stream(path: str | os.PathLike[str], output: str | os.PathLike[str], command: Sequence[str] = ()) -> Run:
    """Make a run of a CrystFEL stream; one chunk is in memory at a time.

    The recipe of such a run holds nothing but the cell of the stream's header. Raises `StreamError` or
    `OutputExistsError`.
    """
    stream = read_stream(os.fspath(path))
    names = [result.id for result in stream.results()]
    if not names:
        raise StreamError("there are no frames in this stream", path=path, remedy="was it cut short?")
    recipe = Recipe() if stream.cell is None else Recipe().with_cell(stream.cell)
    record = describe(
        recipe,
        names,
        n_frames=len(names),
        chunk_size=_CHUNK_SIZE,
        paths=(os.fspath(path),),
        inputs=tuple(dict.fromkeys(name.path for name in names)),
        geometry_text=stream.geometry_text,
        command=(*command, f"[stream by {stream.generator}: {stream.command}]"),
    )
    run = Run.create(output, record, names, stream.geometry_text)
    with run.writing():
        for number, results in enumerate(_chunks(stream)):
            run.write_chunk(number, results)
    return run


def _chunks(stream: Stream) -> Iterator[list[FrameResult]]:
    """The results in chunks, numbered from 0 whatever serial numbers the stream gives."""
    results = (replace(result, index=index) for index, result in enumerate(stream.results()))
    while chunk := list(islice(results, _CHUNK_SIZE)):
        yield chunk
