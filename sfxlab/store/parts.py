"""The files of a run: each appears whole or not at all.

A chunk of frames is one part in every table's folder. The part of `frames` is put in place last, so that its being
there says that the chunk is complete; parts of other tables without it do not count.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from sfxlab.errors import RunError
from sfxlab.pipeline import FrameResult
from sfxlab.store.tables import SCHEMAS, TableName, results_of, tables_of

_PART = re.compile(r"part-(\d{6,})\.parquet")


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of `path` once the block is left, whole and on the disk.

    Raises `RunError` where it cannot be written; `path` is then as it was before.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(aside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        _flush_folder(path.parent)
    except OSError as error:
        raise RunError(
            "the file cannot be written", path=path, found=error.strerror, remedy="free space or check permissions"
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def write_chunk(folder: Path, chunk: int, results: Sequence[FrameResult]) -> None:
    """Write one chunk of frames into the run in `folder`, in place of what it had before. Raises `RunError`."""
    tables = tables_of(results)
    # A chunk shall not count while its tables are partly of before.
    part_path(folder, "frames", chunk).unlink(missing_ok=True)
    for name in sorted(SCHEMAS, key=lambda table: table == "frames"):
        with written_whole(part_path(folder, name, chunk)) as file:
            pq.write_table(tables[name], file, compression="zstd")


def committed_chunks(folder: Path) -> list[int]:
    """Numbers of the chunks that are complete, in order."""
    try:
        names = os.listdir(folder / "frames")
    except OSError as error:
        raise RunError("the run has lost its table of frames", path=folder / "frames", found=error.strerror) from error
    return sorted(int(match[1]) for name in names if (match := _PART.fullmatch(name)))


def read_part(folder: Path, table: TableName, chunk: int, columns: Sequence[str] | None = None) -> pa.Table:
    """One part of one table, all columns or some. Raises `RunError` where it is missing or damaged."""
    path = part_path(folder, table, chunk)
    schema = SCHEMAS[table]
    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    try:
        # Not pq.read_table, which would make columns of folder names such as "cell=lysozyme".
        with pq.ParquetFile(path) as file:
            part = file.read(columns=wanted.names)
    except (OSError, pa.ArrowException) as error:
        raise RunError(
            "a part of the run is missing or damaged",
            path=path,
            found=str(error).partition("\n")[0],
            remedy=f"remove {part_path(folder, 'frames', chunk)} and process again with --resume",
        ) from error
    if not part.schema.equals(wanted):
        raise RunError(
            "a part of the run has other columns than expected",
            path=path,
            found=", ".join(f"{field.name} {field.type}" for field in part.schema),
            expected=", ".join(f"{field.name} {field.type}" for field in wanted),
        )
    return part


def results_in_chunk(folder: Path, chunk: int) -> Iterator[FrameResult]:
    """What became of the frames of a chunk, in order. Raises `RunError`."""
    return results_of({name: read_part(folder, name, chunk) for name in SCHEMAS})


def part_path(folder: Path, table: TableName, chunk: int) -> Path:
    """Where a part is."""
    return folder / table / f"part-{chunk:06d}.parquet"


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process had begun to write. Only whoever holds the run's lock may call this."""
    for leftover in folder.glob("**/.*.tmp"):
        leftover.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    # A rename is on the disk only when its folder is; without this a crash could keep the mark and lose the part.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
