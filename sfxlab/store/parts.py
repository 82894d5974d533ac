"""The files of a run: each appears whole or not at all.

A chunk of frames is one part in every table's folder. The part of `frames` is put in place last, so that its being
there says that the chunk is complete; parts of other tables without it do not count.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sfxlab.errors import RunError
from sfxlab.pipeline import FrameResult
from sfxlab.store.tables import ADDED, SCHEMAS, TableName, results_of, tables_of
from sfxlab.whole_files import written_whole

_PART = re.compile(r"part-(\d{6,})\.parquet")


def write_chunk(folder: Path, chunk: int, results: Sequence[FrameResult]) -> None:
    """Write one chunk of frames into the run in `folder`, in place of what it had before. Raises `RunError`.

    Results that were read back from it stand for what they added to its radial averages, which stay.
    """
    tables = tables_of(results)
    if part_path(folder, "frames", chunk).exists() and any(r.radial is None and r.status != "failed" for r in results):
        tables["radial"] = pa.concat_tables([read_part(folder, "radial", chunk), tables["radial"]])
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
            part = _columns(file, wanted, ADDED.get(table, {}))
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


def _columns(file: pq.ParquetFile, wanted: pa.Schema, added: Mapping[str, float]) -> pa.Table:
    """Some columns of a part, with those of `added` that it lacks because it was written before they came."""
    lacking = {name: value for name, value in added.items() if name in wanted.names}
    lacking = {name: value for name, value in lacking.items() if name not in file.schema_arrow.names}
    part = file.read(columns=[name for name in wanted.names if name not in lacking])
    if not lacking:
        return part
    rows = file.metadata.num_rows
    arrays = [pa.array(np.full(rows, lacking[f.name]), f.type) if f.name in lacking else part[f.name] for f in wanted]
    return pa.table(arrays, schema=pa.schema([f if f.name in lacking else part.schema.field(f.name) for f in wanted]))


def results_in_chunk(folder: Path, chunk: int) -> Iterator[FrameResult]:
    """What became of the frames of a chunk, in order. Raises `RunError`."""
    return results_of({name: read_part(folder, name, chunk) for name in SCHEMAS})


def part_path(folder: Path, table: TableName, chunk: int) -> Path:
    """Where a part is."""
    return folder / table / f"part-{chunk:06d}.parquet"


def learned_mask_path(folder: Path) -> Path:
    """Where the bad pixels are that were learned from the run's frames."""
    return folder / "bad_pixels.h5"


def profiles_path(folder: Path) -> Path:
    """Where the shapes of spots are that were learned from the run's frames."""
    return folder / "profiles.h5"


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process had begun to write. Only whoever holds the run's lock may call this."""
    for leftover in folder.glob("**/.*.tmp"):
        leftover.unlink(missing_ok=True)
